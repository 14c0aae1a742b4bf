"""Starts of LoRA that look at the weights or the data, and LoRA+: against peft, closed forms and the base model."""

from __future__ import annotations

import dataclasses
import json
from typing import get_args

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from nbadapt import model_names, models, pretrained, store
from nbadapt.errors import RequestError, Stopped
from nbadapt.events import Progress
from nbadapt_plugins import _lora_starts
from nbadapt_plugins.lora import Lora
from nbadapt_plugins.qlora import Qlora
from tests import tiny_models
from tests.trained_jobs import CASES, base, base_weights, last_hidden, make_job, plain_class, train

slow = pytest.mark.slow
STARTS = {m: get_args(m.Config.model_fields["init"].annotation) for m in (Lora, Qlora)}
QUICK = {("bert", "classification"), ("gpt2", "generation")}


@pytest.fixture(autouse=True)
def _forget_bases():
    yield
    models.free()


def logits(model: torch.nn.Module, tokenizer, texts=("The film was great.", "dull")) -> torch.Tensor:
    batch = tokenizer(list(texts), return_tensors="pt", padding=True)
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


@pytest.mark.parametrize("init", ["pissa", "eva"])
@pytest.mark.parametrize(
    ("architecture", "task"), [pytest.param(*case, marks=[] if case in QUICK else slow) for case in CASES]
)
def test_each_start_equals_the_base_and_leaves_it_unchanged(init, architecture, task, tmp_path):
    job = make_job(Lora, architecture, task, tmp_path, init=init, r=4)
    before = base_weights(job)
    model, tokenizer = base(job)
    expected = logits(model.eval(), tokenizer)
    adapted = Lora().attach(model, job).eval()
    torch.testing.assert_close(logits(adapted, tokenizer), expected, rtol=1e-4, atol=1e-5)
    assert any(layer.lora_A["default"].weight.any() for _, layer in _lora_starts.lora_layers(adapted))
    for name, weight in base_weights(job).items():
        assert torch.equal(weight, before[name]), name


def test_pissa_starts_with_the_main_directions_of_the_weights(tmp_path):
    """The product of the two matrices is the best approximation of W at rank r (Eckart and Young 1936)."""
    job = make_job(Lora, "llama", "generation", tmp_path, init="pissa", r=4)
    model, _ = base(job)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    adapted = Lora().attach(model, job)
    layers = list(_lora_starts.lora_layers(adapted))
    assert layers
    for name, layer in layers:
        left, values, right = torch.linalg.svd(weights[f"{name}.weight"])
        best = left[:, :4] * values[:4] @ right[:4]
        product = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        torch.testing.assert_close(product, best, rtol=1e-4, atol=1e-6)


def test_eva_starts_with_the_main_directions_of_what_the_layers_are_given(tmp_path):
    """Of all rank-r projections those keep most of the activations' variance; drawn at random they keep less."""
    job = make_job(Lora, "gpt2", "generation", tmp_path, init="eva", r=4)
    model, tokenizer = base(job)
    adapted = Lora().attach(model, job).eval()
    name, layer = next(_lora_starts.lora_layers(adapted))
    seen: list[torch.Tensor] = []
    layer.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].detach().flatten(0, 1)))
    for row in job.data.rows:
        text = f"{row['prompt']} {row['completion']}"
        with torch.no_grad():
            adapted(**tokenizer([text], return_tensors="pt"))
    given = torch.cat(seen)
    given = given - given.mean(0)

    def kept(directions: torch.Tensor) -> float:
        basis, _ = torch.linalg.qr(directions.T)  # (in, r)
        return float((given @ basis).pow(2).sum() / given.pow(2).sum())

    chosen = kept(layer.lora_A["default"].weight.detach())
    best = float(torch.linalg.svdvals(given).pow(2)[:4].sum() / given.pow(2).sum())
    random = kept(torch.randn(4, given.shape[1], generator=torch.Generator().manual_seed(0)))
    assert chosen > 0.85 * best > random, (name, chosen, best, random)


