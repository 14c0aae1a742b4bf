"""The candidates of one group on their way through the rungs: who enters where, and who is held against whom.

::

    on disk already        enters                                                 is dropped
    all rows               nowhere: it is through; ranked where it has a trial    never
    a rung                 in the rung of the fewest rows that is on disk         as all others
    nothing                where so many new ones begin, or in the next smaller   as all others
                           rung that others of the group have on disk

A race is decided by what is on disk alone: the same candidates again do nothing, and what was trained on all rows stays
in the answer when others come in later. Without anything on disk it is `nbadapt.selection.rungs.schedule`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nbadapt.selection import rungs
from nbadapt.selection.entry import FINISHED

if TYPE_CHECKING:
    from nbadapt.data import Examples
    from nbadapt.selection.entry import Entry

RACING = {"waiting", "running", "dropped"}
"""The states of those that take part; who was dropped may go on when others come in."""


class Race:
    """One group in a heat.

    Args:
        kin: all candidates of the group; those that are stopped, failed or out of time take no part.
        training: all training rows.
        seed: of the trials.
        halving: False: all of them are tried on all rows alone, and nobody is dropped.

    Attributes:
        alive: those that came through the rungs so far, best first; in a rung those that are tried in it.
    """

    def __init__(self, kin: Sequence[Entry], training: Examples, seed: int, *, halving: bool = True) -> None:
        self.alive: list[Entry] = []
        self._seed, self._rows, self._labels = seed, len(training), len(training.labels)
        self._sizes = rungs.sizes(self._rows, self._labels)
        self._through = [entry for entry in kin if entry.state == FINISHED]
        racers = [entry for entry in kin if entry.state in RACING]
        self._entering = self._entries(racers) if halving else {0: racers}

    def size(self, rung: int) -> int:
        """The training rows of a rung."""
        return rungs.size(rung, self._rows, self._labels)

    @property
    def racers(self) -> list[Entry]:
        """Those that are still in, those included that enter in a later rung."""
        found = [*self.alive, *itertools.chain.from_iterable(self._entering.values())]
        return [entry for entry in found if entry.state in RACING]

    @property
    def begin(self) -> int:
        """The number of the rung in which the first ones enter."""
        return max(self._entering, default=0)

    def at(self, rung: int) -> list[Entry]:
        """Those that are to be tried in a rung."""
        found = [*self.alive, *self._entering.get(rung, ())]
        return [entry for entry in found if entry.state in RACING]

    def enter(self, rung: int) -> list[Entry]:
        """The same, when it is their turn: they are `alive` then."""
        self.alive = self.at(rung)
        self._entering.pop(rung, None)
        return list(self.alive)

    def through(self, rung: int) -> list[Entry]:
        """Those that are through already, and were tried in this rung on their way."""
        return [entry for entry in self._through if entry.trial(self.size(rung), self._seed) is not None]

    def _entries(self, racers: Sequence[Entry]) -> dict[int, list[Entry]]:
        """Rung -> those that enter in it."""
        new = [entry for entry in racers if not self._begun(entry)]
        there = {size for entry in (*racers, *self._through) for size in self._begun(entry)}
        chosen = self.size(self._first(len(new), there))
        entering: dict[int, list[Entry]] = {}
        for entry in racers:
            entering.setdefault(min(self._begun(entry), default=chosen), []).append(entry)
        return {self._rung(size, kin): kin for size, kin in entering.items()}

    def _rung(self, size: int, kin: Sequence[Entry]) -> int:
        """The number of the rung of this size; of several with the fewest rows, the one that so many begin in."""
        number = self._sizes.index(size)
        if size > self._sizes[-1]:
            return number
        known = sum(entry.trial(size, self._seed) is not None for entry in self._through)
        return max(number, rungs.first(len(kin) + known))

    def _begun(self, entry: Entry) -> set[int]:
        tried = {trial.rows for trial in entry.trials if trial.seed == self._seed}
        return (tried | (entry.begun or set())) & {*self._sizes}

    def _first(self, count: int, there: set[int]) -> int:
        """The rung of so many new ones: where there are trials to be held against, if it is no larger one."""
        wanted = rungs.first(count)
        return next((n for n in range(max(wanted, 1), len(self._sizes)) if self.size(n) in there), wanted)
