"""How long a form takes from a moved slider to its figures, beside a dry run of the same cell.

Run it with ``python benchmarks/form_estimate.py``. For every method and model a form is opened and measured once; then
settings change one at a time, as sliders do, and each answer of `Form.state` is timed. The page adds a pause of 30 ms
and the way of two messages. The figures of the last row of each setting are compared with a dry run's. A first round,
which imports the libraries, is not counted. Writes benchmarks/results/form_estimate.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from report import environment, save, table

from nbadapt import datasets, plan
from nbadapt.forms.form import Form

BUDGET_MS = 200
CASES = (
    ("lora", "minilm", {"r": ("4", "16", "64"), "batch_size": ("8", "32"), "learning_rate": ("0.01", "0.0001")}),
    ("adapter", "minilm", {"bottleneck": ("8", "32"), "epochs": ("1", "10")}),
    ("features", "minilm", {"pooling": ("cls", "last"), "learning_rate": ("0.3", "0.5")}),
    ("full", "minilm", {"batch_size": ("8", "32"), "weight_decay": ("0.1", "0.5")}),
    ("lora", "smollm2", {"r": ("4", "16", "64"), "batch_size": ("8", "32"), "learning_rate": ("0.01", "0.0001")}),
    ("prompt-tuning", "smollm2", {"num_virtual_tokens": ("8", "32", "64")}),
    ("few-shot", "smollm2", {"shots": ("2", "8"), "temperature": ("0.5", "1")}),
)


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Milliseconds on the clock and of this process, and the result."""
    clock, cpu = time.perf_counter(), time.process_time()
    result = work()
    return 1000 * (time.perf_counter() - clock), 1000 * (time.process_time() - cpu), result


def opened(method: str, model: str, tables: dict[str, Any]) -> Form:
    verb = "prompt" if method == "few-shot" else "finetune"
    form = Form(verb, method, tables)
    form.set({"--model": model, "--data": "rows"})
    if verb == "prompt":
        form.set({"--examples": "few", "--label": "label", "prompt-text": "{{text}}\nWhat is this about?"})
    return form


def measure(method: str, model: str, settings: dict[str, tuple[str, ...]], tables: dict[str, Any]) -> list[list[str]]:
    form = opened(method, model, tables)
    state = form.state()
    assert state.figures is not None, state.errors
    form.estimator.exact(form.request(state.cell))
    rows = []
    for name, values in settings.items():
        times, cpus = [], []
        default = next(field.default for field in form.settings if field.name == name)
        for value in values:
            form.set({name: value})
            clock, cpu, state = timed(form.state)
            assert state.figures is not None, state.errors
            times.append(clock)
            cpus.append(cpu)
        dry_clock, dry_cpu, dry = timed(lambda: plan.prepare(form.request(form.glance().cell)))
        found = state.figures.estimate
        same = (found.trainable, found.artifact, found.steps) == (
            dry.estimate.trainable,
            dry.estimate.artifact,
            dry.estimate.steps,
        )
        error = found.peak / dry.estimate.peak - 1
        form.set({name: default})
        rows.append(
            [
                f"`{method}` {model}",
                name,
                f"{statistics.median(times):.0f}",
                f"{max(times):.0f}",
                f"{statistics.median(cpus):.0f}",
                f"{dry_clock:.0f} ({dry_cpu:.0f})",
                "same" if same else "**differ**",
                "exact" if not state.figures.approximate else f"{100 * error:+.1f} %",
            ]
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=len(CASES), help="the first so many cases (all)")
    count = parser.parse_args().cases
    messages = datasets.load("bicycle_shop")
    few = messages.groupby("label").sample(4, random_state=0)
    tables = {"few": few, "rows": messages.drop(few.index)}
    measure("lora", "minilm", {"r": ("4",)}, tables)
    rows = [row for case in CASES[:count] for row in measure(*case, tables)]
    slow = [f"{row[0]} {row[1]}" for row in rows if float(row[3]) > BUDGET_MS]
    heads = ("method and model", "setting", "ms", "slowest", "ms of CPU", "dry run", "other figures", "peak")
    verdict = f"Above {BUDGET_MS} ms: {', '.join(slow)}." if slow else f"All answers took less than {BUDGET_MS} ms."
    text = "\n\n".join(
        [
            "# From a slider to the figures of a form",
            "Milliseconds from the changed setting to the figures. How: [form_estimate.py](../form_estimate.py).",
            table(heads, rows),
            f"**{verdict}** In brackets: CPU time of the dry run of the same cell. The peak is the one told at once, "
            "against that of the dry run, which a form works out and shows a moment later.",
            environment("benchmarks/form_estimate.py", ("torch", "transformers", "peft")),
        ]
    )
    save("form_estimate", text)


if __name__ == "__main__":
    main()
