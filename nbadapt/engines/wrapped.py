"""A model that sees more than the prompts it is given: what comes before each is a subclass's part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbadapt.method import Adapted, Predictions

if TYPE_CHECKING:
    import numpy as np

ROOM_FOR_A_LABEL = 32  # tokens, where the classes are not given


class Wrapped(Adapted, ABC):
    """A model whose prompts are changed before it sees them.

    It has no `identity`: its answers depend on more than the model does.

    Args:
        model: what is asked.
    """

    def __init__(self, model: Adapted) -> None:
        self._model = model
        self.abilities, self.chat = model.abilities, model.chat

    @abstractmethod
    def _asked(self, prompts: Sequence[Any], completions: Sequence[str], longest: int) -> Sequence[Any]:
        """What the model is asked for n prompts.

        Args:
            prompts: n texts or conversations.
            completions: the answers that come into question; none: it writes freely.
            longest: tokens of such a free answer.
        """

    @property
    def usage(self) -> Mapping[str, int]:
        """What its answers have cost so far."""
        return self._model.usage

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
        """One answer a prompt."""
        return self._model.generate(
            self._asked(prompts, (), max_new_tokens),
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
        return self._model.score(self._asked(prompts, completions, 1), completions, tick=tick)

    def predict(self, texts: Sequence[str], labels: Sequence[str] | None = None) -> Predictions:
        """The class of every prompt; the model's own classes where `labels` is None."""
        return self._model.predict(self._asked(texts, labels or (), ROOM_FOR_A_LABEL), labels)
