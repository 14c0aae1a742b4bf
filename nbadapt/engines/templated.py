"""A model whose inputs are filled into a template before it is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbadapt import template
from nbadapt.engines import prompts
from nbadapt.engines.tokens import Prompt
from nbadapt.errors import RequestError
from nbadapt.method import Adapted, Predictions

if TYPE_CHECKING:
    import numpy as np


def instructed(instruction: str, prompt: Prompt) -> Prompt:
    """A prompt with an instruction above it, in a conversation as its system turn; nothing in it is filled in."""
    if not instruction:
        return prompt
    if isinstance(prompt, str):
        return f"{instruction}\n\n{prompt}"
    first, *others = prompt
    if first["role"] == "system":
        return [{**first, "content": f"{instruction}\n\n{first['content']}"}, *others]
    return [{"role": "system", "content": instruction}, *prompt]


class Templated(Adapted):
    """A model that gets its inputs in a template.

    An input is a text, where the template has one placeholder that is not a variable, or a mapping from the names
    of all such placeholders to texts.

    Args:
        model: what is asked.
        text: the template.
        variables: values of its other placeholders.
        instruction: a text above it, which is not filled in.
    """

    def __init__(self, model: Adapted, text: str, variables: Mapping[str, str], instruction: str = "") -> None:
        self._model, self._text, self._variables, self._instruction = model, text, dict(variables), instruction
        self._names = [name for name in template.placeholders(text) if name not in variables]
        self.abilities = model.abilities

    def generate(
        self,
        prompts: Sequence[Any],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        tick: Callable[[], None] | None = None,
    ) -> list[str]:
        """One answer an input.

        Raises:
            RequestError: an input that does not fit the template.
        """
        return self._model.generate(
            self._filled(prompts),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            tick=tick,
        )

    def score(
        self, prompts: Sequence[Any], completions: Sequence[str], *, tick: Callable[[], None] | None = None
    ) -> np.ndarray[Any, Any]:
        """Log-likelihood of every completion after every filled input: shape (n, k)."""
        return self._model.score(self._filled(prompts), completions, tick=tick)

    def predict(self, texts: Sequence[Any], labels: Sequence[str] | None = None) -> Predictions:
        """The class of every input; the run's own classes where `labels` is None."""
        return self._model.predict(self._filled(texts), labels)

    @property
    def usage(self) -> Mapping[str, int]:
        """What its answers have cost so far."""
        return self._model.usage

    def _filled(self, inputs: Sequence[Any]) -> list[Any]:
        return [
            instructed(self._instruction, prompts.fill(self._text, {**self._variables, **self._values(given)}))
            for given in inputs
        ]

    def _values(self, given: Any) -> Mapping[str, Any]:
        if isinstance(given, Mapping):
            return given
        if len(self._names) == 1:
            return {self._names[0]: given}
        shown = ", ".join(f"{name!r}: ..." for name in self._names)
        raise RequestError(f"the chosen prompt has {len(self._names)} placeholders: give each input as  {{{shown}}}")
