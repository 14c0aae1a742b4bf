"""Keeps what libraries print, log or warn out of the notebook."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from nbadapt.redaction import hide


class _ThreadSwitch(io.TextIOBase):
    """A stream that sends one thread's writes to a file and everybody else's to the stream it replaces."""

    def __init__(self, original: TextIO, thread: int, target: TextIO) -> None:
        self._original, self._target = original, target
        self._thread: int | None = thread

    def _stream(self) -> TextIO:
        return self._target if threading.get_ident() == self._thread else self._original

    def end(self) -> None:
        """Send everything to the original from now on, even where somebody kept this object."""
        self._thread = None

    def write(self, text: str) -> int:
        return self._stream().write(text)

    def flush(self) -> None:
        self._stream().flush()

    def isatty(self) -> bool:
        return self._stream().isatty()

    # TextIOBase has these itself, empty or failing: __getattr__ is never asked for them.

    @property
    def encoding(self) -> str:  # type: ignore[override]  # an attribute there
        return self._stream().encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._stream().errors

    def fileno(self) -> int:
        return self._stream().fileno()

    def writable(self) -> bool:
        return self._stream().writable()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


LONGEST_LINE = 10_000  # characters that wait for the end of their line


class _Hiding:
    """A text file that is written without the secrets of what is written to it, by lines: print writes in pieces."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._begun: list[str] = []  # pieces of a line without its end
        self._length = 0

    def write(self, text: str) -> int:
        self._begun.append(text)
        self._length += len(text)
        if "\n" in text or "\r" in text or self._length > LONGEST_LINE:
            self._write_lines()
        return len(text)

    def close(self) -> None:
        try:
            self._file.write(hide("".join(self._begun)))
        finally:
            self._file.close()

    def _write_lines(self) -> None:
        """Write all but a line that is only begun, and that too where it is long, or has the end of a secret."""
        said = "".join(self._begun)
        end = max(said.rfind("\n"), said.rfind("\r")) + 1
        lines, rest = hide(said[:end]), said[end:]
        if rest and (len(rest) > LONGEST_LINE or hide(said) != lines + hide(rest)):
            lines, rest = hide(said), ""
        self._begun, self._length = [rest], len(rest)
        self._file.write(lines)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


LIBRARIES = ("transformers", "peft", "accelerate", "huggingface_hub", "datasets", "trl")


class _ThreadLog(logging.Filter):
    """Writes what one thread logs to a file instead; lets pass what others log."""

    def __init__(self, thread: int, target: TextIO) -> None:
        super().__init__()
        self._thread, self._target = thread, target

    def filter(self, record: logging.LogRecord) -> bool:
        if record.thread != self._thread:
            return True
        self._target.write(f"{record.name}: {record.getMessage()}\n")
        return False


class Capture:
    """While entered, what this thread prints, logs or warns of goes to the file `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Capture:
        self._thread: int | None = threading.get_ident()
        self._file: TextIO = _Hiding(self._path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1))  # type: ignore[assignment]
        self._streams = (sys.stdout, sys.stderr)
        self._switches = tuple(_ThreadSwitch(s, threading.get_ident(), self._file) for s in self._streams)
        sys.stdout, sys.stderr = self._switches
        self._showwarning = warnings.showwarning
        warnings.showwarning = self._show  # type: ignore[assignment]  # its last arguments are passed on as they are
        self._filter = _ThreadLog(threading.get_ident(), self._file)
        self._handlers = [h for name in LIBRARIES for h in logging.getLogger(name).handlers]
        for handler in self._handlers:
            handler.addFilter(self._filter)
        return self

    def _show(self, message: Warning | str, category: type[Warning], *rest: Any) -> None:
        if threading.get_ident() == self._thread:
            self._file.write(f"{category.__name__}: {message}\n")
        else:
            self._showwarning(message, category, *rest)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for handler in self._handlers:
            handler.removeFilter(self._filter)
        for switch in self._switches:
            switch.end()
        if sys.stdout is self._switches[0]:  # somebody may have replaced it since: then it is theirs
            sys.stdout = self._streams[0]
        if sys.stderr is self._switches[1]:
            sys.stderr = self._streams[1]
        self._thread = None  # a catch_warnings that ends later puts our function back: it only passes on then
        if warnings.showwarning == self._show:
            warnings.showwarning = self._showwarning
        self._file.close()
        if self._path.stat().st_size == 0:
            self._path.unlink()


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Without transformers' progress bars and reports, and without the remarks of other libraries beside it.

    Those are a warning that peft provokes, and what bitsandbytes, which peft imports, says of kernels it misses.
    """
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    bitsandbytes = logging.getLogger("bitsandbytes")
    level = bitsandbytes.level
    bitsandbytes.setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with _ignored("`is_gradient_checkpointing` is deprecated"):
            yield
    finally:
        bitsandbytes.setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def _ignored(message: str) -> Iterator[None]:
    """Without the warnings that begin with `message`.

    The filters are the whole process's. catch_warnings would put back all of them as they were, over what the
    user's cells set meanwhile; this takes back its own one alone.
    """
    filters: list[Any] = warnings.filters  # type: ignore[assignment]  # a list, whatever its declaration says
    own = ("ignore", re.compile(re.escape(message)), Warning, None, 0)
    filters.insert(0, own)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # somebody has reset the filters
            filters.remove(own)
