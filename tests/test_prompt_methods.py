"""(IA)3, prompt tuning, P-tuning, prefix tuning and LLaMA-Adapter against closed forms, peft and the plain base."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nbadapt import models, pretrained, store
from nbadapt.engines import supervised
from nbadapt.engines.encoding import length_limit
from nbadapt.engines.generate import LanguageModel
from nbadapt.engines.tokens import encode_completion, encode_prompt
from nbadapt.engines.trainer import trained_tensors
from nbadapt.errors import RequestError, Stopped, UnsuitedError
from nbadapt.events import Metric, Notice, Parameters, Progress
from nbadapt.heads import head_modules
from nbadapt.method import Job
from nbadapt_plugins._linear_layers import linear_layers
from nbadapt_plugins._prompt_learning import start_text
from nbadapt_plugins._trained import adapted, load_base, skeleton
from nbadapt_plugins.ia3 import Ia3
from nbadapt_plugins.llama_adapter import LlamaAdapter
from nbadapt_plugins.p_tuning import PTuning
from nbadapt_plugins.prefix_tuning import PrefixTuning
from nbadapt_plugins.prompt_tuning import PromptTuning
from tests import trained_jobs
from tests.trained_jobs import DECODERS, ENCODERS

slow = pytest.mark.slow  # training; the conformance kit has every method in the quick tests too

VARIANTS = {  # method and settings, under a short name
    "ia3": (Ia3, {}),
    "prompt-tuning": (PromptTuning, {"num_virtual_tokens": 6}),
    "p-tuning": (PTuning, {"num_virtual_tokens": 6, "encoder_hidden_size": 20}),
    "p-tuning-lstm": (
        PTuning,
        {"num_virtual_tokens": 6, "encoder_reparameterization_type": "LSTM", "encoder_hidden_size": 20},
    ),
    "prefix-tuning": (PrefixTuning, {"num_virtual_tokens": 6}),
    "prefix-tuning-projection": (
        PrefixTuning,
        {"num_virtual_tokens": 6, "prefix_projection": True, "encoder_hidden_size": 24},
    ),
    "llama-adapter": (LlamaAdapter, {"adapter_len": 4, "adapter_layers": 2}),
}
VIRTUAL = ("prompt-tuning", "p-tuning", "p-tuning-lstm", "prefix-tuning", "prefix-tuning-projection")
STARTED = ("prompt-tuning", "prefix-tuning", "prefix-tuning-projection")


def works(variant: str, architecture: str, task: str) -> bool:
    method = VARIANTS[variant][0]
    if architecture in ENCODERS and task != "classification":
        return False
    if method is LlamaAdapter:
        return task != "classification" and architecture in {"gpt2", "llama"}
    return not (method is PrefixTuning and architecture == "distilbert")


CASES = [
    (variant, architecture, task)
    for variant in VARIANTS
    for task in ("classification", "generation")
    for architecture in (*ENCODERS, *DECODERS)
    if works(variant, architecture, task)
]
GENERATING = [(variant, architecture) for variant, architecture, task in CASES if task == "generation"]
LIGHT = [  # one of each method, architectures mixed
    ("ia3", "bert", "classification"),
    ("prompt-tuning", "llama", "classification"),
    ("p-tuning", "roberta", "classification"),
    ("p-tuning-lstm", "gpt2", "generation"),
    ("prefix-tuning", "bert", "classification"),
    ("prefix-tuning-projection", "qwen2", "generation"),
    ("llama-adapter", "llama", "generation"),
]


@pytest.fixture(autouse=True)
def _forget_bases():
    yield
    models.free()


def make_job(variant: str, architecture: str, task: str, directory: Path, **settings) -> Job:
    method, own = VARIANTS[variant]
    given = {"learning_rate": method.Config().learning_rate, **own, **settings}
    return trained_jobs.make_job(method, architecture, task, directory, **given)


def run(job: Job, variant: str):
    return trained_jobs.train(VARIANTS[variant][0], job)


def attached(job: Job, variant: str):
    base, tokenizer = load_base(job)
    return VARIANTS[variant][0]().attach(base, job).eval(), tokenizer


def start_ids(job: Job, tokenizer) -> list[int]:
    """The start text's tokens, over and over."""
    count = job.config.num_virtual_tokens
    return (tokenizer(start_text(job.config, job))["input_ids"] * count)[:count]


