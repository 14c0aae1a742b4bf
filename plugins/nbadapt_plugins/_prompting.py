"""What the methods that prompt share; a method adds its demonstrations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from nbadapt.errors import DataError, RequestError, Stopped
from nbadapt.events import Notice, Progress, Sample, Stage
from nbadapt.method import ADVANCED, Adapted, Config, Emit, Estimate, Example, Job, Method, Outcome
from nbadapt.options import DTYPES

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from nbadapt.engines.answering import AnswerReader
    from nbadapt.engines.fitting import AskedRow, Questions, ShotSelection
    from nbadapt.engines.prompts import Shot
    from nbadapt.engines.tokens import Prompt

PROMPT = "artifacts/prompt.json"
ANSWERS = "artifacts/answers.jsonl"  # of an endpoint, each as it came: what a resumed run does not ask again
SORTING = "{{text}}\n\nIs this about an order, a rental, a repair, a return, or other?"
"""The prompt of the examples that sort messages."""


def sorting_example(options: str, body: str = SORTING) -> Example:
    """A cell that sorts twenty messages of a shop's customers, some others being its `--examples`.

    Args:
        options: the method and its own options.
        body: the prompt.
    """
    before = """from nbadapt import datasets

messages = datasets.load("bicycle_shop")
few = messages.groupby("label").sample(4, random_state=0)
rest = messages.drop(few.index).head(20)"""
    return Example(f"%%prompt {options} --model smollm2 --data rest --label label --examples few\n{body}", before)


class PromptConfig(Config):
    """Settings that every prompting method has."""

    max_new_tokens: int = Field(128, ge=1, le=32_768, description="longest free answer, in tokens")
    temperature: float = Field(
        0.0, ge=0, le=10, description="0: the most probable token each time; above: drawn, flatter when higher"
    )
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="draw from the likeliest tokens that together have this probability",
        json_schema_extra=ADVANCED,
    )
    batch_size: int = Field(16, ge=1, le=4096, description="prompts in one forward pass")
    parallel: int = Field(
        8,
        ge=1,
        le=256,
        description="questions under way at a time, where an endpoint is asked",
        json_schema_extra=ADVANCED,
    )
    timeout: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="seconds for one answer of an endpoint, before it is asked again",
        json_schema_extra=ADVANCED,
    )
    retries: int = Field(
        6,
        ge=0,
        le=100,
        description="how often an endpoint is asked again when it is busy or out of reach",
        json_schema_extra=ADVANCED,
    )
    samples: int = Field(
        5, ge=0, le=100, description="rows whose answers are shown at the end", json_schema_extra=ADVANCED
    )
    cache: bool = Field(
        True,
        description="keep answers, and take those that were given to the same prompt before",
        json_schema_extra=ADVANCED,
    )


class PromptMethod(Method):
    """A method that asks a model and trains nothing."""

    requires = ("transformers",)

    def pool(self, job: Job, text: str) -> list[Shot]:
        """Every demonstration that may be shown, filled into the template `text`."""
        return []

    def wanted(self, job: Job) -> int:
        """How many demonstrations are asked for."""
        return 0

    def selection(
        self, job: Job, text: str, pool: Sequence[Shot], prompts: Sequence[Prompt], emit: Emit | None
    ) -> ShotSelection:
        """Which demonstrations are shown before each of the prompts.

        Args:
            job: what was asked.
            text: the template of the pool and the prompts.
            pool: the demonstrations that there are.
            prompts: what is asked, without demonstrations.
            emit: told of the work; None while the cost is estimated, and no weights may be loaded.
        """
        from nbadapt.engines.fitting import ShotSelection

        return ShotSelection()

    def reader(self, job: Job, labels: Sequence[str], rows: Sequence[AskedRow]) -> AnswerReader | None:
        """How an answer is found in what the model writes; None where it is all of it, or chosen from labels."""
        return None

    def asked(self, job: Job, labels: Sequence[str], row: AskedRow) -> AskedRow:
        """A row as this method asks it, demonstrations apart."""
        return row

    def extra_memory(self, job: Job) -> Mapping[str, int]:
        """Predicted peaks in bytes, by item, of what the method needs besides the model."""
        return {}

    def grounded(
        self,
        job: Job,
        rows: Sequence[AskedRow],
        labels: tuple[str, ...],
        tokenizer: PreTrainedTokenizerBase | None,
        emit: Emit | None,
    ) -> Sequence[AskedRow]:
        """The rows with what else the model is to read.

        `tokenizer` is None for an endpoint, `emit` in an estimate, which loads no weights.
        """
        return rows

    # ------------------------------------------------------------------ the contract

    def estimate(self, job: Job) -> Estimate:
        """Parameters, memory and batches; every row is filled in, the longest ones are tokenised."""
        from nbadapt.engines import evaluation

        if job.model.kind == "endpoint":
            plan = self._plan(job, None)
            check_metric(job, plan)
            return Estimate(memory=self.extra_memory(job), steps=len(plan.queries), notes=plan.notes)
        config, total = shape(job)
        plan = self._plan(job, config)
        check_metric(job, plan)
        width = DTYPES[job.dtype]
        rows = min(job.config.batch_size, len(plan.queries))
        cache = 0 if is_classifier(job) else cache_bytes(config, rows * plan.longest, width)
        return Estimate(
            total=total,
            memory={"weights": total * width, "activations": cache, **self.extra_memory(job)},
            steps=evaluation.steps(plan.queries, job.config.batch_size),
            notes=plan.notes,
        )

    def run(self, job: Job, emit: Emit) -> Outcome:
        """Ask once, or once for each row of the data."""
        from nbadapt.engines import evaluation

        emit(Stage("reading the rows"))
        plan = self._plan(job, shape(job)[0] if job.model.kind != "endpoint" else None, emit)
        for note in plan.notes:
            emit(Notice(note))
        _write_prompt(job, plan)
        emit(Stage("loading the model" if job.model.kind != "endpoint" else "reaching the endpoint"))
        model = open_model(job, emit)
        if job.data is None:
            return complete(_ask(model, plan, job, emit), model)
        keep = partial(_keep, job, model)
        outcome = evaluation.evaluate(model, plan.queries, plan.labels, job, emit, keep, plan.reader)
        return complete(outcome, model)

    def load(self, outcome: Outcome, job: Job) -> Adapted:
        """The model with the run's demonstrations before every prompt, and its labels to choose from."""
        from nbadapt.engines.prompted import Prompted
        from nbadapt.engines.prompts import Shot

        stored = json.loads((job.directory / outcome.artifacts["prompt"]).read_text(encoding="utf-8"))
        pool = [Shot(**shot) for shot in stored["shots"]]

        def shots(prompts: Sequence[Prompt]) -> list[list[Shot]]:
            if not stored["chosen"]:
                return [pool for _ in prompts]
            choose = self.selection(job, stored["template"], pool, prompts, lambda _: None).choose
            return [[pool[i] for i in choose(range(len(pool)), stored["count"], row)] for row in range(len(prompts))]

        return Prompted(open_model(job), stored["labels"], shots, stored["separator"])

    # ------------------------------------------------------------------ planning

    def _plan(self, job: Job, config: PretrainedConfig | None, emit: Emit | None = None) -> Questions:
        """Raises RequestError, DataError or ModelError for what cannot be asked; no config: behind an endpoint."""
        if is_classifier(job):
            return self._plan_for_classifier(job)
        from nbadapt import models, pretrained
        from nbadapt.engines.fitting import Fitting

        labels = labels_of(job)
        text = self._template(job, labels)
        tokenizer = pretrained.load_tokenizer(models.base_ref(job.model)) if config is not None else None
        rows = self.grounded(job, rows_of(job, text), labels, tokenizer, emit)
        rows = [self.asked(job, labels, row) for row in rows]
        reader = self.reader(job, labels, rows)
        pool = self.pool(job, text)
        _check_apart(job, rows, pool)
        selection = self.selection(job, text, pool, [row.prompt for row in rows], emit)
        scored = () if reader else labels
        plan = Fitting(job, tokenizer, config, scored, rows, pool, self.wanted(job), selection).plan()
        plan = replace(plan, template=text, chosen=selection.each, reader=reader)
        notes = (*choice_note(job, labels), *free_labels_note(job, labels), *plan.notes)
        return replace(plan, notes=notes) if config is not None else _for_endpoint(job, replace(plan, notes=notes))

    def _plan_for_classifier(self, job: Job) -> Questions:
        from nbadapt import store
        from nbadapt.engines.fitting import Questions

        if self.wanted(job) or self.reader(job, (), ()):
            raise RequestError(
                f"{self.name} needs a language model, and {job.model.name} is a classifier: "
                "use zero-shot, or run.predict(texts)"
            )
        labels = store.read_job(Path(job.model.path), tables=False).labels
        _check_labels(job, labels, f"the classifier {job.model.name} knows")
        rows = rows_of(job, self._template(job, ()))
        return Questions([row.query(row.prompt) for row in rows], labels)

    def _template(self, job: Job, labels: tuple[str, ...]) -> str:
        """The user's template, or one for the table's columns."""
        from nbadapt import template
        from nbadapt.engines import prompts

        text = (job.prompt or "").strip()
        names = template.placeholders(text)
        table = job.data or job.examples
        if names or table is None:
            return text
        if text and job.data is not None:
            raise RequestError(
                f"the prompt names no column of {table.source}, so every row would get the same one: "
                f"write {{{{name}}}} where a row's value goes; columns: {', '.join(table.rows[0])}"
            )
        return prompts.default_template(table.rows[0], table.task, choosing=bool(labels), source=table.source)


