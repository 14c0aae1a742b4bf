"""A model behind the demonstrations of a prompting run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nbadapt.engines.prompts import Shot, with_shots
from nbadapt.engines.tokens import Prompt
from nbadapt.engines.wrapped import Wrapped
from nbadapt.method import Adapted, Predictions

Chosen = Callable[[Sequence[Prompt]], Sequence[Sequence[Shot]]]


class Prompted(Wrapped):
    """A model that sees demonstrations before every prompt, and has labels to choose from.

    Args:
        model: what is asked.
        labels: the classes where `predict` is given none.
        shots: the demonstrations before each of n prompts.
        separator: between demonstrations of a plain text.
    """

    def __init__(self, model: Adapted, labels: Sequence[str], shots: Chosen, separator: str) -> None:
        super().__init__(model)
        self.labels, self._shots, self._separator = tuple(labels), shots, separator

    def predict(self, texts: Sequence[str], labels: Sequence[str] | None = None) -> Predictions:
        """The class of every prompt; the run's own classes where `labels` is None."""
        chosen = labels or self.labels or None
        return super().predict(texts, chosen if "generate" in self.abilities else labels)

    def _asked(self, prompts: Sequence[Any], completions: Sequence[str], longest: int) -> Sequence[Any]:
        before = self._shots(prompts)
        return [
            with_shots(shots, prompt, chat=self.chat, separator=self._separator)
            for shots, prompt in zip(before, prompts, strict=True)
        ]
