"""A comparison takes little more memory than its largest candidate alone: each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
ROWS, TEST_ROWS = 120, 16


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """A folder with texts of two classes, as benchmarks/compare_ranking.py reads them.

    All are of one length, so that all batches have one shape: what the heap cannot reuse between shapes is another
    part of the peak in each process.
    """
    said = {"positive": "a wonderful surprise that I would see again", "negative": "a dull affair that I left early"}
    for part, count in (("train", ROWS), ("test", TEST_ROWS)):
        labels = ["positive" if i % 2 else "negative" for i in range(count)]
        texts = [f"{part} {i}: " + f"The film was {said[label]}. " * 8 for i, label in enumerate(labels)]
        pd.DataFrame({"text": texts, "label": labels}).to_csv(tmp_path / f"movie_reviews_{part}.csv", index=False)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("what", ["compare", "compare --full-ranking"])
def test_the_peak_of_a_comparison_is_that_of_its_largest_candidate_and_a_tenth(what: str, reviews: Path):
    """SmolLM2 is in memory, and MiniLM for a LoRA, when all layers are trained: beside them is no room for both."""

    def peak(what: str) -> int:
        command = [sys.executable, str(ROOT / "benchmarks" / "compare_ranking.py"), "--one", "0", what, "--small"]
        command += ["--data", str(reviews), "--rows", str(ROWS), "--test-rows", str(TEST_ROWS)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found: int = json.loads(done.stdout.splitlines()[-1])["peak"]
        return found

    ours, largest = peak(what), peak("full")
    print(f"{ours / 2**20:.0f} MiB, all layers alone {largest / 2**20:.0f} MiB")
    assert ours <= 1.10 * largest
