"""Rules about what a method does, on tiny real models. A rule raises AssertionError."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from nbadapt.events import Parameters, Progress
from nbadapt.method import Job, Outcome
from nbadapt.testing.subject import Subject, examples


def estimates_without_weights(subject: Subject) -> None:
    """`estimate` works where the model's weights are missing, and gives figures that can be."""
    for task in subject.tasks:
        job = subject.job(task, "no-weights")
        folder = subject.folder / f"config-only-{task}"
        shutil.copytree(job.model.path, folder)
        for weights in folder.glob("*.safetensors"):
            weights.unlink()
        job = dataclasses.replace(job, model=dataclasses.replace(job.model, path=str(folder)))
        estimate = subject.method().estimate(job)
        figures = (estimate.trainable, estimate.total, estimate.artifact, estimate.steps, *estimate.memory.values())
        assert all(figure >= 0 for figure in figures), f"{task}: a negative figure in {estimate}"
        assert estimate.trainable <= estimate.total, f"{task}: more trainable than all parameters"


def estimates_parameters_exactly(subject: Subject) -> None:
    """A finetuning method tells its parameters, and they are those of the estimate."""
    if subject.method.verb != "finetune":
        return
    for task in subject.tasks:
        told = [e for e in subject.trial(task).events if isinstance(e, Parameters)]
        assert told, f"{task}: no Parameters event"
        estimate = subject.estimate(task)
        expected = (estimate.trainable, estimate.total)
        assert (told[0].trainable, told[0].total) == expected, f"{task}: estimated {expected}, run with {told[0]}"


def tells_its_progress(subject: Subject) -> None:
    """Progress is told from step to step, upwards, and never beyond its total."""
    for task in subject.tasks:
        steps = [e for e in subject.trial(task).events if isinstance(e, Progress)]
        assert steps, f"{task}: no Progress event"
        assert all(a.step < b.step for a, b in zip(steps, steps[1:], strict=False)), f"{task}: steps do not rise"
        assert all(0 < e.step <= e.total for e in steps), f"{task}: a step outside 1 to its total"


def does_every_declared_task(subject: Subject) -> None:
    """Each declared task ends with an outcome: finite figures, and artifacts that are in the run's folder."""
    for task in subject.tasks:
        trial = subject.trial(task)
        assert isinstance(trial.outcome, Outcome), f"{task}: run returned {trial.outcome!r}, not an Outcome"
        json.dumps(dataclasses.asdict(trial.outcome))
        for name, value in trial.outcome.metrics.items():
            assert math.isfinite(value), f"{task}: the metric {name} is {value}"
        for name, path in trial.outcome.artifacts.items():
            inside = not Path(path).is_absolute() and ".." not in Path(path).parts
            assert inside, f"{task}: the artifact {name} is not in the run's folder: {path}"
            assert (trial.job.directory / path).exists(), f"{task}: the artifact {name} is missing: {path}"


def writes_in_its_folder_only(subject: Subject) -> None:
    """Nothing but the run's folder changes: not the model's folder, not the working directory."""
    task = subject.tasks[0]
    job = subject.job(task, "writes")
    watched = [Path(job.model.path), Path.cwd()]
    before = [_listing(folder, job.directory) for folder in watched]
    subject.run(job)
    for folder, listing in zip(watched, before, strict=True):
        changed = sorted(set(listing.items()) ^ set(_listing(folder, job.directory).items()))
        assert not changed, f"outside the run's folder: {changed[0][0]}"


def _listing(folder: Path, without: Path) -> dict[str, tuple[int, int]]:
    """Names, sizes and times of a folder's entries, one level deep in the working directory."""
    found = {}
    for path in folder.iterdir():
        if path != without and without not in path.parents and path not in without.parents:
            status = path.stat()
            found[str(path)] = (status.st_size if path.is_file() else 0, status.st_mtime_ns if path.is_file() else 0)
    return found


def prints_nothing(subject: Subject) -> None:
    """Nothing is printed: what a person should see is an event."""
    for task in subject.tasks:
        printed = subject.trial(task).printed
        assert not printed, f"{task}: it printed {printed[:80]!r}"


def leaves_its_job_alone(subject: Subject) -> None:
    """The job is the same after the run as before."""
    job = subject.job(subject.tasks[0], "unchanged")
    before = copy.deepcopy(job)
    subject.run(job)
    assert job == before, "run changed its job"


def leaves_the_base_alone(subject: Subject) -> None:
    """The base weights that all runs share are bit by bit those of the file."""
    from nbadapt import models

    for task in subject.tasks:
        job = subject.trial(task).job
        if task == "classification" and subject.method.verb == "finetune":
            model, _ = models.load_classifier(job.model, job.labels, job.device, job.dtype, job.seed)
        else:
            model, _ = models.load(job.model, job.device, job.dtype)
        frozen = {n: p for n, p in model.named_parameters() if not p.requires_grad}
        models.free()
        if task == "classification" and subject.method.verb == "finetune":
            fresh, _ = models.load_classifier(job.model, job.labels, job.device, job.dtype, job.seed)
        else:
            fresh, _ = models.load(job.model, job.device, job.dtype)
        for name, parameter in fresh.named_parameters():
            if name in frozen:
                assert _digest(parameter) == _digest(frozen[name]), f"{task}: the base weight {name} was changed"


