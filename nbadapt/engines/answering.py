"""Asks a model, and keeps what it says, so that the same is never asked twice.

::

    query ──> key of (model, whole prompt, settings, which sample) ──> known? ──> the answer of then
      │                                                           └──> the model, in batches ──> kept
      └─────> an endpoint, each question with its seed and price: see `nbadapt.engines.endpoint`
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from nbadapt import answer_cache
from nbadapt.answer_cache import AnswerCache
from nbadapt.engines import choice
from nbadapt.engines.endpoint import Endpoint
from nbadapt.engines.generate import LanguageModel, softmax
from nbadapt.engines.tokens import Prompt, as_text, rendered
from nbadapt.events import Stage
from nbadapt.method import Adapted, Emit, Job


@dataclass(frozen=True)
class Query:
    """One row to answer.

    Attributes:
        row: its number in the table, from 1.
        prompt: what the model is asked, with demonstrations.
        shown: the row's own part of it, for people.
        expected: the right answer, where it is known.
        group: queries of one group begin with the same demonstrations.
    """

    row: int
    prompt: Prompt
    shown: str
    expected: str | None = None
    group: int = 0


@dataclass(frozen=True)
class Reply:
    """What the model said.

    Attributes:
        text: its answer.
        probabilities: of the labels, where it chose from them.
        reasoning: all that it wrote, where its answer was found in that; one text for each time it was asked.
        votes: how many of those ended with each answer.
        matched: where it chose in words, whether they name a label; `text` is that label, or the words.
    """

    text: str
    probabilities: dict[str, float] | None = None
    reasoning: tuple[str, ...] = ()
    votes: dict[str, int] | None = None
    matched: bool | None = None

    @property
    def shown(self) -> str:
        """The text for people; words that name no label are marked."""
        return f"(none of the labels) {self.text}" if self.matched is False else self.text

    @property
    def shown_reasoning(self) -> str | None:
        """The reasonings as one text; None where there are none."""
        if len(self.reasoning) < 2:
            return self.reasoning[0] if self.reasoning else None
        return "\n\n".join(f"[{number}] {text}" for number, text in enumerate(self.reasoning, 1))


class AnswerReader(Protocol):
    """Finds the answer in what the model writes."""

    @property
    def paths(self) -> int:
        """How often a prompt is asked."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The answers to choose from; empty for any text."""

    def read(self, texts: Sequence[str]) -> Reply:
        """The answer of the texts that one prompt was answered with; its text is empty where there is none."""


