"""%nbadapt doctor: what it finds, that each problem names its fix, that it is quick and tells no secrets."""

from __future__ import annotations

import http.server
import re
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from distributions import Site, method_source
from nbclient import NotebookClient
from shells import Shell

import nbadapt
from nbadapt import origins, pump
from nbadapt.diagnosis import examine, front_end, machine, report, software
from nbadapt.diagnosis.report import Diagnosis, Finding


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    found = Site(tmp_path / "site", monkeypatch)
    yield found
    found.forget()


def findings(look: Any) -> dict[str, Finding]:
    return {finding.name: finding for finding in look}


def test_a_quick_look_imports_no_framework_and_takes_two_seconds_of_the_processor_at_most(tmp_path: Path) -> None:
    code = (
        "import sys, time, nbadapt; report = nbadapt.doctor(); print(time.process_time())\n"
        "print([name for name in ('torch', 'transformers', 'matplotlib', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    seconds, imported = done.stdout.splitlines()
    assert imported == "[]"
    assert float(seconds) < 2.0  # 0.9 s, Python's start with it; by the clock 1.1 s where the hub is asked in vain


def test_every_topic_is_there_and_versions_are_those_installed() -> None:
    from importlib.metadata import version

    found = nbadapt.doctor()
    topics = list(dict.fromkeys(finding.topic for finding in found.findings))
    assert topics == ["Front end", "Machine", "Plugins", "Disk", "Network", "Settings", "Extras", "Versions"]
    told = {finding.name: finding.value for finding in found.findings if finding.topic == "Versions"}
    for name in ("torch", "transformers", "peft", "trl", "bitsandbytes", "ipykernel", "ipywidgets", "anywidget"):
        assert told[name] == version(name)
    assert told["jupyterlab"] == version("jupyterlab")
    assert found.problems == []
    assert found.verdict.startswith("nbadapt doctor: no problem found, in ")
    assert found.passed


def test_full_looks_at_the_types(shell: Shell) -> None:
    import torch

    found = findings(machine.hardware(full=True))
    assert re.match(r"(bfloat16|float32) on cpu|(bfloat16|float16) on cuda", found["type of weights"].value)
    cards = [name for name in found if name.startswith("GPU")]
    if torch.cuda.is_available():
        assert cards == [f"GPU cuda:{i}" for i in range(torch.cuda.device_count())]
        assert all(re.search(r", [\d.]+ .iB free of ", found[name].value) for name in cards)
    else:
        assert cards == ["GPU"]


def test_what_is_not_looked_at_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    found = findings(machine.hardware(full=False))
    assert found["type of weights"].state == "unknown"
    assert found["type of weights"].fix == "%nbadapt doctor --full"
    assert "torch was not asked" in found["GPU"].value


# ---------------------------------------------------------------------------------------------- problems and fixes


def test_broken_plugins_are_named_with_their_reason_and_fix(site: Site) -> None:
    site.add("bad-methods", "2.1", {"bad": "bad_methods:Plugin"}, {"bad_methods": "raise OSError('no licence')"})
    extra = 'requires = ("surely_missing",)'
    site.add("poor-methods", "1", {"poor": "poor_m:Plugin"}, {"poor_m": method_source("poor", extra=extra)})
    site.add("twice", "1", {"lora": "poor_m:Plugin"}, {})
    found = {finding.name: finding for finding in software.plugins()}
    bad = found["bad"]
    assert bad.state == "problem"
    assert bad.value == "the plugin bad-methods 2.1 of the method 'bad' cannot be imported (OSError: no licence)"
    assert bad.fix == "update or uninstall it"
    assert (found["poor"].state, found["poor"].fix) == ("note", "pip install surely-missing")
    assert found["lora"].state == "problem"
    assert "twice 1" in found["lora"].value
    assert found["lora"].fix == "uninstall one of them"
    shown = nbadapt.doctor()
    assert len(shown.problems) == 2
    assert not shown.passed
    assert "2 problems found" in shown.text.splitlines()[0]
    assert "fix: update or uninstall it" in shown.text


def test_the_limit_of_plugins_and_a_mistaken_name_in_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.add("other-methods", "1", {"other": "other_m:Plugin"}, {"other_m": "raise SystemExit"})
    monkeypatch.setenv(origins.VARIABLE, "othre-methods")
    named = [f for f in software.plugins() if f.name == origins.VARIABLE]
    assert [f.state for f in named] == ["ok", "problem"]
    assert "no distribution is called othre-methods" in named[1].value
    assert findings(software.plugins())["other"].value.startswith("of other-methods 1: not loaded")


def test_missing_and_old_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    real = software.version
    fake = {"peft": "0.1.0", "ipywidgets": "7.7.0"}

    def version(name: str) -> str:
        if name in {"openai", "skops"}:
            raise software.PackageNotFoundError(name)
        return fake.get(name) or real(name)

    monkeypatch.setattr(software, "version", version)
    found = findings(software.versions())
    assert found["peft"].state == found["skops"].state == "problem"
    assert found["peft"].value.startswith("0.1.0; nbadapt needs >=")
    assert re.fullmatch(r'pip install "peft>=[\d.]+"', found["peft"].fix)
    assert found["torch"].state == "ok"
    extra = findings(software.extras())["openai"]
    assert (extra.state, extra.value) == ("note", "not installed: openai")
    assert extra.fix == 'pip install "nbadapt[openai]"'
    widgets = findings(front_end.front_end())["widgets"]
    assert widgets.state == "problem"
    assert widgets.fix == 'pip install "ipywidgets>=8.1"'


def test_an_extra_whose_library_is_too_old_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    real = software.version
    monkeypatch.setattr(software, "version", lambda name: "0.9.0" if name == "trl" else real(name))
    needing = {f.name: f for f in software.extras() if "trl" in f.value}
    assert needing
    for extra, found in needing.items():
        assert re.match(r"trl is 0\.9\.0, and nbadapt needs >=[\d.]+", found.value)
        assert (found.state, found.fix) == ("problem", f'pip install "nbadapt[{extra}]"')
    monkeypatch.undo()
    assert {f.name for f in software.extras() if f.state == "ok"} >= set(needing)


def test_the_owner_of_every_plugin_is_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.add("acme", "2.0", {}, {"acme_plugins": ACME})
    points = {"nbadapt.stores": "Box", "nbadapt.providers": "Talk", "nbadapt.models": "TINY"}
    lines = "".join(f"[{group}]\nacme = acme_plugins:{value}\n" for group, value in points.items())
    (site.folder / "acme-2.0.dist-info" / "entry_points.txt").write_text(lines)
    found = findings(software.plugins())
    assert found["store acme"].value == "from acme 2.0: ready"
    assert found["model acme"].value == "from acme 2.0: its package acme-model is not installed"
    assert (found["model acme"].state, found["model acme"].fix) == ("note", "pip install acme-model")
    assert found["provider acme"].state == "problem"
    fault = "the plugin acme 2.0 of the provider 'acme' fails when it is made (OSError: no licence)"
    assert (found["provider acme"].value, found["provider acme"].fix) == (fault, "update or uninstall it")
    assert found["store sqlite"].value.startswith("from nbadapt ")
    monkeypatch.setenv(origins.VARIABLE, "nbadapt")
    found = findings(software.plugins())
    for kind in ("store", "provider", "model"):
        assert found[f"{kind} acme"].value == "of acme 2.0: not loaded, as NBADAPT_PLUGINS says"
        assert found[f"{kind} acme"].state == "note"


ACME = """
from nbadapt.indexing.sqlite import SqliteStore
from nbadapt.packaged_models import PackagedModel
from nbadapt.provider import Provider

class Box(SqliteStore): ...
class Talk(Provider):
    name = "acme"; summary = "talks"
    def __init__(self): raise OSError("no licence")
    def connect(self, model, key, tell): ...
TINY = PackagedModel("acme", "acme-model", "pip install acme-model", "acme/model")
"""

Usage = namedtuple("Usage", "total used free")


def test_a_full_disk_and_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: Usage(2**40, 2**40 - 2**20, 2**20))
    room = findings(machine.disk())["room"]
    assert (room.state, room.value) == ("problem", "1 MiB free where runs are kept")
    assert "NBADAPT_RUNS" in room.fix
    monkeypatch.setattr(machine.os, "access", lambda *_: False)
    assert findings(machine.disk())["room"].value.startswith("nothing can be written in ")


