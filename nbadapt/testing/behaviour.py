"""Rules about what a method does. Each function yields a line for everything that breaks its rule."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from nbadapt import results
from nbadapt.errors import NbadaptError, RequestError, RunError, Stopped, first_line
from nbadapt.events import (
    Event,
    Memory,
    Metric,
    Parameters,
    Progress,
    Sample,
    StateChange,
    checked,
    plain_number,
    to_json,
)
from nbadapt.method import Adapted, Method
from nbadapt.testing import fresh
from nbadapt.testing.subject import Subject, Trial, bare

QUICK = 10.0  # seconds for the estimate of a tiny job
LAST = "the last event"
ABILITIES = frozenset({"generate", "reward", "score", "predict"})


def tasks(subject: Subject) -> Iterator[str]:
    """Every declared task works on a tiny real model."""
    for task in subject.tasks:
        error = subject.failure(task)
        if error is not None:
            yield f"{task}: {type(error).__name__}: {first_line(error)}"


def estimate_weightless(subject: Subject) -> Iterator[str]:
    """The estimate needs no weights, writes nothing and is quick."""
    for task in subject.tasks:
        job = subject.job(task)
        with tempfile.TemporaryDirectory(prefix="nbadapt-kit-") as room:
            folder = Path(room) / "model"
            shutil.copytree(job.model.path, folder)
            for weights in folder.glob("*.safetensors"):
                weights.unlink()
            bare = dataclasses.replace(job, model=dataclasses.replace(job.model, path=str(folder)))
            start = time.monotonic()
            try:
                subject.estimate(bare)
            except Exception as error:  # noqa: BLE001 - any failure is the finding
                yield f"{task}: without a weights file: {type(error).__name__}: {first_line(error)}"
            seconds = time.monotonic() - start
        if seconds > QUICK:
            yield f"{task}: it took {seconds:.0f} s"
        if job.directory.exists():
            yield f"{task}: it wrote into the run's folder"


def estimate_figures(subject: Subject) -> Iterator[str]:
    """The estimate's figures are finite, not negative, and name the weights and the steps."""
    for task in subject.tasks:
        estimate = subject.estimate(subject.job(task))
        figures = {
            "trainable": estimate.trainable,
            "total": estimate.total,
            "artifact": estimate.artifact,
            "steps": estimate.steps,
            "seconds": estimate.seconds or 0,
            **{f"memory {item}": size for item, size in estimate.memory.items()},
        }
        for item, figure in figures.items():
            if not math.isfinite(figure) or figure < 0:
                yield f"{task}: {item} is {figure}"
        for item in ("total", "steps"):
            if not figures[item]:
                yield f"{task}: {item} is 0"
        if not estimate.memory.get("weights"):
            yield f"{task}: memory has no item weights"
        if estimate.trainable > estimate.total:
            yield f"{task}: more parameters are trained ({estimate.trainable}) than there are ({estimate.total})"


def estimate_exact(subject: Subject) -> Iterator[str]:
    """The estimate's parameters and steps are those that the run tells."""
    for task, trial in subject.trials():
        estimate = subject.estimate(subject.job(task))
        for event in trial.events:
            if isinstance(event, Parameters) and (event.trainable, event.total) != (estimate.trainable, estimate.total):
                yield (
                    f"{task}: {estimate.trainable} of {estimate.total} parameters were estimated, "
                    f"{event.trainable} of {event.total} are told"
                )
        told = {event.total for event in trial.events if isinstance(event, Progress)}
        if told and told != {estimate.steps}:
            yield f"{task}: {estimate.steps} steps were estimated, {sorted(told)} are told"


def parameters(subject: Subject) -> Iterator[str]:
    """A finetuning run tells how many parameters it trains; a prompting run trains none."""
    for task, trial in subject.trials():
        told = [event for event in trial.events if isinstance(event, Parameters)]
        if subject.method.verb == "finetune" and not any(event.trainable for event in told):
            yield f"{task}: no Parameters event with trained parameters"
        if subject.method.verb == "prompt" and any(event.trainable for event in told):
            yield f"{task}: parameters are trained"


