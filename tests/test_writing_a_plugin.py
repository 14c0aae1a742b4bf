"""The tutorial is followed to the letter, and a new author gets from the clone to a wheel that others use."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import environments
import nbformat
import pytest
from environments import ROOT, Environment
from nbclient import NotebookClient

PAGE = ROOT / "docs" / "writing_a_plugin.md"
pytestmark = pytest.mark.slow


def blocks() -> list[tuple[str, str]]:
    """(language, text) of every code block of the tutorial."""
    return re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def own_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nbadapt's wheel, built from what a fresh clone holds."""
    room = tmp_path_factory.mktemp("build")
    source = environments.checkout(room / "nbadapt")
    return environments.wheel(environments.make(room / "env", room / "home"), source)


def with_nbadapt(room: Path, own_wheel: Path) -> Environment:
    made = environments.make(room / "env", room / "home")
    made.run("python", "-m", "pip", "install", "--no-deps", str(own_wheel))
    where = made.run("python", "-c", "import nbadapt; print(nbadapt.__file__)")
    assert Path(where.strip()).is_relative_to(made.folder)  # the wheel's, not this checkout's
    return made


def notebook(environment: Environment, cells: list[str]) -> list[Any]:
    """Run cells in the environment's kernel; the outputs of each."""
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    client = NotebookClient(
        made, timeout=300, kernel_name=environment.kernel(), resources={"metadata": {"path": str(environment.home)}}
    )
    with pytest.MonkeyPatch.context() as patch:  # the kernel inherits them, and JUPYTER_PATH is where it is found
        patch.delenv("PYTHONPATH", raising=False)
        for name, value in environment.variables.items():
            patch.setenv(name, value)
        client.execute()
    return [cell.outputs for cell in made.cells]


def text(outputs: list[Any]) -> str:
    return "\n".join(o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in outputs)


def used(user: Environment, name: str, body: str, stopped: str) -> None:
    """What a user does with a method from elsewhere: found, completed by Tab, run, stopped, resumed, loaded.

    Args:
        user: has the wheel.
        name: the word after the magic.
        body: of its cell.
        stopped: settings of a run that is long enough to be stopped.
    """
    listed = user.run("python", "-m", "nbadapt", "methods")
    assert re.search(rf"^{name} .* nbadapt-{name} 0\.1\.0 +ready$", listed, re.MULTILINE)
    rows = "rows = [{'text': f'{i} a film, ' + w, 'label': w} for i in range(100) for w in ('good', 'bad')]"
    stopping = (
        "import threading, time, nbadapt\n"
        "from nbadapt import runner\n"
        "def press_stop():\n"
        "    while (at_work := runner.current()) is None or len(at_work.events) < 12: time.sleep(0.01)\n"
        "    at_work.stop()\n"
        "threading.Thread(target=press_stop, daemon=True).start()\n"
        f"run = nbadapt.finetune('{name}', model='minilm', data=rows, {stopped})\n"
        "print(run.state)"
    )
    cells = [
        "%load_ext nbadapt",
        rows,
        f"print(get_ipython().Completer.complete('%%finetune {name[:4]}')[1])",
        f"%%finetune {name} --model minilm --data rows --as tuned\n{body}",
        "print(tuned.state, sorted(tuned.metrics))",
        "print(tuned.predict('a film, good').labels)",
        stopping,
        "print(nbadapt.show(run.id).predict(['a film, bad']).labels)",  # what is there by then is usable
        "%nbadapt resume run",
        "print(run.state)",
        "print(nbadapt.show(run.id).predict(['a film, bad']).labels)",
    ]
    outputs = [text(one).strip() for one in notebook(user, cells)]
    assert name in outputs[2]
    assert outputs[4].startswith("done ['accuracy'")
    assert outputs[6].endswith("stopped")
    assert outputs[9] == "done"
    assert {outputs[5], outputs[7], outputs[10]} <= {"['good']", "['bad']"}
    elsewhere = "import nbadapt; run = nbadapt.runs()[0]; print(run.method, run.predict('a film, bad').labels)"
    assert user.run("python", "-c", elsewhere).startswith(f"{name} [")


@pytest.mark.timeout(1800)
def test_the_tutorial_is_followed_to_the_letter(tmp_path: Path, own_wheel: Path) -> None:
    author = with_nbadapt(tmp_path / "author", own_wheel)
    said: list[str] = []
    cells: list[str] = []
    for language, block in blocks():
        match language:
            case "bash":
                said += [author.run("bash", "-e", "-c", line) for line in block.strip().splitlines()]
            case "python":
                first = block.splitlines()[0]
                (author.home / first.removeprefix("# ")).write_text(block, encoding="utf-8")
            case "toml":
                assert block in (author.home / "nbadapt-centroid" / "pyproject.toml").read_text(encoding="utf-8")
            case "ipython":
                cells.append(block.rstrip("\n"))
            case _:
                raise AssertionError(language)
    checked = [line for line in said if "rules" in line or "keeps the contract" in line]
    assert [line.splitlines()[0].startswith("Centroid keeps the contract") for line in checked] == [True, True]
    (plugin,) = (author.home / "dist").glob("nbadapt_centroid-*.whl")
    outputs = notebook(author, cells)
    assert "['glad', 'sad']" in text(outputs[-1])
    tested = author.run(
        "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "nbadapt-centroid", "-k", "not elsewhere"
    )
    assert re.search(r"\d+ passed", tested)

    user = with_nbadapt(tmp_path / "user", own_wheel)
    user.run("python", "-m", "pip", "install", "--no-deps", str(plugin))
    used(user, "centroid", "max_length: 32", stopped="batch_size=1")
    assert "Centroid keeps the contract" in user.run("python", "-m", "nbadapt", "check", "centroid")


@pytest.mark.timeout(1800)
def test_a_new_authors_method_goes_from_the_clone_to_another_environment(tmp_path: Path, own_wheel: Path) -> None:
    author = with_nbadapt(tmp_path / "author", own_wheel)
    author.run("python", "-m", "nbadapt", "new-plugin", "my-method")
    plugin = environments.wheel(author, author.home / "nbadapt-my-method")

    user = with_nbadapt(tmp_path / "user", own_wheel)
    user.run("python", "-m", "pip", "install", "--no-deps", str(plugin))
    used(user, "my-method", "max_steps: 6\nr: 16", stopped="max_steps=40, batch_size=4")
    assert "MyMethod keeps the contract" in user.run("python", "-m", "nbadapt", "check", "my-method")


def test_an_editable_install_has_the_example_too(tmp_path: Path) -> None:
    source = environments.checkout(tmp_path / "nbadapt")
    developer = environments.make(tmp_path / "env", tmp_path / "home")
    developer.run("python", "-m", "pip", "install", "--no-deps", "--editable", str(source))
    where = developer.run("python", "-c", "from nbadapt import scaffold; print(scaffold.template())").strip()
    assert Path(where) == source / "plugins" / "nbadapt-example"
    developer.run("python", "-m", "nbadapt", "new-plugin", "mine")
    assert (developer.home / "nbadapt-mine" / "nbadapt_mine" / "method.py").is_file()


def test_the_example_is_all_in_the_repository() -> None:
    """What is copied is what is committed: no cache, no build."""
    listed = subprocess.run(
        ["git", "ls-files", "plugins/nbadapt-example"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = {name.removeprefix("plugins/nbadapt-example/") for name in listed.stdout.split()}
    assert {"pyproject.toml", "README.md", "nbadapt_example/method.py", "tests/test_contract.py"} <= names
