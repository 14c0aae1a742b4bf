"""Races between candidates, against trying all of them on all rows; tests of pairs, against closed forms."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

from nbadapt.engines import racing
from nbadapt.engines.racing import RaceRound, chance, cost, mcnemar, race, schedule, sign_flips, told_apart
from nbadapt.metrics import wilson_interval

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize(
    ("candidates", "rows", "first", "rounds", "asked"),
    [
        (8, 200, 40, [(8, 50), (4, 100), (2, 200)], 400 + 200 + 200),
        (8, 100, 40, [(8, 50), (4, 100)], 400 + 200),
        (8, 79, 40, [(8, 79)], 8 * 79),  # less than twice the first rows: no race
        (5, 400, 40, [(5, 100), (3, 200), (2, 400)], 500 + 300 + 400),
        (2, 1000, 40, [(2, 1000)], 2000),
        (1, 10, 10, [(1, 10)], 10),
        (3, 101, 20, [(3, 51), (2, 101)], 153 + 100),
    ],
)
def test_rounds_halve_the_candidates_and_double_the_rows(
    candidates: int, rows: int, first: int, rounds: list[tuple[int, int]], asked: int
) -> None:
    found = schedule(candidates, rows, first)
    assert found == tuple(RaceRound(*each) for each in rounds)
    assert cost(found) == asked
    assert found[-1].rows == rows
    assert all(each.rows >= min(first, rows) for each in found)


def test_rows_that_were_seen_cost_nothing() -> None:
    assert cost((RaceRound(4, 50), RaceRound(2, 100)), 20) == 4 * 30 + 2 * 50


class Scorer:
    """Candidates that are right on a row with chances of their own; rows are of different difficulty for all."""

    def __init__(self, chances: Sequence[float], rows: int, seed: int) -> None:
        generator = random.Random(seed)
        shared = [generator.random() for _ in range(rows)]
        self.right = [[generator.random() < c if i % 2 else shared[i] < c for i in range(rows)] for c in chances]
        self.seen = [0] * len(chances)
        self.asked = 0

    def ask(self, candidates: Sequence[int], start: int, stop: int) -> None:
        assert {self.seen[candidate] for candidate in candidates} == {start}
        for candidate in candidates:
            self.seen[candidate] = stop
            self.asked += stop - start

    def ranked(self, left: Sequence[int]) -> list[int]:
        assert len({self.seen[each] for each in left}) == 1  # they have seen the same rows
        return sorted(left, key=lambda each: -sum(self.right[each][: self.seen[each]]))


def test_the_best_candidate_survives_the_race() -> None:
    chances, rows = [0.6, 0.55, 0.85, 0.65, 0.5, 0.6, 0.7, 0.45], 200
    rounds = schedule(len(chances), rows, 40)
    survived = won = exhaustive = 0
    for seed in range(200):
        scorer = Scorer(chances, rows, seed)
        left = race(range(len(chances)), rounds, scorer.ask, scorer.ranked)
        survived += 2 in left
        won += left[0] == 2
        totals = [sum(right) for right in scorer.right]
        exhaustive += totals[2] == max(totals)
        assert scorer.asked == cost(rounds) == len(chances) * rows / 2
    assert survived >= 195
    assert won >= 190
    assert won >= exhaustive - 6  # half the answers, and hardly ever another winner


def test_a_race_with_fewer_than_planned_takes_them_all() -> None:
    scorer = Scorer([0.2, 0.9], 100, 0)
    assert race([0, 1], (RaceRound(4, 50), RaceRound(2, 100)), scorer.ask, scorer.ranked)[0] == 1
    assert scorer.asked == 200


# ---------------------------------------------------------------------------------------------- telling apart


@pytest.mark.parametrize(
    ("only_first", "only_second", "same"), [(0, 0, 5), (6, 0, 10), (5, 3, 2), (3, 14, 0), (1, 1, 1)]
)
def test_mcnemar_is_the_binomial_test_of_the_rows_that_differ(only_first: int, only_second: int, same: int) -> None:
    first = [1.0] * only_first + [0.0] * only_second + [1.0] * same
    second = [0.0] * only_first + [1.0] * only_second + [1.0] * same
    differ = only_first + only_second
    expected = stats.binomtest(only_first, differ, 0.5).pvalue if differ else 1.0
    assert mcnemar(first, second) == pytest.approx(expected)
    assert mcnemar(second, first) == mcnemar(first, second) == chance(first, second, 0)


def test_mcnemar_by_hand() -> None:
    assert mcnemar([1, 1, 1, 1, 1, 1], [0] * 6) == 2 / 64
    assert mcnemar([1, 1, 1, 0], [0, 0, 0, 1]) == pytest.approx(2 * (1 + 4) / 16)


def test_sign_flips_are_close_to_all_flips() -> None:
    generator = random.Random(0)
    first = [generator.gauss(0.4, 1) for _ in range(12)]
    second = [generator.gauss(0, 1) for _ in range(12)]
    difference = [a - b for a, b in zip(first, second, strict=True)]
    reached = [
        abs(sum(sign * d for sign, d in zip(signs, difference, strict=True))) >= abs(sum(difference)) - 1e-9
        for signs in itertools.product((-1, 1), repeat=12)
    ]
    exact = sum(reached) / len(reached)
    assert sign_flips(first, second, 1) == pytest.approx(exact, abs=4 * (exact * (1 - exact) / racing.FLIPS) ** 0.5)
    assert sign_flips(first, first, 1) == 1.0
    assert chance(first, second, 1) == sign_flips(first, second, 1)


@pytest.mark.parametrize(
    ("chances", "apart"),
    [
        ([], []),
        ([0.04], [True]),
        ([0.04, 0.03], [False, False]),  # 0.03 > 0.05 / 2
        ([0.04, 0.02], [True, True]),  # 0.02 <= 0.05 / 2, 0.04 <= 0.05
        ([0.01, 0.04, 0.03, 0.005], [True, False, False, True]),  # Holm's own example
    ],
)
def test_several_tests_count_as_holm_says(chances: list[float], apart: list[bool]) -> None:
    assert told_apart(chances) == apart


def test_equal_candidates_are_seldom_told_apart() -> None:
    wrong = 0
    for seed in range(200):
        generator = random.Random(seed)
        rows = [[float(generator.random() < 0.7) for _ in range(60)] for _ in range(4)]
        wrong += any(told_apart([mcnemar(rows[0], other) for other in rows[1:]]))
    assert wrong <= 10  # at most 5 % of 200


def test_the_interval_of_a_share_by_hand() -> None:
    z, n, share = 1.96, 40, 0.7
    centre, spread = share + z * z / (2 * n), z * (share * 0.3 / n + z * z / (4 * n * n)) ** 0.5
    expected = ((centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n))
    assert wilson_interval(share, n) == pytest.approx(expected)
    reference = stats.binomtest(28, 40).proportion_ci(method="wilson")
    assert wilson_interval(share, n) == pytest.approx((reference.low, reference.high), abs=1e-4)
