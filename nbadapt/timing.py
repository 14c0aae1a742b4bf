"""How long a job will take: its method works on a few rows, in a folder that is thrown away."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import tempfile
import time
from pathlib import Path

from nbadapt import answer_cache, data
from nbadapt.capture import Capture
from nbadapt.data import Examples
from nbadapt.errors import Stopped
from nbadapt.events import Event, Progress
from nbadapt.method import Job, Method

STEPS = 12  # that are timed, as far as the rows suffice
LONG = 20.0  # seconds, after which fewer steps are enough
FEWEST = 4  # steps; the first one pays for what is made once and is left out


class _Clock:
    """Notes when each step was done; ends the work when it has taken long enough."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.marks: list[tuple[int, float]] = []  # (step, seconds since the beginning)
        self._ended = False

    def __call__(self, event: Event) -> None:
        now = time.perf_counter() - self.began
        if isinstance(event, Progress):
            self.marks.append((event.step, now))
        done = len(self.marks)
        if not self._ended and (done >= STEPS or (now > LONG and done >= FEWEST)):
            self._ended = True
            raise Stopped


def seconds(method: Method, job: Job, steps: int) -> float | None:
    """The predicted seconds of a job of so many steps, without evaluations; None where too few steps were made.

    Args:
        method: it works on the job's first `STEPS` steps' worth of rows, drawn by the seed.
        job: its model is loaded, and stays in memory.
        steps: of the whole job.
    """
    clock = _Clock()
    with tempfile.TemporaryDirectory(prefix="nbadapt-timing-") as folder:
        short = dataclasses.replace(job, directory=Path(folder), data=_some(method, job), evaluation=None)
        with Capture(Path(folder) / "output.log"), answer_cache.unused(), contextlib.suppress(Stopped):
            method.run(short, clock)
    if len(clock.marks) < 2:
        return None
    (first, start), (last, end) = clock.marks[0], clock.marks[-1]
    return start + (steps - first) * (end - start) / (last - first)


def _some(method: Method, job: Job) -> Examples | None:
    """Rows for some steps, of all lengths, and of all classes where they are learned."""
    if job.data is None:
        return None
    per_step = getattr(job.config, "batch_size", 16) * getattr(job.config, "gradient_accumulation_steps", 1)
    count = STEPS * per_step
    if count >= len(job.data):
        return job.data
    if method.verb == "finetune":
        return data.split(job.data, count / len(job.data), job.seed)[1]
    rows = random.Random(job.seed).sample(job.data.rows, count)  # noqa: S311 - a reproducible choice, no secret
    return dataclasses.replace(job.data, rows=tuple(rows))
