"""P-tuning: a soft prompt that a small network makes (Liu et al. 2021, https://arxiv.org/abs/2103.10385).

::

    e_1 ... e_P  (P, d)  trained
        │
    prompt encoder, trained:  MLP, or a bidirectional LSTM and an MLP
        │
    p_1 ... p_P  (B, P, d)      x_1 ... x_T  (B, T, d)  embeddings, frozen
        └───────────────┬─────────────┘
                 all blocks, frozen ── head ── logits

    p = MLP(e)  or  MLP(BiLSTM(e)):  the network ties the tokens together, so that they are found sooner than alone

Sizes: for P virtual tokens of d numbers and an encoder of h:
    MLP    P d + (d h + h) + (h h + h) + (h d + d)
    LSTM   P d + 8 h (d + h + 2) + (layers - 1) · 8 h (3 h + 2) + (2h · 2h + 2h) + (2h d + d)
the classification head, where there is one, is trained whole. The network is needed in training only: what is
stored is the P · d numbers that it makes.

When to use it: where a network that ties the tokens is wanted, as in the paper; only the prompt is stored, not the
network.

When not: in place of prompt tuning, which was better on 2,000 film reviews (0.738, P-tuning 0.708) and on 8,530 (0.790,
P-tuning 0.776); LoRA had 0.799 and 0.818.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from nbadapt.errors import RequestError
from nbadapt.method import Job
from nbadapt_plugins._prompt_learning import SoftPromptMethod, VirtualTokensConfig

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel


class PTuningSettings(VirtualTokensConfig):
    """Settings of P-tuning."""

    encoder_reparameterization_type: Literal["MLP", "LSTM"] = Field(
        "MLP", description="the network that makes the virtual tokens"
    )
    encoder_hidden_size: int | None = Field(
        None, ge=1, le=65_536, description="that network's inner size; none: the width of the model's embeddings"
    )
    encoder_num_layers: int = Field(2, ge=1, le=16, description="layers of the LSTM; the MLP has three")
    encoder_dropout: float = Field(0.0, ge=0, lt=1, description="dropout between the layers of the LSTM")
    learning_rate: float = Field(1e-2, gt=0, le=10, description="peak learning rate of AdamW")


class PTuning(SoftPromptMethod):
    """Trains a network that makes the embeddings of tokens which stand before every input."""

    name = "p-tuning"
    verb = "finetune"
    family = "Learned prompts"
    summary = "learned tokens before the input, made by a small network that is thrown away afterwards"
    reference = "https://arxiv.org/abs/2103.10385"
    Config = PTuningSettings

    def prompt_config(self, model: PreTrainedModel, job: Job, shared: dict[str, Any]) -> PeftConfig:
        """A PromptEncoderConfig."""
        from peft import PromptEncoderConfig

        settings: PTuningSettings = job.config
        recurrent = settings.encoder_reparameterization_type == "LSTM"
        for name in ("encoder_num_layers", "encoder_dropout"):
            if not recurrent and getattr(settings, name) != PTuningSettings.model_fields[name].default:
                raise RequestError(f"{name} belongs to the LSTM: add encoder_reparameterization_type: LSTM, or drop it")
        of_lstm = {
            "encoder_num_layers": settings.encoder_num_layers,
            "encoder_dropout": settings.encoder_dropout if settings.encoder_num_layers > 1 else 0.0,
        }
        return PromptEncoderConfig(
            **shared,
            encoder_reparameterization_type=settings.encoder_reparameterization_type,
            encoder_hidden_size=settings.encoder_hidden_size,
            **(of_lstm if recurrent else {}),
        )
