"""Output layers on cached vectors against plain Trainer runs in which the frozen backbone runs every time."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nbadapt import model_names, models, pretrained
from nbadapt.data import Examples
from nbadapt.errors import NbadaptError, RequestError
from nbadapt.events import Metric, Notice, Parameters, Progress
from nbadapt.heads import head_modules
from nbadapt.method import Job
from nbadapt.settings import validate
from nbadapt_plugins import _heads
from nbadapt_plugins._trained import switch_off_dropout
from nbadapt_plugins.output_layers import OutputLayers, _Layers
from tests import tiny_models

slow = pytest.mark.slow  # training; the conformance kit has every method in the quick tests too

ENCODERS = ("bert", "distilbert", "roberta")
DECODERS = ("gpt2", "llama", "qwen2")
HIDDEN = 32  # of the tiny models
TEXTS = ["The film was great.", "dull", "A long text about the capital of France, and some more words."]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NBADAPT_EMBEDDINGS", str(tmp_path / "embeddings"))
    yield
    models.free()


def make_job(architecture: str, directory: Path, **settings: object) -> Job:
    """With the model's own head, unless the settings say otherwise."""
    own = {"epochs": 3, "batch_size": 4, "samples": 1, "learning_rate": 1e-2, "hidden_sizes": None}
    rows, labels = tiny_models.reviews(28), ("negative", "positive")
    directory.mkdir(parents=True, exist_ok=True)
    return Job(
        method="output-layers",
        config=OutputLayers.Config(**{**own, **settings}),
        model=model_names.resolve(str(tiny_models.folder(architecture))),
        task="classification",
        directory=directory,
        data=Examples("classification", tuple(rows[:-6]), labels),
        evaluation=Examples("classification", tuple(rows[-6:]), labels),
        labels=labels,
    )


def train(job: Job):
    events: list[object] = []
    return OutputLayers().run(job, events.append), events


def losses(events: list[object]) -> list[float]:
    return [e.values["loss"] for e in events if isinstance(e, Metric) and e.split == "train"]


