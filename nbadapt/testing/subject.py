"""A method under test: jobs for it on tiny models, and what its runs did, observed once and asked many times."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from nbadapt import named
from nbadapt.data import Examples
from nbadapt.errors import RequestError, UnsuitedError
from nbadapt.estimating import LateError, NoEstimateError, within
from nbadapt.events import Checkpoint, Event, Notice
from nbadapt.gradients import GradientWatch
from nbadapt.method import Adapted, Estimate, Job, Method, ModelRef, Outcome
from nbadapt.testing.auditing import changes, connections
from nbadapt.testing.kit import UntriedError, UnusableError
from nbadapt.testing.memory import held_bytes
from nbadapt.testing.printing import Printed
from nbadapt.testing.tiny import Architecture, tiny_model
from nbadapt.testing.watching import BaseWeights, Places

LABELS = ("negative", "positive")
ROWS = 40
LATE = 30.0  # seconds after which an estimate is not waited for any more, for the rest of the check
_WORDS = (("wonderful", "positive"), ("boring", "negative"), ("great", "positive"), ("terrible", "negative"))
_PAIRS = (("house", "Haus"), ("dog", "Hund"), ("tree", "Baum"), ("water", "Wasser"))


class Interrupt(KeyboardInterrupt):
    """An interrupt that the kit makes itself; a person's goes through it."""


@dataclass
class Trial:
    """One observed run.

    Attributes:
        job: what was asked.
        events: what the method told.
        outcome: what it gave back; None where it let an exception through.
        error: that exception.
        phantoms: checkpoints that were no folder of the run when they were told of; later they may make room.
        printed: what it wrote to standard output and standard error, child processes included.
        strays: files that appeared or changed outside the job's folder.
        connections: other machines that it reached for.
        job_changed: names of the job's parts that are no longer what they were.
        weights_changed: whether the shared base weights are no longer what they were.
        unreached: what the runner would tell of trained tensors that no gradient reaches.
    """

    job: Job
    events: list[Event] = field(default_factory=list)
    outcome: Outcome | None = None
    error: BaseException | None = None
    phantoms: list[str] = field(default_factory=list)
    printed: str = ""
    strays: list[str] = field(default_factory=list)
    connections: list[str] = field(default_factory=list)
    job_changed: list[str] = field(default_factory=list)
    weights_changed: bool = False
    unreached: list[Notice] = field(default_factory=list)


