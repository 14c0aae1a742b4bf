"""The settings of proximal policy optimisation. Light: importing it brings no torch."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from nbadapt.method import Config
from nbadapt.named import RUN_OR_FUNCTION


class PpoConfig(Config):
    """Settings of the loop of drawing, judging and learning; a method's own Config derives from it."""

    reward: str = Field(
        "",
        description="what judges the answers: a run that is a reward model, or a function (prompts, completions) that "
        "gives a number for each",
        json_schema_extra=RUN_OR_FUNCTION,
    )
    learning_rate: float = Field(3e-4, gt=0, le=10, description="learning rate of AdamW, the same at every step")
    epochs: float = Field(1, gt=0, le=10_000, description="passes over the prompts")
    max_steps: int | None = Field(
        None, ge=1, description="steps of drawing and learning to end after, whatever `epochs` says; none: by epochs"
    )
    batch_size: int = Field(32, ge=1, le=65_536, description="prompts that are answered in a step")
    minibatch_size: int = Field(8, ge=1, le=65_536, description="answers behind one change of the weights")
    ppo_epochs: int = Field(4, ge=1, le=100, description="passes over a step's answers")
    max_length: int | None = Field(
        None,
        ge=8,
        description="tokens kept of a prompt, its last ones; none: what the model has room for, at most 1024",
    )
    max_new_tokens: int = Field(48, ge=1, le=100_000, description="longest answer, in tokens")
    temperature: float = Field(1.0, gt=0, le=10, description="of the answers that are drawn")
    clip: float = Field(0.2, gt=0, lt=1, description="how far a token's probability ratio goes from 1 with profit")
    value_clip: float | None = Field(
        0.2,
        gt=0,
        le=1e6,
        description="how far a value goes in a step, in units of the reward; none: as far as it likes",
    )
    value_learning_rate: float = Field(1e-3, gt=0, le=10, description="learning rate of the value head")
    gamma: float = Field(1.0, ge=0, le=1, description="what a reward is worth one token earlier")
    lam: float = Field(0.95, ge=0, le=1, description="lambda of the advantages: 0 trusts the values, 1 the rewards")
    whiten: bool = Field(True, description="give the advantages of a step mean 0 and variance 1")
    reward_clip: float | None = Field(
        10.0, gt=0, le=1e6, description="scores count from minus this to plus this; none: as they are"
    )
    kl: Literal["adaptive", "fixed"] = Field("adaptive", description="whether kl_coef is steered towards kl_goal")
    kl_coef: float = Field(0.05, ge=0, le=1e9, description="what a nat away from the base model costs, in reward")
    kl_goal: float = Field(6.0, gt=0, le=1e6, description="the KL that adaptive steers to, in nats an answer")
    kl_rate: float = Field(0.1, gt=0, le=1, description="how fast adaptive steers: 0.1 is up to 2 % a step")
    kl_estimator: Literal["k1", "k3"] = Field("k1", description="of a token's KL: unbiased (k1) or never negative (k3)")
    target_kl: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="training ends, the policy as it is, once its KL is above this, in nats an answer; none: never",
    )
    kl_alarm: float = Field(20.0, gt=0, le=1e6, description="a notice is given above this KL, in nats an answer")
    weight_decay: float = Field(0.0, ge=0, le=1, description="AdamW's weight decay")
    max_grad_norm: float = Field(1.0, ge=0, description="gradients are clipped to this norm; 0: not clipped")
    eval_steps: int | None = Field(
        None, ge=1, description="steps between evaluations; none: before the first step and after the last"
    )
    eval_rows: int = Field(32, ge=1, le=100_000, description="held-out prompts that are answered at each evaluation")
    save_steps: int | None = Field(None, ge=1, description="steps between checkpoints; none: each minute")
    samples: int = Field(3, ge=0, le=20, description="held-out prompts whose answers are shown, before and after")

    @model_validator(mode="after")
    def _coefficient_can_be_steered(self) -> Self:
        if self.kl == "adaptive" and not self.kl_coef:
            raise ValueError("kl_coef is 0, which adaptive never leaves: add kl: fixed, or a kl_coef above 0")
        return self


def ppo_steps(config: PpoConfig, rows: int) -> int:
    """The steps of drawing and learning that so many prompts take; one may reach into the next epoch."""
    return config.max_steps or max(1, math.ceil(config.epochs * rows / config.batch_size))
