"""Figures of quality against scikit-learn and SciPy."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score

from nbadapt.metrics import accuracy, macro_f1, wilson_interval


@pytest.mark.parametrize("seed", range(5))
def test_accuracy_and_f1_equal_scikit_learns(seed):
    draw = random.Random(seed)
    predicted = draw.choices("abcd", k=40)
    expected = draw.choices("abc", k=40)
    assert accuracy(predicted, expected) == pytest.approx(accuracy_score(expected, predicted))
    assert macro_f1(predicted, expected) == pytest.approx(
        f1_score(expected, predicted, average="macro", zero_division=0)
    )


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (10, 10), (7, 12), (812, 1066)])
def test_the_wilson_interval_equals_scipys(hits, n):
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson_interval(hits / n, n) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_f1_is_the_same_to_the_last_digit_in_every_process():
    """A set of texts has another order in each."""
    code = (
        "import random; from nbadapt.metrics import macro_f1; draw = random.Random(0)\n"
        "names = [f'class {i}' for i in range(12)]\n"
        "print(*(repr(macro_f1(draw.choices(names, k=97), draw.choices(names, k=97))) for _ in range(20)))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        ).stdout
        for seed in "1234"
    }  # fmt: skip
    assert len(said) == 1