class Subject:
    """A method and a room for its runs.

    Args:
        method: the class.
        settings: its settings for the runs; None for its defaults.

    Attributes:
        reached: the other machines that its estimates and its loading reached for so far.
        strays: what these wrote elsewhere than in the kit's own folders and the model's.
    """

    def __init__(self, method: type[Method], settings: Mapping[str, Any] | None = None) -> None:
        self.method, self.settings = method, dict(settings or {})
        self.reached: dict[str, set[str]] = {"estimate": set(), "load": set()}
        self.strays: dict[str, set[str]] = {"estimate": set(), "load": set()}
        self._trials: dict[str, Trial] = {}
        self._count = 0
        self._late = False
        self._remove: weakref.finalize[..., Subject] | None = None

    @cached_property
    def _room(self) -> Path:
        """The folder of models and runs; goes with the subject."""
        room = Path(tempfile.mkdtemp(prefix="nbadapt-kit-"))
        self._remove = weakref.finalize(self, shutil.rmtree, room, ignore_errors=True)
        return room

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._remove is not None:
            self._remove()

    @property
    def tasks(self) -> list[str]:
        """The tasks that the method declares, in alphabetical order.

        Raises:
            UntriedError: nothing of it can run: a library is missing.
        """
        from nbadapt import registry

        missing = registry.missing_requirements(self.method)
        if missing:
            install = registry.install_command(self.method)
            raise UntriedError(f"not installed: {', '.join(missing)}; check again after  {install}")
        return sorted(self.method.tasks)

    # ------------------------------------------------------------------ jobs

    def job(self, task: str, architecture: Architecture | None = None, *, wide: tuple[int, int] | None = None) -> Job:
        """A new small job, with a folder of its own that is not made yet.

        A prompting method that refuses a job without examples gets some. Without an architecture it is on one
        that the method does not refuse. `wide` is its width and its number of layers, where it is not the tiniest.

        Raises:
            UntriedError: the method's Config has no defaults that fit.
        """
        try:
            given = {**self.method.trial(self._room), **self.settings}
            settings, functions = named.resolve(self.method, given)
            config = self.method.Config(**settings)
        except ValueError:
            raise UntriedError(
                "its settings have no defaults that fit: give some with settings=, or in trial"
            ) from None
        self._count += 1
        rows = tuple(_row(task, i) for i in range(ROWS))
        labels = LABELS if task == "classification" else ()
        prompting = self.method.verb == "prompt"
        job = Job(
            method=self.method.name,
            config=config,
            model=ModelRef("tiny", "folder", str(self.folder(architecture or self._architecture(task), wide))),
            task=task,  # type: ignore[arg-type]  # a wrong task is what `tasks` reports
            directory=self._room / f"run-{self._count}",
            data=Examples(task, rows[:-8], labels, "data"),  # type: ignore[arg-type]  # as above
            evaluation=None if prompting else Examples(task, rows[-8:], labels, "evaluation"),  # type: ignore[arg-type]
            functions=functions,
            prompt="{{text}}\nLabel:" if task == "classification" else "{{prompt}}" if prompting else None,
            labels=() if prompting else labels,
        )
        if not prompting:
            return self._suited(_with(job, prompt=None), wide) if architecture is None else _with(job, prompt=None)
        if task == "text":
            job = _with(job, prompt="{{text}}")
        job = _with(job, prompt=self.method.trial_prompt(job.prompt or ""))
        try:
            self.estimate(job)
        except RequestError:
            return _with(job, examples=_examples(task))
        except Exception:  # noqa: BLE001 - other checks report it
            return job
        return job

    def _suited(self, job: Job, wide: tuple[int, int] | None) -> Job:
        """The job, on a model with biases where the method refuses one without."""
        if job.task == "classification":
            return job
        try:
            self.estimate(job)
        except (RequestError, UnsuitedError):
            return _with(job, model=ModelRef("tiny", "folder", str(self.folder("qwen2", wide))))
        except Exception:  # noqa: BLE001 - other checks report it
            return job
        return job

    def _architecture(self, task: str) -> Architecture:
        encoder = task == "classification" and self.method.verb == "finetune"
        return "bert" if encoder else "llama"

    def folder(self, architecture: Architecture, wide: tuple[int, int] | None = None) -> Path:
        """The folder of a tiny model, of this width and number of layers; made on first use."""
        folder = self._room / (architecture if wide is None else f"{architecture}-{wide[0]}x{wide[1]}")
        return folder if folder.exists() else tiny_model(architecture, folder, wide=wide)

    def base_bytes(self, job: Job) -> int:
        """What the shared base weights that runs on the job's model loaded take in memory."""
        from nbadapt import models

        return held_bytes(models.loaded(job.model).values())

    # ------------------------------------------------------------------ runs

    def estimate(self, job: Job) -> Estimate:
        """What the method estimates for a job.

        Raises:
            NoEstimateError: nothing came in time, now or earlier: a method that hangs is waited for once.
        """
        if not self._late:
            with self._alone("estimate", job):
                try:
                    return within(LATE, lambda: self.method().estimate(job))
                except LateError:
                    self._late = True
        raise NoEstimateError(f"the estimate gave no answer within {LATE:g} s")

    def load(self, trial: Trial) -> Adapted:
        """What the method loads from the artifacts of a trial that has an outcome."""
        assert trial.outcome is not None  # the caller looked
        with self._alone("load", trial.job):
            return self.method().load(trial.outcome, bare(trial.job))

    @contextlib.contextmanager
    def _alone(self, what: str, job: Job) -> Iterator[None]:
        """Inside, no other machine can be reached; what was tried, and what is written elsewhere, is noted."""
        tried: list[str] = []
        strays: list[str] = []
        try:
            with connections() as tried, changes((self._room, Path(job.model.path))) as strays:
                yield
        finally:
            self.reached[what].update(tried)
            self.strays[what].update(strays)  # known when the watch is over

    def trials(self) -> Iterator[tuple[str, Trial]]:
        """An undisturbed run of each task, made on first use; tasks that fail are left out.

        Raises:
            UnusableError: all fail; the check `tasks` tells how.
        """
        usable = [task for task in self.tasks if self.failure(task) is None]
        if not usable:
            raise UnusableError("no run succeeds: see the check tasks")
        yield from ((task, self._trials[task]) for task in usable)

    def failure(self, task: str) -> BaseException | None:
        """Why an undisturbed run of the task failed, or None."""
        if task not in self._trials:
            self._trials[task] = self.observe(self.job(task))
        return self._trials[task].error

    def observe(self, job: Job, emit: Callable[[Event], None] | None = None) -> Trial:
        """Run a job and look at everything that the contract speaks of.

        Args:
            job: what to run.
            emit: called with every event after it is written down; may raise Stopped.
        """
        trial = Trial(job)
        job.directory.mkdir(parents=True, exist_ok=True)  # there when a stopped run goes on
        before, bases = _frozen(job), BaseWeights(job.model)

        def tell(event: Event) -> None:
            trial.events.append(event)
            watch.see(event)
            if isinstance(event, Checkpoint) and not _is_inside(job.directory, event.path):
                trial.phantoms.append(event.path)
            if emit is not None:
                emit(event)

        with (
            Printed() as output,
            Places(self._room, job) as places,
            connections() as trial.connections,
            GradientWatch(trial.unreached.append) as watch,
        ):
            try:
                trial.outcome = self.method().run(job, tell)
                if not isinstance(trial.outcome, Outcome):
                    trial.error = TypeError(f"run gave {type(trial.outcome).__name__} back, not an Outcome")
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt) and not isinstance(error, Interrupt):
                    raise
                trial.error = error
        trial.printed, trial.strays = output.text, places.strays
        trial.job_changed = [name for name, value in _frozen(job).items() if value != before[name]]
        trial.weights_changed = bases.changed()
        return trial


