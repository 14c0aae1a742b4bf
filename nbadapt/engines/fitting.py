"""Which demonstrations come before each row, so that all of it fits the model's context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbadapt.engines.evaluation import Query
from nbadapt.engines.prompts import Shot, with_shots
from nbadapt.engines.tokens import Prompt, as_text, context_length, encode_completion, encode_prompt
from nbadapt.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from nbadapt.method import Job

LOOKED_AT = 20  # rows, the longest by characters, that are tokenised before a job starts

Select = Callable[[Sequence[Shot], int], tuple[int, ...]]
"""(pool, count) -> places in the pool of the demonstrations to show, in order."""


@dataclass(frozen=True)
class Questions:
    """What a job comes to, told from its tables and its tokenizer alone.

    Attributes:
        queries: one a row; a single one where there is no data.
        labels: the classes to choose from; empty for free text.
        shots: the demonstrations before a prompt.
        separator: between demonstrations of a plain text.
        longest: tokens of the longest query among those looked at.
        notes: what the user should know.
    """

    queries: Sequence[Query]
    labels: tuple[str, ...]
    shots: Sequence[Shot] = ()
    separator: str = ""
    longest: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A row before demonstrations are put in front of it."""

    number: int
    prompt: Prompt
    expected: str | None
    shown: str | None = None  # the row's own part, where the prompt holds more than that

    def query(self, prompt: Prompt, group: int = 0) -> Query:
        """The row as it is asked; rows of one group have the same demonstrations."""
        shown = as_text(self.prompt) if self.shown is None else self.shown
        return Query(self.number, prompt, shown, self.expected, group)


class Fitting:
    """Chooses the demonstrations, as many as the model's context has room for.

    Args:
        job: its config is a prompting method's.
        tokenizer: the model's.
        config: the model's.
        labels: the classes to choose from; empty for free text.
        rows: what is asked.
        pool: the demonstrations that there are.
        wanted: how many of them are asked for.
        select: which ones.
    """

    def __init__(
        self,
        job: Job,
        tokenizer: PreTrainedTokenizerBase,
        config: PretrainedConfig,
        labels: tuple[str, ...],
        rows: Sequence[Row],
        pool: Sequence[Shot],
        wanted: int,
        select: Select,
    ) -> None:
        self._job, self._tokenizer, self._wanted, self._select = job, tokenizer, wanted, select
        self._labels, self._rows, self._pool = labels, rows, pool
        self._context = context_length(config)
        self._separator = getattr(job.config, "separator", "")
        self._texts = [as_text(shot.prompt) for shot in pool]
        probes = [encode_completion(tokenizer, label, "?", end=True) for label in labels]
        self._answer = max(map(len, probes), default=1)  # tokens that an answer takes at least
        self._room = self._answer if labels else job.config.max_new_tokens

    def plan(self) -> Questions:
        """Raises ModelError where a row, or not even one demonstration, fits."""
        available = min(self._wanted, len(self._pool))
        count = self._most(available)
        queries = self._queries(count, self._rows)
        longest, worst = self._longest(queries)
        while count and not self._fits(longest):  # a row that is shown itself has a longer demonstration in its place
            count -= 1
            queries = self._queries(count, self._rows)
            longest, worst = self._longest(queries)
        self._check(longest, worst, dropped_all=available > count == 0)
        notes = []
        if available < self._wanted:
            notes.append(f"only {available} of {self._wanted} demonstrations shown: there are no more examples")
        if count < available:
            notes.append(
                f"{available - count} of {available} demonstrations dropped: the longest prompt would not fit "
                f"the model's context of {self._context:,} tokens with its answer"
            )
        shots = [self._pool[i] for i in self._select(self._pool, count)]
        return Questions(queries, self._labels, shots, self._separator, longest, tuple(notes))

    def _most(self, available: int) -> int:
        """The most demonstrations with which the longest rows fit; found by halving, as a thousand may be asked for."""
        rows = sorted(self._rows, key=lambda row: -len(as_text(row.prompt)))[:LOOKED_AT]
        if self._fits(self._longest(self._queries(available, rows))[0]):
            return available
        fitting, over = 0, available
        while over - fitting > 1:
            middle = (fitting + over) // 2
            if self._fits(self._longest(self._queries(middle, rows))[0]):
                fitting = middle
            else:
                over = middle
        return fitting

    def _fits(self, longest: int) -> bool:
        return self._context is None or longest + self._room <= self._context

    def _queries(self, count: int, rows: Sequence[Row]) -> list[Query]:
        """Rows behind `count` demonstrations, none of which is the row itself."""
        chat = bool(self._tokenizer.chat_template)
        usual = self._select(self._pool, count)
        shown = {self._texts[i] for i in usual}
        groups: dict[tuple[int, ...], int] = {}
        queries = []
        for row in rows:
            text = as_text(row.prompt)
            chosen = self._without(text, count) if text in shown else usual
            shots = [self._pool[i] for i in chosen]
            prompt = with_shots(shots, row.prompt, chat=chat, separator=self._separator)
            queries.append(row.query(prompt, groups.setdefault(chosen, len(groups))))
        return queries

    def _without(self, text: str, count: int) -> tuple[int, ...]:
        others = [i for i, other in enumerate(self._texts) if other != text]
        chosen = self._select([self._pool[i] for i in others], min(count, len(others)))
        return tuple(others[i] for i in chosen)

    def _longest(self, queries: Sequence[Query]) -> tuple[int, Query]:
        """Tokens of the longest query, and that query."""
        looked_at = sorted(queries, key=lambda query: -len(as_text(query.prompt)))[:LOOKED_AT]
        lengths = [len(encode_prompt(self._tokenizer, query.prompt)) for query in looked_at]
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        return lengths[longest], looked_at[longest]

    def _check(self, longest: int, worst: Query, *, dropped_all: bool) -> None:
        if self._context is None:
            return
        over = longest + self._answer - self._context
        where = f"row {worst.row} of {self._job.data.source}" if self._job.data is not None else "the prompt"
        if over > 0:
            raise ModelError(
                f"{where} makes a prompt of {longest:,} tokens, {over:,} more than fit the context of "
                f"{self._job.model.name} ({self._context:,} tokens): shorten it, or use another model"
            )
        if dropped_all:
            raise ModelError(
                f"not one demonstration fits the context of {self._job.model.name} ({self._context:,} tokens) "
                f"beside {where}: shorten the examples, lower max_new_tokens, or use zero-shot"
            )
