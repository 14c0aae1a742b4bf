"""A series of any length in few buckets, kept so while it grows; no extreme is lost.

::

    points   . . . . . . . .      every bucket takes `width` neighbours;
    width 1  o o o o o o o o      at 2 x MOST buckets every two become one,
    width 2  o   o   o   o        and `width` doubles
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from nbadapt.widgets.thin import Bucket

MOST = 700  # buckets that are always kept; there are up to twice as many


class Curve:
    """Buckets of a growing series; `add` takes the points in order."""

    def __init__(self) -> None:
        self.width = 1  # points of a full bucket
        self._rows: list[list[float]] = []  # last step, points, finite points, their sum, lowest, highest

    def __len__(self) -> int:
        """How many points came in; those that were taken back do not count."""
        return int(sum(row[1] for row in self._rows))

    def add(self, step: int, value: float) -> None:
        """Take in one point; its value may be NaN or infinite."""
        rows = self._rows
        if not rows or rows[-1][1] >= self.width:
            if len(rows) >= 2 * MOST:
                self._halve()
            rows.append([step, 0, 0, 0.0, math.inf, -math.inf])
        row = rows[-1]
        row[0] = step
        row[1] += 1
        if math.isfinite(value):
            row[2] += 1
            row[3] += value
            row[4] = min(row[4], value)
            row[5] = max(row[5], value)

    def _halve(self) -> None:
        self._rows[:] = [_merged(self._rows[i : i + 2]) for i in range(0, len(self._rows), 2)]
        self.width *= 2

    def forget_after(self, step: int) -> None:
        """Take back the points after a step: a run was resumed there. Of a bucket on both sides nothing stays."""
        while self._rows and self._rows[-1][0] > step:
            self._rows.pop()

    def buckets(self, most: int) -> list[Bucket]:
        """The series in at most `most` buckets of about equal numbers of points."""
        rows = self._rows
        count = min(len(rows), most)
        edges = [len(rows) * i // count for i in range(count + 1)] if count else [0]
        return [_bucket(_merged(rows[a:b])) for a, b in pairwise(edges)]

    def record(self) -> list[object]:
        """A JSON-able form; infinities, of buckets without a finite value, are left out."""
        return [self.width, [row[:2] if not row[2] else row for row in self._rows]]

    @classmethod
    def of(cls, record: Sequence[object]) -> Curve:
        """The curve that `record` told.

        Raises:
            ValueError, TypeError: no such record.
        """
        curve = cls()
        width, rows = record
        if not isinstance(width, int) or not isinstance(rows, list):
            raise TypeError("no record of a curve")
        curve.width = width
        for row in rows:
            if len(row) not in {2, 6}:
                raise ValueError("no record of a bucket")
            curve._rows.append(
                [*map(float, row)] if len(row) > 2 else [*map(float, row), 0.0, 0.0, math.inf, -math.inf]
            )
        return curve


def _merged(rows: list[list[float]]) -> list[float]:
    if len(rows) == 1:
        return rows[0]
    return [
        rows[-1][0],
        sum(row[1] for row in rows),
        sum(row[2] for row in rows),
        math.fsum(row[3] for row in rows),
        min(row[4] for row in rows),
        max(row[5] for row in rows),
    ]


def _bucket(row: list[float]) -> Bucket:
    if not row[2]:
        return Bucket(int(row[0]), math.nan, math.nan, math.nan)
    return Bucket(int(row[0]), row[4], row[3] / row[2], row[5])
