"""LoRA: low-rank adaptation (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

::

              x  (B, T, in)
        ┌─────┴──────┐
    W frozen     A  (r, in)      trained, drawn at random
    (out, in)        │
        │        B  (out, r)     trained, zero at the start
        └──── + ─────┘  · alpha / r
              h  (B, T, out)         h = W x + (alpha / r) B A x

Sizes: a matrix of out x in gets r · (in + out) trained parameters; the classification head, where there is one,
is trained whole; DoRA adds the out lengths of a matrix's rows. At the start B A = 0, so the adapted model equals
the base.
rsLoRA: Kalajdzievski 2023, arXiv:2312.03732. DoRA: Liu et al. 2024, arXiv:2402.09353. LoRA+: Hayou et al. 2024,
arXiv:2402.12354. Starts: PiSSA takes the r main directions out of W, so that W = W' + (alpha / r) B A, and trains
those (Meng et al. 2024, arXiv:2404.02948); it is stored as a LoRA adapter of rank 2 r for the unchanged W. EVA starts A
with the main directions of what the layers are given for 512 rows (Paischer et al. 2024, arXiv:2410.07170).

When to use it: as the first method when features are not enough: 0.799 on film reviews beside 0.818 of all layers,
with 0.3 % of the parameters, in a third of the time and little more than half the memory; the result can be merged.

When not: where a small model must learn something new in few steps: after one epoch of 128 rows of school mathematics
its loss was 1.131, that of the adapter 0.925; a higher learning_rate helps there.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from nbadapt.capture import quiet_libraries
from nbadapt.errors import RequestError
from nbadapt.heads import head_modules
from nbadapt.method import ADVANCED, Estimate, Job, Outcome
from nbadapt_plugins._peft import TASK_TYPES, PeftMethod
from nbadapt_plugins._trained import FrozenBaseConfig, own_weights, seeded, skeleton

if TYPE_CHECKING:
    from pathlib import Path

    from peft import PeftConfig, PeftModel
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

PEFT_STARTS = {"kaiming": True, "eva": True, "loftq": True}  # drawn by peft; `attach` has the last two start elsewhere

LORAPLUS = """
from peft.optimizers import create_loraplus_optimizer

