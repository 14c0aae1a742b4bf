"""Training single parameters of a shared model on float32 copies, which take the originals' places in this run.

::

    shared base   W (bfloat16)  ──────────────────> other runs
                  │ copied once
    this run      W' (float32, trained)  ── cast ──> W (bfloat16), as the layer computes with it

A small update would be lost in bfloat16; the layer itself still computes in the type of the base.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn.utils import parametrize

from nbadapt.engines.trainer import trained_tensors
from nbadapt.errors import StoreError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS = "trained.safetensors"
ABOUT = "trained.json"


class _Cast(torch.nn.Module):
    """Gives a parameter in another type; the gradient comes back in the parameter's own."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def forward(self, parameter: torch.Tensor) -> torch.Tensor:
        return parameter.to(self._dtype)


def train_copies(model: torch.nn.Module, names: Iterable[str]) -> None:
    """Put trained float32 copies in the place of the parameters of these names."""
    for name in names:
        path, _, last = name.rpartition(".")
        module = model.get_submodule(path)
        original = getattr(module, last)
        setattr(module, last, torch.nn.Parameter(original.detach().to(torch.float32, copy=True)))
        if original.dtype != torch.float32:
            parametrize.register_parametrization(module, last, _Cast(original.dtype), unsafe=True)


def save(model: torch.nn.Module, folder: Path, about: Mapping[str, Any]) -> None:
    """Write all trained tensors under the names that they have in a plain model, and a few words about them."""
    tensors = {plain_name(name): tensor for name, tensor in trained_tensors(model).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def about(folder: Path) -> dict[str, Any]:
    """The words that `save` was given."""
    words: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    return words


def put_back(model: PreTrainedModel, folder: Path) -> None:
    """Put what `save` wrote in the place of the model's own parameters, each in the type that the model has it in.

    Raises:
        StoreError: the folder belongs to another model.
    """
    there = dict(model.named_parameters())
    for name, tensor in load_file(folder / WEIGHTS).items():
        if name not in there or there[name].shape != tensor.shape:
            raise StoreError(f"{folder} holds weights that this model has no place for, such as {name}")
        path, _, last = name.rpartition(".")
        value = tensor.to(there[name].device, there[name].dtype)
        setattr(model.get_submodule(path), last, torch.nn.Parameter(value, requires_grad=False))


def is_copy(name: str) -> bool:
    """Whether a parameter's name is that of a float32 copy behind a cast."""
    return name.endswith(".original")


def plain_name(name: str) -> str:
    """The name of a parameter without what a cast adds: ``a.parametrizations.weight.original`` is ``a.weight``."""
    return name.replace("parametrizations.", "").removesuffix(".original")
