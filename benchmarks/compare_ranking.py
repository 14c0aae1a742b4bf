"""Does %%compare rank as separate full runs do? Every pair whose difference is significant, over some seeds.

usage: python benchmarks/compare_ranking.py [--data FOLDER] [--rows 2000] [--seeds 3] [--test-rows 1066] [--small]
                                             [--adopt]

Candidates: features, output-layers, four LoRAs and all layers with MiniLM, few-shot with SmolLM2. For each seed
%%compare works, with --full-ranking and without, and then every candidate is trained alone on all training rows of the
same split, in a process of its own, and asked the same test rows. Pairs are told apart by the exact McNemar test after
Holm. %%compare ranks what it asked the test rows; one that it dropped, as it does without --full-ranking, is behind the
best one of its group, and stands open beside all else. The peak of memory is the process's beyond its imports. What was
measured is kept in results/compare_ranking.jsonl, a comparison with the code of nbadapt/selection that it measured
(--adopt: lines that do not say so are of the code that is here). Writes results/compare_ranking.md.
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

import datasets
import IPython.display
import matplotlib.pyplot
import pandas as pd
import peft
import sklearn.linear_model
import skops.io
import transformers.trainer
from report import RESULTS, code_of, environment, keep, kept, peak_memory, save, table

del datasets, IPython, matplotlib, peft, sklearn, skops, transformers  # imported beforehand: imports do not count

HERE = Path(__file__).parent
KEPT = RESULTS / "compare_ranking.jsonl"
BLOCKS: dict[str, Any] = {
    "features": None,
    "output-layers": None,
    "lora": {"r": [4, 16], "learning_rate": [2e-4, 1e-3]},
    "full": None,
    "few-shot": {"model": "smollm2", "shots": [4, 16]},
}
SMALL: dict[str, Any] = {
    "lora": {"epochs": 1},
    "full": {"epochs": 1},
    "few-shot": {"model": "smollm2", "shots": [1, 2]},
}
COMPARISONS = {"compare --full-ranking": True, "compare": False}  # -> whether all are trained on all rows
MOST_MEMORY = 1.10  # of the largest candidate's peak


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--test-rows", type=int, default=1066)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--adopt", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("SEED", "WHAT"))
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(worked(arguments, int(arguments.one[0]), arguments.one[1])))
        return
    parts = [compared(arguments, seed) for seed in range(arguments.seeds)]
    save("compare_ranking", report(arguments, parts))


def compared(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """What %%compare said with one seed, both ways, and what each candidate gave alone."""
    found = {what: measured(arguments, seed, what) for what in COMPARISONS}
    alone = {label: measured(arguments, seed, label) for label in found["compare"]["candidates"]}
    return {"seed": seed, **found, "alone": alone}


def measured(arguments: argparse.Namespace, seed: int, what: str) -> dict[str, Any]:
    """What one process gave, now or earlier."""
    sizes = {"rows": arguments.rows, "test_rows": arguments.test_rows, "small": arguments.small}
    key = {"seed": seed, "what": what, **sizes}
    if what in COMPARISONS:
        key["code"] = code_of("selection")
    known = kept(KEPT, key, adopt=arguments.adopt)
    if known is not None:
        return known
    command = [sys.executable, __file__, "--one", str(seed), what, "--data", str(arguments.data)]
    command += ["--rows", str(arguments.rows), "--test-rows", str(arguments.test_rows)]
    command += ["--small"] * arguments.small
    out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    entry = {**key, **json.loads(out.stdout.splitlines()[-1])}
    keep(KEPT, entry)
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
        if what in COMPARISONS:
            every = COMPARISONS[what]
            found = nbadapt.compare(blocks, model="minilm", data=train, test=test, seed=seed, full_ranking=every)
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
    """The results as Markdown: the figures, and every pair that is ranked otherwise."""
    head = ["seed", "candidate", "separate full run, test accuracy", "%%compare --full-ranking", "%%compare"]
    codes = sorted({part[what]["code"] for part in parts for what in COMPARISONS})
    packages = ("torch", "transformers", "peft", "scikit-learn")
    return "\n\n".join(
        [
            "# The ranking beside separate full runs",
            f"{arguments.rows:,} movie reviews, {arguments.test_rows:,} test rows. {agreement(parts)}",
            f"Code of nbadapt/selection: {', '.join(codes)}. Peak memory, at most {MOST_MEMORY:.2f} times that of the "
            "largest candidate:",
            memory(parts),
            table(head, [row for part in parts for row in figures(part)]),
            environment("benchmarks/compare_ranking.py", packages),
        ]
    )


def figures(part: dict[str, Any]) -> list[list[str]]:
    """A row for each candidate of one seed, the best alone first."""
    rows = []
    for label, entry in sorted(part["alone"].items(), key=lambda item: -sum(item[1]["right"])):
        scores = [_score(part[what], label) for what in COMPARISONS]
        rows.append([str(part["seed"]), label, f"{sum(entry['right']) / len(entry['right']):.3f}", *scores])
    return rows


def _score(found: dict[str, Any], label: str) -> str:
    """What a comparison says of a candidate: its accuracy on the test rows, or whom it is behind."""
    place = found["places"].get(label)
    return f"{sum(place) / len(place):.3f}" if place else found["behind"].get(label, "")


def agreement(parts: list[dict[str, Any]]) -> str:
    """How many significant pairs %%compare ranks as the separate runs do, and of which it says nothing."""
    pairs = [
        (part, *pair)
        for part in parts
        for pair in significant({label: entry["right"] for label, entry in part["alone"].items()})
    ]
    every, _ = ranked("compare --full-ranking", pairs)
    halved, open_ = ranked("compare", pairs)
    below = sum(standing(part["compare"], better) < standing(part["compare"], worse) for part, better, worse in open_)
    return (
        f"Among separate full runs {len(pairs)} pairs differ significantly. With --full-ranking %%compare ranks "
        f"{every}. Without it, it drops the weaker candidates of a method on fewer rows, and ranks {halved}. In the "
        f"other {len(open_)} one was dropped: of it %%compare says that it is behind the best one of its group, and "
        "leaves open how it stands beside other methods and beside others that were dropped. Put directly below that "
        f"best one, {below} of these {len(open_)} would stand in the same order."
    )


def ranked(
    what: str, pairs: list[tuple[dict[str, Any], str, str]]
) -> tuple[str, list[tuple[dict[str, Any], str, str]]]:
    """How many pairs a comparison ranks as the separate runs do, in words, and the pairs of which it says nothing."""
    said = [(pair, ranks(pair[0][what], *pair[1:])) for pair in pairs]
    against = [f"seed {part['seed']}: {better} over {worse}" for (part, better, worse), same in said if same is False]
    count = sum(same is not None for _, same in said)
    told = f"{count}, {count - len(against)} of them as the separate runs do"
    return told + (f" (not so: {'; '.join(against)})" if against else ""), [pair for pair, same in said if same is None]


def ranks(found: dict[str, Any], better: str, worse: str) -> bool | None:
    """Whether %%compare ranks two in this order; None where it says nothing of the two.

    A dropped one is behind its leader, and so behind all that stand above that.
    """
    places = found["places"]
    first, second = standing(found, better), standing(found, worse)
    if better in places and (worse in places or first < second):
        return first < second
    return False if worse in places and second < first else None


def standing(found: dict[str, Any], label: str) -> tuple[int, int, int]:
    """Place in the table where a dropped candidate stands directly below the one that it fell behind."""
    order = found["candidates"]
    if label in found["places"]:
        return order.index(label), 0, 0
    reason = found["behind"].get(label, "")
    leader = next((name for name in found["places"] if reason.startswith(f"behind {name} ")), None)
    return (order.index(leader) if leader else len(order), 1, order.index(label))


def memory(parts: list[dict[str, Any]]) -> str:
    """Each comparison's peak beside that of its largest candidate."""
    rows = []
    for part, what in itertools.product(parts, COMPARISONS):
        label, entry = max(part["alone"].items(), key=lambda item: item[1]["peak"])
        ours, largest = part[what]["peak"], entry["peak"]
        verdict = "holds" if ours <= MOST_MEMORY * largest else "does not hold"
        alone = f"{largest / 2**20:,.0f} ({label})"
        took = f"{part[what]['seconds']:.0f}"
        rows.append(
            [str(part["seed"]), f"%%{what}", took, f"{ours / 2**20:,.0f}", alone, f"{ours / largest:.2f}, {verdict}"]
        )
    head = ["seed", "", "seconds", "peak, MiB", "largest candidate alone, MiB", "times"]
    return table(head, rows)


def significant(right: dict[str, list[float]]) -> list[tuple[str, str]]:
    """(better, worse) of the pairs that can be told apart."""
    from nbadapt.engines.racing import mcnemar, told_apart

    pairs = [(a, b) if sum(right[a]) >= sum(right[b]) else (b, a) for a, b in itertools.combinations(right, 2)]
    counts = told_apart([mcnemar(right[a], right[b]) for a, b in pairs])
    return [pair for pair, count in zip(pairs, counts, strict=True) if count]


if __name__ == "__main__":
    main()
