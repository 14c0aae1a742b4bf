"""Real little distributions in a folder on sys.path, as pip would leave them, to test what plugins may do."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

GOOD = """
from nbadapt.method import Config, Method, Outcome

class {cls}(Method):
    name = "{name}"
    verb = "{verb}"
    summary = "does nothing, well"
    reference = "https://example.org"
    tasks = frozenset({{"text"}})
    {extra}

    def estimate(self, job): ...
    def run(self, job, emit): return Outcome()
    def load(self, outcome, job): ...
"""


def method_source(name: str, *, cls: str = "Plugin", verb: str = "finetune", extra: str = "") -> str:
    """The source of a module with one method that keeps the contract, except for what `extra` declares."""
    return GOOD.format(name=name, cls=cls, verb=verb, extra=extra)


class Site:
    """A folder on sys.path into which distributions are written."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        self._known = set(sys.modules)
        monkeypatch.syspath_prepend(str(folder))

    def add(
        self,
        distribution: str,
        version: str,
        methods: Mapping[str, str],
        modules: Mapping[str, str],
        requires: Sequence[str] = (),
        group: str = "nbadapt.methods",
    ) -> None:
        """Write a distribution.

        Args:
            distribution: its name.
            version: its version.
            methods: name of a method, or of what else the group is for -> "module:Class".
            modules: module name -> source.
            requires: lines of Requires-Dist.
            group: the entry-point group.
        """
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {distribution}", f"Version: {version}"]
        (info / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {r}" for r in requires)]) + "\n")
        points = "".join(f"{name} = {value}\n" for name, value in methods.items())
        (info / "entry_points.txt").write_text(f"[{group}]\n" + points)
        for module, source in modules.items():
            (self.folder / f"{module}.py").write_text(source)
        importlib.invalidate_caches()

    def forget(self) -> None:
        """Drop the modules that came from this folder."""
        for name in set(sys.modules) - self._known:
            if str(getattr(sys.modules[name], "__file__", "") or "").startswith(str(self.folder)):
                del sys.modules[name]
