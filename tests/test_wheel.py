"""What is published works without its source; and says one version everywhere."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import nbadapt

ROOT = Path(__file__).resolve().parents[1]


def test_the_version_is_semantic_and_stands_in_one_place() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?", nbadapt.__version__)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["hatch"]["version"]["path"] == "nbadapt/__init__.py"
    assert re.search(rf"^## {re.escape(nbadapt.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_citation_and_the_issue_forms_are_well_formed() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "title", "message", "authors"} <= set(cited)
    assert cited["license"] == "Apache-2.0"
    forms = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    assert len(forms) >= 2
    for path in forms:
        form = yaml.safe_load(path.read_text())
        assert {"name", "description", "body"} <= set(form), path
        ids = [part["id"] for part in form["body"]]
        assert len(ids) == len(set(ids))


@pytest.mark.slow
def test_a_newcomer_gets_along_with_the_wheel() -> None:
    pytest.importorskip("build")
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "newcomer.py")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The wheel works." in done.stdout
