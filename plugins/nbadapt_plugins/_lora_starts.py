"""Ways for LoRA's two matrices to start that need more than random numbers: PiSSA, EVA and LoftQ."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from nbadapt.errors import RequestError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PretrainedConfig, PreTrainedModel

    from nbadapt.method import Job

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"  # peft's names
EVA_ROWS = 512  # training rows whose activations EVA looks at


def lora_layers(model: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """Name in the base model, and layer, of every layer that LoRA is on."""
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name.removeprefix("base_model.model."), module


def pissa_start(model: PeftModel) -> dict[str, torch.Tensor]:
    """The matrices that PiSSA took out of the base weights, by the names that peft stores them under."""
    tensors = {}
    for name, layer in lora_layers(model):
        for part in ("lora_A", "lora_B"):
            weight = getattr(layer, part)["default"].weight
            tensors[f"base_model.model.{name}.{part}.weight"] = weight.detach().clone()
    return tensors


def as_plain_lora(folder: Path, start: dict[str, torch.Tensor]) -> None:
    """Make a stored PiSSA adapter a LoRA adapter of twice the rank for the unchanged base.

    ::

        W - s B0 A0 + s B A  =  W + s [B  -B0] [A ; A0]        s = alpha / r, or alpha / sqrt(r)
    """
    tensors = load_file(folder / WEIGHTS)
    for name, first in start.items():
        last = tensors[name]
        added = first.to(last.device, last.dtype)
        tensors[name] = torch.cat([last, added], 0) if "lora_A" in name else torch.cat([last, -added], 1)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config["r"] *= 2
    config["lora_alpha"] *= math.sqrt(2) if config["use_rslora"] else 2
    config["init_lora_weights"] = True
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def start_from_activations(model: PeftModel, job: Job) -> None:
    """EVA: A becomes the main directions of what the layers are given for some training rows; B stays zero."""
    from peft import EvaConfig, initialize_lora_eva_weights

    from nbadapt import pretrained
    from nbadapt.engines.encoding import collate

    padding = pretrained.load_tokenizer(job.model).pad_token_id
    batches = []
    for group in rows_for_eva(job, model.config):
        batch = collate(group, padding)
        batches.append({name: batch[name].to(job.device) for name in ("input_ids", "attention_mask")})
    training, config = model.training, model.peft_config["default"]
    # Every layer keeps the rank that was asked for (rho). peft asks for the name; what is stored needs none.
    config.eva_config, config.init_lora_weights = EvaConfig(rho=1.0, use_label_mask=False), "eva"
    initialize_lora_eva_weights(model.eval(), batches, show_progress_bar=False)
    model.train(training)
    config.eva_config, config.init_lora_weights = None, True


def rows_for_eva(job: Job, config: PretrainedConfig) -> list[list[dict[str, Any]]]:
    """The rows whose activations EVA looks at, encoded and in batches.

    Raises:
        RequestError: they have too few tokens for the rank.
    """
    import dataclasses
    import random

    from nbadapt import pretrained
    from nbadapt.engines.encoding import encode, length_limit

    assert job.data is not None  # said by the contract
    label2id = config.label2id if job.task == "classification" else None
    places = random.Random(job.seed).sample(range(len(job.data)), min(EVA_ROWS, len(job.data)))  # noqa: S311 - no secret
    table = dataclasses.replace(job.data, rows=tuple(job.data.rows[i] for i in places))
    limit = length_limit(config, job.config.max_length)
    rows = encode(table, pretrained.load_tokenizer(job.model), label2id, limit).rows
    return _groups(rows, job.config.batch_size, job.config.r)


def _groups(rows: list[dict[str, Any]], size: int, rank: int) -> list[list[dict[str, Any]]]:
    """Rows in batches of at least `size`, each with twice as many tokens as the rank: peft passes over smaller ones.

    Raises:
        RequestError: all rows together have too few.
    """
    groups: list[list[dict[str, Any]]] = [[]]
    for row in rows:
        if len(groups[-1]) >= size and _tokens(groups[-1]) >= 2 * rank:
            groups.append([])
        groups[-1].append(row)
    if len(groups) > 1 and _tokens(groups[-1]) < 2 * rank:
        groups[-2:] = [groups[-2] + groups[-1]]
    if _tokens(groups[-1]) < 2 * rank:
        raise RequestError(
            f"init: eva finds the main directions of the data, and its {_tokens(groups[-1])} tokens are too few "
            f"for a rank of {rank}: lower r, add rows, or leave init out"
        )
    return groups


def _tokens(rows: list[dict[str, Any]]) -> int:
    return sum(len(row["input_ids"]) for row in rows)


def start_from_residual(model: PeftModel, original: PreTrainedModel) -> None:
    """LoftQ with one step: B A becomes the best approximation, at its rank, of what 4 bits lost of a weight.

    Args:
        model: LoRA on the base in 4 bits.
        original: the base in its own type.
    """
    for name, layer in lora_layers(model):
        if not in_4_bits(layer.get_base_layer()):
            continue
        module = original.get_submodule(name)
        weight = oriented(module, module.weight.detach()).to(layer.weight.device, torch.float32)  # (out, in)
        lost = weight - dequantised(layer.get_base_layer())
        left, values, right = torch.linalg.svd(lost, full_matrices=False)
        rank = layer.r["default"]
        root = (values[:rank] / layer.scaling["default"]).sqrt()  # (r,)
        layer.lora_B["default"].weight.data.copy_(left[:, :rank] * root)
        layer.lora_A["default"].weight.data.copy_(root[:, None] * right[:rank])


def oriented(layer: torch.nn.Module, weight: torch.Tensor) -> torch.Tensor:
    """A layer's weight as (out, in), or such a matrix as the layer keeps it: GPT-2's layers have (in, out)."""
    from transformers.pytorch_utils import Conv1D

    return weight.T.contiguous() if isinstance(layer, Conv1D) else weight


def in_4_bits(layer: Any) -> bool:
    """Whether a layer of a quantised base is; one that its files lack, such as BERT's pooler, is not."""
    return getattr(layer.weight, "quant_state", None) is not None


def dequantised(layer: Any) -> torch.Tensor:
    """The weight (out, in) of a layer in 4 bits, in float32."""
    from bitsandbytes.functional import dequantize_4bit

    weight: torch.Tensor = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return weight.float()
