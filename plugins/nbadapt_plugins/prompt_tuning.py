"""Prompt tuning: a soft prompt before the input (Lester et al. 2021, https://arxiv.org/abs/2104.08691).

::

    p_1 ... p_P         x_1 ... x_T        tokens
        │                   │
     trained          embeddings, frozen
    (B, P, d)           (B, T, d)
        └─────────┬─────────┘
                  │  (B, P + T, d)
          all blocks, frozen ── head ── logits

    h = Model([p_1, ..., p_P, E(x_1), ..., E(x_T)])

Sizes: P · d trained parameters for P virtual tokens of d numbers; the classification head, where there is one, is
trained whole. A prompt that starts as the embeddings of a text equals the base model with that text before the
input. Encoders classify by their first position, which is then the prompt's own: a text brings the tokenizer's
classification token there. Needs a learning rate far above LoRA's.

When to use it: for many tasks on one large model, each of a few kilobytes. The paper finds it as good as training all
layers from about ten billion parameters on.

When not: with small models: 0.738 on film reviews beside LoRA's 0.799, in one and a half times the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from nbadapt.method import Job
from nbadapt_plugins._prompt_learning import SoftPromptMethod, StartedConfig, start_text

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel


class PromptTuningSettings(StartedConfig):
    """Settings of prompt tuning."""

    learning_rate: float = Field(3e-2, gt=0, le=10, description="peak learning rate of AdamW")


class PromptTuning(SoftPromptMethod):
    """Trains the embeddings of tokens that stand before every input."""

    name = "prompt-tuning"
    verb = "finetune"
    family = "Learned prompts"
    summary = "learned tokens before the input: a few thousand numbers, every block stays as it is"
    reference = "https://arxiv.org/abs/2104.08691"
    Config = PromptTuningSettings

    def prompt_config(self, model: PreTrainedModel, job: Job, shared: dict[str, Any]) -> PeftConfig:
        """A PromptTuningConfig that starts from real tokens, or at random."""
        from peft import PromptTuningConfig

        from nbadapt import models

        settings: PromptTuningSettings = job.config
        if settings.init != "text":
            start = "SAMPLE_VOCAB" if settings.init == "vocab" else "RANDOM"
            return PromptTuningConfig(**shared, prompt_tuning_init=start)
        return PromptTuningConfig(
            **shared,
            prompt_tuning_init="TEXT",
            prompt_tuning_init_text=start_text(settings, job),
            tokenizer_name_or_path=models.base_ref(job.model).path,
        )
