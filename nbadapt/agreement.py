"""How far raters agree with each other, and with themselves; what they choose by place; which model they prefer.

::

    p_o = share of pairs that both judged alike                        raw agreement
    p_e = sum over verdicts v of share_a(v) * share_b(v)               what chance alone gives
    kappa = (p_o - p_e) / (1 - p_e)                                    Cohen 1960

Verdicts are compared whatever the order in which the answers were shown: they are a tie, or the place of the chosen
answer when the texts are sorted. Skipped pairs do not count. https://doi.org/10.1177/001316446002000104
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbadapt.metrics import wilson_interval
from nbadapt.tables import Page, Table

if TYPE_CHECKING:
    from nbadapt.preferences import Preferences, Vote

TIE = -1


@dataclass(frozen=True)
class Pass:
    """One pass of one rater over some pairs.

    Attributes:
        votes: pair -> the last choice about it; skips among them.
    """

    rater: str
    turn: int
    votes: dict[str, Vote]

    @property
    def name(self) -> str:
        """Such as "ann" or, of a further pass, "ann, pass 2"."""
        return self.rater if self.turn == 1 else f"{self.rater}, pass {self.turn}"

    def count(self, verdict: str) -> int:
        """How many pairs were judged so."""
        return sum(vote.verdict == verdict for vote in self.votes.values())

    @property
    def left(self) -> tuple[int, int]:
        """Of the comparisons of two answers with a better one: how often that was the left one, and of how many."""
        told = [vote.place for vote in self.votes.values() if vote.place is not None and len(vote.answers) == 2]
        return told.count(0), len(told)


@dataclass(frozen=True)
class Agreement:
    """Two passes over the same pairs.

    Attributes:
        pairs: how many both judged.
        same: how many of those alike.
        kappa: Cohen's; None where both gave one and the same verdict throughout, which leaves it undefined.
    """

    first: Pass
    second: Pass
    pairs: int
    same: int
    kappa: float | None


def passes(votes: Sequence[Vote]) -> list[Pass]:
    """The votes by rater and pass, in the order in which these began."""
    found: dict[tuple[str, int], dict[str, Vote]] = {}
    for vote in votes:
        found.setdefault((vote.rater, vote.turn), {})[vote.pair] = vote
    return [Pass(rater, turn, judged) for (rater, turn), judged in found.items()]


def agreements(votes: Sequence[Vote]) -> list[Agreement]:
    """Every two passes that have judged pairs in common."""
    found = (_compared(a, b) for a, b in itertools.combinations(passes(votes), 2))
    return [agreement for agreement in found if agreement.pairs]


def _compared(first: Pass, second: Pass) -> Agreement:
    ours, theirs = _verdicts(first), _verdicts(second)
    common = [pair for pair in ours if pair in theirs]
    a, b = [ours[pair] for pair in common], [theirs[pair] for pair in common]
    same = sum(x == y for x, y in zip(a, b, strict=True))
    return Agreement(first, second, len(common), same, cohen_kappa(a, b) if common else None)


def _verdicts(judged: Pass) -> dict[str, int]:
    return {pair: verdict(vote) for pair, vote in judged.votes.items() if vote.verdict != "skip"}


def verdict(vote: Vote) -> int:
    """The place of the chosen answer among the sorted ones, or `TIE`."""
    return TIE if vote.best is None else sorted(vote.answers).index(vote.best)


def cohen_kappa(first: Sequence[int], second: Sequence[int]) -> float | None:
    """Agreement beyond chance of two lists of n >= 1 verdicts; None where both hold one and the same throughout."""
    n = len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    ours, theirs = Counter(first), Counter(second)
    expected = sum(ours[v] * theirs[v] for v in ours) / n**2
    return None if expected == 1 else (observed - expected) / (1 - expected)


def wins(votes: Sequence[Vote]) -> list[tuple[str, int, int]]:
    """Each model: how many comparisons with another one it won, and in how many it took part; skips left out."""
    won: Counter[str] = Counter()
    there: Counter[str] = Counter()
    for vote in votes:
        if vote.verdict == "skip" or len(set(vote.models)) < 2:
            continue
        there.update(dict.fromkeys(vote.models, 1))
        if vote.place is not None:
            won[vote.models[vote.place]] += 1
    return [(model, won[model], count) for model, count in there.most_common() if model]


# ------------------------------------------------------------------------------------------------ shown


def share(part: int, n: int) -> str:
    """A share with its 95 % interval: "62 % (45 to 77 %) of 29"."""
    if not n:
        return ""
    low, high = wilson_interval(part / n, n)
    return f"{100 * part / n:.0f} % ({100 * low:.0f} to {100 * high:.0f} %) of {n:,}"


def kappa_text(agreement: Agreement) -> str:
    """Kappa with two digits, or why there is none."""
    return "undefined (always one verdict)" if agreement.kappa is None else f"{agreement.kappa:.2f}"


def agreement_lines(votes: Sequence[Vote]) -> list[str]:
    """One line for every two passes with pairs in common."""
    return [
        f"{a.first.name} and {a.second.name}: {a.same:,} of {a.pairs:,} alike "
        f"({100 * a.same / a.pairs:.0f} %), Cohen's kappa {kappa_text(a)}"
        for a in agreements(votes)
    ]


def page(preferences: Preferences) -> Page:
    """All of it as a page; it names the models."""
    votes = preferences.votes
    raters = Table(
        passes(votes),
        {
            "rater": lambda p: p.name,
            "pairs": lambda p: f"{len(p.votes):,}",
            "choices": lambda p: f"{p.count('best'):,}",
            "ties": lambda p: f"{p.count('tie'):,}",
            "skipped": lambda p: f"{p.count('skip'):,}",
            "left chosen": lambda p: share(*p.left),
        },
        empty="Nobody has ranked yet.",
    )
    compared = Table(
        agreements(votes),
        {
            "between": lambda a: f"{a.first.name} and {a.second.name}",
            "pairs": lambda a: f"{a.pairs:,}",
            "alike": lambda a: share(a.same, a.pairs),
            "Cohen's kappa": kappa_text,
        },
        empty="No pair was judged twice: --again or another --rater does that.",
    )
    models = Table(
        wins(preferences.counting()),
        {"model": lambda w: w[0], "won": lambda w: share(w[1], w[2])},
        empty="No two models were compared.",
    )
    title = f"{preferences.name}: {len(preferences):,} preferences in {preferences.path.name}"
    return Page(title, raters, compared, models)
