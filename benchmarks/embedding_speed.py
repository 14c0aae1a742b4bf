"""Embedding with nbadapt and with sentence-transformers' defaults: ratio of times, likeness of the vectors.

usage: python benchmarks/embedding_speed.py [--data FOLDER] [--texts 400] [--rounds 3]

The texts are chunks of the standard library's documentation strings, cut as `nbadapt.index` cuts them, and movie
reviews of one sentence. Both sides embed the same texts with MiniLM, by the mean over tokens, in turn in one process,
so that a slow minute hits both; nbadapt as its index does it, the peer as its README has it: the model's folder and
`encode`, which is float32 and batches of 32. Both tokenise within the time. Writes
benchmarks/results/embedding_speed.md.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from docstrings import documents
from report import Took, environment, middle, save, table, timed

from nbadapt import devices, model_names, pretrained
from nbadapt.indexing.chunks import Cutter
from nbadapt.indexing.documents import Document
from nbadapt.indexing.index import Index

HERE = Path(__file__).parent
Embed = Callable[[list[str]], Any]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    file = arguments.data / "movie_reviews_test.csv"
    if not file.is_file():
        sys.exit(f"no movie_reviews_test.csv in {arguments.data}: name its folder with --data")
    texts = {"chunks of documentation": chunks(), "movie reviews": list(pd.read_csv(file).text)}
    drawn = random.Random(0)
    chosen = {kind: drawn.sample(given, min(arguments.texts, len(given))) for kind, given in texts.items()}
    with tempfile.TemporaryDirectory() as room:
        sides = {"peer": peer(), "nbadapt": Index.make(f"{room}/x.sqlite", model="minilm").embedder().compute}
        found = [compare(kind, given, sides, arguments.rounds) for kind, given in chosen.items()]
    head = (
        "texts",
        "tokens each (10 %, median, 90 %)",
        "sentence-transformers, texts/s",
        "nbadapt, texts/s",
        "ratio",
        "ratio of processor time",
        "smallest cosine",
    )
    text = [
        "# Embedding: nbadapt and sentence-transformers' defaults",
        f"MiniLM, mean over tokens; {arguments.texts} texts of each kind, medians of {arguments.rounds} rounds in "
        f"turn. nbadapt computes in {devices.best_dtype('cpu')}, as a probe chose on this processor, and pools in "
        "float32; sentence-transformers computes in float32, its default. How: "
        "[embedding_speed.py](../embedding_speed.py).",
        table(head, found),
        "Budget: a ratio of at least 2.5, at a cosine of at least 0.999; a row below it misses the budget.",
        environment("benchmarks/embedding_speed.py", ("torch", "transformers", "sentence-transformers")),
    ]
    save("embedding_speed", "\n\n".join(text))


def chunks() -> list[str]:
    """The chunks of all documentation strings."""
    cutter = Cutter(pretrained.load_tokenizer(model_names.resolve("minilm")))
    return [chunk.text for text in documents().values() for chunk in cutter.cut(Document(text, "text"))]


def peer() -> Embed:
    """What sentence-transformers makes of the model's folder."""
    from sentence_transformers import SentenceTransformer

    encode: Embed = SentenceTransformer(model_names.resolve("minilm").path, device="cpu").encode
    return encode


def compare(kind: str, texts: list[str], sides: dict[str, Embed], rounds: int) -> tuple[str, ...]:
    """One line of the table."""
    took: dict[str, list[Took]] = {side: [] for side in sides}
    vectors: dict[str, Any] = {}
    for work in sides.values():
        work(texts[:8])  # loads, and warms up
    for _ in range(rounds):
        for side, work in sides.items():
            one, vectors[side] = timed(lambda work=work: work(texts))
            took[side].append(one)
            print(kind, side, one, file=sys.stderr, flush=True)
    peer, ours = (middle(took[side]) for side in ("peer", "nbadapt"))
    vectors["peer"] = vectors["peer"] / np.linalg.norm(vectors["peer"], axis=1, keepdims=True)
    cosine = (vectors["nbadapt"] * vectors["peer"]).sum(1).min()
    ids = pretrained.load_tokenizer(model_names.resolve("minilm"))(texts)["input_ids"]
    lengths = ", ".join(f"{np.percentile([len(row) for row in ids], part):.0f}" for part in (10, 50, 90))
    speeds = (f"{len(texts) / side.elapsed:.1f}" for side in (peer, ours))
    return (kind, lengths, *speeds, *peer.over(ours), f"{cosine:.5f}")


if __name__ == "__main__":
    main()
