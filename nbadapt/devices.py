"""Where the work runs, and in which type the base weights are quickest there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nbadapt.memory import leave_little_behind

if TYPE_CHECKING:
    import torch

_probed: dict[str, str] = {}  # device -> its best type


def best_device() -> str:
    """The device that the work should run on: "cuda", "mps" or "cpu"."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def present_device(device: str) -> str:
    """The device, or the best one here where this machine has no such device."""
    if device == "cpu":
        return device
    import torch

    kind, _, index = device.partition(":")
    here = torch.cuda.device_count() if kind == "cuda" else int(kind == "mps" and torch.backends.mps.is_available())
    return device if int(index or 0) < here else best_device()


def best_dtype(device: str) -> str:
    """The type for base weights: bfloat16 where the GPU supports it or a 0.2 s probe shows it faster.

    Never float16 on a CPU, where it is several times slower than float32.
    """
    if device not in _probed:
        _probed[device] = _probe_dtype(device)
    return _probed[device]


def _probe_dtype(device: str) -> str:
    import torch

    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    if device != "cpu":
        return "float32"
    seconds = _matmul_seconds((torch.bfloat16, torch.float32))
    return "bfloat16" if seconds[torch.bfloat16] < 0.8 * seconds[torch.float32] else "float32"


def _matmul_seconds(dtypes: Sequence[torch.dtype], size: int = 768, rounds: int = 12) -> dict[torch.dtype, float]:
    """The quickest of some multiplications in each type, in turn: a busy machine must not change the choice."""
    import torch

    leave_little_behind()  # before oneDNN makes its first kernel
    generator = torch.Generator().manual_seed(0)  # leaves the global generator alone
    noise = torch.randn(size, size, generator=generator)
    matrices = {dtype: noise.to(dtype) for dtype in dtypes}
    best = dict.fromkeys(dtypes, float("inf"))
    for _ in range(rounds):
        for dtype, matrix in matrices.items():
            start = time.perf_counter()
            matrix @ matrix
            best[dtype] = min(best[dtype], time.perf_counter() - start)
    return best
