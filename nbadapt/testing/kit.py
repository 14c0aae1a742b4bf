"""Runs checks over a method and reports all that fails."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from nbadapt.method import Method
from nbadapt.testing.subject import Subject, UnusableError

Status = Literal["passed", "failed", "skipped", "expected"]
Rule = Callable[[Subject], Iterator[str]]
F = TypeVar("F", bound=Callable[..., Any])

_MARKS: Mapping[str, str] = {"passed": "ok", "failed": "FAILED", "skipped": "skipped", "expected": "expected"}


@dataclass(frozen=True)
class Check:
    """One rule of the contract.

    Attributes:
        name: a short name, such as "stop".
        rule: what must hold, in one line.
        function: yields a line for everything that breaks the rule.
    """

    name: str
    rule: str
    function: Rule

    def __call__(self, subject: Subject) -> Result:
        """Apply the rule."""
        try:
            failures = tuple(self.function(subject))
        except UnusableError as error:
            return Result(self, "skipped", (str(error),))
        except Exception as error:  # noqa: BLE001 - whatever a method raises is its failure, not the kit's
            failures = (_told(error),)
        return Result(self, "failed" if failures else "passed", failures)


@dataclass(frozen=True)
class Result:
    """How one check came out; `reasons` are the failures, or why it was skipped or expected to fail."""

    check: Check
    status: Status
    reasons: tuple[str, ...] = ()

    def __repr__(self) -> str:
        head = f"{_MARKS[self.status]:<9} {self.check.name:<20} {self.check.rule}"
        return "\n".join([head, *(f"{'':<10}- {reason}" for reason in self.reasons)])


@dataclass(frozen=True)
class Report:
    """All results of one method; its repr is a table."""

    method: type[Method]
    results: tuple[Result, ...]

    @property
    def failures(self) -> list[Result]:
        """The checks that failed."""
        return [result for result in self.results if result.status == "failed"]

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    def __repr__(self) -> str:
        count = len(self.failures)
        said = "keeps the contract" if not count else f"breaks {count} of {len(self.results)} rules"
        return "\n".join([f"{self.method.__name__} {said}", *map(repr, self.results)])


def checks() -> list[Check]:
    """Every rule of the contract, the quick ones first."""
    from nbadapt.testing import behaviour, declarations

    found = []
    for module in (declarations, behaviour):
        for function in module.RULES:
            rule = (function.__doc__ or "").strip().splitlines()[0].rstrip(".")
            found.append(Check(function.__name__, rule, function))
    return found


def check(
    method: type[Method],
    *,
    settings: Mapping[str, Any] | None = None,
    only: Collection[str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> Report:
    """Apply every rule to a method.

    Args:
        method: the class.
        settings: the method's settings for the runs, where its defaults take too long on 40 short rows.
        only: names of the checks to apply; None for all.
        expected_failures: check name -> why the method may break it. One that holds after all is a failure.

    Raises:
        ValueError: a name in `only` or `expected_failures` that is no check.
    """
    expected = expected_failures or {}
    _known([*(only or ()), *expected])
    chosen = [c for c in checks() if only is None or c.name in only]
    with Subject(method, settings) as subject:
        return Report(method, tuple(_settled(c(subject), expected.get(c.name)) for c in chosen))


def _known(names: Sequence[str]) -> None:
    valid = {c.name for c in checks()}
    for name in names:
        if name not in valid:
            raise ValueError(f"no check is named {name!r}: {', '.join(sorted(valid))}")


def _settled(result: Result, excuse: str | None) -> Result:
    if excuse is None or result.status == "skipped":
        return result
    if result.status == "failed":
        return Result(result.check, "expected", (excuse,))
    return Result(result.check, "failed", (f"was expected to fail and holds: {excuse}",))


def parametrize_with_checks(
    methods: Sequence[type[Method]],
    *,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    expected_failures: Mapping[str, Mapping[str, str]] | None = None,
) -> Callable[[F], F]:
    """Pytest decorator: one test for each method and rule, whose argument `check` is called without arguments.

    Args:
        methods: the classes.
        settings: method name -> settings for its runs.
        expected_failures: method name -> check name -> why it may fail; strict, as pytest's xfail.
    """
    import pytest

    excuses = expected_failures or {}
    cases = []
    for method in methods:
        name = getattr(method, "name", method.__name__)
        _known(list(excuses.get(name, {})))
        subject = Subject(method, (settings or {}).get(name))
        for one in checks():
            excuse = excuses.get(name, {}).get(one.name)
            marks = [pytest.mark.xfail(strict=True, reason=excuse)] if excuse else []
            cases.append(pytest.param(_Bound(one, subject), id=f"{name}-{one.name}", marks=marks))
    decorate: Callable[[F], F] = pytest.mark.parametrize("check", cases)
    return decorate


class _Bound:
    """A check of one method, as a test calls it."""

    def __init__(self, check: Check, subject: Subject) -> None:
        self._check, self._subject = check, subject

    def __call__(self) -> None:
        import pytest

        result = self._check(self._subject)
        if result.status == "skipped":
            pytest.skip("; ".join(result.reasons))
        if result.status == "failed":
            pytest.fail(repr(result), pytrace=False)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