@pytest.mark.parametrize(
    ("dora", "rslora"), [(False, False), pytest.param(True, False, marks=slow), pytest.param(False, True, marks=slow)]
)
@pytest.mark.parametrize("init", ["pissa", "eva"])
@pytest.mark.parametrize(("architecture", "task"), sorted(QUICK))
def test_what_is_stored_is_a_plain_lora_adapter_of_the_unchanged_base(architecture, task, init, dora, rslora, tmp_path):
    job = make_job(Lora, architecture, task, tmp_path, init=init, r=4, dora=dora, rslora=rslora)
    trained: list[torch.Tensor] = []

    class Watched(Lora):
        def save(self, model, folder):
            trained.append(logits(model.eval(), pretrained.load_tokenizer(job.model)))
            super().save(model, folder)

    outcome, _ = train(Watched, job)
    auto = AutoModelForSequenceClassification if task == "classification" else AutoModelForCausalLM
    plain = auto.from_pretrained(job.model.path, **({"num_labels": 2} if task == "classification" else {}))
    tokenizer = pretrained.load_tokenizer(job.model)
    plain.config.pad_token_id = tokenizer.pad_token_id
    folder = job.directory / outcome.artifacts["adapter"]
    found = logits(PeftModel.from_pretrained(plain, folder).eval(), tokenizer)
    torch.testing.assert_close(found, trained[0], rtol=1e-3, atol=1e-4)
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == (8 if init == "pissa" else 4)
    torch.testing.assert_close(logits(Lora().load(outcome, job).model, tokenizer), found, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"init": "pissa"}, {"init": "eva"}, {"loraplus_lr_ratio": 4}])
def test_stopped_and_resumed_equals_unbroken(settings, tmp_path):
    whole, _ = train(Lora, make_job(Lora, "llama", "generation", tmp_path / "whole", **settings))
    job = make_job(Lora, "llama", "generation", tmp_path / "broken", **settings)

    def stop(event: object) -> None:
        if isinstance(event, Progress) and event.step == 3:
            raise Stopped

    Lora().run(job, stop)
    models.free()
    outcome = Lora().run(dataclasses.replace(job, checkpoint=store.last_checkpoint(job.directory)), lambda _: None)
    assert outcome.metrics["loss"] == pytest.approx(whole.metrics["loss"], rel=1e-4)


@pytest.mark.parametrize(("method", "init"), [(m, i) for m in (Lora, Qlora) for i in STARTS[m]])
@pytest.mark.parametrize("architecture", [pytest.param("bert", marks=slow), pytest.param("llama", marks=slow), "gpt2"])
def test_every_start_trains(method, init, architecture, tmp_path):
    task = "classification" if architecture == "bert" else "generation"
    outcome, _ = train(method, make_job(method, architecture, task, tmp_path, init=init, max_steps=1))
    assert outcome.artifacts


@pytest.mark.parametrize("batch", [1, 4])
def test_eva_takes_short_rows_and_says_when_they_are_too_few(batch, tmp_path):
    job = make_job(Lora, "llama", "generation", tmp_path, init="eva", r=16, batch_size=batch, max_steps=1)
    assert train(Lora, job)[0].artifacts
    few = dataclasses.replace(job, data=dataclasses.replace(job.data, rows=job.data.rows[:1]))
    models.free()
    with pytest.raises(RequestError, match="tokens are too few for a rank of 16"):
        Lora().estimate(few)
    assert not models.loaded(few.model)


@pytest.mark.parametrize("init", ["kaiming", "pissa"])
def test_the_size_on_disk_is_predicted_where_the_head_is_large(init, tmp_path):
    job = make_job(Lora, "roberta", "classification", tmp_path, init=init, max_steps=1)
    outcome, _ = train(Lora, job)
    stored = load_file(job.directory / outcome.artifacts["adapter"] / "adapter_model.safetensors")
    assert Lora().estimate(job).artifact == sum(tensor.nbytes for tensor in stored.values())


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        (Lora, {"init": "orthogonal", "r": 5}, "needs an even rank, and r is 5: use 6"),
        (Qlora, {"init": "loftq", "dora": True}, "do not go together"),
    ],
)
def test_starts_that_do_not_fit_are_refused_before_weights(method, settings, words, tmp_path):
    with pytest.raises(RequestError, match=words):
        method().estimate(make_job(method, "llama", "generation", tmp_path, **settings))


