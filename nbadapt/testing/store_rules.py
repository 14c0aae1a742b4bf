"""Rules for a store of indexes (entry-point group ``nbadapt.stores``): what it declares, and each test of its contract.

The tests are those of `nbadapt.testing.stores.StoreContract`, run by pytest in a process of its own.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from nbadapt import registry
from nbadapt.indexing.store import CONTRACT, Store
from nbadapt.testing.declarations import import_faults
from nbadapt.testing.kit import UntriedError, UnusableError

_USAGE = 4  # pytest's exit status where it is called in a way, or configured, that it does not take
_TESTS = """
import pytest
from nbadapt.testing.stores import StoreContract

class TestStore(StoreContract):
    kind = {kind!r}

    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / {file!r}
"""


class StoreSubject:
    """A store, and what came of the tests of its contract."""

    def __init__(self, store: type[Store], settings: Mapping[str, Any] | None = None) -> None:
        self.store = store

    def __enter__(self) -> StoreSubject:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return

    @cached_property
    def failures(self) -> Mapping[str, list[str]] | None:
        """Test -> what failed of it; run once. None where the store ended the process that ran them.

        Raises:
            UntriedError: they cannot be run here.
            UnusableError: there is nothing that can be run.
        """
        if inspect.isabstract(self.store):
            raise UnusableError("see the rule complete")
        missing = [name for name in self.store.requires if not registry.installed(name)]
        if missing:
            install = registry.install_of(missing, None)
            raise UntriedError(f"not installed: {', '.join(missing)}; check again after  {install}")
        if self.store.place.__func__ is not Store.place.__func__:  # type: ignore[attr-defined]  # classmethods
            raise UntriedError(
                "it is behind a server: with pytest, let a class derive from nbadapt.testing.stores.StoreContract, "
                "whose fixture path names a place on it"
            )
        with tempfile.TemporaryDirectory(prefix="nbadapt-kit-") as room:
            return _tested(self.store, Path(room))


def _tested(store: type[Store], room: Path) -> dict[str, list[str]] | None:
    kind = f"{store.__module__}:{store.__qualname__}"
    (room / "test_store.py").write_text(_TESTS.format(kind=kind, file="index.kit"), encoding="utf-8")
    path = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(room)]
    done = subprocess.run(  # noqa: S603 - this interpreter, and a file that was written here
        [*command, "--junitxml", str(room / "report.xml"), str(room / "test_store.py")],
        capture_output=True,
        text=True,
        check=False,
        cwd=room,
        env={**os.environ, "PYTHONPATH": path},
    )
    if not (room / "report.xml").exists():
        if done.returncode == _USAGE:
            raise UntriedError(f"pytest does not run: {(done.stdout + done.stderr).strip().splitlines()[-1]}")
        return None
    found: dict[str, list[str]] = {}
    for case in ET.parse(room / "report.xml").iter("testcase"):  # noqa: S314 - pytest's own report
        name, _, which = str(case.get("name")).partition("[")
        lines = found.setdefault(name, [])
        for fault in (*case.iter("failure"), *case.iter("error")):
            first = str(fault.get("message") or "it fails").strip().splitlines()[0]
            lines.append(f"[{which} {first}" if which else first)
    return found


# ------------------------------------------------------------------------------------------------ the rules


def complete(subject: StoreSubject) -> Iterator[str]:
    """The class says what it is and has all that a store must have."""
    if inspect.getdoc(subject.store) in {None, "", inspect.getdoc(Store)}:
        yield "there is no docstring"
    if inspect.isabstract(subject.store):
        yield f"it does not implement {', '.join(sorted(subject.store.__abstractmethods__))}"


def contract(subject: StoreSubject) -> Iterator[str]:
    """The contract is the version that this nbadapt speaks."""
    if subject.store.contract != CONTRACT:
        yield f"contract is {subject.store.contract!r}, and this nbadapt speaks {CONTRACT}"


def requires(subject: StoreSubject) -> Iterator[str]:
    """The requirements are a tuple of import names."""
    names = subject.store.requires
    if not isinstance(names, tuple) or not all(
        isinstance(one, str) and all(part.isidentifier() for part in one.split(".")) for one in names
    ):
        yield f"requires is {names!r}"


def light_import(subject: StoreSubject) -> Iterator[str]:
    """Importing the store brings no heavy library, none that it requires, and prints nothing."""
    yield from import_faults(subject.store, subject.store.requires)


def _rule(test: str) -> Callable[[StoreSubject], Iterator[str]]:
    """A test of the contract as a rule."""

    def rule(subject: StoreSubject) -> Iterator[str]:
        found = subject.failures
        if found is None:
            raise UnusableError("see the rule behaviour")
        yield from found.get(test, ["it was not run"])

    from nbadapt.testing.stores import StoreContract

    rule.__name__ = test.removeprefix("test_")
    rule.__doc__ = inspect.getdoc(getattr(StoreContract, test)) or rule.__name__.replace("_", " ").capitalize()
    return rule


def _tests() -> list[str]:
    """The tests of the contract, in their order; none where pytest is not installed."""
    if importlib.util.find_spec("pytest") is None:
        return []
    from nbadapt.testing.stores import StoreContract

    return [name for name in vars(StoreContract) if name.startswith("test_")]


def behaviour(subject: StoreSubject) -> Iterator[str]:
    """The tests of the contract run to their end."""
    if importlib.util.find_spec("pytest") is None:
        raise UntriedError("the tests of the contract need pytest; check again after  pip install pytest")
    if subject.failures is None:
        yield "the process that runs them ends before they do"


RULES = (complete, contract, requires, light_import, behaviour, *map(_rule, _tests()))
