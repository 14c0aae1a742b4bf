"""The table of runs and a comparison as a MIME bundle: what a saved notebook and a terminal show. All is escaped.

It is bounded: the table, the differences and the figure together stay below 60 KB, whatever the texts hold.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from nbadapt.comparing.columns import COLUMNS
from nbadapt.comparing.differences import Difference
from nbadapt.comparing.facts import Facts, Known
from nbadapt.widgets import runs_figure
from nbadapt.widgets.texts import clip

TABLE_BYTES, DIFFERENCE_BYTES = 12_000, 10_000  # of HTML
CELL_BYTES, NOTE_BYTES = 60, 80
TEXT_ROWS = 50
TEXT_WIDTH = 34  # characters of a cell in plain text
SHOWN = ("name", "method", "state", "result", "time", "parameters", "memory", "tags", "note", "model", "data", "steps",
         "when", "run")  # fmt: skip

LIST = "nbadapt-runs-list"
# A style in every cell would be most of the bytes. Where a host strips this one the table still reads well.
_STYLE = (
    f"<style scoped>.{LIST}{{overflow-x:auto}}.{LIST} table{{border-collapse:collapse;font-size:12px}}"
    f".{LIST} th,.{LIST} td{{text-align:left!important;white-space:nowrap!important;padding:2px 12px 2px 0}}</style>"
)
_CELL = "text-align:left;vertical-align:top;padding:2px 12px 2px 0;overflow-wrap:anywhere"
_TABLE = '<table style="border-collapse:collapse;margin:4px 0;font-size:12px;text-align:left">'


def _text(text: str, most: int = CELL_BYTES) -> str:
    return escape(clip(text, most), quote=False)


def runs_html(shown: Sequence[Facts], numbers: dict[str, int], hidden: int) -> str:
    """The table; numbers of the ticked runs by id, and how many runs the filter hides."""
    names = _names(shown)
    head = "".join(f"<th>{name}</th>" for name in ("", *names))
    lines, size = [], 0
    for facts in shown:
        cells = [str(numbers.get(facts.id, "")), *(_text(_cell(facts, name), _most(name)) for name in names)]
        line = "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        size += len(line.encode())
        if size > TABLE_BYTES:
            break
        lines.append(line)
    rest = len(shown) - len(lines)
    below = [f"and {rest} more runs"] * bool(rest) + [f"{hidden} runs are hidden by the filter"] * bool(hidden)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'{_STYLE}<div class="{LIST}">{table}</div>' + "".join(f"<div>{line}</div>" for line in below)


def _names(shown: Sequence[Facts]) -> list[str]:
    """The columns in which some run has something."""
    return [name for name in SHOWN if any(_cell(facts, name) for facts in shown)]


def _cell(facts: Facts, column: str) -> str:
    return facts.called if column == "name" else COLUMNS[column].text(facts)


def runs_text(shown: Sequence[Facts], numbers: dict[str, int]) -> str:
    """The table as plain text."""
    names = _names(shown)
    rows = [[str(numbers.get(f.id, "")), *(_cell(f, name) for name in names)] for f in shown[:TEXT_ROWS]]
    rest = [f"and {len(shown) - TEXT_ROWS} more runs"] if len(shown) > TEXT_ROWS else []
    return "\n".join([*_columns([["", *names], *rows]), *rest])


def _most(column: str) -> int:
    return NOTE_BYTES if column == "note" else CELL_BYTES


def comparison_html(known: Sequence[Known], facts: Sequence[Facts], lines: Sequence[Difference], **what: Any) -> str:
    """The figure and what differs; `what` goes to the figure."""
    return _picture(known, facts, **what) + _differences(facts, lines)


def _picture(
    known: Sequence[Known], facts: Sequence[Facts], curve: str = "loss", quality: str | None = None, cost: str = "time"
) -> str:
    if not runs_figure.has_curves(known) and len(runs_figure.scatter_points(facts, quality or "", cost)) < 2:
        return ""
    data = base64.b64encode(runs_figure.png(known, facts, curve, quality, cost)).decode("ascii")
    return (
        f'<img alt="Curves of {len(facts)} runs over each other, and their quality against their cost; the table below '
        f'has the figures" src="data:image/png;base64,{data}" style="max-width:100%;border-radius:6px;margin:8px 0">'
    )


def _differences(facts: Sequence[Facts], lines: Sequence[Difference]) -> str:
    head = "".join(
        f'<th style="{_CELL}"><span style="color:{runs_figure.colour(i)}">●</span> {i + 1} {_text(one.called)}</th>'
        for i, one in enumerate(facts)
    )
    rows: list[str] = []
    size, group = 0, ""
    for line in lines:
        cells = "".join(
            f'<td style="{_CELL}">{f"<b>{_text(cell)}</b>" if i in line.best else _text(cell)}</td>'
            for i, cell in enumerate(line.cells)
        )
        first = line.group if line.group != group else ""
        row = (
            f'<tr><td style="{_CELL};opacity:0.8">{first}</td><td style="{_CELL}">{_text(line.label)}</td>{cells}</tr>'
        )
        size += len(row.encode())
        if size > DIFFERENCE_BYTES:
            rows.append(f"<tr><td></td><td>and {len(lines) - len(rows)} more</td></tr>")
            break
        rows.append(row)
        group = line.group
    none = "" if lines else "<div>They do not differ in anything that was kept.</div>"
    return f'{_TABLE}<tr><th></th><th style="{_CELL}">what differs</th>{head}</tr>{"".join(rows)}</table>{none}'


def comparison_text(facts: Sequence[Facts], lines: Sequence[Difference]) -> str:
    """What differs, as plain text: one line a difference."""
    table = [["", *(f"{i + 1} {one.called}" for i, one in enumerate(facts))]]
    table += [[line.label, *(f"{c} *" if i in line.best else c for i, c in enumerate(line.cells))] for line in lines]
    return "\n".join(_columns(table)) if lines else "The runs do not differ in anything that was kept."


def _columns(table: Sequence[Sequence[str]]) -> Iterable[str]:
    cells = [[_short(cell) for cell in row] for row in table]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    for row in cells:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _short(cell: str) -> str:
    flat = " ".join(cell.split())
    return flat if len(flat) <= TEXT_WIDTH else f"{flat[: TEXT_WIDTH - 1]}…"


def comparison_bundle(known: Sequence[Known], facts: Sequence[Facts], lines: Sequence[Difference]) -> dict[str, Any]:
    """A comparison by itself."""
    return {
        "text/plain": comparison_text(facts, lines) + ("\n* the best" if any(line.best for line in lines) else ""),
        "text/html": f'<div style="max-width:1000px">{comparison_html(known, facts, lines)}</div>',
    }
