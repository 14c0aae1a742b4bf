"""Which learning rate each method should have by default: figures on the validation split of real data.

usage: python benchmarks/learning_rates.py {classification,generation} [--data FOLDER] [--rows N] [--methods A B ...]

Classification: MiniLM on movie reviews, by accuracy. Generation: SmolLM2-135M on gsm8k, by the loss of the answers of
the first half of the validation file; the other half is for what is reported. All other settings are the methods' own
defaults. What was measured before is kept in results/learning_rates_TASK.jsonl and
not measured again. Writes results/learning_rates_TASK.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from report import CHOSEN_ON, RESULTS, environment, save, table

HERE = Path(__file__).parent
RATES: dict[str, tuple[float, ...]] = {
    "output-layers": (3e-4, 1e-3, 3e-3, 1e-2),
    "top-layers": (3e-5, 1e-4, 3e-4),
    "full": (2e-5, 5e-5, 1e-4),
    "lora": (3e-4, 1e-3, 3e-3),
    "adapter": (3e-4, 1e-3, 3e-3),
    "bitfit": (1e-3, 3e-3, 1e-2),
    "ia3": (1e-2, 3e-2, 1e-1),
    "prompt-tuning": (1e-2, 3e-2, 1e-1),
    "prefix-tuning": (3e-3, 1e-2, 3e-2, 1e-1),
    "p-tuning": (3e-4, 1e-3, 3e-3, 1e-2),
    "llama-adapter": (3e-3, 1e-2, 3e-2),
}
TASKS: dict[str, dict[str, Any]] = {
    "classification": {
        "model": "minilm",
        "files": ("movie_reviews_train.csv", "movie_reviews_validation.csv"),
        "rows": 2000,
        "held_out": (0, 1066),
        "figure": "accuracy",
        "settings": (),
        "without": ("llama-adapter",),
    },
    "generation": {
        "model": "smollm2",
        "files": ("gsm8k_train.jsonl", "gsm8k_validation.jsonl"),
        "rows": 200,
        "held_out": CHOSEN_ON,
        "figure": "loss",
        "settings": ("batch_size=8", "epochs=1", "max_length=256"),
        "without": ("output-layers", "bitfit"),
    },
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--methods", nargs="+", choices=RATES)
    arguments = parser.parse_args()
    task = TASKS[arguments.task]
    rows = arguments.rows or task["rows"]
    found: dict[str, dict[float, float]] = {}
    for method in arguments.methods or [m for m in RATES if m not in task["without"]]:
        for rate in RATES[method]:
            figure = measured(arguments.task, method, rate, rows, arguments.data)
            found.setdefault(method, {})[rate] = figure
            print(method, rate, figure, file=sys.stderr, flush=True)
    save(f"learning_rates_{arguments.task}", report(arguments.task, found, rows))


def measured(task_name: str, method: str, rate: float, rows: int, data: Path) -> float:
    """The figure on the validation split, from a run in a fresh process or from the file of earlier ones."""
    task, kept = TASKS[task_name], RESULTS / f"learning_rates_{task_name}.jsonl"
    key = {"method": method, "rate": rate, "rows": rows, "held_out": list(task["held_out"])}
    for line in kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []:
        entry = json.loads(line)
        if all(entry.get(name) == value for name, value in key.items()):
            return float(entry["figure"])
    files = [str(data / name) for name in task["files"]]
    settings = [word for pair in (f"learning_rate={rate}", *task["settings"]) for word in ("--set", pair)]
    sizes = ["--rows", str(rows), "--held-out", *map(str, task["held_out"])]
    command = [sys.executable, str(HERE / "measured_run.py"), method, task["model"], *files, *sizes, *settings]
    out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    figure = json.loads(out.stdout.splitlines()[-1])[task["figure"]]
    with kept.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**key, "figure": figure}) + "\n")
    return float(figure)


def report(task_name: str, found: dict[str, dict[float, float]], rows: int) -> str:
    """The results as Markdown, the best rate of each method in bold."""
    task = TASKS[task_name]
    best = max if task["figure"] == "accuracy" else min
    first, end = task["held_out"]
    lines = []
    for method, figures in found.items():
        chosen = best(figures, key=lambda rate: figures[rate])
        cells = [f"**{rate:g}: {f:.3f}**" if rate == chosen else f"{rate:g}: {f:.3f}" for rate, f in figures.items()]
        lines.append((method, *cells, *[""] * (4 - len(cells))))
    return "\n\n".join(
        [
            f"# Learning rates, {task_name}: {task['figure']} on the validation split",
            f"{task['model']}, {rows:,} training rows, rows {first} to {end - 1} of the validation file, seed 0; other "
            "settings are the defaults" + (f" but {', '.join(task['settings'])}." if task["settings"] else "."),
            table(("method", "learning rate: figure", "", "", ""), lines),
            environment("benchmarks/learning_rates.py", ("torch", "transformers", "peft")),
        ]
    )


if __name__ == "__main__":
    main()
