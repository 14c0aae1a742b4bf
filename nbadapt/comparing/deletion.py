"""Runs are removed after a question: what would go, who needs it, and only then the folder, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbadapt import named, registry, store
from nbadapt.errors import NbadaptError, RequestError, StoreError
from nbadapt.events import FINISHED
from nbadapt.memory import gibibytes
from nbadapt.run import Run

TRASH = ".deleted-"


@dataclass(frozen=True)
class Question:
    """What would go with some runs.

    Attributes:
        bytes: on the disk.
        lines: one about each run, in words; of those that another run needs, that too.
    """

    runs: tuple[Run, ...]
    bytes: int
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([*self.lines, f"in all {gibibytes(self.bytes)}"] if len(self.runs) > 1 else self.lines)


def ask(runs: Sequence[Run]) -> Question:
    """What would go with these runs; changes nothing.

    Raises:
        RequestError: a run is at work, here or in another kernel, or is no run of the folder of runs.
    """
    lines, total = [], 0
    for run in runs:
        _check(run)
        size = _bytes(run.directory)
        total += size
        parts = [part for part in ("artifacts", "checkpoints", "export") if (run.directory / part).exists()]
        held = f", with {', '.join(parts)}" if parts else ""
        called = f" ({run.name})" if run.name else ""
        lines.append(f"{run.id}{called}, {run.state}: {gibibytes(size)}{held}")
        others = [other for other in store.runs() if other not in runs]
        needed_by = [other.id for other in others if _needs(other, run)]
        if needed_by:
            lines.append(f"  its model is used by {', '.join(needed_by[:3])}, which could not be asked again")
        named_by = [other.id for other in others if _names(other, run)]
        if named_by:
            lines.append(f"  it is named in the settings of {', '.join(named_by[:3])}, which could not be resumed")
    return Question(tuple(runs), total, tuple(lines))


def delete(runs: Sequence[Run]) -> Question:
    """Remove these runs from the disk, for good; returns what went.

    A folder is renamed first: a kill in the midst leaves no half of a run among the others.

    Raises:
        RequestError: as `ask`; then nothing was removed.
        StoreError: a folder cannot be removed.
    """
    gone = ask(runs)
    for run in gone.runs:
        run.forget()
        trash = run.directory.with_name(f"{TRASH}{run.id}.{os.getpid()}")
        try:
            run.directory.rename(trash)
            with contextlib.suppress(FileNotFoundError):  # another kernel cleans up at the same time
                shutil.rmtree(trash)
        except OSError as error:
            raise StoreError(f"the run {run.id} could not be removed: {error.strerror or error}") from None
    for left in store.root().glob(f"{TRASH}*"):  # of a kill
        shutil.rmtree(left, ignore_errors=True)
    return gone


def _check(run: Run) -> None:
    if not (run.directory / "request.json").is_file():
        raise RequestError(f"there is no run in {run.directory}: it was removed already")
    if run.directory.parent.resolve() != store.root().resolve():
        raise RequestError(
            f"{run.directory} does not lie in the folder of runs, {store.root()}: remove that folder yourself"
        )
    if run.directory.is_symlink():
        raise RequestError(
            f"the run {run.id} is a link to {run.directory.resolve()}: remove the link, and that folder, yourself"
        )
    if run.alive:
        raise RequestError(f"the run {run.id} is at work: stop it first, with  %nbadapt stop")
    if run.state not in FINISHED:
        raise RequestError(f"the run {run.id} is at work in another kernel: stop it there first")


def _needs(other: Run, run: Run) -> bool:
    """Whether the other one was asked the model of this run."""
    with contextlib.suppress(StoreError, KeyError, TypeError):
        model: dict[str, Any] = other.request["model"]
        return model["kind"] == "run" and Path(model["path"]) == run.directory
    return False


def _names(other: Run, run: Run) -> bool:
    """Whether a setting of the other one that may name a run names this one."""
    with contextlib.suppress(NbadaptError, KeyError, AttributeError):  # a method that is not installed resumes nothing
        words = {name: word for name, word in other.request["settings"].items() if _may_mean(word, run)}
        if not words:  # the usual case, and no reason to import the method
            return False
        found = [words[name] for name in named.settings_of(registry.load(other.method)) if name in words]
        return any(store.open(word).directory == run.directory for word in found)
    return False


def _may_mean(word: Any, run: Run) -> bool:
    """Whether `nbadapt.store.open` may take this word for the run."""
    if not isinstance(word, str) or not word:
        return False
    return word in {run.name, str(run.directory)} or run.id.startswith(word) or run.id.endswith(word)


def _bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.lstat().st_size
    return total
