"""The rows of a search among prompts, and what fills prompts with them: told from tables and a tokenizer alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nbadapt.errors import RequestError, UnsuitedError
from nbadapt_plugins._prompting import is_classifier, labels_of, rows_of, shape
from nbadapt_plugins._scoring import Tried
from nbadapt_plugins._search_rows import Part, divide

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from nbadapt.engines.fitting import AskedRow, Questions
    from nbadapt.engines.prompts import Shot
    from nbadapt.method import Job

LOOKED_AT = 20  # rows to search on whose prompts' mean length stands for that of all


class Ground:
    """The rows of a search and what is needed to fill prompts with them; no weights.

    Args:
        job: what was asked.
        templates: all that rows may be filled into.
        shown: demonstrations before each prompt, or for the proposer.
        in_prompts: whether they are before each prompt.

    Attributes:
        division: the rows: shown, searched on, held out.
        labels: the classes; empty for free answers.
        at_endpoint: whether the model is behind one, and nothing is known of it but its name.
        config, total, tokenizer: the model's, and its number of parameters; None, 0 and None behind an endpoint.
        size: prompts in a batch.

    Raises:
        RequestError, DataError, ModelError: rows, templates or a model that cannot be used.
    """

    def __init__(self, job: Job, templates: Sequence[str], shown: int, *, in_prompts: bool) -> None:
        from nbadapt import models, pretrained

        if is_classifier(job):
            raise UnsuitedError(f"{job.method} needs a language model, and {job.model.name} is a classifier")
        self.job, self._in_prompts = job, in_prompts
        columns = _columns(job, templates)
        self.division = divide(job, columns, shown, job.config.search_rows)
        self.labels = labels_of(job) or (self.division.search.table.labels if job.data.task == "text" else ())  # type: ignore[union-attr]  # divided
        self.at_endpoint = job.model.kind == "endpoint"
        self.config: PretrainedConfig | None
        self.config, self.total = (None, 0) if self.at_endpoint else shape(job)
        self.tokenizer = None if self.at_endpoint else pretrained.load_tokenizer(models.base_ref(job.model))
        self.size = 1 if self.at_endpoint else job.config.batch_size
        self._filled: dict[str, tuple[list[AskedRow], list[AskedRow]]] = {}

    @property
    def longest_answer(self) -> int:
        """Tokens that an answer takes at most; none where labels are scored."""
        return 0 if self.labels and not self.at_endpoint else int(self.job.config.max_new_tokens)

    def steps_for(self, rows: int) -> int:
        """How many steps so many rows take."""
        return -(-rows // self.size)

    def tried(self, number: int, template: str, name: str, instruction: str = "") -> tuple[Tried, Questions]:
        """A prompt that can be asked the rows to search on.

        Raises:
            RequestError, DataError: a row that the template cannot be filled with.
            ModelError: a row that does not fit the model's context.
        """
        rows, _ = self._rows(template)
        plan = self._fitted(template, instruction, rows, self.division.search)
        tokens = self._mean_tokens(plan.queries)
        return Tried(number, template, instruction, name, plan.queries, plan.shots, tokens), plan

    def held_out(self, template: str, instruction: str = "") -> Questions:
        """The held-out rows with a prompt; raises as `tried` does."""
        _, rows = self._rows(template)
        return self._fitted(template, instruction, rows, self.division.held_out)

    def _rows(self, template: str) -> tuple[list[AskedRow], list[AskedRow]]:
        """The rows to search on and those held out, filled into a template; done once for each."""
        if template not in self._filled:
            parts = (self.division.search, self.division.held_out)
            self._filled[template] = tuple(self._fill(template, part) for part in parts)  # type: ignore[assignment]  # two
        return self._filled[template]

    def _fill(self, template: str, part: Part) -> list[AskedRow]:
        from nbadapt.engines import prompts
        from nbadapt.template import placeholders

        prompts.check_filled(part.table, placeholders(template))  # with the table's own row numbers
        try:
            rows = rows_of(replace(self.job, data=part.alone()), template)
        except RequestError as error:
            raise RequestError(f"the rows of {part.table.source}: {error}") from None
        return [replace(row, number=number) for row, number in zip(rows, part.numbers, strict=True)]

    def _fitted(self, template: str, instruction: str, rows: Sequence[AskedRow], part: Part) -> Questions:
        from nbadapt.engines import choice
        from nbadapt.engines.fitting import Fitting, ShotSelection
        from nbadapt.engines.templated import instructed

        asked = [replace(row, prompt=instructed(instruction, row.prompt)) for row in rows]
        shots = self._shots(template, instruction)
        job = replace(self.job, data=part.table)
        selection = ShotSelection(lambda places, count, _: tuple(places[:count]))
        plan = Fitting(job, self.tokenizer, self.config, self.labels, asked, shots, len(shots), selection).plan()
        if self.at_endpoint and self.labels:
            queries = [replace(query, prompt=choice.with_choice(query.prompt, self.labels)) for query in plan.queries]
            plan = replace(plan, queries=queries)
        return plan

    def _shots(self, template: str, instruction: str) -> list[Shot]:
        """The demonstrations before each prompt, filled into its template."""
        from nbadapt.engines.prompts import shots_of
        from nbadapt.engines.templated import instructed

        if not (self._in_prompts and len(self.division.shown)):
            return []
        shots = shots_of(self.division.shown.alone(), template, self.job.variables)
        return [replace(shot, prompt=instructed(instruction, shot.prompt)) for shot in shots]

    def _mean_tokens(self, queries: Sequence[Any]) -> int:
        """Of the first `LOOKED_AT` rows, which were drawn at random: all would take about as long as an answer."""
        from nbadapt.engines.tokens import encode_prompt, rough_tokens

        some = [query.prompt for query in queries[:LOOKED_AT]]
        if self.tokenizer is None:
            return round(sum(map(rough_tokens, some)) / len(some))
        return round(sum(len(encode_prompt(self.tokenizer, prompt)) for prompt in some) / len(some))


def _columns(job: Job, templates: Sequence[str]) -> list[list[str]]:
    """The columns of the data that each of the templates names.

    Raises:
        RequestError: a template that names none, so that every row would get the same prompt; or the answers'.
    """
    from nbadapt import template

    if job.data is None:
        return []  # refused by `divide`, which says what to give
    known = {name for table in (job.data, job.examples) if table is not None for name in table.rows[0]}
    named = []
    for number, text in enumerate(templates, 1):
        own = [name for name in template.placeholders(text) if name in known]
        which = f"template {number}" if len(templates) > 1 else "the prompt"
        if told := [name for name in own if _is_answer(job, name)]:
            raise RequestError(f"{which} names {{{{{told[0]}}}}}, the column of the answers: the model would read them")
        if not own:
            raise RequestError(
                f"{which} names no column of {job.data.source}, so every row would get the same prompt: write "
                f"{{{{name}}}} where a row's value goes; columns: {', '.join(job.data.rows[0])}"
            )
        named.append(own)
    return named


def _is_answer(job: Job, column: str) -> bool:
    """Whether a column holds what the model is to answer."""
    from nbadapt.engines.prompts import target

    tables = [table for table in (job.examples, job.data) if table is not None and table.task != "text"]
    return any(
        all(str(row.get(column)).strip() == (target(row, table.task) or "").strip() for row in table.rows)
        for table in tables
    )
