"""All finetuning methods on the same real data, next to plain peers: quality beside cost.

usage: python benchmarks/finetuning_methods.py {classification,generation} [--data FOLDER] [--rows N ...]
                                               [--methods A B ...] [--seeds N ...] [--set KEY=VALUE ...] [--kept]

Classification: MiniLM on movie reviews, accuracy on the test split. Generation: SmolLM2-135M on gsm8k, loss of the
answers of the second half of the validation split; learning rates were chosen on the first. Every method has its
defaults, but for what --set gives nbadapt's. The peers do the same work, at the same learning rate, as tutorials do.
Each training has a process of its own; what was measured is kept in results/finetuning_methods_TASK.jsonl and not
measured again, and all that is kept of these rows is shown. --kept measures nothing. Writes
results/finetuning_methods_TASK.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from report import REPORTED_ON, RESULTS, environment, save, table

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
HELD_OUT = {"classification": (0, 1066), "generation": REPORTED_ON}
DIFFERENCES = {
    "classification": "the model's dropout everywhere (nbadapt: in `full` alone, and above what `top-layers` keeps); "
    "plain lora also drops a tenth of the adapter's inputs; no weight decay (nbadapt: 0.01 in `full`); plain features "
    "reads the first token (nbadapt: the mean over the tokens), plain output-layers trains the model's own head for "
    "3 epochs (nbadapt: one linear layer on the mean for 20)",
    "generation": "no weight decay (nbadapt: 0.01 in `full`). The seconds of full, plain full with seed 1, qlora and "
    "p-tuning were measured beside other work, and nbadapt's ia3 and prompt-tuning when the steps went from long rows "
    "to short ones",
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--rows", type=int, nargs="+")
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--kept", action="store_true")
    arguments = parser.parse_args()
    task = TASKS[arguments.task]
    sizes = arguments.rows or task["rows"]
    peers = [] if arguments.settings else task["peers"]  # which have no settings
    sides = [("nbadapt", method) for method in task["methods"]] + [("plain", peer) for peer in peers]
    chosen = [(side, method) for side, method in sides if method in (arguments.methods or task["methods"])]
    for rows, seed, (side, method) in itertools.product([] if arguments.kept else sizes, arguments.seeds, chosen):
        print(rows, measured(arguments, side, method, rows, seed), file=sys.stderr, flush=True)
    held_out = list(HELD_OUT[arguments.task])
    lines = [line for line in kept(arguments.task) if line["held_out"] == held_out]
    found = {rows: [line for line in lines if line["rows"] == rows] for rows in sizes}
    save(f"finetuning_methods_{arguments.task}", report(arguments.task, found))


def kept(task: str) -> list[dict[str, Any]]:
    """What was measured before, one mapping a training."""
    file = RESULTS / f"finetuning_methods_{task}.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [{"settings": [], **json.loads(line)} for line in lines]


def rate(method: str) -> float | None:
    """The learning rate that nbadapt has for a method, and its peer is given; None: nothing is trained by steps."""
    from nbadapt import registry

    return None if method == "features" else float(registry.load(method).Config.model_fields["learning_rate"].default)


def measured(arguments: argparse.Namespace, side: str, method: str, rows: int, seed: int) -> dict[str, Any]:
    """What one training gave, now or earlier."""
    held_out = list(HELD_OUT[arguments.task])
    learning_rate = rate(method)
    key = {"side": side, "method": method, "rows": rows, "seed": seed, "learning_rate": learning_rate}
    key |= {"held_out": held_out, "settings": sorted(arguments.settings)}
    for entry in kept(arguments.task):
        if all(entry[name] == value for name, value in key.items()):
            return entry
    task = TASKS[arguments.task]
    files = [str(arguments.data / name) for name in task["files"]]
    sizes = ["--rows", str(rows), "--seed", str(seed)]
    if side == "nbadapt" or arguments.task == "generation":
        sizes += ["--held-out", *map(str, held_out)]
    if side == "nbadapt":
        settings = [word for pair in (*task["settings"], *arguments.settings) for word in ("--set", pair)]
        command = [str(HERE / "measured_run.py"), method, task["model"], *files, *sizes, *settings]
    else:
        sizes += [] if learning_rate is None else ["--learning-rate", str(learning_rate)]
        command = [str(HERE / task["script"]), method, str(folder(task["model"])), *files, *sizes]
    out = subprocess.run(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    )
    entry = {**key, "cores": len(os.sched_getaffinity(0)), **json.loads(out.stdout.splitlines()[-1])}
    with (RESULTS / f"finetuning_methods_{arguments.task}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
    return entry


def folder(name: str) -> Path:
    """Where a packaged model lies."""
    from nbadapt import model_names

    return Path(model_names.resolve(name).path)


def report(task: str, found: Mapping[int, Sequence[Mapping[str, Any]]]) -> str:
    """The results as Markdown, one table for each number of rows."""
    classify = task == "classification"
    first, end = HELD_OUT[task]
    about = (
        f"MiniLM (22.7 M parameters); test accuracy on 1,066 rows (95 % interval: about ± "
        f"{1.96 * math.sqrt(0.16 / 1066):.3f})"
        if classify
        else f"SmolLM2-135M-Instruct; loss on rows {first} to {end - 1} of the validation file (those before chose the "
        "learning rates), with 95 % intervals over the rows; all methods have the same rows, so that their "
        f"differences are surer than that; {', '.join(TASKS[task]['settings'])}"
    )
    parts = [
        f"# Finetuning methods, {task}: quality beside cost",
        f"{about}. Each method's {'' if classify else 'other '}defaults. The peers do the same work without nbadapt, "
        "at the same learning rate unless another is named: see "
        f"[{TASKS[task]['script']}](../{TASKS[task]['script']}). "
        "What is left different is what tutorials have: float32 (nbadapt: bfloat16 where the machine is quicker in it, "
        "but float32 in `full`), batches of random rows (nbadapt: of similar length), no warm-up (nbadapt: 6 % of the "
        f"steps); {DIFFERENCES[task]}. "
        "Several figures in a cell: several seeds"
        f"{f', which alone make a difference of up to {_spread(found):.3f}' if classify else ''}. "
        "Training: seconds from the first batch to the last step. Memory: the process's peak beyond its "
        "imports, weights included; nbadapt's counts what it imports late (about 80 MiB), `full` also the bfloat16 "
        "base beside its float32 copy. Disk: what is stored of the result.",
    ]
    for rows, lines in found.items():
        head = ["", "seeds", "cores", "accuracy" if classify else "loss", "trained parameters", "training, s"]
        head += ["tokens/s", "memory, MiB", "disk, KiB"]
        groups = grouped(lines, "accuracy" if classify else "loss", ascending=not classify)
        parts += [f"## {rows:,} training rows", table(head, [_row(runs, classify) for runs in groups])]
    packages = ("torch", "transformers", "peft")
    about_cores = "as many cores as the table says"
    return "\n\n".join([*parts, environment("benchmarks/finetuning_methods.py", packages, about_cores)])


def grouped(lines: Sequence[Mapping[str, Any]], quality: str, *, ascending: bool) -> list[list[Mapping[str, Any]]]:
    """The trainings that differ in their seeds alone side by side, the best mean first."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for line in sorted(lines, key=lambda line: line["seed"]):
        key = (line["side"], line["method"], line["learning_rate"], *line["settings"])
        groups.setdefault(key, []).append(line)
    sign = 1 if ascending else -1
    return sorted(groups.values(), key=lambda runs: sign * mean(run[quality] for run in runs))


