"""A comparison as a MIME bundle for notebooks and terminals, and as a page of its own. All texts are escaped."""

from __future__ import annotations

import base64
import platform
import time
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from nbadapt.memory import gibibytes
from nbadapt.redaction import hide
from nbadapt.selection.advice import listed, sentences
from nbadapt.selection.comparison import table
from nbadapt.widgets import selection_figure
from nbadapt.widgets.report import FRAME
from nbadapt.widgets.summary import amount, duration
from nbadapt.widgets.texts import clip

if TYPE_CHECKING:
    from nbadapt.selection.contest import Contest
    from nbadapt.selection.entry import Entry
    from nbadapt.selection.verdict import Verdict

MOST_ROWS = 40  # of the table in a notebook
NAME_BYTES, REASON_BYTES, NOTICE_BYTES = 90, 160, 300
MOST_NOTICES = 8
_CELL = "text-align:left;vertical-align:top;padding:2px 6px 2px 0"
_BELOW = "background:none;border:0"  # front ends stripe the rows of tables, and these may be two to a candidate
_ROW = f"{_BELOW};border-top:1px solid rgba(128,128,128,0.35)"
_WORDS = "max-width:50ch;opacity:.85"  # wrapped where the table is wider than its cell
_NUMBER = "text-align:right;vertical-align:top;padding:2px 6px 2px 0;white-space:nowrap"

HEADINGS = ("", "candidate", "test", "95 % interval", "seeds", "validation", "95 % interval", "rows", "making, s",
            "1,000 answers, s", "memory", "trained", "on disk", "tokens", "forgotten", "does not beat",
            "prompt", "state")  # fmt: skip
RIGHT = range(2, 15)
INTERVALS = (3, 6)  # of the columns before them
UNBEATEN, PROMPT, STATE = 15, 16, 17  # stand below the row in HTML


def bundle(contest: Contest, found: Verdict) -> dict[str, Any]:
    """The answer as text/html and text/plain; bounded."""
    told = sentences(contest, found)
    rows = cells(contest, found)
    shown, more = rows[:MOST_ROWS], len(rows) - MOST_ROWS
    below = [f"and {more} more: comparison.frame() has all"] * (more > 0) + _notices(contest)
    picture = ""
    if any(entry.trials for entry in contest.entries):
        data = base64.b64encode(selection_figure.png(contest, found)).decode("ascii")
        picture = (
            f'<img alt="Quality against cost of {len(found.places)} candidates, and scores over the training rows; the '
            f'table below has the figures" src="data:image/png;base64,{data}" '
            'style="max-width:100%;border-radius:6px;margin:8px 0">'
        )
    html = (
        f'<div style="{FRAME}"><div><b>{escape(title(contest))}</b></div>'
        + "".join(f'<p style="margin:6px 0">{escape(line)}</p>' for line in told)
        + picture
        + f'<div style="overflow-x:auto">{_html_table(shown)}</div>'
        + "".join(f'<div style="font-size:12px">{escape(line)}</div>' for line in below)
        + "</div>"
    )
    plain = "\n".join([title(contest), "", *told, "", *_text_table(shown), *below])
    return {"text/html": html, "text/plain": plain}


def title(contest: Contest) -> str:
    """One line: what was compared and how it stands."""
    parts = contest.prepared.parts
    count = len(contest.entries) + len(contest.prepared.left_out)
    return (
        f"compare · {clip(parts.training.source, NAME_BYTES)} · {count} candidates · {contest.state} in "
        f"{duration(round(contest.elapsed))}"
    )


def _notices(contest: Contest) -> list[str]:
    notices = list(dict.fromkeys(contest.notices))
    more = len(notices) - MOST_NOTICES
    shown = [clip(line, NOTICE_BYTES) for line in notices[:MOST_NOTICES]]
    return [*shown, *([f"and {more} more notices"] if more > 0 else [])]


