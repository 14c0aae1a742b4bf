"""All prompting methods on the same messages, beside baselines without a language model: quality beside cost.

usage: python benchmarks/prompting_methods.py [--rows N] [--ways A B ...]

Messages to a bicycle shop are sorted into five kinds by SmolLM2-135M. Every way has a process of its own, nothing kept
from an earlier one, and is asked the same rows; what it learns, shows or searches on are other rows. Seconds are those
of the processor, in all threads, with the model's loading and without imports: others may use the machine too. What was
measured is kept in results/prompting_methods.jsonl and not measured again. Writes results/prompting_methods.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from report import RESULTS, environment, peak_memory, save, table, timed

QUESTION = "{{text}}\n\nIs this about an order, a rental, a repair, a return, or other?"
TEMPLATES = (
    QUESTION,
    "Message to a bicycle shop: {{text}}\n\nWhich desk should answer it: order, rental, repair, return or other?",
    "{{text}}\n\nThe subject of this message in one word is",
)


class Way(NamedTuple):
    """One line of the table.

    Attributes:
        method: the word after the magic.
        settings: those that are not the defaults.
        prompt: the cell's body; "" for a baseline, which is trained.
        shown: whether the other rows are its examples.
    """

    method: str
    settings: Mapping[str, Any] = {}
    prompt: str = QUESTION
    shown: bool = True


WAYS = {
    "majority": Way("majority", prompt=""),
    "tf-idf": Way("tf-idf", prompt=""),
    "zero-shot": Way("zero-shot", shown=False),
    "few-shot": Way("few-shot", {"shots": 5}),
    "few-shot, nearest": Way("few-shot", {"shots": 5, "selection": "nearest"}),
    "chain-of-thought": Way("chain-of-thought", {"max_new_tokens": 64}, shown=False),
    "prompt-search": Way("prompt-search", {"search_rows": 60}, "\n---\n".join(TEMPLATES)),
    "auto-prompt": Way("auto-prompt", {"budget": 150, "rounds": 2, "search_rows": 60}),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(WAYS[arguments.one], arguments.rows)))
        return
    found = []
    for way in arguments.ways:
        found.append(measured(way, arguments.rows))
        print(found[-1], file=sys.stderr, flush=True)
    save("prompting_methods", report(found, arguments.rows))


def measured(way: str, rows: int) -> dict[str, Any]:
    """What one way gave, now or earlier."""
    kept = RESULTS / "prompting_methods.jsonl"
    key = {"way": way, "method": WAYS[way].method, "settings": dict(WAYS[way].settings), "rows": rows}
    for line in kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []:
        entry: dict[str, Any] = json.loads(line)
        if all(entry[name] == value for name, value in key.items()):
            return entry
    command = [sys.executable, __file__, "--one", way, "--rows", str(rows)]
    out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    entry = {**key, **json.loads(out.stdout.splitlines()[-1])}
    with kept.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
    return entry


def measure(way: Way, rows: int) -> dict[str, float]:
    """Run one way in this process; peak memory in bytes beyond the imports, size on disk in bytes."""
    import skops.io
    from sklearn import dummy, linear_model

    import nbadapt
    from nbadapt import datasets

    del skops, dummy, linear_model  # imported beforehand: imports do not count
    messages = datasets.load("bicycle_shop")
    held_out = messages.groupby("label").sample(rows // messages.label.nunique(), random_state=0)
    others = messages.drop(held_out.index)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("RUNS", "EMBEDDINGS", "ANSWERS"):
            os.environ[f"NBADAPT_{name}"] = f"{folder}/{name.lower()}"

        def work(*, dry_run: bool = False) -> Any:
            given = {"model": "smollm2", "dry_run": dry_run, **way.settings}
            if not way.prompt:
                return nbadapt.finetune(way.method, data=others, eval=held_out, **given)
            shown = {"examples": others} if way.shown else {}
            return nbadapt.prompt(way.method, way.prompt, data=held_out, **shown, **given)

        work(dry_run=True)  # brings those of torch and transformers
        before = peak_memory()
        took, run = timed(work)
        stored = Path(run.directory) / "artifacts"
        return {
            "accuracy": run.metrics["accuracy"],
            "macro_f1": run.metrics["macro_f1"],
            "seconds": took.processor,
            "peak": peak_memory() - before,
            "size": sum(file.stat().st_size for file in stored.rglob("*") if file.is_file()),
        }


def report(found: Sequence[Mapping[str, Any]], rows: int) -> str:
    """The results as Markdown, best first."""
    parts = [
        "# Prompting methods: quality beside cost",
        f"{rows} messages to a bicycle shop, of five kinds, sorted by SmolLM2-135M-Instruct (95 % interval: at most "
        f"± {1.96 * math.sqrt(0.25 / rows):.2f}); {400 - rows} others to learn from, to show and to search on. The "
        "baselines are trained on those. Seconds: processor time of the whole cell, the model's loading with it. "
        "Memory: the process's peak beyond its imports, weights included. What is asked stands in "
        "[prompting_methods.py](../prompting_methods.py).",
        table(
            ("", "settings", "accuracy", "macro F1", "processor time, s", "memory, MiB"),
            [row(entry) for entry in sorted(found, key=lambda entry: -entry["accuracy"])],
        ),
    ]
    return "\n\n".join([*parts, environment("benchmarks/prompting_methods.py", ("torch", "transformers"))])


def row(entry: Mapping[str, Any]) -> list[str]:
    """One line of the table."""
    return [
        f"`{entry['method']}`",
        ", ".join(f"{name} {value}" for name, value in entry["settings"].items()),
        f"{entry['accuracy']:.3f}",
        f"{entry['macro_f1']:.3f}",
        f"{entry['seconds']:.1f}",
        f"{entry['peak'] / 2**20:,.0f}",
    ]


if __name__ == "__main__":
    main()