optimizer = create_loraplus_optimizer(
    model, torch.optim.AdamW, lr={rate}, loraplus_lr_ratio={ratio}, loraplus_weight_decay={decay}, fused=True
)
"""


class LowRankSettings(FrozenBaseConfig):
    """Settings of LoRA on a base of any kind."""

    r: int = Field(8, ge=1, le=4096, description="rank: the inner size of the two matrices")
    alpha: float | None = Field(None, gt=0, description="the update is scaled by alpha / r; none: 2 r, so by 2")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the matrices' inputs dropped in training")
    target_modules: str | list[str] = Field(
        "auto",
        description="linear layers to adapt: auto (attention), all-linear, or a list of names",
        examples=["auto", "all-linear"],
    )
    rslora: bool = Field(
        False, description="scale by alpha / sqrt(r), steadier at high rank (rsLoRA)", json_schema_extra=ADVANCED
    )
    dora: bool = Field(
        False, description="train the rows' lengths apart from their directions (DoRA)", json_schema_extra=ADVANCED
    )
    loraplus_lr_ratio: float | None = Field(
        None,
        ge=1,
        le=1000,
        description="B, and what has one dimension, learns this many times as fast (LoRA+, such as 16); none: as fast",
        json_schema_extra=ADVANCED,
    )
    learning_rate: float = Field(1e-3, gt=0, le=10, description="peak learning rate of AdamW")


class LoraSettings(LowRankSettings):
    """Settings of LoRA."""

    init: Literal["kaiming", "gaussian", "orthogonal", "pissa", "eva"] = Field(
        "kaiming",
        description="how the two matrices start: drawn at random, from the weights' main directions (pissa), "
        "or from those of the data (eva); each start equals the base model",
        json_schema_extra=ADVANCED,
    )


class Lora(PeftMethod):
    """Trains two thin matrices beside each chosen weight matrix."""

    name = "lora"
    verb = "finetune"
    family = "Low-rank"
    summary = "low-rank matrices beside frozen weights: small, quick, near the quality of training all layers"
    reference = "https://arxiv.org/abs/2106.09685"
    Config: ClassVar[type[LowRankSettings]] = LoraSettings

    def peft_config(self, model: PreTrainedModel, job: Job) -> PeftConfig:
        """A LoraConfig whose target modules exist in this model and can hold the rank."""
        from peft import LoraConfig

        from nbadapt_plugins._linear_layers import stored_transposed, targets

        settings: LoraSettings = job.config
        if settings.init == "orthogonal" and settings.r % 2:
            raise RequestError(f"init: orthogonal needs an even rank, and r is {settings.r}: use {settings.r + 1}")
        chosen, excluded = targets(model, settings.target_modules, settings.r)
        return LoraConfig(
            task_type=TASK_TYPES[job.task],
            r=settings.r,
            lora_alpha=settings.alpha if settings.alpha is not None else 2 * settings.r,
            lora_dropout=settings.dropout,
            target_modules=chosen,
            exclude_modules=excluded or None,
            fan_in_fan_out=stored_transposed(model, chosen),
            use_rslora=settings.rslora,
            use_dora=settings.dora,
            init_lora_weights=PEFT_STARTS.get(settings.init, settings.init),
        )

    def attach(self, model: PreTrainedModel, job: Job) -> PeftModel:
        """The model with new matrices beside the chosen weights, started as asked."""
        from nbadapt_plugins import _lora_starts

        start, meta = job.config.init, model.device.type == "meta"
        if start == "pissa":
            _own_adapted(model, job.config)
        if start == "pissa" and meta:  # the shapes are LoRA's, and nothing has no main directions
            job = dataclasses.replace(job, config=job.config.model_copy(update={"init": "kaiming"}))
        adapted = super().attach(model, job)
        if meta:
            return adapted
        if start == "pissa":
            adapted.pissa_start = _lora_starts.pissa_start(adapted)
        elif start == "eva" and job.checkpoint is None:
            with seeded(job), quiet_libraries():
                _lora_starts.start_from_activations(adapted, job)
        return adapted

    def estimate(self, job: Job) -> Estimate:
        """As for every trained method; PiSSA's matrices are stored with those that they started as."""
        found = super().estimate(job)
        if job.config.init == "eva":  # here, where no weights are loaded yet
            from nbadapt_plugins import _lora_starts

            _lora_starts.rows_for_eva(job, skeleton(job).config)
        if job.config.init != "pissa":
            return found
        model = skeleton(job)
        heads = head_modules(model) if job.task == "classification" else []
        of_heads = sum(4 * p.numel() for name in heads for p in model.get_submodule(name).parameters())
        return dataclasses.replace(found, artifact=2 * found.artifact - of_heads)

    def save(self, model: PeftModel, folder: Path) -> None:
        """Write a peft adapter folder for the unchanged base."""
        from nbadapt_plugins import _lora_starts

        super().save(model, folder)
        if hasattr(model, "pissa_start"):
            _lora_starts.as_plain_lora(folder, model.pissa_start)

    def optimizer(self, model: PreTrainedModel, job: Job) -> Optimizer | None:
        """LoRA+ gives B a learning rate of its own."""
        if job.config.loraplus_lr_ratio is None:
            return None
        from peft.optimizers import create_loraplus_optimizer

        from nbadapt.engines.supervised import optimizer_class

        made, arguments = optimizer_class(job)
        ratio, decay = job.config.loraplus_lr_ratio, job.config.weight_decay
        optimizer: Optimizer = create_loraplus_optimizer(
            model, made, lr=job.config.learning_rate, loraplus_lr_ratio=ratio, loraplus_weight_decay=decay, **arguments
        )
        return optimizer

    def script_start(self, model: PreTrainedModel, job: Job) -> str:
        """LoRA+'s optimizer in an exported script."""
        settings: LoraSettings = job.config
        if settings.loraplus_lr_ratio is None:
            return ""
        return LORAPLUS.format(
            rate=settings.learning_rate, ratio=settings.loraplus_lr_ratio, decay=settings.weight_decay
        )

    def export(self, kind: str, outcome: Outcome, job: Job, target: Path) -> None:
        """As every peft method; a start from the data cannot be repeated by a plain script."""
        if kind == "script" and job.config.init == "eva":
            raise RequestError("init: eva starts from the data, which a plain script does not: export peft or merged")
        super().export(kind, outcome, job, target)


def _own_adapted(model: PreTrainedModel, settings: LoraSettings) -> None:
    """Give the layers that are adapted weights of their own: PiSSA changes them, and the base is shared."""
    from nbadapt_plugins._linear_layers import adapted_layers

    for name in adapted_layers(model, settings.target_modules, settings.r):
        own_weights(model.get_submodule(name))
