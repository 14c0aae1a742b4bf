"""The grids that lists span, and candidates drawn from them: no point is built before it is asked for."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbadapt.errors import RequestError

if TYPE_CHECKING:
    from nbadapt.method import Method


@dataclass(frozen=True)
class Grid:
    """The points of one block, counted as `itertools.product` counts them.

    Attributes:
        method: what they are settings of.
        choices: setting -> its values.
    """

    method: type[Method]
    choices: Mapping[str, Sequence[Any]]

    @property
    def size(self) -> int:
        """How many points there are."""
        return math.prod(map(len, self.choices.values()))

    def point(self, place: int) -> dict[str, Any]:
        """The one of this place, from 0: setting -> value."""
        found = {}
        for name in reversed(list(self.choices)):  # the last one changes first
            place, number = divmod(place, len(self.choices[name]))
            found[name] = self.choices[name][number]
        return {name: found[name] for name in self.choices}

    def star(self) -> list[int]:
        """The places of the first point, and of all that differ from it in one setting."""
        places, step = [0], 1
        for values in reversed(list(self.choices.values())):
            places += [step * number for number in range(1, len(values))]
            step *= len(values)
        return sorted(places)


def drawn(grids: Sequence[Grid], count: int, seed: int) -> list[int]:
    """The places of `count` of the candidates, in order, drawn by the seed; each method keeps one at least.

    Args:
        grids: those of one method one after the other.
        count: fewer than there are.
        seed: which ones.

    Raises:
        RequestError: there are more methods, or too many points to draw from.
    """
    spans: dict[str, range] = {}
    total = 0
    for grid in grids:
        first = spans[grid.method.name].start if grid.method.name in spans else total
        total += grid.size
        spans[grid.method.name] = range(first, total)
    if count < len(spans):
        raise RequestError(f"--search {count} is too few for {len(spans)} methods: give {len(spans)} or more")
    if total > sys.maxsize:
        raise RequestError(f"the lists span {total:,} candidates, more than can be drawn from: leave some values out")
    rng = random.Random(seed)  # noqa: S311 - a reproducible choice, no secret
    kept = sorted([rng.choice(span) for span in spans.values()])
    found = list(kept)
    for number in rng.sample(range(total - len(kept)), count - len(kept)):  # among those that were not kept
        place = number
        for one in kept:
            place += one <= place
        found.append(place)
    return sorted(found)