def _is_inside(directory: Path, path: str) -> bool:
    """Whether a path is a folder below the run's."""
    folder = (directory / path).resolve()
    return folder.is_dir() and directory.resolve() in folder.parents


def _row(task: str, i: int) -> dict[str, Any]:
    word, label = _WORDS[i % 4]
    english, german = _PAIRS[i % 4]
    prompt = f"{i}. English: {english} German:"
    match task:
        case "classification":
            return {"text": f"The film number {i} was {word}.", "label": label}
        case "preference":
            return {"prompt": prompt, "chosen": german, "rejected": english}
        case "text":
            return {"text": f"{i}. The {english} was {word}."}
    return {"prompt": prompt, "completion": german}


def _examples(task: str) -> Examples:
    """Answered rows: those of a text are continued."""
    rows = [_row(task, i) for i in range(ROWS - 8, ROWS)]
    if task == "text":
        return Examples("generation", tuple({**row, "completion": "Good."} for row in rows), (), "examples")
    return Examples(task, tuple(rows), LABELS if task == "classification" else (), "examples")  # type: ignore[arg-type]  # see `job`


def bare(job: Job) -> Job:
    """The job as it is given to `load`: without tables."""
    return dataclasses.replace(job, data=None, evaluation=None, examples=None)


def _with(job: Job, **parts: Any) -> Job:
    return dataclasses.replace(job, **parts)


def _frozen(job: Job) -> dict[str, Any]:
    """Every part of a job, in copies that a method cannot reach."""
    parts = {name: copy.deepcopy(value) for name, value in vars(job).items() if name != "config"}
    return {**parts, "config": job.config.model_dump()}
