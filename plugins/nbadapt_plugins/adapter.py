"""Bottleneck adapters (Houlsby et al. 2019, https://arxiv.org/abs/1902.00751).

::

    one block                                  one adapter

    x ─┬─> attention ──> adapter ──> + ─> ...      h  (B, T, d)
       └───────────────────────────> ┘             ├──────────┐
                                                   down  (m, d), a
    x ─┬─> feed-forward ─> adapter ─> + ─> ...     act        │
       └───────────────────────────> ┘             up    (d, m), b
                                                   + ─────────┘
    norms trained, all else frozen                 h + up(act(down(h) + a)) + b

Sizes: an adapter has 2 d m weights and d + m biases; there are two in a block, after each sub-layer and before its
residual addition. `placement: pfeiffer` has one, after the feed-forward (Pfeiffer et al. 2020,
https://arxiv.org/abs/2005.00247). The body's norms are trained on copies (2 d numbers each, d in Llama's), and so is a
classification head. Both matrices start near zero, so the adapted model starts near the base; it cannot be merged into
it.

When to use it: where all layers would be best and are too large: a loss of 0.925 on school mathematics beside the
0.911 of all layers, with 2 % of the parameters and less than half of the time.

When not: where the result must be merged into the weights, which it cannot be; T5 is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from nbadapt.errors import RequestError, UnsuitedError
from nbadapt.heads import head_modules
from nbadapt.method import ADVANCED, Job, Outcome
from nbadapt_plugins._trained import FrozenBaseConfig, TrainedMethod

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# In a block of each family: the last matrix of its attention, and of its feed-forward.
PLACES = (
    ("attention.output.dense", "output.dense"),  # BERT, RoBERTa, ELECTRA
    ("attention.out_lin", "ffn.lin2"),  # DistilBERT
    ("attn.c_proj", "mlp.c_proj"),  # GPT-2
    ("self_attn.o_proj", "mlp.down_proj"),  # Llama, Qwen2, Mistral, SmolLM3
    ("attn.Wo", "mlp.Wo"),  # ModernBERT
)
NARROWING = 16  # d / m where the user sets no m: 64 for a width of 1024, as in the paper


class AdapterSettings(FrozenBaseConfig):
    """Settings of bottleneck adapters."""

    bottleneck: int | None = Field(
        None, ge=1, le=65_536, description="inner size of an adapter, in units; none: a sixteenth of the model's width"
    )
    placement: Literal["houlsby", "pfeiffer"] = Field(
        "houlsby", description="two adapters a block (houlsby), or one, after the feed-forward (pfeiffer)"
    )
    activation: Literal["gelu", "relu", "silu", "tanh"] = Field(
        "gelu", description="function between the matrices", json_schema_extra=ADVANCED
    )
    init_scale: float = Field(
        1e-2,
        gt=0,
        le=1,
        description="standard deviation of the matrices at the start, cut off at two of it",
        json_schema_extra=ADVANCED,
    )
    layer_norms: bool = Field(
        True, description="train the body's norms too, as the paper does", json_schema_extra=ADVANCED
    )
    layers_to_transform: list[int] | None = Field(
        None, description="numbers of the blocks that get adapters, from 0; none: all", json_schema_extra=ADVANCED
    )
    learning_rate: float = Field(1e-3, gt=0, le=10, description="peak learning rate of AdamW")


class Adapter(TrainedMethod):
    """Trains small bottlenecks inside the blocks, and the norms."""

    name = "adapter"
    verb = "finetune"
    family = "Adapters"
    summary = "two small bottlenecks in each block, and the norms (Houlsby), or one (Pfeiffer)"
    reference = "https://arxiv.org/abs/1902.00751"
    exports = frozenset({"adapter"})
    Config = AdapterSettings

    def attach(self, model: PreTrainedModel, job: Job) -> PreTrainedModel:
        """The model with new adapters, and copies of its norms."""
        from nbadapt_plugins import _bottleneck, _copies

        settings: AdapterSettings = job.config
        _bottleneck.insert(model, job.seed, settings.init_scale, **_shape(model, settings))
        if settings.layer_norms:
            heads = head_modules(model) if job.task == "classification" else []
            _copies.train_copies(model, _bottleneck.norm_parameters(model, heads))
        return model

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write all trained tensors, and what the adapters are like."""
        from nbadapt_plugins import _bottleneck, _copies

        about = {"method": self.name, "model_type": model.config.model_type, **_bottleneck.description(model)}
        _copies.save(model, folder, about)

    def restore(self, model: PreTrainedModel, folder: Path, job: Job) -> PreTrainedModel:
        """The model with the stored adapters and norms in it."""
        from nbadapt_plugins import _bottleneck, _copies

        about = _copies.about(folder)
        _bottleneck.insert(model, 0, 1.0, about["places"], about["bottleneck"], about["activation"])
        _copies.put_back(model, folder)
        return model

    def export(self, kind: str, outcome: Outcome, job: Job, target: Path) -> None:
        """Write "adapter": the trained tensors, what they are, and how plain PyTorch puts them into the model."""
        from nbadapt_plugins import _bottleneck

        _bottleneck.export(job.directory / outcome.artifacts["adapter"], job, target)


def _shape(model: PreTrainedModel, settings: AdapterSettings) -> dict[str, Any]:
    """What the settings come to in this model, checked."""
    width: int = model.config.get_text_config().hidden_size
    size = settings.bottleneck or max(1, width // NARROWING)
    if size > width:
        raise RequestError(
            f"bottleneck: {size} is more than the width of {model.config.model_type} here, {width}: use at most {width}"
        )
    return {"places": _places(model, settings), "bottleneck": size, "activation": settings.activation}


def _places(model: PreTrainedModel, settings: AdapterSettings) -> list[str]:
    """Full names of the layers behind which the adapters go."""
    from nbadapt_plugins._blocks import blocks

    name, found = blocks(model, Adapter.name)
    modules = dict(model.named_modules())
    places = next((p for p in PLACES if all(f"{name}.0.{part}" in modules for part in p)), None)
    if places is None:
        raise UnsuitedError(f"adapter does not know where the sub-layers of {model.config.model_type} end")
    chosen = range(found) if settings.layers_to_transform is None else sorted(set(settings.layers_to_transform))
    if not chosen:
        raise RequestError("layers_to_transform is empty: name at least one block, or leave it out")
    wrong = next((number for number in chosen if not 0 <= number < found), None)
    if wrong is not None:
        raise RequestError(f"layers_to_transform: there is no block {wrong}; this model has 0 to {found - 1}")
    parts = places if settings.placement == "houlsby" else places[1:]
    return [f"{name}.{number}.{part}" for number in chosen for part in parts]
