"""Preferences as a static picture: how many, how far raters agree, a few examples. It names no model: ranking is blind.

Everything in it is escaped, and it needs neither scripts nor a kernel.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, TypedDict

from nbadapt import agreement
from nbadapt.widgets.texts import clip

if TYPE_CHECKING:
    from nbadapt.preferences import Preferences

EXAMPLES = 3
TEXT_BYTES = 500  # of a prompt or an answer
MOST_LINES = 6  # of raters, and of agreements

_CELL = "text-align:left;vertical-align:top;padding:3px 14px 3px 0"
_TEXT = f"{_CELL};white-space:pre-wrap;overflow-wrap:anywhere"
_FRAME = "max-width:860px;padding:6px 0;font-size:13px;line-height:1.45"


class Summary(TypedDict):
    """What is shown: a headline, lines below it, examples as (prompt, chosen, rejected)."""

    head: str
    lines: list[str]
    examples: list[tuple[str, str, str]]


def summary(preferences: Preferences, *, finished: bool = True) -> Summary:
    """The latest state of the file; how often the left answer was chosen is not told while somebody still ranks."""
    rows = preferences.rows
    votes = preferences.votes
    told = "1 preference" if len(rows) == 1 else f"{len(rows):,} preferences"
    lines = [_pass_line(judged, bias=finished) for judged in agreement.passes(votes)[:MOST_LINES]]
    lines += agreement.agreement_lines(votes)[:MOST_LINES]
    return {
        "head": f"{clip(preferences.name, 80)}: {told} in {clip(preferences.path.name, 120)}",
        "lines": lines,
        "examples": [
            (clip(row["prompt"], TEXT_BYTES), clip(row["chosen"], TEXT_BYTES), clip(row["rejected"], TEXT_BYTES))
            for row in rows[-EXAMPLES:]
        ],
    }


def _pass_line(judged: agreement.Pass, *, bias: bool) -> str:
    """Such as "ann: 12 pairs, 1 tie, 2 skipped; the left answer was chosen in 55 % (..)"."""
    ties, skipped = judged.count("tie"), judged.count("skip")
    pairs = len(judged.votes)
    parts = [f"{pairs:,} pair{'s' * (pairs != 1)}", f"{ties:,} tie{'s' * (ties != 1)}", f"{skipped:,} skipped"]
    left, told = judged.left
    leaning = f"; the left answer was chosen in {agreement.share(left, told)}" if told and bias else ""
    return f"{judged.name}: {', '.join(parts)}{leaning}"


def bundle(preferences: Preferences, *, finished: bool = True) -> dict[str, str]:
    """HTML and plain text; see `summary`."""
    found = summary(preferences, finished=finished)
    lines = "".join(f"<div>{escape(line, quote=False)}</div>" for line in found["lines"])
    html = f'<div style="{_FRAME}"><b>{escape(found["head"], quote=False)}</b>{lines}{_examples(found)}</div>'
    return {"text/html": html, "text/plain": "\n".join([found["head"], *(f"  {line}" for line in found["lines"])])}


def _examples(found: Summary) -> str:
    if not found["examples"]:
        return ""
    head = "".join(f'<th style="{_CELL};opacity:0.8">{name}</th>' for name in ("prompt", "chosen", "rejected"))
    rows = "".join(
        "<tr>" + "".join(f'<td style="{_TEXT}">{escape(text, quote=False)}</td>' for text in row) + "</tr>"
        for row in found["examples"]
    )
    count = len(found["examples"])
    title = "The last preference" if count == 1 else f"The last {count} preferences"
    return (
        f"<details><summary>{title}</summary>"
        f'<table style="margin:4px 0;border-collapse:collapse;table-layout:fixed;width:100%">'
        f"<tr>{head}</tr>{rows}</table></details>"
    )
