"""(IA)3: infused adapter by inhibiting and amplifying inner activations (Liu et al. 2022, https://arxiv.org/abs/2205.05638).

::

    x ── W_k ──(x l_k)── keys    ┐
    x ── W_v ──(x l_v)── values  ┴─ attention ──+── W_1 ── activation ──(x l_ff)── W_2 ── h

    k = l_k * (W_k x)     v = l_v * (W_v x)     h = W_2 (l_ff * activation(W_1 x))       all W frozen, * elementwise

Sizes: one number for each output of the key and value matrices and each input of the feedforward's second matrix:
d_k + d_v + d_ff in a block; the classification head, where there is one, is trained whole. At the start every
number is 1, so the adapted model equals the base. Where one matrix gives query, key and value together, as in
GPT-2, the query is scaled too. The numbers can be multiplied into the weights afterwards: no cost in use.

When to use it: for the smallest result that can be merged: 57,600 parameters gave SmolLM2 a loss of 0.944 on school
mathematics, LoRA's 460,800 gave 1.131.

When not: to classify where accuracy counts: 0.795 on 8,530 film reviews beside LoRA's 0.818, and hardly quicker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from nbadapt.errors import RequestError
from nbadapt.method import Job
from nbadapt_plugins._peft import TASK_TYPES, PeftMethod
from nbadapt_plugins._trained import FrozenBaseConfig

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

# Names under which architectures keep keys and values (or all three of the attention in one matrix).
KEYS_VALUES = (
    "k_proj", "v_proj", "key", "value", "k_lin", "v_lin", "k", "v", "key_proj", "value_proj",
    "query_key_value", "qkv_proj", "Wqkv", "c_attn", "in_proj", "qkv",
)  # fmt: skip
# ... and the second matrix of the feedforward; in BERT the attention has an output.dense of its own.
SECOND = ("down_proj", "mlp.c_proj", "lin2", "fc2", "wo", "w2", "dense_4h_to_h", "fc_out", "mlp.Wo", "output.dense")
NOT_SECOND = "attention.output.dense"


class Ia3Settings(FrozenBaseConfig):
    """Settings of (IA)3."""

    target_modules: str | list[str] = Field(
        "auto",
        description="linear layers to scale: auto (keys, values, feedforward), all-linear, or a list of names",
        examples=["auto", "all-linear"],
    )
    feedforward_modules: list[str] | None = Field(
        None, description="those of them whose input is scaled, not their output; none: the feedforward's second matrix"
    )
    learning_rate: float = Field(3e-2, gt=0, le=10, description="peak learning rate of AdamW")


class Ia3(PeftMethod):
    """Trains one factor for each key, each value and each inner activation of the feedforward."""

    name = "ia3"
    verb = "finetune"
    family = "Adapters"
    summary = "learned factors on keys, values and inner activations: a fifth to an eighth of LoRA's parameters"
    reference = "https://arxiv.org/abs/2205.05638"
    Config = Ia3Settings

    def peft_config(self, model: PreTrainedModel, job: Job) -> PeftConfig:
        """An IA3Config whose target modules exist in this model."""
        from peft import IA3Config

        from nbadapt_plugins._linear_layers import matches, stored_transposed, targets

        settings: Ia3Settings = job.config
        asked = settings.target_modules
        chosen, excluded = targets(model, _present(model) if asked == "auto" else asked, rank=1)
        second = settings.feedforward_modules
        if second is None:
            second = [name for name in chosen if any(matches(name, known) for known in SECOND)]
        for name in second:
            if name not in chosen:
                raise RequestError(
                    f"feedforward_modules: {name!r} is not among the target_modules {', '.join(chosen)}: add it there"
                )
        if asked == "auto" and "output.dense" in chosen:
            excluded.append(NOT_SECOND)
        return IA3Config(
            task_type=TASK_TYPES[job.task],
            target_modules=chosen,
            feedforward_modules=second,
            exclude_modules=excluded or None,
            fan_in_fan_out=stored_transposed(model, chosen),
        )


def _present(model: PreTrainedModel) -> list[str]:
    """The names of keys, values and second matrices that this model has."""
    from nbadapt_plugins._linear_layers import linear_layers, matches

    layers = [name for name in linear_layers(model) if not name.endswith("." + NOT_SECOND)]
    found = [name for name in (*KEYS_VALUES, *SECOND) if any(matches(full, name) for full in layers)]
    if not found:
        raise RequestError(
            f"target_modules: auto knows no keys, values or feedforward of {model.config.model_type}: "
            "name the linear layers, or write all-linear"
        )
    return found