class Whole(nn.Module):
    """A backbone and new layers on its mean or last hidden states, in one forward pass."""

    def __init__(self, backbone: nn.Module, layers: nn.Module, pooling: str) -> None:
        super().__init__()
        self.backbone, self.layers, self.pooling = backbone, layers, pooling

    def forward(self, input_ids, attention_mask, labels):
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pooling == "mean":
            mask = attention_mask[..., None]
            vector = (hidden * mask).sum(1) / mask.sum(1)
        else:
            vector = hidden[torch.arange(len(hidden)), attention_mask.sum(1) - 1]
        logits = self.layers(vector)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def plain_frozen_run(model: nn.Module, tokenizer, job: Job, folder: Path) -> list[float]:
    """Train what of `model` requires gradients with a plain Trainer, on the batches that nbadapt draws."""
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    from nbadapt.engines.supervised import trainer_arguments
    from nbadapt.engines.trainer import LengthGroupedSampler

    class Order(LengthGroupedSampler):
        def __iter__(self):
            order = super().__iter__()
            self.epoch += 1
            return order

    class Plain(Trainer):
        def _get_train_sampler(self, _dataset=None):
            return Order([1] * len(job.data), job.config, job.seed)

    rows = [
        {"input_ids": tokenizer(row["text"])["input_ids"], "labels": job.labels.index(row["label"])}
        for row in job.data.rows
    ]
    trainer = Plain(
        model=model,
        args=TrainingArguments(
            str(folder), logging_steps=1, save_strategy="no", disable_tqdm=True, **trainer_arguments(job, len(rows))
        ),
        train_dataset=rows,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ == "PrinterCallback":
            trainer.remove_callback(callback)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@slow
@pytest.mark.parametrize("architecture", [*ENCODERS, *DECODERS])
def test_the_result_is_that_of_a_plain_frozen_run(architecture, tmp_path):
    job = make_job(architecture, tmp_path / "run")
    uneven = [row for i, row in enumerate(job.data.rows) if row["label"] == "negative" or i % 3 == 0]  # for the bias
    job = replace(job, data=replace(job.data, rows=tuple(uneven)))
    outcome, events = train(job)
    model, tokenizer = models.load_classifier(job.model, job.labels, "cpu", "float32", job.seed)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    switch_off_dropout(model)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    expected = plain_frozen_run(model, tokenizer, job, tmp_path / "plain")
    np.testing.assert_allclose(losses(events), expected, rtol=2e-3, atol=2e-4)
    trained = _Layers(job, job.directory / outcome.artifacts["head"]).head.state_dict()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert torch.equal(parameter, start[name]), name
            continue
        moved = (parameter - start[name]).abs().max()
        assert moved > 1e-3, name  # it learned something
        assert (trained[name] - parameter).abs().max() < 0.02 * moved, name


@slow
@pytest.mark.parametrize(
    ("architecture", "pooling", "hidden"),
    [("bert", "mean", [16]), ("llama", "last", [16, 8]), ("gpt2", "mean", []), ("roberta", "mean", [8])],
)
def test_new_layers_are_those_of_a_plain_frozen_run(architecture, pooling, hidden, tmp_path):
    activation = {"activation": "tanh"} if hidden else {}
    job = make_job(architecture, tmp_path / "run", hidden_sizes=hidden, pooling=pooling, **activation)
    start = copy.deepcopy(_Layers(job).head)
    outcome, events = train(job)
    model, tokenizer = models.load_classifier(job.model, job.labels, "cpu", "float32", job.seed)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    switch_off_dropout(model)
    whole = Whole(model.base_model, start.layers, pooling)
    expected = plain_frozen_run(whole, tokenizer, job, tmp_path / "plain")
    np.testing.assert_allclose(losses(events), expected, rtol=2e-3, atol=2e-4)
    trained = _Layers(job, job.directory / outcome.artifacts["head"]).head.state_dict()
    for name, parameter in whole.layers.named_parameters():
        torch.testing.assert_close(trained["layers." + name], parameter.detach(), rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("architecture", [*ENCODERS, *DECODERS])
@pytest.mark.parametrize("hidden", [None, [], [16, 8]])
def test_parameters_equal_the_closed_form(architecture, hidden, tmp_path):
    job = make_job(architecture, tmp_path / "run", hidden_sizes=hidden)
    estimate = OutputLayers().estimate(job)
    sizes = [HIDDEN, *(hidden or []), 2]
    expected = sum(b * (a + 1) for a, b in itertools.pairwise(sizes))
    if hidden is None:
        expected = {
            "bert": 2 * HIDDEN + 2,
            "distilbert": HIDDEN * (HIDDEN + 1) + 2 * HIDDEN + 2,
            "roberta": HIDDEN * (HIDDEN + 1) + 2 * HIDDEN + 2,
        }.get(architecture, 2 * HIDDEN)
    assert estimate.trainable == expected
    _, events = train(job)
    (told,) = [e for e in events if isinstance(e, Parameters)]
    assert (told.trainable, told.total) == (estimate.trainable, estimate.total)
    assert len([e for e in events if isinstance(e, Progress)]) == estimate.steps == 18
    skeleton = pretrained.skeleton(job.model, "classification", job.labels)
    if hidden is None:
        assert estimate.total == sum(p.numel() for p in skeleton.parameters())


@slow
@pytest.mark.parametrize("hidden", [None, [16]])
def test_every_parameter_of_the_head_changes_and_the_base_does_not(hidden, tmp_path):
    job = make_job("roberta", tmp_path / "run", hidden_sizes=hidden)
    base = models._base(job.model, "classification", "cpu", "float32")
    before = {name: p.detach().clone() for name, p in base.named_parameters()}
    start = copy.deepcopy(_Layers(job).head.state_dict())
    outcome, _ = train(job)
    for name, weight in _Layers(job, job.directory / outcome.artifacts["head"]).head.state_dict().items():
        assert not torch.equal(weight, start[name]), name
    for name, weight in base.named_parameters():
        assert torch.equal(weight, before[name]), name


@slow
@pytest.mark.parametrize(
    ("architecture", "expected"),
    [("bert", "pooler"), ("distilbert", "cls"), ("roberta", "cls"), *((d, "last") for d in DECODERS)],
)
def test_what_the_models_own_head_reads_is_found(architecture, expected, tmp_path):
    assert _Layers(make_job(architecture, tmp_path / "run")).pooling == expected
    by_default = dataclasses.replace(make_job(architecture, tmp_path / "new"), config=OutputLayers.Config())
    layers = _Layers(by_default)
    assert layers.pooling == "mean"  # one linear layer on the mean
    assert [tuple(p.shape) for p in layers.head.parameters()] == [(2, HIDDEN), (2,)]


@slow
@pytest.mark.parametrize(
    "model_type", ["albert", "electra", "deberta-v2", "mpnet", "modernbert", "mistral", "phi3", "gemma", "qwen3"]
)
def test_heads_of_other_architectures_give_the_whole_models_logits(model_type):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 500, "embedding_size": 32, "pad_token_id": 0,
             "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
    known = AutoConfig.for_model(model_type)
    config = AutoConfig.for_model(model_type, **{name: value for name, value in small.items() if hasattr(known, name)})
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    head = _heads.without_backbone(copy.deepcopy(model))
    tokenizer = pretrained.load_tokenizer(model_names.resolve(str(tiny_models.folder("bert"))))
    assert _heads.reading(model, head, tokenizer) in {"cls", "last", "mean", "pooler"}


def test_a_head_that_reads_more_than_one_vector_is_refused():
    model, tokenizer = models.load_classifier(
        model_names.resolve(str(tiny_models.folder("roberta"))), ("a", "b"), "cpu", "float32", 0
    )

    class Everything(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return self.inner(hidden.max(dim=1, keepdim=True).values)

    model.classifier = Everything(model.classifier)
    head = _heads.without_backbone(copy.deepcopy(model))
    with pytest.raises(RequestError, match="reads more of a text than one vector"):
        _heads.reading(model, head, tokenizer)


@slow
@pytest.mark.parametrize("architecture", [*ENCODERS, *DECODERS])
def test_the_merged_model_is_plain_transformers_with_the_runs_answers(architecture, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    job = make_job(architecture, tmp_path / "run")
    outcome, _ = train(job)
    target = tmp_path / "export"
    target.mkdir()
    OutputLayers().export("merged", outcome, job, target)
    model = AutoModelForSequenceClassification.from_pretrained(target, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(target)
    predicted = OutputLayers().load(outcome, job).predict(TEXTS)
    for text, row in zip(TEXTS, predicted.probabilities, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            expected = model(input_ids=ids).logits[0].softmax(-1)
        np.testing.assert_allclose(row, expected.numpy(), rtol=1e-4, atol=1e-6)
    assert [model.config.id2label[i] for i in range(2)] == list(predicted.names)


@slow
@pytest.mark.parametrize(("own", "kind"), [(False, "merged"), (True, "head")])
def test_each_head_has_its_own_export_and_says_so(own, kind, tmp_path):
    job = make_job("bert", tmp_path / "run", hidden_sizes=None if own else [16])
    outcome, _ = train(job)
    other = "merged" if own else "head"
    with pytest.raises(RequestError, match=rf"run.export\(\'{other}\'\)"):
        OutputLayers().export(kind, outcome, job, tmp_path)


@slow
@pytest.mark.parametrize(
    ("architecture", "pooling", "hidden"), [("bert", "auto", []), ("llama", "last", [8]), ("roberta", "cls", [16, 8])]
)
def test_exported_layers_work_without_nbadapt(architecture, pooling, hidden, tmp_path):
    job = make_job(architecture, tmp_path / "run", hidden_sizes=hidden, pooling=pooling)
    outcome, _ = train(job)
    target = tmp_path / "head"
    target.mkdir()
    OutputLayers().export("head", outcome, job, target)
    script = f"import json, use_head; print(json.dumps(use_head.load()({TEXTS!r})))"
    done = subprocess.run([sys.executable, "-c", script], cwd=target, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    expected = OutputLayers().load(outcome, job).predict(TEXTS)
    for row, probabilities in zip(found, expected.probabilities, strict=True):
        assert [row[name] for name in expected.names] == pytest.approx(probabilities.tolist(), abs=1e-4)


@slow
def test_bfloat16_backbones_train_a_float32_head(tmp_path):
    job = replace(make_job("llama", tmp_path / "run"), dtype="bfloat16")
    outcome, _ = train(job)
    reference, _ = train(make_job("llama", tmp_path / "exact"))
    assert _Layers(job, job.directory / outcome.artifacts["head"]).head.score.weight.dtype == torch.float32
    assert outcome.metrics["loss"] == pytest.approx(reference.metrics["loss"], rel=0.05)


@slow
def test_rows_over_the_limit_are_counted(tmp_path):
    _, events = train(make_job("bert", tmp_path / "run", max_length=8, max_steps=1))
    assert any("28 of 28 rows were longer than 8 tokens" in e.text for e in events if isinstance(e, Notice))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pooling": "mean", "hidden_sizes": None}, ("hidden_sizes: none",)),
        ({"hidden_sizes": [0]}, ("hidden_sizes", "at least 1")),
        ({"activation": "swish"}, ("activation", "gelu")),
    ],
)
def test_settings_that_do_not_fit_are_told_in_one_line(settings, words):
    with pytest.raises(RequestError) as caught:
        validate(OutputLayers, settings)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_an_encoder_decoder_is_refused_before_weights_load(tmp_path):
    from transformers import T5Config

    T5Config(architectures=["T5ForSequenceClassification"]).save_pretrained(tmp_path / "t5")
    job = replace(make_job("bert", tmp_path / "run"), model=model_names.resolve(str(tmp_path / "t5")))
    with pytest.raises(NbadaptError, match="an encoder and a decoder"):
        OutputLayers().estimate(job)


@slow
def test_the_head_of_a_checkpoint_for_the_same_labels_goes_on(tmp_path):
    """A merged model is trained further from where it was."""
    job = make_job("distilbert", tmp_path / "run")
    outcome, _ = train(job)
    target = tmp_path / "export"
    target.mkdir()
    OutputLayers().export("merged", outcome, job, target)
    again = replace(make_job("distilbert", tmp_path / "again"), model=model_names.resolve(str(target)))
    start = _Layers(again).head.state_dict()
    trained = _Layers(job, job.directory / outcome.artifacts["head"]).head
    for name in head_modules(pretrained.skeleton(job.model, "classification", job.labels)):
        for key, weight in trained.get_submodule(name).state_dict().items():
            assert torch.equal(start[f"{name}.{key}"], weight)
