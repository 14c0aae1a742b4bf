"""How many candidates see how many training rows, one rung after the other.

::

    candidates of one group (a method on a model)     8   ──>   2   ──>   1
    training rows                                   n/25      n/5       n

    successive halving (Jamieson and Talwalkar 2016, https://arxiv.org/abs/1502.07943), where a rung keeps one in KEEP
    of a group and has GROWTH times as many rows as the one before

Each rung trains anew on its rows: every score is that of a finished model, so that rungs are points of a learning
curve, and a result does not depend on the rungs before. Eight candidates cost 8/25 + 2/5 + 1 = 1.7 full runs.
Groups do not fight each other before the last rung: what learns quickly from few rows is not what is best on all.
Rungs are numbered from the last one, which is 0: the sizes do not depend on how many candidates there are, only which
of them a group begins in does.

What trains nothing costs what it asks, so that its rungs ask growing parts of the m validation rows: m/6.25, m/2.5, m
of them. Few rows tell less than a model that was trained on few and asked all, which is why these parts grow by
`ASKED_GROWTH` only: eight candidates cost 8/6.25 + 2/2.5 + 1 = 3.1 passes over all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbadapt.data import Examples

KEEP = 4  # one in so many goes on
GROWTH = 5  # of the rows
FEWEST_ROWS = 48  # of the first rung
ROWS_A_LABEL = 8
ASKED_GROWTH = 2.5  # of the rows that are asked
FEWEST_ASKED = 16  # in the first rung


@dataclass(frozen=True)
class Rung:
    """So many candidates of a group are trained on so many rows."""

    candidates: int
    rows: int


def first(candidates: int) -> int:
    """The number of the rung that so many candidates of a group begin in."""
    return math.ceil(math.log(candidates, KEEP) - 1e-9) if candidates > 1 else 0


def size(rung: int, rows: int, labels: int = 0) -> int:
    """The training rows of the rung of this number.

    Args:
        rung: its number.
        rows: all training rows.
        labels: classes, each of which needs rows in the first rung.
    """
    fewest = min(rows, max(FEWEST_ROWS, ROWS_A_LABEL * labels))
    smaller: int = GROWTH**rung
    return max(fewest, math.ceil(rows / smaller))


def sizes(rows: int, labels: int = 0) -> tuple[int, ...]:
    """All sizes that rungs can have, each once, the largest first. Arguments as of `size`."""
    found = [rows]
    while (fewer := size(len(found), rows, labels)) < found[-1]:
        found.append(fewer)
    return tuple(found)


def kept(candidates: int, rung: int) -> int:
    """How many of the candidates of a rung go on; never more than the rungs after it have room for."""
    most: int = KEEP ** (rung - 1)
    return min(-(-candidates // KEEP), most)


def schedule(candidates: int, rows: int, labels: int = 0) -> tuple[Rung, ...]:
    """The rungs of one group; the last one has one candidate and all rows.

    Args:
        candidates: how many there are.
        rows: all training rows.
        labels: classes, each of which needs rows in the first rung.
    """
    begin = first(candidates)
    return tuple(Rung(-(-candidates // KEEP**r), size(begin - r, rows, labels)) for r in range(begin + 1))


def asked(rows: int, total: int, validation: int) -> int:
    """How many of the validation rows a candidate that trains nothing is asked in a rung.

    Args:
        rows: of the rung.
        total: all training rows.
        validation: all validation rows.
    """
    share: float = (rows / total) ** (math.log(ASKED_GROWTH) / math.log(GROWTH))
    return min(validation, max(FEWEST_ASKED, math.ceil(validation * share - 1e-9)))


def cost(rungs: Sequence[Rung], rows: int) -> float:
    """What the rungs cost in full runs."""
    return sum(rung.candidates * rung.rows for rung in rungs) / rows


def asking_cost(rungs: Sequence[Rung], total: int, validation: int) -> float:
    """The same of candidates that train nothing: in passes over all validation rows."""
    return sum(rung.candidates * asked(rung.rows, total, validation) for rung in rungs) / validation


def parts(training: Examples, sizes: Sequence[int], seed: int) -> dict[int, Examples]:
    """Nested parts of the training rows, one of each size; every class keeps its share and at least one row.

    The rows of a smaller part are among those of every larger one.
    """
    from nbadapt import data

    found, rest = {len(training): training}, training
    for size in sorted({*sizes}, reverse=True):
        if size < len(rest):
            rest, _ = data.split(rest, 1 - size / len(rest), seed)
        found[size] = replace(rest, source=training.source)
    return found
