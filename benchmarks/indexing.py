"""Cutting documents and searching them: MB/s, milliseconds a query, also just after another process has written.

usage: python benchmarks/indexing.py [--vectors 100000]

The text that is cut is Python's own help on its language (pydoc_data), as `nbadapt.index` cuts it. Search is over
random unit vectors of 384 numbers in the default store, 100 chunks a document; recall is against a float64 product.
"After another process" is the first query since a process of its own has added, changed or removed a document.
Writes benchmarks/results/indexing.md. How fast chunks are embedded: embedding_speed.py.
"""

from __future__ import annotations

import argparse
import pydoc_data.topics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from report import Took, environment, middle, save, table, timed

from nbadapt import model_names, pretrained
from nbadapt.indexing.chunks import Chunk, Cutter
from nbadapt.indexing.documents import Document
from nbadapt.indexing.sqlite import SqliteStore
from nbadapt.indexing.store import Record

TEXT = "\n\n".join(pydoc_data.topics.topics.values())
K = 10
QUERIES = 200
TIMES = 5  # that another process writes
PER_DOCUMENT = 100  # chunks
Floats = np.ndarray[Any, Any]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--write", nargs=2, metavar=("FILE", "WHAT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write is not None:
        write(Path(arguments.write[0]), arguments.write[1])
        return
    speed = cutting()
    with tempfile.TemporaryDirectory() as room:
        found, recall = searching(arguments.vectors, Path(room) / "search.sqlite")
    chunks = f"{arguments.vectors:,} chunks"
    told = {
        "query": (f"search over {chunks}, ms: median of {QUERIES} queries", "under 10"),
        "slow": ("the same, 95th percentile", ""),
        **{what: (f"first query after another process has {what}, ms", "") for what in WRITES},
        "first": (f"first query of a process, which reads {chunks}, ms", ""),
    }
    rows = [
        ("cutting, MB/s", f"{speed.elapsed:.2f}", f"{speed.processor:.2f}", "at least 1"),
        *((words, *(f"{1000 * seconds:.1f}" for seconds in found[what]), most) for what, (words, most) in told.items()),
        (f"recall@{K} against float64", f"{recall:.4f}", "", "1.0"),
    ]
    text = [
        "# Indexing: cutting and searching",
        f"{len(TEXT.encode()) / 1e6:.2f} MB of text; random unit vectors of 384 numbers in the default store. What "
        f"another process did: medians of {TIMES} times. On a machine that others use too, processor time (of all "
        "threads) is what to look at. How: [indexing.py](../indexing.py).",
        table(("what", "elapsed", "processor time", "budget"), rows),
        environment("benchmarks/indexing.py", ("tokenizers", "numpy")),
    ]
    save("indexing", "\n\n".join(text))


def cutting() -> Took:
    """MB/s: the median of five, after one that warms up."""
    cutter = Cutter(pretrained.load_tokenizer(model_names.resolve("minilm")))
    runs = [timed(lambda: cutter.cut(Document(TEXT, "text")))[0] for _ in range(6)]
    return Took(*(len(TEXT.encode()) / 1e6 / took for took in middle(runs[1:])))


def vectors(count: int, seed: int) -> Floats:
    """Random vectors of length 1: shape (count, 384)."""
    rows = np.random.default_rng(seed).normal(size=(count, 384)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def put(store: SqliteStore, name: str, rows: Floats) -> None:
    store.put(Record(name), [Chunk(f"{name}, chunk {i}", 0, 1) for i in range(len(rows))], rows)


WRITES: dict[str, Callable[[SqliteStore], None]] = {
    "added a document": lambda store: put(store, f"new {time.time()}", vectors(PER_DOCUMENT, 1)),
    "changed one": lambda store: put(store, "d0", vectors(PER_DOCUMENT, 2)),
    "removed one": lambda store: store.remove([next(iter(store.documents()))]),
}


def write(path: Path, what: str) -> None:
    """What the other process does."""
    store = SqliteStore(path)
    WRITES[what](store)
    store.close()


def searching(count: int, path: Path) -> tuple[dict[str, Took], float]:
    """Seconds of each, and the share of the true best that are found."""
    rows = vectors(count, 0)
    store = SqliteStore(path)
    for start in range(0, count, PER_DOCUMENT):
        put(store, f"d{start}", rows[start : start + PER_DOCUMENT])
    asked = rows[:QUERIES] + 0.05 * np.random.default_rng(3).normal(size=(QUERIES, 384)).astype(np.float32)
    found = {"first": timed(lambda: store.nearest(asked[0], K))[0]}
    runs = [timed(lambda vector=vector: store.nearest(vector, K)) for vector in asked]
    found |= {"query": middle([took for took, _ in runs]), "slow": middle([took for took, _ in runs], 0.95)}
    wide = rows.astype(np.float64)
    right = 0
    for vector, (_, ranked) in zip(asked, runs, strict=True):
        best = np.argsort(-(wide @ vector.astype(np.float64)))[:K] + 1
        right += len({chunk for chunk, _ in ranked} & set(best.tolist()))
    for what in WRITES:
        after = []
        for _ in range(TIMES):
            subprocess.run([sys.executable, __file__, "--write", str(path), what], check=True)
            after.append(timed(lambda: store.nearest(asked[0], K))[0])
        found[what] = middle(after)
    store.close()
    return found, right / (K * len(asked))


if __name__ == "__main__":
    main()
