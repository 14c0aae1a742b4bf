"""BitFit against closed forms."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from nbadapt import models
from nbadapt.errors import RequestError, UnsuitedError
from nbadapt_plugins.bitfit import BitFit
from tests.trained_jobs import CASES, base, logits, make_job, train

slow = pytest.mark.slow  # training; the conformance kit has every method in the quick tests too

WIDTH, INNER, BLOCKS, GROUPED = 32, 64, 2, 16  # of the tiny models; GROUPED: keys' and values' width in Qwen2
HEADS = {
    "bert": 2 * WIDTH + 2,
    "distilbert": WIDTH * WIDTH + WIDTH + 2 * WIDTH + 2,
    "roberta": WIDTH * WIDTH + WIDTH + 2 * WIDTH + 2,
    "gpt2": 2 * WIDTH,
    "qwen2": 2 * WIDTH,
}
BIASES = {
    "bert": BLOCKS * (7 * WIDTH + INNER) + 2 * WIDTH,
    "distilbert": BLOCKS * (7 * WIDTH + INNER) + WIDTH,
    "roberta": BLOCKS * (7 * WIDTH + INNER) + WIDTH,
    "gpt2": BLOCKS * (7 * WIDTH + 4 * WIDTH) + WIDTH,
    "qwen2": BLOCKS * (WIDTH + 2 * GROUPED),
}


@pytest.fixture(autouse=True)
def _forget_bases():
    yield
    models.free()


@pytest.mark.parametrize(("architecture", "task"), [case for case in CASES if case[0] != "llama"])
def test_parameters_equal_the_closed_form(architecture, task, tmp_path):
    estimate = BitFit().estimate(make_job(BitFit, architecture, task, tmp_path))
    assert estimate.trainable == BIASES[architecture] + (HEADS[architecture] if task == "classification" else 0)


@slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_at_the_start_the_model_equals_the_base(dtype, tmp_path):
    job = make_job(BitFit, "roberta", "classification", tmp_path, dtype=dtype)
    expected = logits(*base(job))
    model, tokenizer = base(job)
    assert torch.equal(logits(BitFit().attach(model, job), tokenizer), expected)


@slow
def test_only_biases_and_the_head_are_stored(tmp_path):
    job = make_job(BitFit, "bert", "classification", tmp_path)
    train(BitFit, job)
    names = load_file(job.directory / "artifacts" / "adapter" / "trained.safetensors")
    assert all(name.endswith(".bias") or name == "classifier.weight" for name in names)


@pytest.mark.parametrize("task", ["classification", "generation"])
def test_a_model_without_biases_is_refused_in_one_line(task, tmp_path):
    with pytest.raises(UnsuitedError, match=r"bitfit does not work with this llama, which has no biases$"):
        BitFit().estimate(make_job(BitFit, "llama", task, tmp_path))
    assert not models._bases


@slow
def test_the_papers_half_of_the_biases(tmp_path):
    job = make_job(BitFit, "bert", "classification", tmp_path, target_modules=["query", "intermediate.dense"])
    assert BitFit().estimate(job).trainable == BLOCKS * (WIDTH + INNER) + HEADS["bert"]


@pytest.mark.parametrize(
    ("asked", "words"), [(["qeury"], ("no layer 'qeury'", "did you mean query")), ([], ("target_modules is empty",))]
)
def test_layers_that_the_model_has_not_are_refused(asked, words, tmp_path):
    with pytest.raises(RequestError) as caught:
        BitFit().estimate(make_job(BitFit, "bert", "classification", tmp_path, target_modules=asked))
    assert all(word in str(caught.value) for word in words)
