"""Training the top 2 of MiniLM's 6 blocks: a plain Trainer, nbadapt without and with what the frozen blocks give kept.

usage: python benchmarks/top_layers.py [--data FOLDER] [--rows 2000] [--epochs 3] [--seeds 0 1 2]

All sides train the same parameters with the same settings, in fresh processes, in turn, so that a slow minute of the
machine hits all. The plain Trainer (float32) and nbadapt with `cache_memory: 0` compute the frozen blocks for each row
in each epoch; by default nbadapt computes them once. "training" is the time from the first to the last step with all
that lies between; "a later epoch" is the mean epoch after the first. Writes benchmarks/results/top_layers.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, median

from report import environment, save, table

PLAIN, ANEW, KEPT = "plain Trainer", "nbadapt, computed anew", "nbadapt, kept"
CACHE = {ANEW: 0, KEPT: 1024}  # MiB
HERE = Path(__file__).parent
BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--once", type=int, nargs=2, metavar=("SEED", "MIB"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not (arguments.data / "movie_reviews_train.csv").is_file():
        sys.exit(f"no movie_reviews_train.csv in {arguments.data}: name its folder with --data")
    if arguments.once is not None:
        train(arguments, *arguments.once)
        return
    results: dict[str, list[dict[str, float]]] = {side: [] for side in (PLAIN, *CACHE)}
    for seed in arguments.seeds:
        for side, runs in results.items():
            runs.append(measure(side, arguments, seed))
            print(side, seed, runs[-1], file=sys.stderr, flush=True)
    save("top_layers", report(results, arguments))


def measure(side: str, arguments: argparse.Namespace, seed: int) -> dict[str, float]:
    """One training in a fresh process."""
    shared = ["--rows", str(arguments.rows), "--epochs", str(arguments.epochs)]
    if side == PLAIN:
        from nbadapt.packaged_models import MINILM

        files = [str(arguments.data / f"movie_reviews_{part}.csv") for part in ("train", "test")]
        command = [
            str(HERE / "tutorial_classifier.py"),
            "top-layers",
            str(MINILM.folder()),
            *files,
            "--seed",
            str(seed),
        ]
    else:
        command = [__file__, "--data", str(arguments.data), "--once", str(seed), str(CACHE[side])]
    out = subprocess.run(
        [sys.executable, *command, *shared], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    )
    measured: dict[str, float] = json.loads(out.stdout.splitlines()[-1])
    return measured


def train(arguments: argparse.Namespace, seed: int, mebibytes: int) -> None:
    """One training; prints one JSON object."""
    import pandas as pd
    import torch
    import transformers

    import nbadapt
    from nbadapt.events import Progress, Stage

    del torch, transformers  # imported beforehand: imports do not count
    train, test, few = (pd.read_csv(arguments.data / f"movie_reviews_{p}.csv") for p in ("train", "test", "validation"))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NBADAPT_RUNS"] = folder
        run = nbadapt.finetune(
            "top-layers",
            model="minilm",
            data=train[: arguments.rows],
            eval=few[:32],
            seed=seed,
            layers=2,
            learning_rate=1e-4,
            cache_memory=mebibytes,
            batch_size=BATCH,
            epochs=arguments.epochs,
            eval_steps=1_000_000,
        )
        began = next(t for t, event in run.events if event == Stage("training"))
        steps = [t for t, event in run.events if isinstance(event, Progress)]
        predicted = run.predict(list(test.text)).labels
    first = steps[-(-arguments.rows // BATCH) - 1]
    print(
        json.dumps(
            {
                "training": steps[-1] - began,
                "later": (steps[-1] - first) / max(1, arguments.epochs - 1),
                "accuracy": float((test.label == predicted).mean()),
            }
        )
    )


def report(results: dict[str, list[dict[str, float]]], arguments: argparse.Namespace) -> str:
    """The results as Markdown."""
    rows = [
        (
            side,
            str(seed),
            f"{run['accuracy']:.3f}",
            f"{run['training']:.1f}",
            f"{run['later']:.1f}" if "later" in run else "",
        )
        for side, runs in results.items()
        for seed, run in zip(arguments.seeds, runs, strict=True)
    ]
    seconds = {side: median(run["training"] for run in runs) for side, runs in results.items()}
    later = {side: median(run["later"] for run in results[side]) for side in CACHE}
    accuracy = {side: mean(run["accuracy"] for run in runs) for side, runs in results.items()}
    return "\n\n".join(
        [
            "# Training the top 2 of 6 blocks",
            f"MiniLM (22.7 M parameters), the first {arguments.rows:,} training rows of movie reviews, batch {BATCH}, "
            f"{arguments.epochs} epochs, learning rate 0.0001; accuracy on 1,066 test rows. What is timed stands in "
            "[top_layers.py](../top_layers.py), the plain run in [tutorial_classifier.py](../tutorial_classifier.py).",
            table(("", "seed", "test accuracy", "training, s", "a later epoch, s"), rows),
            f"**Training {seconds[PLAIN] / seconds[KEPT]:.2f} times as fast as the plain Trainer, which recomputes the "
            f"frozen blocks** (ratio of medians), at a mean test accuracy of {accuracy[KEPT]:.3f} against "
            f"{accuracy[PLAIN]:.3f}. Keeping alone makes it {seconds[ANEW] / seconds[KEPT]:.2f} times as fast, a later "
            f"epoch {later[ANEW] / later[KEPT]:.2f} times. That is about what can come of it: of 10 passes "
            "through a block that a row takes in an epoch (6 forward, 2 backward at twice the cost) 4 are saved, and "
            "none in the first epoch; "
            f"over {arguments.epochs} epochs that is {10 * arguments.epochs / (6 * arguments.epochs + 4):.2f}.",
            environment("benchmarks/top_layers.py", ("torch", "transformers")),
        ]
    )


if __name__ == "__main__":
    main()
