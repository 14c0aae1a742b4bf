"""A run whose user does things at given steps: through the real emitter, in this thread, so that steps are exact."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from nbadapt import runner, store
from nbadapt.control import Control, Wish
from nbadapt.events import Event, Progress, Stage
from nbadapt.method import Estimate, Job, Method, Outcome
from nbadapt.run import Run
from nbadapt.steering import Steering

STOP = "stop"


class Steered:
    """What came of a run.

    Attributes:
        outcome: what the method gave.
        wishes: each wish, in the order in which they were made.
        events: all that was told.
        ended: why the engine ended early.
    """

    def __init__(self, method: type[Method], job: Job, plan: Mapping[int, Sequence[Any]] | None = None) -> None:
        """Run it in the job's folder.

        Args:
            method: what runs.
            job: with the checkpoint to go on from, if any.
            plan: steps that are done -> what is asked then: things of `nbadapt.steering`, or STOP.
        """
        if not (job.directory / "request.json").exists():
            write_down(job)
        self.job, self._plan = job, dict(plan or {})
        self.run = Run.at(job.directory)
        self.run.control = Control()
        self.timed = store.read_events(job.directory)
        self.wishes: list[Wish] = []
        self._emitter = runner._Emitter(self.run, self.timed, job)
        self.outcome: Outcome = method().run(job, self)
        self.ended = self._emitter.ended
        self._emitter.close()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress):
            planned = self._plan.get(event.step, ())
            self.wishes += [self.run.control.ask(asked) for asked in planned if asked != STOP]
            self._emitter(event)
            if STOP in planned:  # when the wishes before it are fulfilled
                self.run.control.stop()
                self._emitter(Stage("training"))
        else:
            self._emitter(event)

    def offer(self, steering: Steering | None, reason: str) -> None:
        self._emitter.offer(steering, reason)

    @property
    def events(self) -> list[Event]:
        return [event for _, event in self.timed]


def write_down(job: Job) -> None:
    for folder in (job.directory, store.root()):
        folder.mkdir(parents=True, exist_ok=True)
    store.write_json(job.directory / "request.json", store._record(job, Estimate(), job.method, ""))


def resumed(steered: Steered) -> Job:
    """The job of a run that goes on from its last checkpoint."""
    checkpoint = store.last_checkpoint(steered.job.directory)
    assert checkpoint is not None
    return dataclasses.replace(steered.job, checkpoint=checkpoint)
