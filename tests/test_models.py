"""Model names, the shared base, heads, dtype: with real small models, and a hub on loopback."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import get_args

import pytest
import torch

from nbadapt import devices, model_names, models, pretrained
from nbadapt.errors import ModelError
from nbadapt.method import ModelRef
from tests import tiny_models


@pytest.fixture(autouse=True)
def _forget_bases():
    yield
    models.free()


def ref(architecture: str, **kinds: bool) -> ModelRef:
    return model_names.resolve(str(tiny_models.folder(architecture, **kinds)))


def test_a_folder_comes_before_a_package_of_the_same_name(tmp_path, monkeypatch):
    shutil.copytree(tiny_models.folder("bert"), tmp_path / "minilm")
    monkeypatch.chdir(tmp_path)
    assert model_names.resolve("minilm").kind == "folder"
    monkeypatch.chdir(Path(__file__).parent)
    assert model_names.resolve("minilm").kind == "package"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no/such-model", ("no/such-model", "pip install")),
        ("smollm", ("did you mean smollm2",)),
        ("bad name!", ("bad name!", "packaged models")),
        (str(Path(__file__)), ("is a file",)),
        (str(Path(__file__).parent), ("no config.json",)),
    ],
)
def test_an_unknown_name_gets_one_line_with_the_fix(name, words, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError) as caught:
        model_names.resolve(name)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_runs_share_the_weights_but_not_the_modules():
    first, _ = models.load(ref("llama"), "cpu", "float32")
    second, _ = models.load(ref("llama"), "cpu", "float32")
    assert first is not second
    for (name, one), (_, two) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert one is two, name
    first.model.layers[0].self_attn.q_proj = torch.nn.Identity()
    assert isinstance(second.model.layers[0].self_attn.q_proj, torch.nn.Linear)


def test_tied_embeddings_stay_tied():
    model, _ = models.load(ref("gpt2"), "cpu", "float32")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "roberta", "gpt2", "llama", "qwen2"])
def test_a_classifier_has_the_body_of_the_base_and_a_head_of_its_own(architecture):
    def load(labels, seed):
        model, tokenizer = models.load_classifier(ref(architecture), labels, "cpu", "bfloat16", seed)
        batch = tokenizer(["a film"], return_tensors="pt")
        return model, model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits

    two, logits = load(["no", "yes"], 0)
    again, same = load(["no", "yes"], 0)
    three, more = load(["a", "b", "c"], 1)
    assert logits.shape == (1, 2)
    assert more.shape == (1, 3)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, same)
    assert three.config.id2label == {0: "a", 1: "b", 2: "c"}
    body = two.base_model_prefix
    for (name, a), (_, b) in zip(two.named_parameters(), again.named_parameters(), strict=True):
        inside = name.startswith(body + ".")
        assert (a is b) is inside, name
        assert a.requires_grad is not inside, name
        assert a.dtype == (torch.bfloat16 if inside else torch.float32), name


def test_a_head_that_the_checkpoint_brings_is_kept(tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    source = tiny_models.folder("bert")
    trained = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=2, id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1}
    )
    trained.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path)
    kept, _ = models.load_classifier(model_names.resolve(str(tmp_path)), ["good", "bad"], "cpu", "float32", 5)
    assert torch.equal(kept.classifier.weight, trained.classifier.weight)
    assert kept.config.id2label == {0: "bad", 1: "good"}
    other, _ = models.load_classifier(model_names.resolve(str(tmp_path)), ["x", "y"], "cpu", "float32", 5)
    assert not torch.equal(other.classifier.weight, trained.classifier.weight)


def test_an_encoder_is_refused_as_a_language_model_before_weights_are_read():
    with pytest.raises(ModelError, match="encoder and does not generate text"):
        pretrained.skeleton(ref("bert"), "causal")
    assert next(pretrained.skeleton(ref("llama"), "causal").parameters()).device.type == "meta"


def test_free_gives_the_bytes_back():
    assert models.free() == 0
    models.load(ref("llama"), "cpu", "float32")
    expected = (tiny_models.folder("llama") / "model.safetensors").stat().st_size
    assert models.free() == pytest.approx(expected, rel=0.1)
    assert models.free() == 0


@pytest.mark.parametrize("architecture", get_args(tiny_models.Architecture))
def test_a_folder_without_a_tokenizer_is_refused(architecture: str, tmp_path: Path):
    """transformers makes a tokenizer without words for some of them, to which every text is the same."""
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_models.folder(architecture) / name, tmp_path)
    with pytest.raises(ModelError, match=r"no usable tokenizer: .*[^:]; tokenizer\.save_pretrained\("):
        pretrained.load_tokenizer(model_names.resolve(str(tmp_path)))


def test_the_tokenizer_does_not_cut_by_itself():
    tokenizer = pretrained.load_tokenizer(model_names.resolve("minilm"))
    assert len(tokenizer("word " * 300)["input_ids"]) == 302


def test_weights_that_a_checkpoint_lacks_are_the_same_in_every_process_and_every_type(tmp_path):
    ref = model_names.resolve(str(tiny_models.without_pooler(tmp_path / "bert")))

    def pooler(dtype="float32", quantization=None):
        models.free()
        torch.manual_seed(1)
        before = torch.get_rng_state()
        model, _ = models.load_classifier(ref, ("a", "b"), "cpu", dtype, seed=0, quantization=quantization)
        assert torch.equal(torch.get_rng_state(), before)
        return model.bert.pooler.dense.weight

    drawn = pooler().clone()
    assert drawn.std() == pytest.approx(0.02, rel=0.1)  # BERT's initializer_range
    torch.randn(7)  # what else the process has drawn does not matter
    assert torch.equal(pooler(), drawn)
    assert torch.equal(pooler("bfloat16"), drawn.bfloat16())
    assert torch.equal(pooler(quantization=pretrained.Quantization()), drawn)


@pytest.mark.parametrize("named", [True, False], ids=["named", "not named"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_type_of_the_files_is_told_by_their_configuration_or_themselves(dtype, named, tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_models.folder("llama")).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path)
    if not named:
        config = json.loads((tmp_path / "config.json").read_text())
        kept = {key: value for key, value in config.items() if key not in {"dtype", "torch_dtype"}}
        assert len(kept) < len(config)
        (tmp_path / "config.json").write_text(json.dumps(kept))
    assert pretrained.stored_dtype(model_names.resolve(str(tmp_path))) == dtype


def test_a_body_under_another_name_is_in_4_bits_all_the_same(tmp_path):
    """Llama 4 says that its body is `language_model`, and calls it `model`."""
    from transformers import Llama4ForCausalLM, Llama4TextConfig

    config = Llama4TextConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, intermediate_size_mlp=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_local_experts=2, moe_layers=[],
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    Llama4ForCausalLM(config).save_pretrained(tmp_path)
    assert not hasattr(Llama4ForCausalLM(config), Llama4ForCausalLM.base_model_prefix)
    model = pretrained.read_weights(
        model_names.resolve(str(tmp_path)), "causal", "cpu", "float32", pretrained.Quantization()
    )
    packed = [name for name, weight in model.named_parameters() if hasattr(weight, "quant_state")]
    assert len(packed) == 2 * 7
    assert not any("lm_head" in name for name in packed)


def test_the_probe_never_chooses_float16_on_a_cpu():
    assert devices.best_dtype("cpu") in {"bfloat16", "float32"}


class _Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as from_pretrained asks for: the files of one model."""

    files: Path
    commit = "0" * 39 + "1"

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        if self.path.startswith("/someone/busy/"):
            self.send_error(503)
            return
        name = self.path.partition("/resolve/main/")[2] or self.path.partition(f"/resolve/{self.commit}/")[2]
        path = self.files / name if name else None
        found = self.path.startswith("/someone/tiny/") and path is not None and path.is_file()
        content = path.read_bytes() if found else b""
        if self.path.startswith("/api/models/someone/tiny"):
            found, siblings = True, [{"rfilename": p.name} for p in self.files.iterdir()]
            record = {"id": "someone/tiny", "sha": self.commit, "siblings": siblings, "tags": []}
            content = json.dumps([] if "/tree/" in self.path else record).encode()
        self.send_response(200 if found else 404)
        if not found:
            known = self.path.startswith("/someone/tiny/")
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
        self.send_header("X-Repo-Commit", self.commit)
        self.send_header("ETag", '"' + hashlib.sha256(content).hexdigest() + '"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path):
    _Hub.files = tiny_models.folder("llama")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    port = server.server_address[1]
    yield {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
    server.shutdown()
    server.server_close()
    thread.join()


def _python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


LOAD = """
from nbadapt import model_names, models
ref = model_names.resolve("someone/tiny")
model, tokenizer = models.load(ref, "cpu", "float32")
print(ref.kind, sum(p.numel() for p in model.parameters()))
"""


def test_a_hub_name_is_fetched_and_then_found_offline(hub):
    from safetensors import safe_open

    with safe_open(tiny_models.folder("llama") / "model.safetensors", "pt") as file:
        count = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 - no mapping
    assert _python(LOAD, **hub) == f"hub {count}"
    offline = {**hub, "HF_HUB_OFFLINE": "1"}
    assert _python(LOAD, **offline) == f"hub {count}"


RESOLVE = """
from nbadapt import model_names, models
from nbadapt.errors import ModelError
try:
    model_names.resolve({!r})
except ModelError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("someone/else", "the hub does not know it"),
        pytest.param("someone/busy", "the hub did not give the model", marks=pytest.mark.slow),  # it is asked for long
    ],
)
def test_a_name_that_the_hub_does_not_give(hub, name, words):
    said = _python(RESOLVE.format(name), **hub)
    assert name in said
    assert words in said
    assert "\n" not in said


def test_a_broken_package_of_a_model_is_named_and_disturbs_no_other(tmp_path):
    info = tmp_path / "broken_model-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-model\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[nbadapt.models]\nbroken = broken_model:MODEL\n")
    (tmp_path / "broken_model.py").write_text("raise RuntimeError('half an upload')\n")
    path = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]), "HF_HUB_OFFLINE": "1"}
    said = _python(RESOLVE.format("broken"), **path)
    assert said == (
        "the plugin broken-model 1.0 of the model 'broken' cannot be imported (RuntimeError: half an upload): "
        "update or uninstall it"
    )
    said = _python(RESOLVE.format("someone/else"), **path)
    assert "brings minilm" in said
    assert "broken-model" not in said


@pytest.mark.parametrize("first", ["causal", "classification"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_both_heads_of_a_language_model_share_one_body_and_give_what_each_gives_alone(architecture, first) -> None:
    import torch

    ref = model_names.resolve(str(tiny_models.folder(architecture)))
    ids = torch.tensor([[1, 5, 9, 20, 3]])
    load = {
        "causal": lambda: models.load(ref, "cpu", "bfloat16")[0],
        "classification": lambda: models.load_classifier(ref, ("a", "b"), "cpu", "bfloat16", 0)[0],
    }
    alone = {}
    for head, work in load.items():
        models.free()
        with torch.no_grad():
            alone[head] = work()(input_ids=ids).logits
    models.free()
    together = {head: load[head]() for head in sorted(load, key=lambda head: head != first)}
    for head, model in together.items():
        with torch.no_grad():
            assert torch.equal(model(input_ids=ids).logits, alone[head])
    causal, classifier = (dict(together[head].base_model.named_parameters()) for head in load)
    assert {name: p.data_ptr() for name, p in causal.items()} == {n: p.data_ptr() for n, p in classifier.items()}
    weights = sum(p.nbytes for p in together["causal"].parameters())
    assert models.free() < 1.05 * weights
