"""What works on what: the committed table is what was found, is found again, and is what errors advise."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from distributions import Site
from tiny_models import folder, reviews, translations

from nbadapt import models, plan, registry, support
from nbadapt.errors import ModelError, NbadaptError, UnsuitedError
from nbadapt.plan import Plan
from nbadapt.request import Request
from nbadapt.support import Found
from nbadapt.testing import matrix
from nbadapt.testing.tiny import ARCHITECTURES, ENCODERS
from nbadapt_plugins.bitfit import BitFit
from nbadapt_plugins.lora import Lora
from nbadapt_plugins.prefix_tuning import PrefixTuning

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "plugins" / "nbadapt_plugins" / support.FILE
RECORDS = support.read(FILE)
REFUSED = [
    (name, kind, task, reason)
    for name, found in RECORDS.items()
    for kind, cell in found.items()
    for task, reason in cell.refuses.items()
]
METHODS = registry.methods()


@pytest.fixture(autouse=True)
def _forget_bases() -> Iterator[None]:
    models.free()
    yield
    models.free()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(tmp_path / "site", monkeypatch)
    yield made
    made.forget()


def table(task: str) -> pd.DataFrame:
    rows: list[dict[str, Any]] = reviews(24) if task == "classification" else translations(12)
    if task == "text":
        rows = [{"text": row["prompt"] + " " + row["completion"]} for row in rows]
    return pd.DataFrame(rows)


def prepare(method: str, kind: str, task: str, **changes: Any) -> Plan:
    asked = Request(verb="finetune", method=method, model=str(folder(kind)), data=table(task), dtype="float32")  # type: ignore[arg-type]
    return plan.prepare(replace(asked, **changes))


def advised(line: str) -> list[str]:
    """The methods that an error's line ends with."""
    _, said, names = line.rpartition(": use ")
    assert said, line
    return names.replace(" or ", ", ").split(", ")


# ------------------------------------------------------------------------------------------------ what is committed


def test_the_page_and_the_file_are_what_the_file_says(tmp_path: Path) -> None:
    verbs = {method.name: method.verb for method in METHODS}
    assert matrix.page(RECORDS, verbs) == (ROOT / matrix.DOCS).read_text(encoding="utf-8")
    support.write(tmp_path / support.FILE, RECORDS)
    assert (tmp_path / support.FILE).read_bytes() == FILE.read_bytes()


def test_every_built_in_method_was_tried_on_every_architecture_that_has_a_head_for_it() -> None:
    own = {name for name, found in registry.entries().items() if {e.distribution for e in found} == {"nbadapt"}}
    assert set(RECORDS) == own
    for method in METHODS:
        if method.name in own:
            told = {(k, t) for k, cell in RECORDS[method.name].items() for t in (*cell.works, *cell.refuses)}
            heads = {(k, t) for k in ARCHITECTURES for t in matrix.TASKS if matrix.has_head(folder(k), method, t)}
            assert told == {(kind, task) for kind, task in heads if task in method.tasks}


def test_nothing_goes_wrong_on_the_way() -> None:
    assert [(name, kind) for name, found in RECORDS.items() for kind, cell in found.items() if cell.fails] == []


def test_the_page_says_rightly_which_heads_there_are() -> None:
    for kind in ARCHITECTURES:
        found = {task for task in matrix.TASKS if matrix.has_head(folder(kind), Lora, task)}
        assert found == ({"classification"} if kind in ENCODERS or kind == "t5" else set(matrix.TASKS))


@pytest.mark.slow
@pytest.mark.parametrize("method", [m for m in METHODS if m.name in RECORDS], ids=lambda method: method.name)
def test_every_cell_is_found_again(method: Any) -> None:
    if registry.missing_requirements(method):
        pytest.skip(registry.install_command(method))
    assert matrix.try_method(method) == RECORDS[method.name]


# ------------------------------------------------------------------------------------------------ what errors say


@pytest.mark.parametrize(("method", "kind", "task", "reason"), REFUSED, ids=["-".join(case[:3]) for case in REFUSED])
def test_a_refusal_is_one_line_that_ends_with_methods_that_work(method: str, kind: str, task: str, reason: str) -> None:
    with pytest.raises(NbadaptError) as caught:
        prepare(method, kind, task)
    line = str(caught.value)
    assert line.startswith(reason)
    assert "\n" not in line
    names = advised(line)
    assert 1 <= len(names) <= support.MOST
    assert method not in names
    for name in names:
        assert task in RECORDS[name][kind].works
    assert not models._bases


def test_the_nearest_kin_comes_first() -> None:
    assert support.advice(PrefixTuning, "distilbert", "classification") == "use prompt-tuning, p-tuning or lora"
    assert support.instead(BitFit, "llama", "generation")[0] == "top-layers"


def test_an_architecture_that_nobody_tried_gets_the_methods_that_work_everywhere() -> None:
    names = support.instead(BitFit, "mpt", "generation")
    assert names
    for name in names:
        assert not any(cell.refuses for cell in RECORDS[name].values())


def test_a_table_for_another_task_names_methods_that_do_it() -> None:
    with pytest.raises(NbadaptError, match=r"llama-adapter does generation, text; .*, or use ") as caught:
        prepare("llama-adapter", "gpt2", "classification")
    names = str(caught.value).rpartition(", or use ")[2].replace(" or ", ", ").split(", ")
    assert all("classification" in RECORDS[name]["gpt2"].works for name in names)


