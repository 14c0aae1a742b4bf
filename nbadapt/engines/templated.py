"""A model whose inputs are filled into a template before it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nbadapt import template
from nbadapt.engines.prompts import fill
from nbadapt.engines.tokens import Prompt
from nbadapt.engines.wrapped import Wrapped
from nbadapt.errors import RequestError
from nbadapt.method import Adapted


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


class Templated(Wrapped):
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
        super().__init__(model)
        self._text, self._variables, self._instruction = text, dict(variables), instruction
        self._names = [name for name in template.placeholders(text) if name not in variables]

    def _asked(self, prompts: Sequence[Any], completions: Sequence[str], longest: int) -> Sequence[Any]:
        return [instructed(self._instruction, self._fill(given)) for given in prompts]

    def _fill(self, given: Any) -> Prompt:
        return fill(self._text, {**self._variables, **self._values(given)})

    def _values(self, given: Any) -> Mapping[str, Any]:
        if isinstance(given, Mapping):
            return given
        if len(self._names) == 1:
            return {self._names[0]: given}
        shown = ", ".join(f"{name!r}: ..." for name in self._names)
        raise RequestError(f"the chosen prompt has {len(self._names)} placeholders: give each input as  {{{shown}}}")
