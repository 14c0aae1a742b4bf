"""LoRA with nbadapt against a tutorial script (Hugging Face Trainer and peft, float32): accuracy and seconds.

usage: python benchmarks/lora_speed.py [--data FOLDER] [--rows 2000] [--seeds 0 1 2]

Both sides do the same job on the same rows: MiniLM, r=8 on query and value, batches of 16, 3 epochs, a checkpoint
after each. They run in fresh processes, in turn, so that a slow minute of the machine hits both. "training" is the
time from the first to the last step with all that lies between; "in all" adds loading, tokenising and saving, and
on nbadapt's side also the estimate, its own evaluation on 32 rows, which it always makes, and the run's record.
Imports count on neither side. Writes benchmarks/results/lora_speed.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median

from report import environment, save, table

SIDES = ("tutorial script", "nbadapt")
HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--nbadapt-once", type=int, metavar="SEED", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not (arguments.data / "movie_reviews_train.csv").is_file():
        sys.exit(f"no movie_reviews_train.csv in {arguments.data}: name its folder with --data")
    if arguments.nbadapt_once is not None:
        train_with_nbadapt(arguments.data, arguments.rows, arguments.nbadapt_once)
        return
    results: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for seed in arguments.seeds:
        for side in SIDES:
            results[side].append(measure(side, arguments.data, arguments.rows, seed))
            print(side, seed, results[side][-1], file=sys.stderr, flush=True)
    save("lora_speed", report(results, arguments.seeds))


def measure(side: str, data: Path, rows: int, seed: int) -> dict[str, float]:
    """One training in a fresh process: its "training" and "total" seconds and its test "accuracy"."""
    from nbadapt.packaged_models import MINILM

    folder = MINILM.folder()
    if folder is None:
        sys.exit(f"this benchmark needs a model: {MINILM.install}")
    files = [str(data / f"movie_reviews_{part}.csv") for part in ("train", "test")]
    if side == "nbadapt":
        command = [__file__, "--data", str(data), "--nbadapt-once", str(seed)]
    else:
        command = [str(HERE / "tutorial_classifier.py"), "lora", str(folder), *files, "--seed", str(seed)]
    command = [sys.executable, *command, "--rows", str(rows)]
    out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    measured: dict[str, float] = json.loads(out.stdout.splitlines()[-1])
    return measured


def train_with_nbadapt(data: Path, rows: int, seed: int) -> None:
    """One training; prints one JSON object."""
    import pandas as pd
    import peft
    import torch
    import transformers

    import nbadapt
    from nbadapt.events import Progress, Stage

    del peft, torch, transformers  # imported beforehand, as on the other side
    train, test, few = (pd.read_csv(data / f"movie_reviews_{p}.csv") for p in ("train", "test", "validation"))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NBADAPT_RUNS"] = folder
        start = time.perf_counter()
        run = nbadapt.finetune(
            "lora",
            model="minilm",
            data=train[:rows],
            eval=few[:32],
            seed=seed,
            r=8,
            target_modules=["query", "value"],
            batch_size=16,
            epochs=3,
            learning_rate=1e-3,
            eval_steps=1_000_000,
        )
        total = time.perf_counter() - start
        began = next(t for t, event in run.events if event == Stage("training"))
        ended = max(t for t, event in run.events if isinstance(event, Progress))
        predicted = run.predict(list(test.text)).labels
    accuracy = float((test.label == predicted).mean())
    print(json.dumps({"training": ended - began, "total": total, "accuracy": accuracy}))


def report(results: dict[str, list[dict[str, float]]], seeds: list[int]) -> str:
    """The results as Markdown."""
    rows = []
    for side, runs in results.items():
        for seed, run in zip(seeds, runs, strict=True):
            figures = (f"{run['accuracy']:.3f}", f"{run['training']:.1f}", f"{run['total']:.1f}")
            rows.append((side, str(seed), *figures))
    middle = {
        side: {name: median(run[name] for run in runs) for name in ("training", "total")}
        for side, runs in results.items()
    }
    script, ours = (middle[side] for side in SIDES)
    accuracies = [mean(run["accuracy"] for run in results[side]) for side in SIDES]
    return "\n\n".join(
        [
            "# LoRA: nbadapt against a tutorial script",
            "MiniLM (22.7 M parameters), the first 2,000 training rows of movie reviews, r=8 on query and value, "
            "batch 16, 3 epochs, learning rate 0.001; accuracy on 1,066 test rows. The script is "
            "[tutorial_classifier.py](../tutorial_classifier.py); what is timed stands in "
            "[lora_speed.py](../lora_speed.py).",
            table(("", "seed", "test accuracy", "training, s", "in all, s"), rows),
            f"**Training {script['training'] / ours['training']:.2f} times as fast** (ratio of medians; "
            f"in all {script['total'] / ours['total']:.2f}), at a mean test accuracy of {accuracies[1]:.3f} "
            f"against {accuracies[0]:.3f}.",
            environment("benchmarks/lora_speed.py", ("torch", "transformers", "peft")),
        ]
    )


if __name__ == "__main__":
    main()
