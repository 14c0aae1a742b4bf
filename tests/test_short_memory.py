"""Memory that runs out: for real, in a process that may not take more (RLIMIT_AS), and from a size of batch on."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import BertModel

import nbadapt
from nbadapt import models
from nbadapt.engines.embed import Embedder
from nbadapt.errors import OutOfMemoryError
from nbadapt.events import Metric, Notice, Sample
from nbadapt_plugins.features import Features
from nbadapt_plugins.lora import Lora
from tests import tiny_models
from tests.trained_jobs import make_job, train

ROOT = Path(__file__).resolve().parents[1]
slow = pytest.mark.slow
CASES = [
    pytest.param("lora", "llama", "generation", 1, 0.3, id="generation"),
    pytest.param("lora", "gpt2", "generation", 2, 0.5, id="generation, accumulated", marks=slow),
    pytest.param("lora", "bert", "classification", 1, 0.3, id="classification", marks=slow),
    pytest.param("lora", "llama", "classification", 2, 0.5, id="classification, accumulated", marks=slow),
    pytest.param("full", "llama", "classification", 1, 0.3, id="full", marks=slow),  # which keeps dropout: none here
    pytest.param("prefix-tuning", "llama", "generation", 2, 0.5, id="prefix-tuning, accumulated", marks=slow),
    pytest.param("adapter", "gpt2", "classification", 1, 0.3, id="adapter", marks=slow),
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


@pytest.fixture
def room(monkeypatch):
    """Leaves BERT memory for so many texts at once where it evaluates; tells how many it was given each time."""

    def leave(rows: int) -> list[int]:
        given: list[int] = []
        forward = BertModel.forward

        @functools.wraps(forward)
        def limited(self, input_ids=None, *args, **kwargs):
            if not self.training:
                given.append(len(input_ids))
                if len(input_ids) > rows:
                    raise RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: not enough memory")
            return forward(self, input_ids, *args, **kwargs)

        monkeypatch.setattr(BertModel, "forward", limited)
        return given

    yield leave
    models.free()


def test_an_evaluation_that_does_not_fit_tries_its_size_once_and_says_so_once(room, tmp_path):
    job = make_job(Lora, "bert", "classification", tmp_path, epochs=2, samples=0)
    job = dataclasses.replace(job, evaluation=job.data)  # 20 rows, 8 at a time
    figures = []
    for fitting in (8, 3):
        given = room(fitting)
        _, events = train(Lora, job)
        figures.append([e.values for e in events if isinstance(e, Metric) and e.split == "evaluation"])
        told = [e.text for e in events if isinstance(e, Notice)]
    assert given == [8, 4, *[2] * 20]  # 20 rows, twice: neither a later batch nor the second evaluation tries again
    rows = "2 held-out rows at a time instead of 8"
    assert told == [f"memory ran out while evaluating: from here on {rows}; the figures stay the same"]
    for short, enough in zip(*figures, strict=True):
        assert short == pytest.approx(enough, rel=1e-4)


def test_samples_that_do_not_fit_are_answered_one_by_one(room, tmp_path):
    job = make_job(Lora, "bert", "classification", tmp_path, epochs=1, samples=3)
    shown = []
    for fitting in (8, 1):
        room(fitting)
        outcome, events = train(Lora, job)
        assert "accuracy" in outcome.metrics
        shown.append([e for e in events if isinstance(e, Sample)])
    assert len(shown[0]) == 3
    assert shown[1] == shown[0]


def test_texts_that_do_not_fit_are_embedded_fewer_at_a_time(room, tmp_path):
    job = make_job(Lora, "bert", "classification", tmp_path)
    job = dataclasses.replace(job, method="features", config=Features.Config())
    texts = [row["text"] * (1 + i % 3) for i, row in enumerate(tiny_models.reviews(50))]
    enough = Embedder(job, "mean").compute(texts)
    given, embedder = room(9), Embedder(job, "mean")
    np.testing.assert_allclose(embedder.compute(texts), enough, atol=1e-5)
    assert max(given[given.index(8) :]) <= 9
    tried = len(given)
    embedder.compute(texts)
    assert max(given[tried:]) <= 9, "it knows"


def test_features_say_that_memory_ran_out_and_name_settings_that_they_have(room, tmp_path, monkeypatch):
    monkeypatch.setenv("NBADAPT_EMBEDDINGS", str(tmp_path))
    monkeypatch.setenv("NBADAPT_UI", "text")
    asked = {"model": str(tiny_models.folder("bert")), "data": tiny_models.reviews(40)}
    room(9)
    run = nbadapt.finetune("features", **asked)
    told = [event.text for _, event in run.events if isinstance(event, Notice) and event.level == "warning"]
    assert len(told) == 1
    assert re.match(r"memory ran out while embedding: at most \d+ tokens at a time .* instead of 2,048", told[0])
    room(0)
    with pytest.raises(OutOfMemoryError) as caught:
        nbadapt.finetune("features", **asked, max_length=16)
    assert str(caught.value) == "features ran out of memory on cpu: lower max_length, or use a smaller model"
