"""What the doctor found: as a table, as text for a bug report, and as values."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nbadapt.redaction import hide

State = Literal["ok", "note", "problem", "unknown"]

MARKS = {"ok": "ok", "note": "note", "problem": "PROBLEM", "unknown": "?"}
# Each has a contrast of about 4 on white and on black.
_COLOURS = {"ok": "#388e3c", "note": "#9a7500", "problem": "#e53935", "unknown": "#808080"}
WIDE = 100  # characters of a line of text
_HOME_OF = re.compile(r"(?:[A-Za-z]:\\Users\\|/home/|/Users/)[^/\\\s:;,'\"]+")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: the heading that it stands under.
        name: what was looked at.
        value: what was found, in words; without secrets and users' names.
        state: "problem" where something will not work, "note" where something could be had or known, "unknown" where
            nothing was looked at.
        fix: what mends a problem, or gets what a note tells of: a command, as far as there is one.
    """

    topic: str
    name: str
    value: str
    state: State = "ok"
    fix: str = ""

    def __post_init__(self) -> None:
        """Leave out of all texts what a bug report must not tell."""
        for field in ("name", "value", "fix"):
            object.__setattr__(self, field, private(getattr(self, field)))


def private(text: str) -> str:
    """The text without secrets, and with ``~`` for the homes of users."""
    text = hide(text)
    home = str(Path.home())
    if len(home) > 1:
        text = re.sub(re.escape(home) + r"(?![\w.-])", "~", text)
    return _HOME_OF.sub("~", text)


@dataclass(frozen=True)
class Diagnosis:
    """All findings, in the order of their topics.

    Attributes:
        findings: what was looked at.
        seconds: how long that took.
    """

    findings: Sequence[Finding]
    seconds: float

    @property
    def problems(self) -> list[Finding]:
        """What will not work as it is."""
        return [finding for finding in self.findings if finding.state == "problem"]

    @property
    def verdict(self) -> str:
        """The result in one line."""
        n = len(self.problems)
        found = "no problem found" if not n else "1 problem found" if n == 1 else f"{n} problems found"
        return f"nbadapt doctor: {found}, in {self.seconds:.1f} s"

    @property
    def passed(self) -> bool:
        """Whether there is no problem; as a command of a terminal it fails otherwise."""
        return not self.problems

    @property
    def text(self) -> str:
        """Everything as text, to be copied into a bug report."""
        lines = [self.verdict]
        for finding in self.problems:
            lines += _wrapped(f"PROBLEM: {finding.name}: {finding.value}", "  ")
            lines += _wrapped(f"fix: {finding.fix}", "    ")
        width = max((len(finding.name) for finding in self.findings), default=0)
        for topic in dict.fromkeys(finding.topic for finding in self.findings):
            lines += ["", topic]
            for finding in self.findings:
                if finding.topic == topic:
                    head = f"  {MARKS[finding.state]:<8} {finding.name:<{width}}  "
                    lines += _wrapped(finding.value, head, " " * len(head))
                    if finding.fix and finding.state != "problem":  # those stand above
                        lines += _wrapped(finding.fix, " " * len(head) + "> ")
        return "\n".join(line.rstrip() for line in lines)

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        problems = "".join(
            f"<li><b>{_escaped(f.name)}</b>: {_escaped(f.value)}<br>Fix: <code>{_escaped(f.fix)}</code></li>"
            for f in self.problems
        )
        parts = [f"<p style='margin:4px 0'><b>{_escaped(self.verdict)}</b></p>"]
        if problems:
            parts.append(f"<ul style='margin:4px 0'>{problems}</ul>")
        for topic in dict.fromkeys(finding.topic for finding in self.findings):
            rows = "".join(_row(finding) for finding in self.findings if finding.topic == topic)
            parts.append(f"<div style='margin:10px 0 2px'><b>{_escaped(topic)}</b></div>{_TABLE}{rows}</table>")
        parts.append(
            "<details style='margin-top:10px'><summary>Text for a bug report (a click selects it)</summary>"
            f"<pre style='user-select:all;white-space:pre-wrap;font-size:12px'>{_escaped(self.text)}</pre></details>"
        )
        return f"<div style='max-width:860px'>{''.join(parts)}</div>"


_TABLE = "<table style='border-collapse:collapse;margin:0;font-size:13px;width:100%;table-layout:fixed'>"
_CELL = "text-align:left;vertical-align:top;padding:2px 10px 2px 0;overflow-wrap:anywhere;white-space:normal"


def _row(finding: Finding) -> str:
    fix = f"<br><code>{_escaped(finding.fix)}</code>" if finding.fix else ""
    mark = f"<span style='color:{_COLOURS[finding.state]};font-weight:600'>{MARKS[finding.state]}</span>"
    return (
        f"<tr><td style='{_CELL};width:5.5em'>{mark}</td><td style='{_CELL};width:12em'>{_escaped(finding.name)}</td>"
        f"<td style='{_CELL}'>{_escaped(finding.value)}{fix}</td></tr>"
    )


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)


def _wrapped(text: str, first: str, rest: str | None = None) -> list[str]:
    """Lines of text; words that are longer, such as paths and addresses, stay whole."""
    rest = " " * len(first) if rest is None else rest
    lines = textwrap.wrap(text, WIDE, initial_indent=first, subsequent_indent=rest, break_long_words=False,
                          break_on_hyphens=False)  # fmt: skip
    return lines or [first]