class Answering:
    """Asks one model in one way, with what was answered before at hand. Use it in a with block, in one thread.

    Args:
        model: scores labels where it can, else predicts; generates where there are no labels.
        labels: the classes to choose from; empty for free text.
        job: its config is a `PromptConfig`.
        emit: told of every batch.
        reader: finds the answers in free text.
    """

    def __init__(
        self, model: Adapted, labels: Sequence[str], job: Job, emit: Emit, reader: AnswerReader | None
    ) -> None:
        self._model, self._labels, self._job, self._emit, self._reader = model, labels, job, emit, reader
        self._paths = reader.paths if reader else 1
        self._cache = AnswerCache(job.config.cache)
        self._identity = "" if isinstance(model, Endpoint) or not self._cache.in_use else _identity(model, job)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._cache.close()

    @property
    def fault(self) -> str:
        """Why answers could not be kept; empty where they were."""
        return self._cache.fault

    # ------------------------------------------------------------------ what was answered before

    def known(self, queries: Sequence[Query]) -> dict[int, Reply]:
        """The answers that were given before, by row; an endpoint's come with the others, and are counted there."""
        if not self._cache.in_use or isinstance(self._model, Endpoint):
            return {}
        keys = {query.row: [self._key(query.prompt, path) for path in range(self._paths)] for query in queries}
        found = self._cache.find([key for own in keys.values() for key in own])
        return {row: self._reply([found[key] for key in own]) for row, own in keys.items() if found.keys() >= set(own)}

    def _key(self, prompt: Prompt, path: int) -> bytes:
        if isinstance(self._model, LanguageModel):
            asked: Any = rendered(self._model.tokenizer, prompt)
        else:
            asked = prompt if isinstance(prompt, str) else [dict(turn) for turn in prompt]
        if self._labels:
            return answer_cache.key(self._identity, asked, "labels", list(self._labels))
        config = self._job.config
        drawn = [config.temperature, config.top_p, self._job.seed, path] if config.temperature > 0 else []
        return answer_cache.key(self._identity, asked, "text", config.max_new_tokens, *drawn)

    def _reply(self, kept: Sequence[Any]) -> Reply:
        if self._labels:
            return _chosen(list(kept[0]), list(kept[0].values()))
        return self._read(kept)

    def _read(self, texts: Sequence[str]) -> Reply:
        return self._reader.read(texts) if self._reader else Reply(texts[0])

    # ------------------------------------------------------------------ asking

    def one(self, query: Query) -> Reply:
        """The answer to one query."""
        known = self.known([query])
        if known:
            return known[query.row]
        ((_, (reply,)),) = self.answers([query])
        return reply

    def answers(self, queries: Sequence[Query]) -> Iterator[tuple[list[Query], list[Reply]]]:
        """Batches of queries with their answers."""
        if isinstance(self._model, Endpoint):
            yield from self._told(self._model, queries)
            return
        groups: dict[int, list[Query]] = {}
        for query in queries:
            groups.setdefault(query.group, []).append(query)
        for group in groups.values():
            if not self._labels:
                for batch in _chunks(group, self._job.config.batch_size):
                    yield batch, self._written(batch)
                continue
            for batch, replies in self._chosen(group):
                kept = {self._key(q.prompt, 0): r.probabilities for q, r in zip(batch, replies, strict=True)}
                self._cache.add(kept if self._cache.in_use else {})
                yield batch, replies

    def _told(self, model: Endpoint, queries: Sequence[Query]) -> Iterator[tuple[list[Query], list[Reply]]]:
        """Each query with its answer, as an endpoint gives them; of labels the one that the words name.

        Where there are labels, the prompts ask for one of them: see `nbadapt.engines.choice.with_choice`.
        """
        paths, config = self._paths, self._job.config
        written: dict[int, dict[int, str]] = {}
        source = self._job.data.source if self._job.data is not None else ""
        answers = model.asked(
            [query.prompt for query in queries for _ in range(paths)],
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
            seed=self._job.seed,
            tick=self._tick,
            where=lambda place: f"row {queries[place // paths].row} of {source}: " if source else "",
            cache=self._cache,
        )
        with contextlib.closing(answers):
            for place, text in answers:
                texts = written.setdefault(place // paths, {})
                texts[place % paths] = text
                if len(texts) == paths:
                    yield [queries[place // paths]], [self._named([texts[path] for path in range(paths)])]

    def _named(self, texts: Sequence[str]) -> Reply:
        """The answer in what an endpoint wrote."""
        if not self._labels:
            return self._read(texts)
        label = choice.match(texts[0], self._labels)
        return Reply(label or texts[0], matched=label is not None)

    def _tick(self) -> None:
        self._emit(Stage("answering"))

    def _chosen(self, group: Sequence[Query]) -> Iterator[tuple[list[Query], list[Reply]]]:
        """Choices between the labels; over one prefix where the model can, a classifier by its own labels."""
        if isinstance(self._model, LanguageModel):
            prompts = [query.prompt for query in group]
            for indices, scores in self._model.scored(prompts, self._labels, tick=self._tick):
                yield [group[i] for i in indices], [_chosen(self._labels, row) for row in softmax(scores)]
            return
        for batch in _chunks(group, self._job.config.batch_size):
            self._tick()
            texts: Any = [query.prompt for query in batch]
            predicted = self._model.predict(texts, self._labels if "generate" in self._model.abilities else None)
            yield batch, [_chosen(predicted.names, row) for row in predicted.probabilities]

    def _written(self, batch: Sequence[Query]) -> list[Reply]:
        """Free answers, as many a prompt as the reader wants; each is kept as soon as its batch is through."""
        self._tick()
        paths = [self._path([query.prompt for query in batch], path) for path in range(self._paths)]
        return [self._read(texts) for texts in zip(*paths, strict=True)]

    def _path(self, prompts: Sequence[Prompt], path: int) -> list[str]:
        """One text a prompt: what was kept, and the model's for the others."""
        if not self._cache.in_use:
            return self._generated(prompts, path)
        keys = [self._key(prompt, path) for prompt in prompts]
        found: Mapping[bytes, str] = self._cache.find(keys)
        new = [i for i, key in enumerate(keys) if key not in found]
        texts = self._generated([prompts[i] for i in new], path) if new else []
        added = {keys[i]: text for i, text in zip(new, texts, strict=True)}
        self._cache.add(added)
        known = {**added, **found}
        return [known[key] for key in keys]

    def _generated(self, prompts: Sequence[Prompt], path: int) -> list[str]:
        """What the model writes. What is drawn depends on the seed, the path and the prompt alone, not on the batch."""
        asked: Any = prompts
        seed: Any = self._job.seed * 1_000_003 + path
        if isinstance(self._model, LanguageModel):
            seed = [draw_seed(self._job.seed, path, prompt) for prompt in prompts]
        config = self._job.config
        return self._model.generate(
            asked,
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
            seed=seed,
            tick=self._tick,
        )


def _identity(model: Adapted, job: Job) -> str:
    """What decides the answers besides the prompt and the settings: weights, number type, kind of device."""
    from nbadapt.engines.embed import fingerprint

    content = model.identity or fingerprint(job.model)
    return f"{content} {job.dtype} {job.device.partition(':')[0]}"


def draw_seed(seed: int, path: int, prompt: Prompt) -> int:
    """The seed from which a prompt's answer is drawn."""
    content = prompt if isinstance(prompt, str) else [dict(turn) for turn in prompt]
    text = json.dumps([seed, path, content])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _chosen(labels: Sequence[str], probabilities: Sequence[float]) -> Reply:
    by_label = {label: float(p) for label, p in zip(labels, probabilities, strict=True)}
    return Reply(max(by_label, key=by_label.__getitem__), by_label)


def _chunks(queries: Sequence[Query], size: int) -> Iterator[list[Query]]:
    """Batches of similar length, short ones first."""
    ordered = sorted(queries, key=lambda query: (len(as_text(query.prompt)), query.row))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