def progress(subject: Subject) -> Iterator[str]:
    """Progress is told at every step, from 1 to the total."""
    for task, trial in subject.trials():
        told = [event for event in trial.events if isinstance(event, Progress)]
        if not told:
            yield f"{task}: no Progress event"
            continue
        steps = [event.step for event in told]
        if len({event.total for event in told}) > 1:
            yield f"{task}: the total changes"
        if steps != list(range(1, told[-1].total + 1)):
            yield f"{task}: the steps are {short(steps)} of {told[-1].total}"
        if any(a.examples > b.examples for a, b in itertools.pairwise(told)):
            yield f"{task}: the count of examples falls"


def events(subject: Subject) -> Iterator[str]:
    """Events can be stored, their figures are finite, and none is the runner's own."""
    for task, trial in subject.trials():
        for event in trial.events:
            kind = type(event).__name__
            if isinstance(event, StateChange | Memory):
                yield f"{task}: {kind} is told by the runner, not by a method"
            try:
                event = checked(event)  # noqa: PLW2901 - as the runner keeps it
                json.dumps(to_json(event, 0.0))
            except (TypeError, ValueError) as error:
                yield f"{task}: {kind} cannot be stored: {error}"
                continue
            values = event.values if isinstance(event, Metric) else {}
            yield from (f"{task}: {n} is {v} at step {event.step}" for n, v in values.items() if not math.isfinite(v))  # type: ignore[attr-defined]  # a Metric


def outcome(subject: Subject) -> Iterator[str]:
    """The outcome can be stored, its figures are finite, and its artifacts are in the run's folder."""
    for task, trial in subject.trials():
        result = trial.outcome
        assert result is not None  # such trials only
        try:
            results.checked(result, subject.method(), lambda _event: None)
        except RunError as error:
            yield f"{task}: it cannot be stored: {error}"
            continue
        for figure, value in result.metrics.items():
            number = plain_number(value)
            if number is None or not math.isfinite(number):
                yield f"{task}: {figure} is {value!r}"
        if subject.method.verb == "finetune" and not result.artifacts:
            yield f"{task}: a finetuning run without artifacts"
        yield from (f"{task}: {fault}" for fault in _artifact_faults(result.artifacts, trial.job.directory))
        yield from (f"{task}: the checkpoint {path} is no folder of the run" for path in trial.phantoms)


def _artifact_faults(artifacts: Mapping[str, str], directory: Path) -> Iterator[str]:
    for artifact, path in artifacts.items():
        if Path(path).is_absolute() or ".." in Path(path).parts:
            yield f"the artifact {artifact} is outside the run's folder: {path}"
        elif not (directory / path).exists():
            yield f"the artifact {artifact} is not there: {path}"


def _outcome_faults(trial: Trial) -> list[str]:
    assert trial.outcome is not None  # the caller looked
    return list(_artifact_faults(trial.outcome.artifacts, trial.job.directory))


def writes(subject: Subject) -> Iterator[str]:
    """Estimate, run and load write in the run's folder only (child processes and libraries' caches are not watched).

    All files are looked at in the kit's folders (working directory, home, temporary files) and in the model's.
    Elsewhere it is what Python opens, makes, moves and removes, caches of libraries left out: not what child processes
    do, which are seen in the folders above alone, nor what a library does in machine code.
    """
    for task, trial in subject.trials():
        subject.load(trial)
        yield from (f"{task}: {stray}" for stray in trial.strays)
    for what, strays in subject.strays.items():
        yield from (f"{what}: {stray}" for stray in sorted(strays))


def job_unchanged(subject: Subject) -> Iterator[str]:
    """A run leaves its job as it was."""
    for task, trial in subject.trials():
        if trial.job_changed:
            yield f"{task}: {', '.join(trial.job_changed)} changed"


