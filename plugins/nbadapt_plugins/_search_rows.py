"""Which rows prompts are searched on, which are shown, and which are held out: no row is two of these.

::

    --examples ──> shown (demonstrations) | searched on          --data ──> held out
    or --data  ──> shown (demonstrations) | searched on | held out
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nbadapt.errors import DataError, RequestError
from nbadapt_plugins._demonstrations import balanced

if TYPE_CHECKING:
    from nbadapt.data import Examples
    from nbadapt.method import Job

FEWEST = 10  # rows to search on


@dataclass(frozen=True)
class Part:
    """Some rows of a table, with their numbers in it, from 1."""

    table: Examples
    numbers: tuple[int, ...]

    @property
    def rows(self) -> list[Mapping[str, Any]]:
        """The rows, in the order of the numbers."""
        return [self.table.rows[number - 1] for number in self.numbers]

    def alone(self) -> Examples:
        """A table of these rows only; they are numbered anew."""
        return replace(self.table, rows=tuple(self.rows))

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True)
class Division:
    """The rows of a search; `search` is in the order in which they are asked, `note` says it to the user."""

    shown: Part
    search: Part
    held_out: Part
    note: str


def divide(job: Job, columns: Sequence[str], shown: int, most: int) -> Division:
    """Share the rows out, by the seed.

    Args:
        job: its tables.
        columns: those that the prompts use: rows alike in them are the same row.
        shown: demonstrations, as many of each answer as can be.
        most: rows to search on.

    Raises:
        RequestError: there is no table, or none with answers.
        DataError: too few rows, or a row of both tables.
    """
    source = _source(job)
    first = _firsts(source, columns)
    distinct = list(first.values())
    own = job.examples is None
    count = min(shown + most, len(distinct) // 2 if own else len(distinct))
    if count - shown < FEWEST:
        raise DataError(_too_few(job, source, len(distinct), shown, own=own))
    targets = _targets(source)
    picked = _drawn(distinct, targets, count, job.seed)
    order = balanced(picked, [targets.get(number, "") for number in range(max(distinct) + 1)])
    demonstrations = order[:shown]
    search = Part(source, tuple(number for number in picked if number not in demonstrations))
    used = set(picked)
    held_out = _held_out(job, source, {key for key, number in first.items() if number in used}, columns, first)
    return Division(Part(source, tuple(demonstrations)), search, held_out, _note(job, search, held_out, shown))


def _source(job: Job) -> Examples:
    """The table to search on."""
    if job.data is None:
        raise RequestError(
            f"{job.method} compares prompts on rows with answers: add --data, a table with a column label or "
            "completion (and --examples, to search on other rows than those)"
        )
    source = job.examples or job.data
    if source.task not in {"classification", "generation"}:
        raise RequestError(
            f"{job.method} compares prompts on rows with answers, and {source.source} has none: name their column "
            "with --label" + ("" if job.examples else ", or give such rows with --examples")
        )
    if job.examples is not None and job.examples.rows == job.data.rows:
        raise DataError(
            "--examples and --data are the same rows: the winner would be asked what it was chosen on; leave "
            "--examples out, and a part of the data is held out"
        )
    return source


def _key(row: Mapping[str, Any], columns: Sequence[str]) -> tuple[str, ...]:
    """What makes a row the same as another one; white space does not count."""
    return tuple(" ".join(str(row.get(column)).split()) for column in columns)


def _firsts(table: Examples, columns: Sequence[str]) -> dict[tuple[str, ...], int]:
    """Every distinct row -> the number of the first one like it."""
    found: dict[tuple[str, ...], int] = {}
    for number, row in enumerate(table.rows, 1):
        found.setdefault(_key(row, columns), number)
    return found


def _targets(table: Examples) -> dict[int, str]:
    """Row number -> its class, or nothing where answers are free."""
    return {number: str(row.get("label", "")) for number, row in enumerate(table.rows, 1) if table.labels}


def _drawn(numbers: Sequence[int], targets: Mapping[int, str], count: int, seed: int) -> list[int]:
    """`count` of the rows in random order, with the classes' shares: each (n / count)-th of the rows by class."""
    generator = random.Random(seed)  # noqa: S311 - a reproducible choice, no secret
    mixed = list(numbers)
    generator.shuffle(mixed)
    by_class = sorted(mixed, key=lambda number: targets.get(number, ""))  # stable: shuffled within a class
    drawn = [by_class[int((i + 0.5) * len(by_class) / count)] for i in range(count)]
    generator.shuffle(drawn)
    return drawn


def _held_out(
    job: Job,
    source: Examples,
    used: Set[tuple[str, ...]],
    columns: Sequence[str],
    first: Mapping[tuple[str, ...], int],
) -> Part:
    """All rows of the data that nothing was chosen on.

    Raises:
        DataError: a row with an answer that is among the examples.
    """
    assert job.data is not None  # else there was no source
    keys = [_key(row, columns) for row in job.data.rows]
    if job.examples is None:
        return Part(job.data, tuple(number for number, key in enumerate(keys, 1) if key not in used))
    both = [number for number, key in enumerate(keys, 1) if key in first] if job.data.task != "text" else []
    if both:
        more = f" (and {len(both) - 1:,} more)" if len(both) > 1 else ""
        raise DataError(
            f"row {both[0]} of {job.data.source} is also row {first[keys[both[0] - 1]]} of {source.source}{more}: "
            "prompts would be chosen on rows that are held out; take it out of one of them"
        )
    return Part(job.data, tuple(range(1, len(keys) + 1)))


def _too_few(job: Job, source: Examples, distinct: int, shown: int, *, own: bool) -> str:
    besides = f" besides {shown} to show" if shown else ""
    halves = ", and as many to hold out" if own else ""
    needed = (FEWEST + shown) * (2 if own else 1)
    return (
        f"{source.source} has {distinct:,} different rows, too few to search on: {job.method} needs at least {FEWEST}"
        f"{besides}{halves}, so {needed} rows"
    )


def _note(job: Job, search: Part, held_out: Part, shown: int) -> str:
    demonstrations = f", and {shown} more are shown" if shown else ""
    apart = "the others are" if job.examples is None else f"those of {held_out.table.source} are"
    return (
        f"prompts are compared on {len(search):,} rows of {search.table.source}, drawn by the seed{demonstrations}; "
        f"{apart} held out, and the best prompt alone is asked these {len(held_out):,}, once"
    )