def closed_form(variant: str, model, config) -> int:
    """Trained parameters without a classification head, as the method's docstring has them."""
    text = model.config
    layers, width = text.num_hidden_layers, text.hidden_size
    keys = width // text.num_attention_heads * getattr(text, "num_key_value_heads", text.num_attention_heads)
    virtual = getattr(config, "num_virtual_tokens", 0)
    inner = getattr(config, "encoder_hidden_size", None)
    if variant == "ia3":
        feedforward = getattr(text, "intermediate_size", None) or getattr(text, "hidden_dim", None) or 4 * width
        attention = 3 * width if text.model_type == "gpt2" else 2 * keys
        return layers * (attention + feedforward)
    if variant == "llama-adapter":
        return 2 * (4 * width + 1)
    if variant == "prompt-tuning":
        return virtual * width
    if variant == "p-tuning":
        return virtual * width + (width * inner + inner) + (inner * inner + inner) + (inner * width + width)
    if variant == "p-tuning-lstm":
        lstm = 8 * inner * (width + inner + 2) + 8 * inner * (3 * inner + 2)
        return virtual * width + lstm + (4 * inner * inner + 2 * inner) + (2 * inner * width + width)
    if variant == "prefix-tuning":
        return virtual * 2 * layers * keys
    out = 2 * layers * keys
    return virtual * keys + (keys * inner + inner) + (inner * out + out)


@pytest.mark.parametrize(("variant", "architecture", "task"), CASES)
def test_parameters_equal_the_closed_form_and_pefts_own_count(variant, architecture, task, tmp_path):
    job = make_job(variant, architecture, task, tmp_path)
    estimate = VARIANTS[variant][0]().estimate(job)
    bare = skeleton(job)
    heads = head_modules(bare) if task == "classification" else []
    head = sum(p.numel() for name in heads for p in bare.get_submodule(name).parameters())
    assert estimate.trainable == closed_form(variant, bare, job.config) + head
    trainable, _ = attached(job, variant)[0].get_nb_trainable_parameters()
    assert trainable == estimate.trainable


@slow
@pytest.mark.parametrize(("variant", "architecture", "task"), CASES)
def test_training_changes_all_that_is_trained_and_nothing_else(variant, architecture, task, tmp_path):
    job = make_job(variant, architecture, task, tmp_path)
    frozen = {n: p.detach().clone() for n, p in load_base(job)[0].named_parameters() if not p.requires_grad}
    model, tokenizer = attached(job, variant)
    before = {n: t.clone() for n, t in trained_tensors(model).items()}
    events = []
    metrics = supervised.train(model, tokenizer, job, events.append, adapted(model, tokenizer, job))
    for name, tensor in trained_tensors(model).items():
        assert not torch.equal(tensor, before[name]), name
        assert tensor.dtype == torch.float32, name
    for name, parameter in load_base(job)[0].named_parameters():
        assert name not in frozen or torch.equal(parameter, frozen[name]), name
    told = next(e for e in events if isinstance(e, Parameters))
    estimate = VARIANTS[variant][0]().estimate(job)
    assert (told.trainable, told.total) == (estimate.trainable, estimate.total)
    losses = [e.values["loss"] for e in events if isinstance(e, Metric) and e.split == "train"]
    assert len(losses) == len([e for e in events if isinstance(e, Progress)]) == estimate.steps
    assert metrics["loss"] > 0


