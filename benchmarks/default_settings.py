"""What each method should have by default: figures on the validation split of real data, one setting varied at a time.

usage: python benchmarks/default_settings.py {classification,generation} [--data FOLDER] [--methods A B ...]
                                             [--settings A B ...] [--seeds N ...] [--kept]

Classification: MiniLM on movie reviews, by accuracy. Generation: SmolLM2-135M on gsm8k, by the loss of the answers of
the first half of the validation file; the other half is for what is reported. All other settings are the methods' own
defaults. What was measured before is kept in results/default_settings_TASK.jsonl and not measured again; --kept
measures nothing. The figure of several seeds is their mean. Writes results/default_settings_TASK.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from report import CHOSEN_ON, RESULTS, environment, save, table

HERE = Path(__file__).parent
NEAR = 0.01  # what so few held-out rows cannot tell apart: accuracy, or the loss of a token
TOKENS = (10, 20, 40)
TRIED: dict[str, dict[str, Sequence[float | None]]] = {
    "output-layers": {"learning_rate": (3e-4, 1e-3, 3e-3, 1e-2), "epochs": (5, 10, 20, 40)},
    "top-layers": {"learning_rate": (3e-5, 1e-4, 3e-4), "epochs": (2, 3, 5), "layers": (1, 2, 3)},
    "full": {"learning_rate": (2e-5, 5e-5, 1e-4, 2e-4), "epochs": (2, 3, 5)},
    "lora": {"learning_rate": (3e-4, 1e-3, 3e-3), "epochs": (2, 3, 5), "r": (4, 8, 16)},
    "adapter": {"learning_rate": (3e-4, 1e-3, 3e-3), "epochs": (2, 3, 5), "bottleneck": (8, None, 96)},
    "bitfit": {"learning_rate": (1e-3, 3e-3, 1e-2), "epochs": (2, 3, 5)},
    "ia3": {"learning_rate": (1e-2, 3e-2, 1e-1), "epochs": (2, 3, 5)},
    "prompt-tuning": {"learning_rate": (1e-2, 3e-2, 1e-1), "epochs": (2, 3, 5), "num_virtual_tokens": TOKENS},
    "prefix-tuning": {"learning_rate": (3e-3, 1e-2, 3e-2, 1e-1), "epochs": (2, 3, 5), "num_virtual_tokens": TOKENS},
    "p-tuning": {"learning_rate": (1e-3, 3e-3, 1e-2, 3e-2), "epochs": (2, 3, 5), "num_virtual_tokens": TOKENS},
    "llama-adapter": {
        "learning_rate": (3e-3, 1e-2, 3e-2, 1e-1),
        "adapter_len": (5, 10, 30, 60, 100),
        "adapter_layers": (15, None),
    },
}
TASKS: dict[str, dict[str, Any]] = {
    "classification": {
        "model": "minilm",
        "files": ("movie_reviews_train.csv", "movie_reviews_validation.csv"),
        "rows": 2000,
        "held_out": (0, 1066),
        "figure": "accuracy",
        "fixed": {},
        "but": "",
        "older": "Figures of several seeds were measured with the steps of an epoch in random order, as they come now; "
        "the others when the steps went from long rows to short ones, again and again.",
        "without": ("llama-adapter",),
    },
    "generation": {
        "model": "smollm2",
        "files": ("gsm8k_train.jsonl", "gsm8k_validation.jsonl"),
        "rows": 128,
        "held_out": CHOSEN_ON,
        "figure": "loss",
        "fixed": {"batch_size": 8, "epochs": 1, "max_length": 256},
        "but": " for a method that does not classify. One that does has what reviews chose, whose hundreds of steps "
        "are nearer to what people train than these 16: no other value was as good there and better by more here",
        "older": "Measured when the steps of an epoch went from long rows to short ones, again and again; they come in "
        "random order now.",
        "without": ("output-layers", "bitfit"),
    },
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--methods", nargs="+", choices=TRIED)
    parser.add_argument("--settings", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--kept", action="store_true")
    arguments = parser.parse_args()
    for method, setting, values in [] if arguments.kept else tried(arguments.task):
        chosen = method in (arguments.methods or TRIED) and setting in (arguments.settings or [setting])
        for value, seed in itertools.product(values if chosen else (), arguments.seeds):
            of = training(arguments.task, method, setting, value)
            print(method, setting, value, seed, measured(arguments.task, of, seed, arguments.data), flush=True)
    save(f"default_settings_{arguments.task}", report(arguments.task, kept(arguments.task)))


def tried(task: str) -> Iterator[tuple[str, str, Sequence[float]]]:
    """Method, setting and values, for a task."""
    for method, settings in TRIED.items():
        for setting, values in settings.items():
            if method not in TASKS[task]["without"] and setting not in TASKS[task]["fixed"]:
                yield method, setting, values


def default(method: str, setting: str) -> Any:
    """What nbadapt gives a user who sets nothing; None: it is worked out from the model."""
    from nbadapt import registry

    return registry.load(method).Config.model_fields[setting].default


def kept(task: str) -> list[dict[str, Any]]:
    """What was measured before, one mapping a training."""
    file = RESULTS / f"default_settings_{task}.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [{"seed": 0, **json.loads(line)} for line in lines]


def training(task_name: str, method: str, setting: str, value: float | None) -> dict[str, Any]:
    """What stands for a training in the file of those that are kept: every setting that is tried, and the rows."""
    settings = {name: default(method, name) for one, name, _ in tried(task_name) if one == method}
    task = TASKS[task_name]
    rows = {"rows": task["rows"], "held_out": list(task["held_out"])}
    return {"method": method, "settings": {**settings, setting: value}, **rows}


def figures_of(lines: Sequence[Mapping[str, Any]], of: Mapping[str, Any]) -> list[float]:
    """What a training gave, with each seed that was measured."""
    return [float(line["figure"]) for line in lines if all(line[name] == of[name] for name in of)]


def figure_of(lines: Sequence[Mapping[str, Any]], of: Mapping[str, Any]) -> float | None:
    """The mean of those figures; None: the training was not measured."""
    figures = figures_of(lines, of)
    return mean(figures) if figures else None


def measured(task_name: str, of: Mapping[str, Any], seed: int, data: Path) -> float:
    """A training's figure on the validation split, from a run in a fresh process or from the file of earlier ones."""
    earlier = figures_of(kept(task_name), {**of, "seed": seed})
    if earlier:
        return earlier[0]
    task = TASKS[task_name]
    files = [str(data / name) for name in task["files"]]
    pairs = {**of["settings"], **task["fixed"]}.items()
    settings = [word for name, chosen in pairs for word in ("--set", f"{name}={json.dumps(chosen)}")]
    sizes = ["--rows", str(task["rows"]), "--held-out", *map(str, task["held_out"]), "--seed", str(seed)]
    command = [sys.executable, str(HERE / "measured_run.py"), of["method"], task["model"], *files, *sizes, *settings]
    out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    figure = float(json.loads(out.stdout.splitlines()[-1])[task["figure"]])
    with (RESULTS / f"default_settings_{task_name}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({**of, "seed": seed, "figure": figure}) + "\n")
    return figure


def report(task_name: str, lines: Sequence[Mapping[str, Any]]) -> str:
    """The results as Markdown: the best value of each setting in bold, the default marked."""
    task = TASKS[task_name]
    first, end = task["held_out"]
    rows = []
    for method, setting, values in tried(task_name):
        found = {value: figures_of(lines, training(task_name, method, setting, value)) for value in values}
        cells = _cells({value: f for value, f in found.items() if f}, method, setting, task["figure"])
        if cells:
            rows.append((f"`{method}`", setting, *cells, *[""] * (5 - len(cells))))
    fixed = ", ".join(f"{name}={value}" for name, value in task["fixed"].items())
    return "\n\n".join(
        [
            f"# Default settings, {task_name}: {task['figure']} on the validation split",
            f"{task['model']}, {task['rows']:,} training rows, rows {first} to {end - 1} of the validation file, seed "
            "0, or the mean of that and the next ones where it says so; one setting is varied, the others are the "
            f"defaults{f' but {fixed}' if fixed else ''}. Bold: the best. A star: the default, at most {NEAR} from "
            f"the best{task['but']}. None: worked out from the model. {task['older']}",
            table(("method", "setting", "value: figure", "", "", "", ""), rows),
            environment("benchmarks/default_settings.py", ("torch", "transformers", "peft"), "one core or two"),
        ]
    )


def _cells(figures: Mapping[float | None, Sequence[float]], method: str, setting: str, figure: str) -> list[str]:
    """Each value with its figure; none where one value alone is there."""
    if len(figures) < 2:
        return []
    best = (max if figure == "accuracy" else min)(mean(found) for found in figures.values())
    cells = []
    for value, found in figures.items():
        text = f"{value}{'*' * (value == default(method, setting))}: {mean(found):.3f}"
        text += f" ({len(found)} seeds)" * (len(found) > 1)
        cells.append(f"**{text}**" if mean(found) == best else text)
    return cells


if __name__ == "__main__":
    main()
