"""The kit of providers: a good one passes, every rule is broken by one that breaks only it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kit_heavy_provider
import pytest
from distributions import Site
from kit_providers import BROKEN, Good

from nbadapt import endpoints, testing
from nbadapt.errors import PluginError
from nbadapt.openai_endpoint import OpenAIEndpoint
from nbadapt.provider import Provider
from nbadapt.testing import command, parametrize_with_checks

RULES = [check.name for check in testing.checks("provider")]
SLOW = {"light_import", "cancels"}
GROUP = "nbadapt.providers"


def test_a_provider_that_keeps_the_contract_passes_every_check() -> None:
    report = testing.check(Good)
    assert report.passed, report
    assert [result.status for result in report.results] == ["passed"] * len(RULES)


@pytest.mark.parametrize(("provider", "rule"), [pytest.param(p, r, id=f"{r}-{p.__name__}") for p, r in BROKEN])
def test_a_broken_rule_is_found_and_no_other(provider: Any, rule: str) -> None:
    report = testing.check(provider, only=[name for name in RULES if name not in SLOW or name == rule])
    assert [result.check.name for result in report.failures] == [rule], report


def test_a_heavy_import_is_found() -> None:
    (failure,) = testing.check(kit_heavy_provider.Heavy, only=["light_import"]).failures
    assert failure.reasons == (
        "kit_heavy_provider imports matplotlib: import inside the functions",
        "importing kit_heavy_provider prints 'here I am'",
    )


def test_every_rule_has_a_provider_that_breaks_it() -> None:
    assert set(RULES) == {rule for _, rule in BROKEN} | {"light_import"}


def test_without_a_reply_its_answers_are_not_tried() -> None:
    class Silent(Good):
        trial_reply = Provider.trial_reply

    results = {result.check.name: result for result in testing.check(Silent, only=["answers", "faults"]).results}
    assert (results["answers"].status, results["answers"].reasons) == (
        "untried",
        ("it has no trial_reply: give it one, which says what its service sends back",),
    )
    assert results["faults"].status == "passed"


def test_every_installed_provider_is_checked() -> None:
    assert endpoints.prefixes() == ["openai"]


@parametrize_with_checks([OpenAIEndpoint])
def test_a_provider_keeps_the_contract(check: Any) -> None:
    check()


SOURCE = """
import kit_providers

class Excused(kit_providers.Careless):
    name = "excused"
    expected_failures = {failures!r}
"""


@pytest.mark.parametrize(
    ("failures", "line"),
    [
        ({"faults": "its library raises errors of its own"}, "Excused keeps the contract, 1 expected"),
        ({"faults": "it raises", "name": "it was odd"}, "Excused breaks 1 of 13 rules (name), 1 expected"),
    ],
)
def test_the_command_knows_what_a_plugin_states_that_it_breaks(
    failures: Any, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path / "site", monkeypatch)
    source = SOURCE.format(failures=failures)
    site.add("mine", "1.0", {"excused": "excused_provider:Excused"}, {"excused_provider": source}, group=GROUP)
    assert command.run("excused").summary == line
    site.forget()


def test_a_wrong_statement_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path / "site", monkeypatch)
    source = SOURCE.format(failures={"colour": "it is grey"})
    site.add("mine", "1.0", {"excused": "excused_provider:Excused"}, {"excused_provider": source}, group=GROUP)
    with pytest.raises(PluginError, match=r"what 'excused' states of its expected failures is wrong: no check is n"):
        command.run("excused")
    site.forget()
