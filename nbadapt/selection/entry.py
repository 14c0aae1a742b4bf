"""A candidate in a contest: how it stands, what was tried, and what it said to the test rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbadapt.selection.candidates import Candidate
    from nbadapt.selection.trials import Said, Trial

TOO_LATE = "out of time"
FINISHED = "in the last rung"


@dataclass
class Entry:
    """A candidate in a contest.

    Attributes:
        state: "waiting", "running", "dropped", `FINISHED`, "failed", "stopped" or `TOO_LATE`.
        reason: why it is no longer in.
        trials: what is done, in the order of its rungs; further seeds at the end.
        begun: the sizes of rungs of which there is a record on disk, whatever became of it; None: not looked up.
        test: what it said to the test rows, one for each of its trials on all rows.
        needs: seconds that it would have needed, of one that is out of time; None: not known.
        seeds_left_out: further seeds that the budget had no time for.
    """

    candidate: Candidate
    state: str = "waiting"
    reason: str = ""
    trials: list[Trial] = field(default_factory=list)
    begun: set[int] | None = None
    test: list[Said] = field(default_factory=list)
    needs: float | None = None
    seeds_left_out: int = 0

    @property
    def label(self) -> str:
        """Its short name."""
        return self.candidate.label

    @property
    def last(self) -> Trial | None:
        """The trial on the most rows, of the first seed."""
        first = [trial for trial in self.trials if trial.seed == self.trials[0].seed]
        return max(first, key=lambda trial: trial.rows, default=None)

    def full(self, rows: int) -> list[Trial]:
        """The trials on all rows, one a seed."""
        return [trial for trial in self.trials if trial.rows == rows]

    def trial(self, rows: int, seed: int) -> Trial | None:
        """The trial on so many rows with this seed, where it was made."""
        return next((t for t in self.trials if (t.rows, t.seed) == (rows, seed)), None)

    def out_of_time(self, reason: str, needs: float | None = None) -> None:
        """Take it out: the budget ended, or leaves too little."""
        self.state, self.reason, self.needs = TOO_LATE, reason, needs
