"""Training the top 2 of MiniLM's 6 blocks: what the frozen blocks give, kept or computed anew; accuracy and seconds.

usage: python benchmarks/top_layers.py [--data FOLDER] [--rows 2000] [--epochs 3] [--seeds 0 1 2]

Both sides run the same method with the same settings but `cache_memory`, in fresh processes, in turn, so that a slow
minute of the machine hits both. "training" is the time from the first to the last step with all that lies between;
"later epochs" is the mean epoch after the first, in which the rows are computed for the first time on both sides.
Writes benchmarks/results/top_layers.md.
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

SIDES = {"computed anew": 0, "kept": 1024}  # name -> cache_memory
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
    results: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for seed in arguments.seeds:
        for side in SIDES:
            results[side].append(measure(side, arguments, seed))
            print(side, seed, results[side][-1], file=sys.stderr, flush=True)
    save("top_layers", report(results, arguments))


def measure(side: str, arguments: argparse.Namespace, seed: int) -> dict[str, float]:
    """One training in a fresh process."""
    shared = ["--data", str(arguments.data), "--rows", str(arguments.rows), "--epochs", str(arguments.epochs)]
    command = [sys.executable, __file__, *shared, "--once", str(seed), str(SIDES[side])]
    out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
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
        (side, str(seed), f"{run['accuracy']:.3f}", f"{run['training']:.1f}", f"{run['later']:.1f}")
        for side, runs in results.items()
        for seed, run in zip(arguments.seeds, runs, strict=True)
    ]
    middle = {s: {n: median(run[n] for run in runs) for n in ("training", "later")} for s, runs in results.items()}
    anew, kept = (middle[side] for side in SIDES)
    accuracies = [mean(run["accuracy"] for run in results[side]) for side in SIDES]
    return "\n\n".join(
        [
            "# Training the top 2 of 6 blocks: what lies below, kept or computed anew",
            f"MiniLM (22.7 M parameters), the first {arguments.rows:,} training rows of movie reviews, batch {BATCH}, "
            f"{arguments.epochs} epochs; accuracy on 1,066 test rows. What is timed stands in "
            "[top_layers.py](../top_layers.py).",
            table(("frozen blocks", "seed", "test accuracy", "training, s", "a later epoch, s"), rows),
            f"**Training {anew['training'] / kept['training']:.2f} times as fast** (ratio of medians; a later epoch "
            f"{anew['later'] / kept['later']:.2f} times), at a mean test accuracy of {accuracies[1]:.3f} against "
            f"{accuracies[0]:.3f}.",
            environment("benchmarks/top_layers.py", ("torch", "transformers")),
        ]
    )


if __name__ == "__main__":
    main()
