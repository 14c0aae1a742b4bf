"""Figures of quality, with the intervals in which they may lie.

A share has Wilson's interval; other figures have the bootstrap's percentiles (Efron 1979): the figure of many tables of
n rows drawn from the n rows with replacement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

DRAWS = 2000  # tables of the bootstrap
CALLED = 200  # of them, where each calls a function that somebody wrote
CELLS = 4_000_000  # numbers drawn at once
PERCENTILES = (2.5, 97.5)


def accuracy(predicted: Sequence[object], expected: Sequence[object]) -> float:
    """Share of predictions that equal what was expected; both of length n >= 1."""
    return sum(p == e for p, e in zip(predicted, expected, strict=True)) / len(expected)


def macro_f1(predicted: Sequence[object], expected: Sequence[object]) -> float:
    """Mean of the classes' F1 scores, as scikit-learn's ``f1_score(average="macro", zero_division=0)``.

    An empty text among the predictions is no answer: always wrong, and no class of its own.
    """
    scores = []
    for name in _classes(predicted, expected):
        hits = sum(p == name and e == name for p, e in zip(predicted, expected, strict=True))
        said = sum(p == name for p in predicted)
        there = sum(e == name for e in expected)
        scores.append(2 * hits / (said + there))
    return sum(scores) / len(scores)


def _classes(predicted: Sequence[object], expected: Sequence[object]) -> list[object]:
    """All classes; not a set, because sums of floats depend on their order."""
    return list(dict.fromkeys(name for name in [*predicted, *expected] if name != ""))


def wilson_interval(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share measured on n rows (Wilson 1927)."""
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (centre - spread) / (1 + z * z / n)), min(1.0, (centre + spread) / (1 + z * z / n))


def macro_f1_interval(predicted: Sequence[object], expected: Sequence[object], seed: int) -> tuple[float, float]:
    """The 95 % interval of macro F1, by the bootstrap.

    Rows with the same prediction and expectation are the same to it, so it draws how many there are of each kind.
    """
    import numpy as np

    names = {name: i for i, name in enumerate(_classes(predicted, expected))}
    pairs = [(names.get(p, -1), names[e]) for p, e in zip(predicted, expected, strict=True)]
    cells, counts = np.unique(np.array(pairs), axis=0, return_counts=True)  # (c, 2), (c,)
    draws = np.random.default_rng(seed).multinomial(len(pairs), counts / len(pairs), DRAWS)  # (DRAWS, c)
    total, used = np.zeros(DRAWS), np.zeros(DRAWS)
    for name in range(len(names)):
        said, there = cells[:, 0] == name, cells[:, 1] == name
        hits = draws[:, said & there].sum(1)
        both = draws[:, said].sum(1) + draws[:, there].sum(1)
        total += 2 * hits / np.maximum(both, 1)
        used += both > 0  # a class that was not drawn has no score
    return _percentiles(total / used)


def mean_interval(values: Sequence[float], seed: int) -> tuple[float, float]:
    """The 95 % interval of a mean of n values, by the bootstrap."""
    import numpy as np

    generator, given = np.random.default_rng(seed), np.asarray(values, dtype=float)
    at_once = max(1, CELLS // len(given))
    means = []
    for start in range(0, DRAWS, at_once):
        rows = generator.integers(len(given), size=(min(at_once, DRAWS - start), len(given)))
        means.append(given[rows].mean(1))
    return _percentiles(np.concatenate(means))


def interval(figure: Callable[[Sequence[int]], float], n: int, seed: int) -> tuple[float, float]:
    """The 95 % interval of a figure of n rows, by the bootstrap; `figure` is given the places of the rows drawn."""
    import numpy as np

    generator = np.random.default_rng(seed)
    found = [figure(generator.integers(n, size=n).tolist()) for _ in range(CALLED)]
    return _percentiles(np.array([value for value in found if math.isfinite(value)] or [math.nan]))


def _percentiles(values: np.ndarray[Any, Any]) -> tuple[float, float]:
    import numpy as np

    low, high = np.percentile(values, PERCENTILES)
    return float(low), float(high)
