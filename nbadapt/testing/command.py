"""``%nbadapt check NAME``: finds what is installed under a name, and runs its kit."""

from __future__ import annotations

from typing import Any

from nbadapt import endpoints, model_names, registry, runner
from nbadapt.capture import quiet_libraries
from nbadapt.errors import PluginError, RequestError, did_you_mean
from nbadapt.indexing import store as stores
from nbadapt.tables import Page
from nbadapt.testing.kit import Report, check, excuses


def names() -> list[str]:
    """Everything that can be checked."""
    return sorted({*registry.entries(), *stores.names(), *endpoints.prefixes(), *model_names.names()})


def find(name: str) -> Any:
    """The plugin of a name: a method, a store, a provider or a packaged model.

    Raises:
        RequestError: there is none.
        NbadaptError: it is broken, or lacks a library.
    """
    if name in registry.entries():
        method = registry.load(name)
        registry.demand_requirements(method)
        return method
    if name in stores.names():
        return stores.kind(name)
    if name in endpoints.prefixes():
        return type(endpoints.load(name))
    if name in model_names.names():
        return model_names.load_package(name)
    raise RequestError(f"nothing that is installed is called {name!r}: {did_you_mean(name, names(), kind='plugins')}")


def run(name: str) -> Report:
    """Check what is installed under a name; a line in the notebook says how far it is.

    Raises:
        NbadaptError: there is no such thing, it is broken, it lacks a library, or a run is at work here.
    """
    plugin = find(name)
    try:
        excuses(plugin)
    except ValueError as error:
        raise PluginError(f"what {name!r} states of its expected failures is wrong: {error}") from None
    busy = runner.current()
    if busy is not None:
        raise RequestError(f"the run {busy.id} is still going on here, and a check would disturb it: wait for it")
    line = _Line(name)
    try:
        with quiet_libraries():
            return check(plugin, progress=line)
    finally:
        line.end()


class _Line:
    """Says in a notebook which rule is being looked at; in a terminal, which cannot take a line back, nothing."""

    def __init__(self, name: str) -> None:
        from IPython.core.getipython import get_ipython

        self._name = name
        self._handle: Any = None
        self._works = hasattr(get_ipython(), "kernel")

    def __call__(self, done: int, total: int, rule: str) -> None:
        """The rule that is looked at next."""
        if not self._works:
            return
        page = Page(f"check {self._name}: rule {done + 1} of {total} · {rule}")
        if self._handle is None:
            from IPython.display import display

            self._handle = display(page, display_id=True)  # type: ignore[no-untyped-call]  # IPython's
        else:
            self._handle.update(page)

    def end(self) -> None:
        """Take the line away."""
        if self._handle is not None:
            from nbadapt.widgets.indexing import Nothing

            self._handle.update(Nothing())
