"""Which linear layers of a model an adapter goes to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbadapt.errors import RequestError, did_you_mean
from nbadapt.heads import head_modules

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Names under which architectures keep their attention's query and value, or all three in one matrix.
ATTENTION = frozenset({
    "q_proj", "v_proj", "query", "value", "q_lin", "v_lin", "q", "v", "query_proj", "value_proj",
    "query_key_value", "qkv_proj", "Wqkv", "c_attn", "in_proj", "qkv",
})  # fmt: skip


def linear_layers(model: PreTrainedModel) -> dict[str, tuple[int, int]]:
    """Full name -> (in, out) of every linear layer of the body; heads and output embeddings are left out."""
    import torch
    from transformers.pytorch_utils import Conv1D

    outside = {id(m) for name in head_modules(model) for m in model.get_submodule(name).modules()}
    outside.add(id(model.get_output_embeddings()))
    sizes: dict[str, tuple[int, int]] = {}
    for name, module in model.named_modules():
        if id(module) in outside:
            continue
        if isinstance(module, torch.nn.Linear):
            sizes[name] = (module.in_features, module.out_features)
        elif isinstance(module, Conv1D):
            sizes[name] = (module.nx, module.nf)
    return sizes


def targets(model: PreTrainedModel, asked: str | list[str], rank: int) -> tuple[list[str], list[str]]:
    """The last parts of the names of the layers to adapt, and full names that must be left out though they match.

    Args:
        model: any model, also on the meta device.
        asked: "auto" for the attention's matrices, "all-linear", or names.
        rank: the adapter's inner size.

    Raises:
        RequestError: no such layer in this model, or a rank that a layer cannot hold.
    """
    layers = linear_layers(model)
    last = {name.rpartition(".")[2] for name in layers}
    if asked == "all-linear":
        chosen = sorted(last)
    elif asked == "auto":
        chosen = sorted(last & ATTENTION) or sorted(last)
    else:
        chosen = [asked] if isinstance(asked, str) else list(asked)
    if not chosen:
        raise RequestError("target_modules is empty: name at least one layer, or write auto or all-linear")
    for name in chosen:
        if not any(matches(full, name) for full in layers):
            raise RequestError(
                f"target_modules: {model.config.model_type} has no linear layer {name!r}; "
                + did_you_mean(name, [*last, "auto", "all-linear"], kind="layers")
            )
    adapted = {full: size for full, size in layers.items() if any(matches(full, name) for name in chosen)}
    narrow, size = min(adapted.items(), key=lambda item: min(item[1]))
    if rank > min(size):
        raise RequestError(
            f"r: a rank of {rank} is more than the layer {narrow!r} ({size[1]} x {size[0]}) can hold: "
            f"use at most {min(size)}"
        )
    excluded = [
        full for full, _ in model.named_modules() if full not in layers and any(matches(full, name) for name in chosen)
    ]
    return chosen, excluded


def adapted_layers(model: PreTrainedModel, asked: str | list[str], rank: int) -> list[str]:
    """Full names of the layers that `targets` chooses."""
    chosen, _ = targets(model, asked, rank)
    return [full for full in linear_layers(model) if any(matches(full, name) for name in chosen)]


def stored_transposed(model: PreTrainedModel, names: list[str]) -> bool:
    """Whether layers of these names keep their weights as (in, out), as GPT-2 does; peft must be told."""
    from transformers.pytorch_utils import Conv1D

    modules = dict(model.named_modules())
    return any(isinstance(m, Conv1D) and any(matches(full, name) for name in names) for full, m in modules.items())


def matches(full: str, name: str) -> bool:
    """Whether `name`, as a user or peft writes it, means the layer called `full`: all of it, or its last parts."""
    return full == name or full.endswith("." + name)
