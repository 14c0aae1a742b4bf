"""The static result of a run, as a MIME bundle: what stays in the notebook when the live dashboard is gone.

It has to survive the sanitizers of untrusted notebooks and code-hosting pages: no scripts, style sheets or
inline SVG; where even inline styles are stripped, tables and headings still read well. It takes the colours
of the page. All texts are escaped, and cut so that a run adds at most 60 KB to the notebook.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any

from nbadapt.events import FINISHED
from nbadapt.widgets import controls, figure, panels, summary
from nbadapt.widgets.quotes import quotes_html, quotes_of
from nbadapt.widgets.ranking import ranking_html, ranking_lines
from nbadapt.widgets.texts import clip, samples
from nbadapt.widgets.watched import Reported

if TYPE_CHECKING:
    from nbadapt.events import Notice
    from nbadapt.history import History

ANSWER_BYTES = 8_000
NOTICE_BYTES = 180
MOST_NOTICES = 6
LINE_BYTES = 240
MOST_REPLIES, ASKED_BYTES, REPLY_BYTES = 2, 80, 160

MARKS = {"done": "✓", "stopped": "■", "failed": "✗", "killed": "✗", "paused": "‖"}
LEVELS = {"warning": "Warning", "error": "Error"}
NOTE = "Note"  # for any other level, also one that a later version may have written

FRAME = "max-width:860px;border:1px solid rgba(128,128,128,0.4);border-radius:6px;padding:10px 14px"
CELL = "text-align:left;vertical-align:top;padding:2px 14px 2px 0;overflow-wrap:anywhere"
PLAIN_TEXT = "white-space:pre-wrap;overflow-wrap:anywhere;text-align:left;vertical-align:top;padding:3px 14px 3px 0"
ANSWER = "white-space:pre-wrap;overflow-wrap:anywhere;font-family:inherit;margin:8px 0"


def _text(text: str) -> str:
    """Text between tags. Quotes stay, for a sixth of the bytes; the one attribute with data holds numbers."""
    return escape(text, quote=False)


def bundle(run: Reported) -> dict[str, Any]:
    """The run's state and figures as text/html and text/plain; works for a run at any stage."""
    history = run.log
    history.state = run.state
    head = clip(summary.headline(history, run.error), LINE_BYTES)
    rows = _rows(run, history)
    answer = run.outcome.output if run.outcome is not None else None
    notices = _notices(history, head)
    title = clip(run.title, LINE_BYTES)
    if answer is not None:
        shown = clip(answer, ANSWER_BYTES)
        answer = shown if len(shown) == len(answer) else f"{shown}\n[cut here; run.output has it all]"
    blocks = [
        f"<div><b>{_text(title)}</b> &nbsp; {MARKS.get(history.state, '')} {_text(head)}</div>",
        f'<pre style="{ANSWER}">{_text(answer)}</pre>' if answer is not None else "",
        quotes_html(quotes_of(history)),
        _picture(history),
        _table(rows),
        ranking_html(history),
        _samples(history, opened=run.verb == "prompt" and answer is None),
        _replies(history),
        *(f"<div><b>{LEVELS.get(level, NOTE)}:</b> {_text(text)}</div>" for level, text in notices),
    ]
    html = f'<div style="{FRAME}">{"".join(blocks)}</div>'
    if answer is not None and history.sources:
        named = (f"[{source.number}] {clip(source.title, LINE_BYTES)}" for source in history.sources)
        answer = "\n".join([answer, "", *named])
    return {"text/html": html, "text/plain": _plain(f"{title}: {head}", rows, ranking_lines(history), notices, answer)}


def running_bundle(run: Reported) -> dict[str, Any]:
    """What stands in the cell while the run works, where no live dashboard is shown."""
    line = summary.progress_line(run.log, clip(run.title, LINE_BYTES))
    return {"text/html": f'<div style="{FRAME}">{_text(line)}</div>', "text/plain": line}


def _rows(run: Reported, history: History) -> list[tuple[str, str]]:
    final = run.outcome.metrics if run.outcome is not None and history.state in FINISHED else None
    rates = summary.average_rates(run.events)
    shown = summary.figures(history, rates=rates, final=final)
    changed = [("Changed on the way", clip("; ".join(map(controls.line, history.changes)), LINE_BYTES))]
    return [*shown, *panels.figures(history), *(changed if history.changes else []), ("Run", clip(run.id, LINE_BYTES))]


