"""What a budget of time has room for: how long a trial will take, and whether one of its group can still finish.

Nothing here limits a comparison without such a budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nbadapt.selection.entry import FINISHED

if TYPE_CHECKING:
    from nbadapt.selection.entry import Entry
    from nbadapt.selection.race import Race
    from nbadapt.selection.trials import Trial
    from nbadapt.selection.trying import Trying

TELLING = 1.0  # seconds of a rough time, from which on the measured one says how rough it is
UNMEASURED = 0.3  # of a rough time, which may be three times too long, before anything was timed


class Clock:
    """The time of a contest.

    Args:
        entries: all candidates, those included that are added later.
        trying: what makes the trials.
        left: seconds that the budget leaves; None: there is no limit.
        tested: how many test rows are asked at the end.
    """

    def __init__(self, entries: Sequence[Entry], trying: Trying, left: Callable[[], float | None], tested: int) -> None:
        self._entries, self._trying, self._left, self._tested = entries, trying, left, tested
        self._rates: list[float] = []  # measured seconds for each rough one

    def learn(self, entry: Entry, rows: int, seconds: float) -> None:
        """Take in how long a trial took."""
        rough = (entry.candidate.seconds or 0.0) * self._trying.share(entry.candidate, rows)
        if rough >= TELLING:
            self._rates.append(seconds / rough)

    def lacks(self, entry: Entry, rows: int) -> bool:
        """Whether there is no time for a trial, and for the test of what is through by then."""
        left = self._free()
        return left is not None and (self.seconds(entry, rows) or 0.0) > left

    def lacks_for_all(self, race: Race, races: Sequence[Race], rung: int, tried: Sequence[Entry], entry: Entry) -> bool:
        """Whether a trial of a rung would leave no time to bring one of its group to all rows.

        Rungs serve to find the one that is trained on all rows: without that they would be spent for nothing. A time
        that was not measured counts in full here, and what is put off in vain is come back to.

        Args:
            race: the candidate's.
            races: of all groups; the quickest of each shall be trained on all rows, as far as there is time.
            rung: its number.
            tried: those of the group that were tried in it, of which each may be the one that goes on.
            entry: the candidate.
        """
        room = self._room(race, races)
        return room is not None and self.needed(race.size(rung), [*tried, entry]) > room

    def needed(self, rows: int, kin: Sequence[Entry]) -> float:
        """Seconds to try the last of some candidates on so many rows, and any one of them on all rows."""
        trial = self.seconds(kin[-1], rows, unmeasured=1.0) or 0.0
        return trial + max(self._on_all(entry) for entry in kin)

    def seconds(self, entry: Entry, rows: int, *, unmeasured: float = UNMEASURED) -> float | None:
        """Seconds for a trial: from those of the same group on other rows, else by rule of thumb; None: not known.

        Args:
            entry: the candidate.
            rows: how many it is trained on.
            unmeasured: the part of a rough time that counts while nothing was measured.
        """
        rate = sorted(self._rates)[len(self._rates) // 2] if self._rates else unmeasured
        kin = [other for other in self._entries if other.candidate.group == entry.candidate.group]
        known = [
            self._scaled(entry, rows, other, t, rate) for other in kin for t in other.trials if t.costs.get("wall")
        ]
        if known:
            return min(known)
        rough = entry.candidate.seconds
        return None if rough is None else rough * self._trying.share(entry.candidate, rows) * rate

    def _scaled(self, entry: Entry, rows: int, other: Entry, trial: Trial, rate: float) -> float:
        """A trial's seconds, made those of another one of its group on other rows.

        They grow with the rows at most. Where a rough time is known, what is added is that of the further rows alone:
        the validation rows, which each trial is asked, and reading the model take as long on few rows.
        """
        share, before = (self._trying.share(one.candidate, n) for one, n in ((entry, rows), (other, trial.rows)))
        rough, theirs = entry.candidate.seconds, other.candidate.seconds
        wall = trial.costs["wall"] * (rough / theirs if rough and theirs else 1.0)
        grown = wall * share / before
        return min(grown, wall + rough * (share - before) * rate) if rough and share > before else grown

    def _on_all(self, entry: Entry) -> float:
        return self.seconds(entry, self._trying.total, unmeasured=1.0) or 0.0

    def _free(self) -> float | None:
        """Seconds that are left, without those for the test of what is through."""
        left = self._left()
        if left is None:
            return None
        through = [t for e in self._entries if e.state == FINISHED for t in e.full(self._trying.total)]
        return left - sum(t.costs.get("inference", 0.0) * self._tested / 1000 for t in through)

    def _room(self, race: Race, races: Sequence[Race]) -> float | None:
        """Seconds for a group, when the other ones keep what brings one of each to all rows; quick ones come first."""
        left = self._free()
        if left is None:
            return None
        kept, held = 0.0, False
        for other in sorted(races, key=self._least):
            if kept + self._least(other) <= left:
                kept += self._least(other)
                held = held or other is race
        return left - kept + self._least(race) if held else 0.0

    def _least(self, race: Race) -> float:
        """Seconds to train the quickest of a group on all rows."""
        return min((self._on_all(entry) for entry in race.racers), default=0.0)
