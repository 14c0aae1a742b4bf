"""The promises of a run with real pretrained models in their real dtype: slow, run by `make test-slow`."""

from __future__ import annotations

import subprocess
import sys

import pandas as pd
import pytest

import nbadapt
from nbadapt import datasets, models, runner
from tests.test_runner import request, start, steps, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _forget_bases(monkeypatch):
    monkeypatch.setenv("NBADAPT_UI", "text")
    yield
    models.free()


def table(model: str) -> pd.DataFrame:
    messages = datasets.load("bicycle_shop").sample(80, random_state=0)
    if model == "minilm":
        return messages
    return pd.DataFrame({"prompt": messages.text + "\n\nWhich desk?", "completion": messages.label})


@pytest.mark.parametrize("model", ["minilm", "smollm2"])
def test_the_exported_script_reaches_the_runs_final_loss(model, tmp_path):
    run = nbadapt.finetune("lora", model=model, data=table(model), split=0.2, epochs=1, batch_size=8)
    assert run.state == "done"
    folder = run.export("script", tmp_path / "script")
    script = subprocess.run([sys.executable, "train.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert script.returncode == 0, script.stderr
    loss = float(script.stdout.strip().splitlines()[-1].split()[-1])
    assert loss == pytest.approx(run.metrics["loss"], rel=0.02)  # bfloat16 base weights


@pytest.mark.parametrize("model", ["minilm", "smollm2"])
def test_a_stopped_run_resumes_to_the_loss_of_an_unbroken_one(model):
    asked = {"model": model, "data": table(model), "split": 0.2, "dtype": None}
    asked["settings"] = {"epochs": 2, "batch_size": 8}
    whole = runner.submit(request(**asked))
    broken = start(**asked)
    wait_for(lambda: len(steps(broken)) >= 5, 300)
    broken.stop()
    broken.join(60)
    assert broken.state == "stopped"
    broken.resume()
    assert broken.state == "done"
    assert broken.metrics["loss"] == pytest.approx(whole.metrics["loss"], rel=1e-3)


def test_the_base_is_loaded_once_for_several_runs():
    first = nbadapt.finetune("lora", model="minilm", data=table("minilm"), epochs=1)
    second = nbadapt.finetune("lora", model="minilm", data=table("minilm"), epochs=1, r=4)
    one, two = first.adapted().model, second.adapted().model
    mine = {p.data_ptr() for n, p in one.named_parameters() if "encoder" in n and "lora" not in n}
    theirs = {p.data_ptr() for n, p in two.named_parameters() if "encoder" in n and "lora" not in n}
    assert mine == theirs
    assert len(mine) > 50
