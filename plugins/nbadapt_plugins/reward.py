"""Reward model: learns from pairs of answers which one people prefer (Ouyang et al. 2022, arXiv:2203.02155).

::

    prompt │ chosen   ──> frozen base + LoRA ──> last token's vector ── head (d) ──> r_c ┐
                                                                                       ├── -log sigmoid(r_c - r_r)
    prompt │ rejected ──> frozen base + LoRA ──> last token's vector ── head (d) ──> r_r ┘

P(chosen is preferred) = sigmoid(r_c - r_r), the model of Bradley and Terry 1952: only differences of rewards of one
prompt's answers mean something. `center` adds center · (r_c + r_r)², so that rewards stay around zero (Eisenstein et
al. 2023, arXiv:2312.09244). Sizes: LoRA's r · (in + out) for a matrix of out x in, and d for the head; each pair is two
texts in one forward pass. trl's RewardTrainer trains; the result is a peft adapter with the head in it, of the task
type SEQ_CLS with one label.

When to use it: where pairs of answers say which is better, and new answers are to be scored: to rank them, or as the
judge of ppo.

When not: where the model itself should learn from the pairs: dpo does that without a reward model in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from nbadapt.engines.pairs import Pair
from nbadapt.heads import head_modules
from nbadapt.method import Adapted, Job, Outcome
from nbadapt_plugins._feedback import PairMethod, PairSettings
from nbadapt_plugins._trained import base_as_stored

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from nbadapt.engines.reward_model import RewardModel
    from nbadapt.engines.training_report import Show

LABELS = ("reward",)


class RewardSettings(PairSettings):
    """Settings of a reward model."""

    center: float = Field(
        0.0, ge=0, le=10, description="weight of the squared sum of a pair's rewards, which keeps them around zero"
    )
    learning_rate: float = Field(3e-4, gt=0, le=10, description="peak learning rate of AdamW")
    epochs: float = Field(2, gt=0, le=10_000, description="passes over the pairs: many make the margins too sure")


class Reward(PairMethod):
    """LoRA and a head of one output, trained to score the preferred answer higher."""

    name = "reward"
    family = "Human feedback"
    summary = "reward model: scores answers, learned from pairs of which one is preferred"
    reference = "https://arxiv.org/abs/2203.02155"
    Config: ClassVar[type[PairSettings]] = RewardSettings
    one_prompt = False  # a reward is asked of one answer at a time
    figures = {name: name for name in ("accuracy", "margin", "brier", "calibration_error")}  # noqa: RUF012

    @classmethod
    def head(cls, task: str) -> Literal["causal", "classification"]:  # noqa: ARG003 - the contract's signature
        """One of one output, for which encoders serve as well."""
        return "classification"

    def row(self, pair: Pair) -> dict[str, Any]:
        """The two texts."""
        return {"chosen_ids": pair.chosen, "rejected_ids": pair.rejected}

    def trainer(self, job: Job) -> tuple[type[Any], type[Any], dict[str, Any]]:
        """What trl calls RewardTrainer."""
        from trl import RewardConfig

        from nbadapt_plugins._feedback_training import RewardPairs

        return RewardPairs, RewardConfig, {"center_rewards_coefficient": job.config.center or None}

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Any:
        """The collator of trl for two texts."""
        from trl.trainer.reward_trainer import DataCollatorForPreference

        return DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)

    def loss(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """-log sigmoid(r_c - r_r), a mean over pairs."""
        from torch.nn.functional import logsigmoid

        chosen, rejected = model(**batch, use_cache=False).logits.squeeze(-1).chunk(2)  # each (n,)
        return -logsigmoid(chosen - rejected).mean()

    def show(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, job: Job) -> Show:
        """Both answers and their rewards."""
        return self.live(model, tokenizer, job).show

    def live(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, job: Job) -> RewardModel:
        """The reward model, which answers no prompt."""
        from nbadapt.engines.reward_model import RewardModel

        return RewardModel(model, tokenizer, job.config.max_length)

    # ------------------------------------------------------------------ a head of one output

    def skeleton(self, job: Job) -> PreTrainedModel:
        """The base with a head of one output, on the meta device."""
        from nbadapt import pretrained

        return pretrained.skeleton(job.model, "classification", LABELS, job.dtype)

    def load_base(self, job: Job) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The base, frozen, with a head of one output, and its tokenizer."""
        from nbadapt import models

        return models.load_classifier(job.model, LABELS, job.device, job.dtype, job.seed)

    def mergeable(self, job: Job) -> PreTrainedModel:
        """The base with such a head and weights of its own, which a merge may change."""
        return base_as_stored(self.load_base, job)

    def peft_config(self, model: PreTrainedModel, job: Job) -> PeftConfig:
        """LoRA's, with the head trained whole and stored beside it."""
        config = super().peft_config(model, job)
        config.task_type, config.modules_to_save = "SEQ_CLS", head_modules(model)
        return config

    def attach(self, model: PreTrainedModel, job: Job) -> PeftModel:
        """The model with a new adapter on it; the head's bias stays, where only differences of rewards are learned."""
        adapted = super().attach(model, job)
        if not job.config.center:
            for name, parameter in adapted.named_parameters():
                if name.endswith(".bias") and parameter.shape == (1,):
                    parameter.requires_grad_(False)
        return adapted

    def load(self, outcome: Outcome, job: Job) -> Adapted:
        """The reward model."""
        from nbadapt.engines.reward_model import RewardModel

        return RewardModel(*self.restored(outcome, job), job.config.max_length)
