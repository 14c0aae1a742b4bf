"""Which examples are shown before a prompt, and in which order: for every method that shows some.

::

    fixed       the first k of the table                     random    k drawn by the seed
    balanced    drawn by the seed, one of each label in turn
    nearest     for each row the k most similar ones, cos(e(x), e(x_i)), the nearest one last
                (Liu et al. 2022, https://arxiv.org/abs/2101.06804)

The order matters (Lu et al. 2022, https://arxiv.org/abs/2104.08786), so it is a setting of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from nbadapt.errors import RequestError
from nbadapt.method import ADVANCED
from nbadapt_plugins._prompting import PromptConfig, PromptMethod

if TYPE_CHECKING:
    from nbadapt.engines.fitting import ShotSelection
    from nbadapt.engines.prompts import Shot
    from nbadapt.engines.tokens import Prompt
    from nbadapt.method import Emit, Job

Choose = Callable[[Sequence[int], int, int], tuple[int, ...]]


class DemonstrationConfig(PromptConfig):
    """Settings of a method that shows answered examples."""

    shots: int = Field(4, ge=1, le=1000, description="demonstrations before each prompt")
    selection: Literal["fixed", "random", "balanced", "nearest"] = Field(
        "balanced",
        description="which examples: the first ones, ones drawn by the seed, drawn with equal shares of labels, or for "
        "each row the most similar ones by embedding",
    )
    order: Literal["selected", "reversed", "random", "length"] = Field(
        "selected",
        description="in which order they are shown: as selected (of the nearest ones the nearest last), the other way "
        "round, shuffled by the seed, or the shortest first",
        json_schema_extra=ADVANCED,
    )
    embedding_model: str = Field(
        "minilm",
        min_length=1,
        description="model that compares texts for the selection nearest: a name, folder or hub id",
        json_schema_extra=ADVANCED,
    )
    separator: str = Field(
        "\n\n",
        min_length=1,
        max_length=100,
        description="text between demonstrations, for models without chat",
        json_schema_extra=ADVANCED,
    )


class DemonstrationMethod(PromptMethod):
    """A method that shows answered examples before each prompt."""

    def pool(self, job: Job, text: str) -> list[Shot]:
        """Every row of the examples.

        Raises:
            RequestError: no examples are given.
        """
        from nbadapt.engines.prompts import shots_of

        if job.examples is None:
            raise RequestError(
                f"{self.name} needs demonstrations: add --examples, a table with inputs and their answers"
            )
        return shots_of(job.examples, text, job.variables)

    def wanted(self, job: Job) -> int:
        """The setting `shots`."""
        return int(job.config.shots)

    def selection(
        self, job: Job, text: str, pool: Sequence[Shot], prompts: Sequence[Prompt], emit: Emit | None
    ) -> ShotSelection:
        """As the settings `selection` and `order` say.

        Raises:
            ModelError: there is no such embedding model.
        """
        from nbadapt.engines.fitting import ShotSelection

        ordered = _ordered(job, pool)
        if job.config.selection != "nearest":
            answers = [shot.target for shot in pool]
            return ShotSelection(lambda places, count, _: ordered(_first(job, answers, places, count)))
        if emit is None:  # no embedding without weights: the longest ones stand for those to come
            longest = sorted(range(len(pool)), key=lambda i: -_length(pool[i]))
            return ShotSelection(lambda places, count, _: _among(longest, places, count), each=True, known=False)
        nearest = _nearest(job, text, pool, prompts, emit)
        return ShotSelection(lambda places, count, row: ordered(nearest(places, count, row)), each=True)

    def extra_memory(self, job: Job) -> Mapping[str, int]:
        """The embedding model's weights, where one is used.

        Raises:
            ModelError: there is no such model, or it does not embed.
        """
        if job.config.selection != "nearest" or not self.wanted(job):
            return {}
        from nbadapt.engines import nearest

        return {"embedding model": nearest.weight_bytes(job, job.config.embedding_model)}


def _first(job: Job, answers: Sequence[str], places: Sequence[int], count: int) -> tuple[int, ...]:
    """The first ones of an order that does not depend on `count`."""
    order = list(places)
    if job.config.selection != "fixed":
        random.Random(job.seed).shuffle(order)  # noqa: S311 - a reproducible choice, no secret
    if job.config.selection == "balanced":
        order = balanced(order, answers)
    return tuple(order[:count])


def balanced(order: Sequence[int], answers: Sequence[str]) -> list[int]:
    """Places in a new order: one of each answer, then another one of each."""
    by_answer: dict[str, list[int]] = {}
    for i in order:
        by_answer.setdefault(answers[i], []).append(i)
    return [i for i in chain.from_iterable(zip_longest(*by_answer.values())) if i is not None]


def _among(ranked: Sequence[int], places: Sequence[int], count: int) -> tuple[int, ...]:
    """The first `count` of a ranking that are among the places."""
    allowed = set(places)
    return tuple([i for i in ranked if i in allowed][:count])


def _nearest(job: Job, text: str, pool: Sequence[Shot], prompts: Sequence[Prompt], emit: Emit) -> Choose:
    """Chooses the most similar ones of the pool for a row, the nearest one last."""
    from nbadapt.engines import nearest
    from nbadapt.engines.prompts import content

    ranked = nearest.ranking(
        job,
        job.config.embedding_model,
        [content(text, prompt) for prompt in prompts],
        [content(text, shot.prompt) for shot in pool],
        emit,
    )
    return lambda places, count, row: _among(ranked(row), places, count)[::-1]


def _ordered(job: Job, pool: Sequence[Shot]) -> Callable[[tuple[int, ...]], tuple[int, ...]]:
    """Puts chosen demonstrations into the order in which they are shown."""

    def order(chosen: tuple[int, ...]) -> tuple[int, ...]:
        match job.config.order:
            case "reversed":
                return chosen[::-1]
            case "random":
                shuffled = list(chosen)
                random.Random(job.seed + 1).shuffle(shuffled)  # noqa: S311 - a reproducible choice, no secret
                return tuple(shuffled)
            case "length":
                return tuple(sorted(chosen, key=lambda i: (_length(pool[i]), i)))
        return chosen

    return order


def _length(shot: Shot) -> int:
    """Characters of a demonstration."""
    from nbadapt.engines.tokens import as_text

    return len(as_text(shot.prompt)) + len(shot.answer)
