"""What the methods share that learn from pairs of answers with trl's trainers: settings, estimate, training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from nbadapt.engines.pairs import Pair, check_pairs, longest_pairs
from nbadapt.method import Emit, Estimate, Job
from nbadapt_plugins.lora import Lora, LowRankSettings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from nbadapt.data import Examples
    from nbadapt.engines.training_estimate import Objective
    from nbadapt.engines.training_report import Show


class PairSettings(LowRankSettings):
    """Settings of LoRA trained on pairs of answers."""

    init: Literal["kaiming", "gaussian", "orthogonal"] = Field(
        "kaiming", description="how the two matrices are drawn; each start equals the base model"
    )
    batch_size: int = Field(
        8, ge=1, le=65_536, description="pairs in one forward pass, which is of twice as many texts"
    )


class PairMethod(Lora):
    """LoRA trained on preference rows by a trainer of trl."""

    tasks = frozenset({"preference"})
    requires = ("peft", "transformers", "trl")
    exports = frozenset({"peft", "merged"})
    Config: ClassVar[type[LowRankSettings]] = PairSettings
    one_prompt: ClassVar[bool]
    """Whether a prompt that is cut is cut alike in front of both answers."""
    figures: ClassVar[Mapping[str, str]]
    """What the trainer calls a figure beside the loss -> what the user reads."""

    @abstractmethod
    def row(self, pair: Pair) -> dict[str, Any]:
        """A pair in the columns of trl's trainer."""

    @abstractmethod
    def trainer(self, job: Job) -> tuple[type[Any], type[Any], dict[str, Any]]:
        """The trainer's class, that of its arguments, and those of them that are the method's own. Imports trl."""

    @abstractmethod
    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Any:
        """What makes a batch of rows. Imports trl."""

    @abstractmethod
    def loss(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """What the trainer computes of a batch, as far as it takes memory."""

    @abstractmethod
    def show(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, job: Job) -> Show:
        """What is shown of a few held-out rows."""

    def estimate(self, job: Job) -> Estimate:
        """As for LoRA, with two texts a row; refuses rows whose answers differ only behind the limit."""
        from nbadapt import models
        from nbadapt.engines.encoding import length_limit

        found = super().estimate(job)  # says first whether the model fits at all
        limit = length_limit(models.read_config(job.model), job.config.max_length)
        tokenizer = models.load_tokenizer(job.model)
        for table in (job.data, job.evaluation):
            if table is not None:
                check_pairs(table, tokenizer, limit)
        return found

    def objective(self, model: PreTrainedModel, job: Job) -> Objective:
        """The trainer's own loss, over the longest pairs."""
        from nbadapt.engines.training_estimate import Objective

        def batch(
            table: Examples, count: int, tokenizer: PreTrainedTokenizerBase, limit: int
        ) -> dict[str, torch.Tensor]:
            pairs = longest_pairs(table, count, tokenizer, limit, one_prompt=self.one_prompt)
            made: dict[str, torch.Tensor] = self.collator(tokenizer)([self.row(pair) for pair in pairs])
            return made

        return Objective(self.loss, batch)

    def train(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, job: Job, emit: Emit
    ) -> dict[str, float]:
        """Train with trl's trainer; returns the last figures."""
        from nbadapt_plugins import _feedback_training

        return _feedback_training.train(self, model, tokenizer, job, emit)
