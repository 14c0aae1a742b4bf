"""Eight LoRA candidates: %%compare, eight full runs one after the other, and Optuna's successive halving.

usage: python benchmarks/compare_speed.py [--data FOLDER] [--rows 2000] [--seeds 3] [--epochs 3] [--sides A B ...]
                                           [--adopt]

MiniLM on movie reviews, the test split locked up. All sides have the same training and validation rows, the same engine
and the same eight settings (r 4 and 16, four learning rates); each side of each seed has a process of its own.

compare:    %%compare. Its baselines, which no other side has, are timed apart.
sequential: RapidFire-style: every candidate is trained to its end, in turn, as tutorials do it and as multi-config
            tools such as RapidFire AI do where nobody stops a run; the best on the validation rows wins. RapidFire AI
            itself is not run: it interleaves its runs by chunks of the data, on GPUs.
optuna:     a grid of the same eight, SuccessiveHalvingPruner (reduction factor 3) after each epoch.

Winners are compared on the test rows by the exact McNemar test. What was measured is kept in
results/compare_speed.jsonl and not measured again, a comparison with the code of nbadapt/selection that it measured
(--adopt: lines that do not say so are of the code that is here). Needs: pip install --group benchmarks. Writes
results/compare_speed.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
from report import RESULTS, code_of, environment, keep, kept, save, table

HERE = Path(__file__).parent
GRID = {"r": [4, 16], "learning_rate": [2e-4, 5e-4, 1e-3, 2e-3]}
SIDES = ("compare", "sequential", "optuna")
KEPT = RESULTS / "compare_speed.jsonl"
NEVER = 1_000_000_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--sides", nargs="+", default=SIDES)
    parser.add_argument("--adopt", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "SEED"))
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(worked(arguments, arguments.one[0], int(arguments.one[1]))))
        return
    found = [measured(arguments, side, seed) for seed in range(arguments.seeds) for side in arguments.sides]
    save("compare_speed", report(arguments, found))


def measured(arguments: argparse.Namespace, side: str, seed: int) -> dict[str, Any]:
    """What one side gave with one seed, now or earlier."""
    key = {"side": side, "seed": seed, "rows": arguments.rows, "epochs": arguments.epochs, "model": arguments.model}
    if side == "compare":
        key["code"] = code_of("selection")
    known = kept(KEPT, key, adopt=arguments.adopt)
    if known is not None:
        return known
    command = [sys.executable, __file__, "--one", side, str(seed), "--data", str(arguments.data)]
    command += ["--rows", str(arguments.rows), "--epochs", str(arguments.epochs), "--model", arguments.model]
    out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    entry = {**key, "cores": len(os.sched_getaffinity(0)), **json.loads(out.stdout.splitlines()[-1])}
    keep(KEPT, entry)
    print({name: value for name, value in entry.items() if name != "right"}, file=sys.stderr, flush=True)
    return entry


def worked(arguments: argparse.Namespace, side: str, seed: int) -> dict[str, Any]:
    """Seconds, the winner's settings and which test rows it has right."""
    train = pd.read_csv(arguments.data / "movie_reviews_train.csv")[: arguments.rows]
    test = pd.read_csv(arguments.data / "movie_reviews_test.csv")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("RUNS", "EMBEDDINGS", "ANSWERS"):
            os.environ[f"NBADAPT_{name}"] = f"{folder}/{name.lower()}"
        from nbadapt.selection.asked import Asked
        from nbadapt.selection.candidates import prepare

        settings = {**GRID, "epochs": arguments.epochs, "samples": 0}
        asked = Asked(blocks={"lora": settings}, model=arguments.model, data=train, test=test, seed=seed)
        prepared = prepare(asked)
        warm(prepared)
        start = time.perf_counter()
        if side == "compare":
            return compared(asked, start)
        choose = sequential if side == "sequential" else optuna_halving
        label, run = choose(prepared, seed)
        said = run.predict(test["text"].tolist()).labels
        right = [float(a == b) for a, b in zip(said, test["label"], strict=True)]
        return {"seconds": time.perf_counter() - start, "winner": label, "right": right}


def compared(asked: Any, start: float) -> dict[str, Any]:
    """What `nbadapt.compare` does, looked at while it works; its baselines are work that no other side does."""
    from nbadapt.selection.candidates import prepare
    from nbadapt.selection.comparison import MethodComparison
    from nbadapt.selection.contest import Contest
    from nbadapt.selection.verdict import preference

    contest = Contest(prepare(asked))
    contest.start()
    baselines, last = 0.0, time.perf_counter()
    while contest.alive:
        contest.join(0.02)
        now, entry = time.perf_counter(), contest.current
        if entry is not None and entry.candidate.baseline:
            baselines += now - last
        last = now
    seconds = time.perf_counter() - start
    tuned = [place for place in MethodComparison(contest).verdict.places if not place.entry.candidate.baseline]
    best = min(tuned, key=lambda place: preference(contest, place.entry))
    right = list(best.entry.test[0].values)
    return {"seconds": seconds - baselines, "baselines": baselines, "winner": best.label, "right": right}


