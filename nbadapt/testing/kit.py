"""Runs checks over a plugin and reports all that fails."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from html import escape
from importlib import import_module
from typing import Any, Literal, TypeVar

from nbadapt.method import Method

Status = Literal["passed", "failed", "skipped", "untried", "expected"]
Rule = Callable[[Any], Iterator[str]]
F = TypeVar("F", bound=Callable[..., Any])

# The mark, the word and the colour of a status: each says it alone.
_SHOWN: Mapping[str, tuple[str, str, str]] = {
    "passed": ("✓", "ok", "inherit"),
    "failed": ("✗", "FAILED", "var(--jp-error-color1,#d32f2f)"),
    "skipped": ("-", "skipped", "inherit"),
    "untried": ("?", "untried", "var(--jp-warn-color1,#b26a00)"),
    "expected": ("!", "expected", "var(--jp-warn-color1,#b26a00)"),
}


class UnusableError(Exception):
    """A check does not apply: to this kind of plugin, or because another check tells what is wrong."""


class UntriedError(UnusableError):
    """A check could not be tried here: something is missing; the line says what, and how to check all the same."""


@dataclass(frozen=True)
class Check:
    """One rule of a contract.

    Attributes:
        name: a short name, such as "stop".
        rule: what must hold, in one line.
        function: given what is under test, yields a line for everything that breaks the rule.
    """

    name: str
    rule: str
    function: Rule

    def __call__(self, subject: Any) -> Result:
        """Apply the rule."""
        failures: list[str] = []  # what was found before an error counts too
        try:
            failures.extend(self.function(subject))
        except UnusableError as error:
            if not failures:
                return Result(self, "untried" if isinstance(error, UntriedError) else "skipped", (str(error),))
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a plugin raises is its failure, not the kit's
            failures.append(_told(error))
        return Result(self, "failed" if failures else "passed", tuple(failures))


@dataclass(frozen=True)
class Result:
    """How one check came out; `reasons` are the failures, or why it was skipped, not tried or expected to fail."""

    check: Check
    status: Status
    reasons: tuple[str, ...] = ()

    def __repr__(self) -> str:
        head = f"{_SHOWN[self.status][1]:<9} {self.check.name:<20} {self.check.rule}"
        return "\n".join([head, *(f"{'':<10}- {reason}" for reason in self.reasons)])


@dataclass(frozen=True)
class Report:
    """All results of one plugin; its repr is a table, as text and as HTML."""

    name: str
    results: tuple[Result, ...]

    @property
    def failures(self) -> list[Result]:
        """The checks that failed."""
        return [result for result in self.results if result.status == "failed"]

    @property
    def untried(self) -> list[Result]:
        """The checks that could not be tried here."""
        return [result for result in self.results if result.status == "untried"]

    @property
    def passed(self) -> bool:
        """Whether every rule that applies was tried, and none failed."""
        return not self.failures and not self.untried

    @property
    def summary(self) -> str:
        """One line that says how it came out."""
        count, missed, total = len(self.failures), len(self.untried), len(self.results)
        others = {status: sum(result.status == status for result in self.results) for status in ("skipped", "expected")}
        more = "".join(f", {number} {_SHOWN[status][1]}" for status, number in others.items() if number)
        broken = ", ".join(result.check.name for result in self.failures)
        said = f"breaks {count} of {total} rules ({broken})" if count else "keeps the contract"
        if missed:
            reasons = "; ".join(dict.fromkeys(reason for result in self.untried for reason in result.reasons))
            left = f"{missed} of {total} rules could not be tried: {reasons}"
            return (
                f"{self.name} {said}{more}; {left}" if count else f"{self.name} was not checked in full{more}; {left}"
            )
        return f"{self.name} {said}{more}"

    def __repr__(self) -> str:
        return "\n".join([self.summary, *map(repr, self.results)])

    def _repr_html_(self) -> str:
        return f"<b>{escape(self.summary)}</b>{_table(self.results)}"


def _table(results: Sequence[Result]) -> str:
    """One row a rule; the cells break anywhere, so that the table fits a narrow page."""
    cell = "text-align:left;vertical-align:top;padding:2px 10px 2px 0;overflow-wrap:anywhere"
    rows = []
    for result in results:
        mark, word, colour = _SHOWN[result.status]
        strong = ";font-weight:bold" if result.status == "failed" else ""
        reasons = "".join(f"<div>· {escape(reason)}</div>" for reason in result.reasons)
        rows.append(
            f'<tr><td style="{cell};white-space:nowrap;color:{colour}{strong}">{mark} {word}</td>'
            f'<td style="{cell};min-width:8em"><code>{escape(result.check.name)}</code></td>'
            f'<td style="{cell}">{escape(result.check.rule)}{reasons}</td></tr>'
        )
    return f'<table style="max-width:860px;margin:4px 0"><tbody>{"".join(rows)}</tbody></table>'


# ------------------------------------------------------------------------------------------------ what is under test


@dataclass(frozen=True)
class Kind:
    """What the plugins of one entry-point group have in common.

    Attributes:
        group: the entry-point group.
        rules: modules with `RULES`, the quick ones first.
        subject: the class of what a rule is given: "module:class", made of the plugin and its settings.
    """

    group: str
    rules: tuple[str, ...]
    subject: str


KINDS: Mapping[str, Kind] = {
    "method": Kind(
        "nbadapt.methods",
        (
            "nbadapt.testing.declarations",
            "nbadapt.testing.behaviour",
            "nbadapt.testing.gradients",
            "nbadapt.testing.robustness",
        ),
        "nbadapt.testing.subject:Subject",
    ),
    "store": Kind("nbadapt.stores", ("nbadapt.testing.store_rules",), "nbadapt.testing.store_rules:StoreSubject"),
    "provider": Kind("nbadapt.providers", ("nbadapt.testing.providers",), "nbadapt.testing.providers:ProviderSubject"),
    "model": Kind("nbadapt.models", ("nbadapt.testing.models",), "nbadapt.testing.models:ModelSubject"),
}


def kind_of(plugin: Any) -> str:
    """The key in `KINDS` of a plugin.

    Raises:
        TypeError: it is none.
    """
    from nbadapt.indexing.store import Store
    from nbadapt.packaged_models import PackagedModel
    from nbadapt.provider import Provider

    if isinstance(plugin, PackagedModel):
        return "model"
    if inspect.isclass(plugin):
        for parent, kind in ((Method, "method"), (Store, "store"), (Provider, "provider")):
            if issubclass(plugin, parent):
                return kind
    raise TypeError(f"{plugin!r} is no plugin: check a Method, a Store, a Provider or a PackagedModel")


def checks(kind: str = "method") -> list[Check]:
    """Every rule for one kind of plugin, the quick ones first."""
    found = []
    for module in KINDS[kind].rules:
        for function in import_module(module).RULES:
            rule = (function.__doc__ or "").strip().splitlines()[0].rstrip(".")
            found.append(Check(function.__name__, rule, function))
    return found


def _subject(plugin: Any, settings: Mapping[str, Any] | None) -> AbstractContextManager[Any]:
    module, _, name = KINDS[kind_of(plugin)].subject.partition(":")
    made: AbstractContextManager[Any] = getattr(import_module(module), name)(plugin, settings)
    return made


def check(
    plugin: Any,
    *,
    settings: Mapping[str, Any] | None = None,
    only: Collection[str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Apply every rule to a plugin.

    Args:
        plugin: the class of a method, a store or a provider, or a packaged model.
        settings: a method's settings for the runs, where its defaults take too long on 40 short rows.
        only: names of the checks to apply; None for all.
        expected_failures: check name -> why the plugin may break it, beside what the plugin states itself. One that
            holds after all is a failure.
        progress: told before each check how many are done, how many there are, and which one comes.

    Raises:
        TypeError: it is no plugin.
        ValueError: a name in `only` or `expected_failures` that is no check, or an expected failure without a reason.
    """
    kind, expected = kind_of(plugin), excuses(plugin, expected_failures)
    _known(kind, only or ())
    chosen = [c for c in checks(kind) if only is None or c.name in only]
    results = []
    with _subject(plugin, settings) as subject:
        for done, one in enumerate(chosen):
            if progress is not None:
                progress(done, len(chosen), one.name)
            results.append(_settled(one(subject), expected.get(one.name)))
    return Report(_name(plugin), tuple(results))


