"""An index in a folder of LanceDB: vectors and text stay on the disk, for indexes that outgrow the memory.

::

    notes.lancedb/
        chunks.lance/   one table: for each document a head (number 0) and its chunks (numbers 1, 2, ...)
        settings.json   the format, and what the index remembers
        lock            held while something is written

A Lance table is a row of versions, and a commit adds one: it is there as a whole or not at all, also after a kill. One
commit puts a document in the place of its former self: it inserts the new rows and deletes all others of that document.
Writers take turns by a lock of the operating system, which a killed process lets go of; readers wait for nobody, for
each question is answered from one version, the newest. A folder that several machines share is no place for it.

By meaning: all vectors are compared (exact, recall 1.0), on the disk. By words: Lance's own inverted index, stemmed, by
BM25 (Robertson et al. 1994) with Lucene's weight ln(1 + (N - n + 1/2) / (n + 1/2)) of a word that n of N chunks have;
chunks that were deleted count among the N until the table is tidied up: every few dozen documents, and after an update.

Source: https://docs.lancedb.com
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbadapt.errors import StoreError, first_line
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
from nbadapt.store import read_json, write_json

if TYPE_CHECKING:
    import numpy as np

    from nbadapt.indexing.chunks import Chunk

TABLE = "chunks"
FORMAT = 1
WAIT = 60.0  # seconds for which another process may write
POLL = 0.002  # seconds between two looks at the lock: writers let it go for as long as they prepare a document
COMMITS = 20  # after so many, and one for each
ROWS = 1000  # of these, the table is tidied up: every commit is a file more that each question reads
KEPT = timedelta(seconds=30)  # how long a version stays that is not the newest: longer than a question takes
HEAD = "number = 0"


class LanceStore(Store):
    """An index in one folder; any number of threads and processes of one machine may read and write it."""

    requires = ("lancedb",)

    def __init__(self, path: Path) -> None:
        import filelock

        self._path, self._lock, self._closed = path, threading.RLock(), False
        self._settings_path = path / "settings.json"
        self._turn = filelock.FileLock(path / "lock", timeout=WAIT)
        self._worker = ThreadPoolExecutor(1)
        self._worker.submit(int).result()  # an interrupt while the thread starts would have it forgotten
        try:
            with self._told():
                self._table = self._opened()
                self._commits = int(self._table.stats()["fragment_stats"]["num_fragments"])
        except BaseException:
            self.close()
            raise

    def _opened(self) -> Any:
        """The table; it and its settings are made where they are not there."""
        import lancedb

        known = {f"{TABLE}.lance", "lock"}
        if self._path.is_dir() and not self._settings_path.exists():
            strange = sorted(entry.name for entry in self._path.iterdir() if entry.name not in known)
            if strange:
                raise StoreError(f"the folder {self._path} is no index: there is {strange[0]} in it")
        self._path.mkdir(parents=True, exist_ok=True)
        database = lancedb.connect(self._path, read_consistency_interval=timedelta(0))  # what others write is seen
        if not self._settings_path.exists():
            with self._writing():
                if not self._settings_path.exists():  # no other process was quicker
                    self._finished(lambda: _make(database))
                    write_json(self._settings_path, {"format": FORMAT, "settings": {}})
        if read_json(self._settings_path).get("format") != FORMAT:
            raise StoreError(f"the index {self._path} was written by another version: build it anew")
        return database.open_table(TABLE)

    # ------------------------------------------------------------------ commits

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What goes wrong becomes one line."""
        import pyarrow as pa

        if self._closed:
            raise StoreError(f"the index {self._path} is closed: open it again")
        try:
            yield
        except (RuntimeError, ValueError, OSError, pa.ArrowException) as error:
            raise StoreError(f"the index {self._path} cannot be used: {first_line(error)}") from None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One writer at a time, in all threads and processes."""
        import filelock

        with self._lock:
            try:
                self._turn.acquire(poll_interval=POLL)
                yield
            except filelock.Timeout:
                raise StoreError(
                    f"the index {self._path} cannot be used: another process has written for more than {WAIT:.0f} s"
                ) from None
            finally:
                self._turn.release(force=True)  # also where an interrupt came while it was acquired

    def _finished(self, work: Callable[[], Any]) -> Any:
        """Do what writes, and hold an interrupt back until it is done.

        LanceDB writes in a thread of its own, which an interrupt does not reach: the lock would be let go too early.
        """
        try:
            return self._worker.submit(work).result()
        except BaseException:
            self._worker.submit(int).result()  # it comes after the work
            raise

    def tidy(self) -> None:
        """Join the files, bring the words' index up to date, drop old versions."""
        if self._commits > 1:
            with self._told(), self._writing():
                self._join()

    def _join(self) -> None:
        self._finished(partial(self._table.optimize, cleanup_older_than=KEPT))
        self._commits = 0

    def _committed(self) -> None:
        self._commits += 1
        if self._commits > COMMITS + self._table.count_rows() // ROWS:
            self._join()

    def _width(self) -> int:
        """Numbers in a vector; 0 where none was stored yet."""
        schema = self._table.schema
        return int(schema.field("vector").type.list_size) if "vector" in schema.names else 0

    # ------------------------------------------------------------------ documents

    def remember(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Keep new settings, and return all."""
        with self._told():
            if settings:
                with self._writing():
                    kept = {**settings, **self._settings()}
                    write_json(self._settings_path, {"format": FORMAT, "settings": kept})
            return self._settings()

    def _settings(self) -> dict[str, str]:
        return dict(read_json(self._settings_path)["settings"])

    def documents(self) -> dict[str, Record]:
        """All documents by path."""
        heads = self._rows(HEAD, "id", "path", "stamp", "metadata")
        heads.sort(key=lambda row: int(row["id"]))
        return {row["path"]: _record(row) for row in heads}

    def count(self) -> int:
        """How many chunks there are."""
        with self._told():
            return int(self._table.count_rows("number > 0"))

    def put(self, record: Record, chunks: Sequence[Chunk], vectors: np.ndarray[Any, Any]) -> None:
        """Store a document in one commit."""
        data = checked_vectors(record, chunks, vectors)
        name = digest(record.path).hex()
        with self._told(), self._writing():
            width = self._width()
            if chunks and width:
                check_width(self._path, width, data.shape[1])
            elif chunks:
                width = data.shape[1]
                self._finished(lambda: self._add_vectors(width))
            first = self._free_number()
            rows = _columns(first, name, record, chunks, data if chunks else data.reshape(0, width), width)
            self._finished(lambda: self._replace(f"name = '{name}'", rows))
            self._committed()

    def _free_number(self) -> int:
        """A number above all that are there: by the clock, or behind the largest where the clock was put back."""
        now = (time.time_ns() // 1000) << 10  # room for as many chunks as microseconds pass between two commits
        if not self._table.count_rows(f"id >= {now}"):
            return now
        later = self._table.search().where(f"id >= {now}").select(["id"]).to_arrow()
        return int(max(later["id"].to_pylist())) + 1

    def _replace(self, old: str, rows: Any) -> None:
        """One commit that adds rows and deletes those of the condition `old`."""
        if self._table.count_rows(old):
            merge = self._table.merge_insert("id").when_not_matched_insert_all()
            merge.when_not_matched_by_source_delete(old).execute(rows)
        else:
            self._table.add(rows)  # a third of the work

    def _add_vectors(self, width: int) -> None:
        import pyarrow as pa

        self._table.add_columns(pa.field("vector", pa.list_(pa.float32(), width)))

    def touch(self, record: Record) -> None:
        """Another stamp and other metadata for a stored document: its head is written anew."""
        import numpy as np

        name = digest(record.path).hex()
        with self._told(), self._writing():
            width = self._width()
            for head in self._rows(f"name = '{name}' AND {HEAD}", "id"):
                rows = _columns(head["id"], name, record, (), np.zeros((0, width), np.float32), width)
                merge = self._table.merge_insert("id").when_matched_update_all()
                self._finished(partial(merge.execute, rows))
                self._committed()

    def remove(self, paths: Collection[str]) -> None:
        """Forget documents."""
        with self._told(), self._writing():
            for part in parts(list(paths)):
                names = ", ".join(f"'{digest(path).hex()}'" for path in part)
                self._finished(partial(self._table.delete, f"name IN ({names})"))
                self._committed()

    def vectors(self, digests: Collection[bytes]) -> dict[bytes, np.ndarray[Any, Any]]:
        """The vectors of stored texts."""
        import numpy as np

        found: dict[bytes, np.ndarray[Any, Any]] = {}
        if self._width():
            for part in parts(list(digests)):
                wanted = ", ".join(f"'{key.hex()}'" for key in part)
                for row in self._rows(f"number > 0 AND digest IN ({wanted})", "digest", "vector"):
                    found[bytes.fromhex(row["digest"])] = np.array(row["vector"], np.float32)
        return found

    def close(self) -> None:
        """Let go of the folder."""
        self._closed = True
        self._worker.shutdown()

    # ------------------------------------------------------------------ search

    def nearest(self, vector: np.ndarray[Any, Any], k: int, where: Where = EVERYWHERE) -> list[Ranked]:
        """Exact search by inner product."""
        import numpy as np

        with self._told():
            width = self._width()
            condition = self._condition(where)
            if k < 1 or not width or condition is None:
                return []
            check_width(self._path, width, len(vector))
            asked = self._table.search(np.asarray(vector, np.float32), vector_column_name="vector")
            rows = asked.distance_type("dot").where(condition).limit(k).select(["id", "_distance"]).to_arrow()
            return _ranked(rows["id"].to_pylist(), [1 - distance for distance in rows["_distance"].to_pylist()])

    def matching(self, text: str, k: int, where: Where = EVERYWHERE) -> list[Ranked]:
        """Chunks with the words of `text`, ranked by BM25."""
        from lancedb.query import MatchQuery

        words = question_words(storable(text))
        with self._told():
            condition = self._condition(where)
            if k < 1 or not words or condition is None:
                return []
            asked = self._table.search(MatchQuery(" ".join(words), "text"), query_type="fts")
            asked = asked.where(condition) if where else asked  # a head has no text
            rows = asked.limit(k).select(["id", "_score"]).to_arrow()
            return _ranked(rows["id"].to_pylist(), rows["_score"].to_pylist())

    def passages(self, chunks: Collection[int]) -> dict[int, Passage]:
        """The contents of chunks."""
        found: dict[int, Passage] = {}
        for part in parts(list(chunks)):
            wanted = ", ".join(str(int(chunk)) for chunk in part)
            columns = ("id", "document", "text", "start", "stop", "page")
            rows = self._rows(f"number > 0 AND id IN ({wanted})", *columns)
            documents = ", ".join({str(row["document"]) for row in rows})
            heads = self._rows(f"id IN ({documents})", "id", "path", "stamp", "metadata") if rows else []
            records = {head["id"]: _record(head) for head in heads}
            for row in rows:
                record = records.get(row["document"])
                if record is not None:
                    place = (row["start"], row["stop"], row["page"])
                    found[row["id"]] = Passage(record.path, row["text"], *place, record.metadata)
        return found

    def _rows(self, where: str, *columns: str) -> list[dict[str, Any]]:
        with self._told():
            rows: list[dict[str, Any]] = self._table.search().where(where).select(list(columns)).to_arrow().to_pylist()
            return rows

    def _condition(self, where: Where) -> str | None:
        """What admits chunks; None where no document is admitted."""
        if not where:
            return "number > 0"
        heads = self._rows(HEAD, "id", "path", "stamp", "metadata")
        admitted = [str(head["id"]) for head in heads if where.admits(_record(head))]
        return f"number > 0 AND document IN ({', '.join(admitted)})" if admitted else None


def _make(database: Any) -> None:
    """The table and the index of its words. The vectors' column comes with the first vector, which says how long it is.

    Documents and texts are named by hashes in conditions, so that no condition holds a word from outside.
    """
    import pyarrow as pa
    from lancedb.index import FTS

    numbers = dict.fromkeys(("id", "document", "number", "start", "stop", "page"), pa.int64())
    texts = dict.fromkeys(("name", "path", "stamp", "metadata", "digest", "text"), pa.string())
    table = database.create_table(TABLE, schema=pa.schema({**numbers, **texts}), exist_ok=True)
    words = FTS(language="English", stem=True, remove_stop_words=False, ascii_folding=True, max_token_length=None)
    table.create_index("text", config=words, replace=True)


def _columns(
    first: int, name: str, record: Record, chunks: Sequence[Chunk], data: np.ndarray[Any, Any], width: int
) -> Any:
    """A document's head and chunks as a table of Arrow; the head's vector is all zeros, and never searched."""
    import numpy as np
    import pyarrow as pa

    n = len(chunks)
    numbers: dict[str, list[int | None]] = {
        "id": [*range(first, first + n + 1)],
        "document": [first] * (n + 1),
        "number": [*range(n + 1)],
        "start": [None, *(chunk.start for chunk in chunks)],
        "stop": [None, *(chunk.end for chunk in chunks)],
        "page": [None, *(chunk.page for chunk in chunks)],
    }
    texts: dict[str, list[str | None]] = {
        "name": [name] * (n + 1),
        "path": [record.path, *[None] * n],
        "stamp": [record.stamp, *[None] * n],
        "metadata": [metadata_json(record.metadata), *[None] * n],
        "digest": [None, *(digest(chunk.text).hex() for chunk in chunks)],
        "text": [None, *(storable(chunk.text) for chunk in chunks)],
    }
    arrays = {name: pa.array(values, pa.int64()) for name, values in numbers.items()}
    arrays |= {name: pa.array(values, pa.string()) for name, values in texts.items()}
    if width:
        rows = np.concatenate([np.zeros((1, width), np.float32), data]).astype(np.float32)
        arrays["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), width)
    return pa.table(arrays)


def _record(head: Mapping[str, Any]) -> Record:
    return Record(head["path"], head["stamp"], json.loads(head["metadata"]))


def _ranked(chunks: Sequence[int], scores: Sequence[float]) -> list[Ranked]:
    """Best first, and the older first among equals."""
    ranked = [Ranked(chunk, score) for chunk, score in zip(chunks, scores, strict=True)]
    return sorted(ranked, key=lambda one: (-one.score, one.chunk))
