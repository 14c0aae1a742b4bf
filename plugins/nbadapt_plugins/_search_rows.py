"""Which rows prompts are searched on, which are shown, and which are held out: no row is two of these.

::

    --examples ──> shown (demonstrations) | searched on          --data ──> held out
    or --data  ──> shown (demonstrations) | searched on | held out

Two rows are the same where any one of the prompts says the same of both, whatever other prompts tell apart: that
prompt would be asked what it was chosen on. Labels do not count: the same input twice is one row.
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


def divide(job: Job, columns: Sequence[Sequence[str]], shown: int, most: int) -> Division:
    """Share the rows out, by the seed.

    Args:
        job: its tables.
        columns: those that each of the prompts uses: rows alike in them are the same row.
        shown: demonstrations, as many of each answer as can be.
        most: rows to search on.

    Raises:
        RequestError: there is no table, or none with answers.
        DataError: too few rows, or a row of both tables.
    """
    source = _source(job)
    alike = _Alike(source, columns)
    distinct = alike.firsts
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
    held_out = _held_out(job, source, used, alike)
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


class _Alike:
    """Which rows of a table are the same: alike for one of the prompts, or both alike a third one.

    Args:
        table: the rows.
        columns: of each prompt.
    """

    def __init__(self, table: Examples, columns: Sequence[Sequence[str]]) -> None:
        self._columns = list(dict.fromkeys(tuple(sorted(names)) for names in columns))
        self._before = list(range(len(table) + 1))  # a row's number -> one like it that is not behind it
        self._known: dict[tuple[str, ...], int] = {}
        for number, row in enumerate(table.rows, 1):
            for key in self._keys(row):
                one, other = sorted((self.first(self._known.setdefault(key, number)), self.first(number)))
                self._before[other] = one

    @property
    def differ(self) -> bool:
        """Whether some prompts use other columns than others."""
        return len(self._columns) > 1

    def _keys(self, row: Mapping[str, Any]) -> list[tuple[str, ...]]:
        """What each prompt says of a row; white space does not count."""
        return [
            (str(place), *(" ".join(str(row.get(name)).split()) for name in names))
            for place, names in enumerate(self._columns)
        ]

    def first(self, number: int) -> int:
        """The first row that is the same as this one."""
        while self._before[number] != number:
            self._before[number] = self._before[self._before[number]]
            number = self._before[number]
        return number

    @property
    def firsts(self) -> list[int]:
        """The first one of all that are the same, each."""
        return [number for number, before in enumerate(self._before) if number and number == before]

    def like(self, row: Mapping[str, Any]) -> int | None:
        """The first row that is the same as one of another table; None where there is none."""
        return next((self.first(self._known[key]) for key in self._keys(row) if key in self._known), None)


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


def _held_out(job: Job, source: Examples, used: Set[int], alike: _Alike) -> Part:
    """All rows of the data that nothing was chosen on.

    Raises:
        DataError: a row with an answer that is among the examples.
    """
    assert job.data is not None  # else there was no source
    numbers = range(1, len(job.data) + 1)
    if job.examples is None:
        return Part(job.data, tuple(number for number in numbers if alike.first(number) not in used))
    found = {} if job.data.task == "text" else {n: alike.like(row) for n, row in enumerate(job.data.rows, 1)}
    both = [(number, other) for number, other in found.items() if other is not None]
    if both:
        more = f" (and {len(both) - 1:,} more)" if len(both) > 1 else ""
        more += ", for one of the prompts at least" if alike.differ else ""
        raise DataError(
            f"row {both[0][0]} of {job.data.source} is also row {both[0][1]} of {source.source}{more}: "
            "prompts would be chosen on rows that are held out; take it out of one of them"
        )
    return Part(job.data, tuple(numbers))


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
