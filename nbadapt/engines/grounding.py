"""Passages of documents before a prompt, as many as the model's context has room for.

::

    Sources:                            quoted: nothing in a passage is filled in, rendered or obeyed by nbadapt,
    [1] manual.pdf, page 3              and special tokens of the model are broken up, so that no document can
    A chain wears out ...               open a turn of the conversation
    [2] ...

    <guidance>
    <the prompt>
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbadapt.engines.tokens import Prompt, encode_completion, encode_prompt, turns
from nbadapt.errors import ModelError
from nbadapt.method import Adapted, Predictions

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

    from nbadapt.indexing.index import Hit

ROOM_FOR_A_LABEL = 32  # tokens, where the classes are not given

Search = Callable[[Sequence[str]], Sequence[Sequence["Hit"]]]
"""n questions -> the passages for each, best first."""


class Grounding:
    """Writes passages into prompts.

    Args:
        tokenizer: the model's.
        context: tokens that fit the model; None for no limit.
        guidance: what the model is told between the passages and the prompt.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, context: int | None, guidance: str) -> None:
        self._tokenizer, self._context, self._guidance = tokenizer, context, guidance
        self._special = _special_tokens(tokenizer)

    def ground(self, prompt: Prompt, hits: Sequence[Hit], room: int) -> tuple[Prompt, int]:
        """The prompt behind its passages, and how many of them it holds: the first ones that fit.

        Args:
            prompt: what is asked.
            hits: the passages, best first.
            room: tokens that are kept free for the answer.

        Raises:
            ModelError: there are passages, and not even the first one fits.
        """
        blocks = [f"[{number}] {hit.title}\n{hit.text}" for number, hit in enumerate(hits, 1)]
        quoted = [self._quoted(block) for block in blocks]
        count = self._fitting(prompt, quoted, room)
        if hits and not count:
            raise ModelError(
                f"not one passage fits the model's context of {self._context:,} tokens beside the prompt and an "
                f"answer of {room:,} tokens: shorten the prompt, lower max_new_tokens, or index with a smaller size"
            )
        return self._written(prompt, quoted[:count]), count

    def answer_room(self, labels: Sequence[str], max_new_tokens: int) -> int:
        """Tokens that the longest label takes, or a free answer."""
        lengths = [len(encode_completion(self._tokenizer, label, "?", end=True)) for label in labels]
        return max(lengths, default=max_new_tokens)

    def _fitting(self, prompt: Prompt, quoted: Sequence[str], room: int) -> int:
        """How many of the first passages fit, found by halving."""
        if self._context is None:
            return len(quoted)
        fits, over = 0, len(quoted) + 1
        count = len(quoted)  # all of them, most often
        while count > fits:
            if len(encode_prompt(self._tokenizer, self._written(prompt, quoted[:count]))) + room <= self._context:
                fits = count
            else:
                over = count
            count = (fits + over) // 2
        return fits

    def _written(self, prompt: Prompt, quoted: Sequence[str]) -> Prompt:
        if not quoted:
            return prompt
        head = "\n\n".join(["Sources:", *quoted, *([self._guidance] if self._guidance else [])])
        if isinstance(prompt, str):
            return f"{head}\n\n{prompt}"
        talk = [dict(turn) for turn in turns(prompt)]
        asked = next((turn for turn in reversed(talk) if turn["role"] == "user"), talk[-1])
        asked["content"] = f"{head}\n\n{asked['content']}"
        return talk

    def _quoted(self, text: str) -> str:
        """The text with a space inside of every special token."""
        for token in self._special:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What the tokenizer would not read as plain text; the longest first."""
    added: Mapping[int, Any] = tokenizer.added_tokens_decoder
    marked = {token.content for token in added.values() if token.special or token.content[:1] in "<["}
    return sorted(
        (token for token in {*marked, *tokenizer.all_special_tokens} if len(token) > 1), key=len, reverse=True
    )


class Grounded(Adapted):
    """A model that is given the passages for every prompt before it answers.

    Args:
        model: what is asked.
        grounding: writes the passages into the prompts.
        search: finds them.
    """

    def __init__(self, model: Adapted, grounding: Grounding, search: Search) -> None:
        self._model, self._grounding, self._search = model, grounding, search
        self.abilities = model.abilities

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
        """One answer a prompt, which is also what is searched for."""
        return self._model.generate(
            self._asked(prompts, max_new_tokens),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            tick=tick,
        )

    def score(
        self, prompts: Sequence[str], completions: Sequence[str], *, tick: Callable[[], None] | None = None
    ) -> np.ndarray[Any, Any]:
        """Log-likelihood of every completion after every prompt with its passages: shape (n, k)."""
        room = self._grounding.answer_room(completions, 1)
        return self._model.score(self._asked(prompts, room), completions, tick=tick)

    def predict(self, texts: Sequence[str], labels: Sequence[str] | None = None) -> Predictions:
        """The class of every prompt with its passages; the run's own classes where `labels` is None."""
        room = self._grounding.answer_room(labels or (), ROOM_FOR_A_LABEL)
        return self._model.predict(self._asked(texts, room), labels)

    def _asked(self, prompts: Sequence[str], room: int) -> list[Any]:
        found = self._search(prompts)
        return [self._grounding.ground(p, hits, room)[0] for p, hits in zip(prompts, found, strict=True)]
