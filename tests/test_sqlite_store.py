"""The default store: what every store must do, and what is special to one file of SQLite."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import bm25
import numpy as np
import pytest

from nbadapt.errors import PluginError, RequestError, StoreError
from nbadapt.indexing import store as stores
from nbadapt.indexing.chunks import Chunk
from nbadapt.indexing.sqlite import SqliteStore
from nbadapt.indexing.store import Record
from nbadapt.testing.stores import StoreContract, chunks_of, vectors


class TestSqlite(StoreContract):
    kind = "nbadapt.indexing.sqlite:SqliteStore"


def test_the_default_store_is_declared():
    assert "sqlite" in stores.names()
    assert stores.kind(stores.DEFAULT) is SqliteStore
    with pytest.raises(RequestError, match="did you mean sqlite"):
        stores.kind("sqlit")


def test_a_broken_store_is_told_with_its_owner(tmp_path, monkeypatch):
    folder = tmp_path / "broken-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (folder / "entry_points.txt").write_text("[nbadapt.stores]\nbroken = nowhere:X\nother = pathlib:Path\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("broken", "other"):
        with pytest.raises(PluginError, match=f"the plugin broken 1 of the store '{name}' "):
            stores.kind(name)


def test_bm25_is_that_of_the_paper(tmp_path):
    store = SqliteStore(tmp_path / "x")
    store.put(Record("a"), chunks_of(*bm25.TEXTS), vectors(bm25.TEXTS))
    for asked in bm25.ASKED:
        expected = bm25.scores(bm25.TEXTS, asked)
        assert [score for _, score in store.matching(asked, 9)] == pytest.approx(expected, rel=1e-5)


def nearest_of(store: SqliteStore, vector: np.ndarray) -> list[int]:
    """Chunks by what a store opened anew has on disk."""
    again = SqliteStore(store._path)
    found = again.nearest(vector, again.count())
    again.close()
    return [chunk for chunk, _ in found]


def test_the_matrix_follows_the_file_without_being_read_again(tmp_path):
    store, other = SqliteStore(tmp_path / "x"), SqliteStore(tmp_path / "x")
    texts = [f"text {i}" for i in range(50)]
    store.put(Record("a"), chunks_of(*texts), vectors(texts))
    store.nearest(vectors(["x"])[0], 1)
    before = store._matrix.columns
    other.put(Record("b"), chunks_of("more"), vectors(["more"]))
    store.nearest(vectors(["x"])[0], 1)
    assert store._matrix.columns.base is before.base  # it was added in place
    np.testing.assert_allclose(store._matrix.columns.T, vectors([*texts, "more"]), atol=1e-6)
    for i in range(40):
        other.put(Record(f"c{i}"), chunks_of(f"c{i}"), vectors([f"c{i}"]))
        other.remove([f"c{i - 1}", "b"])
        store.nearest(vectors(["x"])[0], 1)
        matrix = store._matrix
        assert matrix.empty == (matrix.documents == 0).sum() <= len(matrix.ids) / 8
        np.testing.assert_allclose(matrix.columns.T[matrix.documents > 0], vectors([*texts, f"c{i}"]), atol=1e-6)
        ranked = store.nearest(vectors(["x"])[0], 100)
        assert [chunk for chunk, _ in ranked] == nearest_of(store, vectors(["x"])[0])
    other.remove(["c39"])
    other.remove(["a", "b"])
    assert store.nearest(vectors(["x"])[0], 1) == []


@pytest.mark.parametrize("count", [1, 63, 64, 65, 640, 1000])
def test_the_best_are_those_of_a_full_sort(tmp_path, count):
    """Also where many are alike, and where k comes near the number of blocks or of chunks."""
    store = SqliteStore(tmp_path / "x")
    texts = [f"text {i % 97}" for i in range(count)]
    rows = vectors(texts)
    store.put(Record("a"), chunks_of(*texts), rows)
    wanted = vectors(["x"])[0]
    scores = wanted @ np.ascontiguousarray(rows.T)
    expected = np.lexsort((np.arange(count), -scores)) + 1
    for k in (1, 9, 10, 11, 64, count - 1, count, count + 1):
        assert [chunk for chunk, _ in store.nearest(wanted, k)] == expected[: max(k, 0)].tolist()


def test_odd_letters_do_not_break_the_file(tmp_path):
    store = SqliteStore(tmp_path / "x")
    text = "a\0b \ud800 c"
    store.put(Record("a"), [Chunk(text, 0, len(text))], vectors([text]))
    (passage,) = store.passages([store.nearest(vectors([text])[0], 1)[0].chunk]).values()
    assert len(passage.text) == len(text)
    assert passage.text.startswith("a\N{REPLACEMENT CHARACTER}b")


def one_line(error: pytest.ExceptionInfo[StoreError], path: Path) -> bool:
    return str(path) in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_index_is_told_in_one_line(tmp_path):
    path = tmp_path / "x"
    path.write_text("this is no database " * 100)
    with pytest.raises(StoreError) as error:
        SqliteStore(path)
    assert one_line(error, path)
    assert path.read_text().startswith("this is no database")
    later = tmp_path / "later"
    connection = sqlite3.connect(later)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="another version") as error:
        SqliteStore(later)
    with pytest.raises(StoreError) as error:
        SqliteStore(tmp_path)
    assert one_line(error, tmp_path)


def test_a_closed_or_locked_file_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("nbadapt.indexing.sqlite.WAIT", 0.1)
    path = tmp_path / "x"
    store = SqliteStore(path)
    blocking = sqlite3.connect(path, isolation_level=None)
    blocking.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked") as error:
        store.put(Record("a"), chunks_of("a"), vectors(["a"]))
    assert one_line(error, path)
    blocking.execute("ROLLBACK")
    blocking.close()
    store.put(Record("a"), chunks_of("a"), vectors(["a"]))
    store.close()
    with pytest.raises(StoreError):
        store.documents()


@pytest.mark.slow
def test_a_hundred_thousand_chunks_are_searched_in_milliseconds(tmp_path):
    drawn = np.random.default_rng(0)
    rows = drawn.normal(size=(100_000, 384)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    store = SqliteStore(tmp_path / "x")
    for start in range(0, 100_000, 100):
        chunks = [Chunk(f"chunk {i}", 0, 1) for i in range(start, start + 100)]
        store.put(Record(f"d{start}"), chunks, rows[start : start + 100])
    asked = rows[:20] + 0.05 * drawn.normal(size=(20, 384)).astype(np.float32)
    store.nearest(asked[0], 10)
    seconds = []
    for vector in asked:
        start = time.perf_counter()
        ranked = store.nearest(vector, 10)
        seconds.append(time.perf_counter() - start)
        expected = np.argsort(-(rows.astype(np.float64) @ vector))[:10] + 1
        assert {chunk for chunk, _ in ranked} == set(expected.tolist())
    assert min(seconds) < 0.03  # alone on the machine under 10 ms
