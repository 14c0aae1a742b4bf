"""Finetuning of the top: the last k blocks and the head (Howard and Ruder 2018, https://arxiv.org/abs/1801.06146).

::

    tokens ->  embeddings  ->  block 1 .. L-k  ──┬──>  block L-k+1 .. L  ->  head  ->  logits
                 frozen         frozen           │        trained         trained
                                                 H  (T, d) of each row: computed once, then kept

    H = blocks_1..L-k(E(x))        logits = head(blocks_L-k+1..L(H))        only what is above H has gradients

Sizes: all parameters of k blocks, of what follows them in the body (the last norm, the pooler) and of the
classification head, in float32 copies. A block of BERT of width d and feed-forward width m has 4 d² + 2 d m + 9 d + m
(attention, feed-forward, two norms), its pooler d² + d. The output embeddings of a language model stay frozen: most
are tied to its first layer. H takes T d numbers a row in the type of the base; rows beyond `cache_memory` are computed
again each time. Nothing below changes, and dropout is off there, so that what is kept stays true; above it is on.

When to use it: where time is short and there are several epochs: the blocks below run once. One epoch of school
mathematics with SmolLM2 took 91 s and 2.5 GiB beside LoRA's 169 s and 3.3 GiB.

When not: where the result must be small (14 MiB for MiniLM, LoRA's 0.3 MiB), or there are few rows: 0.786 on 2,000 film
reviews beside LoRA's 0.799; on 8,530 it had 0.840 beside LoRA's 0.818, in less time.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pydantic import Field

from nbadapt.engines.training_config import TrainingConfig
from nbadapt.errors import RequestError
from nbadapt.memory import available_bytes, gibibytes
from nbadapt.method import Estimate, Job
from nbadapt_plugins._copied import CopiedMethod
from nbadapt_plugins._trained import skeleton, switch_off_own_dropout

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

MEBIBYTE = 2**20
LOOKED_AT = 200  # rows of a table that are tokenised to tell how much will be kept


class TopLayersSettings(TrainingConfig):
    """Settings of training the top."""

    layers: int = Field(2, ge=1, le=10_000, description="blocks at the top that are trained")
    cache_memory: int = Field(
        1024,
        ge=0,
        le=2**24,
        description="MiB to keep what the frozen blocks give for each row, computed once; at most half of what is "
        "free; 0: computed each time",
    )
    learning_rate: float = Field(3e-4, gt=0, le=10, description="peak learning rate of AdamW")


class TopLayers(CopiedMethod):
    """Trains the last blocks and the head; what lies below is computed once."""

    name = "top-layers"
    verb = "finetune"
    family = "The model's own layers"
    summary = "the last k blocks and the head; the rest is frozen, without dropout, and computed once"
    reference = "https://arxiv.org/abs/1801.06146"
    Config = TopLayersSettings

    def estimate(self, job: Job) -> Estimate:
        """The copies come on top of the shared base, and so does what is kept of the rows."""
        found = super().estimate(job)
        config = skeleton(job).config
        text = config.get_text_config()
        frozen = text.num_hidden_layers - job.config.layers
        width = 4 if job.dtype == "float32" else 2
        kept = min(_budget(job), _tokens(job, config) * text.hidden_size * width)
        memory = dict(found.memory)
        note = f"dropout is off in the embeddings and the {frozen} frozen blocks"
        if kept and frozen:
            memory["cache"] = kept
            note += f"; what they give for each row is computed once and kept, about {gibibytes(kept)}"
        return dataclasses.replace(found, memory=memory, notes=(*found.notes, note))

    def attach(self, model: PreTrainedModel, job: Job) -> PreTrainedModel:
        """The model with trained copies of its top, which keeps what lies below gives."""
        from nbadapt_plugins import _copies
        from nbadapt_plugins._blocks import blocks
        from nbadapt_plugins._kept import Kept

        name, count = blocks(model, self.name)
        if job.config.layers > count:
            raise RequestError(
                f"layers: {job.config.layers} is more than the {count} blocks of this {model.config.model_type}: "
                f"use at most {count}, or the method full"
            )
        first = count - job.config.layers
        below, above = _divided(model, name, first)
        for module in below.values():
            switch_off_own_dropout(module)
        _copies.train_copies(model, _frozen_parameters(model, above))
        if first and job.config.cache_memory and model.device.type != "meta":
            Kept(_budget(job)).watch(model, [below[f"{name}.{i}"] for i in range(first)])
        return model


def _budget(job: Job) -> int:
    """Bytes to keep what lies below in: what the user grants, but at most half of what is free."""
    asked: int = job.config.cache_memory * MEBIBYTE
    free = available_bytes(job.device)
    return asked if free is None else min(asked, free // 2)


def _tokens(job: Job, config: PretrainedConfig) -> int:
    """About how many tokens the rows have, from some of them."""
    from nbadapt import models, pretrained
    from nbadapt.engines.encoding import encode, length_limit

    tokenizer = pretrained.load_tokenizer(models.base_ref(job.model))
    label2id = config.label2id if job.task == "classification" else None
    limit = length_limit(config, job.config.max_length)
    tokens = 0.0
    for table in (job.data, job.evaluation):
        if table is not None and table.rows:
            some = table.rows[:: max(1, len(table) // LOOKED_AT)]
            lengths = encode(dataclasses.replace(table, rows=tuple(some)), tokenizer, label2id, limit).lengths
            tokens += len(table) * sum(lengths) / len(lengths)
    return int(tokens)


Modules = dict[str, "torch.nn.Module"]


def _divided(model: PreTrainedModel, name: str, first: int) -> tuple[Modules, Modules]:
    """Full name -> module, below block `first` of the list `name`, and from there on."""
    below: Modules = {}
    above: Modules = {}
    passed = False
    for path, module in model.named_modules():
        if path == name:
            passed = True
        elif path.startswith(f"{name}."):
            number = int(path.removeprefix(f"{name}.").split(".")[0])
            (above if number >= first else below)[path] = module
        else:
            (above if passed else below)[path] = module
    return below, above


def _frozen_parameters(model: PreTrainedModel, modules: Modules) -> list[str]:
    """Full names of what in these modules is not trained yet, output embeddings left out."""
    output = model.get_output_embeddings()
    return [
        f"{path}.{name}"
        for path, module in modules.items()
        for name, parameter in module.named_parameters(recurse=False)
        if module is not output and not parameter.requires_grad
    ]
