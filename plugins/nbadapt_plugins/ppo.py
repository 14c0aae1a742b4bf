"""PPO: reinforcement learning from a reward (Schulman et al. 2017, https://arxiv.org/abs/1707.06347).

On language models: Ziegler et al. 2019, arXiv:1909.08593, and Ouyang et al. 2022, arXiv:2203.02155.

::

                       ┌─ adapter on ──> policy ──> answer ──> judge ──> score ─┐
    prompt ──> trunk ──┤                   └─ value head ──> V_t                ├──> A_t ──> clipped steps on
              (frozen) └─ adapter off ─> reference ──> KL_t ────────────────────┘            adapter and value head

    policy loss = -E min(rho_t A_t, clip(rho_t, 1 - e, 1 + e) A_t),    rho_t = pi(y_t) / pi_old(y_t)
    value loss  =  E (V_t - R_t)^2 / 2, clipped likewise; it changes the head alone
    A_t: generalised advantages of r_t = -beta KL_t, and the score at the last token

Sizes: LoRA's r · (in + out) for each adapted matrix of out x in, and hidden size + 1 for the value head. The trunk is
in memory once: policy, value and reference are adapters and heads on it, and so is a reward model on the same base.
The result is a LoRA adapter; the value head is of use in training alone and stays in the checkpoints. Rows of the task
"text" are openings that are continued as they stand; other prompts are asked as ``run.generate`` asks them.

When to use it: where answers can be judged, by a reward run or by a function, but not written down beforehand. It
took 1.19 times the memory of LoRA's training, where four models take 2.06 times.

When not: where there are pairs: dpo needs no sampling. Every step first has the model write answers, and the settings
matter more than anywhere else.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from nbadapt import store
from nbadapt.engines.ppo_config import PpoConfig
from nbadapt.engines.tokens import as_openings
from nbadapt.errors import Stopped
from nbadapt.events import Stage
from nbadapt.method import Adapted, Emit, Estimate, Example, Job, Outcome
from nbadapt_plugins._peft import PeftMethod
from nbadapt_plugins._trained import ADAPTER, load_base, seeded, skeleton, switch_off_dropout

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from peft import PeftConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from nbadapt.engines.rollout import ActorCritic


class PpoSettings(PpoConfig):
    """Settings of PPO with LoRA."""

    r: int = Field(8, ge=1, le=4096, description="rank: the inner size of LoRA's two matrices")
    alpha: float | None = Field(None, gt=0, description="the update is scaled by alpha / r; none: 2 r, so by 2")
    target_modules: str | list[str] = Field(
        "auto",
        description="linear layers to adapt: auto (attention), all-linear, or a list of names",
        examples=["auto", "all-linear"],
    )


class Ppo(PeftMethod):
    """Trains a LoRA adapter to write what a reward run or a function of the notebook scores high."""

    name = "ppo"
    verb = "finetune"
    family = "Human feedback"
    summary = "reinforcement learning: write what a reward run or your own function scores high (with LoRA)"
    reference = "https://arxiv.org/abs/1707.06347"
    tasks = frozenset({"generation", "preference", "text"})
    exports = frozenset({"peft", "merged"})
    example = Example(
        "%%finetune ppo --model smollm2 --data openings --reward short --as tuned\nmax_steps: 4\nmax_new_tokens: 24",
        """openings = [{"text": f"The {what} that I bought here"} for what in ("bicycle", "lamp", "helmet", "lock")]


def short(prompts, completions):
    return [-len(text) / 100 for text in completions]  # higher is better""",
    )
    Config: ClassVar[type[PpoSettings]] = PpoSettings

    @classmethod
    def trial(cls, folder: Path) -> Mapping[str, Any]:  # noqa: ARG003 - no file is needed
        """A function that likes the letter e."""
        return {"reward": likes_e}

    def peft_config(self, model: PreTrainedModel, job: Job) -> PeftConfig:
        """That of LoRA without dropout, which would move the first ratio away from 1."""
        from nbadapt_plugins.lora import Lora, LoraSettings

        own = job.config
        settings = LoraSettings(r=own.r, alpha=own.alpha, target_modules=own.target_modules)
        return Lora().peft_config(model, dataclasses.replace(job, task="generation", config=settings))

    def estimate(self, job: Job) -> Estimate:
        """The exact parameters, and the peak of drawing, looking and learning; refuses a reward that does not fit."""
        from nbadapt.engines import judging, ppo_estimate

        judge = judging.check(job)
        base = skeleton(job)
        tensors = [*base.parameters(), *base.buffers()]
        switch_off_dropout(base)
        return ppo_estimate.estimate(self._actor_critic(base, job), job, tensors, judge)

    def run(self, job: Job, emit: Emit) -> Outcome:
        """Train, and save the adapter."""
        from nbadapt.engines import judging
        from nbadapt.engines.ppo import PpoTrainer

        emit(Stage("loading the model"))
        base, tokenizer = load_base(job)
        as_openings(tokenizer, job)
        switch_off_dropout(base)
        model = self._actor_critic(base, job)
        emit(Stage("loading the reward"))
        trainer = PpoTrainer(
            model, tokenizer, judging.load(job), job, emit, lambda folder: self.keep(model.policy, folder)
        )
        metrics = trainer.train()
        with contextlib.suppress(Stopped):  # what was trained is saved, whenever Stop was pressed
            emit(Stage("saving"))
        with store.new_folder(job.directory / ADAPTER) as folder:
            self.save(model.policy, folder)
        return Outcome(metrics=metrics, artifacts={"adapter": ADAPTER})

    def _actor_critic(self, base: PreTrainedModel, job: Job) -> ActorCritic:
        from nbadapt.engines.rollout import ActorCritic

        with seeded(job):
            return ActorCritic(self.attach(base, job), job.config.temperature).eval()

    def load(self, outcome: Outcome, job: Job) -> Adapted:
        """The adapted model; one that continues openings shares its batches with no other, which may be a chat."""
        if job.task != "text":
            return super().load(outcome, job)
        from nbadapt.engines.generate import LanguageModel

        return LanguageModel(*self.restored(outcome, job))

    def restored(self, outcome: Outcome, job: Job) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The adapted model and its tokenizer, which continues openings as they stand."""
        model, tokenizer = super().restored(outcome, job)
        as_openings(tokenizer, job)
        return model, tokenizer


def likes_e(_prompts: list[str], completions: list[str]) -> list[float]:
    """The share of the letter e in every answer: for trials."""
    return [text.count("e") / max(1, len(text)) for text in completions]
