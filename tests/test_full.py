"""Training all layers: what is special to it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from nbadapt import models, pretrained
from nbadapt_plugins.full import Full
from tests.trained_jobs import CASES, base, logits, make_job, train

slow = pytest.mark.slow  # training; the conformance kit has every method in the quick tests too


@pytest.fixture(autouse=True)
def _forget_bases():
    yield
    models.free()


@pytest.mark.parametrize(("architecture", "task"), CASES)
def test_every_parameter_is_trained_and_tied_ones_count_once(architecture, task, tmp_path):
    job = make_job(Full, architecture, task, tmp_path)
    plain, _ = base(job)
    assert Full().estimate(job).trainable == Full().estimate(job).total == sum(p.numel() for p in plain.parameters())


def test_the_estimate_says_what_the_copy_costs(tmp_path):
    job = make_job(Full, "llama", "generation", tmp_path, dtype="bfloat16")
    estimate = Full().estimate(job)
    copy = sum(estimate.memory[item] for item in ("adapter", "gradients", "optimizer"))
    assert copy == 16 * estimate.total  # weight, gradient, two moments, 4 bytes each
    assert estimate.memory["weights"] == pytest.approx(2 * estimate.total, rel=1e-2)  # and the buffers
    assert estimate.artifact == 4 * estimate.total
    assert any("trained on a copy" in note and "on disk" in note for note in estimate.notes)


@pytest.mark.parametrize(
    ("dtype", "bf16", "told"), [("bfloat16", None, 1), ("bfloat16", True, 0), ("float32", None, 0)]
)
def test_a_quicker_training_is_told_of_where_there_is_one(dtype, bf16, told, tmp_path):
    estimate = Full().estimate(make_job(Full, "llama", "generation", tmp_path, dtype=dtype, bf16=bf16))
    assert sum("bf16: true is quicker" in note for note in estimate.notes) == told


@slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tied_weights_stay_tied_in_the_copy_and_in_what_is_stored(dtype, tmp_path):
    job = make_job(Full, "gpt2", "generation", tmp_path, dtype=dtype)
    shared, _ = base(job)
    model = Full().attach(base(job)[0], job)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert model.lm_head.weight is not shared.lm_head.weight
    outcome, _ = train(Full, job)
    loaded = Full().load(outcome, job).model
    assert loaded.lm_head.weight is loaded.transformer.wte.weight


@slow
@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_a_loaded_classifier_keeps_its_head_in_float32(architecture, tmp_path):
    job = make_job(Full, architecture, "classification", tmp_path, dtype="bfloat16")
    outcome, _ = train(Full, job)
    model = Full().load(outcome, job).model
    head = model.classifier if architecture == "bert" else model.score
    assert head.weight.dtype == torch.float32
    assert head._forward_pre_hooks
    assert model.base_model.dtype == torch.bfloat16
    assert logits(model, pretrained.load_tokenizer(job.model)).dtype == torch.float32


@slow
def test_rotary_positions_stay_in_float32(tmp_path):
    job = make_job(Full, "llama", "generation", tmp_path, dtype="bfloat16")
    outcome, _ = train(Full, job)
    loaded = Full().load(outcome, job).model
    torch.testing.assert_close(loaded.model.rotary_emb.inv_freq, base(job)[0].model.rotary_emb.inv_freq)
    assert loaded.model.rotary_emb.inv_freq.dtype == torch.float32


@pytest.mark.parametrize(("dtype", "bf16"), [("float32", None), ("bfloat16", None), ("bfloat16", True)])
def test_one_step_equals_plain_adamw(dtype, bf16, tmp_path):
    """All rows in one batch, a constant rate, no decay: what plain PyTorch does to a plain model.

    On a CPU in float32, whatever the base is in, unless mixed precision is asked for.
    """
    job = make_job(
        Full, "llama", "classification", tmp_path, dtype=dtype, max_steps=1, batch_size=32, learning_rate=1e-3,
        weight_decay=0.0, lr_scheduler_type="constant", max_grad_norm=0.0, bf16=bf16,
    )  # fmt: skip
    model, tokenizer = base(job)
    model = Full().attach(model, job)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    batch = tokenizer([row["text"] for row in job.data.rows], return_tensors="pt", padding=True)
    labels = torch.tensor([model.config.label2id[row["label"]] for row in job.data.rows])
    model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss.backward()
    optimizer.step()
    outcome, _ = train(Full, job)
    ours = load_file(job.directory / outcome.artifacts["adapter"] / "model.safetensors")
    far = [((ours[name] - value.detach()).abs() > 1e-4).sum() for name, value in model.named_parameters()]
    assert sum(far) > 100 if bf16 else sum(far) == 0


@pytest.mark.parametrize("bf16", [None, True])
@pytest.mark.parametrize(("architecture", "task"), [("llama", "generation"), ("bert", "classification")])
def test_in_bfloat16_the_result_keeps_small_changes_on_average(architecture, task, bf16, tmp_path):
    """To the nearest value a change of an eighth of its distance would be lost; mixed precision trains with that."""
    job = make_job(Full, architecture, task, tmp_path, dtype="bfloat16", bf16=bf16)
    model = Full().attach(base(job)[0], job)
    spacing = 2.0**-7  # of bfloat16 between 1 and 2
    weight = model.get_input_embeddings().weight
    with torch.no_grad():
        weight.fill_(1 + spacing / 8)
        weight[0], weight[1], weight[2] = -1 - spacing / 8, 1.5, 0.0
    (tmp_path / "stored").mkdir()
    Full().save(model, tmp_path / "stored")
    job = dataclasses.replace(job, config=Full.Config())  # how it was trained stands with what is stored
    first, again = (Full().restore(base(job)[0], tmp_path / "stored", job) for _ in range(2))
    rounded = first.get_input_embeddings().weight
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(rounded, again.get_input_embeddings().weight)
    assert (rounded[1] == 1.5).all()
    assert (rounded[2] == 0).all()
    up = (rounded[3:].float() == 1 + spacing).float()
    assert set(rounded[3:].float().unique().tolist()) == ({1.0} if bf16 else {1.0, 1 + spacing})
    assert set(rounded[0].float().tolist()) <= {-1.0, -1 - spacing}
    if bf16 is None:
        error = (1 / 8 * 7 / 8 / up.numel()) ** 0.5
        assert up.mean().item() == pytest.approx(1 / 8, abs=4 * error)