@slow
@pytest.mark.parametrize(("variant", "architecture", "task"), CASES)
def test_plain_peft_loads_the_result_and_gives_the_same_logits(variant, architecture, task, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    job = make_job(variant, architecture, task, tmp_path, max_steps=3)
    method = VARIANTS[variant][0]()
    outcome, _ = run(job, variant)
    ours = method.load(outcome, job)
    if task == "classification":
        base = AutoModelForSequenceClassification.from_pretrained(job.model.path, num_labels=2, dtype=torch.float32)
        base.config.pad_token_id = ours.tokenizer.pad_token_id
    else:
        base = AutoModelForCausalLM.from_pretrained(job.model.path, dtype=torch.float32)
    plain = PeftModel.from_pretrained(base, job.directory / outcome.artifacts["adapter"]).eval()
    ids = ours.tokenizer(["The film was great."], return_tensors="pt")["input_ids"]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        torch.testing.assert_close(ours.model(**inputs).logits, plain(**inputs).logits)


@slow
@pytest.mark.parametrize(("variant", "architecture", "task"), [c for c in CASES if c[0] in {"ia3", "llama-adapter"}])
def test_at_the_start_the_adapted_model_equals_the_base(variant, architecture, task, tmp_path):
    job = make_job(variant, architecture, task, tmp_path)
    base, tokenizer = load_base(job)
    ids = tokenizer(["What is the capital"], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = base(ids).logits
        torch.testing.assert_close(attached(job, variant)[0](ids).logits, expected)


@slow
@pytest.mark.parametrize(
    ("variant", "architecture", "task"), [c for c in CASES if c[0] in STARTED and c[1] in DECODERS]
)
@pytest.mark.parametrize("init_text", [None, "Translate English to German."])
def test_at_the_start_virtual_tokens_are_that_text_before_the_input(variant, architecture, task, init_text, tmp_path):
    job = make_job(variant, architecture, task, tmp_path, init_text=init_text)
    model, tokenizer = attached(job, variant)
    base, _ = load_base(job)
    ids = tokenizer(["What is the capital"], return_tensors="pt")["input_ids"]
    before = torch.tensor([start_ids(job, tokenizer)])
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        expected = base(torch.cat([before, ids], dim=1)).logits
    length = slice(None) if task == "classification" else slice(-ids.shape[1], None)
    torch.testing.assert_close(found[:, length], expected[:, length], rtol=1e-4, atol=1e-5)


@slow
@pytest.mark.parametrize(("inner", "virtual"), [(4, 6), (8, 6), (None, 40)])
def test_a_projection_too_narrow_for_its_start_is_told(inner, virtual, tmp_path):
    """The tiny llama's keys are 16 wide, which is the inner size where none is asked for."""
    settings = {"num_virtual_tokens": virtual, "encoder_hidden_size": inner}
    job = make_job("prefix-tuning-projection", "llama", "generation", tmp_path, **settings)
    told = [note for note in PrefixTuning().estimate(job).notes if "encoder_hidden_size" in note]
    model, tokenizer = attached(job, "prefix-tuning-projection")
    ids = tokenizer(["What is the capital"], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        asked = torch.cat([torch.tensor([start_ids(job, tokenizer)]), ids], dim=1)
        expected = load_base(job)[0](asked).logits[:, -ids.shape[1] :]
    exact = torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert len(told) == (not exact) == ((inner or 16) < virtual)
    random = replace(job, config=job.config.model_copy(update={"init": "random"}))
    assert not PrefixTuning().estimate(random).notes


@slow
@pytest.mark.parametrize("architecture", ENCODERS)
def test_an_encoder_with_a_soft_prompt_is_the_base_with_that_text_before_the_input(architecture, tmp_path):
    job = make_job("prompt-tuning", architecture, "classification", tmp_path)
    model, tokenizer = attached(job, "prompt-tuning")
    base, _ = load_base(job)
    ids = tokenizer(["What is the capital"], return_tensors="pt")["input_ids"]
    before = torch.tensor([start_ids(job, tokenizer)])
    assert before[0, 0] == tokenizer.cls_token_id  # the classifier reads the first position
    with torch.no_grad():
        expected = base(torch.cat([before, ids], dim=1)).logits
        torch.testing.assert_close(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits, expected)


@slow
@pytest.mark.parametrize("variant", ["prefix-tuning", "prefix-tuning-projection"])
@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_an_encoders_prefix_starts_as_the_keys_and_values_of_the_text(architecture, variant, tmp_path):
    job = make_job(variant, architecture, "classification", tmp_path)
    model, tokenizer = attached(job, variant)
    base, _ = load_base(job)
    seen = {}
    for number, block in enumerate(base.base_model.encoder.layer):
        for name in ("key", "value"):
            layer = getattr(block.attention.self, name)
            layer.register_forward_hook(lambda _m, _i, out, at=(number, name): seen.update({at: out[0]}))
    with torch.no_grad():
        base(torch.tensor([start_ids(job, tokenizer)]))
        given = model.prompt_encoder["default"](torch.arange(job.config.num_virtual_tokens))
    expected = [seen[number, name] for number in range(base.config.num_hidden_layers) for name in ("key", "value")]
    torch.testing.assert_close(given, torch.cat(expected, dim=-1), rtol=1e-4, atol=1e-5)


@slow
@pytest.mark.parametrize("variant", STARTED)
def test_another_start_is_drawn_from_the_vocabulary_by_the_seed(variant, tmp_path):
    def start(seed, init="vocab"):
        job = replace(make_job(variant, "llama", "generation", tmp_path, init=init), seed=seed)
        model, _ = attached(job, variant)
        return model.get_prompt(1) if variant == "prompt-tuning" else model.get_prompt(1).layers[1].values

    torch.testing.assert_close(start(0), start(0))
    assert not torch.allclose(start(0), start(1))
    assert not torch.allclose(start(0), start(0, init="random"))
    if variant == "prompt-tuning":
        table = load_base(make_job(variant, "llama", "generation", tmp_path))[0].get_input_embeddings().weight
        assert all((table == row).all(dim=1).any() for row in start(0)[0])


@slow
@pytest.mark.parametrize(("variant", "architecture", "task"), [c for c in CASES if c[2] == "classification"])
def test_padding_changes_no_class(variant, architecture, task, tmp_path):
    job = make_job(variant, architecture, task, tmp_path)
    model, tokenizer = attached(job, variant)
    texts = ["dull", "The film was a wonderful surprise and the actors were great."]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        together = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        for text, logits in zip(texts, together, strict=True):
            alone = tokenizer([text], return_tensors="pt")
            expected = model(input_ids=alone["input_ids"], attention_mask=alone["attention_mask"]).logits[0]
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


@slow
@pytest.mark.parametrize("architecture", DECODERS)
@pytest.mark.parametrize("variant", STARTED)
def test_the_first_loss_is_that_of_the_base_with_the_text_before_the_rows(variant, architecture, tmp_path):
    """Cross-entropy at the completions' tokens, computed row by row with plain PyTorch."""
    job = make_job(variant, architecture, "generation", tmp_path, max_steps=1, batch_size=8)
    _, events = run(job, variant)
    base, tokenizer = load_base(job)
    before = start_ids(job, tokenizer)
    total, count = 0.0, 0
    for row in job.data.rows:  # the 8 rows are one batch
        prompt = encode_prompt(tokenizer, row["prompt"])
        answer = encode_completion(tokenizer, row["completion"], row["prompt"], end=True)
        with torch.no_grad():
            logits = base(torch.tensor([before + prompt + answer])).logits[0]
        picked = logits[-len(answer) - 1 : -1].log_softmax(-1)[range(len(answer)), answer]
        total, count = total - picked.sum().item(), count + len(answer)
    first = next(e.values["loss"] for e in events if isinstance(e, Metric) and e.split == "train")
    assert first == pytest.approx(total / count, rel=1e-4)


def shaken(job: Job, variant: str):
    """The adapted model with every trained number moved, so that the adapter matters."""
    model, tokenizer = attached(job, variant)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model, tokenizer


def most_likely(model, ids: list[int], count: int) -> list[int]:
    """Greedy continuation by whole forwards, without a cache or padding."""
    ids = list(ids)
    for _ in range(count):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)).long()).logits
        ids.append(int(logits[0, -1].argmax()))
    return ids[-count:]


