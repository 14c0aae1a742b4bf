"""What a piece of work writes to standard output and standard error, from Python or from anywhere in the process."""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import IO

from nbadapt.capture import LIBRARIES

_DESCRIPTORS = (1, 2)
_LOGGED = {*LIBRARIES, "bitsandbytes"}


class Printed:
    """Inside, nothing is shown; afterwards `text` is what would have been.

    Caught is what goes through Python's streams and what goes to the file descriptors 1 and 2, as machine code and
    child processes write. What libraries log is left out, as a run keeps it in a file of its own.
    """

    def __init__(self) -> None:
        self.text = ""

    def __enter__(self) -> Printed:
        self._streams = io.StringIO()
        self._stack = contextlib.ExitStack()
        self._file: IO[bytes] = self._stack.enter_context(tempfile.TemporaryFile())
        _flush()  # what was written before is not the work's
        self._stack.enter_context(_descriptors_to(self._file.fileno()))
        self._stack.enter_context(_without_logs())
        self._stack.enter_context(contextlib.redirect_stdout(self._streams))
        self._stack.enter_context(contextlib.redirect_stderr(self._streams))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._stack:
            _flush()
            self._file.seek(0)
            self.text = self._streams.getvalue() + self._file.read().decode(errors="replace")


@contextlib.contextmanager
def _descriptors_to(target: int) -> Iterator[None]:
    """The process's own output goes to another file; those descriptors that are closed stay so."""
    kept: dict[int, int] = {}
    for descriptor in _DESCRIPTORS:
        with contextlib.suppress(OSError):
            kept[descriptor] = os.dup(descriptor)
    try:
        for descriptor in kept:
            os.dup2(target, descriptor)
        yield
    finally:
        for descriptor, copy in kept.items():
            os.dup2(copy, descriptor)
            os.close(copy)


@contextlib.contextmanager
def _without_logs() -> Iterator[None]:
    """Handlers of libraries' loggers hold the stream that was there when they were made, and would pass the others.

    Those without a handler go through logging's last resort, to standard error.
    """
    handlers = {handler for name in _LOGGED for handler in logging.getLogger(name).handlers}
    if logging.lastResort is not None:
        handlers.add(logging.lastResort)
    for handler in handlers:
        handler.addFilter(_is_own)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(_is_own)


def _is_own(record: logging.LogRecord) -> bool:
    """Whether a record is the work's own, not a library's."""
    return record.name.partition(".")[0] not in _LOGGED


def _flush() -> None:
    """Write out what Python and C's library still hold back."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(Exception):  # somebody may have closed or replaced it
            stream.flush()  # type: ignore[union-attr]  # as above
    with contextlib.suppress(Exception):  # where C's library is not found so
        ctypes.CDLL(None).fflush(None)
