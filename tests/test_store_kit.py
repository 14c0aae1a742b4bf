"""The kit of stores: the built-in one passes, and every rule is broken by a store that breaks only it."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import kit_heavy_store
import kit_stores
import pytest

from nbadapt import testing
from nbadapt.indexing.sqlite import SqliteStore
from nbadapt.indexing.store import Store
from nbadapt.testing.stores import StoreContract
from nbadapt_plugins.postgresql_store import PostgresqlStore

RULES = [check.name for check in testing.checks("store")]
DECLARATIONS = ["complete", "contract", "requires"]
TESTS = [name for name in vars(StoreContract) if name.startswith("test_")]
PROCESSES = {"test_a_kill_loses_nothing_and_leaves_no_half", "test_processes_write_side_by_side"}


def apply(kind: str, test: str, path: Path) -> None:
    """One test of the contract on one store, with its first parameters."""

    class Contract(StoreContract):
        pass

    Contract.kind = kind
    contract = Contract()
    contract.opened = []
    function = getattr(contract, test)
    given: dict[str, Any] = {}
    for mark in getattr(function, "pytestmark", []):
        names, cases = mark.args
        given = dict(zip(names, cases[0], strict=True))
    wanted = inspect.signature(function).parameters
    fixtures = {"path": lambda: path, "store": lambda: contract.open(path)}
    try:
        function(**{name: given[name] if name in given else fixtures[name]() for name in wanted})
    finally:
        for store in contract.opened:
            store.close()


@pytest.mark.parametrize(
    ("kind", "test"),
    [
        pytest.param(k, t, id=t.removeprefix("test_"), marks=[pytest.mark.slow] if t in PROCESSES else [])
        for k, t in kit_stores.BROKEN
    ],
)
def test_a_broken_store_fails_its_test_and_the_built_in_one_does_not(kind: str, test: str, tmp_path: Path) -> None:
    with pytest.raises((Exception, pytest.fail.Exception)) as failed:
        apply(kind, test, tmp_path / "broken" / "index")
    assert not isinstance(failed.value, TypeError | AttributeError)  # the store is at fault, not this test
    apply("nbadapt.indexing.sqlite:SqliteStore", test, tmp_path / "good" / "index")


@pytest.mark.parametrize(("store", "rule"), [pytest.param(s, r, id=r) for s, r in kit_stores.DECLARED])
def test_a_broken_rule_is_found_and_no_other(store: Any, rule: str) -> None:
    report = testing.check(store, only={*DECLARATIONS, rule})
    assert [result.check.name for result in report.failures] == [rule], report


def test_a_heavy_import_is_found() -> None:
    (failure,) = testing.check(kit_heavy_store.Heavy, only=[*DECLARATIONS, "light_import"]).failures
    assert failure.check.name == "light_import"
    assert failure.reasons[0].startswith("kit_heavy_store imports sklearn")


def test_every_rule_has_a_store_that_breaks_it() -> None:
    tests = {test.removeprefix("test_") for _, test in kit_stores.BROKEN}
    assert set(RULES) == {rule for _, rule in kit_stores.DECLARED} | {"light_import"} | tests


def test_a_store_that_ends_the_process_is_not_said_to_be_untried() -> None:
    report = testing.check(kit_stores.Deadly, only=["behaviour", "search_is_exact"])
    assert [(result.status, result.reasons[0]) for result in report.results] == [
        ("failed", "the process that runs them ends before they do"),
        ("skipped", "see the rule behaviour"),
    ]


def test_declarations_are_looked_at_first() -> None:
    class Nothing(Store):
        requires = "numpy"  # type: ignore[assignment]  # the mistake

    report = testing.check(Nothing, only=["complete", "requires", "search_is_exact"])
    assert [result.status for result in report.results] == ["failed", "failed", "skipped"]
    assert report.results[0].reasons[0] == "there is no docstring"
    assert "it does not implement __init__, close, count" in report.results[0].reasons[1]


def test_a_store_behind_a_server_says_how_it_is_checked() -> None:
    report = testing.check(PostgresqlStore, only=["requires", "search_is_exact"])
    assert [result.status for result in report.results] == ["passed", "untried"]
    assert not report.passed
    assert report.summary == (
        "PostgresqlStore was not checked in full; 1 of 2 rules could not be tried: it is behind a server: with pytest, "
        "let a class derive from nbadapt.testing.stores.StoreContract, whose fixture path names a place on it"
    )


def test_without_pytest_the_tests_of_the_contract_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytest", None)  # as where it is not installed
    (result,) = (report := testing.check(SqliteStore, only=["behaviour"])).results
    assert (result.status, report.passed) == ("untried", False)


@pytest.mark.slow
def test_in_a_terminal_the_check_of_a_store_without_pytest_fails(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['pytest'] = None\n"  # as where it is not installed
        "from nbadapt.__main__ import main\n"
        "sys.exit(main(['check', 'sqlite']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.splitlines()[0] == (
        "SqliteStore was not checked in full; 1 of 5 rules could not be tried: "
        "the tests of the contract need pytest; check again after  pip install pytest"
    )
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.slow
def test_in_a_terminal_the_check_of_a_store_behind_a_server_fails(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nbadapt", "check", "postgresql"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith("PostgresqlStore was not checked in full; ")


@pytest.mark.slow
def test_the_built_in_store_keeps_the_contract() -> None:
    report = testing.check(SqliteStore)
    assert [result.status for result in report.results] == ["passed"] * len(RULES), report


@pytest.mark.slow
def test_the_check_of_a_broken_store_names_the_test() -> None:
    report = testing.check(kit_stores.Approximate)
    assert "search_is_exact" in [result.check.name for result in report.failures]
