"""QLoRA against bitsandbytes, LoRA and plain peft, on tiny models."""

from __future__ import annotations

import functools
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from nbadapt import model_names, models, pretrained, store
from nbadapt.engines import supervised
from nbadapt.engines.trainer import TRAINED
from nbadapt.errors import Stopped
from nbadapt.events import Metric, Notice, Parameters, Progress
from nbadapt_plugins.lora import Lora
from nbadapt_plugins.qlora import Qlora
from tests import trained_jobs

pytestmark = pytest.mark.slow  # the conformance kit has every method in the quick tests too

bitsandbytes = pytest.importorskip("bitsandbytes")

make_job = functools.partial(trained_jobs.make_job, Qlora, learning_rate=Qlora.Config().learning_rate)
train = functools.partial(trained_jobs.train, Qlora)
CASES = [("bert", "classification"), ("llama", "classification"), ("llama", "generation"), ("gpt2", "generation")]


@pytest.fixture(autouse=True)
def _forget_bases():
    yield
    models.free()


def quantised(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {n: m.weight.detach().clone() for n, m in model.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)}


@pytest.mark.parametrize(("architecture", "task"), CASES)
def test_the_base_is_in_4_bits_and_stays_as_it_was(architecture, task, tmp_path):
    job = make_job(architecture, task, tmp_path)
    before = quantised(Qlora().load_base(job)[0])
    assert before
    assert all(weight.dtype == torch.uint8 for weight in before.values())
    outcome, events = train(job)
    after = quantised(Qlora().load_base(job)[0])
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    estimate, told = Qlora().estimate(job), next(e for e in events if isinstance(e, Parameters))
    lora = Lora().estimate(replace(job, config=Lora.Config()))
    assert (told.trainable, told.total) == (estimate.trainable, estimate.total) == (lora.trainable, lora.total)
    assert outcome.metrics["loss"] > 0


@pytest.mark.parametrize(("architecture", "task"), CASES)
@pytest.mark.parametrize("init", ["kaiming", "gaussian"])
def test_at_the_start_the_adapted_model_equals_the_base_in_4_bits(init, architecture, task, tmp_path):
    job = make_job(architecture, task, tmp_path, init=init)
    model, tokenizer = Qlora().load_base(job)
    expected = trained_jobs.last_hidden(model, tokenizer)
    whole = trained_jobs.last_hidden(*trained_jobs.base(job))
    assert (whole - expected).abs().max() > 1e-4, "the base is not quantised"
    adapted = Qlora().attach(model, job).eval()
    torch.testing.assert_close(trained_jobs.last_hidden(adapted, tokenizer), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_weights_are_quantised_and_multiplied_as_the_settings_say(kind, double, dtype, tmp_path):
    """Each matrix is what bitsandbytes itself makes of it, and products are computed in the run's type."""
    job = replace(make_job("llama", "generation", tmp_path, quant_type=kind, double_quant=double), dtype=dtype)
    layers = {n: m for n, m in Qlora().load_base(job)[0].named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)}
    whole = pretrained.read_weights(job.model, "causal", "cpu", dtype)
    assert layers
    for name, layer in layers.items():
        state = layer.weight.quant_state
        assert (layer.compute_dtype, state.quant_type, state.nested) == (getattr(torch, dtype), kind, double)
        weight = whole.get_submodule(name).weight
        packed, own = bitsandbytes.functional.quantize_4bit(
            weight.data, quant_type=kind, compress_statistics=double, blocksize=state.blocksize
        )
        expected = bitsandbytes.functional.dequantize_4bit(packed, own)
        found = bitsandbytes.functional.dequantize_4bit(layer.weight.data, state)
        torch.testing.assert_close(found.view_as(expected), expected)


@pytest.mark.parametrize(("device", "paged"), [("cuda", True), ("cuda:1", True), ("cuda", False), ("cpu", True)])
def test_the_optimizer_is_paged_on_cuda_alone(device, paged, tmp_path):
    """What the Trainer is told, and the class that LoRA+ and estimates take, are the same optimizer."""
    from bitsandbytes.optim import PagedAdamW32bit
    from transformers import Trainer, TrainingArguments

    job = replace(make_job("llama", "generation", tmp_path, paged_optimizer=paged), device=device)
    told = supervised.trainer_arguments(job, 12)["optim"]
    kind, _ = supervised.optimizer_class(job)
    assert kind is (PagedAdamW32bit if paged and device != "cpu" else torch.optim.AdamW)
    theirs, given = Trainer.get_optimizer_cls_and_kwargs(TrainingArguments(str(tmp_path), optim=told, use_cpu=True))
    if kind is PagedAdamW32bit:
        assert (theirs, given["is_paged"], given["optim_bits"]) == (bitsandbytes.optim.AdamW, True, 32)
    else:
        assert theirs is torch.optim.AdamW


def test_the_predicted_weights_are_those_in_memory(tmp_path):
    for double in (True, False):
        job = make_job("llama", "generation", tmp_path, double_quant=double)
        model, _ = Qlora().load_base(job)
        size = sum(p.nbytes for p in model.parameters() if getattr(p, "quant_state", None) is None)
        for module in model.modules():
            if isinstance(module, bitsandbytes.nn.Linear4bit):
                state = module.weight.quant_state
                size += module.weight.nbytes + state.absmax.nbytes
                size += state.state2.absmax.nbytes if double else 0
        assert Qlora().estimate(job).memory["weights"] == pytest.approx(size, rel=0.02)
        models.free()


