"""Three plain sentences: what to use, why, and what would change the advice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nbadapt.selection.entry import TOO_LATE
from nbadapt.widgets.summary import duration

if TYPE_CHECKING:
    from nbadapt.selection.contest import Contest
    from nbadapt.selection.verdict import Place, Verdict

MOST_NAMED = 4
QUICKER = 2.0  # from this factor on it is worth a word
SHOWN = 0.1  # seconds: less is said to be under it


def sentences(contest: Contest, found: Verdict) -> tuple[str, ...]:
    """The advice; where nothing came to the test rows, why."""
    if found.best is None:
        return (_no_answer(contest),)
    return _what(contest, found, found.best), _why(found, found.best), _what_if(contest, found, found.best)


def _no_answer(contest: Contest) -> str:
    if contest.error is not None:
        return f"There is no answer: {contest.error}."
    if contest.state in {"stopped", "starting", "comparing"}:
        return "There is no answer yet: run the same cell again, and it goes on from here."
    needs = [entry.needs for entry in contest.entries if entry.state == TOO_LATE and entry.needs is not None]
    told = f" (the quickest of them needs about {duration(max(1, round(min(needs))))})" if needs else ""
    return (
        f"There is no answer: no candidate came through all training rows; raise the budget{told}, or see the reasons."
    )


def _what(contest: Contest, found: Verdict, best: Place) -> str:
    rows = len(contest.prepared.parts.test)
    cheaper = _cheaper_equal(found, best)
    chosen = (
        f"Use {best.label}: {found.measure.label} {best.value:.3f} (95 % interval {best.low:.3f} to {best.high:.3f}) "
        f"on {rows:,} test rows that no choice was made by"
    )
    if cheaper is None:
        return f"{chosen}."
    return f"{chosen}; {cheaper.label} cannot be told apart from it and costs {_times(best, cheaper)} less time."


def _cheaper_equal(found: Verdict, best: Place) -> Place | None:
    """The cheapest one that cannot be told apart from the best, where it is worth a word."""
    equal = [p for p in found.places if p is not best and p.cost is not None and not found.differs(p.label, best.label)]
    cheapest = min(equal, key=lambda place: place.cost or 0.0, default=None)
    if cheapest is None or best.cost is None or cheapest.cost is None or cheapest.cost * QUICKER > best.cost:
        return None
    return cheapest


def _times(best: Place, cheaper: Place) -> str:
    ratio = (best.cost or 0.0) / max(cheaper.cost or 0.0, 1e-9)
    return f"{ratio:,.0f} times" if ratio >= 10 else f"{ratio:.1f} times"


def _why(found: Verdict, best: Place) -> str:
    others = [place for place in found.places if place.label != best.label]
    beats = [place.label for place in others if place.label in found.beaten]
    better = [p.first for p in found.pairs if p.differs and p.second == best.label]
    open_ = [p.label for p in others if p.label not in beats and p.label not in better]
    parts = []
    if beats:
        parts.append(f"it beats {listed(beats)}")
    if open_:
        parts.append(f"these rows do not tell it apart from {listed(open_)}")
    if better:
        parts.append(f"on the test rows {listed(better)} did better, though not on those it was chosen by")
    told = "; ".join(parts) or "it was the only one that came through"
    tests = " (paired tests, 5 % over all pairs after Holm)" if others else ""
    cheap = best.entry.candidate.baseline and not all(place.entry.candidate.baseline for place in others)
    more = "; it is a baseline, and no other candidate did better on the rows it was chosen by" if cheap else ""
    return f"{told[0].upper()}{told[1:]}{tests}{more}."


def _what_if(contest: Contest, found: Verdict, best: Place) -> str:
    """More rows, more memory or time, or quicker answers."""
    parts = [_more_rows(contest, found)]
    left_out = contest.prepared.left_out
    large = [one.label for one in left_out if one.lacks == "memory"]
    late = [one.label for one in left_out if one.lacks == "time"]
    late += [e.label for e in contest.entries if e.state == TOO_LATE]
    parts += [
        f"with more {what} {listed(names)} could be tried"
        for what, names in (("memory", large), ("time", late))
        if names
    ]
    parts.append(_quicker(found, best))
    text = "; ".join(part for part in parts if part)
    return f"{text[0].upper()}{text[1:]}."


def _more_rows(contest: Contest, found: Verdict) -> str:
    rows = len(contest.prepared.parts.training)
    if found.rising is None:
        return "whether more rows would help was not measured"
    sign = "rose" if found.measure.larger else "fell"
    if found.rising:
        return (
            f"more rows are likely to help: from {found.few:,} to {rows:,} {found.measure.label} {sign} by "
            f"{found.gain:.3f} on the validation rows, which no chance explains (how far it would go on is not "
            "extrapolated)"
        )
    return f"more rows of this kind may change little: from {found.few:,} to {rows:,} no gain could be told from chance"


def _quicker(found: Verdict, best: Place) -> str:
    """The quickest answers of those that are not the best."""
    costs = {p.label: p.entry.last.costs.get("inference") for p in found.places if p.entry.last is not None}
    ours = costs.get(best.label)
    known = [(seconds, p) for p in found.places if (seconds := costs.get(p.label)) and _is_of_use(found, p)]
    if not ours or not known:
        return ""
    seconds, place = min(known, key=lambda pair: pair[0])
    if place.label == best.label or seconds * QUICKER > ours:
        return f"{best.label} is also among the quickest to answer"
    takes = duration(seconds) if seconds >= SHOWN else f"under {SHOWN:g} s"
    return (
        f"where answers must be quick, {place.label} takes {takes} for 1,000 instead of {duration(ours)}, "
        f"at {found.measure.label} {place.value:.3f} instead of {best.value:.3f}"
    )


def _is_of_use(found: Verdict, place: Place) -> bool:
    """Whether it is the advised one, or beats another one: what beats nothing is quick to no purpose."""
    best = found.best is not None and place.label == found.best.label
    return best or any(pair.differs and pair.first == place.label for pair in found.pairs)


def listed(names: Sequence[str], most: int = MOST_NAMED) -> str:
    """Names in a sentence, the first few of them."""
    shown = [*names[:most], *([f"{len(names) - most} more"] if len(names) > most else [])]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
