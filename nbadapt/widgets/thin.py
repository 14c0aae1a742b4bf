"""Long series in few points: buckets that keep the extremes and the mean, so no spike is lost."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple

BLOCK = 32
EXACT = 20_000


class Bucket(NamedTuple):
    """Neighbouring points in one. A single point has low = mean = high; all are NaN where no value is finite."""

    step: int  # of the last point
    low: float
    mean: float
    high: float


def thin(points: Sequence[tuple[int, float]], most: int, first: int = 0, last: int | None = None) -> list[Bucket]:
    """Some points in at most `most` buckets of about equally many.

    Args:
        points: (step, value) in order; values may be NaN or infinite.
        most: at least 1.
        first: number of the first point.
        last: number of the one behind the last; all points where None.
    """
    points = points[first:last]
    return [_bucket(points[a:b]) for a, b in _neighbours(len(points), most)]


def _neighbours(n: int, most: int) -> list[tuple[int, int]]:
    """Where to cut n points into at most `most` parts of about equal length."""
    count = min(n, most)
    return list(pairwise([n * i // count for i in range(count + 1)])) if count else []


def _bucket(points: Sequence[tuple[int, float]]) -> Bucket:
    values = _finite([value for _, value in points])
    return _around(points[-1][0], values, values, values)


def _merged(buckets: Sequence[Bucket]) -> Bucket:
    low, mean, high = (_finite([bucket[column] for bucket in buckets]) for column in (1, 2, 3))
    return _around(buckets[-1].step, low, mean, high)


def _around(step: int, low: list[float], mean: list[float], high: list[float]) -> Bucket:
    return Bucket(step, min(low, default=math.nan), fmean(mean) if mean else math.nan, max(high, default=math.nan))


def _finite(values: list[float]) -> list[float]:
    if math.isfinite(sum(values)):  # nearly always: asking each one takes most of the time of a long history
        return values
    return [value for value in values if math.isfinite(value)]


class Blocks:
    """A long series that is gone through once: it grows in blocks of `BLOCK` points, of which a new page is told.

    The buckets of fewer than `EXACT` points are made from the points themselves.
    """

    def __init__(self) -> None:
        self._blocks: list[Bucket] = []

    def buckets(self, count: int, some: Callable[[int, int, int], list[Bucket]], most: int, told: int) -> list[Bucket]:
        """The points that were not told yet.

        Args:
            count: how many points the series has; never fewer than at the last call.
            some: gives at most so many buckets of the points from one number to another (not included).
            most: how many buckets are wanted at most; at least 1.
            told: how many points were told.
        """
        for start in range(len(self._blocks) * BLOCK, count - BLOCK + 1, BLOCK):
            self._blocks += some(1, start, start + BLOCK)
        if told or count < EXACT:
            return some(most, told, count)
        blocks = [*self._blocks, *some(1, len(self._blocks) * BLOCK, count)]
        return [_merged(blocks[a:b]) for a, b in _neighbours(len(blocks), most)]


def pack(buckets: Sequence[Bucket]) -> bytes:
    """The columns of n buckets one after another: n uint32, then 3 n float32, in the machine's byte order."""
    data = array("I", [b.step for b in buckets]).tobytes()
    for column in (1, 2, 3):
        data += array("f", [b[column] for b in buckets]).tobytes()
    return data


def smooth(buckets: Sequence[Bucket], window: float) -> list[float]:
    """Exponential moving average of the means over `window` steps, without the bias of an empty start.

    It weighs by the steps between points, so the line stays the same however the series was thinned.
    NaN buckets give NaN and do not disturb the others. dashboard.js computes the same.
    """
    total = weight = 0.0
    line: list[float] = []
    before = 2 * buckets[0].step - buckets[1].step if len(buckets) > 1 else 0
    for bucket in buckets:
        if math.isnan(bucket.mean):
            line.append(math.nan)
            continue
        keep = math.exp(-max(bucket.step - before, 0) / window) if window > 0 else 0.0
        total = keep * total + (1 - keep) * bucket.mean
        weight = keep * weight + (1 - keep)
        line.append(total / weight if weight else bucket.mean)
        before = bucket.step
    return line
