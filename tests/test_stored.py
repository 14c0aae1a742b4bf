"""Saved, restarted and loaded, every result gives the logits that the trained model gave before it was saved."""

from __future__ import annotations

import dataclasses
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nbadapt import model_names, models, named, registry
from nbadapt.method import Job, Method, Outcome
from nbadapt_plugins._trained import TrainedMethod
from tests import tiny_models
from tests.trained_jobs import TEXTS, base, logits, make_job, plain_class, train

ROOT = Path(__file__).resolve().parents[1]
TRAINED = [method for method in registry.methods("finetune") if issubclass(method, TrainedMethod)]
CASES = [
    (method, architecture, task)
    for method in TRAINED
    for architecture, task in (("bert", "classification"), ("llama", "generation"), ("llama", "preference"))
    if task in method.tasks and (method.name, architecture) != ("bitfit", "llama")
]


def trained(
    method: type[Method], architecture: str, task: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Outcome, Job, torch.Tensor]:
    """A result, and the logits of what was trained, taken just before it was saved."""
    folder.mkdir()
    settings, functions = named.resolve(method, {**method.trial(folder), "epochs": 1})
    made = make_job(method, architecture, task, folder, **settings)
    job = dataclasses.replace(made, functions=functions)
    tokenizer = models.load_tokenizer(job.model)
    seen: list[torch.Tensor] = []

    def save(self: TrainedMethod, model: torch.nn.Module, target: Path) -> None:
        training = model.training
        seen.append(logits(model.eval(), tokenizer))
        model.train(training)
        original(self, model, target)

    with monkeypatch.context() as patch:
        original = method.save  # type: ignore[attr-defined]  # of TrainedMethod
        patch.setattr(method, "save", save)
        outcome, _ = train(method, job)
    return outcome, dataclasses.replace(made, data=None, evaluation=None), seen[-1]


def test_another_process_gives_the_logits_of_the_trained_model_before_it_was_saved(tmp_path, monkeypatch):
    asked, before = {}, {}
    for method, architecture, task in CASES:
        name = f"{method.name} {task}"
        outcome, job, before[name] = trained(method, architecture, task, tmp_path / name, monkeypatch)
        asked[name] = (method, outcome, job)
    assert {method.name for method in TRAINED} == {name.split()[0] for name in asked}
    (tmp_path / "asked").write_bytes(pickle.dumps(asked))
    command = [sys.executable, "-m", "tests.stored_logits", str(tmp_path / "asked"), str(tmp_path / "said")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    said = load_file(tmp_path / "said")
    for name, expected in before.items():
        torch.testing.assert_close(
            said[name], expected, rtol=1e-4, atol=1e-5, msg=lambda text, of=name: f"{of}: {text}"
        )


MERGED = [m for m in registry.methods("finetune") if "merged" in m.exports and "classification" in m.tasks]
POOLER = "bert.pooler.dense.weight"


@pytest.mark.parametrize("method", MERGED, ids=lambda method: method.name)
def test_a_merged_model_has_its_files_type_and_the_pooler_that_the_run_drew(method, tmp_path):
    """A run in bfloat16 on files in float32 that lack BERT's pooler, as many do."""
    folder = shutil.copytree(tiny_models.folder("bert"), tmp_path / "base")
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "pooler" not in name}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    settings = {"hidden_sizes": None} if method.name == "output-layers" else {}
    job = make_job(method, "bert", "classification", tmp_path / "run", **settings)
    job = dataclasses.replace(job, model=model_names.resolve(str(folder)), dtype="bfloat16")
    outcome, _ = train(method, job)
    used, tokenizer = method().load_base(job) if method.name == "qlora" else base(job)
    (tmp_path / "merged").mkdir()
    method().export("merged", outcome, job, tmp_path / "merged")
    assert {key[3] for key in models.loaded(job.model)} == {"bfloat16"}  # what was read for the merge is let go
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert {weight.dtype for weight in merged.values()} == {torch.float32}
    drawn = used.get_parameter(POOLER).float()
    assert torch.equal(merged[POOLER], drawn) == (method.name not in {"full", "top-layers"})  # which train it
    run = method().load(outcome, job).predict(TEXTS, job.labels).probabilities
    plain = plain_class("classification").from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    logits_of = {name: number for number, name in plain.config.id2label.items()}
    found = logits(plain, tokenizer).softmax(-1)[:, [logits_of[name] for name in job.labels]]
    np.testing.assert_allclose(found, run, atol=0.02)
    models.free()