def _notices(history: History, head: str) -> list[tuple[str, str]]:
    """The first notices, each once and without the one that the headline tells."""
    unique: dict[str, Notice] = {notice.text: notice for notice in history.notices if notice.text not in head}
    texts: list[tuple[str, str]] = [(notice.level, clip(text, NOTICE_BYTES)) for text, notice in unique.items()]
    left = len(texts) - MOST_NOTICES
    return texts if left <= 0 else [*texts[:MOST_NOTICES], ("info", f"and {left} more notices")]


def _picture(history: History) -> str:
    if not figure.has_curve(history):
        return ""
    data = base64.b64encode(figure.png(history)).decode("ascii")
    values = [(split, history.latest("loss", split)) for split in ("train", "evaluation")]
    said = ", ".join(f"{split} {summary.number(value)}" for split, value in values if value is not None)
    return (
        f'<img alt="Loss by step; last values: {said}" src="data:image/png;base64,{data}" '
        'style="max-width:100%;border-radius:6px;margin:8px 0">'
    )


def _table(rows: Iterable[tuple[str, str]]) -> str:
    """Labels and figures, two pairs a line."""
    cells = [
        f'<td style="{CELL};opacity:0.8">{_text(label)}</td><td style="{CELL}">{_text(text)}</td>'
        for label, text in rows
    ]
    lines = "".join(f"<tr>{''.join(cells[i : i + 2])}</tr>" for i in range(0, len(cells), 2))
    return f'<table style="margin:4px 0;border-collapse:collapse">{lines}</table>'


def _samples(history: History, *, opened: bool) -> str:
    latest = samples(history)
    if not latest["items"]:
        return ""
    trained = any(before is not None for *_, before in latest["items"])
    names = ("input", "before", "output") if trained else ("input", "output", "expected")
    head = "".join(f'<th style="{CELL};white-space:nowrap;overflow-wrap:normal">{name}</th>' for name in names)
    lines = "".join(
        "<tr>"
        + f'<td style="{PLAIN_TEXT}">{_text(asked)}</td>'
        + (f'<td style="{PLAIN_TEXT}">{_text(before or "")}</td>' if trained else "")
        + f'<td style="{PLAIN_TEXT}">{_text(said)}{_folded(reasoning)}</td>'
        + ("" if trained else f'<td style="{PLAIN_TEXT}">{_text(expected or "")}</td>')
        + "</tr>"
        for asked, said, expected, reasoning, before in latest["items"]
    )
    total = len(latest["items"]) + latest["more"]
    count = f" ({len(latest['items'])} of {total})" if latest["more"] else ""
    title = _text(f"Samples at step {latest['step']}{count}")
    return (
        f"<details{' open' if opened else ''}><summary>{title}</summary>"
        f'<table style="margin:4px 0;border-collapse:collapse"><tr>{head}</tr>{lines}</table></details>'
    )


def _replies(history: History) -> str:
    """The last answers to what the user asked on the way."""
    told = controls.replies(history)["items"][:MOST_REPLIES]
    if not told:
        return ""
    head = "".join(f'<th style="{CELL}">{name}</th>' for name in ("step", "asked", "answer"))
    lines = "".join(
        f'<tr><td style="{CELL}">{step:,}</td><td style="{PLAIN_TEXT}">{_text(clip(prompt, ASKED_BYTES))}</td>'
        f'<td style="{PLAIN_TEXT}">{_text(clip(said, REPLY_BYTES))}'
        f"{f' ({100 * shares[0][1]:.1f} %)' if shares else ''}</td></tr>"
        for step, prompt, said, shares in told
    )
    more = len(history.replies) - len(told)
    title = f"Asked on the way{f' ({len(told)} of {len(told) + more})' if more else ''}"
    return (
        f"<details><summary>{title}</summary>"
        f'<table style="margin:4px 0;border-collapse:collapse"><tr>{head}</tr>{lines}</table></details>'
    )


def _folded(reasoning: str) -> str:
    """A reasoning that opens on a click; nothing where there is none."""
    head = '<summary style="white-space:nowrap">reasoning</summary>'
    return f"<details>{head}{_text(reasoning)}</details>" if reasoning else ""


def _plain(
    head: str, rows: list[tuple[str, str]], ranked: list[str], notices: list[tuple[str, str]], answer: str | None
) -> str:
    width = max(len(label) for label, _ in rows)
    lines = [head, *([answer, ""] if answer is not None else [])]
    lines += [f"  {label:<{width}}  {text}" for label, text in rows]
    return "\n".join([*lines, *ranked, *(f"{LEVELS.get(level, NOTE)}: {text}" for level, text in notices)])
