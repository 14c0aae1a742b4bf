"""What is published works without its source; and says one version everywhere."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import nbadapt
from nbadapt import origins

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


def test_every_library_that_is_imported_is_declared() -> None:
    """Who installs the wheel into an empty environment gets all that it needs; a library of a library's may go."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    declared = {origins.normal(Requirement(line).name) for line in lines}
    brought_by = packages_distributions()
    sources = [*(ROOT / "nbadapt").rglob("*.py"), *(ROOT / "plugins" / "nbadapt_plugins").rglob("*.py")]
    imported = {name for file in sources for name in _imported(ast.parse(file.read_text(encoding="utf-8")))}
    others = imported - sys.stdlib_module_names - {"nbadapt", "nbadapt_plugins"}
    others -= {"pytest"}  # the kit runs in its tests, and says so where it is missing
    assert {"torch", "sklearn", "yaml", "trl"} <= others
    lacking = {name for name in others if declared.isdisjoint(map(origins.normal, [name, *brought_by.get(name, [])]))}
    assert lacking == set()


def _imported(node: ast.AST) -> Iterator[str]:
    """The modules that a piece of code imports, by their first word; not those that only a type checker reads."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module.partition(".")[0]
    for child in ast.iter_child_nodes(node):
        yield from _imported(child)


def test_every_target_that_a_workflow_makes_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (workflow,) = (ROOT / ".github" / "workflows").glob("*.yml")
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    run = "\n".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    made = set(re.findall(r"\bmake (?:\w+=\S+ )*([a-z-]+)", run))
    assert {"newcomer", "test-slow"} <= made
    assert ".ci/run" in run
    assert [target for target in made if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []
    assert "newcomer.py --empty" in re.search(r"^newcomer:.*\n(\t.*)", makefile, re.MULTILINE)[1]


@pytest.mark.slow
def test_a_newcomer_gets_along_with_the_wheel() -> None:
    pytest.importorskip("build")
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "newcomer.py")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The wheel works." in done.stdout
