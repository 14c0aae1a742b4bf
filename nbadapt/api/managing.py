"""What there is and what becomes of it: methods, runs, the state of this installation, memory and caches."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbadapt.errors import RequestError

if TYPE_CHECKING:
    from nbadapt.answer_cache import Size
    from nbadapt.comparing.comparison import Comparison
    from nbadapt.diagnosis.report import Diagnosis
    from nbadapt.manual import MethodInfo
    from nbadapt.run import Run
    from nbadapt.tables import Page, Table
    from nbadapt.testing.kit import Report


def methods() -> Table[MethodInfo]:
    """Every installed method: what it does, its tasks, where it comes from, whether it is ready."""
    from nbadapt import manual

    return manual.method_table()


def help(method: str) -> Page:  # noqa: A001 - nbadapt.help reads as what it does
    """What one method does, its settings and an example cell.

    Raises:
        NbadaptError: there is no such method, or its plugin is broken.
    """
    from nbadapt import manual

    return manual.method_page(method)


def check(name: str) -> Report:
    """Whether what is installed under a name keeps the contract of plugins: every rule, on tiny models.

    Args:
        name: of a method, a store of indexes, a provider or a packaged model.

    Raises:
        NbadaptError: there is no such thing, it is broken, or a run is at work here.
    """
    from nbadapt.testing import command

    return command.run(name)


def new_plugin(name: str, parent: str | Path | None = None) -> Page:
    """Write a plugin to begin with: the folder ``nbadapt-NAME``, which installs and works as it is.

    Args:
        name: the word that is to come after the magic.
        parent: the folder to write it into; None for the current one.

    Raises:
        RequestError: the name cannot be used, or the folder is there.
    """
    from nbadapt import scaffold

    return scaffold.create(name, None if parent is None else Path(parent))


def runs(search: str = "", sort: str = "") -> Table[Run]:
    """All runs, newest first; index the table to get a Run. In a notebook it sorts, filters and compares.

    Args:
        search: words that a run's id, name, method, model, data, state, note or tags must hold, in any order; with a
            dash in front, must not hold.
        sort: a column of the table, or a metric, the best first; with a dash in front the other way round.

    Raises:
        RequestError: there is no such column.
    """
    from nbadapt.comparing.table import RunsTable

    return RunsTable(search, sort)


def compare_runs(runs: Sequence[str | Run], *, everything: bool = False) -> Comparison:
    """Runs beside each other: what differs, their curves in one figure, quality against cost.

    Args:
        runs: 2 to 12 runs or their ids.
        everything: also what all of them share.

    Returns:
        Shown, it is the figure and the table; `frame()` is the table, `figure()` the drawing.

    Raises:
        NbadaptError: a run is unknown, or they are too few or too many.
    """
    from nbadapt.comparing.comparison import Comparison

    named = [runs] if isinstance(runs, str) or not isinstance(runs, Iterable) else runs
    return Comparison([show(run) for run in named], everything=everything)


def delete(runs: str | Run | Sequence[str | Run], *, yes: bool = False) -> Page:
    """Remove runs from the disk, for good; without `yes` only say what would go.

    The rows of their data stay: other runs may use the same.

    Args:
        runs: a run or several, or their ids.
        yes: really remove them.

    Raises:
        NbadaptError: a run is unknown, or at work; then none is removed.
    """
    from nbadapt.comparing import deletion
    from nbadapt.run import Run
    from nbadapt.tables import Code, Page

    chosen = [show(run) for run in ([runs] if isinstance(runs, str | Run) else runs)]
    chosen = list(dict.fromkeys(chosen))
    if not chosen:
        raise RequestError("no run given to delete: name one or more")
    question = deletion.delete(chosen) if yes else deletion.ask(chosen)
    title = "Deleted." if yes else "Nothing was deleted yet."
    again = () if yes else (f"To delete: %nbadapt delete {' '.join(run.id for run in chosen)} --yes",)
    return Page(title, Code(str(question)), *again)


def show(run: str | Run) -> Run:
    """A stored run, by its id or the beginning of its id.

    Raises:
        StoreError: no such run, or several.
    """
    from nbadapt import store

    return store.open(run) if isinstance(run, str) else run


def resume(run: str | Run, functions: Mapping[str, Callable[..., Any]] | None = None) -> Run:
    """Go on with a run that was paused, or that was stopped or killed: from its last checkpoint.

    Args:
        run: the run or its id.
        functions: the functions that its settings name, by setting; needed in a kernel that did not start the run.

    Raises:
        NbadaptError: there is nothing to go on with, or it fails again.
    """
    found = show(run)
    if functions:
        found.functions = {**found.functions, **functions}
    return found.resume()


def stop(run: str | Run | None = None, *, at_epoch_end: bool = False) -> Run:
    """Stop a run that works in the background after its next step; what it did so far is kept.

    Args:
        run: the run; None for the one that this kernel works on.
        at_epoch_end: stop it when its epoch ends.

    Raises:
        NbadaptError: it is not at work in this kernel.
    """
    chosen = at_work(run)
    chosen.stop(at_epoch_end=at_epoch_end)
    return chosen


def at_work(run: str | Run | None = None) -> Run:
    """A run, or the one that this kernel works on.

    Raises:
        NbadaptError: there is none.
    """
    from nbadapt import runner

    chosen = runner.current() if run is None else show(run)
    if chosen is None:
        raise RequestError("no run is at work in this kernel: %nbadapt runs lists what there is")
    return chosen


def doctor(*, full: bool = False) -> Diagnosis:
    """What is installed and set up here, what is wrong with it, and how each thing is mended.

    Args:
        full: import torch, where it is not imported yet, to look at the GPU and the fastest type of weights.

    Returns:
        The report: shown as a table, ``print`` gives text for a bug report; it holds no secrets.
    """
    from nbadapt.diagnosis.examine import examine

    return examine(full=full)


def free() -> int:
    """Forget the loaded models, and return how many bytes they held.

    Runs stay usable: their models are loaded again when they are next asked for something.

    Raises:
        RequestError: a run is at work with them.
    """
    from nbadapt import models, runner
    from nbadapt.run import Run

    busy = runner.current()
    if busy is not None:
        raise RequestError(f"the run {busy.id} is at work: stop it first, with  %nbadapt stop")
    for run in Run.known():
        run.forget()
    if "nbadapt.indexing.index" in sys.modules:
        sys.modules["nbadapt.indexing.index"].close_all()
    gc.collect()
    return models.free()


def cache() -> Size:
    """How many answers to prompts are kept on disk, so that the same is not asked twice; where, and how large it is.

    Raises:
        StoreError: the file cannot be read.
    """
    from nbadapt import answer_cache

    return answer_cache.size()


def clear_cache() -> int:
    """Forget all answers that are kept, and return how many there were.

    Raises:
        StoreError: the file cannot be written.
    """
    from nbadapt import answer_cache

    return answer_cache.clear()
