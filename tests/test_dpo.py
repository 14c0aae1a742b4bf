"""DPO: against the closed form with the adapter on and off, and a plain trainer of trl."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import logsigmoid

import nbadapt
from nbadapt import model_names, models
from nbadapt.data import Examples
from nbadapt.engines.tokens import encode_completion, encode_prompt
from nbadapt.events import Metric, Notice, Parameters, Sample
from nbadapt.method import Job
from nbadapt_plugins.dpo import SMOOTHED, Dpo, DpoSettings
from nbadapt_plugins.reward import Reward
from tests.tiny_models import folder
from tests.trained_jobs import base_weights, make_job, stopped_and_resumed, train


@pytest.fixture(autouse=True, scope="module")
def _forget_bases():
    yield
    models.free()


def job_for(architecture: str, directory, **settings: object) -> Job:
    return make_job(Dpo, architecture, "preference", directory, **settings)


def log_likelihood(model: Any, tokenizer: Any, prompt: Any, answer: str) -> float:
    """The sum over an answer's tokens, alone in its batch."""
    start = encode_prompt(tokenizer, prompt)
    ids = encode_completion(tokenizer, answer, prompt, end=True)
    with torch.no_grad():
        scores = model(torch.tensor([start + ids])).logits[0].log_softmax(-1)
    return scores[len(start) - 1 : -1][range(len(ids)), ids].sum().item()


def margins(model: Any, tokenizer: Any, rows: Any, beta: float) -> torch.Tensor:
    """The margins of the implicit rewards, by hand: with the adapter, and without it."""

    def differences() -> torch.Tensor:
        said = [
            [log_likelihood(model, tokenizer, row["prompt"], row[name]) for name in ("chosen", "rejected")]
            for row in rows
        ]
        return torch.tensor([chosen - rejected for chosen, rejected in said])

    policy = differences()
    with model.disable_adapter():
        return beta * (policy - differences())


@pytest.mark.parametrize(
    "architecture", ["llama", *(pytest.param(a, marks=pytest.mark.slow) for a in ("gpt2", "qwen2"))]
)
def test_the_figures_are_the_closed_form_with_the_adapter_on_and_off(architecture, tmp_path):
    job = job_for(architecture, tmp_path, beta=0.3)
    before = base_weights(job)
    outcome, events = train(Dpo, job)
    for name, weight in base_weights(job).items():
        assert torch.equal(weight, before[name]), name
    loaded = Dpo().load(outcome, replace(job, data=None, evaluation=None))
    expected = margins(loaded.model, loaded.tokenizer, job.evaluation.rows, 0.3)
    assert outcome.metrics["loss"] == pytest.approx(-logsigmoid(expected).mean().item(), rel=1e-4)
    assert outcome.metrics["margin"] == pytest.approx(expected.mean().item(), rel=1e-4, abs=1e-6)
    assert outcome.metrics["accuracy"] == pytest.approx((expected > 0).float().mean().item())
    assert outcome.metrics["accuracy"] == 1

    first = next(event for event in events if isinstance(event, Metric))
    assert first.values["loss"] == pytest.approx(math.log(2), rel=1e-5)  # the policy is the reference
    assert first.values["margin"] == pytest.approx(0, abs=1e-5)
    stored = load_file(tmp_path / "artifacts" / "adapter" / "adapter_model.safetensors")
    start = dict(Dpo().attach(Dpo().load_base(job)[0], job).named_parameters())
    for name, weight in stored.items():
        assert not torch.equal(weight, start[name.replace(".weight", ".default.weight")]), name
    told = next(event for event in events if isinstance(event, Parameters))
    assert told.trainable == sum(weight.numel() for weight in stored.values())  # no copy is stored for the reference
    assert not [event for event in events if isinstance(event, Notice) and event.level == "warning"]
    sample = [event for event in events if isinstance(event, Sample)][-1]
    assert sample.input == job.evaluation.rows[0]["prompt"]
    assert sample.expected == job.evaluation.rows[0]["chosen"]


