"""How often an index finds the right documentation string: recall@5 and MRR beside rank-bm25, sentence-transformers.

usage: python benchmarks/retrieval_quality.py [--questions 1000] [--seed 0]

The documents are the standard library's documentation strings, each in a file of its own, without their first
sentences; those sentences are the questions (see docstrings.py for what is left out so that no answer leaks). The
index is built and asked as `nbadapt.index` does it. The peers get the very chunks that it made: rank-bm25 (BM25Okapi,
words in small letters), sentence-transformers' defaults with MiniLM and an exact product, and both fused by the same
reciprocal ranks. A hit is a chunk of the document that lost the sentence; MRR counts the first ten places.
Differences come with a 95 % bootstrap interval over the questions. Writes benchmarks/results/retrieval_quality.md.
"""

from __future__ import annotations

import argparse
import platform
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from docstrings import documents, held_out
from report import environment, save, table

from nbadapt import model_names
from nbadapt.indexing.index import DEPTH, RANK, Index

K, PLACES = 5, 10
WAYS = ("bm25", "vector", "hybrid")
PEERS = {"bm25": "rank-bm25", "vector": "sentence-transformers", "hybrid": "both, fused"}
Floats = np.ndarray[Any, Any]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    texts, questions = held_out(documents())
    chosen = random.Random(arguments.seed).sample(sorted(questions), min(arguments.questions, len(questions)))
    asked = [questions[name] for name in chosen]
    with tempfile.TemporaryDirectory() as room:
        index = build(texts, Path(room))
        ids, passages, names = chunks_of(index)
        print(f"{len(texts)} documents, {len(ids)} chunks, {len(asked)} questions", file=sys.stderr, flush=True)
        places = {("nbadapt", way): own_places(index, asked, chosen, way) for way in WAYS}
        index.store.close()
    for way, ranked in peer_rankings(passages, asked).items():
        places["peer", way] = [place(chosen[i], [names[c] for c in row]) for i, row in enumerate(ranked)]
    save("retrieval_quality", report(places, len(texts), len(passages), arguments))


def build(texts: dict[str, str], room: Path) -> Index:
    """The index of a folder with one file a document."""
    folder = room / "documents"
    folder.mkdir()
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    index = Index.make(str(room / "quality.sqlite"), model="minilm")
    index.update([str(folder)], progress=_progress())
    return index


def _progress() -> Callable[[Any], None]:
    last = [0.0]

    def tell(progress: Any) -> None:
        if time.monotonic() - last[0] > 10:
            last[0] = time.monotonic()
            print(f"{progress.done} of {progress.total} documents", file=sys.stderr, flush=True)

    return tell


def chunks_of(index: Index) -> tuple[list[int], list[str], list[str]]:
    """The chunks of an index: their numbers, texts, and the names of their documents."""
    zero = np.zeros(384, np.float32)
    ids = sorted(chunk for chunk, _ in index.store.nearest(zero, len(index)))
    found = index.store.passages(ids)
    return ids, [found[i].text for i in ids], [Path(found[i].path).stem for i in ids]


def own_places(index: Index, asked: Sequence[str], names: Sequence[str], way: Any) -> list[int]:
    """Where the document of each question comes, from 1; 0 where it is not among the first `PLACES` chunks."""
    found = index.search_all(asked, PLACES, how=way)
    return [place(name, [Path(hit.path).stem for hit in hits]) for name, hits in zip(names, found, strict=True)]


def place(name: str, ranked: Sequence[str]) -> int:
    return ranked.index(name) + 1 if name in ranked else 0


def peer_rankings(passages: list[str], asked: list[str]) -> dict[str, list[list[int]]]:
    """The peers' best chunks for each question."""
    from rank_bm25 import BM25Okapi
    from sentence_transformers import SentenceTransformer

    words = BM25Okapi([_words(text) for text in passages])
    bm25 = [_best(words.get_scores(_words(question)), DEPTH) for question in asked]
    model = SentenceTransformer(model_names.resolve("minilm").path, device="cpu")
    rows, wanted = (model.encode(texts, normalize_embeddings=True) for texts in (passages, asked))
    vector = [_best(rows @ own, DEPTH) for own in wanted]
    hybrid = [_fused(pair) for pair in zip(vector, bm25, strict=True)]
    return {"bm25": bm25, "vector": vector, "hybrid": hybrid}


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _best(scores: Floats, k: int) -> list[int]:
    return [int(i) for i in np.argsort(-scores, kind="stable")[:k] if scores[i] > 0]


def _fused(rankings: Sequence[list[int]]) -> list[int]:
    """Reciprocal ranks, as the peer of nbadapt's own."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, chunk in enumerate(ranking, 1):
            scores[chunk] = scores.get(chunk, 0.0) + 1 / (RANK + rank)
    return sorted(scores, key=lambda chunk: -scores[chunk])


def report(places: dict[tuple[str, str], list[int]], documents: int, chunks: int, arguments: argparse.Namespace) -> str:
    """The results as Markdown."""
    lines: list[tuple[str, ...]] = []
    for way in WAYS:
        for side in ("nbadapt", "peer"):
            found = np.array(places[side, way])
            figures = (f"{figure(found).mean():.3f}" for figure in (recall, reciprocal))
            name, who = (f"`rag`, search: {way}", side) if side == "nbadapt" else (way, PEERS[way])
            lines.append((name, who, *figures))
        ours, peer = (np.array(places[side, way]) for side in ("nbadapt", "peer"))
        differences = [interval(figure(ours) - figure(peer), arguments.seed) for figure in (recall, reciprocal)]
        lines.append(("", "difference, 95 % interval", *differences))
    count = len(places["nbadapt", "bm25"])
    text = [
        "# Quality of retrieval: the standard library's documentation strings",
        f"{documents:,} documentation strings of Python {platform.python_version()} without their first sentences, "
        f"{chunks:,} chunks; {count:,} of those sentences are the questions, drawn by seed {arguments.seed}. The peers "
        "rank the same chunks; rank-bm25 has words in small letters, nbadapt's store their stems (Porter). How: "
        "[retrieval_quality.py](../retrieval_quality.py) and what is left out so that no answer leaks: "
        "[docstrings.py](../docstrings.py).",
        table(("search", "side", f"recall@{K}", f"MRR@{PLACES}"), lines),
        environment("benchmarks/retrieval_quality.py", ("torch", "transformers", "sentence-transformers", "rank-bm25")),
    ]
    return "\n\n".join(text)


def recall(places: Floats) -> Floats:
    """1 where the document is among the first `K` chunks."""
    return ((places > 0) & (places <= K)).astype(float)


def reciprocal(places: Floats) -> Floats:
    """One over the place among the first `PLACES`, else 0."""
    return np.where((places > 0) & (places <= PLACES), 1 / np.maximum(places, 1), 0.0)


def interval(differences: Floats, seed: int) -> str:
    """The mean of paired differences and the interval that a bootstrap over the questions gives."""
    drawn = np.random.default_rng(seed)
    means = [drawn.choice(differences, len(differences)).mean() for _ in range(2000)]
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{differences.mean():+.3f} ({low:+.3f} to {high:+.3f})"


if __name__ == "__main__":
    main()
