"""Memory that runs out in the middle of a step, for real: a process that may not take more (RLIMIT_AS)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
slow = pytest.mark.slow
CASES = [
    pytest.param("lora", "llama", "generation", 1, 0.3, id="generation"),
    pytest.param("lora", "gpt2", "generation", 2, 0.5, id="generation, accumulated", marks=slow),
    pytest.param("lora", "bert", "classification", 1, 0.3, id="classification", marks=slow),
    pytest.param("lora", "llama", "classification", 2, 0.5, id="classification, accumulated", marks=slow),
    pytest.param("reward", "llama", "preference", 1, 0.3, id="reward", marks=slow),
    pytest.param("dpo", "llama", "preference", 2, 0.5, id="dpo, accumulated", marks=slow),
]


def trained(method: str, architecture: str, task: str, accumulated: int, share: float, folder: Path) -> dict[str, Any]:
    """What tests/short_memory.py tells of a training."""
    asked = (method, architecture, task, str(accumulated), str(share), str(folder))
    command = [sys.executable, "-m", "tests.short_memory", *asked]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize(("method", "architecture", "task", "accumulated", "share"), CASES)
def test_a_batch_that_does_not_fit_goes_on_in_parts_with_the_same_losses(
    method, architecture, task, accumulated, share, tmp_path
):
    short = trained(method, architecture, task, accumulated, share, tmp_path / "short")
    enough = trained(method, architecture, task, accumulated, 0, tmp_path / "enough")
    assert not enough["said"]
    assert short["said"], "there was room for a whole batch"
    first = short["said"][0]
    assert re.match(r"memory ran out at step \d: from here on 32 rows at a time instead of 64", first)
    assert f"{2 * accumulated} of them to a step instead of {accumulated}" in first
    assert short["steps"] == enough["steps"]  # no step was lost or done twice
    assert short["losses"] == pytest.approx(enough["losses"], rel=1e-4)
    assert short["metrics"] == pytest.approx(enough["metrics"], rel=1e-4)
