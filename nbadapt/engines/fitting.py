"""Which demonstrations come before each row, so that all of it fits the model's context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbadapt.engines.answering import AnswerReader, Query
from nbadapt.engines.prompts import Shot, with_shots
from nbadapt.engines.tokens import Prompt, as_text, context_length, encode_completion, encode_prompt, rough_tokens
from nbadapt.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from nbadapt.method import Job

LOOKED_AT = 20  # rows, the longest by characters, that are tokenised before a job starts
TURN_TOKENS = 16  # more than a chat template puts around a turn


@dataclass(frozen=True)
class ShotSelection:
    """How demonstrations are chosen.

    Attributes:
        choose: (places in the pool that may be shown, count, which of the rows) -> places, in the order shown.
        each: whether every row has its own ones; else they depend on the places and the count alone.
        known: False where they stand for others that are chosen later.
    """

    choose: Callable[[Sequence[int], int, int], tuple[int, ...]] = lambda *_: ()
    each: bool = False
    known: bool = True


@dataclass(frozen=True)
class Questions:
    """What a job comes to, told from its tables and its tokenizer alone.

    Attributes:
        queries: what is asked, at least one.
        labels: the classes to choose from; empty for free text.
        shots: the demonstrations before a prompt; where every row has its own, those that they are chosen from.
        separator: between demonstrations of a plain text.
        longest: tokens of the longest query among those looked at.
        notes: what the user should know.
        template: what the rows and the demonstrations are filled into.
        count: the most demonstrations that a row has.
        chosen: whether `shots` are what each row's own ones are chosen from.
        reader: finds the answers in what the model writes.
    """

    queries: Sequence[Query]
    labels: tuple[str, ...]
    shots: Sequence[Shot] = ()
    separator: str = ""
    longest: int = 0
    notes: tuple[str, ...] = ()
    template: str = ""
    count: int = 0
    chosen: bool = False
    reader: AnswerReader | None = None


@dataclass(frozen=True)
class AskedRow:
    """A row before demonstrations are put in front of it.

    Attributes:
        number: in the table, from 1.
        prompt: filled.
        expected: the right answer, where it is known.
        shown: the row's own part for people, where the prompt holds more than that.
    """

    number: int
    prompt: Prompt
    expected: str | None
    shown: str | None = None

    def query(self, prompt: Prompt, group: int = 0) -> Query:
        """The row as it is asked; rows of one group have the same demonstrations."""
        shown = as_text(self.prompt) if self.shown is None else self.shown
        return Query(self.number, prompt, shown, self.expected, group)


class Fitting:
    """Chooses the demonstrations, as many as the model's context has room for.

    Args:
        job: its config is a prompting method's.
        tokenizer: the model's; None where it is behind an endpoint, which takes conversations and counts itself.
        config: the model's; None there.
        labels: the classes to choose from; empty for free text.
        rows: what is asked.
        pool: the demonstrations that there are.
        wanted: how many of them are asked for.
        selection: which ones.
    """

    def __init__(
        self,
        job: Job,
        tokenizer: PreTrainedTokenizerBase | None,
        config: PretrainedConfig | None,
        labels: tuple[str, ...],
        rows: Sequence[AskedRow],
        pool: Sequence[Shot],
        wanted: int,
        selection: ShotSelection,
    ) -> None:
        self._job, self._tokenizer, self._wanted, self._selection = job, tokenizer, wanted, selection
        self._labels, self._rows, self._pool = labels, rows, pool
        self._context = context_length(config) if config is not None else None
        self._separator = getattr(job.config, "separator", "")
        self._chat = tokenizer is None or bool(tokenizer.chat_template)
        self._texts = [as_text(shot.prompt) for shot in pool]
        self._known = set(self._texts)
        self._all = range(len(pool))
        probes = [encode_completion(tokenizer, label, "?", end=True) for label in labels] if tokenizer else []
        self._answer = max(map(len, probes), default=1)  # tokens that an answer takes at least
        self._room = self._answer if labels else job.config.max_new_tokens

    def plan(self) -> Questions:
        """What is asked, and what the user should know of it.

        Raises:
            ModelError: a row, or not even one demonstration, fits.
        """
        available = min(self._wanted, len(self._pool))
        notes = []
        if available < self._wanted:
            notes.append(f"only {available} of {self._wanted} demonstrations shown: there are no more examples")
        if self._selection.each and available:
            return self._plan_each(available, notes)
        count = self._most(available)
        queries = self._queries(count, self._all_rows)
        longest, worst = self._longest(queries)
        while count and not self._fits(longest):  # a row that is shown itself has a longer demonstration in its place
            count -= 1
            queries = self._queries(count, self._all_rows)
            longest, worst = self._longest(queries)
        self._check(longest, worst, dropped_all=available > count == 0)
        if count < available:
            notes.append(
                f"{available - count} of {available} demonstrations dropped: the longest prompt would not fit "
                f"the model's context of {self._context:,} tokens with its answer"
            )
        shots = [self._pool[i] for i in self._selection.choose(self._all, count, 0)] if self._pool else []
        return Questions(queries, self._labels, shots, self._separator, longest, tuple(notes), count=count)

    # ------------------------------------------------------------------ the same ones for all rows

    @property
    def _all_rows(self) -> range:
        return range(len(self._rows))

    def _most(self, available: int) -> int:
        """The most demonstrations with which the longest rows fit; found by halving, as a thousand may be asked for."""
        rows = sorted(self._all_rows, key=lambda i: -len(as_text(self._rows[i].prompt)))[:LOOKED_AT]
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

    def _queries(self, count: int, rows: Sequence[int]) -> list[Query]:
        """Rows behind `count` demonstrations, none of which is the row itself."""
        usual = self._selection.choose(self._all, count, 0)
        shown = {self._texts[i] for i in usual}
        groups: dict[tuple[int, ...], int] = {}
        queries = []
        for i in rows:
            row = self._rows[i]
            alone = as_text(row.prompt) in shown
            chosen = self._selection.choose(self._others(row), count, i) if alone else usual
            queries.append(self._query(row, chosen, groups.setdefault(chosen, len(groups))))
        return queries

    def _others(self, row: AskedRow) -> Sequence[int]:
        """The places of the demonstrations that are not the row itself."""
        text = as_text(row.prompt)
        return [i for i in self._all if self._texts[i] != text] if text in self._known else self._all

    def _query(self, row: AskedRow, chosen: Sequence[int], group: int = 0) -> Query:
        shots = [self._pool[i] for i in chosen]
        return row.query(with_shots(shots, row.prompt, chat=self._chat, separator=self._separator), group)

    def _longest(self, queries: Sequence[Query]) -> tuple[int, Query]:
        """Tokens of the longest query, and that query."""
        looked_at = sorted(queries, key=lambda query: -len(as_text(query.prompt)))[:LOOKED_AT]
        lengths = [self._length(query.prompt) for query in looked_at]
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        return lengths[longest], looked_at[longest]

    def _length(self, prompt: Prompt) -> int:
        if self._tokenizer is None:
            return rough_tokens(prompt)
        return len(encode_prompt(self._tokenizer, prompt))

    # ------------------------------------------------------------------ every row its own ones

    def _plan_each(self, available: int, notes: list[str]) -> Questions:
        """Every row has as many as fit before it. All are one group: a batch of one row would be slow."""
        queries, missing = [], []
        for i, row in enumerate(self._rows):
            others = self._others(row)
            most = min(available, len(others))
            count = self._most_before(i, others, most)
            queries.append(self._query(row, self._selection.choose(others, count, i)))
            if self._selection.known and most > count == 0:
                self._check(self._length(queries[-1].prompt), queries[-1], dropped_all=True)
            missing.append(most - count)
        longest, worst = self._longest(queries)
        self._check(longest, worst, dropped_all=False)
        dropped = sum(count > 0 for count in missing)
        if dropped and self._selection.known:
            notes.append(
                f"demonstrations dropped before {dropped:,} of {len(queries):,} rows, at most {max(missing)} of "
                f"{available}: these prompts would not fit the model's context of {self._context:,} tokens with "
                "their answers"
            )
        found = tuple(notes)
        return Questions(queries, self._labels, self._pool, self._separator, longest, found, count=available)

    def _most_before(self, i: int, others: Sequence[int], most: int) -> int:
        """The most demonstrations with which a row fits."""
        fitting, over = 0, most + 1
        while over - fitting > 1:
            middle = most if over > most else (fitting + over) // 2
            if self._surely_fits(self._query(self._rows[i], self._selection.choose(others, middle, i)).prompt):
                fitting = middle
            else:
                over = middle
        return fitting

    def _surely_fits(self, prompt: Prompt) -> bool:
        """Whether a prompt fits; tokenised where its bytes leave a doubt, as no token of a text is less than one."""
        if self._context is None:
            return True
        turns = 1 if isinstance(prompt, str) else len(prompt)
        if len(as_text(prompt).encode("utf-8", "replace")) + (turns + 4) * TURN_TOKENS + self._room <= self._context:
            return True
        return self._fits(self._length(prompt))

    # ------------------------------------------------------------------ checks

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
                f"beside {where}: shorten the examples, lower max_new_tokens, or show none"
            )
