"""What a budget of answers is spent on, where instructions are proposed, scored and raced.

::

    budget >= n_1 + sum over rounds of m_t (1 + n_1) + race      n_1: the prompt alone; 1: an instruction's proposal
    race: the best ones go from n_1 rows to as many as a third of the budget lasts for
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbadapt.errors import RequestError
from nbadapt_plugins._search_rows import FEWEST

if TYPE_CHECKING:
    from nbadapt.engines.racing import RaceRound
    from nbadapt_plugins._ground import Ground

FINALISTS = 4  # instructions in the race at the end
LEAST = 2  # instructions in a round
RACE = 3  # the race gets at most one part of so many of the budget


@dataclass(frozen=True)
class Spending:
    """What a budget is spent on.

    Attributes:
        proposals: instructions in each round.
        first: rows that each of them is scored on.
        race: the rounds of the race at the end; empty where all rows are seen before.
        answers: in all, at most.
    """

    proposals: tuple[int, ...]
    first: int
    race: tuple[RaceRound, ...]
    answers: int


def spend(budget: int, rounds: int, rows: int, first: int) -> Spending:
    """Share a budget out: a part for the race, the rest for as many instructions as it lasts for.

    Args:
        budget: answers.
        rounds: of proposals.
        rows: n to search on.
        first: rows that each instruction is scored on.

    Raises:
        RequestError: not even two instructions in each round.
    """
    from nbadapt.engines import racing

    first = min(first, rows)
    needed = first + LEAST * rounds * (1 + first)
    if budget < needed:
        raise RequestError(
            f"a budget of {budget:,} answers is too small to mean anything: {rounds} rounds of {LEAST} instructions, "
            f"each proposed and scored on {first} rows, take {needed:,} with the prompt alone: raise budget, or lower "
            f"rounds or racing_rows (at least {FEWEST})"
        )
    race: tuple[RaceRound, ...] = ()
    most = min(budget // RACE, budget - needed)
    for last in range(rows, first, -1):
        wanted = racing.schedule(FINALISTS, last, first)
        if racing.cost(wanted, first) <= most:
            race = wanted
            break
    cost = racing.cost(race, first)
    count = (budget - first - cost) // (1 + first)
    proposals = tuple(count // rounds + (i < count % rounds) for i in range(rounds))
    return Spending(proposals, first, race, first + count * (1 + first) + cost)


def steps_of(plan: Spending, ground: Ground) -> int:
    """Batches of scored rows; proposals are none."""
    steps = (1 + sum(plan.proposals)) * ground.steps_for(plan.first)
    seen = plan.first
    for each in plan.race:
        steps += each.candidates * ground.steps_for(each.rows - seen)
        seen = each.rows
    return steps
