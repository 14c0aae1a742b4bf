"""Long series in few points: buckets that keep the extremes and the mean, so no spike is lost."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple


class Bucket(NamedTuple):
    """Neighbouring points in one. A single point has low = mean = high; all are NaN where no value is finite."""

    step: int  # of the last point
    low: float
    mean: float
    high: float


def thin(points: Sequence[tuple[int, float]], most: int) -> list[Bucket]:
    """The series in at most `most` buckets of about equal numbers of points.

    Args:
        points: (step, value) in order; values may be NaN or infinite.
        most: at least 1.
    """
    return [_bucket(points[a:b]) for a, b in _neighbours(len(points), most)]


def merge(buckets: Sequence[Bucket], most: int) -> list[Bucket]:
    """Finite buckets in at most `most` that hold about equal numbers of them."""
    parts = [buckets[a:b] for a, b in _neighbours(len(buckets), most)]
    return [Bucket(p[-1].step, min(b.low for b in p), fmean(b.mean for b in p), max(b.high for b in p)) for p in parts]


def _neighbours(n: int, most: int) -> list[tuple[int, int]]:
    """Where to cut n points into at most `most` parts of about equal length."""
    count = min(n, most)
    return list(pairwise([n * i // count for i in range(count + 1)])) if count else []


def _bucket(points: Sequence[tuple[int, float]]) -> Bucket:
    step = points[-1][0]
    values = [value for _, value in points if math.isfinite(value)]
    if not values:
        return Bucket(step, math.nan, math.nan, math.nan)
    return Bucket(step, min(values), fmean(values), max(values))


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
