"""What commands answer: tables and pages that read well as text and as HTML, and whose items Python can use."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")

WIDEST = 56  # characters of a column of text; longer cells are broken into lines

_CELL = "text-align:left;vertical-align:top;padding:2px 10px"


class Table(Sequence[T], Generic[T]):
    """Items of one kind, shown as a table: one row an item.

    Args:
        items: what the rows stand for; index and iterate the table to get at them.
        columns: heading -> the cell of an item.
        empty: shown where there are no items.
        notes: lines below it.
    """

    def __init__(
        self,
        items: Iterable[T],
        columns: Mapping[str, Callable[[T], str]],
        *,
        empty: str,
        notes: Iterable[str] = (),
    ) -> None:
        self._items = tuple(items)
        self._headings = tuple(columns)
        self._empty = empty
        self._notes = tuple(notes)
        self._cells = [tuple(cell(item) for cell in columns.values()) for item in self._items]

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...

    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        if not self._items:
            return "\n".join(self._notes) or self._empty
        rows = [[textwrap.wrap(cell, WIDEST) or [""] for cell in row] for row in [self._headings, *self._cells]]
        widths = [max(len(line) for row in rows for line in row[i]) for i in range(len(self._headings))]
        lines = [line for row in rows for line in _lines(row, widths)]
        return "\n".join([lines[0], "─" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:], *self._notes])

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self._notes)
        if not self._items:
            return notes or f"<p>{html.escape(self._empty)}</p>"
        head = _html_row("th", self._headings)
        rows = "".join(_html_row("td", row) for row in self._cells)
        return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>{notes}"


def _html_row(tag: str, cells: tuple[str, ...]) -> str:
    """One row; its first cell, the name that is typed, is never broken."""
    styles = [_CELL + ";white-space:nowrap", *[_CELL] * (len(cells) - 1)]
    inner = (f'<{tag} style="{style}">{html.escape(cell)}</{tag}>' for style, cell in zip(styles, cells, strict=True))
    return f"<tr>{''.join(inner)}</tr>"


def _lines(row: list[list[str]], widths: list[int]) -> Iterator[str]:
    """One row as lines of text; every cell is a list of lines."""
    for i in range(max(len(cell) for cell in row)):
        cells = (cell[i] if i < len(cell) else "" for cell in row)
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


class Code(str):
    """Text of a page that is shown as it is written."""

    __slots__ = ()


class Page:
    """A title and parts below each other: paragraphs, code and tables."""

    def __init__(self, title: str, *parts: str | Code | Table[Any]) -> None:
        self.title = title
        self._parts = parts

    def __repr__(self) -> str:
        return "\n\n".join([self.title, *(_as_text(part) for part in self._parts)])

    def _repr_html_(self) -> str:
        return f"<b>{html.escape(self.title)}</b>" + "".join(_as_html(part) for part in self._parts)


def _as_text(part: object) -> str:
    if isinstance(part, Code):
        return textwrap.indent(part, "    ")
    return textwrap.fill(part, 100) if isinstance(part, str) else repr(part)


def _as_html(part: str | Code | Table[Any]) -> str:
    if isinstance(part, Table):
        return part._repr_html_()
    tag = "pre" if isinstance(part, Code) else "p"
    return f"<{tag}>{html.escape(part)}</{tag}>"
