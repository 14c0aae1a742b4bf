"""All finetuning methods on the same real data, next to plain peers: quality beside cost.

usage: python benchmarks/finetuning_methods.py {classification,generation} [--data FOLDER] [--rows N ...]
                                               [--methods A B ...] [--seed N]

Classification: MiniLM on movie reviews, accuracy on the test split. Generation: SmolLM2-135M on gsm8k, loss of the
answers of the validation split. Every method has its defaults. The peers do the same work as tutorials do. Each
training has a process of its own; what was measured is kept in results/finetuning_methods_TASK.jsonl and not measured
again. Writes results/finetuning_methods_TASK.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from report import RESULTS, environment, save, table

HERE = Path(__file__).parent
CLASSIFIERS = (
    "features",
    "output-layers",
    "top-layers",
    "full",
    "lora",
    "qlora",
    "prompt-tuning",
    "p-tuning",
    "prefix-tuning",
    "adapter",
    "ia3",
    "bitfit",
)
GENERATORS = ("top-layers", "full", "lora", "qlora", "prompt-tuning", "p-tuning", "prefix-tuning", "llama-adapter")
TASKS: dict[str, dict[str, Any]] = {
    "classification": {
        "model": "minilm",
        "files": ("movie_reviews_train.csv", "movie_reviews_test.csv"),
        "methods": CLASSIFIERS,
        "peers": ("features", "output-layers", "top-layers", "lora", "full"),
        "script": "tutorial_classifier.py",
        "rows": (2000, 8530),
        "settings": (),
    },
    "generation": {
        "model": "smollm2",
        "files": ("gsm8k_train.jsonl", "gsm8k_validation.jsonl"),
        "methods": (*GENERATORS, "adapter", "ia3"),
        "peers": ("lora", "full"),
        "script": "tutorial_language_model.py",
        "rows": (128,),
        "settings": ("batch_size=8", "epochs=1", "max_length=256"),
    },
}
HELD_OUT = {"classification": 1066, "generation": 32}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--rows", type=int, nargs="+")
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    task = TASKS[arguments.task]
    found: dict[int, list[dict[str, Any]]] = {}
    for rows in arguments.rows or task["rows"]:
        sides = [("nbadapt", method) for method in task["methods"]] + [("plain", peer) for peer in task["peers"]]
        for side, method in sides:
            if arguments.methods and method not in arguments.methods:
                continue
            result = measured(arguments, side, method, rows)
            found.setdefault(rows, []).append(result)
            print(rows, result, file=sys.stderr, flush=True)
    save(f"finetuning_methods_{arguments.task}", report(arguments.task, found))


def measured(arguments: argparse.Namespace, side: str, method: str, rows: int) -> dict[str, Any]:
    """What one training gave, now or earlier."""
    kept = RESULTS / f"finetuning_methods_{arguments.task}.jsonl"
    key = {"side": side, "method": method, "rows": rows, "seed": arguments.seed}
    for line in kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []:
        entry: dict[str, Any] = json.loads(line)
        if all(entry[name] == value for name, value in key.items()):
            return entry
    task = TASKS[arguments.task]
    files = [str(arguments.data / name) for name in task["files"]]
    sizes = ["--rows", str(rows), "--seed", str(arguments.seed)]
    if side == "nbadapt":
        settings = [word for pair in task["settings"] for word in ("--set", pair)]
        held_out = ["--held-out", str(HELD_OUT[arguments.task])]
        command = [str(HERE / "measured_run.py"), method, task["model"], *files, *sizes, *held_out, *settings]
    else:
        command = [str(HERE / task["script"]), method, str(folder(task["model"])), *files, *sizes]
    out = subprocess.run(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    )
    entry = {**key, "cores": len(os.sched_getaffinity(0)), **json.loads(out.stdout.splitlines()[-1])}
    with kept.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
    return entry


def folder(name: str) -> Path:
    """Where a packaged model lies."""
    from nbadapt import models

    return Path(models.resolve(name).path)


def report(task: str, found: Mapping[int, list[dict[str, Any]]]) -> str:
    """The results as Markdown, one table for each number of rows."""
    classify = task == "classification"
    model = "MiniLM (22.7 M parameters)" if classify else "SmolLM2-135M-Instruct"
    about = (
        f"{model}; test accuracy on 1,066 rows (95 % interval: about ± {1.96 * math.sqrt(0.16 / 1066):.3f})"
        if classify
        else f"{model}; loss on 32 held-out rows; {', '.join(TASKS[task]['settings'])}"
    )
    parts = [
        f"# Finetuning methods, {task}: quality beside cost",
        f"{about}. Defaults throughout, seed 0. The peers do the same work without nbadapt: see "
        f"[{TASKS[task]['script']}](../{TASKS[task]['script']}). Training: seconds from the first batch to the last "
        "step. Memory: the process's peak beyond its imports, weights included. Disk: what is stored of the result.",
    ]
    for rows, results in found.items():
        quality = "accuracy" if classify else "loss"
        ordered = sorted(results, key=lambda r: -r[quality] if classify else r[quality])
        head = ["", quality, "trained parameters", "training, s", "tokens/s", "memory, MiB", "disk, KiB"]
        cores = " and ".join(sorted({str(result["cores"]) for result in results}))
        title = f"## {rows:,} training rows, on {cores} core{'s' * (cores != '1')}"
        parts += [title, table(head, [_row(result, quality) for result in ordered])]
    return "\n\n".join([*parts, environment("benchmarks/finetuning_methods.py", ("torch", "transformers", "peft"))])


def _row(result: Mapping[str, Any], quality: str) -> list[str]:
    name = f"`{result['method']}`" if result["side"] == "nbadapt" else f"plain {result['method']}"
    return [
        name,
        f"{result[quality]:.3f}",
        f"{result['trainable']:,}" if result["trainable"] else "",
        f"{result['training']:.0f}",
        f"{result['tokens']:.0f}" if result.get("tokens") else "",
        f"{result['peak'] / 2**20:,.0f}",
        f"{result['size'] / 2**10:,.0f}",
    ]


if __name__ == "__main__":
    main()
