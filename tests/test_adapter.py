"""Bottleneck adapters against closed forms and a plain PyTorch block."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from nbadapt import models
from nbadapt.errors import RequestError
from nbadapt_plugins._bottleneck import Bottleneck
from nbadapt_plugins.adapter import Adapter
from tests.trained_jobs import CASES, TEXTS, base, last_hidden, logits, make_job, train

slow = pytest.mark.slow  # training; the conformance kit has every method in the quick tests too

WIDTH, BLOCKS, SIZE = 32, 2, 4
ONE = 2 * WIDTH * SIZE + SIZE + WIDTH
# Norms of the body: two a block, and the embeddings' or the last one; RMS norms have no bias.
NORMS = {name: (2 * BLOCKS + 1) * WIDTH * (1 if name in ("llama", "qwen2") else 2) for name, _ in CASES}


@pytest.fixture(autouse=True)
def _forget_bases():
    yield
    models.free()


def head_size(job) -> int:
    model, _ = base(job)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_one_adapter_from_1024_to_24_and_back_has_49_152_weights():
    adapter = Bottleneck(1024, 24, "gelu")
    sizes = {name: p.numel() for name, p in adapter.named_parameters()}
    assert sum(size for name, size in sizes.items() if name.endswith("weight")) == 49_152
    assert sum(size for name, size in sizes.items() if name.endswith("bias")) == 1024 + 24


@pytest.mark.parametrize(("architecture", "task"), CASES)
@pytest.mark.parametrize(("placement", "each"), [("houlsby", 2), ("pfeiffer", 1)])
@pytest.mark.parametrize("layer_norms", [True, False])
def test_parameters_equal_the_closed_form(architecture, task, placement, each, layer_norms, tmp_path):
    settings = {"bottleneck": SIZE, "placement": placement, "layer_norms": layer_norms}
    job = make_job(Adapter, architecture, task, tmp_path, **settings)
    expected = each * BLOCKS * ONE + (NORMS[architecture] if layer_norms else 0) + head_size(job)
    assert Adapter().estimate(job).trainable == expected


@slow
@pytest.mark.parametrize(("architecture", "task"), CASES)
def test_at_the_start_the_model_is_near_the_base_and_nearer_for_smaller_matrices(architecture, task, tmp_path):
    def distance(scale: float) -> float:
        job = make_job(Adapter, architecture, task, tmp_path, init_scale=scale, bottleneck=SIZE)
        expected = logits(*base(job))
        model, tokenizer = base(job)
        return (logits(Adapter().attach(model, job).eval(), tokenizer) - expected).abs().max().item()

    assert distance(1e-4) < 1e-5
    assert distance(1e-2) < 1e-2
    assert distance(0.5) > 10 * distance(1e-2)


def test_an_adapter_computes_what_the_paper_says():
    adapter = Bottleneck(8, 3, "relu")
    adapter.draw(torch.Generator().manual_seed(0), 1e-2)
    assert max(adapter.down.weight.abs().max(), adapter.up.weight.abs().max()) <= 2e-2
    assert not adapter.down.bias.any()
    assert not adapter.up.bias.any()
    h = torch.randn(2, 5, 8)
    expected = h + (h @ adapter.down.weight.T).relu() @ adapter.up.weight.T
    torch.testing.assert_close(adapter(h), expected)


@slow
def test_the_adapters_stand_after_the_sub_layers_and_before_the_residual_addition(tmp_path):
    """A BERT block with adapters, written out in plain PyTorch."""
    job = make_job(Adapter, "bert", "classification", tmp_path, init_scale=0.3, bottleneck=SIZE)
    model = Adapter().attach(base(job)[0], job).eval()
    block = model.bert.encoder.layer[0]
    x = torch.randn(2, 5, WIDTH)
    with torch.no_grad():
        expected = _bert_block_with_adapters(block, x)
        torch.testing.assert_close(block(x), expected)


def _bert_block_with_adapters(block, x: torch.Tensor) -> torch.Tensor:
    def linear(layer, h):
        return torch.nn.functional.linear(h, layer.weight, layer.bias)

    def adapted(adapter, h):
        return h + linear(adapter.up, torch.nn.functional.gelu(linear(adapter.down, h)))

    own, first, second = block.attention.self, block.attention.output, block.output
    q, k, v = (linear(layer, x).view(2, 5, 4, 8).transpose(1, 2) for layer in (own.query, own.key, own.value))
    h = ((q @ k.transpose(2, 3) / 8**0.5).softmax(-1) @ v).transpose(1, 2).reshape(2, 5, WIDTH)
    x = first.LayerNorm(x + adapted(first.dense.adapter, linear(first.dense, h)))
    h = linear(second.dense, torch.nn.functional.gelu(linear(block.intermediate.dense, x)))
    return second.LayerNorm(x + adapted(second.dense.adapter, h))


ENDS = {  # where a sub-layer of a block ends, before its residual is added: attention, feed-forward
    "bert": ("attention.output.dense", "output.dense"),
    "roberta": ("attention.output.dense", "output.dense"),
    "distilbert": ("attention.out_lin", "ffn.lin2"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "llama": ("self_attn.o_proj", "mlp.down_proj"),
    "qwen2": ("self_attn.o_proj", "mlp.down_proj"),
}


@slow
@pytest.mark.parametrize(("architecture", "task"), CASES)
@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
def test_in_every_family_the_adapters_act_where_the_sub_layers_end(architecture, task, placement, tmp_path):
    """Beside the plain model, with the paper's equation written as hooks on those layers."""
    settings = {"init_scale": 0.3, "bottleneck": SIZE, "placement": placement}
    job = make_job(Adapter, architecture, task, tmp_path, **settings)
    adapted = Adapter().attach(base(job)[0], job).eval()
    plain, tokenizer = base(job)
    (blocks,) = (m for m in plain.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == BLOCKS)
    prefix = next(name for name, module in plain.named_modules() if module is blocks)

    def hook(adapter):
        def after(_layer, _inputs, h):
            inner = torch.nn.functional.gelu(h @ adapter.down.weight.T + adapter.down.bias)
            return h + inner @ adapter.up.weight.T + adapter.up.bias

        return after

    without = last_hidden(plain, tokenizer)
    for number, block in enumerate(blocks):
        for end in ENDS[architecture][placement == "pfeiffer" :]:
            adapter = adapted.get_submodule(f"{prefix}.{number}.{end}").adapter
            block.get_submodule(end).register_forward_hook(hook(adapter))
    assert len([m for m in adapted.modules() if isinstance(m, Bottleneck)]) == BLOCKS * (1 + (placement == "houlsby"))
    expected = last_hidden(plain, tokenizer)
    assert (expected - without).abs().max() > 1e-3
    torch.testing.assert_close(last_hidden(adapted, tokenizer), expected, rtol=1e-4, atol=1e-5)