def test_loftq_keeps_no_second_base_in_memory(tmp_path):
    job = make_job(Qlora, "llama", "generation", tmp_path, init="loftq", max_steps=1)
    train(Qlora, job)
    assert [key[-1] is not None for key in models._bases] == [True]


def test_pissa_on_bfloat16_starts_within_its_rounding(tmp_path):
    job = dataclasses.replace(make_job(Lora, "llama", "generation", tmp_path, init="pissa"), dtype="bfloat16")
    model, tokenizer = base(job)
    expected = logits(model.eval(), tokenizer).float()
    found = logits(Lora().attach(model, job).eval(), tokenizer).float()
    assert (found - expected).norm() < 0.02 * expected.norm()
    assert (
        Lora().estimate(job).artifact == 2 * Lora().estimate(make_job(Lora, "llama", "generation", tmp_path)).artifact
    )


def test_loraplus_gives_b_its_multiple_of_the_rate(tmp_path):
    job = make_job(Lora, "llama", "generation", tmp_path, loraplus_lr_ratio=16, learning_rate=1e-3)
    model = Lora().attach(base(job)[0], job)
    optimizer = Lora().optimizer(model, job)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rate[id(parameter)] == pytest.approx(16e-3 if "lora_B" in name else 1e-3), name
    assert len(rate) == sum(p.requires_grad for p in model.parameters())


def test_a_plain_script_cannot_start_from_the_data(tmp_path):
    job = make_job(Lora, "llama", "generation", tmp_path, init="eva")
    with pytest.raises(RequestError, match="init: eva starts from the data"):
        Lora().export("script", None, job, tmp_path)


# ------------------------------------------------------------------------------------------------ LoftQ


def _original(job) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in models.load(job.model, "cpu", "float32")[0].named_parameters()}


def test_loftq_starts_nearer_to_the_original_than_4_bits_alone(tmp_path):
    """By exactly the r largest singular values of what was lost, which is the least that rank r can leave."""
    job = make_job(Qlora, "llama", "generation", tmp_path, init="loftq", r=8)
    original = _original(job)
    method = Qlora()
    adapted = method.attach(method.load_base(job)[0], job)
    for name, layer in _lora_starts.lora_layers(adapted):
        lost = original[f"{name}.weight"] - _lora_starts.dequantised(layer.get_base_layer())
        product = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        least = torch.linalg.svdvals(lost)[8:].square().sum().sqrt()
        assert float(torch.linalg.norm(lost - product.detach())) == pytest.approx(float(least), rel=1e-3)
        assert least < torch.linalg.norm(lost)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bert"])
def test_loftq_is_stored_loaded_and_merged_without_loss(architecture, tmp_path):
    task = "classification" if architecture == "bert" else "generation"
    job = make_job(Qlora, architecture, task, tmp_path / "run", init="loftq", target_modules="all-linear")
    if architecture == "bert":  # the pooler that the files lack is not in 4 bits, and lost nothing
        job = dataclasses.replace(job, model=model_names.resolve(str(tiny_models.without_pooler(tmp_path / "base"))))
    outcome, _ = train(Qlora, job)
    ours = Qlora().load(outcome, job)
    expected, hidden = (told(ours.model, ours.tokenizer) for told in (logits, last_hidden))
    models.free()
    target = tmp_path / "merged"
    target.mkdir()
    Qlora().export("merged", outcome, job, target)
    assert not models.loaded(job.model)  # what was read for the merge is let go
    merged = plain_class(task).from_pretrained(target, dtype=torch.float32).eval()
    if job.labels:
        assert merged.config.label2id == ours.model.config.label2id
    torch.testing.assert_close(logits(merged, ours.tokenizer), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(last_hidden(merged, ours.tokenizer), hidden, rtol=1e-3, atol=1e-3)
    assert sum(isinstance(m, LoraLayer) for m in ours.model.modules()) > 0


def test_loftq_is_for_4_bits_and_pissa_is_not(tmp_path):
    with pytest.raises(ValueError, match="init"):
        make_job(Lora, "llama", "generation", tmp_path, init="loftq")
    with pytest.raises(ValueError, match="init"):
        make_job(Qlora, "llama", "generation", tmp_path, init="pissa")
