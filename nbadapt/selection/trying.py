"""One trial after the other: a candidate's run, what it says to the validation rows or the test rows, what it cost.

::

    rung ──> job on a part of the rows ──> run, stopped where it is to end ──> answers ──> Trial, on disk

Whoever calls decides who is tried, on how many rows, and what follows from it: see `nbadapt.selection.contest`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nbadapt import runner, store
from nbadapt.control import Control
from nbadapt.errors import Stopped
from nbadapt.events import Progress
from nbadapt.plan import Plan
from nbadapt.selection import keys, measuring, rungs
from nbadapt.selection.bases import Bases, give_back
from nbadapt.selection.entry import Entry
from nbadapt.selection.forgetting import forgotten
from nbadapt.selection.trials import Said, Trial, Trials

if TYPE_CHECKING:
    from nbadapt.data import Examples
    from nbadapt.method import Job
    from nbadapt.run import Run
    from nbadapt.selection.candidates import Candidate, Prepared

POLL_SECONDS = 0.1


class Trying:
    """What makes trials, in the thread of the contest.

    Args:
        prepared: what is compared.
        trials: where they are kept.
        control: ends all of it.
        left: seconds that the budget leaves; None: there is no limit.
        tell: given a notice.

    Attributes:
        run: the one at work.
        bases: the base models in memory.
    """

    def __init__(
        self,
        prepared: Prepared,
        trials: Trials,
        control: Control,
        left: Callable[[], float | None],
        tell: Callable[[str], None],
    ) -> None:
        self.run: Run | None = None
        self.bases = Bases(prepared.candidates, prepared.asked.budget.memory)
        self._prepared, self._trials, self._control, self._left, self._tell = prepared, trials, control, left, tell
        self._parts: dict[int, Examples] = {}
        self._peak: measuring.Peak | None = None  # of the run that was made last, where it worked here

    # ------------------------------------------------------------------ rows

    @property
    def total(self) -> int:
        """All training rows."""
        return len(self._prepared.parts.training)

    def prepare_parts(self, sizes: Sequence[int]) -> None:
        """Part the training rows for rungs of these sizes."""
        missing = [size for size in sizes if size not in self._parts]
        if missing:
            training = self._prepared.parts.training
            self._parts |= rungs.parts(training, [*self._parts, *missing], self._prepared.asked.seed)

    def part(self, rows: int) -> Examples:
        """So many training rows, which were parted before."""
        return self._parts[rows]

    def asked(self, candidate: Candidate, rows: int) -> Examples:
        """The validation rows of a rung: all, or their first ones where asking is all the work that there is."""
        validation = self._prepared.parts.validation
        if not candidate.prompts:
            return validation
        count = rungs.asked(rows, self.total, len(validation))
        return dataclasses.replace(validation, rows=validation.rows[:count])

    def share(self, candidate: Candidate, rows: int) -> float:
        """The part of a candidate's rough time that its trial on so many training rows takes."""
        if candidate.prompts:
            return len(self.asked(candidate, rows)) / len(self._prepared.parts.validation)
        return rows / self.total

    def job(self, candidate: Candidate, rows: int, seed: int, asked: Examples) -> Job:
        """The candidate's job on so many of the training rows."""
        parts, training = self._prepared.parts, self._parts[rows]
        if not candidate.prompts:
            return dataclasses.replace(candidate.job, data=training, seed=seed)
        if candidate.own_prompt:
            asked, training = parts.with_columns(asked), parts.with_columns(training)
        if self._prepared.metric == "bits_per_byte":  # one answer, and then likelihoods
            asked = dataclasses.replace(asked, rows=asked.rows[:1])
        shown = training if candidate.job.examples is not None else None
        return dataclasses.replace(candidate.job, data=asked, examples=shown, seed=seed)

    def name(self, candidate: Candidate, job: Job, rows: int) -> str:
        """What a trial is called on disk."""
        return keys.trial(job, self.asked(candidate, rows), self._prepared.metric, candidate.code)

    def _written(self, candidate: Candidate, rows: Examples) -> Examples:
        """The rows with all columns, where the candidate's own prompt may name them."""
        return self._prepared.parts.with_columns(rows) if candidate.own_prompt else rows

    # ------------------------------------------------------------------ a run

    def work(
        self, entry: Entry, job: Job, keep: Callable[[str], object], before: Trial | None, *, limited: bool = True
    ) -> Run:
        """The run of a job, ended; the trial that was broken off `before` is gone on with.

        Args:
            entry: whose state may become "stopped".
            job: from `job`.
            keep: given the run's id as soon as there is one.
            before: the trial of this name that was found on disk.
            limited: whether the budget may end it.
        """
        self.bases.make_room(entry.candidate)
        give_back()
        self._peak = measuring.Peak(entry.candidate)
        run = self._unfinished(before)
        if run is None:
            run = self.run = runner.start(Plan(job, entry.candidate.method, entry.candidate.estimate, (), ""))
            run.tags = ["compare"]
        elif run.state == "done":
            self.run, self._peak = run, None  # its work was measured by a kernel that is gone
        else:
            self.run = run
            runner.go_on(run)
        keep(run.id)
        while run.alive:
            run.join(POLL_SECONDS)
            if self._peak is not None:
                self._peak.look()
            self._pass_on(entry, run, limited=limited)
        return run

    def _pass_on(self, entry: Entry, run: Run, *, limited: bool) -> None:
        """Stop a run that is to end."""
        left = self._left()
        if run.control.stopping:
            return
        if self._control.stopping:
            run.control.stop(self._control.reason)
        elif entry.state == "stopped":
            run.control.stop("stopped by the user")
        elif limited and left is not None and left <= 0:
            run.control.stop("the budget ended")

    def _unfinished(self, before: Trial | None) -> Run | None:
        """The run of a trial that was broken off, where there is something to go on from."""
        if before is None or before.state != "running" or not before.run:
            return None
        run = self._trials.run(before)
        resumable = run.state in {"killed", "stopped"} and store.last_checkpoint(run.directory) is not None
        return run if resumable or run.state == "done" else None  # done: it was killed while it was measured

    # ------------------------------------------------------------------ what it says and costs

    def measured(self, candidate: Candidate, run: Run, trial: Trial, seconds: float) -> Trial:
        """The trial with what the run says to the validation rows, and what it costs."""
        rows = self._written(candidate, self.asked(candidate, trial.rows))
        said = measuring.said(candidate, run, rows, self._prepared.metric)
        costs, what = {"wall": seconds}, ""
        if trial.rows == self.total:
            costs |= measuring.costs(candidate, run, rows, self._peak)
            if trial.seed == self._prepared.asked.seed and (change := self._forgotten(candidate, run)) is not None:
                costs["forgotten"], what = change
        run.forget()
        return dataclasses.replace(trial, state="done", said=said, costs=costs, forgotten=what)

    def _forgotten(self, candidate: Candidate, run: Run) -> tuple[float, str] | None:
        found = forgotten(candidate, None if candidate.prompts else run.adapted())
        if isinstance(found, str):
            self._tell(f"what {candidate.label} forgot could not be measured: {found}")
            return None
        return found

    def test(self, candidate: Candidate, trial: Trial) -> Said:
        """What a trial's model says to the test rows; what was asked before is not asked again.

        Raises:
            NbadaptError: it cannot answer them.
        """
        known = self._trials.test(trial.key)
        if known is not None:
            return known
        self.bases.make_room(candidate)
        give_back()  # what a training left must not stand below what answering takes
        rows = self._prepared.parts.test
        run = self._trials.run(trial)
        if candidate.prompts and self._prepared.metric != "bits_per_byte":
            job = self.job(candidate, trial.rows, trial.seed, rows)
            run = self.work(Entry(candidate), job, lambda _: None, None, limited=False)
            if run.state != "done":
                raise run.error or Stopped(self._control.reason)
        said = measuring.said(candidate, run, self._written(candidate, rows), self._prepared.metric)
        run.forget()
        return self._trials.keep_test(trial.key, said)

    def let_go(self) -> None:
        """Let go of models, tokens and the last run."""
        self.run = None
        self.bases.let_go()


def done_share(run: Run) -> float:
    """How much of its steps a run made, from 0 to 1."""
    steps = [event for _, event in run.events if isinstance(event, Progress) and event.total]
    return steps[-1].step / steps[-1].total if steps else 0.0
