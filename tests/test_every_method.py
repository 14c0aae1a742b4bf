"""The conformance kit over every installed method."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from nbadapt import models, registry
from nbadapt.testing import parametrize_with_checks

METHODS = registry.methods()
QUICK = {"max_new_tokens": 8}


@pytest.fixture(autouse=True, scope="module")
def _forget_bases() -> Iterator[None]:
    yield
    models.free()


def test_every_declared_method_loads() -> None:
    assert registry.problems() == []
    assert {method.name for method in METHODS} == set(registry.entries())
    assert {"lora", "zero-shot", "few-shot"} <= set(registry.entries())


@parametrize_with_checks(
    METHODS,
    settings={
        "zero-shot": QUICK,
        "few-shot": QUICK,
        "chain-of-thought": QUICK,
        "rag": QUICK,
        "prompt-search": QUICK,
        "auto-prompt": QUICK,
        "ppo": {"max_steps": 3, "batch_size": 4, "minibatch_size": 2, "eval_rows": 4, **QUICK},
    },
)
def test_a_method_keeps_the_contract(check: Any) -> None:
    check()
