"""What the benchmarks of finetuning compare, and what they show of it: equal work, rows apart, every seed."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from nbadapt import registry

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TASKS = ("classification", "generation")
WITHOUT_FIGURES = {"dpo", "ppo", "reward"}  # their texts tell no accuracy, loss or seconds


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a benchmark's module, which is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("script", ["tutorial_classifier.py", "tutorial_language_model.py"])
def test_the_peers_have_the_learning_rates_of_nbadapt(script, benchmark):
    rate = benchmark("finetuning_methods").rate
    lines = (BENCHMARKS / script).read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith("RATES = ")]
    rates = ast.literal_eval(line.partition("=")[2].partition("#")[0].strip())
    assert rates == {method: rate(method) for method in rates}


def test_learning_rates_are_chosen_on_other_rows_than_those_reported(benchmark):
    finetuning, rates = benchmark("finetuning_methods"), benchmark("default_settings")
    for task in TASKS:
        (*_, chosen), (*_, reported) = rates.TASKS[task]["files"], finetuning.TASKS[task]["files"]
        if chosen == reported:
            (_, end), (first, _) = rates.TASKS[task]["held_out"], finetuning.HELD_OUT[task]
            assert end <= first


@pytest.mark.parametrize("task", TASKS)
def test_no_default_is_far_behind_the_best_value_that_was_tried(task, benchmark):
    """On reviews; of a method that does not classify where it generates."""
    chosen = benchmark("default_settings")
    classify = {method for method, _, _ in chosen.tried("classification")}
    looked_at = 0
    for method, setting, default, figures in swept(chosen, task):
        if task == "classification" or method not in classify:
            looked_at += 1
            best = max(figures.values()) if task == "classification" else min(figures.values())
            assert abs(best - figures[default]) <= chosen.NEAR, (method, setting)
    assert looked_at


def test_no_value_is_as_good_as_a_default_on_reviews_and_clearly_better_where_it_generates(benchmark):
    chosen = benchmark("default_settings")
    reviews = {(method, setting): figures for method, setting, _, figures in swept(chosen, "classification")}
    looked_at = set()
    for method, setting, default, losses in swept(chosen, "generation"):
        accuracies = reviews.get((method, setting), {})
        for value in set(losses) & set(accuracies):
            looked_at.add(method)
            as_good = accuracies[value] >= accuracies[default]
            assert not (as_good and losses[default] - losses[value] > chosen.NEAR), (method, setting, value)
    assert looked_at >= {"full", "top-layers", "lora", "adapter", "prompt-tuning"}


def swept(chosen, task):
    """Method, setting, its default and the figure of each value, of all that was measured with two values or more."""
    lines = chosen.kept(task)
    for method, setting, values in chosen.tried(task):
        found = {v: chosen.figure_of(lines, chosen.training(task, method, setting, v)) for v in values}
        figures = {value: figure for value, figure in found.items() if figure is not None}
        if len(figures) > 1:
            yield method, setting, chosen.default(method, setting), figures


@pytest.mark.parametrize("task", TASKS)
def test_the_page_of_defaults_is_what_the_kept_lines_give(task, benchmark):
    made = benchmark("default_settings").report(task, benchmark("default_settings").kept(task))
    page = (BENCHMARKS / f"results/default_settings_{task}.md").read_text(encoding="utf-8")
    assert page.rpartition("\n\n")[0] == made.rpartition("\n\n")[0]  # below stand the machine and the versions


@pytest.mark.parametrize("task", TASKS)
def test_the_page_is_what_the_kept_lines_give(task, benchmark):
    finetuning = benchmark("finetuning_methods")
    lines = [line for line in finetuning.kept(task) if line["held_out"] == list(finetuning.HELD_OUT[task])]
    rows = sorted({line["rows"] for line in lines})
    assert tuple(rows) == finetuning.TASKS[task]["rows"]
    for n in rows:
        own = [line for line in lines if line["side"] == "nbadapt" and line["rows"] == n and not line["settings"]]
        with_defaults = {line["method"] for line in own if line["learning_rate"] == finetuning.rate(line["method"])}
        assert with_defaults == set(finetuning.TASKS[task]["methods"])
    made = finetuning.report(task, {n: [line for line in lines if line["rows"] == n] for n in rows})
    page = (BENCHMARKS / f"results/finetuning_methods_{task}.md").read_text(encoding="utf-8")
    assert page.rpartition("\n\n")[0] == made.rpartition("\n\n")[0]  # below stand the machine and the versions


FINETUNING = [method.name for method in registry.methods("finetune") if not method.baseline]


# What a text says of a method -> the method. "All layers" is full.
SAID = {"all layers": "full", **{name.replace("-", " "): name for name in FINETUNING}}


@pytest.mark.parametrize("name", FINETUNING)
def test_the_figures_in_a_methods_text_stand_in_the_rows_of_the_methods_that_it_names(name):
    text = inspect.getdoc(inspect.getmodule(registry.load(name, "finetune")))
    text = text[text.index("When to use it") :].replace("\n", " ").replace("that of the adapter", "adapter")
    named = {name} | {method for said, method in SAID.items() if re.search(rf"\b{said}\b", text, re.IGNORECASE)}
    pages = [*(BENCHMARKS / "results").glob("finetuning_methods_*.md"), BENCHMARKS / "results/output_layers.md"]
    lines = [line for page in pages for line in page.read_text(encoding="utf-8").replace(",", "").splitlines()]
    rows = [line for line in lines if any(line.startswith(f"| `{method}`") for method in named)]
    measured = set(re.findall(r"\d+(?:\.\d+)?", " ".join(rows)))
    for size in [figure for figure in measured if figure.isdigit()]:  # GiB of MiB, MiB of KiB
        measured |= {f"{int(size) / 1024:.0f}", f"{int(size) / 1024:.1f}"}
    # Accuracies and losses; seconds, memory, size and parameters.
    told = re.findall(r"\b[01]\.\d{3}\b|\b[\d.,]+(?= s\b| GiB\b| MiB\b| KiB\b| parameters)", text)
    assert told or name in WITHOUT_FIGURES
    assert {figure.replace(",", "") for figure in told} <= measured


def test_seeds_stand_side_by_side_and_another_rate_apart(benchmark):
    line = {"side": "plain", "method": "full", "rows": 9, "learning_rate": 1e-4, "cores": 2, "training": 10.0}
    line |= {"settings": []}
    line |= {"trainable": 5, "peak": 2**30, "size": 2**10}
    found = [{**line, "seed": 1, "accuracy": 0.7}, {**line, "seed": 0, "accuracy": 0.9}]
    found.append({**line, "seed": 0, "accuracy": 0.85, "learning_rate": 5e-5})
    found.append({**line, "side": "nbadapt", "seed": 0, "accuracy": 0.6, "settings": ["dropout=0.1"]})
    page = benchmark("finetuning_methods").report("classification", {9: found})
    assert "a difference of up to 0.200. " in page
    assert "\n| `full`, dropout=0.1 | 0 | 2 | 0.600 |" in page
    first, second = [row for row in page.splitlines() if row.startswith("| plain")]
    assert first.startswith("| plain full, learning rate 5e-05 | 0 | 2 | 0.850 |")
    assert second.startswith("| plain full | 0 / 1 | 2 / 2 | 0.900 / 0.700 | 5 | 10 / 10 |")


def test_a_line_of_another_rate_or_other_rows_is_not_taken_for_the_one_asked_for(benchmark, tmp_path, monkeypatch):
    finetuning = benchmark("finetuning_methods")
    monkeypatch.setattr(finetuning, "RESULTS", tmp_path)
    monkeypatch.setattr(finetuning, "folder", Path)
    key = {"side": "plain", "method": "full", "rows": 128, "seed": 0, "learning_rate": 1e-4, "held_out": [100, 200]}
    others = [{**key, "learning_rate": 5e-5}, {**key, "held_out": [0, 32]}, {**key, "seed": 1}]
    (tmp_path / "finetuning_methods_generation.jsonl").write_text("\n".join(map(json.dumps, others)) + "\n")
    asked = finetuning.argparse.Namespace(task="generation", data=tmp_path, settings=[])

    class Trains(Exception):  # noqa: N818 - a mark
        pass

    def run(command, **_):
        raise Trains(command)

    monkeypatch.setattr(finetuning.subprocess, "run", run)
    with pytest.raises(Trains) as caught:
        finetuning.measured(asked, "plain", "full", 128, 0)
    (command,) = caught.value.args
    assert command[command.index("--learning-rate") + 1] == "0.0001"
    assert command[command.index("--held-out") + 1 :][:2] == ["100", "200"]
    with (tmp_path / "finetuning_methods_generation.jsonl").open("a") as file:
        file.write(json.dumps({**key, "loss": 0.5}) + "\n")
    assert finetuning.measured(asked, "plain", "full", 128, 0)["loss"] == 0.5


def test_the_standard_error_of_the_loss_is_that_of_resampled_rows(benchmark):
    ratio = benchmark("held_out").ratio
    random = np.random.default_rng(0)
    counts = random.integers(20, 200, 100)
    sums = counts * random.normal(0.8, 0.2, 100)
    found = ratio(sums.tolist(), counts.tolist())
    assert found["loss"] == pytest.approx(sums.sum() / counts.sum())
    drawn = random.integers(0, 100, (4000, 100))
    bootstrap = (sums[drawn].sum(1) / counts[drawn].sum(1)).std()
    assert found["loss_error"] == pytest.approx(bootstrap, rel=0.1)
    equal = ratio([1.0, 2.0, 6.0], [1, 1, 1])
    assert equal["loss_error"] == pytest.approx(np.std([1, 2, 6], ddof=1) / math.sqrt(3))


def test_the_loss_of_rows_is_that_of_their_tokens(benchmark):
    """Against one padded batch, whose mean loss counts every learned token alike."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    model = transformers.LlamaForCausalLM(config)
    rows = [{"input_ids": list(range(1, n)), "labels": [-100, *range(2, n)]} for n in (4, 9, 20)]
    found = benchmark("held_out").held_out_loss(model, rows)
    pad = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    longest = max(len(row["input_ids"]) for row in rows)
    full = [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in rows]
    batch = {k: torch.tensor([row[k] + [pad[k]] * (longest - len(row[k])) for row in full]) for k in pad}
    with torch.no_grad():
        expected = float(model(**batch).loss)
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    assert found["loss_error"] > 0
