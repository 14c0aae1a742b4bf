"""The table of runs: text in a terminal, HTML in an export, a widget where somebody may click."""

from __future__ import annotations

from collections.abc import Sequence

from nbadapt import store
from nbadapt.comparing.columns import COLUMNS, chosen
from nbadapt.comparing.facts import Facts, Overview
from nbadapt.run import Run
from nbadapt.tables import Table

_ALWAYS = ("run", "method", "model", "state", "steps", "result", "when")
_WHERE_GIVEN = ("name", "tags", "note")  # shown where some run has one
_ORDER = ("run", "name", "method", "model", "state", "steps", "result", "when", "tags", "note")
_NOTE = 60  # characters of a note
AT_FIRST = 32 << 20  # bytes of logs that are read before the widget appears; it reads on by itself


class RunsTable(Table[Run]):
    """Runs, one a row; index it to get a Run.

    In a notebook it is a widget: to sort, to filter, and to tick runs that are then compared.

    Args:
        search: only runs with these words; see `nbadapt.comparing.columns.chosen`.
        sort: a column or a metric; newest first where it is empty.

    Raises:
        RequestError: there is no such column.
    """

    def __init__(self, search: str = "", sort: str = "") -> None:
        from nbadapt.view import has_front_end

        self.search, self.sort = search, sort
        self.overview = Overview()
        everything = self.overview.refresh(AT_FIRST if has_front_end() else None)
        shown = chosen(everything, search, sort)
        by_id = {facts.id: facts for facts in shown}
        runs = [known.run for facts in shown if (known := self.overview.get(facts.id)) is not None]
        columns = {name: (lambda run, n=name: _cell(by_id[run.id], n)) for name in _names(shown)}
        hidden = len(everything) - len(shown)
        empty = f"There are no runs in {store.root()}."
        if hidden:
            empty = f"None of the {hidden} runs in {store.root()} has {search!r}."
        notes = [f"{hidden} more runs do not fit {search!r}"] if hidden and shown else []
        super().__init__(runs, columns, empty=empty, notes=notes)

    def _ipython_display_(self) -> None:
        from nbadapt.view import has_front_end

        if not len(self) or not has_front_end():
            raise NotImplementedError  # IPython then shows it by its text and HTML
        from nbadapt.widgets.runs import show

        show(self.overview, self.search, self.sort)


def _names(shown: Sequence[Facts]) -> list[str]:
    there = {name for name in _WHERE_GIVEN if any(getattr(facts, name) for facts in shown)}
    return [name for name in _ORDER if name in _ALWAYS or name in there]


def _cell(facts: Facts, column: str) -> str:
    text = COLUMNS[column].text(facts)
    if column == "note":
        flat = " ".join(text.split())
        return flat if len(flat) <= _NOTE else f"{flat[: _NOTE - 1]}…"
    return text
