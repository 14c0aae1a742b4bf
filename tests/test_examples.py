"""The example of a method's help page runs as it stands: with what it makes beforehand, and on a packaged model."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from shells import Shell

from nbadapt import manual, registry
from nbadapt.method import Config, Example, Method
from nbadapt.plan import Plan

METHODS = sorted(registry.methods(), key=lambda method: method.name)
NAMES = [method.name for method in METHODS]
QUICK = {"bitfit", *(method.name for method in METHODS if method.verb == "prompt")}  # the others go through a step


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: Path) -> Shell:
    """A shell in an empty folder: what an example needs it has to make."""
    monkeypatch.chdir(tmp_path)
    return Shell()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMES]
)
def test_the_example_of_a_method_is_accepted_and_estimated(name: str, shell: Shell) -> None:
    example = manual.example(registry.load(name))
    if example.before:
        assert shell.run(example.before).error is None
    line, _, body = example.cell.partition("\n")
    done = shell.run(f"{line} --dry-run\n{body}")
    assert done.error is None, done.err
    assert isinstance(done.value, Plan)
    assert done.value.method.name == name
    assert done.value.estimate.total or done.value.estimate.artifact


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_the_example_last(name: str) -> None:
    example = manual.example(registry.load(name))
    page = repr(manual.method_page(name))
    for cell in filter(None, (example.before, example.cell)):
        assert inspect.cleandoc(cell) in inspect.cleandoc(page.replace("\n    ", "\n"))
    assert page.rstrip().endswith(example.cell.rpartition("\n")[2])


@pytest.mark.parametrize(
    ("tasks", "model", "table"),
    [
        ({"classification", "text"}, "minilm", "messages"),
        ({"preference"}, "smollm2", "pairs"),
        ({"generation", "preference"}, "smollm2", "pairs"),
        ({"generation", "text"}, "smollm2", "answered"),
        ({"text"}, "smollm2", "texts"),
    ],
)
def test_an_example_is_made_for_the_tasks_of_a_method(tasks: set[str], model: str, table: str, shell: Shell) -> None:
    made = manual.example(_method(tasks))
    assert made.cell == f"%%finetune mine --model {model} --data {table} --as tuned"
    assert shell.run(made.before).error is None
    assert len(shell[table]) > 1


def test_a_declared_example_is_shown() -> None:
    own = Example("%%finetune mine", "rows = []")
    assert manual.example(_method({"text"}, example=own)) is own


def _method(tasks: set[str], **declared: Any) -> type[Method]:
    return type(
        "Mine", (Method,), {"name": "mine", "verb": "finetune", "tasks": frozenset(tasks), "Config": Config, **declared}
    )
