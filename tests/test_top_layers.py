"""Training the top: what is trained, and that keeping what lies below changes no figure."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from nbadapt import models
from nbadapt.errors import RequestError
from nbadapt.events import Metric
from nbadapt_plugins import top_layers
from nbadapt_plugins._kept import Kept
from nbadapt_plugins.top_layers import TopLayers
from tests.trained_jobs import CASES, base, logits, make_job, train

slow = pytest.mark.slow  # training; the conformance kit has every method in the quick tests too

ABOVE = {  # names of what is trained beside a top block; a head last
    "bert": ("bert.encoder.layer.1.", "bert.pooler.", "classifier."),
    "distilbert": ("distilbert.transformer.layer.1.", "pre_classifier.", "classifier."),
    "roberta": ("roberta.encoder.layer.1.", "classifier."),
    "gpt2": ("transformer.h.1.", "transformer.ln_f.", "score."),
    "llama": ("model.layers.1.", "model.norm.", "score."),
    "qwen2": ("model.layers.1.", "model.norm.", "score."),
}


D, M, KEYS, CLASSES = 32, 64, 16, 2  # width, feed-forward (GPT-2's is 4 d), keys of the tiny models; labels
BLOCK = 4 * D**2 + 2 * D * M + 9 * D + M
LLAMAS = 2 * D**2 + 2 * D * KEYS + 3 * D * M + 2 * D
SIZES = {  # the docstring's, and the other families': a block, what follows it in the body, the head
    "bert": (BLOCK, D**2 + D, CLASSES * (D + 1)),
    "distilbert": (BLOCK, 0, D**2 + D + CLASSES * (D + 1)),
    "roberta": (BLOCK, 0, D**2 + D + CLASSES * (D + 1)),
    "gpt2": (4 * D**2 + 2 * D * 4 * D + 9 * D + 4 * D, 2 * D, CLASSES * D),
    "llama": (LLAMAS, D, CLASSES * D),
    "qwen2": (LLAMAS + D + 2 * KEYS, D, CLASSES * D),
}


@pytest.fixture(autouse=True)
def _forget_bases():
    yield
    models.free()


def losses(events) -> list[float]:
    return [e.values["loss"] for e in events if isinstance(e, Metric)]


@slow
@pytest.mark.parametrize(("architecture", "task"), CASES)
def test_the_last_block_what_follows_it_and_the_head_are_trained(architecture, task, tmp_path):
    job = make_job(TopLayers, architecture, task, tmp_path, layers=1)
    plain, _ = base(job)
    expected = {name: p.numel() for name, p in plain.named_parameters() if name.startswith(ABOVE[architecture])}
    block, after, head = SIZES[architecture]
    closed_form = block + after + (head if task == "classification" else 0)
    assert TopLayers().estimate(job).trainable == sum(expected.values()) == closed_form
    train(TopLayers, job)
    assert set(load_file(job.directory / "artifacts/adapter/trained.safetensors")) == set(expected)


@slow
@pytest.mark.parametrize(("architecture", "task"), CASES)
def test_keeping_what_lies_below_changes_no_figure(architecture, task, tmp_path):
    """With the dropout of the trained block: both draw the same."""
    settings = {"layers": 1, "epochs": 3, "learning_rate": 1e-3}
    without = train(TopLayers, make_job(TopLayers, architecture, task, tmp_path / "a", cache_memory=0, **settings))
    kept = train(TopLayers, make_job(TopLayers, architecture, task, tmp_path / "b", **settings))
    assert losses(kept[1]) == pytest.approx(losses(without[1]), rel=1e-4)
    assert kept[0].metrics == pytest.approx(without[0].metrics, rel=1e-4)


@slow
@pytest.mark.parametrize(("architecture", "task"), CASES)
def test_each_row_goes_through_the_frozen_block_once(architecture, task, tmp_path, monkeypatch):
    rows: list[int] = []
    watch = Kept.watch

    def counting(self, model, blocks):
        for block in blocks:
            forward = block.forward

            def counted(hidden, *args, forward=forward, **kwargs):
                rows.append(len(hidden))
                return forward(hidden, *args, **kwargs)

            block.forward = counted
        watch(self, model, blocks)

    monkeypatch.setattr(Kept, "watch", counting)
    job = make_job(TopLayers, architecture, task, tmp_path, layers=1, epochs=5, samples=0)
    train(TopLayers, job)
    assert sum(rows) == len(job.data) + len(job.evaluation)


def test_what_is_kept_is_predicted_and_is_at_most_half_of_what_is_free(tmp_path, monkeypatch):
    job = make_job(TopLayers, "bert", "classification", tmp_path, layers=1)
    assert TopLayers().estimate(job).memory["cache"] > 600
    monkeypatch.setattr(top_layers, "available_bytes", lambda _device: 600)
    assert TopLayers().estimate(job).memory["cache"] == 300
    model = TopLayers().attach(base(job)[0], job)
    assert model.bert.encoder.layer[0].forward.func.__self__.free == 300


@slow
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
def test_rows_beyond_the_memory_are_computed_again_and_give_the_same(architecture, tmp_path):
    job = make_job(TopLayers, architecture, "classification", tmp_path, layers=1)
    plain, tokenizer = base(job)
    expected = logits(plain, tokenizer)
    model, _ = base(job)
    model.config.use_cache = False
    kept = Kept(budget=8 * 32 * 4)  # eight tokens: the short row only
    name = {"bert": "bert.encoder.layer.0", "gpt2": "transformer.h.0", "llama": "model.layers.0"}[architecture]
    kept.watch(model, [model.get_submodule(name)])
    for _ in range(3):
        torch.testing.assert_close(logits(model, tokenizer), expected)
    assert len(kept._rows) == 1


@slow
def test_generating_does_not_read_what_is_kept(tmp_path):
    from nbadapt.engines.generate import LanguageModel

    job = make_job(TopLayers, "llama", "generation", tmp_path, layers=1)
    plain, tokenizer = base(job)
    model = TopLayers().attach(base(job)[0], job).eval()
    prompts = [row["prompt"] for row in job.data.rows]
    model.config.use_cache = False
    expected = LanguageModel(plain, tokenizer).generate(prompts, max_new_tokens=6)
    assert LanguageModel(model, tokenizer).generate(prompts, max_new_tokens=6) == expected
    torch.testing.assert_close(logits(model, tokenizer), logits(plain, tokenizer))
    assert LanguageModel(model, tokenizer).generate(prompts, max_new_tokens=6) == expected
    assert LanguageModel(model, tokenizer).score(prompts, ["Haus", "Hund"]) == pytest.approx(
        LanguageModel(plain, tokenizer).score(prompts, ["Haus", "Hund"]), rel=1e-4
    )


@slow
def test_dropout_is_off_below_and_on_above_and_said(tmp_path):
    job = make_job(TopLayers, "bert", "classification", tmp_path, layers=1)
    model = TopLayers().attach(base(job)[0], job)
    chances = {name: m.p for name, m in model.named_modules() if isinstance(m, torch.nn.Dropout)}
    below = {p for name, p in chances.items() if "layer.0." in name or "embeddings" in name}
    above = {p for name, p in chances.items() if "layer.1." in name or name == "dropout"}
    assert (below, above) == ({0.0}, {0.1})
    assert any("dropout is off" in note and "computed once" in note for note in TopLayers().estimate(job).notes)
    assert "without dropout" in TopLayers.summary
    other, _ = base(job)
    assert {m.p for m in other.modules() if isinstance(m, torch.nn.Dropout)} == {0.1}


def test_more_layers_than_blocks_are_refused_before_weights_load(tmp_path):
    with pytest.raises(RequestError, match=r"layers: 3 is more than the 2 blocks of this bert: use at most 2"):
        TopLayers().estimate(make_job(TopLayers, "bert", "classification", tmp_path, layers=3))
    assert not models._bases


@slow
def test_all_blocks_may_be_trained(tmp_path):
    job = make_job(TopLayers, "distilbert", "classification", tmp_path, layers=2)
    outcome, _ = train(TopLayers, job)
    assert outcome.metrics["loss"] > 0
    names = load_file(job.directory / "artifacts/adapter/trained.safetensors")
    assert any("layer.0." in name for name in names)
    assert not any("embeddings" in name for name in names)
