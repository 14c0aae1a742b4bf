"""The conformance kit over every installed method."""

from __future__ import annotations

from typing import Any

from nbadapt import registry
from nbadapt.testing import parametrize_with_checks

METHODS = registry.methods()


def test_every_declared_method_loads() -> None:
    assert registry.problems() == []
    assert {method.name for method in METHODS} == set(registry.entries())
    assert {"lora", "zero-shot", "few-shot"} <= set(registry.entries())


@parametrize_with_checks(METHODS)
def test_a_method_keeps_the_contract(check: Any) -> None:
    check()
