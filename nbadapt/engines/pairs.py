"""Preference rows -> token ids of two answers to one prompt.

::

    prompt │ chosen <end>       longer than the limit: the prompt loses its start, all but one token, before the
    prompt │ rejected <end>     answers lose their ends; where they are then the same, there is nothing to prefer
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbadapt.cells import brief
from nbadapt.engines.tokens import as_text, encode_completion, encode_prompt
from nbadapt.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedTokenizerBase

    from nbadapt.data import Examples

LETTER = 4  # the most tokens that a letter becomes: its bytes


@dataclass(frozen=True)
class Pair:
    """A tokenised preference row.

    Attributes:
        chosen: ids of the prompt and the better answer.
        rejected: ids of the prompt and the other answer.
        starts: where in these two the answers start.
    """

    chosen: list[int]
    rejected: list[int]
    starts: tuple[int, int]

    @property
    def length(self) -> int:
        """Tokens of the longer of the two texts."""
        return max(len(self.chosen), len(self.rejected))


@dataclass(frozen=True)
class EncodedPairs:
    """Tokenised preference rows.

    Attributes:
        rows: one a row.
        cut: how many had a text longer than the limit.
        limit: that limit, in tokens.
    """

    rows: list[Pair]
    cut: int
    limit: int

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row's longer text."""
        return [row.length for row in self.rows]


def encode_pairs(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, limit: int, *, one_prompt: bool
) -> EncodedPairs:
    """Tokenise preference rows, each answer as it is tokenised behind a prompt anywhere else.

    Args:
        examples: rows of the task "preference".
        tokenizer: the model's.
        limit: the most tokens of a text.
        one_prompt: cut the prompt in front of both answers alike, as far as the longer one makes it necessary.

    Raises:
        DataError: two answers that are the same tokens, perhaps because they were cut; names the row.
    """
    rows, cut = [], 0
    for row in examples.rows:
        pair, shortened = _pair(row, tokenizer, limit, one_prompt)
        if pair.chosen == pair.rejected:
            raise _same(row, examples, limit if shortened else None)
        cut += shortened
        rows.append(pair)
    return EncodedPairs(rows, cut, limit)


def longest_pairs(
    examples: Examples, count: int, tokenizer: PreTrainedTokenizerBase, limit: int, *, one_prompt: bool
) -> list[Pair]:
    """The `count` longest rows, tokenised, the longest first; other arguments as those of `encode_pairs`.

    Letters tell which are worth tokenising, so that a large table is not tokenised for an estimate.
    """
    from nbadapt.engines.training_estimate import most_letters

    pairs = [_pair(row, tokenizer, limit, one_prompt)[0] for row in most_letters(examples, count).rows]
    return sorted(pairs, key=lambda pair: -pair.length)[:count]


def _pair(
    row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, limit: int, one_prompt: bool
) -> tuple[Pair, bool]:
    """A row tokenised, and whether something had to be cut."""
    prompt, answers = _ids(row, tokenizer)
    groups = [answers] if one_prompt else [[answer] for answer in answers]
    (start, chosen), (other, rejected) = (text for group in groups for text in fitted(prompt, group, limit))
    return Pair(chosen, rejected, (start, other)), any(len(prompt) + len(answer) > limit for answer in answers)


def _ids(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[list[int]]]:
    answers = [encode_completion(tokenizer, row[name], row["prompt"], end=True) for name in ("chosen", "rejected")]
    return encode_prompt(tokenizer, row["prompt"]), answers


def fitted(prompt: list[int], answers: Sequence[list[int]], limit: int) -> list[tuple[int, list[int]]]:
    """Each answer behind what is left of the prompt, in `limit` tokens, and where it starts there."""
    excess = len(prompt) + max(map(len, answers)) - limit
    kept = prompt[min(excess, max(len(prompt) - 1, 0)) :] if excess > 0 else prompt
    return [(len(kept), (kept + answer)[:limit]) for answer in answers]


def check_pairs(examples: Examples, tokenizer: PreTrainedTokenizerBase, limit: int) -> None:
    """Refuse rows whose answers are the same once they are cut. Tokenises only those that begin alike for long.

    Raises:
        DataError: names the row.
    """
    for row in examples.rows:
        if LETTER * _alike(row["chosen"], row["rejected"]) < limit - 1:
            continue
        (_, chosen), (_, rejected) = fitted(*_ids(row, tokenizer), limit)
        if chosen == rejected:
            raise _same(row, examples, limit)


def _alike(a: str, b: str) -> int:
    """Letters that two texts begin with alike."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _same(row: Mapping[str, Any], examples: Examples, limit: int | None) -> DataError:
    """The error for a row, which its text names: the rows here are a part of the source's."""
    start = f"prompt {brief(as_text(row['prompt']))}, chosen {brief(as_text(row['chosen']))}"
    where = f"{examples.source}, the row with the {start}: 'chosen' and 'rejected' are the same"
    if limit is None:
        return DataError(f"{where} tokens to this model: correct the row or drop it")
    return DataError(f"{where} in the {limit:,} tokens that are kept: raise max_length, shorten them or drop the row")


def shown(row: Mapping[str, Any]) -> str:
    """A preference row as a person reads it."""
    return f"{as_text(row['prompt'])}\n\nchosen: {row['chosen']}\nrejected: {row['rejected']}"