def _name(plugin: Any) -> str:
    return plugin.__name__ if inspect.isclass(plugin) else str(plugin.name)


def _known(kind: str, names: Iterable[str]) -> None:
    valid = {c.name for c in checks(kind)}
    for name in names:
        if name not in valid:
            raise ValueError(f"no check is named {name!r}: {', '.join(sorted(valid))}")


def excuses(plugin: Any, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Check name -> why the plugin may break it: what its attribute `expected_failures` states, and what is given.

    Raises:
        TypeError: it is no plugin.
        ValueError: it is no mapping, or names no check, or there is no reason.
    """
    stated = getattr(plugin, "expected_failures", {})
    if not isinstance(stated, Mapping):
        raise ValueError(f"expected_failures is {stated!r}: make it a dict of names of checks and reasons")  # noqa: TRY004 - as below
    expected = {**stated, **(given or {})}
    _known(kind_of(plugin), expected)
    for name, reason in expected.items():
        if not isinstance(reason, str) or not reason.strip():
            raise ValueError(f"the expected failure {name!r} has no reason: say why the plugin may break the rule")
    return expected


def _settled(result: Result, excuse: str | None) -> Result:
    if excuse is None or result.status in {"skipped", "untried"}:
        return result
    if result.status == "failed":
        return Result(result.check, "expected", (excuse,))
    return Result(result.check, "failed", (f"was expected to fail and holds: {excuse}",))


def parametrize_with_checks(
    plugins: Sequence[Any],
    *,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    expected_failures: Mapping[str, Mapping[str, str]] | None = None,
) -> Callable[[F], F]:
    """Pytest decorator: one test for each plugin and rule, whose argument `check` is called without arguments.

    Args:
        plugins: classes of methods, stores and providers, and packaged models.
        settings: method name -> settings for its runs.
        expected_failures: name -> check name -> why it may fail, beside what a plugin states itself; strict, as
            pytest's xfail.

    Raises:
        TypeError: one is no plugin.
        ValueError: an expected failure of no check, or without a reason.
    """
    import pytest

    cases = []
    for plugin in plugins:
        kind, name = kind_of(plugin), getattr(plugin, "name", None) or _name(plugin)
        expected = excuses(plugin, (expected_failures or {}).get(name))
        subject = _subject(plugin, (settings or {}).get(name))
        for one in checks(kind):
            excuse = expected.get(one.name)
            marks = [pytest.mark.xfail(strict=True, reason=excuse)] if excuse else []
            cases.append(pytest.param(_Bound(one, subject), id=f"{name}-{one.name}", marks=marks))
    decorate: Callable[[F], F] = pytest.mark.parametrize("check", cases)
    return decorate


class _Bound:
    """A check of one plugin, as a test calls it."""

    def __init__(self, check: Check, subject: Any) -> None:
        self._check, self._subject = check, subject

    def __call__(self) -> None:
        import pytest

        result = self._check(self._subject)
        if result.status in {"skipped", "untried"}:
            pytest.skip("; ".join(result.reasons))
        if result.status == "failed":
            pytest.fail(repr(result), pytrace=False)


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
