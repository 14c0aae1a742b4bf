"""One split for all candidates: rows to train on, rows to choose by, and rows that are locked up until the end."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from nbadapt import data
from nbadapt.errors import DataError

if TYPE_CHECKING:
    from nbadapt.data import Examples
    from nbadapt.selection.asked import Asked

TASKS = ("classification", "generation")
SHARE = 0.15  # of the rows that are not locked up: to choose by
MOST_VALIDATION = 1000
FEWEST = 20  # rows to train on and to choose by
FEWEST_HELD = 5  # rows to choose by, and locked up


@dataclass(frozen=True)
class Parts:
    """The rows, the same for every candidate.

    Attributes:
        training: to learn from.
        validation: by which candidates are dropped and the best one is chosen; its first rows stand for all of them.
        test: looked at once, at the end.
        written: a row -> the same with all of its table's columns, for prompts that name them.
        notices: what the user should know.
    """

    training: Examples
    validation: Examples
    test: Examples
    written: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """16 hex digits that stand for the split: the rows of each part in order."""
        prints = [data.fingerprint(part) for part in (self.training, self.validation, self.test)]
        return hashlib.sha256("\n".join(prints).encode()).hexdigest()[:16]

    def with_columns(self, rows: Examples) -> Examples:
        """The rows with all columns of their table."""
        return replace(rows, rows=tuple(self.written[id(row)] for row in rows.rows))


def split(asked: Asked) -> Parts:
    """Read the table and part it.

    Raises:
        DataError: the table cannot be read or is too small, or its task is none that can be compared.
    """
    task: Any = asked.task
    name = asked.sources.get("data", "data")
    rows = data.read(asked.data, name=name, task=task, columns=asked.columns)
    if rows.task not in TASKS:
        raise DataError(
            f"{rows.source} is a table for {rows.task}, and %%compare does {' and '.join(TASKS)}: name its columns "
            "with --text and --label, or --prompt and --completion"
        )
    written = _written(asked, asked.data, name, rows)
    notices: list[str] = []
    rest = _once(rows, notices)
    _check_left(rows, rest, notices)
    if isinstance(asked.test, float | int):
        whole = len(rest)
        rest, test = data.split(rest, float(asked.test), asked.seed)
        _check_left(rows, rest, [f"{len(test):,} are locked up", *notices])
        _check_locked(asked, test, whole)
    else:
        source = asked.sources.get("test", "test")
        test = data.read(asked.test, name=source, task=rows.task, columns=asked.columns)
        written |= _written(asked, asked.test, source, test)
        rest = _without(rest, test, notices)
        if not rest.rows:
            raise DataError(
                f"all {len(rows):,} rows of {rows.source} are also in --test {test.source}: give a table of other "
                "rows, or a share such as 0.2"
            )
        _check_left(rows, rest, notices)
        data.check_labels(test, rest)
        _check_locked(asked, test)
    held = min(MOST_VALIDATION, max(FEWEST_HELD, round(SHARE * len(rest))))
    training, validation = data.split(rest, held / len(rest), asked.seed)
    validation = _mixed(validation, asked.seed)
    told = (
        f"{len(training):,} rows to train on, {len(validation):,} to choose by, {len(test):,} locked up until the end "
        f"(seed {asked.seed})"
    )
    return Parts(training, validation, test, written, (told, *notices))


def _check_left(rows: Examples, rest: Examples, notices: Sequence[str]) -> None:
    """Refuse a table of which too little is left, or one label alone; `notices` tell what became of the others."""
    why = f" ({'; '.join(notices)})" if len(rest) < len(rows) else ""
    if len(rest) < FEWEST:
        left = f"{len(rest)} rows" if len(rest) != 1 else "1 row"
        raise DataError(
            f"{rows.source} leaves {left} to train on and to choose by{why}: give {FEWEST} or more different ones"
        )
    if len(rest.labels) < 2 <= len(rows.labels):
        raise DataError(
            f"{rows.source} leaves rows of the label {rest.labels[0]!r} alone{why}: give rows of the others too"
        )


def _check_locked(asked: Asked, test: Examples, whole: int | None = None) -> None:
    """Refuse test rows that are too few to say anything; a share was taken of the `whole` rows."""
    if len(test) >= FEWEST_HELD:
        return
    locked = f"{len(test)} rows" if len(test) != 1 else "1 row"
    if whole is None:
        raise DataError(
            f"--test {test.source} holds {locked}, on which nothing can be told: give {FEWEST_HELD} or more"
        )
    enough = math.ceil(100 * FEWEST_HELD / whole) / 100
    raise DataError(
        f"--test {asked.test:g} locks up {locked} of {whole:,}, on which nothing can be told: give a share of "
        f"{enough:g} or more, or a table"
    )


def _mixed(rows: Examples, seed: int) -> Examples:
    """The rows in a drawn order, of which the first ones of any number hold the classes in their shares."""
    rng = random.Random(seed)  # noqa: S311 - a reproducible choice, no secret
    classes: dict[str, list[Mapping[str, Any]]] = {}
    for row in rng.sample(rows.rows, len(rows)):
        classes.setdefault(str(row.get("label", "")) if rows.task == "classification" else "", []).append(row)
    placed = [((i + 0.5) / len(kin), row) for kin in classes.values() for i, row in enumerate(kin)]
    return replace(rows, rows=tuple(row for _, row in sorted(placed, key=lambda pair: pair[0])))


def _input(row: Mapping[str, Any]) -> str:
    return str(row.get("text", row.get("prompt")))


def _once(rows: Examples, notices: list[str]) -> Examples:
    """The rows without repeated inputs: they would stand on both sides of the split."""
    seen: dict[str, Mapping[str, Any]] = {}
    for row in rows.rows:
        seen.setdefault(_input(row), row)
    if len(seen) < len(rows):
        notices.append(f"{len(rows) - len(seen):,} rows of {rows.source} repeat an earlier input and were left out")
    return _relabelled(replace(rows, rows=tuple(seen.values())))


def _without(rows: Examples, test: Examples, notices: list[str]) -> Examples:
    """The rows without those whose input is among the test rows."""
    locked = {_input(row) for row in test.rows}
    kept = tuple(row for row in rows.rows if _input(row) not in locked)
    if len(kept) < len(rows):
        notices.append(f"{len(rows) - len(kept):,} rows of {rows.source} are also among {test.source}: left out")
    return _relabelled(replace(rows, rows=kept))


def _relabelled(rows: Examples) -> Examples:
    return replace(rows, labels=tuple(sorted({row["label"] for row in rows.rows})) if rows.labels else ())


def _written(asked: Asked, source: Any, name: str, rows: Examples) -> dict[int, Mapping[str, Any]]:
    """Each row with the other columns of its table; the table's task decides what is the answer."""
    full = data.read_for_prompt(source, name=name, columns=asked.columns, label=asked.columns.get("label"))
    return {id(row): {**other, **row} for row, other in zip(rows.rows, full.rows, strict=True)}
