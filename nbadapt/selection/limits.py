"""What a budget and this machine have room for, told before anything is loaded.

What nobody can tell refuses nothing: a candidate without an estimate, or without a rough time, is tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nbadapt import plan
from nbadapt.errors import OutOfMemoryError, RequestError
from nbadapt.memory import gibibytes
from nbadapt.widgets.summary import duration

if TYPE_CHECKING:
    from nbadapt.selection.asked import Budget
    from nbadapt.selection.candidates import Candidate

TRUST = 2.0  # a rough time may be so much too long
BASELINE = 0.25  # of the time budget, that a baseline which nobody named may take
UNASKED = 30 * 60.0  # seconds of rough time that a candidate which nobody named may take, where there is no budget


def check_budget(kept: Sequence[Candidate], found: Sequence[Candidate], budget: Budget) -> None:
    """Refuse a budget that is too small for even one candidate.

    Raises:
        OutOfMemoryError: all need more memory; the message says how much the smallest one needs.
        RequestError: all need more time; the message says how much the quickest one needs.
    """
    wanted = [one for one in found if not one.baseline] or list(found)
    tried = [one for one in kept if not one.baseline or wanted[0].baseline]
    if not tried:
        smallest = min(wanted, key=lambda one: one.estimate.peak)
        why = too_large(smallest, budget)
        raise OutOfMemoryError(f"no candidate fits into memory: the smallest one, {smallest.label}, {why}")
    if budget.seconds is None or any(one.seconds is None for one in tried):
        return
    quickest = min(tried, key=lambda one: one.seconds or 0.0)
    needed = quickest.seconds or 0.0
    if needed / TRUST > budget.seconds:
        raise RequestError(
            f"a budget of {budget.seconds:g} s is too small for even one candidate: the quickest one, "
            f"{quickest.label}, needs about {needed:,.0f} s; raise --budget, or compare on fewer rows"
        )


def too_large(candidate: Candidate, budget: Budget) -> str:
    """Why there is no memory for it; empty where there is."""
    peak = candidate.estimate.peak
    if budget.memory is not None and peak > budget.memory:
        return f"needs about {gibibytes(peak)}, more than the budget of {gibibytes(budget.memory)}"
    try:
        plan.check_memory(candidate.estimate, candidate.job)
    except OutOfMemoryError as error:
        return str(error)
    return ""


def too_long(candidate: Candidate, budget: Budget) -> str:
    """Why there is no time for a candidate that nobody named; empty where there is."""
    if candidate.seconds is None:
        return ""
    told = f"takes roughly {duration(candidate.seconds)} on this machine"
    if budget.seconds is not None:
        late = candidate.seconds / TRUST > budget.seconds
        return f"{told}, more than the budget of {duration(budget.seconds)}" if late else ""
    if candidate.seconds <= UNASKED:
        return ""
    limit = f"the {UNASKED / 60:.0f} min of one that nobody named"
    return f"{told}, more than {limit}: name it in the cell, or set --budget"


def too_dear(candidate: Candidate, budget: Budget) -> str:
    """Why there is no time for a baseline that nobody asked for; empty where there is."""
    if budget.seconds is None:
        late = too_long(candidate, budget)
        return f"a baseline that {late}" if late else ""
    if candidate.seconds is None or candidate.seconds / TRUST <= BASELINE * budget.seconds:
        return ""
    return (
        f"a baseline that takes about {candidate.seconds:,.0f} s, too much of the budget of {budget.seconds:,.0f} s; "
        "named in the cell it is tried all the same"
    )


def lacks(candidate: Candidate, budget: Budget) -> tuple[str, str] | None:
    """Why one that nobody named is not tried, and what there is too little of; None where it can be tried."""
    large, late = too_large(candidate, budget), too_long(candidate, budget)
    return (large, "memory") if large else (late, "time") if late else None