@slow
def test_where_the_adapters_are_is_stored(tmp_path):
    job = make_job(Adapter, "llama", "generation", tmp_path, placement="pfeiffer", layers_to_transform=[1])
    train(Adapter, job)
    folder = job.directory / "artifacts" / "adapter"
    about = json.loads((folder / "trained.json").read_text())
    assert about["places"] == ["model.layers.1.mlp.down_proj"]
    assert about["bottleneck"] == WIDTH // 16
    adapters = [name for name in load_file(folder / "trained.safetensors") if ".adapter." in name]
    assert len(adapters) == 4
    assert all(name.startswith("model.layers.1.mlp.down_proj.adapter.") for name in adapters)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bottleneck": 40}, ("bottleneck: 40", "use at most 32")),
        ({"layers_to_transform": [0, 2]}, ("no block 2", "0 to 1")),
        ({"layers_to_transform": [-1]}, ("no block -1",)),
        ({"layers_to_transform": []}, ("layers_to_transform is empty",)),
    ],
)
def test_settings_that_the_model_cannot_satisfy_are_refused_before_weights_load(settings, words, tmp_path):
    with pytest.raises(RequestError) as caught:
        Adapter().estimate(make_job(Adapter, "qwen2", "generation", tmp_path, **settings))
    assert all(word in str(caught.value) for word in words)
    assert not models._bases


@slow
@pytest.mark.parametrize(("architecture", "task"), [("bert", "classification"), ("gpt2", "generation")])
def test_the_export_loads_without_nbadapt(architecture, task, tmp_path):
    job = make_job(Adapter, architecture, task, tmp_path / "run")
    outcome, _ = train(Adapter, job)
    target = tmp_path / "export"
    target.mkdir()
    Adapter().export("adapter", outcome, job, target)
    code = (
        "import json, sys, torch\n"
        "from use_adapter import load\n"
        "model, tokenizer = load()\n"
        f"batch = tokenizer({TEXTS!r}, return_tensors='pt', padding=True)\n"
        "with torch.no_grad():\n"
        "    out = model(input_ids=batch['input_ids'], attention_mask=batch['attention_mask']).logits\n"
        "assert 'nbadapt' not in sys.modules\n"
        "print(json.dumps(out.tolist()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=target, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    adapted = Adapter().load(outcome, job)
    torch.testing.assert_close(said, logits(adapted.model, adapted.tokenizer), rtol=1e-4, atol=1e-5)