@slow
@pytest.mark.parametrize(("variant", "architecture"), GENERATING)
def test_generating_a_padded_batch_equals_whole_forwards_of_each_prompt(variant, architecture, tmp_path):
    job = make_job(variant, architecture, "generation", tmp_path)
    model, tokenizer = shaken(job, variant)
    language = LanguageModel(model, tokenizer)
    prompts = ["dog", "What is the capital of France? Paris. Translate", "The film was"]
    ids = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    expected = [most_likely(model, row, 6) for row in ids]
    made = []
    decode = tokenizer.decode
    tokenizer.decode = lambda row, **_: made.append(list(row)) or decode(row)
    language.generate(prompts, max_new_tokens=6)
    ends = set(language.ends())
    short = [row[: next((i for i, t in enumerate(row) if t in ends), len(row))] for row in expected]
    assert sorted(made) == sorted(short)


@slow
@pytest.mark.parametrize(("variant", "architecture"), GENERATING)
def test_scores_equal_whole_forwards_of_each_pair(variant, architecture, tmp_path):
    job = make_job(variant, architecture, "generation", tmp_path)
    model, tokenizer = shaken(job, variant)
    prompts, answers = ["dog", "What is the capital of France?"], ["Hund", "Paris it is"]
    found = LanguageModel(model, tokenizer).score(prompts, answers)
    for i, prompt in enumerate(prompts):
        for j, answer in enumerate(answers):
            start = encode_prompt(tokenizer, prompt)
            ids = encode_completion(tokenizer, answer, prompt, end=False)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([start + ids])).logits[0]
            steps = logits[-len(ids) - 1 : -1].log_softmax(-1)
            assert found[i, j] == pytest.approx(steps[range(len(ids)), ids].sum().item(), rel=1e-4)


