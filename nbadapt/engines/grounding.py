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

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbadapt.engines.tokens import Prompt, encode_completion, encode_prompt, turns
from nbadapt.engines.wrapped import Wrapped
from nbadapt.errors import ModelError
from nbadapt.method import Adapted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from nbadapt.indexing.index import Hit

# Special tokens of the model families that are in use, such as <|im_end|>, </s>, [INST], <end_of_turn>.
USUAL = re.compile(r"<\|[^|<>\n]{1,64}\|>|</?(?:s|bos|eos|unk|pad)>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>", re.I)

Search = Callable[[Sequence[str]], Sequence[Sequence["Hit"]]]
"""n questions -> the passages for each, best first."""


class Grounding:
    """Writes passages into prompts.

    Args:
        tokenizer: the model's; None where it is behind an endpoint, which alone counts its tokens.
        context: tokens that fit the model; None for no limit that is known.
        guidance: what the model is told between the passages and the prompt.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, context: int | None, guidance: str) -> None:
        self._tokenizer, self._context, self._guidance = tokenizer, context, guidance
        self._special = special_tokens(tokenizer)

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
        if self._tokenizer is None:
            return max_new_tokens
        lengths = [len(encode_completion(self._tokenizer, label, "?", end=True)) for label in labels]
        return max(lengths, default=max_new_tokens)

    def _fitting(self, prompt: Prompt, quoted: Sequence[str], room: int) -> int:
        """How many of the first passages fit, found by halving."""
        if self._tokenizer is None or self._context is None:
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
        return self._special.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


def special_tokens(tokenizer: PreTrainedTokenizerBase | None) -> re.Pattern[str]:
    """What the model would not read as plain text: the tokenizer's own, or the usual forms where it is not known."""
    if tokenizer is None:
        return USUAL
    added: Mapping[int, Any] = tokenizer.added_tokens_decoder
    marked = {token.content for token in added.values() if token.special or token.content[:1] in "<["}
    tokens = [token for token in {*marked, *tokenizer.all_special_tokens} if len(token) > 1]
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")


class Grounded(Wrapped):
    """A model that is given the passages for every prompt, which is what is searched for, before it answers.

    Args:
        model: what is asked.
        grounding: writes the passages into the prompts.
        search: finds them.
    """

    def __init__(self, model: Adapted, grounding: Grounding, search: Search) -> None:
        super().__init__(model)
        self._grounding, self._search = grounding, search

    def _asked(self, prompts: Sequence[Any], completions: Sequence[str], longest: int) -> Sequence[Any]:
        room = self._grounding.answer_room(completions, longest)
        found = self._search(prompts)
        return [self._grounding.ground(p, hits, room)[0] for p, hits in zip(prompts, found, strict=True)]
