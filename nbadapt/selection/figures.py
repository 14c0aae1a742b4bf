"""The one measure of a comparison: figures with intervals, and paired tests of their differences.

::

    accuracy, exact match   Wilson's interval       exact McNemar test
    ... over several seeds  Wilson's, of the mean   sign flips of the rows' mean differences
    bits a byte             bootstrap of the rows   sign flips of the rows' differences
    macro F1                bootstrap of the rows   answers of both swapped at random rows (Noreen 1989; Yeh 2000)

Several tests at once are corrected after Holm: see `nbadapt.engines.racing.told_apart`. https://arxiv.org/abs/cs/0008005

Over several seeds a row's value is its share of right answers. Shares with the mean p vary by p (1 - p) at most (Bhatia
and Davis 2000, https://doi.org/10.1080/00029890.2000.12005203), as right and wrong do: Wilson's interval of the mean on
the n rows is never too narrow for that, does not shrink where seeds only repeat each other, and is no point where all
rows are right, as a bootstrap of the rows would be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nbadapt import metrics
from nbadapt.engines import racing

if TYPE_CHECKING:
    import numpy as np

    from nbadapt.data import Examples
    from nbadapt.selection.trials import Said

SWAPS = 2000
LABELS = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "exact_match": "exact match",
    "bits_per_byte": "bits a byte",
}


class Measure:
    """A metric on fixed rows. Figures over several seeds are means.

    Args:
        name: one of `nbadapt.selection.asked.MEASURES`.
        rows: those that were asked, for their labels; who was asked fewer was asked the first ones.
    """

    def __init__(self, name: str, rows: Examples) -> None:
        self.name, self._seed = name, 0
        self.label = LABELS[name]
        self.larger = name != "bits_per_byte"
        self._expected = [row.get("label", row.get("completion", "")) for row in rows.rows]

    def figure(self, said: Sequence[Said]) -> float:
        """The mean over the seeds of what was said."""
        return sum(self._one(each) for each in said) / len(said)

    def _one(self, said: Said) -> float:
        if self.name == "macro_f1":
            return metrics.macro_f1(said.answers, self._expected[: len(said.answers)])
        return sum(said.values) / len(said.values)

    def better(self, value: float) -> float:
        """The value turned so that larger is better."""
        return value if self.larger else -value

    def interval(self, said: Sequence[Said]) -> tuple[float, float]:
        """The 95 % interval of `figure` for other rows of this kind; that other seeds differ too is not in it.

        That is told beside it, as the lowest and the highest figure of the seeds: `nbadapt.selection.verdict.Place`.
        """
        if self.name == "macro_f1":
            if len(said) == 1:
                answers = said[0].answers
                return metrics.macro_f1_interval(answers, self._expected[: len(answers)], self._seed)
            return metrics.interval(lambda rows: self._on(said, rows), len(self._expected), self._seed)
        if self.name != "bits_per_byte":
            return metrics.wilson_interval(self.figure(said), len(said[0].values))
        return metrics.mean_interval(self._means(said), self._seed)

    def _on(self, said: Sequence[Said], rows: Sequence[int]) -> float:
        expected = [self._expected[i] for i in rows]
        return sum(metrics.macro_f1([each.answers[i] for i in rows], expected) for each in said) / len(said)

    @staticmethod
    def _means(said: Sequence[Said]) -> list[float]:
        """Each row's value, the mean over the seeds."""
        return [sum(values) / len(said) for values in zip(*(each.values for each in said), strict=True)]

    def chance(self, first: Sequence[Said], second: Sequence[Said]) -> float:
        """The two-sided p of the difference of two candidates on the same rows."""
        if self.name == "macro_f1":
            return self._swaps(first, second)
        return racing.chance(self._means(first), self._means(second), self._seed)

    def _swaps(self, first: Sequence[Said], second: Sequence[Said]) -> float:
        """The share of random swaps of the rows' answers that make so large a difference, or a larger one."""
        import numpy as np

        count = min(len(first), len(second))  # the seeds that both have
        names = list(dict.fromkeys(name for each in (*first, *second) for name in each.answers if name))
        codes = {name: i for i, name in enumerate(dict.fromkeys([*names, *self._expected]))}
        coded = [[np.array([codes.get(a, -1) for a in each.answers]) for each in said] for said in (first, second)]
        expected = np.array([codes[name] for name in self._expected])
        n = len(expected)
        generator = np.random.default_rng(self._seed)

        def difference(swaps: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            total = np.zeros(len(swaps))
            for a, b in zip(coded[0][:count], coded[1][:count], strict=True):
                total += _macro_f1(a, b, expected, swaps, len(codes)) - _macro_f1(b, a, expected, swaps, len(codes))
            return total

        (as_it_was,) = difference(np.zeros((1, n), dtype=np.int64))
        at_once = max(1, metrics.CELLS // n)
        reached = 0
        for start in range(0, SWAPS, at_once):
            swaps = generator.integers(0, 2, (min(at_once, SWAPS - start), n))
            reached += int((np.abs(difference(swaps)) >= abs(as_it_was) - 1e-12).sum())
        return (1 + reached) / (1 + SWAPS)

    def early_order(self, said: Sequence[Said]) -> list[int]:
        """The order, best first, by which weaker candidates are dropped early.

        Models that saw few rows hardly differ in how many labels they have right. Those that cannot be told apart from
        the best one (a paired test, p of 0.05, not corrected) are ordered by their log loss, where all have one.
        """
        order = sorted(range(len(said)), key=lambda i: -self.better(self.figure([said[i]])))
        losses = [each.log_loss for each in said if each.log_loss is not None]
        if len(losses) < len(said):
            return order
        alike = [i for i in order if self.chance([said[order[0]]], [said[i]]) >= racing.LEVEL]
        return sorted(alike, key=lambda i: losses[i]) + [i for i in order if i not in alike]

    def text(self, said: Said | Sequence[Said]) -> str:
        """The figure with its interval: "accuracy 0.812 (0.781 to 0.839)"."""
        many = [said] if not isinstance(said, Sequence) else list(said)
        low, high = self.interval(many)
        return f"{self.label} {self.figure(many):.3f} ({low:.3f} to {high:.3f})"


def _macro_f1(
    ours: np.ndarray[Any, Any],
    theirs: np.ndarray[Any, Any],
    expected: np.ndarray[Any, Any],
    swaps: np.ndarray[Any, Any],
    classes: int,
) -> np.ndarray[Any, Any]:
    """Macro F1 (S,) of our answers (n,), with theirs where a row is swapped: swaps (S, n); -1 is no answer."""
    import numpy as np

    total, used = np.zeros(len(swaps)), np.zeros(len(swaps))
    for name in range(classes):
        said, other, there = ((part == name).astype(int) for part in (ours, theirs, expected))
        both = said.sum() + swaps @ (other - said) + there.sum()  # (S,)
        hits = (said * there).sum() + swaps @ ((other - said) * there)
        total += 2 * hits / np.maximum(both, 1)
        used += both > 0
    return total / used
