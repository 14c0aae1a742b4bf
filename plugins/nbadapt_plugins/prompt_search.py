"""Prompt search, or hard prompt tuning: which of several templates works best (Karnin et al. 2013 for the race).

::

    template 1                rows to search on                        held-out rows
    ---              ──>   t_1: 0.71   t_2: 0.84   t_3: 0.80   ──>   t_2, asked once
    template 2                race: the weaker half is dropped,
    ---                       the others see twice as many rows
    template 3

    t* = argmax_t  1/n sum_i [ y(t(x_i)) = y_i ]        n labelled rows, that are neither shown nor held out

Nothing is trained: the prompt is text that people can read, as opposed to the learned vectors of prompt tuning. With
few rows all templates see all of them. The race is successive halving (https://arxiv.org/abs/1502.07943).

When to use it: where several wordings are at hand and dozens of labelled rows or more: it says which one is better,
and by how much, on rows that decided nothing.

When not: on a few rows: the run then says that the templates cannot be told apart.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from nbadapt.errors import RequestError
from nbadapt_plugins._candidates import CandidateConfig, CandidateMethod, Search
from nbadapt_plugins._ground import Ground
from nbadapt_plugins._prompting import SORTING, sorting_example

if TYPE_CHECKING:
    from nbadapt.engines.fitting import Questions
    from nbadapt.method import Adapted, Job
    from nbadapt_plugins._scoring import Scoring, Steps, Tried

BETWEEN = re.compile(r"(?m)^[ \t]*---[ \t]*$")
MOST = 200  # templates


class PromptSearchSettings(CandidateConfig):
    """Settings of a search among templates."""

    shots: int = Field(
        0, ge=0, le=1000, description="demonstrations before each prompt, taken from the rows before the search"
    )


class PromptSearch(CandidateMethod):
    """Tries several templates, and keeps the one that does best."""

    name = "prompt-search"
    verb = "prompt"
    family = "Search for a prompt"
    summary = "try several templates (--- between them) on rows with answers; the best one is kept"
    reference = "https://arxiv.org/abs/1502.07943"
    tasks = frozenset({"classification", "generation"})
    example = sorting_example(
        "prompt-search", f"{SORTING}\n---\nMessage: {{{{text}}}}\nTopic (order, rental, repair, return, other):"
    )
    Config = PromptSearchSettings

    @classmethod
    def trial_prompt(cls, prompt: str) -> str:
        """Three templates."""
        return "\n---\n".join([prompt, f"Read this. {prompt}", f"Think, and then answer.\n{prompt}"])

    def ground(self, job: Job) -> Ground:
        """The rows, and the templates of the body."""
        return Ground(job, templates(job.prompt or ""), job.config.shots, in_prompts=True)

    def planned(self, job: Job, ground: Ground) -> tuple[Search, Sequence[Questions]]:
        """The rounds of the race."""
        from nbadapt.engines import racing

        found = _tried(job, ground)
        tried, plans = [each for each, _ in found], [plan for _, plan in found]
        rows = len(ground.division.search)
        rounds = racing.schedule(len(tried), rows, job.config.racing_rows)
        answers = racing.cost(rounds)
        line = f"{len(tried)} templates on {rows:,} rows"
        if len(rounds) > 1:
            said = ", ".join(f"{each.candidates} on {each.rows:,} rows" for each in rounds)
            line = f"templates race, {said}, in place of {len(tried) * rows:,} answers"
        ends = [0, *(each.rows for each in rounds)]
        batches = [
            each.candidates * ground.steps_for(b - a) for each, a, b in zip(rounds, ends[:-1], ends[1:], strict=True)
        ]
        search = Search(
            steps=sum(batches),
            answers=answers,
            prompt_tokens=round(answers * sum(each.tokens for each in tried) / len(tried)),
            rows=(rounds[0].rows, rounds[-1].rows),
            line=line,
        )
        return search, [*plans, *(ground.held_out(each.template) for each in tried)]

    def search(self, job: Job, ground: Ground, model: Adapted, scoring: Scoring, steps: Steps) -> Tried:
        """Race the templates."""
        from nbadapt.engines import racing

        tried = [scoring.add(each) for each, _ in _tried(job, ground)]
        rounds = racing.schedule(len(tried), len(ground.division.search), job.config.racing_rows)

        def ask(left: Sequence[Tried], start: int, stop: int) -> None:
            number = next(i for i, one in enumerate(rounds, 1) if one.rows == stop)
            scoring.ask(left, start, stop, f", round {number} of {len(rounds)}" if len(rounds) > 1 else "")

        def ranked(left: Sequence[Tried]) -> list[Tried]:
            ordered = scoring.ranked(left)
            following = next((one.candidates for one in rounds if one.rows > len(ordered[0].replies)), len(ordered))
            scoring.settle(ordered[:following])
            return ordered

        return racing.race(tried, rounds, ask, ranked)[0]


def templates(body: str) -> list[str]:
    """The templates of a cell's body.

    Raises:
        RequestError: fewer than two, an empty one, or two that are the same.
    """
    from nbadapt import template

    found = [part.strip() for part in BETWEEN.split(body)]
    if len(found) < 2:
        raise RequestError(
            "prompt-search compares templates, and the body holds "
            f"{'one' if found[0] else 'none'}: write two or more, with a line --- between them (or use zero-shot)"
        )
    if len(found) > MOST:
        raise RequestError(f"the body holds {len(found)} templates: at most {MOST} are compared")
    seen: dict[str, int] = {}
    for number, text in enumerate(found, 1):
        if not text:
            raise RequestError(f"template {number} is empty: a line --- stands between two templates, and only there")
        try:
            template.placeholders(text)
        except RequestError as error:
            raise RequestError(f"template {number}: {error}") from None
        before = seen.setdefault(" ".join(text.split()), number)
        if before != number:
            raise RequestError(f"templates {before} and {number} are the same: take one of them out")
    return found


def _tried(job: Job, ground: Ground) -> list[tuple[Tried, Questions]]:
    """Every template on the rows to search on."""
    texts = templates(job.prompt or "")
    return [ground.tried(number, text, f"template {number}") for number, text in enumerate(texts, 1)]
