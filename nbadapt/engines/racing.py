"""Which of several candidates is best on rows that all may be tried on, and whether that can be told.

::

    all k on the first rows ──> the better half on twice as many ──> ... ──> the last ones on all n rows

    successive halving (Karnin et al. 2013, https://proceedings.mlr.press/v28/karnin13.html;
    Jamieson and Talwalkar 2016, https://arxiv.org/abs/1502.07943)
    round r of R, from 0:   k / 2^r candidates,   n / 2^(R-1-r) rows;   rounded up; R is at most log2 k, rounded up

    exact McNemar test: of the d rows where only one of two is right, b are the first one's; b ~ Binomial(d, 1/2)
    sign flips: the mean difference of n rows among those with every row's sign drawn anew
    Holm 1979: of m tests the one with the i-th smallest p, from 0, counts below 0.05 / (m - i), if those before do

What a race costs is known before it starts: how many candidates are left in a round does not depend on their scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from nbadapt import metrics

T = TypeVar("T")
LEVEL = 0.05  # of the tests
FLIPS = 4000  # drawn signs


@dataclass(frozen=True)
class RaceRound:
    """One round of a race: so many candidates have seen so many rows at its end, those of earlier rounds included."""

    candidates: int
    rows: int


def schedule(candidates: int, rows: int, first: int) -> tuple[RaceRound, ...]:
    """The rounds of a race; one round where there is nothing to gain.

    Args:
        candidates: how many start.
        rows: n, on which the last ones are compared.
        first: the fewest rows in the first round; each round has twice as many as the one before.
    """
    doublings = int(math.log2(rows / first)) if rows >= 2 * first else 0
    count = min(math.ceil(math.log2(max(2, candidates))), 1 + doublings)
    return tuple(RaceRound(-(-candidates // 2**r), -(-rows // 2 ** (count - 1 - r))) for r in range(count))


def cost(rounds: Sequence[RaceRound], seen: int = 0) -> int:
    """How many rows are asked in a race, over all candidates, each of which has seen the first `seen` rows already."""
    ends = [seen, *(each.rows for each in rounds)]
    return sum(each.candidates * (b - a) for each, (a, b) in zip(rounds, pairwise(ends), strict=True))


def race(
    candidates: Sequence[T],
    rounds: Sequence[RaceRound],
    try_on: Callable[[Sequence[T], int, int], None],
    ranked: Callable[[Sequence[T]], list[T]],
    seen: int = 0,
) -> list[T]:
    """Run a race; the candidates of its last round, best first.

    Args:
        candidates: those that start; fewer than the first round has places for are all in.
        rounds: of `schedule`.
        try_on: asks candidates the rows from one place to another one.
        ranked: puts candidates that have seen the same rows in order, best first.
        seen: how many rows all have seen already.
    """
    left = list(candidates)
    for each in rounds:
        left = left[: each.candidates]
        try_on(left, seen, each.rows)
        left, seen = ranked(left), each.rows
    return left


# ------------------------------------------------------------------------------------------------ telling apart


def mcnemar(first: Sequence[float], second: Sequence[float]) -> float:
    """The two-sided p of the exact McNemar test: that two of the same quality differ so much or more on these rows.

    Args:
        first: 1 for right and 0 for wrong, of n rows.
        second: the same of another candidate, on the same rows.
    """
    only_first = sum(a > b for a, b in zip(first, second, strict=True))
    differ = only_first + sum(a < b for a, b in zip(first, second, strict=True))
    fewer = min(only_first, differ - only_first)
    tail = sum(math.comb(differ, i) for i in range(fewer + 1))
    return min(1.0, 2 * tail / (1 << differ))


def sign_flips(first: Sequence[float], second: Sequence[float], seed: int) -> float:
    """The two-sided p of the mean difference of two candidates on the same n rows, by drawing the rows' signs."""
    import numpy as np

    difference = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)  # (n,)
    if not difference.any():
        return 1.0
    generator = np.random.default_rng(seed)
    at_once = max(1, metrics.CELLS // len(difference))
    reached = 0
    for start in range(0, FLIPS, at_once):
        signs = generator.integers(0, 2, size=(min(at_once, FLIPS - start), len(difference))) * 2 - 1
        reached += int((np.abs(signs @ difference) >= abs(difference.sum()) * (1 - 1e-9)).sum())
    return (1 + reached) / (1 + FLIPS)


def chance(first: Sequence[float], second: Sequence[float], seed: int) -> float:
    """The p of two candidates' values on the same rows: McNemar's for right and wrong, of sign flips for others.

    Args:
        first: a number for each of n rows.
        second: the same of another candidate, on the same rows.
        seed: of the signs.
    """
    if {*first, *second} <= {0.0, 1.0}:
        return mcnemar(first, second)
    return sign_flips(first, second, seed)


def told_apart(chances: Sequence[float]) -> list[bool]:
    """Which of m tests count, so that with 95 % none does by chance (Holm 1979).

    Args:
        chances: the p of each test, for tests that were fixed before the rows were seen.

    Returns:
        m truth values, in the order of the tests.
    """
    counts = [False] * len(chances)
    for i, place in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        if chances[place] > LEVEL / (len(chances) - i):
            break
        counts[place] = True
    return counts
