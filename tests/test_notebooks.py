"""The example notebooks: they run, they show what they promise, and they are committed with their outputs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
import tiny_models
from nbclient import NotebookClient

from nbadapt.packaged_models import MINILM, SMOLLM2

FOLDER = Path(__file__).resolve().parents[1] / "example_notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 300_000  # bytes: a code-hosting page renders it at once

every = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: Any) -> str:
    """All that a cell shows, as text."""
    return json.dumps(cell.outputs)


@every
def test_it_is_committed_as_it_ran(path: Path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run from top to bottom"
    assert not [o for cell in cells for o in cell.outputs if o.output_type == "error"]
    assert path.stat().st_size < LARGEST


@every
def test_it_holds_no_widget_and_no_path_of_a_machine(path: Path):
    text = path.read_text(encoding="utf-8")
    assert "application/vnd.jupyter.widget" not in text
    assert "widgets" not in nbformat.read(path, as_version=4).metadata
    for cell in code_cells(nbformat.read(path, as_version=4)):
        assert not re.search(r"/(home|root|Users|tmp|work|var)/", shown(cell)), cell.source


def papermill(folder: Path) -> None:
    command = [sys.executable, "-m", "papermill", "in.ipynb", "out.ipynb", "--cwd", str(folder)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def nbclient(folder: Path) -> None:
    notebook = nbformat.read(folder / "in.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    nbformat.write(notebook, folder / "out.ipynb")


@pytest.mark.slow
@pytest.mark.parametrize("execute", [papermill, nbclient])
def test_a_notebook_with_widgets_ends_with_texts_and_figures(execute: Any, tmp_path: Path):
    """A form, a run and the table of runs: where nobody can press anything, the notebook goes on, and stays small."""
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps(tiny_models.reviews(20)), encoding="utf-8")
    model = tiny_models.folder("bert")
    cell = f"%%finetune lora --model {model} --data {rows} --as tuned\nmax_steps: 8\nbatch_size: 4"
    sources = ["%load_ext nbadapt", "%finetune lora", cell, "%nbadapt runs", "print(tuned.state)"]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "in.ipynb")
    execute(tmp_path)
    text = (tmp_path / "out.ipynb").read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    form, trained, table, after = notebook.cells[-4:]
    assert "%%finetune lora" in form.outputs[0].data["text/plain"]
    assert "data:image/png;base64," in trained.outputs[0].data["text/html"]
    assert "Training loss" in trained.outputs[0].data["text/plain"]
    assert "tuned" in table.outputs[0].data["text/plain"]
    assert after.outputs[0].text == "done\n"
    assert "application/vnd.jupyter.widget" not in text
    assert "widgets" not in notebook.metadata
    assert len(json.dumps(trained.outputs)) < 60_000, "a run adds so much at most"


def executed(name: str, folder: Path) -> Any:
    """A notebook, executed anew in a folder."""
    for model in (SMOLLM2, MINILM):
        if model.folder() is None:
            pytest.skip(f"needs {model.install}")
    notebook = nbformat.read(FOLDER / name, as_version=4)
    NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return notebook


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """01_quickstart.ipynb, executed anew; `make demo` does so as well, which is why the quick tests need not."""
    return executed("01_quickstart.ipynb", tmp_path_factory.mktemp("quickstart"))


@pytest.mark.timeout(1800)  # the fixture trains a language model; on two busy cores that takes minutes
@pytest.mark.slow
def test_the_quickstart_runs_and_finetuning_helps(quickstart: Any):
    table = next(cell for cell in code_cells(quickstart) if cell.source.startswith("runs = "))
    figures = {
        name: float(value)
        for name, value in re.findall(r"(as it is|with 5 examples|finetuned \(LoRA\))\s+(\d\.\d+)", shown(table))
    }
    assert figures["finetuned (LoRA)"] > figures["as it is"] + 0.15
    assert figures["finetuned (LoRA)"] > figures["with 5 examples"]


@pytest.mark.slow
def test_the_quickstart_leaves_a_static_result(quickstart: Any):
    cell = next(cell for cell in code_cells(quickstart) if cell.source.startswith("%%finetune"))
    kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
    assert "text/html" in kinds
    assert "application/vnd.jupyter.widget-view+json" not in kinds


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_six_methods_end_in_one_table_and_one_figure(tmp_path: Path):
    cells = code_cells(executed("02_finetuning_methods.ipynb", tmp_path))
    table, figure = cells[-2:]
    rows = re.findall(r"^\d +([a-z-]+) +([\d.]+) +([\d.]+) +([\d.]+) +(\d+)", plain(table), re.MULTILINE)
    trained = [int(row[4]) for row in rows]
    assert len(rows) == len({row[0] for row in rows}) == 6
    assert trained == sorted(trained), "the text says: from the fewest to all"
    for method, accuracy, low, high, _ in rows:
        assert float(low) < float(accuracy) < float(high)
        assert float(low) > 0.3, f"{method} learnt something: guessing gets 0.2"
    assert ["image/png" in output.data for output in figure.outputs] == [True]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ways_of_prompting_end_in_one_table(tmp_path: Path):
    notebook = executed("03_prompting.ipynb", tmp_path)
    searched = next(cell for cell in code_cells(notebook) if cell.source == "searched.candidates")
    assert plain(searched).count("chosen") == 1
    table = next(cell for cell in code_cells(notebook) if "table.round" in cell.source)
    found = re.findall(r"^([a-z][a-z, -]+[a-z]) +([\d.]+)", plain(table), re.MULTILINE)
    accuracy = {name: float(value) for name, value in found}
    assert len(accuracy) == 5
    assert accuracy["few-shot, nearest"] > max(accuracy["zero-shot"], accuracy["few-shot"]) + 0.1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_answers_from_documents_are_better_than_from_memory(tmp_path: Path):
    shutil.copytree(FOLDER / "handbook", tmp_path / "handbook")
    table = code_cells(executed("04_ask_your_documents.ipynb", tmp_path))[-1]
    right = dict(re.findall(r"\d +(from memory|one passage|four passages) +([\d.]+)", plain(table)))
    assert float(right["one passage"]) > float(right["from memory"]) + 0.1
    assert len(right) == 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_widgets_end_with_text_and_figures(tmp_path: Path):
    notebook = executed("06_widgets.ipynb", tmp_path)
    cells = {cell.source.splitlines()[0]: cell for cell in code_cells(notebook)}
    assert "%%finetune lora" in plain(cells["%finetune lora"])
    shown = [plain(cell) for first, cell in cells.items() if first.startswith("%nbadapt play")]
    judged, written = shown
    assert "Without the word the probability of return falls by:" in judged
    assert "Marked: tokens that smollm2 lacks" in written
    pictures = [first for first, cell in cells.items() if "data:image/png;base64," in json.dumps(cell.outputs)]
    assert "%nbadapt compare tuned plain" in pictures
    (ranked,) = [plain(cell) for first, cell in cells.items() if first.startswith("%nbadapt rank")]
    assert "2 preferences in prefs.jsonl" in ranked


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_was_ranked_is_learned_with_and_without_a_reward_model(tmp_path: Path):
    shutil.copytree(FOLDER / "replies", tmp_path / "replies")
    cells = code_cells(executed("05_human_feedback.ipynb", tmp_path))
    table = next(cell for cell in cells if cell.source.startswith("def share"))
    finished = {
        name: float(part) for name, part in re.findall(r"^(base|PPO|DPO) +([\d.]+)", plain(table), re.MULTILINE)
    }
    assert finished["PPO"] > finished["base"] + 15
    assert finished["DPO"] > finished["base"] + 15
    assert "image/png" in cells[-1].outputs[0].data


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_comparison_ends_in_advice_that_its_table_bears_out(tmp_path: Path):
    cells = code_cells(executed("07_compare.ipynb", tmp_path))
    first, second = (cell for cell in cells if cell.source.startswith("%%compare") and "--dry-run" not in cell.source)
    assert "Use " in shown(first)
    assert "image/png;base64," in shown(first)
    assert "application/vnd.jupyter.widget-view+json" not in shown(first)
    assert "the test rows were looked at 2 times" in shown(second)
    frame = next(cell for cell in cells if cell.source.startswith("found.frame()"))
    accuracy = {
        name: float(value) for name, value in re.findall(r"^([a-z-]+)[^\n]*? +(0\.\d+)", plain(frame), re.MULTILINE)
    }
    assert max(accuracy.values()) > accuracy["majority"] + 0.3
    assert (tmp_path / "comparison.html").stat().st_size > 20_000


def plain(cell: Any) -> str:
    """The text of a cell's result."""
    return "".join(output.get("data", {}).get("text/plain", "") for output in cell.outputs)
