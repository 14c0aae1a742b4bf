"""Asks a model one question after another, and keeps its answers: in a file, in figures, in events."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from nbadapt.engines import choice, figures
from nbadapt.engines.endpoint import Endpoint
from nbadapt.engines.generate import LanguageModel, softmax
from nbadapt.engines.tokens import Prompt, as_text, encode_completion
from nbadapt.errors import NbadaptError, RequestError, Stopped
from nbadapt.events import Metric, Notice, Progress, Sample, Stage
from nbadapt.method import Adapted, Emit, Job, Outcome

if TYPE_CHECKING:
    from pathlib import Path

PREDICTIONS = "artifacts/predictions.jsonl"


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


class Reader(Protocol):
    """Finds the answer in what the model writes."""

    @property
    def paths(self) -> int:
        """How often a prompt is asked."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The answers to choose from; empty for any text."""

    def read(self, texts: Sequence[str]) -> Reply:
        """The answer of the texts that one prompt was answered with; its text is empty where there is none."""


def evaluate(
    model: Adapted,
    queries: Sequence[Query],
    labels: Sequence[str],
    job: Job,
    emit: Emit,
    keep: Callable[[Outcome], None] = lambda _: None,
    reader: Reader | None = None,
) -> Outcome:
    """Answer every query, by labels where there are any.

    After a Stop the outcome holds what was answered until then.

    Args:
        model: scores labels where it can, else predicts; generates where there are no labels.
        queries: at least one.
        labels: the classes to choose from; empty for free text.
        job: its config is a `PromptConfig`.
        emit: told of every batch.
        keep: given the outcome of what was answered before an error, which is then raised.
        reader: finds the answers in free text.

    Raises:
        ModelError: a row that leaves no room for its answer: before the first answer.
        Stopped: before the first answer.
    """
    _check(model, queries, labels, job, emit)
    record = _Record(job, queries, "accuracy" if labels or (reader and reader.classes) else "exact_match")
    total = len(queries) if isinstance(model, Endpoint) else steps(queries, job.config.batch_size)
    try:
        for step, (batch, answers) in enumerate(_answers(model, queries, labels, job, emit, reader), 1):
            record.add(batch, answers)
            emit(Progress(step, total, examples=len(record.answers), tokens=sum(model.usage.values())))
            if record.compared:
                emit(Metric(step, "evaluation", record.running()))
    except Stopped:
        if not record.answers:
            raise
        return record.close()
    except Exception:  # the graphics card's memory, say: hours of answers are not lost with it
        if record.answers:
            keep(record.close())
        raise
    outcome = record.close()
    try:
        if record.fault:
            emit(Notice(record.fault, "warning"))
        if reader:
            _tell_unread(record, queries, emit)
        for query in queries[: job.config.samples]:
            reply = record.answers[query.row]
            emit(Sample(total, query.shown, reply.shown, query.expected, reply.shown_reasoning))
    except Stopped:
        pass  # everything is answered and stored
    return outcome


def _tell_unread(record: _Record, queries: Sequence[Query], emit: Emit) -> None:
    """A note where no answer was found in what the model wrote."""
    without = [query.row for query in queries if not record.answers[query.row].text]
    if without:
        emit(
            Notice(
                f"no answer was found for {len(without):,} of {len(queries):,} rows, the first of them row "
                f"{without[0]}: they count as wrong; see answer_pattern and the column reasoning of run.answers",
                "warning",
            )
        )


def _check(model: Adapted, queries: Sequence[Query], labels: Sequence[str], job: Job, emit: Emit) -> None:
    """Refuse a row that the model cannot be asked before the first answer, not after hours of answers."""
    if not isinstance(model, LanguageModel):
        return
    answer = max((len(encode_completion(model.tokenizer, label, "?", end=False)) for label in labels), default=1)
    for query in queries:
        emit(Stage("checking the prompts"))
        try:
            model.check(query.prompt, answer)
        except NbadaptError as error:
            where = f"row {query.row} of {job.data.source}: " if job.data is not None else ""
            raise type(error)(f"{where}{error}") from None


