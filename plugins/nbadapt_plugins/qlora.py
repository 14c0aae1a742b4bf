"""QLoRA: low-rank adaptation of a base in 4 bits (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314).

::

              x  (B, T, in)
        ┌─────┴──────┐
    W in 4 bits   A  (r, in)      trained
    (out, in)        │            in float32
    frozen        B  (out, r)     trained, zero at the start
        └──── + ─────┘  · alpha / r
              h  (B, T, out)         h = dequantise(W) x + (alpha / r) B A x

Sizes: as many trained parameters as LoRA, r · (in + out) a matrix. The base's matrices take 0.5 bytes a weight and
1/64 + 4/(64 · 256) for the scales of their blocks with double quantisation (4/64 without); embeddings, norms, heads
and layers that the files lack keep their type. Each product is computed in the run's dtype on weights that are
dequantised for it.
LoftQ starts with B A as near as its rank allows to what the 4 bits lost (Li et al. 2023, arXiv:2310.08659, one step).

When to use it: for a model whose weights do not fit into memory in 16 bits: in 4 bits they take a good quarter of
that.

When not: where they fit, and above all on a CPU, where each product dequantises its weights first, which takes time,
and memory too: MiniLM on 2,000 film reviews took 90 s and 451 MiB of memory beside LoRA's 75 s and 420 MiB.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from nbadapt.errors import RequestError
from nbadapt.memory import gibibytes
from nbadapt.method import Estimate, Job
from nbadapt.options import DTYPES
from nbadapt_plugins._trained import head_of, skeleton
from nbadapt_plugins.lora import Lora, LowRankSettings

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from nbadapt.pretrained import Quantization


class QloraSettings(LowRankSettings):
    """Settings of QLoRA."""

    init: Literal["kaiming", "gaussian", "eva", "loftq"] = Field(
        "kaiming",
        description="how the two matrices start: drawn at random, from the main directions of the data (eva), "
        "or nearest to what the 4 bits lost (loftq)",
    )

    quant_type: Literal["nf4", "fp4"] = Field("nf4", description="the 16 values that a weight of the base may have")
    double_quant: bool = Field(True, description="quantise the scales of the weights' blocks as well")
    paged_optimizer: bool = Field(
        True, description="on CUDA, let the optimizer's state go to the main memory when the GPU's is full"
    )


class Qlora(Lora):
    """LoRA on a base that is kept in 4 bits."""

    name = "qlora"
    family = "Low-rank"
    summary = "LoRA on a base in 4 bits: a quarter of the memory for the weights, slower steps"
    reference = "https://arxiv.org/abs/2305.14314"
    requires = ("peft", "transformers", "bitsandbytes")
    exports = frozenset({"peft", "merged"})
    Config = QloraSettings

    def estimate(self, job: Job) -> Estimate:
        """As for LoRA, with the weights of the linear layers in 4 bits, and one of them dequantised for its product."""
        from nbadapt_plugins._linear_layers import linear_layers

        found = super().estimate(job)
        packed = [inside * outside for inside, outside in linear_layers(skeleton(job)).values()]
        saved = int(sum(packed) * (DTYPES[job.dtype] - _quantization(job).bytes_per_weight))
        dequantised = max(packed, default=0) * DTYPES[job.dtype]
        memory, notes = dict(found.memory), found.notes
        memory["weights"] -= saved
        memory["activations"] += dequantised
        if job.config.init == "loftq":
            notes = (*notes, f"init: loftq reads the weights in {job.dtype} once, which takes {gibibytes(saved)} more")
        return dataclasses.replace(found, memory=memory, notes=notes)

    def attach(self, model: PreTrainedModel, job: Job) -> PeftModel:
        """LoRA on the quantised model; a start from what was lost reads the weights in their own type."""
        adapted = super().attach(model, job)
        if job.config.init == "loftq" and model.device.type != "meta" and job.checkpoint is None:
            from nbadapt import pretrained
            from nbadapt_plugins import _lora_starts

            _lora_starts.start_from_residual(
                adapted, pretrained.read_weights(job.model, head_of(job), job.device, job.dtype)
            )
        return adapted

    def peft_config(self, model: PreTrainedModel, job: Job) -> PeftConfig:
        """As LoRA's; DoRA's lengths would be those of the weights before LoftQ's start."""
        if job.config.init == "loftq" and job.config.dora:
            raise RequestError("init: loftq and dora: true do not go together: leave one of them out")
        return super().peft_config(model, job)

    def mergeable(self, job: Job) -> PreTrainedModel:
        """The base in its own type; where training began with what the 4 bits lost, with the 4-bit values in it."""
        base = super().mergeable(job)
        if job.config.init == "loftq":
            from nbadapt import models
            from nbadapt_plugins import _linear_layers, _lora_starts

            with models.keeping_no_base():
                quantised = self.load_base(job)[0]
            for name in _linear_layers.adapted_layers(base, job.config.target_modules, job.config.r):
                if _lora_starts.in_4_bits(quantised.get_submodule(name)):
                    values = _lora_starts.dequantised(quantised.get_submodule(name)).to(base.dtype)
                    layer = base.get_submodule(name)
                    layer.weight.data = _lora_starts.oriented(layer, values)
        return base

    def load_base(self, job: Job) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The base in 4 bits; an export as "merged" takes it in its own type instead, which loses nothing."""
        from nbadapt import models

        if job.task == "classification":
            return models.load_classifier(
                job.model, job.labels, job.device, job.dtype, job.seed, quantization=_quantization(job)
            )
        return models.load(job.model, job.device, job.dtype, quantization=_quantization(job))


def _quantization(job: Job) -> Quantization:
    from nbadapt.pretrained import Quantization

    return Quantization(job.config.quant_type, job.config.double_quant)
