"""The module of a bottleneck adapter, and how it gets into a model: behind a layer, by a forward hook.

A hook leaves the names and the classes of the model's own modules as they are.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from nbadapt_plugins import _copies

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from nbadapt.method import Job

NAME = "adapter"  # of the adapter in the layer that it stands behind


class Bottleneck(torch.nn.Module):
    """h + up(act(down(h))): weights in float32, computed in the type of h."""

    def __init__(self, width: int, bottleneck: int, activation: str) -> None:
        super().__init__()
        self.down = torch.nn.Linear(width, bottleneck)
        self.up = torch.nn.Linear(bottleneck, width)
        self.activation = activation

    def draw(self, generator: torch.Generator, scale: float) -> None:
        """Normal matrices, cut off at two standard deviations; biases zero."""
        for layer in (self.down, self.up):
            noise = torch.empty(layer.weight.shape)
            torch.nn.init.trunc_normal_(noise, 0.0, scale, -2 * scale, 2 * scale, generator=generator)
            layer.weight.data.copy_(noise)
            torch.nn.init.zeros_(layer.bias)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """(B, T, d) -> (B, T, d)."""
        inner = functional.linear(h, self.down.weight.to(h.dtype), self.down.bias.to(h.dtype))  # (B, T, m)
        inner = getattr(functional, self.activation)(inner)
        return h + functional.linear(inner, self.up.weight.to(h.dtype), self.up.bias.to(h.dtype))


def insert(
    model: PreTrainedModel, seed: int, scale: float, places: Sequence[str], bottleneck: int, activation: str
) -> None:
    """Put a new adapter behind each layer named in `places`; on the meta device nothing is drawn."""
    generator = torch.Generator().manual_seed(seed)
    width = model.config.get_text_config().hidden_size
    for name in places:
        layer = model.get_submodule(name)
        device = next(layer.parameters()).device
        with torch.device("meta"):
            adapter = Bottleneck(width, bottleneck, activation).float()
        if device.type != "meta":
            adapter.to_empty(device=device).draw(generator, scale)
        setattr(layer, NAME, adapter.train(model.training))
        layer.register_forward_hook(_through_adapter)


def _through_adapter(layer: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
    adapted: torch.Tensor = getattr(layer, NAME)(output)
    return adapted


def norm_parameters(model: PreTrainedModel, heads: Sequence[str]) -> list[str]:
    """Full names of the parameters of all norms outside the heads."""
    return [
        f"{name}.{part}"
        for name, module in model.named_modules()
        if "Norm" in type(module).__name__ and not name.startswith(tuple(heads))
        for part, _ in module.named_parameters(recurse=False)
    ]


def description(model: PreTrainedModel) -> dict[str, Any]:
    """What `insert` needs to make the same adapters again, apart from what was drawn."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, Bottleneck)}
    one = next(iter(found.values()))
    return {
        "bottleneck": one.down.out_features,
        "activation": one.activation,
        "places": [name.removesuffix(f".{NAME}") for name in found],
    }


EXPORTED = '''"""Puts the adapters of this folder into {model}. Needs torch, transformers and safetensors.

from use_adapter import load
model, tokenizer = load("cpu")
"""
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import {auto_class}, AutoTokenizer

HERE = Path(__file__).parent
MODEL = {path!r}


class Bottleneck(torch.nn.Module):
    def __init__(self, width, bottleneck, activation):
        super().__init__()
        self.down, self.up = torch.nn.Linear(width, bottleneck), torch.nn.Linear(bottleneck, width)
        self.activation = getattr(torch.nn.functional, activation)

    def forward(self, h):
        return h + self.up(self.activation(self.down(h)))


def load(device="cpu"):
    about = json.loads((HERE / "{about}").read_text())
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = {auto_class}.from_pretrained(MODEL, dtype=torch.float32{labels})
    model.config.pad_token_id = tokenizer.pad_token_id
    width = model.config.get_text_config().hidden_size
    for name in about["places"]:
        layer = model.get_submodule(name)
        layer.adapter = Bottleneck(width, about["bottleneck"], about["activation"])
        layer.register_forward_hook(lambda module, inputs, output: module.adapter(output))
    unknown = model.load_state_dict(load_file(HERE / "{weights}"), strict=False).unexpected_keys
    assert not unknown, unknown
    return model.to(device).eval(), tokenizer
'''


def export(adapter: Path, job: Job, target: Path) -> None:
    """Write the stored adapter and a module that loads it without nbadapt into the folder `target`."""
    shutil.copytree(adapter, target, dirs_exist_ok=True)
    classify = job.task == "classification"
    names = _class_names(job) if classify else {}
    labels = f", num_labels={len(names)}, id2label={names!r}, ignore_mismatched_sizes=True"
    text = EXPORTED.format(
        model=job.model.name,
        path=job.model.path,
        auto_class="AutoModelForSequenceClassification" if classify else "AutoModelForCausalLM",
        labels=labels if classify else "",
        about=_copies.ABOUT,
        weights=_copies.WEIGHTS,
    )
    (target / "use_adapter.py").write_text(text, encoding="utf-8")


def _class_names(job: Job) -> dict[int, str]:
    from nbadapt import pretrained

    names: dict[int, str] = pretrained.skeleton(job.model, "classification", job.labels).config.id2label
    return names
