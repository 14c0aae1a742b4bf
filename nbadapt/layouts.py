"""Column names -> the task they are for, and which column plays which part."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from nbadapt import cells
from nbadapt.errors import DataError, nearest
from nbadapt.sources import Sheet

if TYPE_CHECKING:
    from nbadapt.method import Task  # pydantic: not at import time


class Form(NamedTuple):
    """One way of laying a task out in columns."""

    task: Task
    columns: tuple[str, ...]


FORMS = (
    Form("classification", ("text", "label")),
    Form("text", ("text",)),
    Form("generation", ("messages",)),
    Form("generation", ("prompt", "completion")),
    Form("generation", ("instruction", "output")),
    Form("preference", ("prompt", "chosen", "rejected")),
)
OPTIONAL = "input"  # goes with instruction, output
COLUMNS = (*dict.fromkeys(column for form in FORMS for column in form.columns), OPTIONAL)
"""Column names that decide the task; an option of the same name says which column plays that part."""


def places(table: Sheet, columns: Mapping[str, str]) -> dict[str, str]:
    """The column names that a task may ask for -> the table's own column names.

    Args:
        table: its own names stand for themselves.
        columns: the task's column name -> the table's column name; goes before the table's own.

    Raises:
        DataError: no task or no table has such a column.
    """
    for part, column in columns.items():
        if part not in COLUMNS:
            raise DataError(f"no task has a column {part!r}: use {', '.join(COLUMNS)}")
        if column not in table.columns:
            raise no_column(table, column, f"--{part} names it")
    return {**{column: column for column in table.columns}, **columns}


def no_column(table: Sheet, column: str, why: str, likely: Sequence[str] | None = None, fix: str = "") -> DataError:
    """The error for a column that is not there, with the near names (among `likely`) and all columns."""
    lowered = {name.lower(): name for name in (table.columns if likely is None else likely)}
    close = [lowered[name] for name in nearest(column.lower(), lowered)]
    hint = f": did you mean {' or '.join(repr(name) for name in close)}?" if close else ":"
    return DataError(
        f"{table.source} has no column {column!r} ({why}){hint} its columns are {cells.listed(table.columns)}{fix}"
    )


def choose(table: Sheet, where: Mapping[str, str], task: Task | None, columns: Mapping[str, str]) -> Form:
    """The layout that the columns of a table have.

    Args:
        table: for its columns and its name.
        where: from `places`.
        task: what the user said, or None.
        columns: what the user said of columns; the layout has them all.

    Raises:
        DataError: no layout fits, or those of several tasks do.
    """
    tasks = sorted({form.task for form in FORMS})
    if task is not None and task not in tasks:
        raise DataError(f"unknown task {task!r}: use {', '.join(tasks)}")
    said = set(columns) - {OPTIONAL}
    forms = [form for form in FORMS if task in (None, form.task) and said <= set(form.columns)]
    if not forms:
        parts = ", ".join(f"--{part}" for part in columns)
        raise DataError(f"{table.source}: {parts} do not go together{f' for {task}' if task else ''}: {_layouts()}")
    fitting = [form for form in forms if all(column in where for column in form.columns)]
    if not fitting:
        raise _no_form(table, where, forms, decided=task is not None or bool(said))
    apart = [form for form in fitting if form.task != "text"] or fitting
    if len({form.task for form in apart}) > 1:
        choices = " or ".join(f"{form.task} ({', '.join(form.columns)})" for form in apart)
        raise DataError(f"{table.source} could be for {choices}: say --task")
    if apart[0].task == "text" and task is None:
        _check_label_typo(table)
    return apart[0]


def _no_form(table: Sheet, where: Mapping[str, str], forms: Sequence[Form], *, decided: bool) -> DataError:
    def share(form: Form) -> float:
        return sum(column in where for column in form.columns) / len(form.columns)

    best = max(forms, key=share)
    if not share(best) and not decided:
        shown = cells.listed(table.columns)
        fix = "say which column plays which part, as in --text COLUMN --label COLUMN"
        return DataError(f"{table.source} has the columns {shown}, which tell no task: {fix} ({_layouts()})")
    lacking = next(column for column in best.columns if column not in where)
    why = f"the {best.task} task needs {', '.join(best.columns)}"
    free = [column for column in table.columns if column not in {where.get(part) for part in best.columns}]
    return no_column(table, lacking, why, free, f"; say --{lacking} COLUMN to use another")


def _layouts() -> str:
    return "; ".join(f"{', '.join(form.columns)}: {form.task}" for form in FORMS)


def _check_label_typo(table: Sheet) -> None:
    """A column much like "label" beside "text" is more likely a mistake than a wish to model the text alone."""
    for column in table.columns:
        word = column.lower()
        if word.startswith("label") or difflib.get_close_matches(word, ["label"], cutoff=0.75):
            raise DataError(
                f"{table.source} has the columns 'text' and {column!r}: say --label {column} to classify, "
                "or --task text to model the text alone"
            )
