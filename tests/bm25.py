"""BM25 in its closed form, to compare stores with: k1 = 1.2, b = 0.75."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

TEXTS = (
    "dog cat dog",
    "cat bird",
    "fish and more fish in pond",
    "bird",
    "dog dog dog dog cat pond",
    "tree",
    "hill",
)
ASKED = ("dog", "dog pond", "bird cat fish")


def odds(count: int, n: int) -> float:
    """Robertson's weight of a word that n of count chunks have, as SQLite's FTS5 limits it."""
    return max(math.log((count - n + 0.5) / (n + 0.5)), 1e-6)


def lucene(count: int, n: int) -> float:
    """Lucene's weight, which is never negative."""
    return math.log(1 + (count - n + 0.5) / (n + 0.5))


def scores(texts: Sequence[str], asked: str, weight: Callable[[int, int], float] = odds) -> list[float]:
    """The positive scores of texts for a question, best first."""
    words = [re.findall(r"\w+", text) for text in texts]
    mean = sum(map(len, words)) / len(words)
    found = []
    for own in words:
        counts = Counter(own)
        total = 0.0
        for word in asked.split():
            n = sum(word in other for other in words)
            share = counts[word] * 2.2 / (counts[word] + 1.2 * (0.25 + 0.75 * len(own) / mean))
            total += weight(len(words), n) * share
        found.append(total)
    return sorted((score for score in found if score > 0), reverse=True)