def rows_of(job: Job, text: str) -> list[AskedRow]:
    """What is asked: one row for each of the data, or the prompt itself."""
    from nbadapt import template
    from nbadapt.engines import prompts
    from nbadapt.engines.fitting import AskedRow

    names = template.placeholders(text)
    if job.data is None:
        known = dict(job.variables)
        if not template.placeholders(job.prompt or ""):  # the body is the input of the examples' own template
            known |= {name: (job.prompt or "").strip() if name == names[0] else "" for name in names}
        return [AskedRow(1, prompts.fill(text, known), None)]
    prompts.check_filled(job.data, names)
    task = job.data.task
    return [
        AskedRow(number, prompts.fill(text, prompts.values(row, job.variables)), prompts.target(row, task))
        for number, row in enumerate(job.data.rows, 1)
    ]


def check_metric(job: Job, plan: Questions) -> None:
    """Refuse a figure of the user's own that cannot be measured.

    Raises:
        RequestError: there are no answers to compare with, or the function does not work.
    """
    from nbadapt.engines import figures

    if job.metric is None:
        return
    expected = [query.expected for query in plan.queries if query.expected is not None]
    if job.data is None or not expected:
        raise RequestError(
            f"--metric {job.metric.name} needs answers to compare with: add --data, a table with a column label or "
            "completion, or name the column with --label"
        )
    figures.check(job.metric, expected)


