"""Finetuning II: all layers are trained (Howard and Ruder 2018, https://arxiv.org/abs/1801.06146).

::

    tokens  ->  embeddings  ->  block 1  ->  ...  ->  block L  ->  head  ->  logits
                 trained        trained              trained      trained

    W <- W - AdamW(dL/dW)      for every W, in float32; products in bfloat16 on a GPU, and where `bf16` asks for it

Sizes: every parameter is trained, tied ones once. AdamW keeps two moments of each, so training takes 16 bytes a
parameter (weight, gradient, two moments) beside the shared base, which other runs may be using and which stays as
it is: the weights that change are float32 copies (mixed precision, Micikevicius et al. 2018, arXiv:1710.03740). The
result is stored in float32 and used in the type of the base. For bfloat16 a weight goes to one of its two neighbours
at random, the nearer one the likelier (Gupta et al. 2015, arXiv:1502.02551): to the nearest, most of what few steps
changed would be lost. After 16 steps SmolLM2 had a loss of 0.851 in float32, 0.851 so, and 0.871 to the nearest.

When to use it: where quality decides and memory and disk do not: 0.847 and 0.844 on 8,530 film reviews (two seeds)
beside LoRA's 0.818, and a loss of 0.911 on school mathematics beside LoRA's 1.131. `bf16: true` takes less
time where the CPU is quicker in it, and learns less in few steps.

When not: where several results are kept of one model, or memory is short: on 2,000 reviews 781 MiB of memory and
87 MiB on disk beside LoRA's 420 MiB of memory and 0.3 MiB, in three times its time.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from nbadapt.capture import quiet_libraries
from nbadapt.engines.training_config import TrainingConfig
from nbadapt.heads import head_modules
from nbadapt.memory import gibibytes
from nbadapt.method import Estimate, Job, Outcome
from nbadapt_plugins._trained import TrainedMethod, own_weights, skeleton

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

KEPT_CHECKPOINTS = 2
PRODUCTS = "nbadapt_products"  # in the stored model's configuration: the type that its training computed in
CHECKPOINT_BYTES = 12  # of a parameter: its value and AdamW's two moments


class FullSettings(TrainingConfig):
    """Settings of training all layers."""

    learning_rate: float = Field(1e-4, gt=0, le=10, description="peak learning rate of AdamW")
    bf16: bool | None = Field(
        None, description="training computes in bfloat16 (mixed precision); none: on a GPU with a base in bfloat16"
    )
    weight_decay: float = Field(0.01, ge=0, le=1, description="AdamW's weight decay")


class Full(TrainedMethod):
    """Trains a copy of the whole model; the shared base stays as it is."""

    name = "full"
    verb = "finetune"
    family = "The model's own layers"
    summary = "all layers (finetuning II), on a float32 copy of the model: by far the most memory and disk"
    reference = "https://arxiv.org/abs/1801.06146"
    exports = frozenset({"merged"})
    Config = FullSettings

    def estimate(self, job: Job) -> Estimate:
        """The copy comes on top of the shared base; a note says how much that is."""
        found = super().estimate(job)
        memory = found.memory
        more = sum(memory[item] for item in ("adapter", "gradients", "optimizer"))
        disk = KEPT_CHECKPOINTS * CHECKPOINT_BYTES * found.trainable
        notes = [
            f"all layers are trained on a copy: {gibibytes(more)} of memory beside the base's "
            f"{gibibytes(memory['weights'])}, {gibibytes(found.artifact)} on disk for the result and up to "
            f"{gibibytes(disk)} for checkpoints; lora, adapter and bitfit need a small part of that"
        ]
        if job.config.bf16 is None and (job.dtype, job.device) == ("bfloat16", "cpu"):
            notes.append("it computes in float32; bf16: true is quicker here, and in few steps learns less")
        return dataclasses.replace(found, notes=(*found.notes, *notes))

    def attach(self, model: PreTrainedModel, job: Job) -> PreTrainedModel:
        """The model with float32 weights of its own, all trained."""
        from nbadapt.engines.training_memory import autocasts

        own_weights(model)
        model = model.float().requires_grad_(True)
        setattr(model.config, PRODUCTS, "bfloat16" if autocasts(model, job) else "float32")
        return model

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write a transformers folder, in the model's type: a trained one's is float32."""
        with quiet_libraries():
            model.save_pretrained(folder)

    def restore(self, model: PreTrainedModel, folder: Path, job: Job) -> PreTrainedModel:
        """The stored model: its body in the base's type, its classification head in float32, as in training."""
        stored = _read(type(model), folder)
        heads = head_modules(model) if job.task == "classification" else []
        for name in heads:  # the new model's heads take float32 whatever the body gives
            head = model.get_submodule(name)
            head.load_state_dict(stored.get_submodule(name).state_dict())
            setattr(stored, name, head)
        _convert(stored.base_model if heads else stored, job.dtype)
        return stored.to(job.device)

    def export(self, kind: str, outcome: Outcome, job: Job, target: Path) -> None:
        """Write "merged": the whole model, in the type that the base's files have, with its tokenizer."""
        from nbadapt import pretrained

        folder, dtype = job.directory / outcome.artifacts["adapter"], pretrained.stored_dtype(job.model)
        if dtype == "float32":
            shutil.copytree(folder, target, dirs_exist_ok=True)
        else:
            stored = _read(type(skeleton(job)), folder)
            _convert(stored, dtype)
            self.save(stored, target)
        pretrained.load_tokenizer(job.model).save_pretrained(target)


def _read(kind: type[PreTrainedModel], folder: Path) -> PreTrainedModel:
    import torch

    with quiet_libraries():
        stored: PreTrainedModel = kind.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    return stored


def _convert(model: PreTrainedModel, dtype: str) -> None:
    """Give trained float32 weights another type.

    bfloat16 takes them up or down at random, the nearer value the likelier one: to the nearest most of what a small
    learning rate changed in few steps would be lost. A training that computed with the nearest values keeps those.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    at_random = dtype == "bfloat16" and getattr(model.config, PRODUCTS, None) == "float32"
    for parameter in model.parameters():
        rounded = _rounded_at_random(parameter.data, generator) if at_random else parameter.data
        parameter.data = rounded.to(getattr(torch, dtype))


def _rounded_at_random(value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Finite float32 values that bfloat16 holds: each one of its two neighbours, and on average the value itself.

    Stochastic rounding (Gupta et al. 2015, arXiv:1502.02551): bfloat16 is the upper half of a float32.
    """
    import torch

    noise = torch.randint(0, 1 << 16, value.shape, generator=generator, dtype=torch.int32)
    return ((value.contiguous().view(torch.int32) + noise) & -(1 << 16)).view(torch.float32)