def test_the_sizes_of_what_is_kept(runs: Path, tmp_path: Path) -> None:
    (runs / "a").mkdir(parents=True)
    (runs / "a" / "request.json").write_text("{}")
    (runs / "a" / "weights").write_bytes(b"0" * 3 * 2**20)
    found = findings(machine.disk())
    assert found["runs"].value.startswith("1 in ")
    assert ", 3 MiB" in found["runs"].value
    assert {"answers", "embeddings", "converted models", "hub cache"} <= set(found)


def test_a_gpu_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    for version, state in (("2.13.0+cu130", "ok"), ("2.13.0", "ok"), (None, "ok"), ("2.13.0+cpu", "problem")):
        monkeypatch.setattr(machine, "installed", {"torch": version}.get)
        found = machine._gpu_without_torch(["NVIDIA H200, 143771 MiB, 570.1"])
        assert found.state == state, version
    assert "built without CUDA" in found.value
    assert found.fix.startswith("pip install")


def test_a_look_that_fails_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "plugins", lambda: 1 / 0)
    found = examine.examine()
    assert [(f.topic, f.value) for f in found.problems] == [
        ("Plugins", "could not be looked at: ZeroDivisionError: division by zero")
    ]
    assert found.findings[-1].topic == "Versions"


def test_a_setting_that_means_nothing() -> None:
    found = [f for f in machine.settings({"NBADAPT_UI": "wdiget"}) if f.state == "problem"]
    assert [f.fix for f in found] == ["set it to live, static or text, or unset it"]


