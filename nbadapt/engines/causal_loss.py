"""The loss of a causal language model at the tokens that are learned, and the attention that is quickest for it."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from nbadapt.engines.encoding import IGNORED

SHORT = 128  # tokens; below, torch's flash attention is slow backwards in bfloat16 on a CPU (3.5 times at 30 tokens)


def keeps_logits(model: Any) -> bool:
    """Whether a model computes logits only where it is told to; peft's wrapper hands that on."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(base.forward).parameters


def learned_positions(labels: torch.Tensor) -> torch.Tensor:
    """(K,) positions whose next token any row of labels (B, T) learns."""
    return (labels[:, 1:] != IGNORED).any(dim=0).nonzero().squeeze(-1)


def causal_loss(
    model: Any, inputs: dict[str, torch.Tensor], positions: torch.Tensor, keeps: bool
) -> tuple[torch.Tensor, Any]:
    """The summed cross-entropy of the next tokens at `positions` (K,), and the model's output.

    Args:
        model: a causal language model, which may have virtual tokens before the text.
        inputs: input_ids, attention_mask and labels, each (B, T).
        positions: see `learned_positions`.
        keeps: see `keeps_logits`; logits elsewhere would be thrown away.
    """
    targets = inputs["labels"][:, 1:]  # (B, T-1)
    columns = positions - inputs["labels"].shape[1]  # from the end: virtual tokens may stand before the text
    extra = {"logits_to_keep": columns} if keeps else {}
    outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], **extra)
    logits = outputs.logits if keeps else outputs.logits[:, columns]  # (B, K, V)
    loss = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), targets[:, positions].flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return loss, outputs


def quick_attention(
    input_ids: torch.Tensor, bfloat16: bool, *, always: bool = False
) -> contextlib.AbstractContextManager[None]:
    """The quickest attention for a training step on input ids (B, T), where torch chooses another.

    Args:
        input_ids: what the model will be given.
        bfloat16: whether it computes in that.
        always: also without gradients, so that what is found can be compared with what the training step finds.
    """
    short = input_ids.device.type == "cpu" and input_ids.shape[1] <= SHORT
    if short and bfloat16 and (always or torch.is_grad_enabled()):
        attention: contextlib.AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
        return attention
    return contextlib.nullcontext()
