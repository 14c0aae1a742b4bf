"""What the methods share that learn from pairs of answers with trl's trainers: settings, estimate, training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from nbadapt.engines.pairs import Pair, check_pairs, longest_pairs
from nbadapt.method import Adapted, Emit, Estimate, Job, Outcome
from nbadapt_plugins._trained import adapted
from nbadapt_plugins.lora import Lora, LowRankSettings

if TYPE_CHECKING:
    from pathlib import Path

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
        """The trainer's class, that of its arguments, and those of them that are the method's own. Imports trl.

        The first one derives from `PairTrainer`.
        """

    @abstractmethod
    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Any:
        """What makes a batch of rows. Imports trl."""

    @abstractmethod
    def loss(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """What the trainer computes of a batch, as far as it takes memory."""

    @abstractmethod
    def show(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, job: Job) -> Show:
        """What is shown of a few held-out rows."""

    def live(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, job: Job) -> Adapted:
        """The model as it is while it is trained, ready to use."""
        found: Adapted = adapted(model, tokenizer, job)
        return found

    def estimate(self, job: Job) -> Estimate:
        """As for LoRA, with two texts a row; refuses rows whose answers differ only behind the limit."""
        from nbadapt import pretrained
        from nbadapt.engines.encoding import length_limit

        found = super().estimate(job)  # says first whether the model fits at all
        limit = length_limit(pretrained.read_config(job.model), job.config.max_length)
        tokenizer = pretrained.load_tokenizer(job.model)
        for table in (job.data, job.evaluation):
            if table is not None:
                check_pairs(table, tokenizer, limit)
        return found

    def trl_arguments(self, job: Job) -> dict[str, Any]:
        """What trl's own arguments are set to. Imports trl."""
        _, kind, own = self.trainer(job)
        names = ("activation_checkpointing", "gradient_checkpointing")  # the second is the older name of the first
        checkpointing = next(name for name in names if name in kind.__dataclass_fields__)
        return {
            checkpointing: False,  # trl computes activations again, at a quarter more time
            "disable_dropout": False,  # the base's is off already; the adapter's is the user's affair
            "max_length": None,  # the rows are cut already
            **own,
        }

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

    def export(self, kind: str, outcome: Outcome, job: Job, target: Path) -> None:
        """As every peft method; "script" is one of trl."""
        if kind != "script":
            super().export(kind, outcome, job, target)
            return
        from nbadapt_plugins import _pair_script

        model = self.skeleton(job)
        config = self.peft_config(model, job)
        _pair_script.write(self, config, model, job, target, self.script_start(model, job))

    def train(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, job: Job, emit: Emit
    ) -> dict[str, float]:
        """Train with trl's trainer; returns the last figures."""
        from nbadapt_plugins import _feedback_training

        return _feedback_training.train(self, model, tokenizer, job, emit)
