"""Cutting, embedding and searching documents: MB/s, ratio to sentence-transformers' defaults, ms a query.

usage: python benchmarks/indexing.py [--chunks 400] [--rounds 3] [--vectors 100000]

The text is Python's own help on its language (pydoc_data), cut as `nbadapt.index` cuts it. Both sides embed the same
chunks with MiniLM, whole and by the mean over tokens, in turn in one process, so that a slow minute hits both; the
peer as its README has it: float32, batches of 32. Search is over random unit vectors of 384 numbers in the default
store; recall is against a float64 product. Needs sentence-transformers. Writes benchmarks/results/indexing.md.
"""

from __future__ import annotations

import argparse
import pydoc_data.topics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from report import environment, save, table

from nbadapt import models
from nbadapt.indexing.chunks import Chunk, Cutter
from nbadapt.indexing.documents import Document
from nbadapt.indexing.index import LONGEST, Index
from nbadapt.indexing.sqlite import SqliteStore
from nbadapt.indexing.store import Record

TEXT = "\n\n".join(pydoc_data.topics.topics.values())
K = 10


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--chunks", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vectors", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as room:
        chunks, speed = cutting()
        embedding = embed([chunk.text for chunk in chunks[:: max(1, len(chunks) // arguments.chunks)]], room, arguments)
        search = searching(arguments.vectors, Path(room))
    rows = [
        ("cutting, MB/s", f"{speed:.2f}", "at least 1"),
        ("embedding, chunks/s: nbadapt", f"{embedding['nbadapt']:.1f}", ""),
        ("embedding, chunks/s: sentence-transformers", f"{embedding['peer']:.1f}", ""),
        ("embedding, ratio", f"{embedding['nbadapt'] / embedding['peer']:.2f}", "at least 2.5"),
        ("smallest cosine between the two sides' vectors", f"{embedding['cosine']:.5f}", "at least 0.999"),
        (f"search over {arguments.vectors:,} chunks, median ms", f"{search['ms']:.2f}", "under 10"),
        (f"recall@{K} against float64", f"{search['recall']:.3f}", "1.0"),
    ]
    text = [
        "# Indexing: cutting, embedding, searching",
        f"{len(TEXT.encode()) / 1e6:.2f} MB of text, {embedding['count']:.0f} chunks embedded, medians of "
        f"{arguments.rounds} rounds. How: [indexing.py](../indexing.py).",
        table(("what", "measured", "budget"), rows),
        environment("benchmarks/indexing.py", ("torch", "transformers", "sentence-transformers", "numpy")),
    ]
    save("indexing", "\n\n".join(text))


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def cutting() -> tuple[list[Chunk], float]:
    """The chunks of the text, and MB/s: the best of five, after one that warms up."""
    cutter = Cutter(models.load_tokenizer(models.resolve("minilm")))
    runs = [seconds(lambda: cutter.cut(Document(TEXT, "text"))) for _ in range(6)]
    return runs[-1][1], len(TEXT.encode()) / 1e6 / min(took for took, _ in runs[1:])


def embed(texts: list[str], room: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Chunks a second on both sides, and the smallest cosine."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    folder = models.resolve("minilm").path
    word = modules.Transformer(folder, max_seq_length=LONGEST)
    peer = SentenceTransformer(modules=[word, modules.Pooling(384), modules.Normalize()], device="cpu")
    ours = Index.make(str(Path(room) / "embedding.sqlite"), model="minilm").embedder()
    sides: dict[str, Callable[[list[str]], Any]] = {"nbadapt": ours.compute, "peer": peer.encode}
    took: dict[str, list[float]] = {side: [] for side in sides}
    vectors: dict[str, Any] = {}
    for work in sides.values():
        work(texts[:8])  # loads, and warms up
    for _ in range(arguments.rounds):
        for side, work in sides.items():
            duration, vectors[side] = seconds(lambda work=work: work(texts))
            took[side].append(duration)
            print(side, duration, file=sys.stderr, flush=True)
    cosine = float((vectors["nbadapt"] * vectors["peer"]).sum(1).min())
    return {side: len(texts) / median(runs) for side, runs in took.items()} | {"cosine": cosine, "count": len(texts)}


def searching(count: int, room: Path) -> dict[str, float]:
    """Median ms of a query, and the share of the true best that are found."""
    drawn = np.random.default_rng(0)
    rows = drawn.normal(size=(count, 384)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    store = SqliteStore(room / "search.sqlite")
    for start in range(0, count, 100):
        part = rows[start : start + 100]
        store.put(Record(f"d{start}"), [Chunk(f"chunk {start + i}", 0, 1) for i in range(len(part))], part)
    asked = rows[:40] + 0.05 * drawn.normal(size=(40, 384)).astype(np.float32)
    store.nearest(asked[0], K)
    took, right = [], 0
    for vector in asked:
        duration, ranked = seconds(lambda vector=vector: store.nearest(vector, K))
        took.append(duration)
        best = np.argsort(-(rows.astype(np.float64) @ vector))[:K] + 1
        right += len({chunk for chunk, _ in ranked} & set(best.tolist()))
    store.close()
    return {"ms": 1000 * median(took), "recall": right / (K * len(asked))}


if __name__ == "__main__":
    main()