def test_training_is_that_of_a_plain_trainer_of_trl_on_the_texts(tmp_path):
    """Also the tokens: trl makes its own from the same texts."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    settings = {"batch_size": 12, "max_steps": 3, "lr_scheduler_type": "constant", "samples": 0, "weight_decay": 0.1}
    job = job_for("llama", tmp_path / "ours", **settings)
    train(Dpo, job)
    model, tokenizer = Dpo().load_base(job)
    model = Dpo().attach(model, job)
    rows = [
        {"prompt": row["prompt"], "chosen": " " + row["chosen"], "rejected": " " + row["rejected"]}
        for row in job.data.rows
    ]
    arguments = DPOConfig(
        output_dir=str(tmp_path / "plain"),
        learning_rate=job.config.learning_rate,
        max_steps=3,
        per_device_train_batch_size=12,
        lr_scheduler_type="constant",
        weight_decay=0.1,
        activation_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    plain = DPOTrainer(model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    plain.train()
    stored = load_file(job.directory / "artifacts" / "adapter" / "adapter_model.safetensors")
    found = {n.replace(".default", ""): p for n, p in plain.model.named_parameters() if ".default." in n}
    assert set(stored) == set(found)
    for name, weight in found.items():
        torch.testing.assert_close(stored[name], weight.detach(), rtol=1e-4, atol=1e-6)


def test_every_loss_is_the_mean_of_its_parts_where_a_batch_has_to_be_halved(tmp_path):
    from datasets import Dataset

    from nbadapt.engines import supervised
    from nbadapt.engines.pairs import encode_pairs
    from nbadapt.engines.trainer import LengthGroupedSampler

    job = job_for("llama", tmp_path)
    model, tokenizer = Dpo().load_base(job)
    model = Dpo().attach(model, job)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    pairs = encode_pairs(job.data, tokenizer, 512, one_prompt=True)
    rows = [Dpo().row(pair) for pair in pairs.rows]
    kind, arguments, _ = Dpo().trainer(job)
    trainer = kind(
        model=model,
        args=supervised.trainer_settings(arguments, job, len(rows), model, **Dpo().trl_arguments(job)),
        data_collator=Dpo().collator(tokenizer),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        job=job,
        emit=print,
        sampler=LengthGroupedSampler(pairs.lengths, job.config, 0),
        tell=print,
    )
    batch = trainer.data_collator(rows[:7])
    trainer.model.eval()
    found = set()
    for loss_type in get_args(DpoSettings.model_fields["loss_type"].annotation):
        trainer.loss_types, trainer.label_smoothing = [loss_type], 0.1 if loss_type in SMOOTHED else 0.0
        with torch.no_grad():
            whole = trainer.compute_loss(model, dict(batch)).item()
            shares = [(share, trainer.compute_loss(model, part).item()) for share, part in trainer.parts(batch, 3)]
        assert [round(share * 7) for share, _ in shares] == [3, 3, 1]
        assert sum(share * loss for share, loss in shares) == pytest.approx(whole, rel=1e-4), loss_type
        found.add(round(whole, 5))
    assert len(found) == len(get_args(DpoSettings.model_fields["loss_type"].annotation))  # all different


def test_a_stopped_run_that_goes_on_ends_as_an_unbroken_one(tmp_path):
    whole, _ = train(Dpo, job_for("llama", tmp_path / "whole"))
    again = stopped_and_resumed(Dpo, job_for("llama", tmp_path / "broken"), step=3)
    assert again.metrics == pytest.approx(whole.metrics, rel=1e-5)


def test_a_cut_prompt_is_cut_alike_for_policy_and_reference(tmp_path):
    job = job_for("llama", tmp_path, max_length=20)
    outcome, events = train(Dpo, job)
    assert any("longer than 20 tokens" in event.text for event in events if isinstance(event, Notice))
    assert outcome.metrics["loss"] < math.log(2)


@pytest.mark.slow
def test_a_merged_export_is_a_plain_model_that_answers_the_same(tmp_path):
    from transformers import AutoModelForCausalLM

    job = job_for("gpt2", tmp_path / "run")
    outcome, _ = train(Dpo, job)
    (tmp_path / "merged").mkdir()
    Dpo().export("merged", outcome, job, tmp_path / "merged")
    loaded = Dpo().load(outcome, job)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    row = job.evaluation.rows[0]
    said = [log_likelihood(m, loaded.tokenizer, row["prompt"], row["chosen"]) for m in (plain, loaded.model)]
    assert said[0] == pytest.approx(said[1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"loraplus_lr_ratio": 4, "loss_type": "ipo"}])
@pytest.mark.parametrize("method", [Dpo, Reward])
def test_the_exported_script_ends_at_the_same_loss_without_nbadapt(method, settings, tmp_path):
    settings = {name: value for name, value in settings.items() if name in method.Config.model_fields}
    job = make_job(method, "llama", "preference", tmp_path / "run", **settings)
    outcome, _ = train(method, job)
    (tmp_path / "script").mkdir()
    method().export("script", outcome, job, tmp_path / "script")
    assert not re.search(r"(import|from) nbadapt", (tmp_path / "script" / "train.py").read_text())
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path / "script", capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    loss = float(done.stdout.strip().splitlines()[-1].removeprefix("loss "))
    assert loss == pytest.approx(outcome.metrics["loss"], rel=1e-4)
    kept = load_file(tmp_path / "script" / "adapter" / "adapter_model.safetensors")
    for name, weight in load_file(tmp_path / "run" / "artifacts" / "adapter" / "adapter_model.safetensors").items():
        torch.testing.assert_close(kept[name], weight, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_conversation_is_learned_and_answered_in_its_template(tmp_path):
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "dog?"}]
    rows = [
        {"prompt": [talk[0], {"role": "user", "content": f"{i} dog?"}], "chosen": "Hund", "rejected": "dog"}
        for i in range(12)
    ]
    job = job_for("qwen2", tmp_path)
    table = Examples("preference", tuple(rows), ())
    job = replace(job, model=model_names.resolve(str(folder("qwen2", chat=True))), data=table, evaluation=table)
    outcome, _ = train(Dpo, job)
    loaded = Dpo().load(outcome, job)
    expected = margins(loaded.model, loaded.tokenizer, rows, job.config.beta)
    assert outcome.metrics["margin"] == pytest.approx(expected.mean().item(), rel=1e-4)
    assert loaded.generate([talk], max_new_tokens=8)


@pytest.mark.slow
def test_smollm2_learns_which_reviews_are_preferred(shared_data):
    import pandas as pd

    reviews = pd.read_csv(shared_data / "movie_reviews_train.csv").sample(frac=1, random_state=0)
    good, bad = (reviews[reviews["label"] == label]["text"][:240] for label in ("positive", "negative"))
    rows = [{"prompt": "A film review:", "chosen": a, "rejected": b} for a, b in zip(good, bad, strict=True)]
    run = nbadapt.finetune("dpo", model="smollm2", data=rows, split=0.2, samples=1)
    assert run.metrics["loss"] < math.log(2)
    assert run.metrics["margin"] > 0
    assert run.metrics["accuracy"] > 0.5 + 2 * math.sqrt(0.25 / 48)  # two standard deviations of a coin
