"""BitFit: only the biases are trained (Ben Zaken, Goldberg and Ravfogel 2021, https://arxiv.org/abs/2106.10199).

::

              x  (B, T, in)
              │
    W frozen  (out, in)
              │
              + ──── b  (out,)      trained, from its pretrained value
              │
              h  (B, T, out)        h = W x + b

Sizes: one number an output of every layer that has a bias; a BERT of width d, feed-forward width m and L blocks has
(7 d + m) L + 2 d of them (attention 4 d, feed-forward m + d, two norms 2 d; the embeddings' norm and the pooler),
GPT-2 (7 d + m) L + d.
The classification head, where there is one, is trained whole. The keys' bias shifts all scores of a query alike, so
without rotary positions its gradient is zero.

When to use it: with models that have biases, for a small and quick result: 63 s, 389 MiB and 110 KiB on 2,000 film
reviews, at an accuracy of 0.770.

When not: with Llama and T5, which have no biases and are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from nbadapt.errors import RequestError, UnsuitedError, did_you_mean
from nbadapt.heads import head_modules
from nbadapt.method import Job
from nbadapt_plugins._copied import CopiedMethod
from nbadapt_plugins._linear_layers import matches
from nbadapt_plugins._trained import FrozenBaseConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class BitFitSettings(FrozenBaseConfig):
    """Settings of BitFit."""

    target_modules: str | list[str] = Field(
        "all",
        description="layers whose biases are trained: all, or names (the paper's half: query, intermediate.dense)",
        examples=["all"],
    )
    learning_rate: float = Field(3e-3, gt=0, le=10, description="peak learning rate of AdamW")


class BitFit(CopiedMethod):
    """Trains the biases, on copies."""

    name = "bitfit"
    verb = "finetune"
    family = "The model's own layers"
    summary = "only the biases, about a thousandth of the weights; for models that have biases (no Llama)"
    reference = "https://arxiv.org/abs/2106.10199"
    Config = BitFitSettings

    def attach(self, model: PreTrainedModel, job: Job) -> PreTrainedModel:
        """The model with trained copies of its biases."""
        from nbadapt_plugins import _copies

        _copies.train_copies(model, chosen_biases(model, job.config.target_modules, job))
        return model


def chosen_biases(model: PreTrainedModel, asked: str | list[str], job: Job) -> list[str]:
    """Full names of the body's biases to train.

    Raises:
        UnsuitedError: the model has none.
        RequestError: it has none of such a layer.
    """
    heads = tuple(f"{name}." for name in head_modules(model)) if job.task == "classification" else ()
    biases = [name for name, _ in model.named_parameters() if name.endswith(".bias") and not name.startswith(heads)]
    if not biases:
        raise UnsuitedError(f"bitfit does not work with this {model.config.model_type}, which has no biases")
    if asked == "all":
        return biases
    layers = [name.removesuffix(".bias") for name in biases]
    wanted = [asked] if isinstance(asked, str) else asked
    for name in wanted:
        if not any(matches(layer, name) for layer in layers):
            last = sorted({layer.rpartition(".")[2] for layer in layers})
            raise RequestError(
                f"target_modules: {model.config.model_type} has no layer {name!r} with a bias; "
                + did_you_mean(name, [*last, "all"], kind="layers")
            )
    found = [f"{layer}.bias" for layer in layers if any(matches(layer, name) for name in wanted)]
    if not found:
        raise RequestError("target_modules is empty: name at least one layer, or write all")
    return found
