"""Saved, restarted and loaded, every result gives the logits that the trained model gave before it was saved."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nbadapt import model_names, models, named, pretrained, registry
from nbadapt.method import Job, Method, Outcome
from nbadapt_plugins._trained import TrainedMethod
from tests import tiny_models
from tests.trained_jobs import TEXTS, base, last_hidden, logits, make_job, plain_class, train

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
    tokenizer = pretrained.load_tokenizer(job.model)
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
PT = {"format": "pt"}
POOLER = "bert.pooler.dense.weight"


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", MERGED, ids=lambda method: method.name)
def test_a_merged_model_has_its_files_type_and_the_pooler_that_the_run_drew(method, stored, tmp_path):
    """Computed in the other type, on files that lack BERT's pooler, as many do."""
    folder = tiny_models.without_pooler(tmp_path / "base")
    in_files = getattr(torch, stored)
    weights = load_file(folder / "model.safetensors")
    save_file({name: weight.to(in_files) for name, weight in weights.items()}, folder / "model.safetensors", PT)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": stored}))
    settings = {"hidden_sizes": None} if method.name == "output-layers" else {"learning_rate": 0.05}
    job = make_job(method, "bert", "classification", tmp_path / "run", **settings)
    computed = "bfloat16" if stored == "float32" else "float32"
    job = dataclasses.replace(job, model=model_names.resolve(str(folder)), dtype=computed)
    outcome, _ = train(method, job)
    precisely = dataclasses.replace(job, dtype="float32")
    used, tokenizer = base(precisely)
    run = used if method.name == "output-layers" else method().load(outcome, precisely).model
    held = set(models.loaded(job.model))
    (tmp_path / "merged").mkdir()
    method().export("merged", outcome, job, tmp_path / "merged")
    assert set(models.loaded(job.model)) == held  # what was read for the merge is let go
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert {weight.dtype for weight in merged.values()} == {in_files}
    drawn = used.get_parameter(POOLER).to(torch.bfloat16)
    assert torch.equal(merged[POOLER].to(torch.bfloat16), drawn) == (method.name not in {"full", "top-layers"})
    plain = plain_class("classification").from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    asked = method().load(outcome, job).predict(TEXTS, job.labels).probabilities
    logits_of = {name: number for number, name in plain.config.id2label.items()}
    answers = logits(plain, tokenizer).softmax(-1)[:, [logits_of[name] for name in job.labels]]
    np.testing.assert_allclose(answers, asked, atol=0.02)  # the head and its labels
    found, expected, before = (last_hidden(model, tokenizer).float() for model in (plain, run, used))
    noise = (found - expected).abs().max()
    learned = (expected - before).abs().max()
    lost = 5 if method.name == "qlora" else 20  # the run's weights in 4 bits are no nearer to those in the files
    assert method.name == "output-layers" or learned > lost * noise
    models.free()
