"""Every method of the registry keeps every rule of the contract."""

from __future__ import annotations

import pytest

from nbadapt import models, registry
from nbadapt.testing import parametrize_with_checks


@pytest.fixture(autouse=True, scope="module")
def _forget_bases():
    yield
    models.free()


@parametrize_with_checks(registry.methods())
def test_every_method_keeps_every_rule(subject, check):
    check(subject)


def test_the_registry_has_no_problems():
    assert registry.problems() == []
    assert {m.name for m in registry.methods()} >= {"lora", "zero-shot", "few-shot"}
