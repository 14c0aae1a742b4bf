"""Figures of quality for classification and for intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence


def accuracy(predicted: Sequence[object], expected: Sequence[object]) -> float:
    """Share of predictions that equal what was expected; both of length n >= 1."""
    return sum(p == e for p, e in zip(predicted, expected, strict=True)) / len(expected)


def macro_f1(predicted: Sequence[object], expected: Sequence[object]) -> float:
    """Mean of the classes' F1 scores, as scikit-learn's ``f1_score(average="macro", zero_division=0)``.

    A prediction of None names no class: it is wrong, and makes no class of its own.
    """
    scores = []
    for name in dict.fromkeys([*predicted, *expected]):  # not a set: sums of floats depend on their order
        if name is None:
            continue
        hits = sum(p == name and e == name for p, e in zip(predicted, expected, strict=True))
        said = sum(p == name for p in predicted)
        there = sum(e == name for e in expected)
        scores.append(2 * hits / (said + there))
    return sum(scores) / len(scores)


def wilson_interval(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share measured on n rows (Wilson 1927)."""
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (centre - spread) / (1 + z * z / n)), min(1.0, (centre + spread) / (1 + z * z / n))
