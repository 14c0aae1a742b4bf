"""What a process keeps of its work: each measured in a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

PASSES = """
import psutil
import torch
from nbadapt import devices, model_names, models
from nbadapt.memory import trim

devices.best_dtype("cpu")
model, _ = models.load_classifier(model_names.resolve("minilm"), ["a", "b"], "cpu", "bfloat16", 0)
process = psutil.Process()

with torch.no_grad():
    for length in range(8, 88):
        model(input_ids=torch.full((2, length), 7))
        if length == 8:
            trim()
            before = process.memory_info().rss
trim()
print(process.memory_info().rss - before)
"""

BLOCKS = """
import psutil
import torch
from nbadapt.memory import leave_little_behind

process = psutil.Process()
leave_little_behind()
largest = torch.ones(4 * 2**20)
del largest
block, behind = torch.ones(2 * 2**20), torch.ones(100)
before = process.memory_info().rss
del block
print(before - process.memory_info().rss)
"""


def said(script: str, **environment: str) -> int:
    """The bytes that a script prints in a process where nothing but this is set."""
    ours = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY", "MALLOC_MMAP_THRESHOLD_"}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env={**kept, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="no oneDNN in bfloat16 here")
def test_kernels_of_earlier_batches_do_not_pile_up():
    """A number that the user sets stays: with oneDNN's own default a process grows more over batches of 80 lengths."""
    ours, theirs = said(PASSES), said(PASSES, ONEDNN_PRIMITIVE_CACHE_CAPACITY="1024")
    print(f"{ours / 2**20:.0f} MiB, with oneDNN's default {theirs / 2**20:.0f} MiB")
    assert ours < 0.7 * theirs


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_a_large_block_is_given_back_when_it_is_freed():
    """8 MiB are, after 16 were freed, with another block behind them; not so with what glibc comes to by itself."""
    assert said(BLOCKS) == pytest.approx(8 * 2**20, abs=2**20)
    assert said(BLOCKS, MALLOC_MMAP_THRESHOLD_=str(32 * 2**20)) < 2**20
