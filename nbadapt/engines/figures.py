"""What a table of answers is worth: figures with their 95 % intervals, the user's own one among them."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from nbadapt import metrics
from nbadapt.cells import brief
from nbadapt.errors import RequestError, first_line, in_line

if TYPE_CHECKING:
    from nbadapt.method import OwnMetric

TAKEN = ("accuracy", "exact_match", "macro_f1", "majority", "rows")


def of_answers(
    answers: Sequence[str], expected: Sequence[str], right: Sequence[bool], *, classes: bool, seed: int
) -> dict[str, float]:
    """The share of right answers; for classes also macro F1 and the majority's share.

    Args:
        answers: n >= 1 answers.
        expected: what they should be.
        right: whether each is right.
        classes: whether they are a choice of a few.
        seed: of the bootstrap.
    """
    n, name = len(answers), "accuracy" if classes else "exact_match"
    share = sum(right) / n
    low, high = metrics.wilson_interval(share, n)
    figures = {name: share, f"{name}_low": low, f"{name}_high": high, "rows": n}
    if classes:
        wanted = [text.strip() for text in expected]
        figures["macro_f1"] = metrics.macro_f1(answers, wanted)
        figures["macro_f1_low"], figures["macro_f1_high"] = metrics.macro_f1_interval(answers, wanted, seed)
        figures["majority"] = max(Counter(wanted).values()) / n
    return figures


def of_own(metric: OwnMetric, answers: Sequence[str], expected: Sequence[str], seed: int) -> dict[str, float]:
    """What the user's function says of n answers, and its interval.

    Raises:
        RequestError: it fails, or gives neither a number nor one for each row; or none that is finite.
    """
    value = called(metric, answers, expected)
    if isinstance(value, list):
        low, high = metrics.mean_interval(value, seed)
        found = sum(value) / len(value)
    else:
        found = value

        def drawn(rows: Sequence[int]) -> float:
            again = called(metric, [answers[i] for i in rows], [expected[i] for i in rows])
            return again if isinstance(again, float) else math.nan

        low, high = metrics.interval(drawn, len(answers), seed)
    if not all(map(math.isfinite, (found, low, high))):
        raise RequestError(f"the metric {metric.name} gave {found:g}: a figure must be finite")
    return {metric.name: found, f"{metric.name}_low": low, f"{metric.name}_high": high}


def check(metric: OwnMetric, expected: Sequence[str]) -> None:
    """Try the user's function before anything is asked: it gets the right answers as answers.

    Raises:
        RequestError: it does not take two lists, fails, or gives no numbers.
    """
    if any(metric.name == name or metric.name in (f"{name}_low", f"{name}_high") for name in TAKEN):
        raise RequestError(f"the metric {metric.name} has the name of a figure that there is anyway: name it otherwise")
    try:
        inspect.signature(metric.function).bind((), ())
    except TypeError:
        raise RequestError(
            f"the metric {metric.name} must take two lists, as  def {metric.name}(answers, expected)"
        ) from None
    except ValueError:
        pass  # a function of C that does not tell what it takes
    called(metric, expected, expected)


def called(metric: OwnMetric, answers: Sequence[str], expected: Sequence[str]) -> float | list[float]:
    """What the user's function says of n answers: a number, or one for each row.

    Raises:
        RequestError: it fails, or gives anything else; names the line of the function.
    """
    try:
        said: Any = metric.function(list(answers), list(expected))
    except Exception as error:  # noqa: BLE001 - whatever somebody's function raises becomes one line
        reason = f"{type(error).__name__}: {first_line(error)}{in_line(error, metric.function)}"
        raise RequestError(f"the metric {metric.name} failed: {reason}") from None
    said = said.item() if getattr(said, "shape", None) == () else said  # of NumPy or torch
    if isinstance(said, Real):
        return float(said)
    try:
        rows = [float(value) for value in said]
    except (TypeError, ValueError):
        rows = []
    if len(rows) != len(answers) or isinstance(said, str):
        raise RequestError(
            f"the metric {metric.name} gave {brief(said)} for {len(answers):,} rows: it must give a number, or a list "
            "of one number a row"
        )
    return rows