def base_unchanged(subject: Subject) -> Iterator[str]:
    """A run leaves the base weights as they were: all runs of a kernel share them."""
    for task, trial in subject.trials():
        if trial.weights_changed:
            yield f"{task}: the shared base weights changed"


def deterministic(subject: Subject) -> Iterator[str]:
    """The same seed gives the same figures and answers."""
    for task, first in subject.trials():
        again = subject.observe(subject.job(task))
        if again.outcome is None:
            yield f"{task}: a second run fails"
            continue
        for figure in sorted({*first.outcome.metrics, *again.outcome.metrics}):  # type: ignore[union-attr]  # trial has one
            a, b = (trial.outcome.metrics.get(figure, math.nan) for trial in (first, again))  # type: ignore[union-attr]
            if not math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-8):
                yield f"{task}: {figure} is {a} and then {b}"
        if _samples(first) != _samples(again):
            yield f"{task}: the samples differ"
        here, there = (fresh.answers(subject.load(trial)) for trial in (first, again))
        for ability, said in here.items():
            if not alike(said, there.get(ability)):
                yield f"{task}: {ability} gives {short(said)} and then {short(there.get(ability))}"


def _samples(trial: Trial) -> list[Event]:
    return [event for event in trial.events if isinstance(event, Sample)]


def stop(subject: Subject) -> Iterator[str]:
    """A Stop acts before the next step but one, and goes through or leaves an outcome that loads and holds the work."""
    for task, undisturbed in subject.trials():
        last, known = len(undisturbed.events) - 1, _outcome_faults(undisturbed)
        for what, at, nth in (("the first event", Event, 0), ("the first step", Progress, 0), (LAST, Event, last)):
            job = subject.job(task)
            stopper = _Stopper(at, nth)
            trial = subject.observe(job, stopper)
            if not stopper.told:
                yield f"{task}: there is no event to stop at"
                continue
            where = f"{task}, stopped at {what}"
            if stopper.later > 1:
                yield f"{where}: {stopper.later} more steps"
            if trial.error is not None and not isinstance(trial.error, Stopped):
                yield f"{where}: {type(trial.error).__name__}: {first_line(trial.error)}"
            if what == LAST and _has_result(undisturbed) and not _has_result(trial):
                yield f"{where}: what was done by then is lost"
            if trial.outcome is not None and (trial.outcome.artifacts or subject.method.verb == "prompt"):
                yield from (f"{where}: {fault}" for fault in _outcome_faults(trial) if fault not in known)
                try:
                    subject.load(trial)
                except Exception as error:  # noqa: BLE001 - any failure is the finding
                    yield f"{where}: the outcome does not load: {type(error).__name__}: {first_line(error)}"


def _has_result(trial: Trial) -> bool:
    return trial.outcome is not None and bool(trial.outcome.artifacts or trial.outcome.metrics or trial.outcome.output)


class _Stopper:
    """Raises Stopped at the nth event of a kind, once, as the runner does; counts the steps after it."""

    def __init__(self, kind: type[Event], nth: int) -> None:
        self._kind, self._nth, self.told, self.later = kind, nth, False, 0

    def __call__(self, event: Event) -> None:
        self.later += self.told and isinstance(event, Progress)
        if not self.told and isinstance(event, self._kind):
            self._nth -= 1
            if self._nth < 0:
                self.told = True
                raise Stopped("stopped by the conformance kit")


def abilities(subject: Subject) -> Iterator[str]:
    """The loaded model does what its abilities say, and refuses the rest with a RequestError."""
    for task, trial in subject.trials():
        adapted = subject.load(trial)
        if not isinstance(adapted, Adapted):
            yield f"{task}: load gave {type(adapted).__name__} back, not an Adapted"
            continue
        unknown = adapted.abilities - ABILITIES
        if unknown or not adapted.abilities:
            yield f"{task}: the abilities are {sorted(adapted.abilities)}"
        for ability in sorted(ABILITIES):
            yield from (f"{task}: {fault}" for fault in _ability_faults(adapted, ability))


