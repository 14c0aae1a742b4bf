"""The conformance kit: every rule of the contract as a named check. A plugin's whole test file::

    from nbadapt.testing import parametrize_with_checks
    from my_plugin import MyMethod

    @parametrize_with_checks([MyMethod])
    def test_conforms(subject, check):
        check(subject)

Rules live in `declarations` (nothing is trained) and `behaviour` (tiny real models, seconds each).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nbadapt.method import Method
from nbadapt.testing import behaviour, declarations
from nbadapt.testing.subject import Subject
from nbadapt.testing.tiny import tiny_model

__all__ = ["Check", "Report", "Result", "Subject", "check", "checks", "parametrize_with_checks", "tiny_model"]

NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Check:
    """One rule: its name, what it says, and the function that raises AssertionError where it is broken."""

    name: str
    rule: str
    function: Callable[[Subject], None]

    def __call__(self, subject: Subject) -> None:
        """Check a method.

        Raises:
            AssertionError: the rule is broken; the message says how.
        """
        self.function(subject)


@dataclass(frozen=True)
class Result:
    """One check's result: "passed", "failed", or "expected" to fail."""

    check: Check
    state: str
    message: str = ""


@dataclass(frozen=True)
class Report:
    """All results for one method; its text is a table."""

    method: str
    results: tuple[Result, ...]

    @property
    def failures(self) -> dict[str, str]:
        """Check name -> what is wrong."""
        return {r.check.name: r.message for r in self.results if r.state == "failed"}

    def __repr__(self) -> str:
        width = max(len(r.check.name) for r in self.results)
        lines = [f"{r.state:<8}  {r.check.name:<{width}}  {r.message or r.check.rule}" for r in self.results]
        return "\n".join([f"{self.method}: {len(self.failures)} of {len(self.results)} checks failed", *lines])


def checks() -> list[Check]:
    """All rules, the quick ones first."""
    rules = (*declarations.RULES, *behaviour.RULES)
    return [Check(rule.__name__, (rule.__doc__ or "").strip(), rule) for rule in rules]


def check(
    method: type[Method],
    *,
    settings: Mapping[str, Any] = NONE,
    expected_failures: Mapping[str, str] = NONE,
    only: Sequence[Check] | None = None,
) -> Report:
    """Check a method against every rule and report all failures, not the first alone.

    Args:
        method: the class.
        settings: of its Config, where the defaults do not fit tiny models.
        expected_failures: check name -> reason; strict: one that passes is a failure.
        only: these checks instead of all.
    """
    results = []
    with tempfile.TemporaryDirectory(prefix="nbadapt-kit-") as folder:
        subject = Subject(method, Path(folder), settings)
        for rule in checks() if only is None else only:
            message = _broken(rule, subject)
            state = "failed" if message else "passed"
            if rule.name in expected_failures:
                state, message = _expected(message, expected_failures[rule.name])
            results.append(Result(rule, state, message))
    return Report(getattr(method, "name", method.__name__), tuple(results))


def _broken(rule: Check, subject: Subject) -> str:
    try:
        rule(subject)
    except Exception as error:  # noqa: BLE001 - whatever a method raises is a finding
        first = (str(error).strip().splitlines() or ["no reason given"])[0]
        return first if isinstance(error, AssertionError) else f"{type(error).__name__}: {first}"
    return ""


def _expected(message: str, reason: str) -> tuple[str, str]:
    if message:
        return "expected", reason
    return "failed", f"expected to fail ({reason}), but it passes: take it off the list"


def parametrize_with_checks(
    methods: Sequence[type[Method]],
    *,
    settings: Mapping[str, Any] = NONE,
    expected_failures: Mapping[str, Mapping[str, str]] = NONE,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A pytest decorator: the test is called with `subject` and `check` for every method and every rule.

    Args:
        methods: the classes.
        settings: as in `check`, the same for all methods.
        expected_failures: method name -> (check name -> reason), strict.
    """
    import pytest

    cases = []
    for method in methods:
        room = tempfile.TemporaryDirectory(prefix="nbadapt-kit-")
        subject = Subject(method, Path(room.name), settings)
        subject.room = room  # type: ignore[attr-defined]  # the folder lives as long as the subject
        expected = expected_failures.get(method.name, {})
        for rule in checks():
            reason = expected.get(rule.name)
            marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
            cases.append(pytest.param(subject, rule, id=f"{method.name}-{rule.name}", marks=marks))
    return pytest.mark.parametrize(("subject", "check"), cases)
