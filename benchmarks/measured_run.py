"""One finetuning with nbadapt in a process of its own: the other benchmarks call it and read what it prints.

usage: python benchmarks/measured_run.py METHOD MODEL TRAIN_FILE HELD_OUT_FILE [--rows N] [--held-out FIRST END]
                                         [--seed N] [--set KEY=VALUE ...]

Prints one JSON object: the figures on the held-out rows from FIRST up to but not including END ("loss", of a language
model with its standard error "loss_error", or "accuracy"), "training" seconds (from the first batch
to the last step, evaluations not counted), "total" seconds, "tokens" per second, trained parameters, "peak" memory
beyond the imports and "size" on disk in bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import peft
import sklearn.linear_model
import transformers
import yaml
from held_out import held_out_loss
from report import peak_memory

import nbadapt
from nbadapt import registry
from nbadapt.engines.encoding import encode, length_limit, virtual_tokens
from nbadapt.events import Parameters, Progress, Stage

del peft, sklearn, transformers  # imported beforehand: imports do not count

NEVER = 1_000_000_000  # steps between evaluations: only the last step is followed by one


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("method", "model", "train", "evaluation"):
        parser.add_argument(name)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--held-out", type=int, nargs=2, metavar=("FIRST", "END"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    arguments = parser.parse_args()
    pairs = (pair.split("=", 1) for pair in arguments.settings)
    settings: dict[str, Any] = {name: yaml.safe_load(value) for name, value in pairs}
    fields = registry.load(arguments.method).Config.model_fields
    never = {"eval_steps": NEVER, "samples": 0}
    settings = {**{name: value for name, value in never.items() if name in fields}, **settings}
    train, held_out = read(arguments.train)[: arguments.rows], read(arguments.evaluation)[slice(*arguments.held_out)]
    before = peak_memory()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NBADAPT_RUNS"], os.environ["NBADAPT_EMBEDDINGS"] = f"{folder}/runs", f"{folder}/embeddings"
        start = time.perf_counter()
        run = nbadapt.finetune(
            arguments.method, model=arguments.model, data=train, eval=held_out, seed=arguments.seed, **settings
        )
        total = time.perf_counter() - start
        peak = peak_memory() - before
        print(json.dumps({**figures(run), **losses(run), "total": total, "peak": peak}))


def read(name: str) -> pd.DataFrame:
    """A table from a CSV or JSONL file."""
    return pd.read_csv(name) if name.endswith(".csv") else pd.read_json(name, lines=True)


def losses(run: nbadapt.Run) -> dict[str, float]:
    """The loss on the held-out rows, of a language model as it is stored."""
    job = run.job(tables=True)
    if job.task == "classification":
        return {}
    assert job.evaluation is not None
    result: Any = run.adapted()
    limit = length_limit(result.model.config, job.config.max_length, virtual_tokens(result.model))
    return held_out_loss(result.model, encode(job.evaluation, result.tokenizer, None, limit).rows)


def figures(run: nbadapt.Run) -> dict[str, float]:
    """What the run's events and its folder tell."""
    at_work = ("training", "embedding")
    began = next(t for t, event in run.events if isinstance(event, Stage) and event.text.startswith(at_work))
    ended, last = next((t, event) for t, event in reversed(run.events) if isinstance(event, Progress))
    parameters = next((event for _, event in run.events if isinstance(event, Parameters)), None)
    stored = Path(run.directory) / "artifacts"
    return {
        **run.metrics,
        "training": ended - began,
        "tokens": last.tokens / (ended - began),
        "trainable": parameters.trainable if parameters else 0,
        "size": sum(file.stat().st_size for file in stored.rglob("*") if file.is_file()),
    }


if __name__ == "__main__":
    main()
