"""A template, a table's rows and demonstrations -> what the model is asked.

::

    chat model     user: demonstration 1     plain model     demonstration 1 answer 1
                   assistant: answer 1                       <separator>
                   user: the row                             the row
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbadapt import data, template
from nbadapt.data import Examples
from nbadapt.engines.tokens import Prompt, as_text, plain_text, turns
from nbadapt.errors import DataError, RequestError
from nbadapt.method import Task

# Where a template is left out: columns that hold the input, in order of preference.
INPUTS = ("text", "prompt", "question", "sentence", "instruction", "input")


@dataclass(frozen=True)
class Shot:
    """A demonstration.

    Attributes:
        prompt: filled.
        answer: what is shown as the model's answer.
        target: the cell of the table's answers, such as a label.
    """

    prompt: Prompt
    answer: str
    target: str = ""


def default_template(row: Mapping[str, Any], task: Task, *, choosing: bool, source: str) -> str:
    """The template for a table where the user wrote none.

    Args:
        row: one row, for its columns.
        task: what the rows are for.
        choosing: whether the answer is one of a few labels.
        source: what the user calls the table.

    Raises:
        RequestError: no column is known to hold the input.
    """
    column = next((name for name in INPUTS if name in row), None)
    if column is None:
        targets = {"label", "completion"} if task != "text" else set()
        others = [name for name in row if name not in targets]
        if len(others) != 1:
            named = ", ".join(f"{{{{{name}}}}}" for name in others)
            raise RequestError(
                f"the prompt is empty and no column of {source} is named {' or '.join(INPUTS[:2])}: "
                f"write a prompt below the line with {named or 'a placeholder'}"
            )
        column = others[0]
    if column == "instruction" and "input" in row:
        return "{{instruction}}\n\n{{input}}"
    return f"Text: {{{{{column}}}}}\nLabel:" if choosing else f"{{{{{column}}}}}"


def values(row: Mapping[str, Any], variables: Mapping[str, str]) -> dict[str, Any]:
    """What a row's placeholders stand for: its columns, then notebook variables.

    An instruction's input may be missing; other columns may not, see `nbadapt.data.check_filled`.
    """
    known = {**variables, **row}
    if "instruction" in row and known.get("input", "") is None:
        known["input"] = ""
    return known


def fill(text: str, row: Mapping[str, Any], where: str = "") -> Prompt:
    """The template with a row's values; a conversation where the template is but the name of one.

    White space at the ends goes: a model reads an open space before its answer as a word of its own.

    Args:
        text: the template.
        row: values by name.
        where: named in the error, such as "--examples".

    Raises:
        RequestError: a placeholder without a value.
    """
    names = template.placeholders(text)
    if len(names) == 1 and template.PLACEHOLDER.fullmatch(text) and isinstance(row.get(names[0]), list):
        talk: list[Mapping[str, str]] = row[names[0]]
        return talk
    try:
        return template.fill(text, row).strip()
    except RequestError as error:
        raise RequestError(f"{where}: {error}" if where else str(error)) from None


def check_filled(table: Examples, names: Sequence[str]) -> None:
    """Refuse rows without a value for a placeholder; an instruction's input may be missing.

    Raises:
        DataError: names the row and the column.
    """
    columns = table.rows[0]
    optional = {"input"} if "instruction" in columns else set()
    data.check_filled(table, [name for name in names if name in columns and name not in optional])


def target(row: Mapping[str, Any], task: Task) -> str | None:
    """The expected answer of a row, or None where its table has none."""
    column = {"classification": "label", "generation": "completion"}.get(task)
    return None if column is None else str(row[column])


def shots_of(examples: Examples, text: str, variables: Mapping[str, str]) -> list[Shot]:
    """Every row of a table as a demonstration.

    Raises:
        DataError: the table has no column with answers.
        RequestError: the template names a column that the table lacks.
    """
    if examples.task not in {"classification", "generation"}:
        raise DataError(
            f"{examples.source} has no answers to show: it needs a column label or completion, "
            "or name one with --label or --completion"
        )
    check_filled(examples, template.placeholders(text))
    where = f"the examples in {examples.source}"
    answers = [target(row, examples.task) or "" for row in examples.rows]
    prompts = [fill(text, values(row, variables), where) for row in examples.rows]
    return [Shot(prompt, answer, answer) for prompt, answer in zip(prompts, answers, strict=True)]


def content(text: str, prompt: Prompt) -> str:
    """What a prompt says besides the words of its template; all of it where it was not made from that.

    Two prompts are alike when their contents are, however long the instruction that both begin with.

    Args:
        text: the template.
        prompt: what `fill` made of it.
    """
    filled, fixed = as_text(prompt), template.PLACEHOLDER.split(text.strip())[::2]  # odd ones are the names
    if len(fixed) == 1 or not (filled.startswith(fixed[0]) and filled.endswith(fixed[-1])):
        return filled
    found, at = [], len(fixed[0])
    for words in fixed[1:-1]:
        end = filled.find(words, at)
        if end < 0:
            return filled
        found.append(filled[at:end])
        at = end + len(words)
    found.append(filled[at : len(filled) - len(fixed[-1])])
    return "\n".join(found).strip() or filled


def with_shots(shots: Sequence[Shot], prompt: Prompt, *, chat: bool, separator: str) -> Prompt:
    """The prompt behind its demonstrations: turns of a conversation, or one text.

    Args:
        shots: in the order they are shown.
        prompt: what is asked.
        chat: whether the model has a chat template.
        separator: between demonstrations of a plain text.
    """
    if not shots:
        return prompt
    if chat:
        talk: list[Mapping[str, str]] = []
        for shot in shots:
            talk += [*turns(shot.prompt), {"role": "assistant", "content": shot.answer}]
        return [*talk, *turns(prompt)]
    blocks = [f"{plain_text(shot.prompt)}{_space(shot)}{shot.answer}" for shot in shots]
    return separator.join([*blocks, plain_text(prompt)])


def _space(shot: Shot) -> str:
    """One space before the answer, unless there is white space: as `encode_completion` has it."""
    return "" if plain_text(shot.prompt)[-1:].isspace() or shot.answer[:1].isspace() else " "
