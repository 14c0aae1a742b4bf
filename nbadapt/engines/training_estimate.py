"""What training will cost, from a model on the meta device and a look at the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbadapt.engines.encoding import encode, length_limit, virtual_tokens
from nbadapt.method import Estimate, Job
from nbadapt.options import DTYPES

if TYPE_CHECKING:
    import torch

LOOKED_AT = 200  # rows tokenised to learn how long rows are
WIDTHS_KEPT = 17  # hidden-sized tensors that a block keeps for its backward pass (Korthikanti et al. 2022, eq. 1)


def estimate(model: torch.nn.Module, job: Job) -> Estimate:
    """Exact parameters and predicted peak memory of training what of `model` requires gradients.

    Args:
        model: the adapted model on the meta device.
        job: its config is a TrainingConfig.
    """
    from nbadapt.engines.supervised import optimizer_steps

    trainable, total = count_parameters(model)
    width = DTYPES[job.dtype]
    rows = len(job.data) if job.data else 0
    virtual = virtual_tokens(model)
    longest = _longest(model.config, job, virtual) + virtual
    memory = {
        "weights": (total - trainable) * width,
        "adapter": trainable * 4,
        "gradients": trainable * 4,
        "optimizer": trainable * 8,  # AdamW keeps two moments
        "activations": _activations(model.config, job, longest, width),
    }
    return Estimate(trainable, total, memory, trainable * 4, optimizer_steps(job.config, rows))


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """Trainable and all parameters of an adapted model; a head that peft replaced is not counted twice."""
    used = [p for name, p in model.named_parameters() if ".original_module." not in name]
    return sum(p.numel() for p in used if p.requires_grad), sum(_size(p) for p in used)


def _size(parameter: torch.nn.Parameter) -> int:
    """Weights in a parameter; bitsandbytes packs two 4-bit weights into a byte."""
    packed: Any = getattr(parameter, "quant_state", None)
    if packed is not None:
        return int(packed.shape.numel())
    return parameter.numel()


def _longest(config: Any, job: Job, virtual: int) -> int:
    """Tokens of the longest of the first rows, at most what a row may have."""
    import dataclasses

    from nbadapt import models

    limit = length_limit(config, job.config.max_length, virtual)
    if job.data is None:
        return limit
    # Character counts find the long rows; only those are tokenised.
    rows = sorted(job.data.rows, key=lambda row: -sum(len(str(v)) for v in row.values()))[:LOOKED_AT]
    looked_at = dataclasses.replace(job.data, rows=tuple(rows))
    tokenizer = models.load_tokenizer(models.base_ref(job.model))
    label2id = config.label2id if job.task == "classification" else None
    return max(encode(looked_at, tokenizer, label2id, limit).lengths)


def _activations(config: Any, job: Job, longest: int, width: int) -> int:
    """Bytes that the backward pass needs of a batch of the longest rows; without what the config does not tell."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    hidden, layers, words = (getattr(text, name, 0) for name in ("hidden_size", "num_hidden_layers", "vocab_size"))
    tokens = job.config.batch_size * longest
    blocks = tokens * hidden * layers * WIDTHS_KEPT * width
    logits = 0 if job.task == "classification" else tokens * words * (width + 4)
    return int(blocks + logits)
