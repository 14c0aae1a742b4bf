"""What a user hands over to be ranked -> prompts, or prompts with answers."""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nbadapt import cells, files, sources
from nbadapt.errors import DataError
from nbadapt.preferences import pair_key

PROMPT_COLUMNS = ("prompt", "text")
LIST_COLUMN = "answers"
PREFERENCE_COLUMNS = ("chosen", "rejected")


@dataclass(frozen=True)
class Comparison:
    """Answers to one prompt, to be compared.

    Attributes:
        answers: n >= 2 different texts.
        models: whose each of them is.
    """

    prompt: str
    answers: tuple[str, ...]
    models: tuple[str, ...]

    @functools.cached_property
    def key(self) -> str:
        """The same for the same texts in any order."""
        return pair_key(self.prompt, self.answers)

    def shuffled(self, seed: str) -> Comparison:
        """The answers in another order, which `seed` decides."""
        order = list(range(len(self.answers)))
        random.Random(f"{seed} {self.key}").shuffle(order)  # noqa: S311 - hides whose answer is where, guards no secret
        models = tuple(self.models[i] for i in order)
        return replace(self, answers=tuple(self.answers[i] for i in order), models=models)


@dataclass(frozen=True)
class Material:
    """What is to be ranked.

    Attributes:
        prompts: different texts.
        answers: for every prompt (whose, answer) pairs; None where the table has no answers.
        source: what the user calls it.
        twice: how many prompts stood there once more.
    """

    prompts: tuple[str, ...]
    answers: tuple[tuple[tuple[str, str], ...], ...] | None
    source: str
    twice: int = 0


def compare(prompt: str, answers: Iterable[tuple[str, str]]) -> Comparison | None:
    """The comparison of (whose, answer) pairs; None where fewer than two of the answers differ.

    Answers that are alike but for white space around them become one; those without a text, which nobody could train
    on, are left out.
    """
    texts: dict[str, str] = {}
    whose: dict[str, dict[str, None]] = {}
    for model, answer in answers:
        if bare := answer.strip():
            texts.setdefault(bare, answer)
            whose.setdefault(bare, {})[model] = None
    if len(texts) < 2:
        return None
    return Comparison(prompt, tuple(texts.values()), tuple(", ".join(names) for names in whose.values()))


def read(source: Any, name: str, *, is_name: bool = False) -> Material:
    """The prompts, and the answers where it has them.

    Args:
        source: a text, a list or a column of texts, or a table with the column prompt (or text); answers are in the
            columns that begin with "answer", in a column "answers" of lists, or in chosen and rejected.
        name: what the user calls it, for messages.
        is_name: a text is the name of a file or a hub data set; else it is one where it ends like a file of data.

    Raises:
        DataError: there are no prompts, or a cell is no text; names the row.
    """
    if isinstance(source, os.PathLike):
        source, is_name = os.fspath(source), True
    if isinstance(source, str):
        if is_name or Path(source).suffix.lower() in files.READERS:
            return _of_sheet(sources.load(source, name))
        return _of_texts([source], name)
    texts = _list_of(source)
    if texts is not None and not any(isinstance(text, Mapping) for text in texts):
        return _of_texts(texts, name)
    return _of_sheet(sources.load(source, name))


def _list_of(source: Any) -> list[Any] | None:
    """The items of a list or of a single column; None for a table."""
    if isinstance(source, list | tuple):
        return list(source)
    if isinstance(source, Mapping) or hasattr(source, "columns") or hasattr(source, "column_names"):
        return None
    unpack = getattr(source, "to_list", None) or getattr(source, "tolist", None)  # of a column of pandas, polars, numpy
    items = unpack() if callable(unpack) else None
    return items if isinstance(items, list) else None


def _of_texts(texts: Sequence[Any], name: str) -> Material:
    if not texts:
        raise DataError(f"{name} is empty: give at least one prompt")
    checked = [_text(text, f"{name}[{i}]") for i, text in enumerate(texts)]
    distinct = tuple(dict.fromkeys(checked))
    return Material(distinct, None, name, len(checked) - len(distinct))


def _text(value: Any, where: str) -> str:
    try:
        return cells.text(cells.plain(value))
    except cells.UnfitError as error:
        raise DataError(f"{where}: {error}") from None


def _of_sheet(sheet: sources.Sheet) -> Material:
    column = next((name for name in PROMPT_COLUMNS if name in sheet.columns), None)
    if column is None and len(sheet.columns) == 1:
        (column,) = sheet.columns
    if column is None:
        shown = cells.listed(sheet.columns)
        raise DataError(f"{sheet.source} has no column 'prompt': its columns are {shown}; rename one")
    where = f"{sheet.source}, row"
    prompts = [
        _text(value, f"{where} {number} (counted from 1), column {column!r}")
        for number, value in enumerate(sheet.column(column), 1)
    ]
    answers = _answers(sheet, column, where)
    if answers is None:
        return replace(_of_texts(prompts, sheet.source), source=sheet.source)
    return Material(tuple(prompts), answers, sheet.source)


def _answers(sheet: sources.Sheet, prompt: str, where: str) -> tuple[tuple[tuple[str, str], ...], ...] | None:
    """For every row (column, answer) pairs; None where no column holds answers."""
    if LIST_COLUMN in sheet.columns:
        return tuple(
            _listed(cell, f"{where} {number} (counted from 1), column {LIST_COLUMN!r}")
            for number, cell in enumerate(sheet.column(LIST_COLUMN), 1)
        )
    names = [name for name in sheet.columns if name.lower().startswith("answer") and name != prompt]
    if not names and set(PREFERENCE_COLUMNS) <= set(sheet.columns):
        names = list(PREFERENCE_COLUMNS)
    if not names:
        return None
    if len(names) < 2:
        raise DataError(f"{sheet.source} has one column of answers, {names[0]!r}: to compare, it needs two or more")
    columns = [
        [
            _text(cell, f"{where} {number} (counted from 1), column {name!r}") if cell is not None else ""
            for number, cell in enumerate(sheet.column(name), 1)
        ]
        for name in names
    ]
    return tuple(tuple(zip(names, row, strict=True)) for row in zip(*columns, strict=True))


def _listed(cell: Any, where: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(cell, list):
        raise DataError(f"{where}: {cells.kind(cell)} ({cells.brief(cell)}) where a list of answers is needed")
    return tuple((f"answer {i}", _text(text, f"{where}, answer {i}")) for i, text in enumerate(cell, 1))
