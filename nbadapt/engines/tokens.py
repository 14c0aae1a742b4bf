"""Prompts and completions -> token ids, the same for training, generating and scoring.

::

    chat model    <user turn> <start of the assistant's turn> | completion <end of turn>
    plain model   <bos> prompt                                | " " completion <eos>
                  encode_prompt                                 encode_completion
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbadapt.errors import RequestError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from nbadapt.method import Job

Prompt = str | Sequence[Mapping[str, str]]
"""What a model is asked: a text, or a conversation of ``{"role": ..., "content": ...}``."""


def as_openings(tokenizer: PreTrainedTokenizerBase, job: Job) -> None:
    """Where the rows are texts, leave the chat template away: it would make messages of them."""
    if job.task == "text":
        tokenizer.chat_template = None


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """Token ids after which the model's answer follows.

    Args:
        tokenizer: where it has a chat template, the prompt ends with the start of the assistant's turn.
        prompt: a str is one user message; a list of ``{"role", "content"}`` is a conversation. Without a chat
            template a conversation becomes lines of ``role: content`` and a last line ``assistant:``.

    Raises:
        RequestError: the chat template refuses the conversation.
    """
    return _ids(tokenizer, rendered(tokenizer, prompt))


def encode_completion(tokenizer: PreTrainedTokenizerBase, completion: str, prompt: Prompt, *, end: bool) -> list[int]:
    """Token ids of the answer that follow ``encode_prompt(tokenizer, prompt)``.

    For a chat model they are those of the template for the whole conversation. For a plain model, one space
    comes in between where neither the prompt ends nor the completion starts with white space.

    Args:
        tokenizer: the model's.
        completion: the answer.
        prompt: what it answers.
        end: add the token that ends the turn (chat), or eos (plain).

    Raises:
        RequestError: the chat template refuses the conversation.
    """
    before = rendered(tokenizer, prompt)
    if not tokenizer.chat_template:
        space = "" if not before or before[-1].isspace() or completion[:1].isspace() else " "
        answer = _following(tokenizer, before, space + completion)
        return [*answer, *eos(tokenizer)] if end else answer
    talk = [*turns(prompt), {"role": "assistant", "content": completion}]
    whole = _render(tokenizer, talk, start_answer=False)
    if not whole.startswith(before):  # a template that opens its own answers otherwise than it renders given ones
        answer = _following(tokenizer, before, completion)
        return [*answer, *eos(tokenizer)] if end else answer
    ids = _following(tokenizer, before, whole[len(before) :])
    close = _close(tokenizer, ids)
    if not end:
        return ids[:close]
    return ids[: close + 1] if close < len(ids) else [*ids, *eos(tokenizer)]


def end_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end an answer: eos, and the chat template's end of turn."""
    probe = [{"role": "user", "content": "?"}]
    last = encode_completion(tokenizer, "!", probe, end=True)[-1:]
    return sorted({*_special(tokenizer).intersection(last), *eos(tokenizer)})


def eos(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token that ends a text, in a list; an empty list where the tokenizer has none."""
    token: Any = tokenizer.eos_token_id
    return [] if token is None else [int(token)]


def context_length(config: PretrainedConfig) -> int | None:
    """The most tokens that a model attends to; None where its architecture sets no limit."""
    text = config.get_text_config()
    length = getattr(text, "max_position_embeddings", None)
    return int(length) if length else None


def turns(prompt: Prompt) -> list[Mapping[str, str]]:
    """A prompt as a conversation; a text is one user message."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def as_text(prompt: Prompt) -> str:
    """A prompt as a person reads it."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)


def rough_tokens(prompt: Prompt) -> int:
    """About how many tokens a prompt has, for a model whose tokenizer is out of reach: four characters make one.

    That is what common tokenizers come to on English text; other languages and code have more.
    """
    return -(-len(as_text(prompt)) // 4)


def plain_text(prompt: Prompt) -> str:
    """A prompt as a model without a chat template is asked it: a conversation ends where the answer begins."""
    return prompt if isinstance(prompt, str) else as_text(prompt) + "\nassistant:"


def rendered(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> str:
    """The text after which the answer follows, as the model reads it; a plain model's first token is not in it.

    Raises:
        RequestError: the chat template refuses the conversation.
    """
    if tokenizer.chat_template:
        return _render(tokenizer, turns(prompt), start_answer=True)
    return plain_text(prompt)


def _render(tokenizer: PreTrainedTokenizerBase, talk: Sequence[Mapping[str, str]], *, start_answer: bool) -> str:
    from jinja2.exceptions import TemplateError

    conversation: Any = [dict(turn) for turn in talk]
    try:
        text = tokenizer.apply_chat_template(conversation, add_generation_prompt=start_answer, tokenize=False)
    except TemplateError as error:
        raise RequestError(f"the model's chat template refuses the conversation: {error}") from None
    return str(text)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a rendered prompt, without an eos at the end: the answer is still to come."""
    special = not tokenizer.chat_template  # a chat template writes its special tokens itself
    ids: list[int] = tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
    closing = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None}
    if special and ids and ids[-1] in closing and not text.endswith(str(tokenizer.decode([ids[-1]]))):
        return ids[:-1]
    return ids


def _following(tokenizer: PreTrainedTokenizerBase, before: str, after: str) -> list[int]:
    """Ids of `after` as it stands behind `before`; apart where the two would share a token."""
    start, whole = _ids(tokenizer, before), _ids(tokenizer, before + after)
    if whole[: len(start)] == start:
        return whole[len(start) :]
    apart: list[int] = tokenizer(after, add_special_tokens=False, verbose=False)["input_ids"]
    return apart


def _close(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> int:
    """Where the end-of-turn token stands: the first of the special tokens and white space at the end."""
    special = _special(tokenizer)
    at, close = len(ids), len(ids)
    while at and (ids[at - 1] in special or not str(tokenizer.decode([ids[at - 1]])).strip()):
        at -= 1
        if ids[at] in special:
            close = at
    return close


def _special(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    marked = (i for i, token in tokenizer.added_tokens_decoder.items() if token.special)
    return {*tokenizer.all_special_ids, *marked}
