"""What a process keeps of its work: each measured in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

SCRIPT = """
import ctypes
import psutil
import torch
from nbadapt import devices, models

devices.best_dtype("cpu")
model, _ = models.load_classifier(models.resolve("minilm"), ["a", "b"], "cpu", "bfloat16", 0)
process, trim = psutil.Process(), getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)

with torch.no_grad():
    for length in range(8, 88):
        model(input_ids=torch.full((2, length), 7))
        if length == 8:
            trim(0)
            before = process.memory_info().rss
trim(0)
print(process.memory_info().rss - before)
"""


def growth(**environment: str) -> int:
    """Bytes by which a process has grown after batches of 80 lengths."""
    kept = {name: value for name, value in os.environ.items() if name != "ONEDNN_PRIMITIVE_CACHE_CAPACITY"}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env={**kept, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="no oneDNN in bfloat16 here")
def test_kernels_of_earlier_batches_do_not_pile_up():
    """A number that the user sets stays: with oneDNN's own default they do."""
    ours, theirs = growth(), growth(ONEDNN_PRIMITIVE_CACHE_CAPACITY="1024")
    print(f"{ours / 2**20:.0f} MiB, with oneDNN's default {theirs / 2**20:.0f} MiB")
    assert ours < 0.7 * theirs