@slow
@pytest.mark.parametrize(("variant", "architecture", "task"), LIGHT)
def test_stopped_and_resumed_equals_an_unbroken_run(variant, architecture, task, tmp_path):
    from safetensors.torch import load_file

    whole, _ = run(make_job(variant, architecture, task, tmp_path / "whole"), variant)
    job = make_job(variant, architecture, task, tmp_path / "broken")

    def stop_in_the_middle(event: object) -> None:
        if isinstance(event, Progress) and event.step == 2:
            raise Stopped

    VARIANTS[variant][0]().run(job, stop_in_the_middle)
    outcome, events = run(replace(job, checkpoint=store.last_checkpoint(job.directory)), variant)
    assert next(e for e in events if isinstance(e, Progress)).step == 3
    for name, figure in whole.metrics.items():
        assert outcome.metrics[name] == pytest.approx(figure, rel=1e-5), name
    stored = [load_file(tmp_path / d / "artifacts/adapter/adapter_model.safetensors") for d in ("whole", "broken")]
    for name, tensor in stored[0].items():
        torch.testing.assert_close(stored[1][name], tensor)


@slow
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "roberta", "distilbert", "llama"])
def test_virtual_tokens_and_text_fit_the_models_positions(architecture, tmp_path):
    """Rows longer than the context are cut so that the virtual tokens have room."""
    variant = "prefix-tuning" if architecture in {"bert", "gpt2"} else "prompt-tuning"
    job = make_job(variant, architecture, "classification", tmp_path, max_steps=1, num_virtual_tokens=30, batch_size=2)
    rows = tuple({"text": "good film " * 400, "label": label} for label in ("negative", "positive"))
    job = replace(job, data=replace(job.data, rows=rows), evaluation=replace(job.evaluation, rows=rows))
    outcome, events = run(job, variant)
    text = pretrained.read_config(job.model)
    limit = length_limit(text, None) - 30
    assert any(f"longer than {limit} tokens" in e.text for e in events if isinstance(e, Notice))
    assert len(VARIANTS[variant][0]().load(outcome, job).predict([rows[0]["text"]])) == 1


@slow
def test_a_generator_leaves_room_for_its_virtual_tokens(tmp_path):
    job = make_job("prompt-tuning", "gpt2", "generation", tmp_path)
    model, tokenizer = attached(job, "prompt-tuning")
    language = LanguageModel(model, tokenizer)
    assert language.context == 512 - 6
    prompt = "good film " * 300
    while len(encode_prompt(tokenizer, prompt)) > 500:
        prompt = prompt[:-1]
    assert len(language.generate([prompt], max_new_tokens=40)) == 1


@pytest.mark.parametrize(
    ("variant", "architecture", "task", "settings", "words"),
    [
        (
            "prefix-tuning",
            "distilbert",
            "classification",
            {},
            ("prefix-tuning does not work with distilbert", "no keys and values"),
        ),
        (
            "llama-adapter",
            "qwen2",
            "generation",
            {},
            ("llama-adapter does not work with qwen2", "llama, mistral, gpt2"),
        ),
        ("llama-adapter", "llama", "generation", {"adapter_layers": 3}, ("adapter_layers: 3", "use at most 2")),
        ("prompt-tuning", "bert", "classification", {"num_virtual_tokens": 505}, ("505", "use at most 504")),
        ("p-tuning", "gpt2", "generation", {"num_virtual_tokens": 600}, ("600", "512 positions", "use at most 504")),
        ("prefix-tuning", "llama", "generation", {"num_virtual_tokens": 512}, ("use at most 504",)),
        (
            "ia3",
            "llama",
            "generation",
            {"target_modules": ["kproj"]},
            ("no linear layer 'kproj'", "did you mean k_proj"),
        ),
        ("prompt-tuning", "llama", "generation", {"init": "vocab", "init_text": "a"}, ("init_text", "init is vocab")),
        ("p-tuning", "llama", "generation", {"encoder_dropout": 0.1}, ("encoder_dropout belongs to the LSTM",)),
        ("prefix-tuning", "llama", "generation", {"encoder_hidden_size": 9}, ("add prefix_projection: true",)),
        ("ia3", "llama", "generation", {"feedforward_modules": ["up_proj"]}, ("feedforward_modules: 'up_proj'",)),
    ],
)
def test_what_a_model_cannot_do_is_refused_before_weights_load(variant, architecture, task, settings, words, tmp_path):
    job = make_job(variant, architecture, task, tmp_path, **settings)
    with pytest.raises((RequestError, UnsuitedError)) as caught:
        VARIANTS[variant][0]().estimate(job)
    for word in words:
        assert word in str(caught.value)
    assert not models._bases


