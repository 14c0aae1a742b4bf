"""LanceDB as a store: what every store must do, and what is special to a folder of LanceDB."""

from __future__ import annotations

from pathlib import Path

import bm25
import filelock
import numpy as np
import pytest

from nbadapt.errors import StoreError
from nbadapt.indexing.chunks import Chunk
from nbadapt.indexing.store import Record
from nbadapt.testing.stores import StoreContract, chunks_of, vectors
from nbadapt_plugins import lancedb_store
from nbadapt_plugins.lancedb_store import LanceStore


class TestLance(StoreContract):
    kind = "nbadapt_plugins.lancedb_store:LanceStore"
    kills = 1  # a process that imports LanceDB takes two seconds

    @pytest.mark.slow
    def test_processes_write_side_by_side(self, path: Path) -> None:
        super().test_processes_write_side_by_side(path)

    @pytest.mark.slow
    def test_many_kills_lose_nothing(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(TestLance, "kills", 6)
        self.test_a_kill_loses_nothing_and_leaves_no_half(path)


def put(store: LanceStore, path: str, *texts: str) -> None:
    store.put(Record(path), chunks_of(*texts), vectors(texts))


def test_bm25_has_the_weights_of_lucene(tmp_path):
    store = LanceStore(tmp_path / "x")
    put(store, "a", *bm25.TEXTS)
    store._table.optimize()
    for asked in bm25.ASKED:
        expected = bm25.scores(bm25.TEXTS, asked, bm25.lucene)
        assert [score for _, score in store.matching(asked, 9)] == pytest.approx(expected, rel=1e-3)


def test_words_are_stemmed_and_folded(tmp_path):
    store = LanceStore(tmp_path / "x")
    texts = ("Running shoes wear out", "He runs; the SHOE fits", "naïve café", "日本語", "the the the")
    put(store, "a", *texts)
    for asked, expected in (("run shoes", {0, 1}), ("cafe NAIVE", {2}), ("日本語", {3}), ("the", {1, 4})):
        passages = store.passages([chunk for chunk, _ in store.matching(asked, 9)])
        assert {texts.index(passage.text) for passage in passages.values()} == expected, asked


def test_many_commits_leave_few_files(tmp_path, monkeypatch):
    monkeypatch.setattr(lancedb_store, "COMMITS", 5)
    store = LanceStore(tmp_path / "x")
    for i in range(30):
        put(store, f"d{i % 12}", f"text {i}", f"more {i}")
        assert store._table.stats()["fragment_stats"]["num_fragments"] < 14
        assert store.count() == 2 * min(i + 1, 12)
    assert len(store.matching("text", 99)) == len(store.nearest(vectors(["x"])[0], 12)) == 12
    assert LanceStore(tmp_path / "x")._commits < 14  # another process goes on counting


def test_a_clock_that_steps_back_gives_no_number_twice(tmp_path, monkeypatch):
    store = LanceStore(tmp_path / "x")
    for i, now in enumerate((5 * 10**18, 10**18, 5 * 10**18, 5 * 10**18 - 2000)):
        monkeypatch.setattr(lancedb_store.time, "time_ns", lambda now=now: now)
        put(store, f"d{i}", f"text {i}", f"more {i}")
    put(store, "d0", "new text", "new more")
    numbers = store._table.to_arrow()["id"].to_pylist()
    assert len(set(numbers)) == len(numbers) == 4 * 3
    passages = store.passages([chunk for chunk, _ in store.nearest(vectors(["x"])[0], 99)])
    found = {(passage.path, passage.text) for passage in passages.values()}
    others = {(f"d{i}", f"{word} {i}") for i in (1, 2, 3) for word in ("text", "more")}
    assert found == others | {("d0", "new text"), ("d0", "new more")}


def test_a_table_without_settings_is_completed(tmp_path):
    """As a process leaves it that was killed while it made the index."""
    LanceStore(tmp_path / "x")
    (tmp_path / "x" / "settings.json").unlink()
    store = LanceStore(tmp_path / "x")
    put(store, "a", "text")
    assert len(store.matching("text", 3)) == 1


def one_line(error: pytest.ExceptionInfo[StoreError], path: Path) -> bool:
    return str(path) in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_index_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(StoreError) as error:
        LanceStore(tmp_path / "file")
    assert one_line(error, tmp_path / "file")
    with pytest.raises(StoreError, match="is no index: there is file in it") as error:
        LanceStore(tmp_path)
    path = tmp_path / "x"
    store = LanceStore(path)
    put(store, "a", "text")
    (path / "settings.json").write_text('{"format": 99}')
    with pytest.raises(StoreError, match="another version"):
        LanceStore(path)
    for file in (path / "chunks.lance").rglob("*.lance"):
        file.write_bytes(b"damaged")
    with pytest.raises(StoreError) as error:
        LanceStore.passages(store, [chunk for chunk, _ in store.nearest(vectors(["text"])[0], 1)])
    assert one_line(error, path)
    store.close()
    with pytest.raises(StoreError, match="is closed"):
        store.count()


def test_a_lock_that_is_held_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(lancedb_store, "WAIT", 0.1)
    path = tmp_path / "x"
    store = LanceStore(path)
    with filelock.FileLock(path / "lock"), pytest.raises(StoreError, match="another process") as error:
        put(store, "a", "text")
    assert one_line(error, path)
    put(store, "a", "text")
    assert store.count() == 1


def test_odd_letters_do_not_break_a_document(tmp_path):
    store = LanceStore(tmp_path / "x")
    text = "a\0b \ud800 c"
    store.put(Record("a", metadata={"title": text}), [Chunk(text, 0, len(text))], vectors([text]))
    (passage,) = store.passages([store.nearest(vectors([text])[0], 1)[0].chunk]).values()
    assert len(passage.text) == len(passage.metadata["title"]) == len(text)
    with pytest.raises(StoreError):
        store.put(Record("\ud800"), [], np.zeros((0, 0), np.float32))
