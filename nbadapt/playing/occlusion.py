"""Which words of a text a classifier's answer rests on, by occlusion: each is left out in turn.

::

    weight(word) = P(class | text) - P(class | text without the word)

for the class that is predicted for the whole text (Zeiler and Fergus 2014, arXiv:1311.2901, for pictures; Li, Monroe
and Jurafsky 2016, arXiv:1612.08220, for words). All texts are asked in batches. Where the log-odds are a sum over
words, as of logistic regression on counts, the weights are exactly the change of the logistic function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbadapt.playing.differences import spans

if TYPE_CHECKING:
    import numpy as np

    from nbadapt.method import Predictions

MOST_PARTS = 200  # of a longer text neighbouring words are left out together
BATCH = 32  # texts between two looks for a Stop

Predict = Callable[[Sequence[str]], "Predictions"]


@dataclass(frozen=True)
class Part:
    """A word of the text, or neighbouring ones.

    Attributes:
        start: where it begins in the text.
        end: where it ends.
        weight: by how much the probability of the class falls without it, from -1 to 1.
    """

    start: int
    end: int
    weight: float


@dataclass(frozen=True)
class Importance:
    """What every part of a text is worth.

    Attributes:
        label: the class that it is about.
        grouped: how many words a part has, at most.
    """

    label: str
    parts: tuple[Part, ...]
    grouped: int = 1


def parts(text: str) -> tuple[list[tuple[int, int]], int]:
    """Where the parts of a text begin and end, at most `MOST_PARTS` of them; and how many words each has at most."""
    found = spans(text)
    size = -(-len(found) // MOST_PARTS) or 1
    groups = [found[i : i + size] for i in range(0, len(found), size)]
    return [(group[0][0], group[-1][1]) for group in groups], size


def without(text: str, start: int, end: int) -> str:
    """The text without one part, and without the gap that it would leave."""
    before, after = text[:start], text[end:]
    return before + (after.lstrip() if not before or before[-1].isspace() else after)


def occlude(
    predict: Predict, text: str, row: np.ndarray[Any, Any], names: Sequence[str]
) -> Iterator[tuple[int, int, Importance]]:
    """The weights, as they are worked out: (parts done, parts in all, what is known so far).

    Nothing comes of a text of fewer than two words: without its only one there would be no text.

    Args:
        predict: texts -> probabilities.
        text: what was classified.
        row: its k probabilities.
        names: the k classes.
    """
    places, size = parts(text)
    if len(places) < 2:
        return
    best = int(row.argmax())
    found: list[Part] = []
    for first in range(0, len(places), BATCH):
        batch = places[first : first + BATCH]
        left = predict([without(text, *place) for place in batch]).probabilities[:, best]
        found += [Part(*place, float(row[best] - p)) for place, p in zip(batch, left, strict=True)]
        yield len(found), len(places), Importance(names[best], tuple(found), size)
