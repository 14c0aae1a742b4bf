"""The default store: one SQLite file (WAL), words by FTS5, vectors by one exact matrix product in memory.

::

    documents (id, path, stamp, metadata)        a changed document gets a new id, so what has an id never changes
    chunks    (id, document, number, ...text)  ──triggers──> words (FTS5)
    vectors   (document, float32 (n, d))       ──read when `changes` grew──> matrix (d, N) in memory

A query is vector @ matrix and a partial sort: exact, 100,000 x 384 in a few milliseconds. Every document is written
in one transaction. WAL with synchronous=NORMAL survives a kill at any moment; a power cut may cost the last
documents, which the next update then brings back.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbadapt.errors import StoreError
from nbadapt.indexing.store import (
    EVERYWHERE,
    Passage,
    Ranked,
    Record,
    Store,
    Where,
    check_width,
    checked_vectors,
    digest,
    metadata_json,
    parts,
    question_words,
    storable,
)

if TYPE_CHECKING:
    import numpy as np

    from nbadapt.indexing.chunks import Chunk

FORMAT = 1  # of the tables; `PRAGMA user_version`
WAIT = 60.0  # seconds for which another process may hold the file
EMPTY = 1 / 8  # of the columns in memory, at most
BLOCK = 64  # scores of which one is looked at first

_TABLES = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE changes (count INTEGER NOT NULL);
INSERT INTO changes VALUES (0);
CREATE TABLE documents (
    id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL UNIQUE, stamp TEXT NOT NULL, metadata TEXT NOT NULL);
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL, number INTEGER NOT NULL,
    start INTEGER NOT NULL, stop INTEGER NOT NULL, page INTEGER, digest BLOB NOT NULL, text TEXT NOT NULL);
CREATE INDEX chunks_by_document ON chunks (document, number);
CREATE INDEX chunks_by_digest ON chunks (digest);
CREATE TABLE vectors (document INTEGER PRIMARY KEY, width INTEGER NOT NULL, data BLOB NOT NULL);
CREATE VIRTUAL TABLE words USING fts5 (text, content='chunks', content_rowid='id', tokenize='porter unicode61');
CREATE TRIGGER chunk_added AFTER INSERT ON chunks BEGIN
    INSERT INTO words (rowid, text) VALUES (new.id, new.text); END;
CREATE TRIGGER chunk_removed AFTER DELETE ON chunks BEGIN
    INSERT INTO words (words, rowid, text) VALUES ('delete', old.id, old.text); END;
"""