def _check_apart(job: Job, rows: Sequence[AskedRow], pool: Sequence[Shot]) -> None:
    """Refuse rows that are compared with their answers and are among the examples of another table.

    Where both are the same table, a row is left out of its own demonstrations instead.

    Raises:
        DataError: names a row of each table.
    """
    from nbadapt.engines.tokens import as_text

    if job.data is None or job.examples is None or job.data.rows == job.examples.rows:
        return
    shown = {as_text(shot.prompt): number for number, shot in reversed(list(enumerate(pool, 1)))}
    found = [row for row in rows if row.expected is not None and as_text(row.prompt) in shown]
    if found:
        more = f" (and {len(found) - 1:,} more)" if len(found) > 1 else ""
        raise DataError(
            f"row {found[0].number} of {job.data.source} is also row {shown[as_text(found[0].prompt)]} of "
            f"{job.examples.source}{more}: its answer would be shown; take it out of one of them, or give the same "
            "table to both, and no row is shown to itself"
        )


def labels_of(job: Job) -> tuple[str, ...]:
    """The classes to choose from: as asked for, or those of the data and of the examples."""
    table = job.data or job.examples
    labels = job.labels or (table.labels if table is not None else ())
    if labels and not job.labels and job.examples is not None:
        labels = tuple(sorted({*labels, *job.examples.labels}))
    if job.labels:
        _check_labels(job, job.labels, "--labels has")
    if len(set(labels)) == 1:
        raise RequestError(f"there is only the label {labels[0]!r} to choose: name the classes with --labels A,B")
    return tuple(dict.fromkeys(labels))