# ---------------------------------------------------------------------------------------------- network


@pytest.fixture
def answering() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_online_offline_and_out_of_reach(answering: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    assert machine.Hub({"HF_ENDPOINT": answering}).finding().value == f"online: {answering} answered"
    told = machine.Hub({"HF_ENDPOINT": answering, "HF_HUB_OFFLINE": "1"}).finding()
    assert told.value.startswith("offline, as HF_HUB_OFFLINE says: nobody was asked")
    nobody = machine.Hub({"HF_ENDPOINT": "http://127.0.0.1:9"}).finding()
    assert nobody.state == "note"
    assert "did not answer within 1 s" in nobody.value


# ---------------------------------------------------------------------------------------------- secrets and names


def test_no_secret_and_no_users_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home" / "annabella"
    home.mkdir(parents=True)
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "NBADAPT_POSTGRESQL", "SOME_SECRET", "PGPASSWORD"):
        monkeypatch.setenv(name, f"planted-{name}")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NBADAPT_RUNS", str(home / "runs-planted-SOME_SECRET"))
    monkeypatch.setenv("NBADAPT_ANSWERS", "/home/benedetta/answers")
    monkeypatch.setenv("NBADAPT_EMBEDDINGS", "C:\\Users\\benedetta\\vectors")
    monkeypatch.setenv("HF_ENDPOINT", "https://ann:planted@127.0.0.1:9/?token=planted")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    found = nbadapt.doctor()
    for text in (found.text, repr(found), found._repr_html_(), str(found.findings)):
        assert "planted" not in text
        assert "annabella" not in text
        assert "benedetta" not in text
    told = {finding.name: finding.value for finding in found.findings}
    assert told["NBADAPT_RUNS"] == "~/runs-***"
    assert told["NBADAPT_ANSWERS"] == "~/answers"
    assert told["HF_TOKEN"] == "set (its value is not shown)"


@pytest.mark.parametrize(
    ("text", "shown"),
    [("/home/ann/x and /home/ann", "~/x and ~"), ("/Users/ann/x", "~/x"), ("/homely/ann", "/homely/ann")],
)
def test_homes_of_others(text: str, shown: str) -> None:
    assert report.private(text) == shown


# ---------------------------------------------------------------------------------------------- shown


def example() -> Diagnosis:
    return Diagnosis(
        [
            Finding("One", "a <b>", "x & y", "problem", "do <this>"),
            Finding("One", "c", "word " * 60),
            Finding("Two", "d", "", "note", "or that"),
        ],
        0.25,
    )


def test_the_text_is_aligned_and_says_problems_first() -> None:
    lines = example().text.splitlines()
    assert lines[:3] == ["nbadapt doctor: 1 problem found, in 0.2 s", "  PROBLEM: a <b>: x & y", "    fix: do <this>"]
    assert max(map(len, lines)) <= report.WIDE
    assert "  note     d" in lines
    assert lines[-1].endswith("> or that")


def test_the_table_escapes_and_holds_the_text() -> None:
    shown = example()._repr_html_()
    assert "a &lt;b&gt;" in shown
    assert "<b>x" not in shown
    assert "do &lt;this&gt;" in shown
    assert "<pre" in shown
    assert "word word" in shown


def test_as_a_command_of_a_notebook_and_of_a_terminal(shell: Shell, tmp_path: Path) -> None:
    assert isinstance(shell.run("%nbadapt doctor").value, Diagnosis)
    assert shell.run("%nbadapt doctor --ful").err.startswith("UsageError: unexpected '--ful'")
    assert shell.tab("%nbadapt doc") == ["doctor"]
    assert shell.tab("%nbadapt doctor --") == ["--full"]
    done = subprocess.run(
        [sys.executable, "-m", "nbadapt", "doctor"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("nbadapt doctor: no problem found")
    done = subprocess.run([sys.executable, "-m", "nbadapt", "doctr"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "unknown command 'doctr' of %nbadapt: did you mean doctor?\n"


def test_in_a_shell_of_a_terminal(shell: Shell) -> None:
    told = {f.name: f.value for f in shell.run("import nbadapt; nbadapt.doctor()").value.findings}
    assert told["live buttons"].startswith("no: there is no kernel")


@pytest.mark.slow
def test_in_a_kernel_that_nobody_watches(tmp_path: Path) -> None:
    cells = [nbformat.v4.new_code_cell("%load_ext nbadapt\n%nbadapt doctor")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    text = notebook.cells[0].outputs[0]["data"]["text/plain"]
    assert "a kernel that nobody watches" in text
    assert "no: nobody watches this kernel" in " ".join(text.split())
    assert "by its shell channel's thread" in text
    assert "<table" in notebook.cells[0].outputs[0]["data"]["text/html"]


def test_outside_a_kernel_the_pump_does_not_work() -> None:
    assert not pump.works()


@pytest.fixture
def shell() -> Shell:
    return Shell()