@pytest.mark.parametrize(("architecture", "task"), CASES)
def test_every_tensor_learns_also_after_an_evaluation(architecture, task, tmp_path):
    """An evaluation in bitsandbytes 0.50 repacks bfloat16 weights on a CPU for a kernel without gradients."""
    job = make_job(architecture, task, tmp_path, max_steps=8, eval_steps=2, save_steps=4)
    job = replace(job, dtype="bfloat16")
    outcome, events = train(job)
    assert not [e.text for e in events if isinstance(e, Notice) and "gradient" in e.text]
    halfway = load_file(tmp_path / "checkpoints" / "checkpoint-4" / TRAINED)
    final = load_file(tmp_path / outcome.artifacts["adapter"] / "adapter_model.safetensors")
    assert len(halfway) == len(final)
    for name, tensor in halfway.items():
        stored = name.replace(".default", "").replace(".modules_to_save", "")
        assert not torch.equal(tensor, final[stored]), name


def test_tensors_without_a_gradient_are_named(tmp_path, monkeypatch):
    job = make_job("llama", "generation", tmp_path, max_steps=5)
    original = Qlora.attach

    def cut(self: Qlora, model, job):
        model = original(self, model, job)
        layer = next(m for m in model.modules() if hasattr(m, "lora_A"))
        layer.register_forward_hook(lambda _module, _inputs, output: output.detach())
        return model

    monkeypatch.setattr(Qlora, "attach", cut)
    _, events = train(job)
    (notice,) = [e for e in events if isinstance(e, Notice) and "gradient" in e.text]
    assert notice.level == "warning"
    assert "lora_A" in notice.text


@pytest.mark.parametrize(("architecture", "task"), CASES)
def test_stored_loaded_and_resumed(architecture, task, tmp_path):
    job = make_job(architecture, task, tmp_path / "whole", dropout=0.1)
    whole, _ = train(job)
    broken = replace(job, directory=tmp_path / "broken")

    def stop(event: object) -> None:
        if isinstance(event, Progress) and event.step == 3:
            raise Stopped

    Qlora().run(broken, stop)
    resumed, _ = train(replace(broken, checkpoint=store.last_checkpoint(broken.directory)))
    assert resumed.metrics["loss"] == pytest.approx(whole.metrics["loss"], rel=1e-4)
    ours = Qlora().load(whole, job)
    batch = ours.tokenizer(["The film was great.", "dull"], return_tensors="pt", padding=True)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    from peft import PeftModel

    plain = PeftModel.from_pretrained(Qlora().load_base(job)[0], job.directory / whole.artifacts["adapter"]).eval()
    with torch.no_grad():
        torch.testing.assert_close(ours.model(**inputs).logits, plain(**inputs).logits)


@pytest.mark.parametrize("task", ["classification", "generation"])
@pytest.mark.parametrize(("stored", "computed"), [("float32", "bfloat16"), ("bfloat16", "float32")])
@pytest.mark.parametrize("method", [Lora, Qlora])
def test_it_merges_into_the_type_of_the_bases_files(method, stored, computed, task, tmp_path):
    """Whatever the run computes in, and beside the base that peft itself reads from those files."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    auto = AutoModelForSequenceClassification if task == "classification" else AutoModelForCausalLM
    job = trained_jobs.make_job(method, "llama", task, tmp_path / "run", learning_rate=1e-2)
    shutil.copytree(job.model.path, tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(tmp_path / "base").to(getattr(torch, stored)).save_pretrained(
        tmp_path / "base"
    )
    job = replace(job, model=model_names.resolve(str(tmp_path / "base")), dtype=computed)
    outcome, events = trained_jobs.train(method, job)
    assert [e for e in events if isinstance(e, Metric)]
    held = set(models.loaded(job.model))
    target = tmp_path / "merged"
    target.mkdir()
    method().export("merged", outcome, job, target)
    assert set(models.loaded(job.model)) == held  # what the merge read is let go
    weights = load_file(target / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {getattr(torch, stored)}
    kinds = {"num_labels": 2} if task == "classification" else {}
    plain = auto.from_pretrained(job.model.path, dtype=torch.float32, **kinds)
    unmerged = PeftModel.from_pretrained(plain, tmp_path / "run" / outcome.artifacts["adapter"]).eval()
    merged = auto.from_pretrained(target, dtype=torch.float32).eval()
    ids = torch.arange(5, 21)[None]
    close = {"rtol": 1e-4, "atol": 1e-5} if stored == "float32" else {"rtol": 0.05, "atol": 0.02}
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, unmerged(ids).logits, **close)
        found, expected = (model(ids, output_hidden_states=True).hidden_states[-1] for model in (merged, unmerged))
        with unmerged.disable_adapter():
            base = unmerged(ids, output_hidden_states=True).hidden_states[-1]
        noise, learned = (found - expected).abs().max(), (expected - base).abs().max()
        assert learned > max(0.05, 100 * noise), "the adapter does too little to tell"
