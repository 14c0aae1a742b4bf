"""Tables of many kinds -> Examples of one task. Errors name the row and the column.

The names of the columns decide the task, as in trl and transformers::

    text, label                          classification
    messages                             generation: the last message is the completion, the others the prompt
    prompt, completion                   generation
    instruction [, input], output        generation: instruction, blank line and input are the prompt
    prompt, chosen, rejected             preference
    text                                 text

Rows are counted from 1, without a file's header. `sources` knows the kinds of tables, `layouts` the columns,
`cells` the values.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from nbadapt import cells, json_text, layouts, sources
from nbadapt.errors import DataError
from nbadapt.sources import Sheet

if TYPE_CHECKING:
    from nbadapt.method import Task  # pydantic: not at import time

T = TypeVar("T")
NO_COLUMNS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Examples:
    """Rows of one task, with the task's own column names.

    classification: ``text``, ``label`` (both str). generation: ``prompt``, ``completion`` (str; prompt may be a
    list of chat messages, where the source had ``messages``). preference: ``prompt`` (likewise), ``chosen``,
    ``rejected``. text: ``text``. Rows read for a prompt template keep the source's other columns too.

    Attributes:
        task: what the rows are for.
        rows: one mapping a row.
        labels: the distinct labels in sorted order; empty where the task has none.
        source: what the user calls the table.
    """

    task: Task
    rows: tuple[Mapping[str, Any], ...]
    labels: tuple[str, ...] = ()
    source: str = "data"

    def __len__(self) -> int:
        return len(self.rows)


TARGETS = ("label", "completion", "output", "answer")
MOST_CLASSES = 20  # more distinct values are classes only where they repeat and the column is the label
LONGEST_CLASS = 50  # characters


# ------------------------------------------------------------------------------------------------ reading


def read(source: Any, *, name: str, task: Task | None = None, columns: Mapping[str, str] = NO_COLUMNS) -> Examples:
    """The examples of a table, for training or evaluation.

    Args:
        source: see `nbadapt.sources.KINDS`.
        name: what the user calls it, for messages.
        task: None to tell it from the columns.
        columns: the task's column name -> the user's column name.

    Raises:
        DataError: the table cannot be read, or a column or cell does not fit; names the row and the column.
        DependencyError: the library that reads it is not installed.
    """
    table = sources.load(source, name)
    where = layouts.places(table, columns)
    form = layouts.choose(table, where, task, columns)
    rows = tuple(_rows(table, where, form))
    if form.task == "preference":
        _check_differences(rows, table.source)
    labels = tuple(sorted({row["label"] for row in rows})) if form.task == "classification" else ()
    return Examples(form.task, rows, labels, table.source)


def _rows(table: Sheet, where: Mapping[str, str], form: layouts.Form) -> list[dict[str, Any]]:
    def cells_of(column: str, convert: Callable[[Any], T]) -> list[T]:
        return _converted(table, where[column], convert)

    match form.columns:
        case ("messages",):
            pairs = cells_of("messages", cells.conversation)
            return [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]
        case ("instruction", "output"):
            prompts = cells_of("instruction", cells.text)
            if layouts.OPTIONAL in where:
                inputs = cells_of(layouts.OPTIONAL, cells.optional_text)
                prompts = [f"{a}\n\n{b}" if b else a for a, b in zip(prompts, inputs, strict=True)]
            return _zip({"prompt": prompts, "completion": cells_of("output", cells.answer)})
    return _zip({column: cells_of(column, CONVERTERS[column]) for column in form.columns})


def _check_differences(rows: Sequence[Mapping[str, Any]], source: str) -> None:
    """Refuse preference rows that prefer an answer to itself."""
    same = [number for number, row in enumerate(rows, 1) if row["chosen"].strip() == row["rejected"].strip()]
    if same:
        more = f" (and {len(same) - 1:,} more)" if same[1:] else ""
        raise DataError(
            f"{source}, row {same[0]} (counted from 1): 'chosen' and 'rejected' are the same answer: "
            f"correct it or drop the row{more}"
        )


CONVERTERS: Mapping[str, Callable[[Any], Any]] = MappingProxyType(
    {
        "text": cells.text,
        "label": cells.label,
        "prompt": cells.prompt,
        "completion": cells.answer,
        "chosen": cells.answer,
        "rejected": cells.answer,
    }
)


def _zip(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _converted(table: Sheet, column: str, convert: Callable[[Any], T]) -> list[T]:
    found = []
    values = table.column(column)
    for number, value in enumerate(values, 1):
        try:
            found.append(convert(value))
        except cells.UnfitError as error:
            where = f"{table.source}, row {number} (counted from 1), column {column!r}"
            others = sum(_unfit(other, convert) for other in values[number:])
            more = f" (and {others:,} more)" if others else ""
            raise DataError(f"{where}: {error}{more}") from None
    return found


def _unfit(value: Any, convert: Callable[[Any], Any]) -> bool:
    try:
        convert(value)
    except cells.UnfitError:
        return True
    return False


# ------------------------------------------------------------------------------------------------ for a prompt


def read_for_prompt(
    source: Any, *, name: str, columns: Mapping[str, str] = NO_COLUMNS, label: str | None = None
) -> Examples:
    """The rows of a table for a prompt template, with all of the source's columns.

    The target is the column `label`, or the one that `columns` says is the label or completion, or the first
    there is of `TARGETS`. A target of short values makes the task classification and stands under "label" where
    they are few and repeat; where it is the label by its name or by the user's word, one of the two is enough. Any
    other makes it generation and stands under "completion". Without a target the task is "text". Cells without a
    value are None; see `check_filled`.

    Args:
        source: see `nbadapt.sources.KINDS`.
        name: what the user calls it, for messages.
        columns: the task's column name -> the user's column name; rows have the cell under both.
        label: the user's column with the expected answers.

    Raises:
        DataError: the table cannot be read, has no such column, or the target has an empty cell.
        DependencyError: the library that reads it is not installed.
    """
    table = sources.load(source, name)
    where = layouts.places(table, columns)
    if label is not None and label not in table.columns:
        raise layouts.no_column(table, label, "--label names it")
    values = {column: [_storable(cell) for cell in table.column(column)] for column in table.columns}
    values |= {part: values[column] for part, column in columns.items()}
    label = label or columns.get("label")
    target = label or columns.get("completion") or next((column for column in TARGETS if column in where), None)
    if target is None:
        return Examples("text", tuple(_zip(values)), (), table.source)
    answers = _converted(table, target, cells.answer)
    if not _are_classes(answers, named=target in (label, "label")):
        values["completion"] = answers
        return Examples("generation", tuple(_zip(values)), (), table.source)
    values["label"] = [answer.strip() for answer in answers]
    return Examples("classification", tuple(_zip(values)), tuple(sorted(set(values["label"]))), table.source)


def _are_classes(answers: Sequence[str], *, named: bool) -> bool:
    distinct = set(answers)
    if any(len(a) > LONGEST_CLASS or "\n" in a for a in distinct):
        return False
    few, repeat = len(distinct) <= MOST_CLASSES, len(distinct) < len(answers) / 2
    return (few or repeat) if named else (few and repeat)


def _storable(value: Any) -> Any:
    """A cell that JSON can hold: dates and the like as text."""
    if isinstance(value, dict):
        return {key: _storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_storable(item) for item in value]
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


# ------------------------------------------------------------------------------------------------ checks


def check_training(examples: Examples) -> None:
    """Refuse a classification table from which nothing can be learnt.

    Raises:
        DataError: every row has the same label.
    """
    if examples.task == "classification" and len(examples.labels) < 2:
        only = examples.labels[0] if examples.labels else ""
        raise DataError(
            f"{examples.source}: every row of the column 'label' is {only!r}: classification needs two labels or more"
        )


def check_labels(evaluation: Examples, training: Examples) -> None:
    """Refuse evaluation rows that the training rows cannot prepare for, and training rows of one class.

    Raises:
        DataError: an evaluation label that no training row has; names the row. Or see `check_training`.
    """
    check_training(training)
    known = set(training.labels)
    for number, row in enumerate(evaluation.rows, 1):
        if evaluation.task == "classification" and row["label"] not in known:
            where = f"{evaluation.source}, row {number} (counted from 1), column 'label'"
            raise DataError(
                f"{where}: {row['label']!r} is no label of {training.source} ({cells.listed(training.labels)}): "
                "correct it, or add training rows for it"
            )


def check_filled(examples: Examples, columns: Sequence[str]) -> None:
    """Refuse rows that have no value in a column that a prompt uses.

    Raises:
        DataError: names the first such row and its column.
    """
    for number, row in enumerate(examples.rows, 1):
        for column in columns:
            if row.get(column) is None:
                where = f"{examples.source}, row {number} (counted from 1), column {column!r}"
                raise DataError(f"{where}: {cells.EMPTY}")


# ------------------------------------------------------------------------------------------------ split


def split(examples: Examples, share: float, seed: int) -> tuple[Examples, Examples]:
    """Training rows and held-out rows, each in the order of the source; both know all labels.

    Classes keep their shares as closely as whole rows allow, and every class keeps a training row. Preferences about
    one prompt stay on one side, or its held-out pairs would show answers that were trained on.

    Args:
        examples: at least two rows.
        share: share of the rows held out, between 0 and 1; at least one row is.
        seed: decides which rows.

    Raises:
        DataError: too few rows, one class only, or a share outside its bounds.
    """
    if not 0 < share < 1:
        raise DataError(f"a share of {share:g} cannot be held out: give a number between 0 and 1, such as 0.1")
    check_training(examples)
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(examples.rows):
        groups.setdefault(row["label"] if examples.task == "classification" else "", []).append(i)
    most = len(examples) - len(groups)  # one row of each class stays
    if most < 1:
        few = "every label has only one row" if len(groups) > 1 else f"{len(examples)} row is too few"
        raise DataError(f"{examples.source}: {few} to hold rows out: add rows, or give evaluation data with --eval")
    wanted = min(max(1, round(len(examples) * share)), most)
    rng = random.Random(seed)  # noqa: S311  # a reproducible choice, no secret
    if examples.task == "preference":
        return _parted(examples, _held_prompts(examples, wanted, rng))
    held: set[int] = set()
    for label, count in _allotted({label: len(rows) for label, rows in groups.items()}, wanted).items():
        held.update(rng.sample(groups[label], count))
    return _parted(examples, held)


def _parted(examples: Examples, held: set[int]) -> tuple[Examples, Examples]:
    train = tuple(row for i, row in enumerate(examples.rows) if i not in held)
    evaluation = tuple(row for i, row in enumerate(examples.rows) if i in held)
    return replace(examples, rows=train), replace(examples, rows=evaluation)


def _held_prompts(examples: Examples, wanted: int, rng: random.Random) -> set[int]:
    """About `wanted` rows, at least one and not all: whole prompts; rows where there is one prompt alone."""
    prompts: dict[str, list[int]] = {}
    for i, row in enumerate(examples.rows):
        prompts.setdefault(json.dumps(row["prompt"]), []).append(i)
    groups = list(prompts.values()) if len(prompts) > 1 else [[i] for i in range(len(examples))]
    rng.shuffle(groups)
    held: set[int] = set()
    for group in groups[1:]:  # the first one is trained on
        if len(held) >= wanted:
            break
        held.update(group)
    return held


def _allotted(sizes: Mapping[str, int], wanted: int) -> dict[str, int]:
    """`wanted` rows shared out in proportion to the sizes (largest remainder), leaving one of each group."""
    total = sum(sizes.values())
    exact = {label: wanted * size / total for label, size in sizes.items()}
    counts = {label: min(int(exact[label]), sizes[label] - 1) for label in sorted(sizes)}
    while sum(counts.values()) < wanted:
        able = [label for label in counts if counts[label] < sizes[label] - 1]
        neediest = max(able, key=lambda label: exact[label] - counts[label])
        counts[neediest] += 1
    return counts


# ------------------------------------------------------------------------------------------------ storing


def _lines(examples: Examples) -> Iterator[str]:
    """A line about the table, then a line of JSON for each row."""
    head = {"task": examples.task, "labels": list(examples.labels), "rows": len(examples)}
    yield json.dumps(head, sort_keys=True)
    for row in examples.rows:
        yield json.dumps(dict(row), sort_keys=True, separators=(",", ":"))


def fingerprint(examples: Examples) -> str:
    """SHA-256 (64 hex digits) of task, labels and rows in order; what the user calls the table does not count."""
    digest = hashlib.sha256()
    for line in _lines(examples):
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def write_jsonl(examples: Examples, path: Path) -> None:
    """Write the examples whole or not at all: first a line with task, labels, row count and source, then the rows."""
    head = {
        "nbadapt": "examples",
        "task": examples.task,
        "labels": list(examples.labels),
        "rows": len(examples),
        "source": examples.source,
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", errors="surrogatepass", newline="\n") as file:
            for record in (head, *examples.rows):
                file.write(json.dumps(dict(record), ensure_ascii=False) + "\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_jsonl(path: Path) -> Examples:
    """The examples that `write_jsonl` wrote.

    Raises:
        DataError: the file is missing, was not written so, or is not complete.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogatepass", newline="\n") as file:
            head, *rows = (json_text.loads(line) for line in file)
        examples = Examples(head["task"], tuple(rows), tuple(head["labels"]), head["source"])
        complete = len(rows) == head["rows"]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no complete file of examples ({error}): start the run again") from None
    if not complete:
        raise DataError(f"{path} has {len(rows)} of its {head['rows']} rows: start the run again")
    return examples
