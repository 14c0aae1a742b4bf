"""Few-shot prompting, or in-context learning (Brown et al. 2020, https://arxiv.org/abs/2005.14165).

::

    x_1 y_1   x_2 y_2  ...  x_k y_k   x   ──> model ──> y         y ~ p(y | x_1, y_1, ..., x_k, y_k, x)
    demonstrations, the same for all rows     (chat models: user and assistant turns)

Nothing is trained. The demonstrations come from --examples and are filled into the prompt's own template; a row
is never shown as its own demonstration. Their keys and values are computed once for all rows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from nbadapt.errors import RequestError
from nbadapt_plugins._prompting import PromptConfig, PromptMethod

if TYPE_CHECKING:
    from nbadapt.engines.prompts import Shot
    from nbadapt.method import Job


class FewShotSettings(PromptConfig):
    """Settings of few-shot prompting."""

    shots: int = Field(4, ge=1, le=1000, description="demonstrations before each prompt")
    selection: Literal["fixed", "random", "balanced"] = Field(
        "balanced",
        description="which examples: the first ones, ones drawn by the seed, or drawn with equal shares of labels",
    )
    separator: str = Field(
        "\n\n", min_length=1, max_length=100, description="text between demonstrations, for models without chat"
    )


class FewShot(PromptMethod):
    """Shows the model a few answered examples before each prompt."""

    name = "few-shot"
    verb = "prompt"
    summary = "show the model a few answered examples before each prompt"
    reference = "https://arxiv.org/abs/2005.14165"
    tasks = frozenset({"classification", "generation", "text"})
    Config = FewShotSettings

    def pool(self, job: Job, text: str) -> list[Shot]:
        """Every row of the examples.

        Raises:
            RequestError: no examples are given.
        """
        from nbadapt.engines.prompts import shots_of

        if job.examples is None:
            raise RequestError("few-shot needs demonstrations: add --examples, a table with inputs and their answers")
        return shots_of(job.examples, text, job.variables)

    def wanted(self, job: Job) -> int:
        """The setting `shots`."""
        return int(job.config.shots)

    def select(self, job: Job, pool: Sequence[Shot], count: int) -> tuple[int, ...]:
        """The first ones of an order that does not depend on `count`."""
        order = list(range(len(pool)))
        if job.config.selection != "fixed":
            random.Random(job.seed).shuffle(order)  # noqa: S311 - a reproducible choice, no secret
        if job.config.selection == "balanced":
            by_answer: dict[str, list[int]] = {}
            for i in order:
                by_answer.setdefault(pool[i].answer, []).append(i)
            rounds = zip_longest(*by_answer.values())  # one of each answer, then another one of each
            order = [i for i in chain.from_iterable(rounds) if i is not None]
        return tuple(order[:count])