def _ability_faults(adapted: Adapted, ability: str) -> Iterator[str]:
    ask = partial(fresh.QUESTIONS[ability], adapted)
    if ability not in adapted.abilities:
        try:
            ask()
        except RequestError:
            return
        except Exception as error:  # noqa: BLE001 - any other failure is the finding
            yield f"{ability} is no ability, and raises {type(error).__name__} instead of RequestError"
            return
        yield f"{ability} is no ability, and does not raise RequestError"
        return
    try:
        said = ask()
    except Exception as error:  # noqa: BLE001 - any failure is the finding
        yield f"{ability} raises {type(error).__name__}: {first_line(error)}"
        return
    if ability == "generate":
        if len(said) != len(fresh.PROMPTS) or not all(isinstance(text, str) for text in said):
            yield f"generate gave {said!r} for {len(fresh.PROMPTS)} prompts"
        return
    rows = [said] if ability == "reward" else said  # one reward for each prompt
    if any(not math.isfinite(figure) for row in rows for figure in row) or len(said) != len(fresh.PROMPTS):
        yield f"{ability} gave {said!r}"
    elif ability == "predict" and any(abs(sum(row) - 1) > 1e-3 or min(row) < 0 for row in said):
        yield f"predict gave no probabilities: {said!r}"


def load_elsewhere(subject: Subject) -> Iterator[str]:
    """The result loads in another process, without the data, and answers the same."""
    for task, trial in subject.trials():
        assert trial.outcome is not None  # trial has one
        here = fresh.answers(subject.load(trial))
        try:
            there = fresh.elsewhere(subject.method, trial.outcome, bare(trial.job))
        except NbadaptError as error:
            yield f"{task}: {error}"
            continue
        for ability, said in here.items():
            if not alike(said, there.get(ability)):
                yield f"{task}: {ability} gives {short(there.get(ability))} there and {short(said)} here"


def alike(here: Any, there: Any) -> bool:
    """Whether two models said the same, figures apart from their last digits."""
    if isinstance(here, list) and isinstance(there, list):
        return len(here) == len(there) and all(alike(a, b) for a, b in zip(here, there, strict=True))
    if isinstance(here, float) and isinstance(there, float):
        return math.isclose(here, there, rel_tol=1e-3, abs_tol=1e-4)
    return bool(here == there)


def exports(subject: Subject) -> Iterator[str]:
    """Every declared export writes files; one that the settings rule out says so, if another one does."""
    method = subject.method
    if not isinstance(method.exports, frozenset):
        yield f"exports is {method.exports!r}, not a frozenset"
        return
    for task, trial in subject.trials():
        faults = {kind: _export_fault(method(), kind, trial) for kind in sorted(method.exports)}
        written = any(fault is None for fault in faults.values())
        for kind, fault in faults.items():
            if fault and not (written and fault.startswith(f"raises {RequestError.__name__}:")):
                yield f"{task}: {kind} {fault}"


def _export_fault(method: Method, kind: str, trial: Trial) -> str | None:
    assert trial.outcome is not None  # only such trials come here
    with tempfile.TemporaryDirectory(prefix="nbadapt-kit-") as room:
        try:
            method.export(kind, trial.outcome, trial.job, Path(room))
        except Exception as error:  # noqa: BLE001 - any failure is the finding
            return f"raises {type(error).__name__}: {first_line(error)}"
        written = [path for path in Path(room).rglob("*") if path.is_file() and path.stat().st_size]
    return None if written else "writes nothing"


def short(value: Any) -> str:
    """A value in a line."""
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


RULES = (
    tasks,
    estimate_weightless,
    estimate_figures,
    estimate_exact,
    parameters,
    progress,
    events,
    outcome,
    writes,
    job_unchanged,
    base_unchanged,
    deterministic,
    stop,
    abilities,
    load_elsewhere,
    exports,
)
