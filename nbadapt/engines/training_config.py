"""The settings that every trained method shares. Light: importing it brings no torch."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from nbadapt.method import ADVANCED, Config


class TrainingConfig(Config):
    """Settings of the training loop; a method's own Config derives from it and may change a default."""

    learning_rate: float = Field(2e-4, gt=0, le=10, description="peak learning rate of AdamW")
    epochs: float = Field(3, gt=0, le=10_000, description="passes over the training rows")
    max_steps: int | None = Field(
        None,
        ge=1,
        description="optimizer steps to end after, whatever `epochs` says; none: by epochs",
        json_schema_extra=ADVANCED,
    )
    batch_size: int = Field(16, ge=1, le=65_536, description="rows in one forward pass")
    gradient_accumulation_steps: int = Field(
        1, ge=1, le=65_536, description="batches whose gradients make one optimizer step", json_schema_extra=ADVANCED
    )
    max_length: int | None = Field(
        None, ge=8, description="tokens kept of a row; none: the model's limit, at most 1024"
    )
    warmup_ratio: float = Field(
        0.06,
        ge=0,
        le=1,
        description="share of the steps in which the rate rises from 0; one step alone is left out",
        json_schema_extra=ADVANCED,
    )
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = Field(
        "linear", description="how the learning rate falls after the warm-up", json_schema_extra=ADVANCED
    )
    weight_decay: float = Field(0.0, ge=0, le=1, description="AdamW's weight decay", json_schema_extra=ADVANCED)
    max_grad_norm: float = Field(
        1.0, ge=0, description="gradients are clipped to this norm; 0: not clipped", json_schema_extra=ADVANCED
    )
    eval_steps: int | None = Field(
        None,
        ge=1,
        description="optimizer steps between evaluations; none: after each epoch",
        json_schema_extra=ADVANCED,
    )
    save_steps: int | None = Field(
        None,
        ge=1,
        description="optimizer steps between checkpoints; none: each epoch and each minute",
        json_schema_extra=ADVANCED,
    )
    samples: int = Field(
        3, ge=0, le=20, description="held-out rows answered and shown at each evaluation", json_schema_extra=ADVANCED
    )


def optimizer_steps(config: TrainingConfig, rows: int) -> int:
    """The optimizer steps that training on so many rows takes."""
    return config.max_steps or max(1, math.ceil(config.epochs * steps_per_epoch(config, rows)))


def steps_per_epoch(config: TrainingConfig, rows: int) -> int:
    """The optimizer steps that one pass over so many rows takes."""
    return max(1, math.ceil(math.ceil(rows / config.batch_size) / config.gradient_accumulation_steps))