def steps(queries: Sequence[Query], batch_size: int) -> int:
    """How many batches the queries make."""
    return sum(-(-count // batch_size) for count in Counter(query.group for query in queries).values())


def choose(model: Adapted, prompt: Prompt, labels: Sequence[str], emit: Emit) -> Reply:
    """The model's choice for one prompt."""
    emit(Stage("answering"))
    return _predicted(model, [prompt], labels)[0]


def _answers(
    model: Adapted,
    queries: Sequence[Query],
    labels: Sequence[str],
    job: Job,
    emit: Emit,
    reader: Reader | None,
) -> Iterator[tuple[list[Query], list[Reply]]]:
    """Batches of queries with their answers."""
    if isinstance(model, Endpoint):
        for query, answer in asked(model, queries, labels, job, emit, reader):
            yield [query], [answer]
        return
    groups: dict[int, list[Query]] = {}
    for query in queries:
        groups.setdefault(query.group, []).append(query)

    def tick() -> None:
        emit(Stage("answering"))

    for group in groups.values():
        if labels and isinstance(model, LanguageModel):  # batch by batch, over one prefix
            for indices, scores in model.scored([query.prompt for query in group], labels, tick=tick):
                yield [group[i] for i in indices], [_chosen(labels, row) for row in softmax(scores)]
            continue
        for batch in _chunks(group, job.config.batch_size):
            tick()
            if labels:
                yield batch, _predicted(model, [query.prompt for query in batch], labels)
            else:
                yield batch, write(model, batch, job, reader, tick)


def asked(
    model: Endpoint,
    queries: Sequence[Query],
    labels: Sequence[str],
    job: Job,
    emit: Emit,
    reader: Reader | None = None,
) -> Iterator[tuple[Query, Reply]]:
    """Each query with its answer, as an endpoint gives them; of labels the one that the words name.

    Where there are labels, the prompts ask for one of them: see `nbadapt.engines.choice.with_choice`.
    """
    paths = reader.paths if reader else 1
    written: dict[int, dict[int, str]] = {}
    source = job.data.source if job.data is not None else ""
    answers = model.asked(
        [query.prompt for query in queries for _ in range(paths)],
        max_new_tokens=job.config.max_new_tokens,
        temperature=job.config.temperature,
        top_p=job.config.top_p,
        seed=job.seed,
        tick=lambda: emit(Stage("answering")),
        where=lambda place: f"row {queries[place // paths].row} of {source}: " if source else "",
    )
    with contextlib.closing(answers):
        for place, text in answers:
            texts = written.setdefault(place // paths, {})
            texts[place % paths] = text
            if len(texts) == paths:
                query = queries[place // paths]
                yield query, _read([texts[path] for path in range(paths)], labels, reader)


def _read(texts: Sequence[str], labels: Sequence[str], reader: Reader | None) -> Reply:
    """The answer in what an endpoint wrote."""
    if reader:
        return reader.read(texts)
    if not labels:
        return Reply(texts[0])
    label = choice.match(texts[0], labels)
    return Reply(label or texts[0], matched=label is not None)


def _predicted(model: Adapted, prompts: Sequence[Prompt], labels: Sequence[str]) -> list[Reply]:
    """Choices between the labels; a classifier has its own and takes none."""
    texts: Any = prompts
    predicted = model.predict(texts, labels if "generate" in model.abilities else None)
    return [_chosen(predicted.names, row) for row in predicted.probabilities]


def write(
    model: Adapted, batch: Sequence[Query], job: Job, reader: Reader | None, tick: Callable[[], None]
) -> list[Reply]:
    """Free answers to a batch, with the job's sampling settings; as many a prompt as the reader wants."""
    paths = [
        _written(model, [q.prompt for q in batch], job, path, tick) for path in range(reader.paths if reader else 1)
    ]
    return [reader.read(texts) if reader else Reply(texts[0]) for texts in zip(*paths, strict=True)]


def _written(model: Adapted, prompts: Sequence[Prompt], job: Job, path: int, tick: Callable[[], None]) -> list[str]:
    """One text a prompt. What is drawn depends on the seed, the path and the prompt alone, not on its batch."""
    asked: Any = prompts
    seed: Any = job.seed * 1_000_003 + path
    if isinstance(model, LanguageModel):
        seed = [_draw_seed(job.seed, path, prompt) for prompt in prompts]
    return model.generate(
        asked,
        max_new_tokens=job.config.max_new_tokens,
        temperature=job.config.temperature,
        top_p=job.config.top_p,
        seed=seed,
        tick=tick,
    )


def _draw_seed(seed: int, path: int, prompt: Prompt) -> int:
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


class _Record:
    """The answers so far, on disk after every batch."""

    def __init__(self, job: Job, queries: Sequence[Query], figure: str) -> None:
        self._path: Path = job.directory / PREDICTIONS
        self._job, self._queries, self._figure = job, queries, figure
        self.fault = ""  # why the user's own figure is missing
        self.compared = queries[0].expected is not None
        self._right = 0
        self.answers: dict[int, Reply] = {}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text("", encoding="utf-8")

    def add(self, batch: Sequence[Query], answers: Sequence[Reply]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            for query, answer in zip(batch, answers, strict=True):
                self.answers[query.row] = answer
                self._right += self.compared and same(answer.text, query.expected)
                file.write(self._line(query, answer))

    def running(self) -> dict[str, float]:
        """The share of right answers so far."""
        return {self._figure: self._right / len(self.answers)}

    def close(self) -> Outcome:
        """Put the file into the table's order, and give the figures."""
        done = [query for query in self._queries if query.row in self.answers]
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(self._line(q, self.answers[q.row]) for q in done), encoding="utf-8")
        temporary.replace(self._path)
        return Outcome(self._figures(done), {"predictions": PREDICTIONS})

    def _line(self, query: Query, answer: Reply) -> str:
        line: dict[str, Any] = {"row": query.row, "input": query.shown, "output": answer.text}
        if self.compared:
            line |= {"expected": query.expected, "correct": same(answer.text, query.expected)}
        if answer.probabilities:
            line["probabilities"] = {label: round(p, 6) for label, p in answer.probabilities.items()}
        if answer.matched is not None:
            line["matched"] = answer.matched
        if answer.reasoning:
            line["reasoning"] = answer.reasoning[0] if len(answer.reasoning) == 1 else list(answer.reasoning)
        if answer.votes is not None:
            line["votes"] = answer.votes
        return json.dumps(line, ensure_ascii=False) + "\n"

    def _figures(self, done: Sequence[Query]) -> dict[str, float]:
        """The share of right answers and the user's own figure, with their intervals; see `nbadapt.engines.figures`."""
        replies = [self.answers[query.row] for query in done]
        lost = sum(reply.matched is False for reply in replies)
        unmatched = {"unmatched": lost} if lost else {}
        if not self.compared:
            return {"rows": len(done), **unmatched}
        answers = ["" if reply.matched is False else reply.text for reply in replies]
        expected = [str(query.expected) for query in done]
        right = [same(a, e) for a, e in zip(answers, expected, strict=True)]
        seed, classes = self._job.seed, self._figure == "accuracy"
        found = {**figures.of_answers(answers, expected, right, classes=classes, seed=seed), **unmatched}
        if self._job.metric is None:
            return found
        try:
            return {**figures.of_own(self._job.metric, answers, expected, seed), **found}
        except RequestError as error:  # the answers count for more than one figure of them
            self.fault = f"{error}; run.answers has the answers"
            return found


def same(answer: str, expected: str | None) -> bool:
    """Whether an answer is the expected one; white space at the ends and its amount in between do not count."""
    return expected is not None and answer.split() == expected.split()
