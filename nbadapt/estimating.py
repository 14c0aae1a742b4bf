"""Asks a method for its estimate, and does not trust it: a time limit, and one line for all that goes wrong.

::

    method.estimate(job)   in a thread of its own
        ├── an Estimate whose figures are figures ──> it is taken
        ├── a NbadaptError                         ──> the job is refused, with the method's line
        ├── another exception                      ──> the job is refused: the plugin is named
        └── no answer in time, or figures that are none ──> NoEstimateError: run and form go on without an estimate
"""

from __future__ import annotations

import contextvars
import ctypes
import dataclasses
import math
import re
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nbadapt import origins, registry
from nbadapt.capture import LIBRARIES, Capture
from nbadapt.errors import NbadaptError, PluginError, Stopped, drop_frames
from nbadapt.events import plain_number
from nbadapt.method import Estimate

if TYPE_CHECKING:
    from nbadapt.method import Job, Method

SECONDS = 60.0  # the longest estimate; that of a model of 70 billion parameters takes a few

T = TypeVar("T")


class NoEstimateError(PluginError):
    """There is no estimate, and no reason to refuse the job."""


def estimate(method: Method, job: Job, seconds: float | None = None) -> Estimate:
    """What the method estimates.

    Args:
        method: whom to ask.
        job: about what.
        seconds: how long to wait; None for `SECONDS`.

    Raises:
        NoEstimateError: none comes, or one whose figures are none.
        PluginError: the method fails in a way that the contract does not know.
        NbadaptError: what else the method raises.
    """
    limit = SECONDS if seconds is None else seconds

    def ask() -> Estimate:
        with tempfile.TemporaryDirectory(prefix="nbadapt-estimate-") as room:
            said = Path(room) / "printed"
            with Capture(said):
                found = method.estimate(job)
            if said.exists():
                registry.note_printed(method.name, "estimating", _own_lines(said.read_text(encoding="utf-8")))
            return found

    try:
        found = within(limit, ask)
    except LateError:
        raise NoEstimateError(
            f"{_owner(method)} gave no estimate within {limit:g} s: this goes on without one"
        ) from None
    except (NbadaptError, KeyboardInterrupt, Cancelled):
        raise
    except BaseException as error:  # noqa: BLE001 - told in one line, with the plugin's name
        line = f"{_owner(method)} fails when it estimates the cost: {origins.told(error)}"
        drop_frames(error)
        raise PluginError(line) from None
    try:
        fault = _fault(found)
    except Exception as error:  # noqa: BLE001 - a plugin's object may fail at being looked at
        fault = f"it cannot be read ({origins.told(error)})"
    if fault:
        raise NoEstimateError(f"the estimate of {_owner(method)} is left out: {fault}")
    return _plain(found)


class Cancelled(Stopped):
    """The estimate is not wanted any more: raised inside it by who watches, and passed on."""


class LateError(Exception):
    """Nothing came in time."""


def within(seconds: float, ask: Callable[[], T]) -> T:
    """What `ask` gives, called in a thread of its own.

    Raises:
        LateError: nothing came in time; the thread is told to end.
        BaseException: whatever `ask` raises.
    """
    given: list[T] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            given.append(ask())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            raised.append(error)

    context = contextvars.copy_context()  # who remembers, watches or scales does so in there as well
    thread = threading.Thread(target=context.run, args=(work,), name="nbadapt-estimate", daemon=True)
    thread.start()
    late = True
    try:
        thread.join(seconds)
        late = thread.is_alive()
    finally:  # also where the user interrupts
        if late:  # if it computes, and does not only wait, it shall not do so beside the run
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
    if late:
        raise LateError
    if raised:
        raise raised[0]
    return given[0]


def _own_lines(said: str) -> str:
    """What was captured, without what libraries log and warn of."""
    others = re.compile(rf"\w*Warning: |(?:{'|'.join(LIBRARIES)})[\w.]*: ")
    return "\n".join(line for line in said.splitlines() if line.strip() and not others.match(line))


def _owner(method: Method) -> str:
    """The method with the distribution that it comes from."""
    declared = registry.entries().get(method.name, ())
    return f"the plugin {declared[0].owner} of the method {method.name!r}" if declared else f"the method {method.name}"


def _fault(found: Any) -> str | None:
    """What is wrong with an estimate, or None."""
    if not isinstance(found, Estimate):
        return f"it is {type(found).__name__}, no Estimate"
    if (fault := _shape_fault(found)) is not None:
        return fault
    figures: dict[str, Any] = {
        "trainable": found.trainable,
        "total": found.total,
        "artifact": found.artifact,
        "steps": found.steps,
    }
    figures |= {f"memory: {item}": size for item, size in found.memory.items()}
    if found.seconds is not None:
        figures["seconds"] = found.seconds
    for name, figure in figures.items():
        number = None if isinstance(figure, bool) else plain_number(figure)
        if number is None or not math.isfinite(number) or number < 0:
            return f"{name} is {figure!r:.40}"
    return None


def _shape_fault(found: Estimate) -> str | None:
    """What is wrong with the parts of an estimate that are no figures."""
    if not _names(found.memory):
        return f"memory is {found.memory!r:.60}, no dict of bytes by item"
    if not _names(found.elsewhere) or not all(isinstance(device, str) for device in found.elsewhere.values()):
        return f"elsewhere is {found.elsewhere!r:.60}, no dict of devices by item"
    if not isinstance(found.notes, tuple) or not all(isinstance(note, str) for note in found.notes):
        return f"notes is {found.notes!r:.60}, no tuple of texts"
    return None


def _names(parts: Any) -> bool:
    return isinstance(parts, Mapping) and all(isinstance(name, str) for name in parts)


def _plain(found: Estimate) -> Estimate:
    """The estimate in numbers of Python's own and plain dicts: it is kept with the run."""
    names = ("trainable", "total", "artifact", "steps", "seconds")
    changed: dict[str, Any] = {name: plain_number(getattr(found, name)) for name in names}
    memory: dict[str, Any] = {item: plain_number(size) for item, size in found.memory.items()}
    return dataclasses.replace(found, **changed, memory=memory, elsewhere=dict(found.elsewhere))
