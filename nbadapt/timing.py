"""How long a job will take: its method works on a few rows, in a folder that is thrown away."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from nbadapt import answer_cache, data
from nbadapt.capture import Capture
from nbadapt.data import Examples
from nbadapt.events import Event, Progress, Stage
from nbadapt.method import Job, Method

STEPS = 12  # that are timed, as far as the rows suffice
LONG = 20.0  # seconds, after which fewer steps are enough
ONCE = frozenset({"loading", "training", "answering", "embedding"})  # stages that begin the steps, or need no rows
FEWEST_ROWS = 64  # of a prompt: a method that shares rows out needs some for each part
FEWEST = 4  # steps; the first one pays for what is made once and is left out


class _Enough(BaseException):
    """Ends the work at once; a Stop would have the method save what it has."""


class _Clock:
    """Notes when each stage began and each step was done; ends the work when that is enough."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._stages: list[tuple[str, float]] = []  # (first word, seconds since the beginning)
        self.marks: list[tuple[int, float]] = []  # (step, seconds since the beginning)

    def __call__(self, event: Event) -> None:
        now = time.perf_counter() - self._began
        if isinstance(event, Stage):
            word = event.text.split()[0]
            if not self.marks and (not self._stages or self._stages[-1][0] != word):
                self._stages.append((word, now))
        if isinstance(event, Progress):
            self.marks.append((event.step, now))
            done = len(self.marks)
            if done >= STEPS or (now > LONG and done >= FEWEST):
                raise _Enough

    def preparation(self, more: float) -> float:
        """Seconds before the first step was done, where there are `more` times as many rows to prepare."""
        stages = self._stages or [("training", 0.0)]
        ends = [*(began for _, began in stages[1:]), self.marks[0][1]]
        seconds = [end - began for (_, began), end in zip(stages, ends, strict=True)]
        return sum(s * (1.0 if word in ONCE else more) for s, (word, _) in zip(seconds, stages, strict=True))


def seconds(method: Method, job: Job, steps: int) -> float | None:
    """The predicted seconds of a job of so many steps, without evaluations; None where too few steps were made.

    The rows are new in each step: a method that keeps what it computed of a row is quicker in later epochs.

    Args:
        method: it works on rows for `STEPS` steps, drawn by the seed.
        job: its model is loaded, and stays in memory.
        steps: of the whole job.
    """
    clock = _Clock()
    with tempfile.TemporaryDirectory(prefix="nbadapt-timing-") as folder, embeddings_in(folder):
        short = dataclasses.replace(job, directory=Path(folder), data=_some(method, job), evaluation=None)
        with Capture(Path(folder) / "output.log"), answer_cache.unused(), contextlib.suppress(_Enough):
            method.run(short, clock)
    if len(clock.marks) < 2:
        return None
    (first, _), (last, end) = clock.marks[0], clock.marks[-1]
    more = len(job.data) / len(short.data) if job.data and short.data else 1.0
    return clock.preparation(more) + (steps - first) * (end - clock.marks[0][1]) / (last - first)


@contextlib.contextmanager
def embeddings_in(folder: str) -> Iterator[None]:
    """Vectors that are computed inside are not kept: what is timed later would find them."""
    before = os.environ.get("NBADAPT_EMBEDDINGS")
    os.environ["NBADAPT_EMBEDDINGS"] = folder
    try:
        yield
    finally:
        del os.environ["NBADAPT_EMBEDDINGS"]
        if before is not None:
            os.environ["NBADAPT_EMBEDDINGS"] = before


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
    count = min(max(count, FEWEST_ROWS), len(job.data))
    rows = random.Random(job.seed).sample(job.data.rows, count)  # noqa: S311 - a reproducible choice, no secret
    return dataclasses.replace(job.data, rows=tuple(rows))