def test_a_method_whose_library_is_missing_is_not_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "prompt-tuning" in support.instead(PrefixTuning, "distilbert", "classification")
    monkeypatch.setattr(
        registry, "missing_requirements", lambda method: ["x"] if method.name == "prompt-tuning" else []
    )
    assert "prompt-tuning" not in support.instead(PrefixTuning, "distilbert", "classification")


@pytest.mark.parametrize("task", ["generation", "text"])
def test_an_encoder_decoder_does_not_generate_and_says_what_does(task: str) -> None:
    with pytest.raises(ModelError, match=r"\(t5\) is an encoder and a decoder.*classification only.*smollm2$"):
        prepare("lora", "t5", task)
    with pytest.raises(ModelError, match=r"\(t5\) is an encoder and a decoder"):
        plan.prepare(Request(verb="prompt", method="zero-shot", model=str(folder("t5")), prompt="Hello"))
    assert not models._bases


# ------------------------------------------------------------------------------------------------ third parties


PACKAGE = """
from nbadapt_plugins.lora import Lora

class Theirs(Lora):
    name = "theirs"
"""


def install(site: Site, said: str) -> None:
    """A package `their_methods` with a variant of LoRA, and what it says that works."""
    (site.folder / "their_methods").mkdir()
    (site.folder / "their_methods" / "__init__.py").touch()
    site.add("theirs", "1", {"theirs": "their_methods.theirs:Theirs"}, {"their_methods/theirs": PACKAGE})
    (site.folder / "their_methods" / support.FILE).write_text(said)


def test_a_third_partys_method_takes_part(site: Site) -> None:
    cells = {"bert": {"fails": {"classification": "it sulks"}}, "distilbert": {"works": ["classification"]}}
    install(site, json.dumps({"methods": {"theirs": cells, "lora": {"t5": {"works": ["text"]}}}}))
    assert support.records()["theirs"]["distilbert"] == Found(works=("classification",))
    assert support.records()["lora"] == RECORDS["lora"]  # nobody speaks for another one's method
    assert prepare("theirs", "distilbert", "classification").job.method == "theirs"
    with pytest.raises(UnsuitedError, match=r"^theirs does not work with bert \(it sulks\): use lora, ") as caught:
        prepare("theirs", "bert", "classification")
    assert all("classification" in RECORDS[name]["bert"].works for name in advised(str(caught.value)))
    assert not models._bases


@pytest.mark.parametrize("said", ["", "{", "[]", '{"methods": 3}', '{"methods": {"theirs": {"bert": {"works": 3}}}}'])
def test_a_damaged_file_stands_in_nobodys_way(said: str, site: Site) -> None:
    install(site, said)
    assert "theirs" not in support.records()
    assert prepare("theirs", "bert", "classification").job.method == "theirs"
    assert support.advice(PrefixTuning, "distilbert", "classification")


# ------------------------------------------------------------------------------------------------ the command


class Forgetful(Lora):
    """Loads the base instead of what was trained."""

    name = "forgetful"

    def restore(self, model: Any, folder: Path, job: Any) -> Any:
        return self.attach(model, job)


class Idle(Lora):
    """Trains nothing."""

    name = "idle"

    def run(self, job: Any, emit: Any) -> Any:
        return super().run(replace(job, config=job.config.model_copy(update={"learning_rate": 1e-30})), emit)


class Clumsy(Lora):
    """Does not know before it trains that it cannot."""

    name = "clumsy"

    def run(self, job: Any, emit: Any) -> Any:
        raise IndexError("no such layer")


@pytest.mark.parametrize(
    ("method", "why"),
    [
        (Forgetful, "the loaded result answers as the base does"),
        (Idle, "training changes nothing|answers as the base does"),
        (Clumsy, "IndexError: no such layer"),
    ],
)
@pytest.mark.parametrize(
    ("kind", "task"), [("bert", "classification"), pytest.param("llama", "generation", marks=pytest.mark.slow)]
)
def test_what_goes_wrong_on_the_way_is_found(method: Any, why: str, kind: Any, task: str) -> None:
    import re

    found = matrix.try_method(method, [kind])[kind]
    assert task not in found.works
    assert re.search(why, found.fails[task])


def test_the_command_writes_what_it_found_beside_what_was_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / support.FILE
    old = Found(works=("text",))
    support.write(file, {"bitfit": {"gpt2": old}, "lora": {"gpt2": old}, "gone": {"gpt2": old}})
    monkeypatch.setattr(matrix, "_here", lambda name: file if name in {"lora", "bitfit"} else None)
    new = Found(works=("classification",), refuses={"text": "lora has *none*"}, fails={"generation": "it breaks"})
    monkeypatch.setattr(matrix, "try_method", lambda method: {"gpt2": new})
    matrix.main(["lora"])
    assert support.read(file) == {"bitfit": {"gpt2": old}, "lora": {"gpt2": new}}
    page = (tmp_path / matrix.DOCS).read_text()
    assert "| `lora` | C [1] [2] |" in page
    assert "1. fails: it breaks\n2. lora has \\*none\\*\n" in page
    assert "lora: gpt2 C [1] [2]" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        matrix.main(["full"])
    assert "no package below this folder declares full" in capsys.readouterr().err
