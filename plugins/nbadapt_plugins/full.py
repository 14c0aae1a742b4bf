"""Finetuning II: all layers are trained (Raschka 2023, "Finetuning Large Language Models"; Howard and Ruder 2018).

::

    x  (B, T)  ->  embeddings  ->  block 1  ->  ...  ->  block L  ->  head  ->  logits
                   trained         trained               trained      trained

Sizes: every parameter is trained; AdamW keeps two moments of each, so training takes 16 bytes a parameter in
float32 (weight, gradient, two moments), beside the shared base that other runs may be using. The weights are
float32 copies; where the machine is quicker in bfloat16, the products are computed in it (mixed precision,
Micikevicius et al. 2018, arXiv:1710.03740).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from nbadapt.engines.training_config import TrainingConfig
from nbadapt.method import Job, Outcome
from nbadapt_plugins._trained import TrainedMethod, own_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class FullSettings(TrainingConfig):
    """Settings of training all layers."""

    learning_rate: float = Field(5e-5, gt=0, le=10, description="peak learning rate of AdamW")
    weight_decay: float = Field(0.01, ge=0, le=1, description="AdamW's weight decay")


class Full(TrainedMethod):
    """Trains a copy of the whole model; the shared base stays as it is."""

    name = "full"
    verb = "finetune"
    summary = "all layers (finetuning II): the most quality and by far the most memory"
    reference = "https://arxiv.org/abs/1801.06146"
    exports = frozenset({"merged"})
    Config = FullSettings

    def attach(self, model: PreTrainedModel, job: Job) -> PreTrainedModel:
        """The model with float32 weights of its own, all trained."""
        own_weights(model)
        return model.float().requires_grad_(True)

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write a transformers folder."""
        model.save_pretrained(folder)

    def restore(self, model: PreTrainedModel, folder: Path, job: Job) -> PreTrainedModel:
        """The stored model, in the type of the base."""
        import torch

        return type(model).from_pretrained(folder, dtype=getattr(torch, job.dtype)).to(job.device)

    def export(self, kind: str, outcome: Outcome, job: Job, target: Path) -> None:
        """Write "merged": the whole model with its tokenizer."""
        model, tokenizer = self.restored(outcome, job)
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