def cells(contest: Contest, found: Verdict) -> list[tuple[str, ...]]:
    """The table as texts, a row a candidate; see `HEADINGS`."""
    named = selection_figure.numbers(found)
    best = found.best.label if found.best is not None else None
    rows: list[tuple[str, ...]] = []
    for record in table(contest, found):
        label = record["candidate"]
        value = record.get(contest.measure.name)
        mark = "◆" if label == best else "●" if record.get("front") else ""
        state = record["state"] or ""
        reason = clip(record["reason"] or "", REASON_BYTES)
        unbeaten = found.unbeaten(label)
        rows.append(
            (
                f"{named.get(label, '')} {mark}".strip(),
                clip(label, NAME_BYTES) + (" (baseline)" if record.get("baseline") else ""),
                _figure(value),
                _between(record.get("low"), record.get("high")),
                _between(record.get("lowest_seed"), record.get("highest_seed")),
                _figure(record.get("validation")),
                _between(record.get("validation_low"), record.get("validation_high")),
                _whole(record.get("rows")),
                _seconds(record.get("seconds")),
                _seconds(record.get("inference")),
                gibibytes(record["memory"]) if record.get("memory") is not None else "",
                amount(record["trainable"]) if record.get("trainable") is not None else "",
                gibibytes(record["artifact"]) if record.get("artifact") else "",
                _whole(record.get("tokens")),
                _forgotten(record),
                clip(listed(unbeaten, len(unbeaten)), REASON_BYTES) if unbeaten else "",
                clip(" ".join((record.get("prompt") or "").split()), NAME_BYTES),
                state + (f": {reason}" if reason else ""),
            )
        )
    return rows


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _forgotten(record: dict[str, Any]) -> str:
    value, what = record.get("forgotten"), record.get("forgotten_as")
    if value is None:
        return ""
    return "0" if what == "no weight changes" else f"{value:+.3f} {what}" if what != "drift" else f"{value:.3f} drift"


def _html_table(rows: Sequence[tuple[str, ...]]) -> str:
    """The columns in which something stands; an interval stands below what it is of, and so do a row's words."""
    there = [i for i in _filled(rows) if i not in {*INTERVALS, UNBEATEN, PROMPT, STATE}]

    def cell(tag: str, texts: Sequence[str], i: int) -> str:
        below = f'<div style="opacity:.8">{escape(texts[i + 1])}</div>' if i + 1 in INTERVALS and texts[i + 1] else ""
        return f'<{tag} style="{_style(i, head=tag == "th")}">{escape(texts[i])}{below}</{tag}>'

    def line(tag: str, texts: Sequence[str]) -> str:
        style = _ROW if tag == "td" else _BELOW
        return f'<tr style="{style}">{"".join(cell(tag, texts, i) for i in there)}</tr>'

    def words(row: Sequence[str]) -> str:
        said = [f"does not beat {row[UNBEATEN]}"] * bool(row[UNBEATEN])
        said += [f"prompt: {row[PROMPT]}"] * bool(row[PROMPT])
        said += [row[STATE]] * (row[STATE] not in {"", "done"})
        if not said:
            return ""
        inner = f'<div style="{_WORDS}">{escape("; ".join(said))}</div>'
        return f'<tr style="{_BELOW}"><td></td><td style="{_CELL}" colspan="{len(there) - 1}">{inner}</td></tr>'

    body = "".join(line("td", row) + words(row) for row in rows)
    return (
        '<table style="border-collapse:collapse;font-size:12px;margin:6px 0">'
        f"<thead>{line('th', HEADINGS)}</thead><tbody>{body}</tbody></table>"
    )


def _style(column: int, *, head: bool) -> str:
    """How a cell of a column is set; words of a heading may stand below one another."""
    if column in RIGHT:
        return _NUMBER.replace("nowrap", "normal") if head else _NUMBER
    return _CELL + (";white-space:nowrap" if column == 0 else "")


def _filled(rows: Sequence[tuple[str, ...]]) -> list[int]:
    """The columns in which something stands."""
    return [i for i, _ in enumerate(HEADINGS) if any(row[i] for row in rows)]


