"""What the figures of a comparison allow to say: who beats whom, who is on the Pareto front, what to use and why.

"Beats" is said only where a paired test on the test rows holds at 5 % after Holm's correction over all pairs that are
compared. The best is chosen on the validation rows, among equals by its cost: the test rows choose nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from nbadapt.engines.racing import LEVEL, told_apart
from nbadapt.selection.figures import Measure

if TYPE_CHECKING:
    from nbadapt.selection.contest import Contest
    from nbadapt.selection.entry import Entry


@dataclass(frozen=True)
class Pair:
    """Two candidates on the same test rows.

    Attributes:
        first: the label of the one with the better figure.
        second: that of the other one.
        difference: of the figures, not negative.
        chance: the p of the paired test.
        differs: whether that counts after the correction.
    """

    first: str
    second: str
    difference: float
    chance: float
    differs: bool


@dataclass(frozen=True)
class Place:
    """A candidate's figure on the test rows.

    Attributes:
        entry: the candidate and what was tried of it.
        value: the metric.
        low: the lower end of its 95 % interval.
        high: the upper end.
        seeds: the lowest and the highest figure of its seeds; None of a single one.
        cost: seconds to make it and to have a thousand answers; None where one of the two is unknown.
        front: whether none is both cheaper and better.
    """

    entry: Entry
    value: float
    low: float
    high: float
    seeds: tuple[float, float] | None
    cost: float | None
    front: bool = False

    @property
    def label(self) -> str:
        """The candidate's name."""
        return self.entry.label


@dataclass(frozen=True)
class Verdict:
    """All of it.

    Attributes:
        measure: the metric on the test rows.
        places: best first on the test rows.
        pairs: every two of them.
        best: the one to use, chosen on the validation rows; None where nothing came to the test rows.
        rising: whether the best one gained from its last growth of rows; None: not known.
        few: training rows before that growth.
        gain: of the metric by that growth, on the validation rows.
        beaten: labels of those that the best one beats.
    """

    measure: Measure
    places: tuple[Place, ...] = ()
    pairs: tuple[Pair, ...] = ()
    best: Place | None = None
    rising: bool | None = None
    few: int = 0
    gain: float = 0.0
    beaten: tuple[str, ...] = field(default=())

    def differs(self, one: str, other: str) -> bool:
        """Whether two candidates can be told apart."""
        return any(pair.differs for pair in self.pairs if {pair.first, pair.second} == {one, other})

    def beats(self, one: str, other: str) -> bool:
        """Whether the first of two candidates is the better one, as far as the test rows show."""
        return any(p.differs and (p.first, p.second) == (one, other) for p in self.pairs)

    def unbeaten(self, label: str) -> tuple[str, ...] | None:
        """The baselines that a candidate does not beat, best first; None of a baseline and of one without a figure."""
        ours = next((place for place in self.places if place.label == label), None)
        if ours is None or ours.entry.candidate.baseline:
            return None
        cheap = (place.label for place in self.places if place.entry.candidate.baseline)
        return tuple(other for other in cheap if not self.beats(label, other))


def verdict(contest: Contest) -> Verdict:
    """What the figures say so far."""
    prepared = contest.prepared
    measure = Measure(prepared.metric, prepared.parts.test)
    finalists = [entry for entry in contest.entries if entry.test]
    if not finalists:
        return Verdict(measure)
    places = [_place(measure, entry) for entry in finalists]
    places = front(places, measure)
    best = min(places, key=lambda place: preference(contest, place.entry)).label
    places.sort(key=lambda place: -measure.better(place.value))
    chosen = next(place for place in places if place.label == best)
    pairs = _pairs(measure, places)
    beaten = tuple(pair.second for pair in pairs if pair.differs and pair.first == chosen.label)
    found = Verdict(measure, tuple(places), pairs, chosen, beaten=beaten)
    return _with_curve(contest, found)


def preference(contest: Contest, entry: Entry) -> tuple[float, float, float]:
    """A sort key without the test rows: the validation figure, and among equals the cheaper one to make and to keep."""
    costs = entry.last.costs if entry.last is not None else {}
    unknown = float("inf")
    return (
        -contest.measure.better(_validated(contest, entry)),
        costs.get("seconds", unknown),
        costs.get("trainable", unknown),
    )


def _validated(contest: Contest, entry: Entry) -> float:
    rows = len(contest.prepared.parts.training)
    return contest.measure.figure([trial.said for trial in entry.full(rows) if trial.said is not None])


def _place(measure: Measure, entry: Entry) -> Place:
    low, high = measure.interval(entry.test)
    each = [measure.figure([said]) for said in entry.test]
    last = entry.last
    costs = last.costs if last is not None else {}
    making, using = costs.get("seconds"), costs.get("inference")
    cost = making + using if making is not None and using is not None else None
    return Place(entry, measure.figure(entry.test), low, high, (min(each), max(each)) if len(each) > 1 else None, cost)


def front(places: Sequence[Place], measure: Measure) -> list[Place]:
    """The places, with those marked that no other one beats in quality and cost at once (Pareto)."""

    def beats(a: Place, b: Place) -> bool:
        if a.cost is None or b.cost is None:
            return False
        ours, theirs = measure.better(a.value), measure.better(b.value)
        return a.cost <= b.cost and ours >= theirs and (a.cost < b.cost or ours > theirs)

    return [
        replace(one, front=one.cost is not None and not any(beats(other, one) for other in places)) for one in places
    ]


def _pairs(measure: Measure, places: Sequence[Place]) -> tuple[Pair, ...]:
    """Every two candidates, the better one first."""
    found = list(itertools.combinations(places, 2))
    chances = [measure.chance(a.entry.test, b.entry.test) for a, b in found]
    return tuple(
        Pair(a.label, b.label, abs(a.value - b.value), p, counts)
        for (a, b), p, counts in zip(found, chances, told_apart(chances), strict=True)
    )


def _with_curve(contest: Contest, found: Verdict) -> Verdict:
    """Whether the best one gained from more rows: a paired test on the validation rows between its last two rungs."""
    assert found.best is not None  # there is somebody
    entry = found.best.entry
    if entry.candidate.prompts or entry.candidate.baseline:
        return found
    seed = entry.trials[0].seed
    points = sorted((t for t in entry.trials if t.seed == seed and t.said is not None), key=lambda t: t.rows)
    if len(points) < 2:
        return found
    before, after = points[-2], points[-1]
    assert before.said is not None and after.said is not None  # noqa: PT018 - as chosen above
    measure = contest.measure
    gain = measure.better(measure.figure([after.said])) - measure.better(measure.figure([before.said]))
    rising = gain > 0 and measure.chance([after.said], [before.said]) <= LEVEL
    return replace(found, rising=rising, few=before.rows, gain=gain)