def _digest(tensor: Any) -> str:
    return hashlib.sha256(tensor.detach().cpu().float().numpy().tobytes()).hexdigest()


def repeats_itself(subject: Subject) -> None:
    """The same job with the same seed gives the same figures."""
    task = subject.tasks[0]
    first, second = subject.trial(task).outcome, subject.trial(task, "again").outcome
    assert first is not None, "run returned no outcome"
    assert second is not None, "run returned no outcome"
    assert first.metrics == second.metrics, f"{first.metrics} and then {second.metrics}"


def stops_when_told(subject: Subject) -> None:
    """After Stop there is at most one more step; the method returns an outcome or lets Stopped through."""
    for task in subject.tasks:
        trial = subject.run(subject.job(task, "stop"), stop_at=1)
        steps = sum(isinstance(e, Progress) for e in trial.events)
        assert steps <= 2, f"{task}: {steps - 1} more steps after Stop"


def loads_in_another_process(subject: Subject) -> None:
    """What is stored gives the same outputs in a fresh process."""
    for task in subject.tasks:
        trial = subject.trial(task)
        assert trial.outcome is not None, f"{task}: run returned no outcome"
        here = outputs(subject.method, trial.job, trial.outcome)
        there = _outputs_elsewhere(subject, trial.job, trial.outcome)
        assert here == there, f"{task}: here {here}, in a fresh process {there}"


def outputs(method: Any, job: Job, outcome: Outcome) -> Any:
    """What the loaded result says to a few inputs, as JSON has it; probabilities to a few digits."""
    adapted = method().load(outcome, job)
    row = examples(job.task).rows[0]
    texts = [str(next(iter(row.values()))), "The film was good."]
    if "generate" in adapted.abilities:
        return list(adapted.generate(texts, max_new_tokens=4))
    predictions = adapted.predict(texts)
    return [[round(float(p), 4) for p in line] for line in predictions.probabilities]


def _outputs_elsewhere(subject: Subject, job: Job, outcome: Outcome) -> Any:
    record = {
        "config": job.config.model_dump(mode="json"),
        "model": dataclasses.asdict(job.model),
        "rest": {n: getattr(job, n) for n in ("method", "task", "prompt", "labels", "seed", "device", "dtype")},
        "directory": str(job.directory),
        "examples": None if job.examples is None else [dict(row) for row in job.examples.rows],
        "outcome": dataclasses.asdict(outcome),
    }
    code = (
        f"import sys, json; sys.path[:0] = {sys.path!r}; from nbadapt.testing.behaviour import say_outputs; "
        f"from {subject.method.__module__} import {subject.method.__qualname__} as method; "
        "say_outputs(method, json.load(sys.stdin))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(record), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"load failed in a fresh process: {done.stderr.strip().splitlines()[-1:]}"
    return json.loads(done.stdout.splitlines()[-1])


def say_outputs(method: Any, record: dict[str, Any]) -> None:
    """Print the outputs of a stored result; runs in the fresh process."""
    from nbadapt.method import ModelRef

    task = record["rest"]["task"]
    shown = record["examples"]
    job = Job(
        config=method.Config.model_validate(record["config"]),
        model=ModelRef(**record["model"]),
        directory=Path(record["directory"]),
        examples=None if shown is None else dataclasses.replace(examples(task), rows=tuple(shown)),
        **{**record["rest"], "labels": tuple(record["rest"]["labels"])},
    )
    sys.stdout.write("\n" + json.dumps(outputs(method, job, Outcome(**record["outcome"]))) + "\n")


def exports_what_it_declares(subject: Subject) -> None:
    """Every declared export writes files."""
    for task in subject.tasks:
        trial = subject.trial(task)
        assert trial.outcome is not None, f"{task}: run returned no outcome"
        for kind in sorted(subject.method.exports):
            target = subject.folder / "exports" / f"{task}-{kind}"
            target.mkdir(parents=True, exist_ok=True)
            subject.method().export(kind, trial.outcome, trial.job, target)
            assert any(target.iterdir()), f"{task}: the export {kind!r} wrote nothing"


RULES = (
    estimates_without_weights,
    estimates_parameters_exactly,
    tells_its_progress,
    does_every_declared_task,
    writes_in_its_folder_only,
    prints_nothing,
    leaves_its_job_alone,
    leaves_the_base_alone,
    repeats_itself,
    stops_when_told,
    loads_in_another_process,
    exports_what_it_declares,
)
