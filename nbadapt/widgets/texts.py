"""Texts of users and models, cut to what a message or a saved notebook may hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from nbadapt.history import History

MOST_SAMPLES = 4
SAMPLE_BYTES = 3_600  # of all samples together, without the reasonings
REASONING_BYTES = 8_000  # of all samples together


class Samples(TypedDict):
    """Samples of one evaluation; `more` is how many were left out.

    `items` are (input, output, expected, reasoning, before); the reasoning is empty where the model did not tell, and
    what the model answered before training None where that was not asked.
    """

    step: int
    more: int
    items: list[tuple[str, str, str | None, str, str | None]]


def samples(history: History, reasoning_bytes: int = REASONING_BYTES) -> Samples:
    """The samples of the latest evaluation that has some: those that share the last one's step.

    Args:
        history: the run so far.
        reasoning_bytes: what all reasonings together may take.
    """
    if not history.samples:
        return {"step": 0, "more": 0, "items": []}
    step = history.samples[-1].step
    latest = [sample for sample in history.samples if sample.step == step]
    shown = latest[:MOST_SAMPLES]
    parts = 3 + any(sample.before is not None for sample in shown)
    most, told = SAMPLE_BYTES // (parts * len(shown)), reasoning_bytes // MOST_SAMPLES

    def cut(text: str | None) -> str | None:
        return None if text is None else clip(text, most)

    return {
        "step": step,
        "more": len(latest) - len(shown),
        "items": [
            (clip(s.input, most), clip(s.output, most), cut(s.expected), clip(s.reasoning or "", told), cut(s.before))
            for s in shown
        ],
    }


def clip(text: str, most: int) -> str:
    """The beginning of a text that takes at most `most` bytes as JSON, with an ellipsis where it was cut.

    Lone surrogates, which no message can carry, become question marks.
    """
    start = sent(text[:most])
    if len(start) == len(text) and _weight(start) <= most:
        return start
    low, high = 0, len(start)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _weight(start[:middle]) <= most - 3 else (low, middle - 1)
    return start[:low].rstrip() + "…"


def sent(text: str) -> str:
    """The same with question marks for lone surrogates, which no message can carry."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _weight(text: str) -> int:
    return len(json.dumps(text, ensure_ascii=False).encode("utf-8")) - 2
