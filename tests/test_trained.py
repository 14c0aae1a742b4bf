"""What every method keeps to that trains weights of the model's own: the base, the counts, the stored result."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file

from nbadapt import models
from nbadapt.events import Parameters
from nbadapt.method import Job, Method
from nbadapt_plugins.adapter import Adapter
from nbadapt_plugins.bitfit import BitFit
from nbadapt_plugins.full import Full
from nbadapt_plugins.top_layers import TopLayers
from tests.trained_jobs import (
    CASES,
    base,
    base_weights,
    logits,
    make_job,
    plain_class,
    stopped_and_resumed,
    train,
)

pytestmark = pytest.mark.slow  # the conformance kit has every method in the quick tests too

SETTINGS: dict[type[Method], dict[str, object]] = {Full: {}, BitFit: {}, Adapter: {}, TopLayers: {"layers": 1}}
METHODS = list(SETTINGS)
FAMILY = [
    pytest.param(method, architecture, task, id=f"{method.name}-{architecture}-{task}")
    for method in METHODS
    for architecture, task in CASES
    if (method, architecture) != (BitFit, "llama")
]
FAMILY.append(pytest.param(Full, "t5", "classification", id="full-t5-classification"))
FEW = [
    pytest.param(method, architecture, task, id=f"{method.name}-{architecture}-{task}")
    for method in METHODS
    for architecture, task in (("bert", "classification"), ("qwen2", "generation"))
]


@pytest.fixture(autouse=True)
def _forget_bases():
    yield
    models.free()


def job_for(method: type[Method], architecture: str, task: str, directory, **settings: object) -> Job:
    return make_job(method, architecture, task, directory, **{**SETTINGS[method], **settings})


def stored(job: Job) -> dict[str, torch.Tensor]:
    (file,) = (job.directory / "artifacts" / "adapter").glob("*.safetensors")
    return load_file(file)


@pytest.mark.parametrize(("method", "architecture", "task"), FAMILY)
def test_every_trained_tensor_moves_the_base_does_not_and_what_is_stored_is_what_was_trained(
    method, architecture, task, tmp_path
):
    job = job_for(method, architecture, task, tmp_path)
    before = base_weights(job)
    start = {name: p.detach().clone() for name, p in method().attach(base(job)[0], job).named_parameters()}
    outcome, events = train(method, job)
    for name, weight in base_weights(job).items():
        assert torch.equal(weight, before[name]), name
    for name, weight in stored(job).items():
        keys = name.endswith(("attention.self.key.bias", "attention.k_lin.bias"))  # shifts all scores alike
        assert keys or not torch.equal(weight, start[name]), name
    told = next(e for e in events if isinstance(e, Parameters))
    estimate = method().estimate(job)
    assert (told.trainable, told.total) == (estimate.trainable, estimate.total)
    assert told.trainable == sum(weight.numel() for weight in stored(job).values())
    adapted = method().load(outcome, job)
    assert outcome.metrics["loss"] == pytest.approx(held_out_loss(adapted.model, adapted.tokenizer, job), rel=1e-4)


def held_out_loss(model, tokenizer, job: Job) -> float:
    """The mean loss of the held-out rows, one at a time, in plain PyTorch."""
    from nbadapt.engines.tokens import encode_completion, encode_prompt

    total, count = 0.0, 0
    for row in job.evaluation.rows:
        if job.task == "classification":
            prompt, answer = tokenizer(row["text"])["input_ids"], []
        else:
            prompt = encode_prompt(tokenizer, row["prompt"])
            answer = encode_completion(tokenizer, row["completion"], row["prompt"], end=True)
        with torch.no_grad():
            scores = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        if job.task == "classification":
            picked = scores[[model.config.label2id[row["label"]]]]
        else:
            picked = scores[len(prompt) - 1 : -1][range(len(answer)), answer]
        total, count = total - picked.sum().item(), count + len(picked)
    return total / count


def gradients(model, tokenizer, task: str) -> dict[str, torch.Tensor]:
    """Name in a plain model -> gradient of every trained parameter for the loss of a batch."""
    batch = tokenizer(["The film was great.", "A dull story."], return_tensors="pt", padding=True)
    labels = torch.tensor([0, 1]) if task == "classification" else batch["input_ids"]
    model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return {name.replace("parametrizations.", "").removesuffix(".original"): g for name, g in found.items()}


@pytest.mark.parametrize(("method", "architecture", "task"), [p for p in FAMILY if p.values[0] is not Adapter])
def test_gradients_are_those_of_the_plain_model(method, architecture, task, tmp_path):
    job = job_for(method, architecture, task, tmp_path)
    model, tokenizer = base(job)
    expected = gradients(copy.deepcopy(model).requires_grad_(True).eval(), tokenizer, task)
    found = gradients(method().attach(model, job).eval(), tokenizer, task)
    assert found
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(("method", "architecture", "task"), FEW)
def test_in_bfloat16_all_that_is_trained_has_about_the_same_gradients(method, architecture, task, tmp_path):
    found = {}
    for dtype in ("float32", "bfloat16"):
        job = job_for(method, architecture, task, tmp_path, dtype=dtype)
        model, tokenizer = base(job)
        model = method().attach(model, job).eval()
        with torch.autocast("cpu", torch.bfloat16, enabled=method is Full and dtype == "bfloat16"):  # its bf16=True
            found[dtype] = gradients(model, tokenizer, task)
    assert {gradient.dtype for gradient in found["bfloat16"].values()} == {torch.float32}
    exact, rough = (torch.cat([g.flatten() for g in found[dtype].values()]) for dtype in ("float32", "bfloat16"))
    assert torch.nn.functional.cosine_similarity(exact, rough, dim=0) > 0.9  # the gradients nearly cancel


@pytest.mark.parametrize(("method", "architecture", "task"), FEW)
def test_a_run_that_is_stopped_and_goes_on_ends_as_an_unbroken_one(method, architecture, task, tmp_path):
    whole, _ = train(method, job_for(method, architecture, task, tmp_path / "whole"))
    again = stopped_and_resumed(method, job_for(method, architecture, task, tmp_path / "broken"), step=3)
    assert again.metrics == pytest.approx(whole.metrics, rel=1e-5)
    first, second = (stored(job_for(method, architecture, task, tmp_path / name)) for name in ("whole", "broken"))
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("method", "architecture", "task"), FEW)
def test_in_bfloat16_what_is_trained_is_float32_and_the_stored_result_answers_the_same(
    method, architecture, task, tmp_path
):
    job = job_for(method, architecture, task, tmp_path, dtype="bfloat16", learning_rate=1e-3)
    before = base_weights(job)
    outcome, _ = train(method, job)
    assert {weight.dtype for weight in before.values()} == {torch.bfloat16}
    for name, weight in base_weights(job).items():
        assert torch.equal(weight, before[name]), name
    assert {weight.dtype for weight in stored(job).values()} == {torch.float32}
    adapted = method().load(outcome, job)
    assert adapted.model.dtype == torch.bfloat16
    assert logits(adapted.model, adapted.tokenizer).isfinite().all()
    if task == "classification":
        predicted = adapted.predict([row["text"] for row in job.evaluation.rows])
        places = [predicted.names.index(row["label"]) for row in job.evaluation.rows]
        loss = -torch.tensor(predicted.probabilities)[range(len(places)), places].log().mean().item()
        assert outcome.metrics["loss"] == pytest.approx(loss, rel=0.02)


@pytest.mark.parametrize("task", ["classification", "generation"])
@pytest.mark.parametrize("method", [Full, BitFit, TopLayers])
def test_a_merged_export_is_a_plain_model_that_gives_the_same_logits(method, task, tmp_path):
    job = job_for(method, "gpt2", task, tmp_path / "run")
    outcome, _ = train(method, job)
    target = tmp_path / "export"
    target.mkdir()
    method().export("merged", outcome, job, target)
    adapted = method().load(outcome, job)
    plain = plain_class(task).from_pretrained(target, dtype=torch.float32).eval()
    torch.testing.assert_close(logits(plain, adapted.tokenizer), logits(adapted.model, adapted.tokenizer))
    assert plain.config.use_cache
    assert not torch.allclose(logits(plain, adapted.tokenizer), logits(*base(job)), atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_text_alone_can_be_learned(method, tmp_path):
    outcome, _ = train(method, job_for(method, "gpt2", "text", tmp_path))
    assert outcome.metrics["loss"] > 0
