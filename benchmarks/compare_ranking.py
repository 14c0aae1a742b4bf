"""Does %%compare rank as separate full runs do? Every pair whose difference is significant, over some seeds.

usage: python benchmarks/compare_ranking.py [--data FOLDER] [--rows 2000] [--seeds 3] [--test-rows 1066] [--small]

Candidates: features, output-layers, four LoRAs and all layers with MiniLM, few-shot with SmolLM2. For each seed
%%compare works, and then every candidate is trained alone on all training rows of the same split, in a process of its
own, and asked the same test rows. Pairs are told apart by the exact McNemar test after Holm. A candidate that
%%compare dropped counts as worse than the one that it was dropped behind. The peak of memory is the process's beyond
its imports. What was measured is kept in results/compare_ranking.jsonl. Writes results/compare_ranking.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import peft
import sklearn.linear_model
import transformers
from report import RESULTS, environment, peak_memory, save, table

del peft, sklearn, transformers  # imported beforehand: imports do not count

HERE = Path(__file__).parent
KEPT = RESULTS / "compare_ranking.jsonl"
BLOCKS: dict[str, Any] = {
    "features": None,
    "output-layers": None,
    "lora": {"r": [4, 16], "learning_rate": [2e-4, 1e-3]},
    "full": None,
    "few-shot": {"model": "smollm2", "shots": [4, 16]},
}
SMALL: dict[str, Any] = {"features": None, "lora": {"epochs": 1, "learning_rate": [2e-4, 1e-3]}}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--test-rows", type=int, default=1066)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("SEED", "WHAT"))
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(worked(arguments, int(arguments.one[0]), arguments.one[1])))
        return
    parts = [compared(arguments, seed) for seed in range(arguments.seeds)]
    save("compare_ranking", report(arguments, parts))


def compared(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """What %%compare said with one seed, and what each candidate gave alone."""
    found = measured(arguments, seed, "compare")
    alone = {label: measured(arguments, seed, label) for label in found["candidates"]}
    return {"seed": seed, "compare": found, "alone": alone}


def measured(arguments: argparse.Namespace, seed: int, what: str) -> dict[str, Any]:
    """What one process gave, now or earlier."""
    sizes = {"rows": arguments.rows, "test_rows": arguments.test_rows, "small": arguments.small}
    key = {"seed": seed, "what": what, **sizes}
    for line in KEPT.read_text(encoding="utf-8").splitlines() if KEPT.exists() else []:
        entry: dict[str, Any] = json.loads(line)
        if all(entry[name] == value for name, value in key.items()):
            return entry
    command = [sys.executable, __file__, "--one", str(seed), what, "--data", str(arguments.data)]
    command += ["--rows", str(arguments.rows), "--test-rows", str(arguments.test_rows)]
    command += ["--small"] * arguments.small
    out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    entry = {**key, **json.loads(out.stdout.splitlines()[-1])}
    RESULTS.mkdir(exist_ok=True)
    with KEPT.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
    print(seed, what, f"{entry['seconds']:.0f} s", file=sys.stderr, flush=True)
    return entry


def worked(arguments: argparse.Namespace, seed: int, what: str) -> dict[str, Any]:
    """One comparison, or one of its candidates alone: seconds, peak of memory and which test rows are right."""
    train = pd.read_csv(arguments.data / "movie_reviews_train.csv")[: arguments.rows]
    test = pd.read_csv(arguments.data / "movie_reviews_test.csv")[: arguments.test_rows]
    blocks = SMALL if arguments.small else BLOCKS
    with tempfile.TemporaryDirectory() as folder:
        for name in ("RUNS", "EMBEDDINGS", "ANSWERS"):
            os.environ[f"NBADAPT_{name}"] = f"{folder}/{name.lower()}"
        import nbadapt
        from nbadapt.selection.asked import Asked
        from nbadapt.selection.candidates import prepare

        before, start = peak_memory(), time.perf_counter()
        if what == "compare":
            found = nbadapt.compare(blocks, model="minilm", data=train, test=test, seed=seed)
            places = {place.label: list(place.entry.test[0].values) for place in found.verdict.places}
            behind = {e.label: e.reason for e in found._contest.entries if e.state == "dropped"}
            result = {"candidates": list(found.frame().index), "places": places, "behind": behind}
        else:
            prepared = prepare(Asked(blocks=blocks, model="minilm", data=train, test=test, seed=seed))
            candidate = next(one for one in prepared.candidates if one.label == what)
            result = {"right": alone(candidate, prepared.parts.test)}
        return {**result, "seconds": time.perf_counter() - start, "peak": peak_memory() - before}


def alone(candidate: Any, test: Any) -> list[float]:
    """Which test rows a candidate has right that was trained on all training rows by itself."""
    from nbadapt import runner
    from nbadapt.plan import Plan
    from nbadapt.selection import measuring

    job = dataclasses.replace(candidate.job, data=test) if candidate.prompts else candidate.job
    run = runner.start(Plan(job, candidate.method, candidate.estimate))
    run.join()
    if run.error is not None:
        raise run.error
    return list(measuring.said(candidate, run, test, "accuracy").values)


def report(arguments: argparse.Namespace, parts: list[dict[str, Any]]) -> str:
    """The results as Markdown: the figures, and every pair that both tell apart otherwise."""
    rows, against, open_, told = [], [], [], 0
    for part in parts:
        alone_right = {label: entry["right"] for label, entry in part["alone"].items()}
        for label, right in sorted(alone_right.items(), key=lambda item: -sum(item[1])):
            place = part["compare"]["places"].get(label)
            score = f"{sum(place) / len(place):.3f}" if place else part["compare"]["behind"].get(label, "")
            rows.append([str(part["seed"]), label, f"{sum(right) / len(right):.3f}", score])
        for better, worse in significant(alone_right):
            alike = agrees(part["compare"], better, worse)
            pair = f"seed {part['seed']}: {better} over {worse}"
            told += alike is not None
            against += [pair] * (alike is False)
            open_ += [pair] * (alike is None)
    peaks = [
        f"seed {part['seed']}: {part['compare']['peak'] / 2**20:,.0f} MiB against "
        f"{max(entry['peak'] for entry in part['alone'].values()) / 2**20:,.0f} MiB of the largest candidate"
        for part in parts
    ]
    about = (
        f"{arguments.rows:,} movie reviews, {arguments.test_rows:,} test rows. Of the pairs whose difference is "
        f"significant among separate full runs and that it ranks, {told - len(against)} of {told} are ranked alike"
        + (f"; not so: {'; '.join(against)}." if against else ".")
        + (f" Both were dropped before the end, and so not ranked: {'; '.join(open_)}." if open_ else "")
        + f" Peak memory of the comparison: {'; '.join(peaks)}."
    )
    head = ["seed", "candidate", "separate full run, test accuracy", "in %%compare"]
    packages = ("torch", "transformers", "peft", "scikit-learn")
    return "\n\n".join(
        ["# The ranking beside separate full runs", about, table(head, rows),
         environment("benchmarks/compare_ranking.py", packages)]
    )  # fmt: skip


def significant(right: dict[str, list[float]]) -> list[tuple[str, str]]:
    """(better, worse) of the pairs that can be told apart."""
    from nbadapt.engines.racing import mcnemar, told_apart

    pairs = [(a, b) if sum(right[a]) >= sum(right[b]) else (b, a) for a, b in itertools.combinations(right, 2)]
    counts = told_apart([mcnemar(right[a], right[b]) for a, b in pairs])
    return [pair for pair, count in zip(pairs, counts, strict=True) if count]


def agrees(found: dict[str, Any], better: str, worse: str) -> bool | None:
    """Whether the comparison ranks them in this order; None where both were dropped, and it ranks neither."""
    places, behind = found["places"], found["behind"]

    def standing(label: str) -> tuple[float, int]:
        if label in places:
            return sum(places[label]), 1
        leader = next((name for name in places if behind.get(label, "").startswith(f"behind {name} ")), None)
        return (sum(places[leader]), 0) if leader else (0.0, 0)

    if better in places or worse in places:
        return standing(better) >= standing(worse)
    return None


if __name__ == "__main__":
    main()