@slow
@pytest.mark.parametrize("architecture", [*ENCODERS, *DECODERS])
def test_ia3_scales_keys_values_and_the_feedforwards_inner_activations(architecture, tmp_path):
    task = "classification" if architecture in ENCODERS else "generation"
    model, _ = attached(make_job("ia3", architecture, task, tmp_path), "ia3")
    found = {name.split("base_model.model.")[1]: m for name, m in model.named_modules() if hasattr(m, "ia3_l")}
    inputs = {name for name, m in found.items() if m.is_feedforward}
    in_a_block = 2 if architecture == "gpt2" else 3
    assert len(found) == 2 * in_a_block
    assert len(inputs) == 2
    assert not any("attention" in name or "attn" in name for name in inputs)
    sizes = linear_layers(load_base(make_job("ia3", architecture, task, tmp_path))[0])
    for name in inputs:  # the matrix whose input is the widest
        assert sizes[name][0] == max(inside for inside, _ in sizes.values())


@slow
@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"target_modules": "all-linear"}, 2 * (32 + 16 + 16 + 32 + 64 + 64 + 64)),  # the last: down_proj's inputs
        ({"target_modules": ["q_proj"]}, 2 * 32),
        ({"target_modules": ["up_proj", "down_proj"], "feedforward_modules": ["up_proj"]}, 2 * (32 + 32)),
    ],
)
def test_ia3_scales_what_it_is_told_to(settings, count, tmp_path):
    job = make_job("ia3", "llama", "generation", tmp_path, **settings)
    assert Ia3().estimate(job).trainable == count


@slow
@pytest.mark.parametrize(
    ("architecture", "task"),
    [*((a, "classification") for a in ("bert", "roberta", "llama", "t5")), ("gpt2", "generation")],
)
def test_merged_ia3_equals_unmerged(architecture, task, tmp_path):
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    job = make_job("ia3", architecture, task, tmp_path / "run", learning_rate=0.1)
    outcome, _ = run(job, "ia3")
    (tmp_path / "merged").mkdir()
    Ia3().export("merged", outcome, job, tmp_path / "merged")
    auto = AutoModelForSequenceClassification if task == "classification" else AutoModelForCausalLM
    merged = auto.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    ours = Ia3().load(outcome, job)
    ids = ours.tokenizer(["The film was great."], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, ours.model(ids).logits, rtol=1e-4, atol=1e-5)


@slow
@pytest.mark.parametrize(("variant", "architecture", "task"), LIGHT)
def test_a_bfloat16_base_is_adapted_by_float32_numbers(variant, architecture, task, tmp_path):
    from safetensors.torch import load_file

    job = make_job(variant, architecture, task, tmp_path, dtype="bfloat16")
    model, _ = attached(job, variant)
    assert {tensor.dtype for tensor in trained_tensors(model).values()} == {torch.float32}
    outcome, _ = run(job, variant)
    stored = load_file(tmp_path / outcome.artifacts["adapter"] / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    ours = VARIANTS[variant][0]().load(outcome, job)
    assert len(ours.predict(["dull", "great"], ["negative", "positive"])) == 2


@slow
@pytest.mark.parametrize(("variant", "architecture", "task"), [c for c in LIGHT if c[0] != "llama-adapter"])
def test_the_exported_script_reaches_the_runs_loss(variant, architecture, task, tmp_path):
    job = make_job(variant, architecture, task, tmp_path / "run")
    outcome, _ = run(job, variant)
    target = tmp_path / "script"
    target.mkdir()
    VARIANTS[variant][0]().export("script", outcome, job, target)
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=target, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    loss = next(line for line in reversed(done.stdout.splitlines()) if line.startswith("loss "))
    assert float(loss.split()[1]) == pytest.approx(outcome.metrics["loss"], rel=1e-4)
