"""Output layers with nbadapt against plain Trainer runs on a frozen backbone: accuracy and seconds.

usage: python benchmarks/output_layers.py [--data FOLDER] [--rows 2000] [--seeds 0 1 2]

All sides do the same job on the same rows: MiniLM's own classification head, batches of 16, 3 epochs, a checkpoint
after each. "plain Trainer" is what tutorials do: float32, batches in an order of its own, dropout, no warm-up. "the
same steps" is a plain Trainer as well, with nbadapt's start, batches, warm-up and type of weights and without dropout:
what is left between it and nbadapt is that one runs the backbone in each step and the other once, so that its accuracy
must be nbadapt's. They run in fresh processes, in turn, so that a slow minute of the machine hits all. On nbadapt's
side "training" begins with the first embedding, and nothing is in its cache; "again" is the training of a second run,
with another seed, that finds the vectors there. "in all" adds loading, tokenising and saving, and on nbadapt's side
also the estimate, its own evaluation on 32 rows, which it always makes, and the run's record. Imports count on no
side. Writes benchmarks/results/output_layers.md.
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
from typing import Any

from report import environment, save, table

PLAIN, SAME, OURS = "plain Trainer", "the same steps", "nbadapt"
SIDES = (PLAIN, SAME, OURS)
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
    save("output_layers", report(results, arguments.seeds))


def measure(side: str, data: Path, rows: int, seed: int) -> dict[str, float]:
    """One training in a fresh process: its "training" and "total" seconds and its test "accuracy"."""
    from nbadapt.packaged_models import MINILM

    folder = MINILM.folder()
    if folder is None:
        sys.exit(f"this benchmark needs a model: {MINILM.install}")
    files = [str(data / f"movie_reviews_{part}.csv") for part in ("train", "test")]
    command = {
        PLAIN: [str(HERE / "tutorial_classifier.py"), "output-layers", str(folder), *files, "--seed", str(seed)],
        SAME: [str(HERE / "frozen_classifier.py"), *files, "--seed", str(seed)],
        OURS: [__file__, "--data", str(data), "--nbadapt-once", str(seed)],
    }[side]
    command = [sys.executable, *command, "--rows", str(rows)]
    out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    measured: dict[str, float] = json.loads(out.stdout.splitlines()[-1])
    return measured


def train_with_nbadapt(data: Path, rows: int, seed: int) -> None:
    """One training, and another one on the same vectors; prints one JSON object."""
    import pandas as pd
    import torch
    import transformers

    import nbadapt
    from nbadapt.events import Progress, Stage

    del torch, transformers  # imported beforehand, as on the other side
    train, test, few = (pd.read_csv(data / f"movie_reviews_{p}.csv") for p in ("train", "test", "validation"))

    def once(seed: int) -> Any:
        return nbadapt.finetune(
            "output-layers",
            model="minilm",
            data=train[:rows],
            eval=few[:32],
            seed=seed,
            hidden_sizes=None,
            batch_size=16,
            epochs=3,
            learning_rate=1e-3,
            eval_steps=1_000_000,
        )

    def seconds(run: Any) -> float:
        began = next(t for t, event in run.events if isinstance(event, Stage) and event.text.startswith("embedding"))
        return float(max(t for t, event in run.events if isinstance(event, Progress)) - began)

    with tempfile.TemporaryDirectory() as folder:
        os.environ["NBADAPT_RUNS"] = folder + "/runs"
        os.environ["NBADAPT_EMBEDDINGS"] = folder + "/embeddings"
        start = time.perf_counter()
        run = once(seed)
        total = time.perf_counter() - start
        predicted = run.predict(list(test.text)).labels
        again = seconds(once(seed + 100))
    accuracy = float((test.label == predicted).mean())
    print(json.dumps({"training": seconds(run), "total": total, "again": again, "accuracy": accuracy}))


def report(results: dict[str, list[dict[str, float]]], seeds: list[int]) -> str:
    """The results as Markdown."""
    rows = []
    for side, runs in results.items():
        for seed, run in zip(seeds, runs, strict=True):
            figures = (f"{run['accuracy']:.3f}", f"{run['training']:.1f}", f"{run['total']:.1f}")
            rows.append((side, str(seed), *figures, f"{run['again']:.1f}" if "again" in run else ""))
    middle = {
        side: {name: median(run[name] for run in results[side]) for name in ("training", "total")} for side in SIDES
    }
    again = median(run["again"] for run in results[OURS])
    accuracy = {side: mean(run["accuracy"] for run in results[side]) for side in SIDES}

    def ratio(side: str, name: str) -> str:
        return f"{middle[side][name] / middle[OURS][name]:.1f}"

    return "\n\n".join(
        [
            "# Output layers: nbadapt against plain Trainer runs",
            "MiniLM (22.7 M parameters, frozen), the first 2,000 training rows of movie reviews, its own head, "
            "batch 16, 3 epochs, learning rate 0.001; accuracy on 1,066 test rows. The plain run is "
            "[tutorial_classifier.py](../tutorial_classifier.py), in float32; the one of the same steps as nbadapt's "
            "(start, order of the batches, warm-up, type of the weights, no dropout) "
            "[frozen_classifier.py](../frozen_classifier.py); what is timed stands in "
            "[output_layers.py](../output_layers.py).",
            table(("", "seed", "test accuracy", "training, s", "in all, s", "again, s"), rows),
            f"**Training {ratio(PLAIN, 'training')} times as fast as the plain Trainer, {ratio(SAME, 'training')} "
            f"times as fast as the same steps** (ratios of medians; in all {ratio(PLAIN, 'total')} and "
            f"{ratio(SAME, 'total')}; where the vectors are known already {middle[PLAIN]['training'] / again:.0f} and "
            f"{middle[SAME]['training'] / again:.0f}). Mean test accuracy {accuracy[OURS]:.4f}, "
            f"{accuracy[OURS] - accuracy[SAME]:+.4f} to the same steps and {accuracy[OURS] - accuracy[PLAIN]:+.4f} to "
            "the plain Trainer, which draws other batches.",
            environment("benchmarks/output_layers.py", ("torch", "transformers")),
        ]
    )


if __name__ == "__main__":
    main()