def _text_table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The columns in which something stands, as plain text."""
    there = _filled(rows)
    lines = [[HEADINGS[i] for i in there], *([row[i] for i in there] for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(there))]
    aligned = [
        "  ".join(f"{c:>{w}}" if i in RIGHT else f"{c:<{w}}" for c, w, i in zip(line, widths, there, strict=True))
        for line in lines
    ]
    return [line.rstrip() for line in aligned]


# ------------------------------------------------------------------------------------------------ a page of its own

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2em auto; padding: 0 1em; }}
h1 {{ font-size: 1.4em; }} h2 {{ font-size: 1.1em; margin-top: 2em; }}
.wide {{ overflow-x: auto; }} table {{ border-collapse: collapse; font-size: 13px; }}
img {{ max-width: 100%; border-radius: 6px; }}
.lines th, .lines td {{ border-bottom: 1px solid #8884; }}
.how {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
.answer {{ font-size: 1.1em; border-left: 4px solid #0072b2; padding-left: 1em; }}
</style></head><body><h1>{title}</h1><div class="answer">{answer}</div>{picture}
<h2>Candidates</h2><div class="wide">{table}</div><p>{legend}</p>
<h2>Who beats whom</h2><div class="wide lines">{pairs}</div>
<h2>How it was done</h2><div class="how">{how}</div></body></html>
"""
LEGEND = (
    "◆ is what is advised, chosen on the validation rows; ● lies on the Pareto front of test figure and time. "
    "Validation figures of candidates that were dropped are from fewer training rows; those that prompt are asked "
    "fewer validation rows instead. Does not beat: the baselines over which the paired test shows no gain on the test "
    "rows, better figures or not. Intervals are for other rows of this kind, with the models that were trained "
    "here; what other seeds make of it is in none of them: where several were tried, seeds has the lowest and the "
    "highest figure. Making: seconds of work up to the first answer. Memory is the peak of what the trial took beyond "
    "what was in use before it, its base model counted. 1,000 answers: timed on a few rows, without any kept answers "
    "and vectors. Forgotten: the change of the loss on a general text, or where an encoder has no loss, the drift of "
    "its hidden states (0: none)."
)


def page(contest: Contest, found: Verdict) -> str:
    """A page that needs no other file."""
    data = base64.b64encode(selection_figure.png(contest, found)).decode("ascii")
    pairs = [
        (p.first, p.second, f"{p.difference:.3f}", f"{p.chance:.2g}", "yes" if p.differs else "not told apart")
        for p in found.pairs
    ]
    return _PAGE.format(
        title=escape(title(contest)),
        answer="".join(f"<p>{escape(line)}</p>" for line in sentences(contest, found)),
        picture=f'<p><img alt="Quality against cost" src="data:image/png;base64,{data}"></p>',
        table=_html_table(cells(contest, found)),
        legend=escape(LEGEND),
        pairs=_pairs_table(pairs) if pairs else "<p>There is no pair to compare.</p>",
        how="".join(f"<p>{escape(hide(line))}</p>" for line in _how(contest)),
    )


def _pairs_table(pairs: Sequence[tuple[str, ...]]) -> str:
    head = "".join(f'<th style="{_CELL}">{name}</th>' for name in ("better", "other", "difference", "p", "differs"))
    lines = "".join(
        f"<tr>{''.join(f'<td style={chr(34)}{_CELL}{chr(34)}>{escape(text)}</td>' for text in pair)}</tr>"
        for pair in pairs
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def _how(contest: Contest) -> list[str]:
    from nbadapt.store import versions

    tests = (
        "Paired tests on the test rows: exact McNemar for right and wrong, sign flips for other values, random swaps "
        "for macro F1; all pairs together at 5 % after Holm."
    )
    named = ", ".join(f"{name} {version}" for name, version in versions().items())
    written = time.strftime("%Y-%m-%d %H:%M")
    return [
        *contest.notices,
        "Each rung trains anew on a part of the training rows; a method's weaker settings are dropped on the way.",
        tests,
        f"{_seeds(contest)} Budget: {_budget(contest)}.",
        *(_candidate(entry) for entry in contest.entries),
        f"{written}, {platform.machine()}, {named}",
    ]


def _candidate(entry: Entry) -> str:
    """Settings, model and prompt of a candidate."""
    job = entry.candidate.job
    line = f"{entry.label}: {job.config!r} on {job.model.name}"
    if job.prompt is None:
        return line
    return f"{line}; its prompt: {job.prompt}" if job.prompt else f"{line}; its prompt is made from the columns"


def _seeds(contest: Contest) -> str:
    """How often the last candidates were trained, and what that says."""
    asked = contest.prepared.asked.seeds
    if asked == 1:
        return "Seeds of the last candidates: 1, so that nothing is known of what another seed would change."
    short = [f"{len(e.test)} of {e.label}" for e in contest.entries if e.test and len(e.test) < asked]
    fewer = f" (only {', '.join(short)})" if short else ""
    return (
        f"Seeds of the last candidates: {asked}{fewer}. Figures are means over them; intervals and tests are about "
        "other rows, and take the models as they are."
    )


def _budget(contest: Contest) -> str:
    budget = contest.prepared.asked.budget
    parts = [duration(budget.seconds)] if budget.seconds is not None else []
    parts += [gibibytes(budget.memory)] if budget.memory is not None else []
    return " and ".join(parts) or "none"
