"""What training will cost, from a model on the meta device and the longest rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from nbadapt.engines.encoding import Row, collate, encode, length_limit, virtual_tokens
from nbadapt.errors import NbadaptError
from nbadapt.method import Estimate, Job

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from nbadapt.data import Examples
    from nbadapt.engines.training_memory import Loss

LOOKED_AT = 200  # of the rows with the most letters, tokenised to find the longest
ROUGH = "the memory of the activations is a rough guess: this model cannot be followed without its weights"


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a step computes, where it is not the loss of the job's task.

    Attributes:
        loss: a model and a batch -> the loss.
        batch: the longest rows of a table, so many of them, as a batch for `loss`.
    """

    loss: Loss
    batch: Callable[[Examples, int, PreTrainedTokenizerBase, int], dict[str, torch.Tensor]]


def estimate(
    model: PreTrainedModel, job: Job, base: Iterable[torch.Tensor], objective: Objective | None = None
) -> Estimate:
    """Exact parameters and predicted peak memory of training what of `model` requires gradients.

    Args:
        model: the adapted model on the meta device, in the types that it is trained in; of no use afterwards.
        job: its config is a TrainingConfig.
        base: the tensors of the model before it was adapted, which stay in memory.
        objective: what a step computes, where it is not the loss of the job's task.
    """
    from nbadapt.engines.training_config import optimizer_steps

    trainable, total = count_parameters(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    kept = {id(t): t for t in (*base, *model.buffers(), *(p for p in model.parameters() if not p.requires_grad))}
    memory = {
        "weights": sum(t.nbytes for t in kept.values()),
        "adapter": sum(p.nbytes for p in trained),
        "gradients": sum(p.nbytes for p in trained),
        "optimizer": 2 * sum(p.nbytes for p in trained),  # AdamW keeps two moments
    }
    notes: tuple[str, ...] = ()
    try:
        needed = _beside_weights(model, job, objective)
    except NbadaptError:
        raise
    except Exception:  # noqa: BLE001 - whatever code a model brings: the estimate goes on without
        needed, notes = _guess(model, job), (ROUGH,)
    memory["activations"] = max(0, needed - memory["gradients"])
    steps = optimizer_steps(job.config, len(job.data) if job.data else 0)
    return Estimate(trainable, total, memory, 4 * trainable, steps, notes=notes)


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """Trainable and all parameters of an adapted model; a head that peft replaced is not counted twice."""
    used = [p for name, p in model.named_parameters() if ".original_module." not in name]
    return sum(p.numel() for p in used if p.requires_grad), sum(_size(p) for p in used)


def _size(parameter: torch.nn.Parameter) -> int:
    """Weights in a parameter; bitsandbytes packs two 4-bit weights into a byte."""
    packed: Any = getattr(parameter, "quant_state", None)
    if packed is not None:
        return int(packed.shape.numel())
    return parameter.numel()


def _beside_weights(model: PreTrainedModel, job: Job, objective: Objective | None) -> int:
    """Peak bytes beside weights and optimizer, of training and of evaluating."""
    from nbadapt.engines.training_memory import step_peak

    batch, held_out = _batches(model, job, objective)
    return max(step_peak(model, batch, held_out, job, None if objective is None else objective.loss))


def _batches(
    model: PreTrainedModel, job: Job, objective: Objective | None
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor] | None]:
    """The batches of the longest rows: one of training, and one of evaluation, if any."""
    from nbadapt import models, pretrained

    assert job.data is not None
    tokenizer = pretrained.load_tokenizer(models.base_ref(job.model))
    model.config.pad_token_id, model.config.use_cache = tokenizer.pad_token_id, False  # as in training
    limit = length_limit(model.config, job.config.max_length, virtual_tokens(model))
    size, pad = job.config.batch_size, tokenizer.pad_token_id
    label2id = model.config.label2id if job.task == "classification" else None

    def made(table: Examples, count: int) -> dict[str, torch.Tensor]:
        if objective is not None:
            return objective.batch(table, count, tokenizer, limit)
        return collate(longest_rows(table, count, tokenizer, label2id, limit), pad)

    return made(job.data, size), made(job.evaluation, 2 * size) if job.evaluation else None


def longest_rows(
    table: Examples, count: int, tokenizer: PreTrainedTokenizerBase, label2id: dict[str, int] | None, limit: int
) -> list[Row]:
    """The `count` longest rows of a table, tokenised, the longest first; letters tell which are worth tokenising."""
    from nbadapt import memo

    most = max(LOOKED_AT, count)
    key = ("longest", table, most, tokenizer.name_or_path, tuple(label2id or ()), limit)
    return memo.remembered(key, lambda: _longest(table, most, tokenizer, label2id, limit))[:count]


def _longest(
    table: Examples, most: int, tokenizer: PreTrainedTokenizerBase, label2id: dict[str, int] | None, limit: int
) -> list[Row]:
    encoded = encode(most_letters(table, most), tokenizer, label2id, limit).rows
    return sorted(encoded, key=lambda row: -len(row["input_ids"]))


def most_letters(table: Examples, count: int) -> Examples:
    """The rows of a table that may be among the `count` longest."""
    rows = sorted(table.rows, key=lambda row: -sum(len(str(value)) for value in row.values()))
    return dataclasses.replace(table, rows=tuple(rows[: max(LOOKED_AT, count)]))


def _guess(model: PreTrainedModel, job: Job) -> int:
    """Bytes of a batch of the longest rows in all blocks (Korthikanti et al. 2022, eq. 1, without attention)."""
    text = model.config.get_text_config()
    hidden, layers, words = (getattr(text, name, 0) for name in ("hidden_size", "num_hidden_layers", "vocab_size"))
    tokens = job.config.batch_size * length_limit(model.config, job.config.max_length, virtual_tokens(model))
    width = 4 if job.dtype == "float32" else 2
    logits = 0 if job.task == "classification" else tokens * words * (width + 4)
    return int(17 * tokens * hidden * layers * width + logits)
