"""Examples -> token ids and labels, ready for a Trainer; and batches of them, padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbadapt.engines.tokens import encode_completion, encode_prompt, eos
from nbadapt.errors import DataError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from nbadapt.data import Examples

IGNORED = -100  # transformers' mark for tokens that the loss does not count
LONGEST = 1024  # tokens kept of a row where the user sets no max_length

Row = dict[str, Any]


@dataclass(frozen=True)
class Encoded:
    """Tokenised rows.

    Attributes:
        rows: one mapping a row: "input_ids" (list of int) and "labels" (an int, or a list as long as the ids).
        cut: how many rows were longer than the limit and were shortened.
        limit: that limit, in tokens.
    """

    rows: list[Row]
    cut: int
    limit: int

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [len(row["input_ids"]) for row in self.rows]


def virtual_tokens(model: Any) -> int:
    """How many positions the model gives to learned tokens before the text (peft's prompt learning)."""
    configs = getattr(model, "peft_config", {}).values()
    return sum(config.num_virtual_tokens for config in configs if getattr(config, "is_prompt_learning", False))


def length_limit(config: Any, max_length: int | None, virtual: int = 0) -> int:
    """The longest row in tokens: what the user asked for, and no more than the model has positions.

    Args:
        config: the model's.
        max_length: what the user asked for.
        virtual: positions that `virtual_tokens` take.
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    positions = getattr(text, "max_position_embeddings", None) or LONGEST + virtual
    if getattr(text, "model_type", "") in {"roberta", "xlm-roberta", "camembert"}:
        padding = getattr(text, "pad_token_id", None)
        positions -= 2 if padding is None else padding + 1  # their position ids start behind the padding index
    return min(positions - virtual, max_length or LONGEST)


def encode(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, label2id: dict[str, int] | None, limit: int
) -> Encoded:
    """Tokenise examples of any trainable task.

    Classification takes `label2id`. Generation counts the loss on the completion only; a row over the limit
    loses the start of its prompt before it loses the end of its completion. Text counts every token.

    Raises:
        DataError: a row without a single token to learn.
    """
    if examples.task == "classification":
        assert label2id is not None
        rows, cut = _classification(examples, tokenizer, label2id, limit)
    else:
        rows, cut = _language(examples, tokenizer, limit)
    return Encoded(rows, cut, limit)


def _classification(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, label2id: dict[str, int], limit: int
) -> tuple[list[Row], int]:
    texts = [row["text"] for row in examples.rows]
    full = text_ids(tokenizer, texts, None)
    cut = sum(len(ids) > limit for ids in full)
    if cut:
        full = text_ids(tokenizer, texts, limit)
    labels = [label2id[row["label"]] for row in examples.rows]
    return [{"input_ids": ids, "labels": label} for ids, label in zip(full, labels, strict=True)], cut


def text_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], limit: int | None) -> list[list[int]]:
    """Token ids of texts for a classifier, with the special tokens around them.

    A text that holds the token that ends a text, as T5's ``</s>``, is read as the letters that it is: T5 reads its
    vector at that token, and refuses a batch whose rows have more than one. Other special tokens, such as a ``[SEP]``
    between two sentences, are read as what they are.

    Args:
        tokenizer: the model's.
        texts: n texts.
        limit: the most tokens of each, of which the closing one is kept; None cuts none.
    """
    cut: dict[str, Any] = {"truncation": limit is not None, "max_length": limit, "return_attention_mask": False}
    ids: list[list[int]] = tokenizer(list(texts), verbose=False, **cut)["input_ids"]
    end: Any = tokenizer.eos_token
    for i in [i for i, text in enumerate(texts) if end and end in text]:
        ids[i] = tokenizer(texts[i], verbose=False, split_special_tokens=True, **cut)["input_ids"]
    return ids


def _language(examples: Examples, tokenizer: PreTrainedTokenizerBase, limit: int) -> tuple[list[Row], int]:
    rows, cut = [], 0
    for number, row in enumerate(examples.rows, 1):
        if examples.task == "text":
            prompt: list[int] = []
            ids = tokenizer(row["text"], truncation=False, verbose=False)["input_ids"]
            end = eos(tokenizer)
            answer = ids if ids[-1:] == end else [*ids, *end]
        else:
            prompt = encode_prompt(tokenizer, row["prompt"])
            answer = encode_completion(tokenizer, row["completion"], row["prompt"], end=True)
        excess = len(prompt) + len(answer) - limit
        if excess > 0:
            cut += 1
            dropped = min(excess, max(len(prompt) - 1, 0))
            prompt, answer = prompt[dropped:], answer[: limit - (len(prompt) - dropped)]
        if not answer or len(prompt) + len(answer) < 2:
            raise DataError(f"row {number} of {examples.source} has nothing to learn: its completion is empty")
        rows.append({"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer})
    return rows, cut


def collate(rows: Sequence[Row], pad_token_id: int) -> dict[str, torch.Tensor]:
    """A right-padded batch: input_ids, attention_mask (B, T); labels (B,) or (B, T)."""
    import torch

    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.full((len(rows), longest), pad_token_id)  # (B, T)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)  # (B, T)
    per_token = isinstance(rows[0]["labels"], list)
    labels = torch.full((len(rows), longest), IGNORED) if per_token else torch.tensor([r["labels"] for r in rows])
    for i, row in enumerate(rows):
        n = len(row["input_ids"])
        ids[i, :n] = torch.tensor(row["input_ids"])
        mask[i, :n] = 1
        if per_token:
            labels[i, :n] = torch.tensor(row["labels"])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
