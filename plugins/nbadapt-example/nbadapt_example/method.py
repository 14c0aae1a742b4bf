"""VeRA: vector-based random matrix adaptation (Kopiczko et al. 2023, https://arxiv.org/abs/2310.11454).

::

              x  (B, T, in)
        ┌─────┴──────┐
    W frozen     A  (r, in)      random, frozen, one for all layers
    (out, in)        · d  (r,)   trained, a small number at the start
        │        B  (out, r)     random, frozen, one for all layers
        │            · b  (out,) trained, zero at the start
        └──── + ─────┘
              h  (B, T, out)         h = W x + b * (B (d * (A x)))

Sizes: a matrix of out x in gets r + out trained numbers; the classification head, where there is one, is trained
whole. At the start b = 0, so the adapted model equals the base. A and B are drawn from the job's seed and are as
large as the largest adapted matrix needs; they are stored with the result.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pydantic import Field

from nbadapt.method import ADVANCED, Estimate, Job
from nbadapt_plugins.bases import TASK_TYPES, FrozenBaseConfig, PeftMethod, adapted_layers, stored_transposed

if TYPE_CHECKING:  # heavy libraries are imported where they are used, so that listing methods stays quick
    from peft import PeftConfig
    from transformers import PreTrainedModel

FLOAT32 = 4  # bytes


class VeraSettings(FrozenBaseConfig):
    """Settings of the method: each has a default, bounds and a description with its unit. A form is drawn of them."""

    r: int = Field(256, ge=1, le=4096, description="rank: the inner size of the two shared matrices")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the matrices' inputs dropped in training")
    d_initial: float = Field(
        0.1, gt=0, le=1, description="what every number in d starts as", json_schema_extra=ADVANCED
    )
    target_modules: str | list[str] = Field(
        "auto",
        description="linear layers to adapt: auto (attention), all-linear, or a list of names",
        examples=["auto", "all-linear"],
    )
    learning_rate: float = Field(1e-2, gt=0, le=10, description="peak learning rate of AdamW")


class Vera(PeftMethod):
    """Trains two vectors for each chosen weight matrix, around two random matrices that all of them share."""

    name = "vera"
    verb = "finetune"
    family = "Low-rank"
    summary = "two learned vectors around shared random matrices: far fewer parameters than low-rank matrices"
    reference = "https://arxiv.org/abs/2310.11454"
    contract = 1
    Config = VeraSettings

    def peft_config(self, model: PreTrainedModel, job: Job) -> PeftConfig:
        """What peft is to put on this model, which is without weights while the cost is estimated."""
        from peft import VeraConfig

        settings: VeraSettings = job.config
        layers = adapted_layers(model, settings.target_modules, rank=1)
        return VeraConfig(
            task_type=TASK_TYPES[job.task],
            r=settings.r,
            target_modules=layers,
            vera_dropout=settings.dropout,
            d_initial=settings.d_initial,
            projection_prng_key=job.seed,
            fan_in_fan_out=stored_transposed(model, layers),
        )

    def estimate(self, job: Job) -> Estimate:
        """As for every trained method; the shared matrices are stored too."""
        found, model = self.estimate_with(job)
        shared = sum(b.numel() for n, b in model.named_buffers() if ".vera_A." in f".{n}" or ".vera_B." in f".{n}")
        return dataclasses.replace(found, artifact=found.artifact + FLOAT32 * shared)