class SqliteStore(Store):
    """An index in one file; any number of threads and processes may read and write it."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.RLock()
        self._matrix: _Matrix | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"the index {path} cannot be opened: {error}") from None
        try:
            with self._told():
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = NORMAL")
                self._make_tables()
        except BaseException:
            self._connection.close()
            raise

    def _make_tables(self) -> None:
        if self._version() == 0:
            with self._transaction(counts=False) as connection:
                if self._version() == 0:  # no other process was quicker
                    for statement in re.split(r";\n(?=CREATE|INSERT INTO changes)", _TABLES.strip()):
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version = {FORMAT}")
        if self._version() != FORMAT:
            raise StoreError(f"the index {self._path} was written by another version: build it anew")

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    # ------------------------------------------------------------------ transactions

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """One thread at a time; what SQLite raises becomes one line."""
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise StoreError(f"the index {self._path} cannot be used: {error}") from None

    def _begin(self, kind: str) -> None:
        if self._connection.in_transaction:  # an interrupt ended the last one, wherever that was
            self._connection.execute("ROLLBACK")
        self._connection.execute(f"BEGIN {kind}")

    @contextlib.contextmanager
    def _transaction(self, *, counts: bool = True) -> Iterator[sqlite3.Connection]:
        """All that is written in the block, or nothing of it."""
        with self._told():
            try:
                self._begin("IMMEDIATE")
                yield self._connection
                if counts:
                    self._connection.execute("UPDATE changes SET count = count + 1")
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        """All that is read in the block is of one moment."""
        with self._told():
            try:
                self._begin("DEFERRED")
                yield self._connection
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("COMMIT")

    # ------------------------------------------------------------------ documents

    def remember(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Keep new settings, and return all."""
        if settings:
            with self._transaction() as connection:
                connection.executemany("INSERT OR IGNORE INTO settings VALUES (?, ?)", settings.items())
        with self._told():
            return dict(self._connection.execute("SELECT name, value FROM settings"))

    def documents(self) -> dict[str, Record]:
        """All documents by path."""
        with self._told():
            rows = self._connection.execute("SELECT path, stamp, metadata FROM documents ORDER BY id")
            return {path: Record(path, stamp, json.loads(metadata)) for path, stamp, metadata in rows}

    def count(self) -> int:
        """How many chunks there are."""
        with self._told():
            return int(self._connection.execute("SELECT count(*) FROM chunks").fetchone()[0])

    def put(self, record: Record, chunks: Sequence[Chunk], vectors: np.ndarray[Any, Any]) -> None:
        """Store a document in one transaction."""
        data = checked_vectors(record, chunks, vectors)
        with self._transaction() as connection:
            stored = connection.execute("SELECT width FROM vectors WHERE width > 0 LIMIT 1").fetchone()
            if stored is not None and len(chunks):
                check_width(self._path, stored[0], data.shape[1])
            _remove(connection, [record.path])
            values = (record.path, record.stamp, metadata_json(record.metadata))
            made = connection.execute("INSERT INTO documents (path, stamp, metadata) VALUES (?, ?, ?)", values)
            document = made.lastrowid
            connection.executemany(
                "INSERT INTO chunks (document, number, start, stop, page, digest, text) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    (document, number, chunk.start, chunk.end, chunk.page, digest(chunk.text), storable(chunk.text))
                    for number, chunk in enumerate(chunks)
                ),
            )
            width = data.shape[1] if len(chunks) else 0
            connection.execute("INSERT INTO vectors VALUES (?, ?, ?)", (document, width, data.tobytes()))

    def touch(self, record: Record) -> None:
        """Another stamp and other metadata for a stored document."""
        with self._transaction() as connection:
            values = (record.stamp, metadata_json(record.metadata), record.path)
            connection.execute("UPDATE documents SET stamp = ?, metadata = ? WHERE path = ?", values)

    def remove(self, paths: Collection[str]) -> None:
        """Forget documents."""
        if paths:
            with self._transaction() as connection:
                _remove(connection, paths)

    def vectors(self, digests: Collection[bytes]) -> dict[bytes, np.ndarray[Any, Any]]:
        """The vectors of stored texts."""
        import numpy as np

        found: dict[bytes, np.ndarray[Any, Any]] = {}
        with self._told():
            for part in parts(list(digests)):
                rows = self._connection.execute(
                    "SELECT digest, substr(data, 4 * width * number + 1, 4 * width) FROM chunks "
                    f"JOIN vectors USING (document) WHERE digest IN ({_marks(part)})",
                    part,
                )
                found |= {key: np.frombuffer(data, "<f4") for key, data in rows}
        return found

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()
            self._matrix = None

    # ------------------------------------------------------------------ search

    def nearest(self, vector: np.ndarray[Any, Any], k: int, where: Where = EVERYWHERE) -> list[Ranked]:
        """Exact search by inner product."""
        import numpy as np

        with self._lock:
            matrix = self._fresh_matrix()
            if matrix is None or k < 1:
                return []
            check_width(self._path, len(matrix.columns), len(vector))
            scores = np.asarray(vector, np.float32) @ matrix.columns  # (N,)
            ids = matrix.ids
            if where or matrix.empty:
                admitted = np.isin(matrix.documents, self._admitted(where)) if where else matrix.documents > 0
                scores, ids = scores[admitted], ids[admitted]
            best = np.flatnonzero(scores >= _threshold(scores, k))
            scores, ids = scores[best], ids[best]
            order = np.lexsort((ids, -scores))[:k]
            return [Ranked(int(ids[i]), float(scores[i])) for i in order]

    def matching(self, text: str, k: int, where: Where = EVERYWHERE) -> list[Ranked]:
        """Chunks with the words of `text`; every word is quoted, so that none is an operator of FTS5."""
        words = question_words(text)
        if not words or k < 1:
            return []
        asked = " OR ".join(f'"{word}"' for word in words)
        with self._told():
            condition, values = _condition(where)
            condition = f"AND rowid IN (SELECT id FROM chunks WHERE document IN ({condition}))" if where else ""
            rows = self._connection.execute(
                f"SELECT rowid, -rank FROM words WHERE words MATCH ? {condition} ORDER BY rank, rowid LIMIT ?",
                (asked, *(values if where else ()), k),
            )
            return [Ranked(chunk, score) for chunk, score in rows]

    def passages(self, chunks: Collection[int]) -> dict[int, Passage]:
        """The contents of chunks."""
        found: dict[int, Passage] = {}
        with self._told():
            for part in parts(list(chunks)):
                rows = self._connection.execute(
                    "SELECT chunks.id, path, text, start, stop, page, metadata FROM chunks "
                    f"JOIN documents ON documents.id = document WHERE chunks.id IN ({_marks(part)})",
                    part,
                )
                for chunk, path, text, start, stop, page, metadata in rows:
                    found[chunk] = Passage(path, text, start, stop, page, json.loads(metadata))
        return found

    def _admitted(self, where: Where) -> list[int]:
        condition, values = _condition(where)
        with self._told():
            return [document for (document,) in self._connection.execute(condition, values)]

    def _fresh_matrix(self) -> _Matrix | None:
        """All vectors as they are stored now; None where there are none."""
        with self._told():
            (changes,) = self._connection.execute("SELECT count FROM changes").fetchone()
        matrix, self._matrix = self._matrix or _Matrix(), None  # an interrupt leaves no half of one
        if matrix.changes != changes:
            with self._snapshot() as connection:
                matrix.refresh(connection)
        self._matrix = matrix
        return matrix if len(matrix.ids) else None


