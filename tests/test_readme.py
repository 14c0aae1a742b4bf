"""What the README shows is what happens: its commands exist, its cells run, its table of methods is true."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from nbadapt import registry
from nbadapt.packaged_models import MINILM, SMOLLM2

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    found = re.search(rf"^## {title}$.*?(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title}"
    return found[0]


def test_the_quick_start_is_two_commands():
    commands = [block.strip().splitlines() for block in blocks("bash", section("Quick start"))]
    assert commands == [["make demo"], ["make test"]]


@pytest.mark.parametrize("command", re.findall(r"`(make [a-z-]+)`", README) or ["none"])
def test_every_make_target_exists(command: str):
    subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


def test_ci_runs_the_readme_test_command():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111, ".ci/run is executable"
    test = blocks("bash", section("Quick start"))[1].strip()
    assert test in script.read_text(encoding="utf-8").splitlines()


def test_every_built_in_method_is_in_the_table():
    shown = set(re.findall(r"^\| `([a-z0-9-]+)` \|", section("Methods"), re.MULTILINE))
    own = {name for name, found in registry.entries().items() if {e.distribution for e in found} == {"nbadapt"}}
    assert shown == own


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.slow  # the example notebook, among the quick tests, does the same work
def test_the_cells_run_in_order(tmp_path: Path):
    for model in (SMOLLM2, MINILM):
        if model.folder() is None:
            pytest.skip(f"needs {model.install}")
    cells = [nbformat.v4.new_code_cell(source) for source in blocks("python")]
    assert cells
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
