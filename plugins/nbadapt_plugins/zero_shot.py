"""Zero-shot prompting (Radford et al. 2019; Brown et al. 2020, https://arxiv.org/abs/2005.14165).

::

    prompt x ──> model ──> answer                        free text: the likeliest tokens, or drawn ones
                   │
                   └─> log p(label_1 | x), ...           with labels: the likeliest one

    s_label = sum over the tokens t of the label of log p(t | x, tokens before t)
    p(label | x) = exp(s_label) / sum over all labels of exp(s)

Nothing is trained. Without data the body is one prompt; with data it is a template that every row fills.

When to use it: first of all, for any question: nothing is needed but the prompt, and its figure says what examples
and training are worth.

When not: where the model does not keep to the form of the answer, or labelled rows are there: few-shot shows it some.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbadapt.errors import RequestError
from nbadapt_plugins._prompting import PromptConfig, PromptMethod

if TYPE_CHECKING:
    from nbadapt.engines.prompts import Shot
    from nbadapt.method import Job


class ZeroShotSettings(PromptConfig):
    """Settings of zero-shot prompting."""


class ZeroShot(PromptMethod):
    """Asks the model as it is."""

    name = "zero-shot"
    verb = "prompt"
    family = "Plain prompts"
    summary = "ask the model as it is: one prompt, or every row of a table with figures of quality"
    reference = "https://arxiv.org/abs/2005.14165"
    tasks = frozenset({"classification", "generation", "text"})
    baseline = True
    Config = ZeroShotSettings

    def pool(self, job: Job, text: str) -> list[Shot]:
        """No demonstrations."""
        if job.examples is not None:
            raise RequestError("zero-shot shows no demonstrations: leave --examples out, or use few-shot")
        return []
