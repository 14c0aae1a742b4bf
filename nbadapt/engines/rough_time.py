"""How long answers will take on this CPU, by a rule of thumb: from a short multiplication and the sizes alone.

::

    prompts    2 P tokens / (EFFICIENCY * rate)         P parameters, rate of a matrix product in operations a second
    answers    tokens * P * width / BANDWIDTH           each token reads all weights of `width` bytes, once a batch

Good to a factor of three; what a model shares between prompts is not taken off.
"""

from __future__ import annotations

import functools
import time

SIZE, ROUNDS = 512, 8  # of the multiplication
EFFICIENCY = 0.4
BANDWIDTH = 1e10  # bytes a second


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
