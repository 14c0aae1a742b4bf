"""Figures and tests of a comparison, next to scipy and to what can be counted by hand."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from nbadapt.data import Examples
from nbadapt.metrics import macro_f1, wilson_interval
from nbadapt.selection.figures import Measure
from nbadapt.selection.trials import Said
from nbadapt.selection.verdict import Place, front


def rows(labels):
    table = tuple({"text": f"{i}", "label": label} for i, label in enumerate(labels))
    return Examples("classification", table, tuple(sorted(set(labels))))


def said(answers, expected):
    return Said(tuple(answers), tuple(float(a == e) for a, e in zip(answers, expected, strict=True)))


def test_right_and_wrong_are_compared_by_the_exact_mcnemar_test():
    generator = np.random.default_rng(0)
    expected = generator.choice(["a", "b"], 120).tolist()
    first = [e if generator.random() < 0.9 else "c" for e in expected]
    second = [e if generator.random() < 0.75 else "c" for e in expected]
    one, other = said(first, expected), said(second, expected)
    only_one = sum(a > b for a, b in zip(one.values, other.values, strict=True))
    only_other = sum(a < b for a, b in zip(one.values, other.values, strict=True))
    wanted = stats.binomtest(only_one, only_one + only_other, 0.5).pvalue
    measure = Measure("accuracy", rows(expected))
    assert measure.chance([one], [other]) == pytest.approx(wanted)
    assert measure.interval([one]) == wilson_interval(measure.figure([one]), 120)


def test_bits_a_byte_are_compared_by_sign_flips():
    generator = np.random.default_rng(1)
    first = generator.gamma(2.0, 1.0, 60)
    second = first + generator.normal(0.15, 0.5, 60)
    table = Examples("generation", tuple({"prompt": str(i), "completion": "x"} for i in range(60)))
    measure = Measure("bits_per_byte", table)
    one, other = (Said(("",) * 60, tuple(values)) for values in (first, second))
    wanted = stats.permutation_test(
        (first, second), lambda a, b: (a - b).mean(), permutation_type="samples", n_resamples=20_000, rng=2
    ).pvalue
    assert measure.chance([one], [other]) == pytest.approx(wanted, abs=0.03)
    assert not measure.larger
    assert measure.better(0.3) > measure.better(0.4)


def test_macro_f1_is_compared_by_all_swaps_of_answers():
    expected = ["a", "a", "a", "b", "b", "c", "c", "c"]
    first, second = ["a", "a", "b", "b", "b", "c", "c", "a"], ["b", "a", "b", "c", "b", "a", "c", "c"]
    differences = []
    for swaps in itertools.product([False, True], repeat=8):
        ours = [b if swap else a for a, b, swap in zip(first, second, swaps, strict=True)]
        theirs = [a if swap else b for a, b, swap in zip(first, second, swaps, strict=True)]
        differences.append(macro_f1(ours, expected) - macro_f1(theirs, expected))
    wanted = np.mean(np.abs(differences) >= abs(differences[0]) - 1e-12)
    measure = Measure("macro_f1", rows(expected))
    assert measure.chance([said(first, expected)], [said(second, expected)]) == pytest.approx(wanted, abs=0.03)
    assert measure.figure([said(first, expected)]) == macro_f1(first, expected)


def test_several_seeds_are_a_mean_with_an_interval_of_its_own():
    expected = ["a", "b"] * 50
    seeds = [said(["a"] * 100, expected), said(expected, expected)]
    measure = Measure("accuracy", rows(expected))
    assert measure.figure(seeds) == 0.75
    low, high = measure.interval(seeds)
    assert low < 0.75 < high
    assert measure.chance(seeds, [seeds[1], seeds[1]]) < 0.001  # half of the rows lose half a point


def place(label, value, cost):
    return Place(SimpleNamespace(label=label), value, value, value, None, cost)


def test_the_pareto_front_is_what_none_beats_in_both():
    places = [place("dear", 0.9, 9.0), place("cheap", 0.7, 1.0), place("worse", 0.6, 5.0), place("open", 0.95, None)]
    measure = Measure("accuracy", rows(["a", "b"]))
    assert [p.label for p in front(places, measure) if p.front] == ["dear", "cheap"]
    loss = Measure("bits_per_byte", Examples("generation", ()))
    assert [p.label for p in front(places, loss) if p.front] == ["cheap", "worse"]
