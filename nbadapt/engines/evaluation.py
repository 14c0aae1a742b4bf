"""Asks a model one question after another, and keeps its answers: in a file, in figures, in events."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from nbadapt.engines import figures
from nbadapt.engines.answering import Answering, AnswerReader, Query, Reply
from nbadapt.engines.endpoint import Endpoint
from nbadapt.engines.generate import LanguageModel
from nbadapt.engines.tokens import encode_completion
from nbadapt.errors import NbadaptError, RequestError, Stopped
from nbadapt.events import Metric, Notice, Progress, Sample, Stage
from nbadapt.method import Adapted, Emit, Job, Outcome
from nbadapt.redaction import hide_keys

if TYPE_CHECKING:
    from pathlib import Path

PREDICTIONS = "artifacts/predictions.jsonl"


def evaluate(
    model: Adapted,
    queries: Sequence[Query],
    labels: Sequence[str],
    job: Job,
    emit: Emit,
    keep: Callable[[Outcome], None] = lambda _: None,
    reader: AnswerReader | None = None,
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
    record = _Record(job, queries, "accuracy" if labels or (reader and reader.classes) else "exact_match")
    size = 1 if isinstance(model, Endpoint) else job.config.batch_size
    total = steps(queries, size)
    try:
        with Answering(model, labels, job, emit, reader) as answering:
            known = answering.known(queries)
            left = [query for query in queries if query.row not in known]
            _check(model, left, labels, job, emit)
            before = total - steps(left, size)
            if known:
                record.add([query for query in queries if query.row in known], known)
                emit(Notice(f"{len(known):,} of {len(queries):,} rows were asked before: see  %nbadapt cache"))
                _tell(record, model, before, total, emit)
            for step, (batch, answers) in enumerate(answering.answers(left), before + 1):
                record.add(batch, {q.row: a for q, a in zip(batch, answers, strict=True)})
                _tell(record, model, step, total, emit)
            cache_fault = answering.fault
    except Stopped:
        if not record.answers:
            raise
        tell_reused([model], emit)
        return record.close()
    except Exception:  # the graphics card's memory, say: hours of answers are not lost with it
        if record.answers:
            keep(record.close())
        raise
    outcome = record.close()
    with suppress(Stopped):  # everything is answered and stored
        tell_reused([model], emit)
        for fault in filter(None, (record.fault, cache_fault)):
            emit(Notice(fault, "warning"))
        if reader:
            _tell_unread(record, queries, emit)
        for query in queries[: job.config.samples]:
            reply = record.answers[query.row]
            emit(Sample(total, query.shown, reply.shown, query.expected, reply.shown_reasoning))
    return outcome


def tell_reused(models: Iterable[Adapted], emit: Emit) -> None:
    """A notice of how many answers of endpoints were those of earlier runs."""
    count = sum(model.reused for model in models if isinstance(model, Endpoint))
    if count:
        said = "1 answer was" if count == 1 else f"{count:,} answers were"
        emit(Notice(f"{said} given before, and cost nothing: see  %nbadapt cache"))


def _tell(record: _Record, model: Adapted, step: int, total: int, emit: Emit) -> None:
    """How far it is; a step that began with answers that were known may not be done yet."""
    if step:
        emit(Progress(step, total, examples=len(record.answers), tokens=sum(model.usage.values())))
        if record.compared:
            emit(Metric(step, "evaluation", record.running()))


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
    """How many batches of at most `batch_size` the queries make; queries of two groups are in no batch together."""
    return sum(-(-count // batch_size) for count in Counter(query.group for query in queries).values())


def ask(
    model: Adapted, query: Query, labels: Sequence[str], job: Job, emit: Emit, reader: AnswerReader | None = None
) -> Reply:
    """The model's answer to one query; arguments as those of `evaluate`.

    Raises:
        ModelError: the prompt leaves no room for an answer.
        Stopped: before there is one.
    """
    emit(Stage("answering"))
    with Answering(model, labels, job, emit, reader) as answering:
        reply = answering.one(query)
    with suppress(Stopped):  # there is nothing left to stop
        tell_reused([model], emit)
    return reply


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

    def add(self, batch: Sequence[Query], answers: Mapping[int, Reply]) -> None:
        """Keep the answers to a batch, by row."""
        with self._path.open("a", encoding="utf-8") as file:
            for query in batch:
                answer = self.answers[query.row] = answers[query.row]
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
        line: dict[str, Any] = {"row": query.row, "input": query.shown, "output": hide_keys(answer.text)}
        if self.compared:
            line |= {"expected": query.expected, "correct": same(answer.text, query.expected)}
        if answer.probabilities:
            line["probabilities"] = {label: round(p, 6) for label, p in answer.probabilities.items()}
        if answer.matched is not None:
            line["matched"] = answer.matched
        if answer.reasoning:
            reasoning = [hide_keys(text) for text in answer.reasoning]
            line["reasoning"] = reasoning[0] if len(reasoning) == 1 else reasoning
        if answer.votes is not None:
            line["votes"] = {hide_keys(text): count for text, count in answer.votes.items()}
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
