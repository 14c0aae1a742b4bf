"""Loads a result in a process of its own: what ``python -m nbadapt.testing.fresh`` does."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nbadapt.errors import RunError
from nbadapt.method import Adapted, Job, Method, ModelRef, Outcome

PROMPTS = ("The film was wonderful.", "English: dog German:")
LABELS = ("negative", "positive")


def _generate(model: Adapted) -> Any:
    return model.generate(PROMPTS, max_new_tokens=4)


def _score(model: Adapted) -> Any:
    return model.score(PROMPTS, LABELS).tolist()


def _predict(model: Adapted) -> Any:
    return model.predict(PROMPTS, LABELS).probabilities.tolist()


def _reward(model: Adapted) -> Any:
    return model.reward(PROMPTS, LABELS).tolist()


QUESTIONS: Mapping[str, Callable[[Adapted], Any]] = MappingProxyType(
    {"generate": _generate, "reward": _reward, "score": _score, "predict": _predict}
)


def answers(model: Adapted) -> dict[str, Any]:
    """What a model says to a few questions, by ability."""
    return {ability: QUESTIONS[ability](model) for ability in sorted(model.abilities & set(QUESTIONS))}


def elsewhere(method: type[Method], outcome: Outcome, job: Job) -> dict[str, Any]:
    """The `answers` of a result that another process loads.

    Raises:
        RunError: that process fails; with the last line that it wrote.
    """
    record = {
        "method": [method.__module__, method.__qualname__],
        "outcome": dataclasses.asdict(outcome),
        "job": _job_to_json(job),
    }
    path = os.pathsep.join(entry for entry in sys.path if entry)
    with tempfile.TemporaryDirectory(prefix="nbadapt-kit-") as room:
        asked, said = Path(room) / "asked.json", Path(room) / "said.json"
        asked.write_text(json.dumps(record), encoding="utf-8")
        done = subprocess.run(  # noqa: S603 - our own module
            [sys.executable, "-m", __name__, str(asked), str(said)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": path},
        )
        if done.returncode:
            raise RunError(f"another process cannot load it: {(done.stderr.strip().splitlines() or [''])[-1]}")
        found: dict[str, Any] = json.loads(said.read_text(encoding="utf-8"))
        return found


def _job_to_json(job: Job) -> dict[str, Any]:
    simple = ("method", "task", "prompt", "seed", "device", "dtype")
    return {
        **{name: getattr(job, name) for name in simple},
        "config": job.config.model_dump(mode="json"),
        "model": dataclasses.asdict(job.model),
        "directory": str(job.directory),
        "variables": dict(job.variables),
        "labels": list(job.labels),
    }


def _job_from_json(method: type[Method], record: dict[str, Any]) -> Job:
    return Job(
        **{
            **record,
            "config": method.Config.model_validate(record["config"]),
            "model": ModelRef(**record["model"]),
            "directory": Path(record["directory"]),
            "labels": tuple(record["labels"]),
        }
    )


def _main(asked: str, said: str) -> None:
    record = json.loads(Path(asked).read_text(encoding="utf-8"))
    module, qualified = record["method"]
    found: Any = importlib.import_module(module)
    for part in qualified.split("."):
        found = getattr(found, part)
    model = found().load(Outcome(**record["outcome"]), _job_from_json(found, record["job"]))
    Path(said).write_text(json.dumps(answers(model)), encoding="utf-8")


if __name__ == "__main__":
    _main(*sys.argv[1:])