def choice_note(job: Job, labels: Sequence[str]) -> tuple[str, ...]:
    """A note where the table alone decided that the model chooses instead of writing."""
    if not labels or job.labels:
        return ()
    shown = ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
    return (f"the answers are chosen from the table's labels: {shown}; leave the label column out for free text",)


def free_labels_note(job: Job, labels: Sequence[str]) -> tuple[str, ...]:
    """A note where a column of labels is read as free text, because its values are too many or too long."""
    table = job.data or job.examples
    if labels or table is None or table.task != "generation":
        return ()
    if not any(str(row.get("label", "")) == row["completion"] for row in table.rows):
        return ()
    count = len({row["completion"] for row in table.rows})
    return (
        f"the labels of {table.source} have {count:,} different values, too many or too long for classes: "
        "answers are free text and must be equal; to choose from classes, name them with --labels A,B",
    )


def _for_endpoint(job: Job, plan: Questions) -> Questions:
    """The plan with the labels in the prompts, for a model that chooses in words, and with what will be sent."""
    from nbadapt.engines import choice
    from nbadapt.engines.tokens import rough_tokens

    notes = plan.notes
    if plan.labels:
        plan = replace(
            plan, queries=[replace(q, prompt=choice.with_choice(q.prompt, plan.labels)) for q in plan.queries]
        )
        said = " ".join(choice.request(plan.labels[:8]).split()) + (" ..." if len(plan.labels) > 8 else "")
        notes = (*notes, f"the endpoint chooses in words; each prompt ends with: {said}")
    paths = plan.reader.paths if plan.reader else 1
    count, tokens = paths * len(plan.queries), paths * sum(rough_tokens(query.prompt) for query in plan.queries)
    cost = (
        f"{count:,} request{'s' * (count > 1)} to {job.model.base_url}: about {tokens:,} tokens of prompts (four "
        f"characters each), at most {count * job.config.max_new_tokens:,} tokens of answers"
    )
    return replace(plan, notes=(*notes, cost))


def _check_labels(job: Job, labels: Sequence[str], who: str) -> None:
    for table in (job.data, job.examples):
        for number, row in enumerate(table.rows if table is not None and table.task == "classification" else (), 1):
            if row["label"] not in labels:
                assert table is not None  # it has rows
                raise DataError(
                    f"row {number} of {table.source} has the label {row['label']!r}; {who} {', '.join(labels)}"
                )


# ------------------------------------------------------------------------------------------------ the model


def is_classifier(job: Job) -> bool:
    """Whether the model is a run that trained a classification head."""
    from nbadapt import store

    return job.model.kind == "run" and store.read_job(Path(job.model.path), tables=False).task == "classification"


