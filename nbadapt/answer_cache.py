"""Answers on disk, so that a prompt is asked once: by one run, in one kernel, for all that follow.

::

    ~/.cache/nbadapt/answers/answers.sqlite        or below $NBADAPT_ANSWERS
      answers(key, value)     key: 16 bytes of what decides the answer, value: the answer as JSON

What decides an answer is the caller's to say: the model's content, the whole prompt, how it is asked, the number of the
sample. The file is in SQLite's WAL mode: any number of processes read and write side by side, and a kill loses no
batch that was kept. A damaged file is removed. Beyond `MOST_BYTES` the older half goes.
"""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nbadapt import json_text
from nbadapt.errors import StoreError

FORMAT = 1  # of keys and values; a change that gives other answers makes it another number
MOST_BYTES = 2**30
WAIT = 10.0  # seconds for another process that writes
AT_ONCE = 500  # keys in one query

_in_use = contextvars.ContextVar("nbadapt_answers_in_use", default=True)


@dataclass(frozen=True)
class Size:
    """How much is kept: answers, bytes on disk, and where."""

    answers: int
    bytes: int
    file: Path


def file() -> Path:
    """The file of all answers: below $NBADAPT_ANSWERS, or in the user's cache."""
    named = os.environ.get("NBADAPT_ANSWERS")
    folder = Path(named).expanduser() if named else Path.home() / ".cache" / "nbadapt" / "answers"
    return folder / "answers.sqlite"


def key(*parts: Any) -> bytes:
    """The name of an answer in the cache: 16 bytes of all that decides it, which JSON can hold."""
    text = json.dumps([FORMAT, *parts], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


@contextlib.contextmanager
def unused() -> Iterator[None]:
    """Neither look for answers nor keep any: for what measures how long asking takes."""
    token = _in_use.set(False)
    try:
        yield
    finally:
        _in_use.reset(token)


class AnswerCache:
    """The answers of earlier runs. It never fails: what goes wrong is told in `fault`, and the work goes on without.

    Use it in one thread, and close it, or use it in a with block.

    Args:
        wanted: whether it is used at all.
    """

    def __init__(self, wanted: bool = True) -> None:
        self.fault = ""
        self._file: sqlite3.Connection | None = None
        if not (wanted and _in_use.get()):
            return
        try:
            self._file = _opened()
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with contextlib.suppress(sqlite3.Error):
                self._file.close()
            self._file = None

    @property
    def in_use(self) -> bool:
        """Whether answers are looked for and kept."""
        return self._file is not None

    def _give_up(self, error: Exception) -> None:
        self.fault = f"answers are not kept for later runs: {file()} cannot be used ({error})"
        self.close()

    def find(self, keys: Sequence[bytes]) -> dict[bytes, Any]:
        """Those of the wanted answers that are there."""
        found: dict[bytes, Any] = {}
        for start in range(0, len(keys), AT_ONCE):
            if self._file is None:
                return found
            part = keys[start : start + AT_ONCE]
            try:
                marks = ",".join("?" * len(part))
                rows = self._file.execute(f"SELECT key, value FROM answers WHERE key IN ({marks})", part)  # noqa: S608 - question marks
                found |= {name: json_text.loads(value) for name, value in rows}
            except (sqlite3.Error, ValueError) as error:
                self._give_up(error)
        return found

    def add(self, answers: Mapping[bytes, Any]) -> None:
        """Keep these, whole or not at all; what is there already stays."""
        if self._file is None or not answers:
            return
        rows = [(name, json.dumps(value)) for name, value in answers.items()]
        try:
            self._file.execute("BEGIN IMMEDIATE")
            self._file.executemany("INSERT OR IGNORE INTO answers (key, value) VALUES (?, ?)", rows)
            self._file.execute("COMMIT")
        except sqlite3.Error as error:
            self._give_up(error)


def _opened() -> sqlite3.Connection:
    """The file, made where it is missing, anew where it is damaged.

    Raises:
        sqlite3.Error, OSError: it cannot be used.
    """
    path = file()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _connected(path)
    except sqlite3.OperationalError:  # locked, read-only, a full disk: nothing is wrong with it
        raise
    except sqlite3.DatabaseError:
        for end in ("", "-wal", "-shm"):
            Path(f"{path}{end}").unlink(missing_ok=True)
        return _connected(path)


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=WAIT, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS answers (id INTEGER PRIMARY KEY, key BLOB UNIQUE NOT NULL, value TEXT NOT NULL)"
        )
        if path.stat().st_size > MOST_BYTES:
            connection.execute("DELETE FROM answers WHERE id <= (SELECT (MIN(id) + MAX(id)) / 2 FROM answers)")
            connection.execute("VACUUM")
    except BaseException:
        connection.close()
        raise
    return connection


def size() -> Size:
    """How much is kept.

    Raises:
        StoreError: the file cannot be read.
    """
    path = file()
    if not path.exists():
        return Size(0, 0, path)
    with _reported(path) as connection:
        (count,) = connection.execute("SELECT COUNT(*) FROM answers").fetchone()
    on_disk = sum(p.stat().st_size for p in (path, Path(f"{path}-wal")) if p.exists())
    return Size(count, on_disk, path)


def clear() -> int:
    """Forget all answers, and return how many there were.

    Raises:
        StoreError: the file cannot be written.
    """
    path = file()
    if not path.exists():
        return 0
    with _reported(path) as connection:
        count = connection.execute("DELETE FROM answers").rowcount
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return int(count)


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with contextlib.closing(_opened()) as connection:
            yield connection
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"the answers in {path} cannot be used: {error}") from None
