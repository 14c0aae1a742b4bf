"""A real third-party method for tests of running: it counts, at a given speed, and keeps how far it came.

`install` makes a distribution of it in a folder, to be put on PYTHONPATH.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from pydantic import Field

from nbadapt.errors import RunError, Stopped
from nbadapt.events import Metric, Progress
from nbadapt.method import Adapted, Emit, Estimate, Job, Method, ModelRef, Outcome
from nbadapt.method import Config as Settings


class StepsSettings(Settings):
    steps: int = Field(100, ge=1, description="steps to count")
    seconds: float = Field(0.01, ge=0, description="seconds that a step takes")
    saving: float = Field(0.0, ge=0, description="seconds that saving takes after a stop, in pieces of 20 ms")
    deaf: float = Field(0.0, ge=0, description="seconds after a stop in which the thread sees nothing at all")
    fails_at: int = Field(0, ge=0, description="the step that fails; 0: none")


class Steps(Method):
    """Counts."""

    name = "steps"
    verb = "finetune"
    summary = "counts steps"
    reference = "https://example.org"
    tasks = frozenset({"text"})
    Config = StepsSettings

    def estimate(self, job: Job) -> Estimate:
        return Estimate(steps=job.config.steps)

    def run(self, job: Job, emit: Emit) -> Outcome:
        settings: StepsSettings = job.config
        done = 0
        try:
            for step in range(1, settings.steps + 1):
                time.sleep(settings.seconds)
                if step == settings.fails_at:
                    raise RunError(f"step {step} went wrong")
                emit(Metric(step, "train", {"loss": 1 / step}))
                emit(Progress(step, settings.steps, examples=step))
                done = step
                if step % 10 == 0:
                    print("printed by the worker at step", step)
        except Stopped:
            if settings.deaf:
                time.sleep(settings.deaf)
            for _ in range(round(settings.saving / 0.02)):
                time.sleep(0.02)
        result = job.directory / "artifacts" / "count.txt"
        result.parent.mkdir(exist_ok=True)
        result.write_text(str(done), encoding="utf-8")
        return Outcome({"steps": done}, {"count": "artifacts/count.txt"})

    def load(self, outcome: Outcome, job: Job) -> Adapted:
        return Adapted()


def begin(**settings):
    """Start a run, as the runner does after it has checked a request."""
    from nbadapt import runner
    from nbadapt.plan import Plan

    job = Job("steps", StepsSettings(**settings), ModelRef("counter", "folder", "counter"), "text", Path())
    return runner.start(Plan(job=job, method=Steps(), estimate=Steps().estimate(job)))


def install(folder: Path) -> Path:
    """Make the distribution in `folder`."""
    shutil.copy(__file__, folder / "steps_method.py")
    info = folder / "steps_method-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: steps-method\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[nbadapt.methods]\nsteps = steps_method:Steps\n", encoding="utf-8")
    return folder