def shape(job: Job) -> tuple[PretrainedConfig, int]:
    """The model's configuration and its number of parameters, without weights."""
    from nbadapt import models, pretrained, store
    from nbadapt.engines.training_estimate import count_parameters

    if job.model.kind == "run":
        return pretrained.read_config(models.base_ref(job.model)), store.open(job.model.path).estimate.total
    model = pretrained.skeleton(job.model, "causal")
    return model.config, count_parameters(model)[1]


def cache_bytes(config: PretrainedConfig, tokens: int, width: int) -> int:
    """Keys and values of so many tokens; none where the model has no attention, as Mamba."""
    text: Any = config.get_text_config()
    queries = getattr(text, "num_attention_heads", None)
    if not queries:
        return 0
    heads = getattr(text, "num_key_value_heads", None) or queries
    size = getattr(text, "head_dim", None) or getattr(text, "hidden_size", 0) // queries
    return int(2 * getattr(text, "num_hidden_layers", 0) * heads * size * tokens * width)


def open_model(job: Job, emit: Emit | None = None) -> Adapted:
    """The model; `emit` where the run works with it, and not what comes after."""
    from nbadapt import models, store
    from nbadapt.engines.generate import LanguageModel

    if job.model.kind == "endpoint":
        return _reach(job, emit)
    if job.model.kind == "run":
        adapted = store.open(job.model.path).adapted()
        if isinstance(adapted, LanguageModel):
            return LanguageModel(adapted.model, adapted.tokenizer, job.config.batch_size)
        return adapted
    return LanguageModel(*models.load(job.model, job.device, job.dtype), job.config.batch_size)


def _reach(job: Job, emit: Emit | None) -> Adapted:
    from nbadapt import endpoints
    from nbadapt.engines.asking import EndpointLimits

    limits = EndpointLimits(job.config.parallel, job.config.timeout, job.config.retries)
    if emit is None:
        return endpoints.open_model(job.model, limits)
    return endpoints.open_model(
        job.model, limits, journal=job.directory / ANSWERS, tell=lambda line: emit(Notice(line, "warning"))
    )


def _ask(model: Adapted, plan: Questions, job: Job, emit: Emit) -> Outcome:
    """One prompt: a label and its probabilities, or free text."""
    from nbadapt.engines import evaluation

    (query,) = plan.queries
    answer = evaluation.ask(model, query, plan.labels, job, emit, plan.reader)
    if plan.reader and not answer.text:
        emit(Notice("no answer was found in what the model wrote: the whole is shown; see answer_pattern"))
        answer = replace(answer, text=answer.reasoning[0])
    with suppress(Stopped):  # there is nothing left to stop
        emit(Sample(1, query.shown, answer.shown, reasoning=answer.shown_reasoning))
        emit(Progress(1, 1, examples=1, tokens=sum(model.usage.values())))
    figures = {"unmatched": 1} if answer.matched is False else answer.probabilities
    return Outcome(figures or {}, {}, answer.text)


def complete(outcome: Outcome, model: Adapted) -> Outcome:
    """The outcome with what its answers cost, and what `load` needs."""
    return Outcome({**outcome.metrics, **model.usage}, {**outcome.artifacts, "prompt": PROMPT}, outcome.output)


def _keep(job: Job, model: Adapted, outcome: Outcome) -> None:
    """Store what was answered before an error; the run ends as failed, with this outcome."""
    from nbadapt import store

    store.write_outcome(job.directory, "failed", complete(outcome, model), "")


def _write_prompt(job: Job, plan: Questions) -> None:
    """What `load` needs to ask in the same way, and what was asked."""
    from nbadapt import store
    from nbadapt.engines import prompt_log

    prompt_log.write(job.directory, plan.queries)
    path = job.directory / PROMPT
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write_json(
        path,
        {
            "labels": plan.labels,
            "template": plan.template,
            "shots": [asdict(shot) for shot in plan.shots],
            "chosen": plan.chosen,
            "count": plan.count,
            "separator": plan.separator,
        },
    )
