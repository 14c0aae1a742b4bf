"""Append-only files of JSON lines that survive a kill and take several writers.

::

    append: lock ──> cut off what a kill left half-written ──> write ──> fsync ──> unlock
    new:    every whole line since the last call; a last line that was cut short does not count

A last line that lacks only its newline, which some editors take away, is whole: no shorter part of a record is JSON.
A record is there for good when `append` returns. Several records that are appended at once are there one by one:
what must be whole goes into one record.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nbadapt import json_text
from nbadapt.errors import DataError, StoreError

WAIT = 20.0  # seconds for another process that writes
REMEMBERED = 256  # bytes of the end of what was read, by which another file in its place is known
_NOTHING: tuple[tuple[int, int], bytes] = (0, 0), b""  # which file was read, and the last bytes of what was


class Journal:
    """One such file; it need not be there yet.

    Args:
        path: where it lies, in a folder that exists.
        lock: the file that writers lock; the default is a hidden one beside it.
    """

    def __init__(self, path: Path, lock: Path | None = None) -> None:
        import filelock

        self.path = path
        self._offset = self._lines = 0
        self._read = _NOTHING
        self._lock = filelock.FileLock(lock or path.with_name(f".{path.name}.lock"), timeout=WAIT)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the other writers off; may be nested.

        Raises:
            StoreError: another process does not let go, or the folder cannot be written.
        """
        import filelock

        try:
            self._lock.acquire(poll_interval=0.005)
        except filelock.Timeout:
            raise StoreError(f"{self.path} is being written by another process: try again") from None
        except OSError as error:
            raise StoreError(f"{self.path} cannot be written: {error.strerror or error}") from None
        try:
            yield
        finally:
            self._lock.release()

    def new(self) -> tuple[list[dict[str, Any]], bool]:
        """The records that came since the last call, by whomever, and whether the file was begun anew meanwhile.

        Raises:
            DataError: a line is no JSON object; names it.
            StoreError: the file cannot be read.
        """
        offset, lines, (known, last) = self._offset, self._lines, self._read
        try:
            with self.path.open("rb") as file:
                state = os.fstat(file.fileno())
                which = state.st_dev, state.st_ino
                file.seek(offset - len(last))
                restarted = offset > 0 and (which != known or file.read(len(last)) != last)
                if restarted:
                    offset, lines, last = 0, 0, b""
                file.seek(offset)
                content = file.read()
        except FileNotFoundError:
            self._offset, self._lines, self._read = 0, 0, _NOTHING
            return [], offset > 0
        except OSError as error:
            raise StoreError(f"{self.path} cannot be read: {error.strerror or error}") from None
        *whole, torn = content.split(b"\n")
        records = [self._record(line, number) for number, line in enumerate(whole, lines + 1) if line.strip()]
        record = _parsed(torn)
        if record is None:
            content = content.removesuffix(torn)
        else:
            records.append(record)  # its line is counted with its newline
        self._offset, self._lines = offset + len(content), lines + len(whole)
        self._read = which, (last + content[-REMEMBERED:])[-REMEMBERED:]
        return records, restarted

    def _record(self, line: bytes, number: int) -> dict[str, Any]:
        record = _parsed(line)
        if record is None:
            raise DataError(f"{self.path}, line {number}: no JSON object: mend or remove the line")
        return record

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write records at the end; they are on the disk when this returns.

        Raises:
            StoreError: they cannot be written, such as on a full disk.
        """
        data = "".join(json.dumps(dict(record), ensure_ascii=False) + "\n" for record in records).encode()
        with self.turn():
            try:
                with self.path.open("ab+", buffering=0) as file:
                    size = _cut_torn_end(file)
                    try:
                        _write(file, data)
                        os.fsync(file.fileno())
                    except OSError:
                        file.truncate(size)  # what could not be kept is not found later either
                        raise
            except OSError as error:
                raise StoreError(f"{self.path} cannot be written: {error.strerror or error}") from None


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a line; None where it is none."""
    try:
        record = json_text.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _write(file: Any, data: bytes) -> None:
    """Write all of it, in one call of the system where that takes it."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _cut_torn_end(file: Any) -> int:
    """Remove a last line that was cut short, which nobody was told of: its writer was killed. The size that is left.

    One that lacks only its newline gets it.
    """
    size: int = file.seek(0, os.SEEK_END)
    end = size
    while end > 0:
        start = max(0, end - 65_536)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end == size:
        return size
    file.seek(end)
    if _parsed(file.read(size - end)) is not None:
        _write(file, b"\n")
        return size + 1
    file.truncate(end)
    return end


def replace(path: Path, data: bytes) -> None:
    """Write a file so that at any moment, and after a crash, the old or the new one is there, whole.

    One writer at a time: the caller holds the others off.

    Raises:
        StoreError: it cannot be written.
    """
    target = path.resolve()  # of a link: what it leads to
    temporary = target.with_name(f".{target.name}.new")  # one that a kill left is written over
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            shutil.copymode(target, temporary)
        temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
