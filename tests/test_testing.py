"""The conformance kit: a good method passes, and every rule is broken by a method that breaks only it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import kit_heavy_method
import kit_methods
import kit_required_method
import pytest
from kit_methods import BROKEN, Good

from nbadapt import testing
from nbadapt.testing import behaviour, declarations, gradients, robustness
from nbadapt.testing.tiny import ARCHITECTURES, ENCODERS, tiny_model

DECLARED = [rule.__name__ for rule in declarations.RULES]
# Each starts a process, or runs the method several times.
SLOW = {"light_import", "load_elsewhere", "odd_rows", "resume", "estimate_measured", "memory_released"}


def failing(method: Any, only: Any = None) -> list[str]:
    return [result.check.name for result in testing.check(method, only=only).failures]


@pytest.mark.slow
def test_a_method_that_keeps_the_contract_passes_every_check() -> None:
    report = testing.check(Good)
    assert report.passed, report
    assert [result.status for result in report.results] == ["passed"] * len(testing.checks())
    assert repr(report).startswith("Good keeps the contract\n")
    assert report._repr_html_().count("✓ ok") == len(report.results)


@pytest.mark.parametrize(
    ("method", "rule"),
    [
        pytest.param(m, r, id=f"{r}-{m.__name__}", marks=[pytest.mark.slow] if r == "memory_released" else [])
        for m, r in BROKEN
    ],
)
def test_a_broken_rule_is_found_and_no_other(method: Any, rule: str) -> None:
    quick = DECLARED if rule in DECLARED else [check.name for check in testing.checks()]
    only = [name for name in quick if name not in SLOW or name == rule]
    report = testing.check(method, only=only)
    assert [result.check.name for result in report.failures] == [rule], report
    assert all(reason and "\n" not in reason for result in report.failures for reason in result.reasons)


def test_a_heavy_import_is_found() -> None:
    (failure,) = testing.check(kit_heavy_method.HeavyImport, only=DECLARED).failures
    assert failure.check.name == "light_import"
    assert failure.reasons == ("kit_heavy_method imports torch: import inside the functions",)


def test_an_import_of_what_is_required_is_found() -> None:
    (failure,) = testing.check(kit_required_method.RequiredImport, only=DECLARED).failures
    assert failure.check.name == "light_import"
    assert failure.reasons == ("kit_required_method imports sqlite3: import inside the functions",)


@pytest.mark.parametrize(
    ("method", "reasons"),
    [
        (kit_methods.Spilling, ["classification: best.txt in the folder above the run's"]),
        (kit_methods.Settling, ["classification: .settling in the user's home"]),
    ],
)
def test_what_a_run_writes_elsewhere_is_named(method: Any, reasons: list[str]) -> None:
    there = dict(os.environ), Path.home(), Path.cwd()
    (result,) = testing.check(method, only=["writes"]).results
    assert list(result.reasons) == reasons
    assert there == (dict(os.environ), Path.home(), Path.cwd())
    assert not (Path.home() / ".settling").exists()


def test_what_is_written_far_away_is_named(tmp_path: Path) -> None:
    (result,) = testing.check(kit_methods.Wandering, only=["writes"]).results
    assert result.reasons == (f"classification: {tmp_path / 'stray.txt'}",)


@pytest.mark.parametrize(
    ("method", "what"),
    [
        (kit_methods.Calling, "classification: run reaches for example.org"),
        (kit_methods.Sending, "classification: run reaches for 192.0.2.1"),
        (kit_methods.CallingEarly, "estimate reaches for example.org"),
        (kit_methods.CallingLate, "load reaches for example.org"),
    ],
)
def test_who_calls_home_is_named(method: Any, what: str) -> None:
    (result,) = testing.check(method, only=["offline"]).results
    assert result.reasons == (what,)


@pytest.mark.parametrize(
    ("method", "what"),
    [
        (kit_methods.Muttering, "run prints 'saved'"),
        (kit_methods.MutteringEarly, "estimate prints 'estimating'"),
        (kit_methods.Delegating, "load prints 'loading'"),
    ],
)
def test_what_is_printed_past_python_is_named_and_not_shown(
    method: Any, what: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (result,) = testing.check(method, only=["silent"]).results
    assert result.reasons == (f"classification: {what}",)
    os.write(1, b"afterwards\n")
    assert capfd.readouterr() == ("afterwards\n", "")


@pytest.mark.slow
def test_a_class_that_no_other_process_can_import_is_found() -> None:
    class Local(Good):
        pass

    (failure,) = testing.check(Local, only=["light_import"]).failures
    assert "cannot be imported in a process of its own" in failure.reasons[0]


def test_every_rule_has_a_method_that_breaks_it() -> None:
    assert {check.name for check in testing.checks()} == {rule for _, rule in BROKEN} | {"light_import"}


def test_every_failure_is_told_and_not_the_first_one_only() -> None:
    class Config(kit_methods.GoodSettings):
        a: float = 0.5
        b: int

    class Worst(Good):
        name = "Worst Of All"
        summary = ""
        reference = "none"

    Worst.Config = Config
    report = testing.check(Worst, only=[name for name in DECLARED if name != "light_import"])
    assert [r.check.name for r in report.failures] == ["name", "summary", "reference", "config_fields"]
    assert report.failures[-1].reasons == (
        "a has no description",
        "a is a number without bounds",
        "b has no default",
        "b has no description",
        "b is a number without bounds",
    )
    text = repr(report)
    assert text.startswith("Worst breaks 4 of 12 rules (name, summary, reference, config_fields), 1 skipped\n")
    assert "- name is 'Worst Of All'" in text


def test_what_cannot_be_tried_is_not_said_to_be_kept() -> None:
    class Elsewhere(Good):
        requires = ("no_such_library",)

    report = testing.check(Elsewhere, only=["verb", "progress", "stop"], expected_failures={"stop": "it is deaf"})
    reason = "not installed: no_such_library; check again after  pip install no-such-library"
    assert [r.status for r in report.results] == ["passed", "untried", "untried"]
    assert not report.passed
    assert report.failures == []
    assert report.summary == f"Elsewhere was not checked in full; 2 of 3 rules could not be tried: {reason}"
    Elsewhere.verb = "train"
    assert testing.check(Elsewhere, only=["verb", "progress"]).summary == (
        f"Elsewhere breaks 1 of 2 rules (verb); 1 of 2 rules could not be tried: {reason}"
    )


def test_what_does_not_apply_is_skipped_with_the_reason() -> None:
    (result,) = testing.check(kit_methods.Failing, only=["progress"]).results
    assert (result.status, result.reasons) == ("skipped", ("no run succeeds: see the check tasks",))


def test_expected_failures_are_no_failures_and_strict() -> None:
    report = testing.check(
        kit_methods.BadName, only=["name", "verb"], expected_failures={"name": "an old name that users know"}
    )
    assert report.passed
    assert [r.status for r in report.results] == ["expected", "passed"]
    assert "an old name that users know" in repr(report)
    report = testing.check(Good, only=["name"], expected_failures={"name": "an old name"})
    assert [r.reasons for r in report.failures] == [("was expected to fail and holds: an old name",)]


def test_the_memory_of_prompting_is_measured_too() -> None:
    (result,) = testing.check(kit_methods.GoodPrompt, only=["estimate_measured"]).results
    assert result.status == "passed", result


def test_a_checkpoint_may_make_room_for_the_next_one() -> None:
    (result,) = testing.check(kit_methods.Pruning, only=["outcome"]).results
    assert result.status == "passed", result


def test_a_plugin_may_state_its_expected_failures_itself() -> None:
    class Stating(kit_methods.BadName):
        expected_failures: ClassVar = {"name": "an old name that users know", "verb": "it was another one"}

    report = testing.check(Stating, only=["name", "verb", "summary"])
    assert [r.status for r in report.results] == ["expected", "failed", "passed"]
    assert report.failures[0].reasons == ("was expected to fail and holds: it was another one",)

    @testing.parametrize_with_checks([Stating])
    def excused(check: Any) -> None: ...

    cases = excused.pytestmark[0].args[1]  # type: ignore[attr-defined]  # pytest's
    assert [case.id for case in cases if case.marks] == ["Good Method-name", "Good Method-verb"]
    Stating.expected_failures = ["name"]
    with pytest.raises(ValueError, match="expected_failures is \\['name'\\]: make it a dict"):
        testing.check(Stating, only=["name"])


@pytest.mark.parametrize("reason", ["", "  ", None])
def test_an_expected_failure_has_a_reason(reason: Any) -> None:
    with pytest.raises(ValueError, match="the expected failure 'stop' has no reason: say why"):
        testing.check(kit_methods.Deaf, only=["stop"], expected_failures={"stop": reason})
    with pytest.raises(ValueError, match="the expected failure 'stop' has no reason: say why"):
        testing.parametrize_with_checks([Good], expected_failures={"good": {"stop": reason}})


def test_a_report_says_each_status_in_words_and_escapes_what_plugins_say() -> None:
    class Odd(Good):
        name = "<script>"
        requires = ("no_such_library",)

    report = testing.check(
        Odd, only=["name", "verb", "reference", "progress"], expected_failures={"name": "<b>because</b>"}
    )
    assert report.summary.startswith(
        "Odd was not checked in full, 1 expected; 1 of 4 rules could not be tried: not inst"
    )
    shown = report._repr_html_()
    assert ("! expected" in shown, "? untried" in shown, "✓ ok" in shown) == (True, True, True)
    skipped = testing.check(kit_methods.Failing, only=["verb", "progress"])
    assert (skipped.summary, skipped.passed) == ("Failing keeps the contract, 1 skipped", True)
    assert "- skipped" in skipped._repr_html_()
    assert "<b>because" not in shown
    failed = testing.check(Odd, only=["name"])
    assert "✗ FAILED" in failed._repr_html_()
    assert "&lt;script&gt;" in failed._repr_html_()


def test_what_is_no_plugin_is_refused() -> None:
    for thing in (3, str, "lora", Good()):
        with pytest.raises(TypeError, match="is no plugin: check a Method"):
            testing.check(thing)


def test_unknown_checks_are_refused() -> None:
    with pytest.raises(ValueError, match="no check is named 'colour'"):
        testing.check(Good, only=["colour"])
    with pytest.raises(ValueError, match="no check is named 'colour'"):
        testing.check(Good, expected_failures={"colour": "why not"})
    with pytest.raises(ValueError, match="no check is named 'colour'"):
        testing.parametrize_with_checks([Good], expected_failures={"good": {"colour": "why not"}})


def test_settings_are_given_to_the_runs() -> None:
    report = testing.check(Good, settings={"epochs": 3, "batch_size": 16}, only=["tasks", "progress"])
    assert report.passed
    report = testing.check(Good, settings={"epochs": 0}, only=["tasks"])
    assert report.results[0].reasons == (
        "its settings have no defaults that fit: give some with settings=, or in trial",
    )
    assert not report.passed


@pytest.mark.slow
def test_the_pytest_decorator_makes_a_test_of_every_rule(tmp_path: Path) -> None:
    """In a session of its own, as a third party runs it."""
    (tmp_path / "test_mine.py").write_text(
        "from kit_methods import Deaf, Good\n"
        "from nbadapt.testing import parametrize_with_checks\n"
        "@parametrize_with_checks([Good])\n"
        "def test_good(check): check()\n"
        "class Odd(Deaf):\n"
        "    name = 'odd'\n"
        "@parametrize_with_checks([Odd], expected_failures={'odd': {'stop': 'cannot hear', 'verb': 'wrong'}})\n"
        "def test_odd(check): check()\n"
        "class Lost(Good):\n"
        "    requires = ('no_such_library',)\n"
        "    reference = 'none'\n"
        "@parametrize_with_checks([Lost])\n"
        "def test_lost(check): check()\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(tmp_path), "-rA"],
        env={
            "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
            "PATH": "",
            "HOME": str(tmp_path),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    said = done.stdout
    total = len(testing.checks())
    behaviours = len(behaviour.RULES) + len(gradients.RULES) + len(robustness.RULES)  # they need a run
    assert f"2 failed, {3 * total - behaviours - 3} passed, {behaviours} skipped, 1 xfailed" in said.splitlines()[-1], (
        said
    )
    assert "XFAIL test_mine.py::test_odd[odd-stop] - cannot hear" in said
    assert "FAILED test_mine.py::test_odd[odd-verb]" in said  # expected to fail, and holds
    assert "FAILED test_mine.py::test_lost[good-reference]" in said
    assert "not installed: no_such_library" in said


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_tiny_model_is_the_same_each_time_and_loads(architecture: Any, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    first, again = (tiny_model(architecture, tmp_path / name) for name in ("first", "again"))
    for file in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (first / file).read_bytes() == (again / file).read_bytes()
    other = tiny_model(architecture, tmp_path / "other", seed=1)
    assert (other / "model.safetensors").read_bytes() != (first / "model.safetensors").read_bytes()
    tokenizer, model = AutoTokenizer.from_pretrained(first), AutoModel.from_pretrained(first)
    inputs = tokenizer("The dog is good {x}!", return_tensors="pt")
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    assert model(**inputs).last_hidden_state.shape == (1, inputs["input_ids"].shape[1], 32)
    assert sum(file.stat().st_size for file in first.iterdir()) < 400_000
    if architecture not in ENCODERS:
        ids = inputs["input_ids"][0]
        assert tokenizer.decode(ids, skip_special_tokens=True) == "The dog is good {x}!"
