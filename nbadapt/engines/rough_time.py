"""How long answers will take on this CPU, by a rule of thumb: from a short multiplication and the sizes alone.

::

    prompts    2 P tokens / (EFFICIENCY * rate)         P parameters, rate of a matrix product in operations a second
    answers    tokens * P * width / BANDWIDTH           each token reads all weights of `width` bytes, once a batch

Good to a factor of three; what a model shares between prompts is not taken off.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbadapt.data import Examples
    from nbadapt.method import Estimate, Job

SIZE, ROUNDS = 512, 8  # of the multiplication
EFFICIENCY = 0.4
BANDWIDTH = 1e10  # bytes a second
LETTERS = 4.0  # of a token
PASSES = 3  # of a training step, in forward passes: backward takes two
LOOKED_AT = 200  # rows whose letters are counted


@functools.cache
def _rate(dtype: str) -> float:
    """Operations a second of a matrix product; takes some hundredths of a second, once."""
    import torch

    generator = torch.Generator().manual_seed(0)  # leaves the global one alone
    matrix = torch.randn(SIZE, SIZE, generator=generator).to(getattr(torch, dtype))
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - start)
    return 2.0 * SIZE**3 / best


def seconds(parameters: int, dtype: str, width: int, prompt_tokens: int, answer_steps: int) -> float:
    """The time for some prompts and their answers.

    Args:
        parameters: of the model.
        dtype: of its weights.
        width: bytes of a weight.
        prompt_tokens: of all prompts together.
        answer_steps: tokens of the longest answers, summed over the batches.
    """
    reading = 2.0 * parameters * prompt_tokens / (EFFICIENCY * _rate(dtype))
    return reading + answer_steps * parameters * width / BANDWIDTH


def of_training(job: Job, estimate: Estimate) -> float | None:
    """The time of a training on this CPU; None for other work and other machines.

    Where the base's vectors of the rows are kept, it reads each row once, however many epochs follow.
    """
    per_step = getattr(job.config, "batch_size", None)
    if job.data is None or job.device != "cpu" or "gradients" not in estimate.memory or not per_step:
        return None
    if "vectors" in estimate.memory:
        return of_reading(job, estimate, job.data)
    rows = estimate.steps * per_step * getattr(job.config, "gradient_accumulation_steps", 1)
    return _passes(job, estimate, job.data, PASSES * rows)


def of_reading(job: Job, estimate: Estimate, rows: Examples) -> float | None:
    """The time in which a model on this CPU reads each of the rows once; None for other machines."""
    return _passes(job, estimate, rows, len(rows)) if job.device == "cpu" and len(rows) else None


def _passes(job: Job, estimate: Estimate, rows: Examples, count: float) -> float:
    """The time of so many forward passes of a row."""
    from nbadapt.options import DTYPES

    looked_at = rows.rows[:: max(1, len(rows) // LOOKED_AT)]
    tokens = sum(sum(len(str(value)) for value in row.values()) for row in looked_at) / LETTERS / len(looked_at)
    most = getattr(job.config, "max_length", None)
    tokens = (min(tokens, most) if most else tokens) * count
    return seconds(estimate.total, job.dtype, DTYPES[job.dtype], int(tokens), 0)