class _Matrix:
    """All vectors in memory, one a column: so the product with a query is half as long as with one a row.

    The column of a chunk that is gone stays, empty, until there are many of them: closing a gap moves all the rest.

    Attributes:
        ids: the chunks' numbers (N,).
        documents: the numbers of their documents (N,); 0 where a column is empty.
        empty: how many are.
        changes: which state of the file this is.
    """

    def __init__(self) -> None:
        import numpy as np

        self._columns = np.zeros((0, 0), np.float32)  # (d, room for more than N)
        self.ids = self.documents = np.zeros(0, np.int64)
        self._known = self._last = 0  # how many documents there were, and the largest of their numbers
        self.empty = 0
        self.changes = -1

    @property
    def columns(self) -> np.ndarray[Any, Any]:
        """The vectors: shape (d, N)."""
        return self._columns[:, : len(self.ids)]

    def refresh(self, connection: sqlite3.Connection) -> None:
        """Follow what is stored now; what is here is not read again, for no document ever changes."""
        count = "SELECT count(*) FROM documents"
        (total,) = connection.execute(count).fetchone()
        (new,) = connection.execute(f"{count} WHERE id > ?", (self._last,)).fetchone()
        if total - new != self._known:
            self._drop_gone(connection)
        self._add_new(connection)
        self._known = total
        (self._last,) = connection.execute("SELECT coalesce(max(id), 0) FROM documents").fetchone()
        (self.changes,) = connection.execute("SELECT count FROM changes").fetchone()

    def _drop_gone(self, connection: sqlite3.Connection) -> None:
        import numpy as np

        live = np.fromiter((row[0] for row in connection.execute("SELECT id FROM documents")), np.int64)
        kept = np.isin(self.documents, live)
        self.documents = np.where(kept, self.documents, 0)
        self.empty = int(len(kept) - kept.sum())
        if self.empty > len(kept) * EMPTY:
            self._columns = self.columns[:, kept]
            self.ids, self.documents, self.empty = self.ids[kept], self.documents[kept], 0

    def _add_new(self, connection: sqlite3.Connection) -> None:
        import numpy as np

        pairs = connection.execute(
            "SELECT id, document FROM chunks WHERE document > ? ORDER BY document, number", (self._last,)
        ).fetchall()
        at, added = len(self.ids), np.array(pairs, np.int64).reshape(-1, 2)
        blobs = connection.execute(
            "SELECT data, width FROM vectors WHERE document > ? AND width > 0 ORDER BY document", (self._last,)
        )
        for data, width in blobs:
            block = np.frombuffer(data, "<f4").reshape(-1, width)
            if at + len(block) > self._columns.shape[1]:
                self._grow(at, at + max(len(block), len(added)), width)
            self._columns[:, at : at + len(block)] = block.T
            at += len(block)
        self.ids = np.concatenate([self.ids, added[:, 0]])
        self.documents = np.concatenate([self.documents, added[:, 1]])

    def _grow(self, used: int, needed: int, width: int) -> None:
        """Make room for `needed` columns and an eighth more, so that small additions copy nothing."""
        import numpy as np

        columns = np.empty((width, needed + needed // 8 + 16), np.float32)
        if used:
            columns[:, :used] = self._columns[:, :used]
        self._columns = columns


def _threshold(scores: np.ndarray[Any, Any], k: int) -> float:
    """A score that at least k of them reach, and few more than k: the k-th best of the best of each `BLOCK`.

    That takes a fifth of the time of partitioning all scores, which is a tenth of a query. Scores: shape (N,).
    """
    import numpy as np

    if k >= len(scores):
        return -np.inf
    whole = len(scores) // BLOCK
    peaks = scores[: whole * BLOCK].reshape(whole, BLOCK).max(axis=1) if whole >= k else scores
    return float(np.partition(peaks, len(peaks) - k)[len(peaks) - k])


def _condition(where: Where) -> tuple[str, list[str]]:
    """A query for the numbers of the admitted documents, and its values."""
    tests, values = ["1"], []
    if where.path:
        tests.append("path GLOB ?")
        values.append(where.glob)
    for name, value in where.metadata.items():
        tests.append("EXISTS (SELECT 1 FROM json_each(metadata) WHERE key = ? AND json_each.value = ?)")
        values += [name, value]
    return f"SELECT id FROM documents WHERE {' AND '.join(tests)}", values


def _remove(connection: sqlite3.Connection, paths: Collection[str]) -> None:
    for path in paths:
        row = connection.execute("SELECT id FROM documents WHERE path = ?", (path,)).fetchone()
        if row is not None:
            connection.execute("DELETE FROM chunks WHERE document = ?", row)
            connection.execute("DELETE FROM vectors WHERE document = ?", row)
            connection.execute("DELETE FROM documents WHERE id = ?", row)


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))