def warm(prepared: Any) -> None:
    """The libraries and the base model are loaded before any side's clock starts."""
    from nbadapt import models

    job = prepared.candidates[0].job
    models.load_classifier(job.model, job.labels, job.device, job.dtype, job.seed)


def loras(prepared: Any) -> list[Any]:
    return [candidate for candidate in prepared.candidates if candidate.method.name == "lora"]


def validated(run: Any, rows: Any) -> float:
    """Accuracy on the validation rows."""
    said = run.predict([row["text"] for row in rows.rows]).labels
    return sum(a == row["label"] for a, row in zip(said, rows.rows, strict=True)) / len(rows)


def finished(candidate: Any, job: Any) -> Any:
    """The run of a job, ended."""
    from nbadapt import runner
    from nbadapt.plan import Plan

    run = runner.start(Plan(job, candidate.method, candidate.estimate))
    run.join()
    if run.error is not None:
        raise run.error
    return run


def sequential(prepared: Any, _seed: int) -> tuple[str, Any]:
    """Eight full runs, and the best of them on the validation rows."""
    best: tuple[float, str, Any] = (-1.0, "", None)
    for candidate in loras(prepared):
        run = finished(candidate, candidate.job)
        score = validated(run, prepared.parts.validation)
        if score > best[0]:
            best = (score, candidate.label, run)
        run.forget()
    return best[1], best[2]


def optuna_halving(prepared: Any, seed: int) -> tuple[str, Any]:
    """The same grid under Optuna's pruner, which looks at the accuracy after each epoch."""
    import optuna

    from nbadapt.events import Metric

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    by_label = {candidate.label: candidate for candidate in loras(prepared)}
    runs: dict[str, Any] = {}

    def objective(trial: Any) -> float:
        label = trial.suggest_categorical("candidate", sorted(by_label))
        candidate = by_label[label]
        from nbadapt import runner
        from nbadapt.plan import Plan

        job = dataclasses.replace(candidate.job, evaluation=prepared.parts.validation)
        run = runs[label] = runner.start(Plan(job, candidate.method, candidate.estimate))
        seen = epoch = 0
        score = 0.0
        while run.alive or seen < len(run.events):
            run.join(0.02)
            events = run.events[seen:]
            seen += len(events)
            for _, event in events:
                if isinstance(event, Metric) and event.split == "evaluation":
                    epoch, score = epoch + 1, event.values["accuracy"]
                    trial.report(score, epoch)
                    if trial.should_prune() and run.alive:
                        run.stop("pruned")
        if run.state == "stopped":
            raise optuna.TrialPruned
        return score

    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    sampler = optuna.samplers.GridSampler({"candidate": sorted(by_label)}, seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
    study.optimize(objective, n_trials=len(by_label))
    label = study.best_trial.params["candidate"]
    return label, runs[label]


def report(arguments: argparse.Namespace, found: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    from nbadapt.engines.racing import mcnemar

    rows, tested = [], len(found[0]["right"])
    for seed in range(arguments.seeds):
        sides = {entry["side"]: entry for entry in found if entry["seed"] == seed}
        full = sides.get("sequential")
        for side, entry in sides.items():
            waited = entry["seconds"] + entry.get("baselines", 0.0)
            shares = [f"{time / full['seconds']:.2f}" if full else "" for time in (entry["seconds"], waited)]
            p = f"{mcnemar(entry['right'], full['right']):.2f}" if full and side != "sequential" else ""
            baselines = f"{entry['baselines']:.0f}" if "baselines" in entry else ""
            accuracy = sum(entry["right"]) / len(entry["right"])
            seconds = f"{entry['seconds']:.0f}"
            rows.append([str(seed), side, seconds, baselines, *shares, entry["winner"], f"{accuracy:.3f}", p])
    head = ["seed", "side", "s without baselines", "baselines, s", "of eight full runs"]
    head += ["with everything a user waits for", "winner", "test accuracy", "p against the full runs' winner"]
    about = (
        f"{arguments.model} on {arguments.rows:,} movie reviews, {arguments.epochs:g} epochs, eight LoRA candidates; "
        "the libraries and the base are loaded before the clock starts. The seconds of `compare` hold its planning, "
        "the measuring of costs and the test rows. Those of its baselines (majority, TF-IDF, and zero-shot with "
        "SmolLM2, which takes most of them) stand apart, because no other side has any; who runs the cell waits for "
        "them too, and the next share holds them. `sequential` is RapidFire-style: every candidate to its end, in "
        "turn, as tutorials do it and as multi-config tools such as RapidFire AI do where nobody stops a run. "
        "RapidFire AI itself was not run: it interleaves its runs by chunks of the data, on GPUs. p: exact McNemar "
        f"test on {tested:,} test rows; above 0.05 the winners cannot be told apart. Code of nbadapt/selection: "
        + ", ".join(sorted({entry["code"] for entry in found if "code" in entry}))
        + "."
    )
    packages = ("torch", "transformers", "peft", "optuna")
    return "\n\n".join(
        ["# Eight candidates, decided", about, table(head, rows), environment("benchmarks/compare_speed.py", packages)]
    )


if __name__ == "__main__":
    main()