def _spread(found: Mapping[int, Sequence[Mapping[str, Any]]]) -> float:
    """How far apart the accuracies of two seeds are at most."""
    groups = [runs for lines in found.values() for runs in grouped(lines, "accuracy", ascending=False)]
    accuracies = [[run["accuracy"] for run in runs] for runs in groups]
    return max((max(group) - min(group) for group in accuracies), default=0.0)


def _accuracy(run: Mapping[str, Any]) -> str:
    return f"{run['accuracy']:.3f}"


def _loss(run: Mapping[str, Any]) -> str:
    return f"{run['loss']:.3f} ± {1.96 * run['loss_error']:.3f}"


def _row(runs: Sequence[Mapping[str, Any]], classify: bool) -> list[str]:
    one = runs[0]
    name = f"`{one['method']}`" if one["side"] == "nbadapt" else f"plain {one['method']}"
    if one["learning_rate"] != rate(one["method"]):
        name += f", learning rate {one['learning_rate']:g}"
    name += "".join(f", {pair}" for pair in one["settings"])

    def each(show: Callable[[Mapping[str, Any]], str]) -> str:
        return " / ".join(show(run) for run in runs)

    return [
        name,
        each(lambda run: str(run["seed"])),
        each(lambda run: str(run["cores"])),
        each(_accuracy if classify else _loss),
        f"{one['trainable']:,}" if one["trainable"] else "",
        each(lambda run: f"{run['training']:.0f}"),
        each(lambda run: f"{run['tokens']:.0f}") if one.get("tokens") else "",
        each(lambda run: f"{run['peak'] / 2**20:,.0f}"),
        f"{one['size'] / 2**10:,.0f}",
    ]


if __name__ == "__main__":
    main()
