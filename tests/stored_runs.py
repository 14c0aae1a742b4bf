"""Runs as another kernel has left them: written with the store's own functions, so that many are there at once."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from nbadapt import store
from nbadapt.events import Checkpoint, Memory, Metric, Parameters, Progress, StateChange
from nbadapt.method import Outcome
from nbadapt.run import Run

CREATED = time.time() - 86_400


def keep(
    number: int,
    *,
    method: str = "lora",
    name: str = "",
    steps: int = 60,
    accuracy: float | None = 0.5,
    state: str = "done",
    seconds: float = 30.0,
    trainable: int = 147_456,
    model: str = "minilm",
    source: str = "train_df",
    fingerprint: str = "abc",
    settings: dict[str, Any] | None = None,
    metrics: dict[str, float] | None = None,
) -> Run:
    """A run of `steps` steps with a falling loss, kept in the folder of the test's runs."""
    created = CREATED + 60 * number
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(created))
    directory = store.root() / f"{stamp}-{method}-{number:04x}"
    directory.mkdir(parents=True)
    request = {
        "verb": "finetune",
        "method": method,
        "title": f"finetune {method} · {model}",
        "name": name,
        "created": created,
        "settings": {"epochs": 3, "learning_rate": 2e-4} if settings is None else settings,
        "model": {"name": model, "kind": "package", "path": model},
        "task": "classification",
        "data": {"source": source, "rows": 900, "fingerprint": fingerprint},
        "evaluation": {"source": source, "rows": 100, "fingerprint": fingerprint},
        "examples": None,
        "prompt": None,
        "variables": {},
        "labels": ["bad", "good"],
        "metric": None,
        "seed": 0,
        "device": "cpu",
        "dtype": "float32",
        "estimate": {"notes": []},
        "versions": {"python": "3.11"},
    }
    store.write_json(directory / "request.json", request)
    write_events(directory, created, steps, seconds, trainable, accuracy, state)
    if state in {"done", "stopped"}:
        found = {"loss": 0.3, **({} if accuracy is None else {"accuracy": accuracy})} if metrics is None else metrics
        store.write_outcome(directory, state, Outcome(found, {"adapter": "artifacts/adapter"}), "")
    return Run.at(directory)


def write_events(
    directory: Path, start: float, steps: int, seconds: float, trainable: int, accuracy: float | None, state: str
) -> None:
    """The log of such a run."""
    noise = random.Random(directory.name)
    log = store.EventLog(directory)
    log.write(start, StateChange("starting"))
    log.write(start, StateChange("running"))
    log.write(start, Parameters(trainable, 22_000_000))
    for step in range(1, steps + 1):
        now = start + seconds * step / steps
        log.write(now, Metric(step, "train", {"loss": 0.3 + 0.4 / step + noise.gauss(0, 0.02), "learning_rate": 1e-4}))
        log.write(now, Progress(step, steps, examples=16 * step, tokens=900 * step))
        if step % max(1, steps // 5) == 0:
            log.write(now, Memory(10**9, 10**9 + step))
            held = {"loss": 0.35 + 0.4 / step}
            log.write(now, Metric(step, "evaluation", {**held, **({} if accuracy is None else {"accuracy": accuracy})}))
            log.write(now, Checkpoint(step, f"checkpoints/checkpoint-{step}"))
    log.write(start + seconds, StateChange(state))  # type: ignore[arg-type]  # tests name real states
    log.close()
