"""A model behind the demonstrations of a prompting run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbadapt.engines.prompts import Shot, with_shots
from nbadapt.engines.tokens import Prompt
from nbadapt.method import Adapted, Predictions

if TYPE_CHECKING:
    import numpy as np

Chosen = Callable[[Sequence[Prompt]], Sequence[Sequence[Shot]]]


class Prompted(Adapted):
    """A model that sees demonstrations before every prompt, and has labels to choose from.

    Args:
        model: what is asked.
        labels: the classes where `predict` is given none.
        shots: the demonstrations before each of n prompts.
        separator: between demonstrations of a plain text.
    """

    def __init__(self, model: Adapted, labels: Sequence[str], shots: Chosen, separator: str) -> None:
        self._model, self.labels, self._shots, self._separator = model, tuple(labels), shots, separator
        self.abilities, self.chat = model.abilities, model.chat

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        tick: Callable[[], None] | None = None,
    ) -> list[str]:
        """One answer a prompt, which is taken as it is: no template is filled."""
        return self._model.generate(
            self._asked(prompts),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            tick=tick,
        )

    def score(
        self, prompts: Sequence[str], completions: Sequence[str], *, tick: Callable[[], None] | None = None
    ) -> np.ndarray[Any, Any]:
        """Log-likelihood of every completion after every prompt: shape (n, k)."""
        return self._model.score(self._asked(prompts), completions, tick=tick)

    def predict(self, texts: Sequence[str], labels: Sequence[str] | None = None) -> Predictions:
        """The class of every prompt; the run's own classes where `labels` is None."""
        chosen = labels or self.labels or None
        return self._model.predict(self._asked(texts), chosen if "generate" in self.abilities else labels)

    @property
    def usage(self) -> Mapping[str, int]:
        """What its answers have cost so far."""
        return self._model.usage

    def _asked(self, prompts: Sequence[str]) -> list[Any]:
        before = self._shots(prompts)
        return [
            with_shots(shots, prompt, chat=self.chat, separator=self._separator)
            for shots, prompt in zip(before, prompts, strict=True)
        ]
