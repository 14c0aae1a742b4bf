"""LoRA against peft, closed forms and plain PyTorch, on tiny models of every architecture."""

from __future__ import annotations

import ast
import dataclasses
import functools
import itertools
import json
import shutil

import pytest
import torch

from nbadapt import model_names, models, pretrained
from nbadapt.data import Examples
from nbadapt.engines.encoding import encode
from nbadapt.errors import RequestError, Stopped
from nbadapt.events import Metric, Notice, Parameters, Progress, Stage
from nbadapt.method import Job, Outcome
from nbadapt_plugins._linear_layers import linear_layers, targets
from nbadapt_plugins._trained import switch_off_dropout
from nbadapt_plugins.lora import Lora
from tests import tiny_models, trained_jobs
from tests.trained_jobs import DECODERS, ENCODERS, base_weights

CASES = [*trained_jobs.CASES, ("t5", "classification")]
make_job = functools.partial(trained_jobs.make_job, Lora, learning_rate=Lora.Config().learning_rate)
train = functools.partial(trained_jobs.train, Lora)


@pytest.fixture(autouse=True)
def _forget_bases():
    yield
    models.free()


@pytest.mark.parametrize(("architecture", "task"), CASES)
@pytest.mark.parametrize("dora", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_parameters_equal_the_closed_form_and_pefts_own_count(dora, architecture, task, tmp_path):
    job = make_job(architecture, task, tmp_path, r=4, target_modules="all-linear", dora=dora)
    estimate = Lora().estimate(job)
    skeleton = pretrained.skeleton(job.model, "classification" if task == "classification" else "causal", job.labels)
    sizes = linear_layers(skeleton).values()
    matrices = sum(4 * (inside + outside) + dora * outside for inside, outside in sizes)
    body = skeleton.base_model_prefix
    head = [p for name, p in skeleton.named_parameters() if not name.startswith(body + ".")]
    head_size = sum(p.numel() for p in head) if task == "classification" else 0
    assert estimate.trainable == matrices + head_size
    _, events = train(job)
    told = next(e for e in events if isinstance(e, Parameters))
    assert (told.trainable, told.total) == (estimate.trainable, estimate.total)
    from peft import get_peft_model

    base, _ = trained_jobs.base(job)
    config = Lora().peft_config(base, job)
    if architecture == "t5":  # elsewhere peft knows the head's name by itself
        config.modules_to_save = ["classification_head"]
    trainable, _ = get_peft_model(base, config).get_nb_trainable_parameters()
    assert trainable == estimate.trainable


def test_a_25_by_50_matrix_with_rank_5_has_375_parameters(tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"hidden_size": 25, "intermediate_size": 50, "num_attention_heads": 5, "num_hidden_layers": 1}
    shutil.copytree(tiny_models.folder("bert"), tmp_path / "bert")
    tokenizer = pretrained.load_tokenizer(model_names.resolve(str(tmp_path / "bert")))
    BertForMaskedLM(BertConfig(**sizes, vocab_size=len(tokenizer))).save_pretrained(tmp_path / "bert")
    job = make_job("bert", "classification", tmp_path, r=5, target_modules="intermediate.dense")
    job = dataclasses.replace(job, model=model_names.resolve(str(tmp_path / "bert")))
    model, _ = trained_jobs.base(job)
    assert model.bert.encoder.layer[0].intermediate.dense.weight.numel() == 1250
    head = sum(p.numel() for p in model.classifier.parameters())
    adapted = Lora().attach(model, job)
    assert Lora().estimate(job).trainable - head == 375
    assert sum(p.numel() for name, p in adapted.named_parameters() if "lora_" in name) == 375


@pytest.mark.parametrize(("architecture", "task"), CASES)
def test_training_changes_the_adapter_alone_and_plain_peft_gives_the_same_logits(architecture, task, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    job = make_job(architecture, task, tmp_path)
    before = base_weights(job)
    outcome, events = train(job)
    for name, weight in base_weights(job).items():
        assert torch.equal(weight, before[name]), name
    losses = [e.values["loss"] for e in events if isinstance(e, Metric) and e.split == "train"]
    assert len(losses) == len([e for e in events if isinstance(e, Progress)])
    assert outcome.metrics["loss"] > 0

    ours = Lora().load(outcome, job)
    if task == "classification":
        base = AutoModelForSequenceClassification.from_pretrained(job.model.path, num_labels=2, dtype=torch.float32)
        base.config.pad_token_id = ours.tokenizer.pad_token_id
    else:
        base = AutoModelForCausalLM.from_pretrained(job.model.path, dtype=torch.float32)
    plain = PeftModel.from_pretrained(base, job.directory / outcome.artifacts["adapter"]).eval()
    batch = ours.tokenizer(["The film was great.", "dull"], return_tensors="pt", padding=True)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    with torch.no_grad():
        torch.testing.assert_close(ours.model(**inputs).logits, plain(**inputs).logits)
        assert not torch.allclose(plain(**inputs).logits, base_logits(job, inputs), atol=1e-6)


def base_logits(job: Job, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    model, _ = trained_jobs.base(job)
    return model(**inputs).logits


@pytest.mark.parametrize(("architecture", "task"), CASES)
@pytest.mark.parametrize("dora", [False, True])
def test_at_the_start_the_adapted_model_equals_the_base(dora, architecture, task, tmp_path):
    for init in ("kaiming", "gaussian", "orthogonal"):
        job = make_job(architecture, task, tmp_path, init=init, dora=dora)
        model, tokenizer = trained_jobs.base(job)
        expected = trained_jobs.last_hidden(model, tokenizer)
        adapted = Lora().attach(model, job).eval()
        torch.testing.assert_close(trained_jobs.last_hidden(adapted, tokenizer), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", [*ENCODERS, *DECODERS])
@pytest.mark.parametrize("base_dropout", [False, True])
def test_the_frozen_bases_own_dropout_is_off_unless_asked_for(architecture, base_dropout, tmp_path):
    job = make_job(architecture, "classification", tmp_path, base_dropout=base_dropout, r=2)
    base, _ = trained_jobs.base(job)
    dropouts = [m for m in base.modules() if isinstance(m, torch.nn.Dropout) and m.p > 0]
    ids = torch.arange(10, 26).reshape(2, 8)
    with torch.no_grad():
        expected = base(ids).logits
        if not base_dropout:
            switch_off_dropout(base)
        same = torch.equal(base.train()(ids).logits, expected)
    assert same is (not base_dropout or not dropouts)
    shared, _ = trained_jobs.base(job)  # the dropout of the next run on this base is as it was
    assert len([m for m in shared.modules() if isinstance(m, torch.nn.Dropout) and m.p > 0]) == len(dropouts)
    _, events = train(job)
    assert any(isinstance(e, Metric) for e in events)


@pytest.mark.parametrize(("rslora", "expected"), [(False, 16 / 4), (True, 16 / 2)])
def test_the_update_is_scaled_by_alpha_over_r_or_its_root(rslora, expected, tmp_path):
    job = make_job("llama", "generation", tmp_path, r=4, alpha=16, rslora=rslora)
    base, _ = trained_jobs.base(job)
    layer = Lora().attach(base, job).base_model.model.model.layers[0].self_attn.q_proj
    assert layer.scaling["default"] == expected


def test_the_loss_counts_the_completion_only(tmp_path):
    """The first loss equals cross-entropy at the completion's tokens, computed with plain PyTorch."""
    from nbadapt.engines.tokens import encode_completion, encode_prompt

    job = make_job("llama", "generation", tmp_path, chat=True, max_steps=1, batch_size=8, dropout=0.0)
    _, events = train(job)
    model, tokenizer = trained_jobs.base(job)
    total, count = 0.0, 0
    first = next(e.values["loss"] for e in events if isinstance(e, Metric) and e.split == "train")
    for row in job.data.rows:  # the 8 rows of the tiny table are one batch
        prompt = encode_prompt(tokenizer, row["prompt"])
        answer = encode_completion(tokenizer, row["completion"], row["prompt"], end=True)
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0]
        picked = logits[len(prompt) - 1 : -1].log_softmax(-1)[range(len(answer)), answer]
        total, count = total - picked.sum().item(), count + len(answer)
    assert first == pytest.approx(total / count, rel=1e-4)


@pytest.mark.parametrize(("architecture", "task"), [("bert", "classification"), *CASES[3:]])
def test_accumulated_batches_learn_what_one_large_batch_does(architecture, task, tmp_path):
    """transformers hands classifiers a count of items that their loss ignores: gradients would be k times too large."""
    found = []
    for size, accumulated in ((8, 1), (2, 4)):
        settings = {"batch_size": size, "gradient_accumulation_steps": accumulated, "max_grad_norm": 0}
        outcome, events = train(make_job(architecture, task, tmp_path / str(size), **settings))
        norms = [e.values["grad_norm"] for e in events if isinstance(e, Metric) and "grad_norm" in e.values]
        found.append((norms, outcome.metrics["loss"]))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-3)
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-4)


def test_the_same_seed_gives_the_same_figures_and_another_does_not(tmp_path):
    from dataclasses import replace

    def figures(name, seed):
        job = replace(make_job("bert", "classification", tmp_path / name), seed=seed)
        return train(job)[0].metrics

    assert figures("a", 0) == figures("b", 0)
    assert figures("c", 0) != figures("d", 1)


def test_a_text_row_ends_with_eos_where_the_tokenizer_has_one():
    tokenizer = pretrained.load_tokenizer(model_names.resolve(str(tiny_models.folder("gpt2"))))
    rows = Examples("text", ({"text": "The dog"}, {"text": "The dog" + tokenizer.eos_token}))
    plain = tokenizer("The dog")["input_ids"]
    ended = [*plain, tokenizer.eos_token_id]
    assert [row["input_ids"] for row in encode(rows, tokenizer, None, 64).rows] == [ended, ended]
    tokenizer.eos_token = None
    assert encode(rows, tokenizer, None, 64).rows[0]["input_ids"] == plain


def test_rows_over_the_limit_are_cut_and_counted(tmp_path):
    job = make_job("bert", "classification", tmp_path, max_length=8, max_steps=1)
    _, events = train(job)
    notices = [e.text for e in events if isinstance(e, Notice)]
    assert any("20 of 20 training rows were longer than 8 tokens" in text for text in notices)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target_modules": ["qproj"]}, ("no linear layer 'qproj'", "did you mean q_proj")),
        ({"target_modules": []}, ("target_modules is empty", "all-linear")),
        ({"r": 40}, ("a rank of 40", "use at most 16")),
    ],
)
def test_settings_that_the_model_cannot_satisfy_are_refused_before_weights_load(settings, words, tmp_path):
    job = make_job("llama", "generation", tmp_path, **settings)
    with pytest.raises(RequestError) as caught:
        Lora().estimate(job)
    for word in words:
        assert word in str(caught.value)
    assert not models._bases


