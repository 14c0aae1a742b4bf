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
is trained whole. At the start B A = 0, so the adapted model equals the base.
rsLoRA: Kalajdzievski 2023, arXiv:2312.03732. DoRA: Liu et al. 2024, arXiv:2402.09353.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from nbadapt.method import Job
from nbadapt_plugins._peft import TASK_TYPES, PeftMethod
from nbadapt_plugins._trained import FrozenBaseConfig

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel


class LoraSettings(FrozenBaseConfig):
    """Settings of LoRA."""

    r: int = Field(8, ge=1, le=4096, description="rank: the inner size of the two matrices")
    alpha: float | None = Field(None, gt=0, description="the update is scaled by alpha / r; none: 2 r, so by 2")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the matrices' inputs dropped in training")
    target_modules: str | list[str] = Field(
        "auto",
        description="linear layers to adapt: auto (attention), all-linear, or a list of names",
        examples=["auto", "all-linear"],
    )
    rslora: bool = Field(False, description="scale by alpha / sqrt(r), steadier at high rank (rsLoRA)")
    dora: bool = Field(False, description="train the columns' lengths apart from their directions (DoRA)")
    init: Literal["kaiming", "gaussian", "orthogonal"] = Field(
        "kaiming", description="how the two matrices are drawn; each start equals the base model"
    )
    learning_rate: float = Field(1e-3, gt=0, le=10, description="peak learning rate of AdamW")


class Lora(PeftMethod):
    """Trains two thin matrices beside each chosen weight matrix."""

    name = "lora"
    verb = "finetune"
    summary = "low-rank matrices beside frozen weights: small, quick, near the quality of training all layers"
    reference = "https://arxiv.org/abs/2106.09685"
    Config = LoraSettings

    def peft_config(self, model: PreTrainedModel, job: Job) -> PeftConfig:
        """A LoraConfig whose target modules exist in this model and can hold the rank."""
        from peft import LoraConfig

        from nbadapt_plugins._linear_layers import stored_transposed, targets

        settings: LoraSettings = job.config
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
            init_lora_weights=True if settings.init == "kaiming" else settings.init,
        )
