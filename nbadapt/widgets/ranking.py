"""The prompts that a run compares, as a table: of the live dashboard, of the static result and of plain text."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, TypedDict

from nbadapt.widgets.summary import metric_label, number
from nbadapt.widgets.texts import clip

if TYPE_CHECKING:
    from nbadapt.events import Candidate
    from nbadapt.history import History

MOST = 12  # prompts
TEXT_BYTES = 3_000  # of all of them together
LABEL_BYTES = 60
LINE = 60  # characters of a prompt in plain text

CELL = "text-align:left;vertical-align:top;padding:2px 14px 2px 0"
TEXT = f"{CELL};white-space:pre-wrap;overflow-wrap:anywhere"


class Ranking(TypedDict):
    """`rows` are cells under `head`, the best prompt first; `more` is how many were left out."""

    head: list[str]
    rows: list[list[str]]
    more: int


def ranking(history: History) -> Ranking:
    """The best prompts so far; without rows where none are compared."""
    ranked = history.ranking
    if not ranked:
        return {"head": [], "rows": [], "more": 0}
    shown = ranked[:MOST]
    most = TEXT_BYTES // len(shown)
    figure = f"{clip(metric_label(shown[0].figure), LABEL_BYTES)}, 95 % interval"
    return {
        "head": ["rank", "prompt", figure, "rows", "tokens"],
        "rows": [[f"{c.rank:,}", clip(c.text, most), _figure(c), _rows(c), f"{c.tokens:,}"] for c in shown],
        "more": len(ranked) - len(shown),
    }


def _figure(candidate: Candidate) -> str:
    return f"{number(candidate.value)} ({number(candidate.low)} to {number(candidate.high)})"


def _rows(candidate: Candidate) -> str:
    standing = f", {clip(candidate.standing, LABEL_BYTES)}" if candidate.standing else ""
    return f"{candidate.rows:,}{standing}"


def ranking_html(history: History) -> str:
    """The table, with everything in it escaped; empty where nothing is compared."""
    found = ranking(history)
    if not found["rows"]:
        return ""
    head = "".join(f'<th style="{CELL}">{escape(name, quote=False)}</th>' for name in found["head"])
    lines = "".join(
        "<tr>" + "".join(f'<td style="{TEXT}">{escape(cell, quote=False)}</td>' for cell in row) + "</tr>"
        for row in found["rows"]
    )
    return (
        f"<details open><summary>{escape(_title(found), quote=False)}</summary>"
        f'<table style="margin:4px 0;border-collapse:collapse"><tr>{head}</tr>{lines}</table></details>'
    )


def ranking_lines(history: History) -> list[str]:
    """The table as lines of plain text."""
    found = ranking(history)
    if not found["rows"]:
        return []
    lines = [f"{_title(found)}: rank, {', '.join(found['head'][2:])}, prompt"]
    for rank, text, figure, rows, tokens in found["rows"]:
        flat = " ".join(text.split())
        short = flat if len(flat) <= LINE else f"{flat[: LINE - 1]}…"
        lines.append(f"  {rank:>3}  {figure}  {rows}  {tokens}  {short}")
    return lines


def _title(found: Ranking) -> str:
    shown, more = len(found["rows"]), found["more"]
    return f"Prompts compared ({shown} of {shown + more}; run.candidates has all)" if more else "Prompts compared"
