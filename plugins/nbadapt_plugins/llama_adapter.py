"""LLaMA-Adapter: adaption prompts behind a gate that starts closed (Zhang et al. 2023, https://arxiv.org/abs/2303.16199).

::

    attention of one of the top blocks, its weights frozen

    x  (B, T, d) ── W_q ── queries ──┬── attends to the text ──────────────────────────────── W_o ── + ── h
                                     │                                                               │
    prompt  (K, d) trained ── W_k, W_v ── attends to the prompt, softmax ── · gate (trained) ── W_o ─┘

    h = W_o (softmax(q k^T / sqrt(s)) v  +  gate · softmax(q k_p^T / sqrt(s)) v_p)

Sizes: K d + 1 in each of the top blocks. The gate is 0 at the start, so the adapted model equals the base, and opens
as the prompt becomes useful. The prompt has a softmax of its own and takes no positions. For GPT-2 peft leaves out
the last W_o. No classification: peft's adaption prompts keep no head.

When to use it: with Llama, Mistral or GPT-2, where the model must start exactly as it is and change gently: on school
mathematics it had a loss of 1.058 beside LoRA's 1.131. The paper has 10 learned tokens in each block; of 5 to 100
the default of 100 learned most.

When not: to classify, or where the result is to be merged, which LoRA's can, or small: 1,612,828 parameters beside
LoRA's 460,800.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from nbadapt.errors import RequestError, UnsuitedError
from nbadapt.method import Job
from nbadapt_plugins._peft import TASK_TYPES, PeftMethod
from nbadapt_plugins._trained import FrozenBaseConfig

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel


class LlamaAdapterSettings(FrozenBaseConfig):
    """Settings of LLaMA-Adapter."""

    adapter_len: int = Field(100, ge=1, le=4096, description="learned tokens in each adapted block")
    adapter_layers: int | None = Field(
        None, ge=1, le=1024, description="how many blocks are adapted, from the top; none: all but the lowest two"
    )
    learning_rate: float = Field(3e-2, gt=0, le=10, description="peak learning rate of AdamW")


class LlamaAdapter(PeftMethod):
    """Trains prompts in the attention of the top blocks, and the gates that let them in."""

    name = "llama-adapter"
    verb = "finetune"
    family = "Learned prompts"
    summary = "learned prompts in the top blocks' attention, behind gates that start closed"
    reference = "https://arxiv.org/abs/2303.16199"
    tasks = frozenset({"generation", "text"})
    exports = frozenset({"peft"})
    Config = LlamaAdapterSettings

    def peft_config(self, model: PreTrainedModel, job: Job) -> PeftConfig:
        """An AdaptionPromptConfig for a model that peft has adaption prompts for."""
        from peft import AdaptionPromptConfig
        from peft.tuners.adaption_prompt.config import TRANSFORMERS_MODEL_CONFIG

        settings: LlamaAdapterSettings = job.config
        kind, blocks = model.config.model_type, model.config.num_hidden_layers
        head = getattr(model.config, "head_dim", None)
        if kind not in TRANSFORMERS_MODEL_CONFIG:
            raise UnsuitedError(
                f"llama-adapter does not work with {kind}, only with {', '.join(TRANSFORMERS_MODEL_CONFIG)}"
            )
        if head and head * model.config.num_attention_heads != model.config.hidden_size:
            raise UnsuitedError(f"llama-adapter does not work with this {kind}, whose heads are not as wide as it")
        if (settings.adapter_layers or 0) > blocks:
            raise RequestError(
                f"adapter_layers: {settings.adapter_layers} are more than the {blocks} blocks of {kind}: "
                f"use at most {blocks}"
            )
        return AdaptionPromptConfig(
            task_type=TASK_TYPES[job.task],
            adapter_len=settings.adapter_len,
            adapter_layers=settings.adapter_layers or max(1, blocks - 2),
        )

    def attach(self, model: PreTrainedModel, job: Job) -> PeftModel:
        """The model with new prompts and closed gates, in float32 where peft has them in the type of the base."""
        import torch

        from nbadapt_plugins import _copies

        adapted = super().attach(model, job)
        trained = [(name, p) for name, p in adapted.named_parameters() if p.requires_grad]
        _copies.train_copies(adapted, [name for name, p in trained if p.dtype != torch.float32])
        return adapted

    def save(self, model: PeftModel, folder: Path) -> None:
        """Write a peft adapter folder, with the prompts as they were trained."""
        from nbadapt_plugins import _copies

        tensors = model.state_dict()
        trained = {_copies.plain_name(name): tensor for name, tensor in tensors.items() if _copies.is_copy(name)}
        model.save_pretrained(folder, state_dict={**tensors, **trained})
