"""A process of its own for tests/test_short_memory.py: trains with too little memory for a batch, or with enough.

Each in its own process: oneDNN remembers a kernel that it had no memory for, and does not try to make it again. Prints
one JSON object: the losses, what was said, and the held-out losses.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
from pathlib import Path
from typing import Any

import psutil

from nbadapt import registry
from nbadapt.events import Metric, Notice, Progress
from nbadapt.method import Job
from tests.trained_jobs import make_job

TEXT = "The film was a wonderful surprise and the actors were great. " * 12


def long_rows(job: Job, count: int) -> Job:
    """The job with `count` rows of some hundred tokens for training, and as many held out."""
    assert job.data is not None
    column = "text" if job.task == "classification" else "prompt"
    rows = tuple({**job.data.rows[i % len(job.data)], column: f"{i} {TEXT}"} for i in range(count))
    table = dataclasses.replace(job.data, rows=rows)
    return dataclasses.replace(job, data=table, evaluation=table)


def run(job: Job, directory: Path, **changed: Any) -> dict[str, Any]:
    """Losses, notices and steps of one training."""
    events: list[Any] = []
    config = job.config.model_copy(update=changed)
    outcome = registry.load(job.method)().run(
        dataclasses.replace(job, config=config, directory=directory), events.append
    )
    return {
        "losses": [e.values["loss"] for e in events if isinstance(e, Metric) and e.split == "train"],
        "said": [e.text for e in events if isinstance(e, Notice)],
        "steps": [e.step for e in events if isinstance(e, Progress)],
        "metrics": dict(outcome.metrics),
    }


def main(name: str, architecture: str, task: str, accumulated: int, share: float, folder: Path) -> None:
    """Leave `share` of the memory that a training step takes at its peak, beside the weights; 0 for no limit."""
    settings: dict[str, Any] = {"batch_size": 64, "gradient_accumulation_steps": accumulated, "epochs": 2, "samples": 0}
    method = registry.load(name)
    if "target_modules" in method.Config.model_fields:
        settings["target_modules"] = "all-linear"
    job = long_rows(make_job(method, architecture, task, folder, **settings), 128)
    if share:
        needed = method().estimate(job).memory["activations"]
        run(job, folder / "warm", batch_size=2, max_steps=1)  # whatever is made once is there
        room = psutil.Process().memory_info().vms + int(share * needed)
        resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
    found = run(job, folder / "run")
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]), float(sys.argv[5]), Path(sys.argv[6]))
