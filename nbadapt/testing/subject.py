"""A method under test: its tiny jobs, and what running them showed."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbadapt.data import Examples
from nbadapt.errors import RequestError, Stopped
from nbadapt.events import Event, Progress
from nbadapt.method import Estimate, Job, Method, ModelRef, Outcome
from nbadapt.testing.tiny import tiny_model

WORDS = {"negative": ("terrible", "boring", "dull"), "positive": ("wonderful", "great", "good")}
ROWS = 12
QUICK: Mapping[str, Any] = {"epochs": 1, "batch_size": 4, "samples": 0, "max_new_tokens": 4, "shots": 2}


@dataclass(frozen=True)
class Trial:
    """One run of a method: what it was given, told, printed and gave back."""

    job: Job
    events: tuple[Event, ...]
    outcome: Outcome | None
    printed: str


class Subject:
    """A method and a folder to try it in. Models and runs are made once and shared by the checks."""

    def __init__(self, method: type[Method], folder: Path, settings: Mapping[str, Any]) -> None:
        self.method, self.folder, self.settings = method, folder, settings

    @property
    def tasks(self) -> list[str]:
        """The tasks that the method declares, and that are known."""
        return sorted({"classification", "generation", "preference", "text"} & set(self.method.tasks))

    def config(self) -> Any:
        """Settings that make a job small, where the method has them; the caller's own come first."""
        quick = {name: value for name, value in QUICK.items() if name in self.method.Config.model_fields}
        return self.method.Config(**{**quick, **self.settings})

    @functools.cache  # noqa: B019 - a subject lives as long as its checks
    def model(self, architecture: Any) -> ModelRef:
        """A tiny model on disk."""
        path = tiny_model(architecture, self.folder / "models" / architecture)
        return ModelRef(architecture, "folder", str(path))

    def job(self, task: str, name: str) -> Job:
        """A small job in a new folder called `name`."""
        directory = self.folder / "runs" / f"{task}-{name}"
        directory.mkdir(parents=True)
        prompt = self.method.verb == "prompt"
        table = examples(task)
        labels = ("negative", "positive") if task == "classification" else ()
        job = Job(
            method=self.method.name,
            config=self.config(),
            model=self.model("bert" if task == "classification" and not prompt else "llama"),
            task=task,  # type: ignore[arg-type]  # one of Task: it comes from `tasks`
            directory=directory,
            data=table,
            evaluation=None if prompt else dataclasses.replace(table, rows=table.rows[:4]),
            prompt="{{" + next(iter(table.rows[0])) + "}}" if prompt else None,
            labels=labels,
            seed=7,
        )
        return self._with_examples(job, table) if prompt else job

    def _with_examples(self, job: Job, table: Examples) -> Job:
        """The job as it is, or with demonstrations where the method asks for them."""
        try:
            self.method().estimate(job)
        except RequestError:
            return dataclasses.replace(job, examples=dataclasses.replace(table, rows=table.rows[-4:]))
        return job

    @functools.cache  # noqa: B019 - a subject lives as long as its checks
    def trial(self, task: str, name: str = "first") -> Trial:
        """The job of a task, run to its end. `name` tells repeated runs apart."""
        return self.run(self.job(task, name))

    @functools.cache  # noqa: B019 - a subject lives as long as its checks
    def estimate(self, task: str) -> Estimate:
        """The estimate of the job of a task."""
        return self.method().estimate(self.job(task, "estimate"))

    def run(self, job: Job, stop_at: int | None = None) -> Trial:
        """Run a job; after `stop_at` Progress events the user presses Stop."""
        events: list[Event] = []

        def emit(event: Event) -> None:
            events.append(event)
            told = sum(isinstance(e, Progress) for e in events)
            if isinstance(event, Progress) and told == stop_at:
                raise Stopped("stopped by the conformance kit")

        printed = io.StringIO()
        outcome = None
        with contextlib.redirect_stdout(printed), contextlib.suppress(Stopped):
            outcome = self.method().run(job, emit)
        return Trial(job, tuple(events), outcome, printed.getvalue())


def examples(task: str) -> Examples:
    """A small, learnable table for a task."""
    rows: list[dict[str, str]] = []
    for i in range(ROWS):
        label = ("negative", "positive")[i % 2]
        text = f"The film number {i} was {WORDS[label][i // 2 % 3]}."
        other = ("negative", "positive")[(i + 1) % 2]
        rows.append(
            {
                "classification": {"text": text, "label": label},
                "generation": {"prompt": text, "completion": label},
                "preference": {"prompt": text, "chosen": label, "rejected": other},
                "text": {"text": text},
            }[task]
        )
    labels = ("negative", "positive") if task == "classification" else ()
    return Examples(task, tuple(rows), labels, "the kit's rows")  # type: ignore[arg-type]  # one of Task