def test_auto_targets_are_the_attentions_matrices():
    found = {}
    for architecture, chat in itertools.product((*ENCODERS, *DECODERS), [False]):
        head = "classification" if architecture in ENCODERS else "causal"
        model = pretrained.skeleton(
            model_names.resolve(str(tiny_models.folder(architecture, chat=chat))), head, ["a", "b"]
        )
        found[architecture] = targets(model, "auto", 4)[0]
    assert found == {
        "bert": ["query", "value"],
        "distilbert": ["q_lin", "v_lin"],
        "roberta": ["query", "value"],
        "gpt2": ["c_attn"],
        "llama": ["q_proj", "v_proj"],
        "qwen2": ["q_proj", "v_proj"],
    }


@pytest.mark.parametrize("model_type", ["modernbert", "phi3", "smollm3", "deberta-v2", "gpt_neox", "t5", "gemma3_text"])
def test_architectures_where_pefts_defaults_fail_get_targets_too(model_type):
    """Config defaults on the meta device: no weights, whatever the size."""
    from transformers import AutoConfig, AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(model_type))
    chosen, _ = targets(model, "auto", 4)
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=chosen))
    assert adapted.get_nb_trainable_parameters()[0] > 0


@pytest.mark.parametrize("kind", ["peft", "merged"])
@pytest.mark.parametrize(
    ("architecture", "task", "dtype", "settings"),
    [
        ("llama", "classification", "float32", {}),
        ("llama", "generation", "float32", {"rslora": True}),
        ("gpt2", "generation", "float32", {"dora": True}),
        ("bert", "classification", "float32", {"init": "pissa"}),
        ("t5", "classification", "float32", {}),
        ("llama", "generation", "bfloat16", {}),
    ],
)
def test_exports_give_the_same_logits_as_the_run(kind, architecture, task, dtype, settings, tmp_path):
    import peft
    import transformers

    job = make_job(architecture, task, tmp_path / "run", dtype=dtype, r=4, max_steps=3, learning_rate=0.05, **settings)
    outcome, _ = train(job)
    target = tmp_path / "export"
    target.mkdir()
    Lora().export(kind, outcome, job, target)
    auto = "ModelForSequenceClassification" if task == "classification" else "ModelForCausalLM"
    auto = getattr(peft, f"AutoPeft{auto}") if kind == "peft" else getattr(transformers, f"Auto{auto}")
    exported = auto.from_pretrained(target, dtype=getattr(torch, dtype)).eval()
    ours = Lora().load(outcome, job)
    ids = ours.tokenizer(["The film was great."], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        found, expected = exported(ids).logits.float(), ours.model(ids).logits.float()
        for name, parameter in ours.model.named_parameters():
            if "lora_A" in name:
                parameter.zero_()
        without = ours.model(ids).logits.float()
    noise = {"float32": 1e-5, "bfloat16": 1e-2}[dtype] * float(expected.abs().max())
    assert float((found - expected).abs().max()) < noise
    assert float((without - expected).abs().max()) > 10 * noise, "the adapter does too little to tell"
    if kind == "merged" and task == "classification":
        assert json.loads((target / "config.json").read_text())["id2label"] == {"0": "negative", "1": "positive"}


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_a_stop_in_the_last_evaluation_loses_nothing(architecture, tmp_path):
    """The run that goes on from there trains no further step, and ends with the figures of an unbroken one."""
    from dataclasses import replace

    from nbadapt import store

    task = "classification" if architecture == "bert" else "generation"
    whole, _ = train(make_job(architecture, task, tmp_path / "whole", dropout=0.1))
    job = make_job(architecture, task, tmp_path / "broken", dropout=0.1)
    told: list[object] = []

    def stop_at_the_end(event: object) -> None:
        told.append(event)
        last = next((e for e in reversed(told) if isinstance(e, Progress)), None)
        if event == Stage("evaluating") and last is not None and last.step == last.total:
            raise Stopped

    stopped = Lora().run(job, stop_at_the_end)
    assert stopped.artifacts
    events: list[object] = []
    outcome = Lora().run(replace(job, checkpoint=store.last_checkpoint(job.directory)), events.append)
    assert not [e for e in events if isinstance(e, Progress)]
    for name in whole.metrics.keys() - {"train_loss"}:
        assert outcome.metrics[name] == pytest.approx(whole.metrics[name], rel=1e-5), name


@pytest.mark.parametrize(("task", "trusted"), [("classification", True), ("generation", False)])
def test_the_exported_script_names_any_model_and_trusts_as_the_run_did(task, trusted, tmp_path):
    job = make_job("llama", task, tmp_path / "run")
    name = 'C:\\Users\\me """ + {x}\nimport this'
    job = dataclasses.replace(job, model=dataclasses.replace(job.model, name=name, trust_remote_code=trusted))
    target = tmp_path / "export"
    target.mkdir()
    Lora().export("script", Outcome(artifacts={"adapter": "none"}), job, target)
    text = (target / "train.py").read_text("utf-8")
    script = ast.parse(text)
    assert repr(name) in text
    assert not any(isinstance(node, ast.Import) and node.names[0].name == "this" for node in ast.walk(script))
    loads = [
        node for node in ast.walk(script) if isinstance(node, ast.Call) and "from_pretrained" in ast.dump(node.func)
    ]
    assert len(loads) == 2, "the tokenizer and the model"
    for load in loads:
        assert ("trust_remote_code" in {keyword.arg for keyword in load.keywords}) is trusted
