"""Chain of thought (Wei et al. 2022, https://arxiv.org/abs/2201.11903; Kojima et al. 2022, arXiv:2205.11916).

::

    x + "Let's think step by step"  ──> model ──> r: reasoning ... the answer is a       zero-shot
    x_1 r_1 a_1  ...  x_k r_k a_k   x ──> model ──> r a                                  with worked examples

    self-consistency (Wang et al. 2022, https://arxiv.org/abs/2203.11171): m reasonings are drawn, the answers vote

    a* = argmax_a  sum_i [a_i = a],   (r_i, a_i) ~ p(r, a | x)

Nothing is trained. The answer is what a regular expression finds last in the text. Kojima asks a second time for it;
here the trigger asks for a closing "The answer is" instead, which costs one answer a row and not two.

When to use it: for arithmetic and questions of several steps, with a large model: the paper finds gains from about a
hundred billion parameters on.

When not: with small models, whose reasoning the paper finds fluent and wrong, and where an answer takes no steps: it
costs many tokens a row.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from pydantic import Field, field_validator, model_validator

from nbadapt.errors import DataError
from nbadapt_plugins._demonstrations import DemonstrationConfig, DemonstrationMethod

if TYPE_CHECKING:
    from nbadapt.engines.answering import Reply
    from nbadapt.engines.fitting import AskedRow
    from nbadapt.engines.prompts import Shot
    from nbadapt.engines.tokens import Prompt
    from nbadapt.method import Job

ANSWER = r"(?i)(?:####|\banswer\s+is\b|\banswer\s*:)\s*:?\s*([^\n]+?)\s*(?:[.!](?=\s|$)|\n|$)"
TRIGGER = 'Let\'s think step by step, and end with "The answer is" and the answer.'
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


class ChainOfThoughtSettings(DemonstrationConfig):
    """Settings of chain-of-thought prompting."""

    reasoning_paths: int = Field(
        1, ge=1, le=100, description="reasonings drawn for each prompt, whose answers vote (self-consistency)"
    )
    trigger: str = Field(
        TRIGGER, min_length=1, max_length=2000, description="what is added to the prompt where no examples are given"
    )
    answer_pattern: str = Field(
        ANSWER,
        min_length=1,
        max_length=1000,
        description="regular expression with one group, the answer; its last match in the text counts",
    )
    max_new_tokens: int = Field(256, ge=1, le=32_768, description="longest reasoning with its answer, in tokens")

    @field_validator("answer_pattern")
    @classmethod
    def _one_group(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"no regular expression ({error})") from None
        if groups != 1:
            raise ValueError(f"it needs one group in (...), the answer, and has {groups}; (?:...) groups without it")
        return pattern

    @model_validator(mode="after")
    def _drawn(self) -> Self:
        if self.reasoning_paths > 1 and self.temperature == 0:
            raise ValueError(
                f"reasoning_paths is {self.reasoning_paths} and temperature is 0, so all would be the same: "
                "set temperature, such as 0.7"
            )
        return self


@dataclass(frozen=True)
class Answers:
    """Reads answers out of reasonings, and lets them vote.

    Attributes:
        pattern: its only group is the answer.
        paths: reasonings for each prompt.
        classes: the answers to choose from; empty for any text.
        numeric: whether answers are numbers: then the first one in what the pattern found.
    """

    pattern: re.Pattern[str]
    paths: int = 1
    classes: tuple[str, ...] = ()
    numeric: bool = False

    def answer(self, text: str) -> str:
        """The answer that a text ends with; empty where none is found."""
        found = [match[1] for match in self.pattern.finditer(text) if match[1]]
        said = _tidy(found[-1]) if found else ""
        if self.classes:
            return _mentioned(said, self.classes) or _mentioned(text, self.classes)
        if self.numeric and said:
            number = NUMBER.search(said)
            return number[0].replace(",", "") if number else ""
        return said

    def read(self, texts: Sequence[str]) -> Reply:
        """The answer of most texts; of as many, the one that came first."""
        from nbadapt.engines.answering import Reply

        answers = [self.answer(text) for text in texts]
        votes = Counter(answer for answer in answers if answer)  # counts in the order of their first appearance
        best = max(votes, key=votes.__getitem__, default="")
        return Reply(best, reasoning=tuple(texts), votes=dict(votes) if len(texts) > 1 else None)


def _tidy(text: str) -> str:
    """An answer without the marks around it; a number without currency sign and separators."""
    bare = text.strip().strip("*_`\"'").strip().rstrip(".;:!").strip("*_`\"'").strip()
    whole = re.fullmatch(rf"[$€£]?\s*({NUMBER.pattern})", bare)
    return whole[1].replace(",", "") if whole else bare


def _mentioned(text: str, classes: Sequence[str]) -> str:
    """The class that a text names last, as a whole word; of two in the same place the longer one."""
    places = [
        (match.end(), len(name), name)
        for name in classes
        for match in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE)
    ]
    return max(places)[2] if places else ""


class ChainOfThought(DemonstrationMethod):
    """Lets the model reason before it answers, once or several times."""

    name = "chain-of-thought"
    verb = "prompt"
    family = "With examples"
    summary = "let the model reason before it answers; several reasonings may vote"
    reference = "https://arxiv.org/abs/2201.11903"
    tasks = frozenset({"classification", "generation", "text"})
    Config = ChainOfThoughtSettings

    def wanted(self, job: Job) -> int:
        """The setting `shots` where examples are given, else none."""
        return int(job.config.shots) if job.examples is not None else 0

    def pool(self, job: Job, text: str) -> list[Shot]:
        """Every row of the examples with its reasoning: from the column `reasoning`, or in its completion.

        Raises:
            DataError: a row without reasoning, or one in whose answer the pattern finds none.
        """
        if job.examples is None:
            return []
        shots = []
        reader = Answers(re.compile(job.config.answer_pattern))
        for number, (row, shot) in enumerate(zip(job.examples.rows, super().pool(job, text), strict=True), 1):
            reasoning = str(row.get("reasoning") or "").strip()
            answer = f"{reasoning} The answer is {shot.target}." if reasoning else shot.answer
            if not reader.answer(answer):
                raise DataError(
                    f"{job.examples.source}, row {number} (counted from 1): answer_pattern finds no answer in "
                    f"{answer[-60:]!r}: add a column reasoning, or end the completion with  The answer is ..."
                )
            shots.append(replace(shot, answer=answer))
        return shots

    def reader(self, job: Job, labels: Sequence[str], rows: Sequence[AskedRow]) -> Answers:
        """How answers are found: numbers where all that is expected are numbers."""
        reader = Answers(re.compile(job.config.answer_pattern), job.config.reasoning_paths, tuple(labels))
        expected = [_expected(reader, row.expected) for row in rows if row.expected is not None]
        numeric = bool(expected) and not labels and all(NUMBER.fullmatch(text) for text in expected)
        return replace(reader, numeric=numeric)

    def asked(self, job: Job, labels: Sequence[str], row: AskedRow) -> AskedRow:
        """The row with the trigger, where no examples show how to reason; and the answer alone as expected."""
        reader = Answers(re.compile(job.config.answer_pattern), 1, tuple(labels))
        expected = row.expected if row.expected is None or labels else _expected(reader, row.expected)
        prompt = row.prompt if job.examples is not None else _with_trigger(job.config.trigger, labels, row.prompt)
        return replace(row, prompt=prompt, expected=expected)


def _expected(reader: Answers, target: str) -> str:
    """The answer in a table's cell, which may hold a reasoning too, as those of GSM8K do."""
    return reader.answer(target) or _tidy(target) or target


def _with_trigger(trigger: str, labels: Sequence[str], prompt: Prompt) -> Prompt:
    """The prompt, and below it the trigger; the classes are named where the prompt does not."""
    from nbadapt.engines.tokens import as_text

    said = as_text(prompt)
    named = all(label in said for label in labels)
    added = trigger if named else f"{trigger} The answer is one of: {', '.join(labels)}."
    if isinstance(prompt, str):
        return f"{prompt}\n\n{added}"
    *before, last = prompt
    return [*before, {**last, "content": f"{last['content']}\n\n{added}"}]
