"""For every rule of the kit of stores one store that breaks it, made of the built-in one."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nbadapt.errors import StoreError
from nbadapt.indexing.chunks import Chunk
from nbadapt.indexing.sqlite import SqliteStore
from nbadapt.indexing.store import EVERYWHERE, Passage, Ranked, Record, Store, Where

BROKEN: list[tuple[str, str]] = []
DECLARED: list[tuple[type[SqliteStore], str]] = []


def fails(test: str) -> Callable[[Any], Any]:
    """Notes that a store fails this test."""

    def note(store: Any) -> Any:
        BROKEN.append((f"{__name__}:{store.__name__}", test))
        return store

    return note


def breaks(rule: str) -> Callable[[Any], Any]:
    """Notes that a store breaks this rule, which is no test."""

    def note(store: Any) -> Any:
        DECLARED.append((store, rule))
        return store

    return note


@breaks("complete")
class Speechless(SqliteStore):
    __doc__ = Store.__doc__


@breaks("contract")
class Later(SqliteStore):
    """Was written for another version."""

    contract = 2


@breaks("requires")
class Misnaming(SqliteStore):
    """Names a distribution in the place of an import."""

    requires = ("scikit-learn",)


@breaks("behaviour")
class Deadly(SqliteStore):
    """Takes the process with it."""

    def count(self) -> int:
        os._exit(0)


@fails("test_it_prints_nothing")
class Muttering(SqliteStore):
    def tidy(self) -> None:
        os.write(1, b"tidy")


@fails("test_it_reaches_for_no_other_machine")
class Telling(SqliteStore):
    def put(self, record: Record, chunks: Sequence[Chunk], vectors: Any) -> None:
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
            way.sendto(b"one more", ("192.0.2.1", 9))
        super().put(record, chunks, vectors)


@fails("test_an_empty_store_finds_nothing")
class AfraidOfNothing(SqliteStore):
    def nearest(self, vector: Any, k: int, where: Where = EVERYWHERE) -> list[Ranked]:
        if not self.count():
            raise StoreError("there is nothing")
        return super().nearest(vector, k, where)


@fails("test_passages_come_back_as_they_were")
class Stripping(SqliteStore):
    def passages(self, chunks: Collection[int]) -> dict[int, Passage]:
        return {number: dataclasses.replace(p, page=1) for number, p in super().passages(chunks).items()}


@fails("test_a_document_may_have_no_chunks_and_a_chunk_no_page")
class Greedy(SqliteStore):
    def put(self, record: Record, chunks: Sequence[Chunk], vectors: Any) -> None:
        if not chunks:
            raise StoreError("there are no chunks")
        super().put(record, chunks, vectors)


@fails("test_a_store_takes_vectors_of_one_width")
class Stretching(SqliteStore):
    def put(self, record: Record, chunks: Sequence[Chunk], vectors: Any) -> None:
        super().put(record, chunks, np.ascontiguousarray(vectors[:, :8]))


@fails("test_settings_are_kept_as_they_were_first")
class Fickle(SqliteStore):
    def remember(self, settings: Mapping[str, str]) -> dict[str, str]:
        return {**super().remember(settings), **settings}


@fails("test_vectors_are_found_by_their_text")
class Short(SqliteStore):
    def vectors(self, digests: Collection[bytes]) -> dict[bytes, Any]:
        return super().vectors(list(digests)[:500])


@fails("test_a_changed_document_leaves_no_stale_chunk")
class Collecting(SqliteStore):
    def put(self, record: Record, chunks: Sequence[Chunk], vectors: Any) -> None:
        old = self.documents().get(record.path)
        if old is not None:
            record = Record(record.path + " (2)", record.stamp, record.metadata)
        super().put(record, chunks, vectors)


@fails("test_a_removed_document_leaves_no_stale_chunk")
class Hoarding(SqliteStore):
    def remove(self, paths: Collection[str]) -> None:
        pass


@fails("test_touching_keeps_the_chunks")
class Untouched(SqliteStore):
    def touch(self, record: Record) -> None:
        pass


@fails("test_a_document_without_chunks_may_come_first")
class Inventive(SqliteStore):
    def touch(self, record: Record) -> None:
        if record.path not in self.documents():
            self.put(record, [], np.zeros((0, 0), np.float32))
        super().touch(record)


@fails("test_search_is_exact")
class Approximate(SqliteStore):
    def nearest(self, vector: Any, k: int, where: Where = EVERYWHERE) -> list[Ranked]:
        return super().nearest(vector, k, where)[: max(1, k - 1)]


@fails("test_a_filter_returns_all_that_it_admits")
class FilteringLate(SqliteStore):
    def nearest(self, vector: Any, k: int, where: Where = EVERYWHERE) -> list[Ranked]:
        ranked = super().nearest(vector, k)
        passages, known = self.passages([one.chunk for one in ranked]), self.documents()
        return [one for one in ranked if where.admits(known[passages[one.chunk].path])]


@fails("test_brackets_stand_for_themselves")
class Patterned(SqliteStore):
    def nearest(self, vector: Any, k: int, where: Where = EVERYWHERE) -> list[Ranked]:
        return super().nearest(vector, k, Where(re.sub(r"\[(.)\]", r"\1", where.path), where.metadata))


@fails("test_words_are_words_and_no_operators")
class Operated(SqliteStore):
    def matching(self, text: str, k: int, where: Where = EVERYWHERE) -> list[Ranked]:
        if '"' in text:
            raise StoreError("a quote is left open")
        return super().matching(text, k, where)


@fails("test_rare_words_count_more_than_frequent_ones")
class Backwards(SqliteStore):
    def matching(self, text: str, k: int, where: Where = EVERYWHERE) -> list[Ranked]:
        return super().matching(text, k, where)[::-1]


@fails("test_an_interrupt_leaves_no_half")
class Halving(SqliteStore):
    def put(self, record: Record, chunks: Sequence[Chunk], vectors: Any) -> None:
        half = len(chunks) // 2
        super().put(record, chunks[:half], vectors[:half])
        time.sleep(0.01)
        super().put(record, chunks, vectors)


@fails("test_what_one_writes_another_reads")
class Remembering(SqliteStore):
    seen: list[Ranked] | None = None

    def nearest(self, vector: Any, k: int, where: Where = EVERYWHERE) -> list[Ranked]:
        if self.seen is None:
            self.seen = super().nearest(vector, k, where)
        return self.seen


@fails("test_threads_share_a_store")
class Shy(SqliteStore):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._home = threading.get_ident()

    def put(self, record: Record, chunks: Sequence[Chunk], vectors: Any) -> None:
        if threading.get_ident() != self._home:
            raise StoreError("another thread")
        super().put(record, chunks, vectors)


class Buffering(SqliteStore):
    """Keeps documents to itself until there are very many."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._kept: list[Any] = []

    def put(self, record: Record, chunks: Sequence[Chunk], vectors: Any) -> None:
        self._kept.append((record, chunks, vectors))
        if len(self._kept) > 10_000:
            for kept in self._kept:
                super().put(*kept)
            self._kept.clear()


@fails("test_a_kill_loses_nothing_and_leaves_no_half")
class Lazy(Buffering):
    pass


@fails("test_processes_write_side_by_side")
class Late(Buffering):
    pass
