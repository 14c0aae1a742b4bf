"""What comes from elsewhere runs no code, leads nowhere else and tells no secrets: plugins, stored runs, models."""

from __future__ import annotations

import contextlib
import dataclasses
import html
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib import parse

import pytest
from distributions import Site, method_source
from shells import Shell

import nbadapt
from nbadapt import consent, endpoints, events, guard, model_names, models, origins, redaction, registry, store
from nbadapt.capture import Capture
from nbadapt.engines import evaluation
from nbadapt.engines.answering import Query, Reply
from nbadapt.errors import DataError, ModelError, NbadaptError, PluginError, RequestError, StoreError
from nbadapt.indexing import store as stores
from nbadapt.indexing.finding import find
from tests import tiny_models

MARK = "hostile code ran"


# ---------------------------------------------------------------------------------------------- who may bring plugins


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    found = Site(tmp_path / "site", monkeypatch)
    yield found
    found.forget()


def plugin(site: Site, distribution: str, word: str, module: str) -> Path:
    """Install a plugin whose import leaves a file; that file."""
    mark = site.folder / f"{module}.imported"
    source = f"open({str(mark)!r}, 'w').close()\n" + method_source(word)
    site.add(distribution, "1.0", {word: f"{module}:Plugin"}, {module: source})
    return mark


def test_without_a_limit_every_distribution_may_bring_methods(site: Site) -> None:
    mark = plugin(site, "evil-methods", "evil", "evil_methods")
    assert registry.load("evil").name == "evil"
    assert mark.exists()
    assert registry.refused() == []


@pytest.mark.parametrize("limit", ["", "nbadapt", "good.methods other", "Good_Methods,other"])
def test_a_distribution_that_is_not_named_is_never_imported(
    limit: str, site: Site, monkeypatch: pytest.MonkeyPatch, shell: Shell
) -> None:
    evil = plugin(site, "evil-methods", "evil", "evil_methods")
    good = plugin(site, "good-methods", "good", "good_methods")
    monkeypatch.setenv(origins.VARIABLE, limit)
    with pytest.raises(PluginError) as caught:
        registry.load("evil")
    assert str(caught.value) == (
        "the method 'evil' of evil-methods 1.0 is not loaded: NBADAPT_PLUGINS does not name its distribution; "
        "add evil-methods to it, and restart the kernel, if you trust it"
    )
    names = {method.name for method in registry.methods()}
    assert "evil" not in names
    assert "lora" in names
    assert ("good" in names) == good.exists() == ("ood" in limit)
    assert "not loaded: NBADAPT_PLUGINS" in repr(nbadapt.methods())
    shell.tab("%%finetune ")
    done = shell.run("%%finetune evil --model minilm --data rows")
    assert done.err.splitlines() == [f"UsageError: {caught.value}"]
    assert not evil.exists()


def test_of_two_distributions_with_one_word_the_named_one_is_taken(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(site, "evil-methods", "same", "evil_methods")
    plugin(site, "good-methods", "same", "good_methods")
    with pytest.raises(PluginError, match="more than once"):
        registry.load("same")
    monkeypatch.setenv(origins.VARIABLE, "good-methods")
    assert registry.load("same").__module__ == "good_methods"


def test_the_limit_holds_for_every_group(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.add("evil-rest", "2.0", {}, {"evil_rest": "raise SystemExit"})
    every = (registry.GROUP, model_names.GROUP, endpoints.GROUP, stores.GROUP)
    groups = "".join(f"[{group}]\nevil = evil_rest:X\n" for group in every)
    (site.folder / "evil_rest-2.0.dist-info" / "entry_points.txt").write_text(groups)
    monkeypatch.setenv(origins.VARIABLE, "nbadapt")
    line = "'evil' of evil-rest 2.0 is not loaded: NBADAPT_PLUGINS"
    for load in (
        lambda: registry.load("evil"),
        lambda: endpoints.load("evil"),
        lambda: stores.kind("evil"),
        lambda: model_names.resolve("evil"),
    ):
        with pytest.raises(PluginError, match=line):
            load()
    assert "evil" not in {*endpoints.prefixes(), *stores.names(), *model_names.names()}
    assert origins.not_installed() == []
    monkeypatch.setenv(origins.VARIABLE, "evil-rset")
    assert origins.not_installed() == ["evil-rset"]


def test_the_table_of_methods_says_where_each_comes_from(site: Site) -> None:
    plugin(site, "acme-methods", "mine", "acme_methods")
    sources = {info.name: info.source for info in nbadapt.methods()}
    assert sources["mine"] == "acme-methods 1.0"
    assert sources["lora"].startswith("nbadapt ")
    assert "acme-methods 1.0" in nbadapt.methods()._repr_html_()


# ---------------------------------------------------------------------------------------------- hostile runs


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.mark, MARK))


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an honest run of LoRA."""
    folder = tmp_path_factory.mktemp("honest")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBADAPT_RUNS", str(folder))
        patch.setenv("NBADAPT_UI", "text")
        rows = tiny_models.reviews(12)
        run = nbadapt.finetune(
            "lora", model=str(tiny_models.folder("bert")), data=rows, max_steps=2, save_steps=1, batch_size=4, samples=0
        )
    return run.directory


@pytest.fixture
def hostile(honest: Path, runs: Path) -> Path:
    """A copy of the honest run, to be spoilt."""
    shutil.copytree(honest.parent, runs)
    return runs / honest.name


def change(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))


def adapter(run: Path) -> Path:
    return run / "artifacts" / "adapter"


def pickled_weights(run: Path, mark: Path) -> None:
    (adapter(run) / "adapter_model.safetensors").unlink()
    (adapter(run) / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(mark)))


def pickle_called_safetensors(run: Path, mark: Path) -> None:
    (adapter(run) / "adapter_model.safetensors").write_bytes(pickle.dumps(Bomb(mark)))


def named_module(run: Path, mark: Path) -> None:
    (run.parent / "evil_core.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).write_text({MARK!r})")
    spoilt = {"megatron_config": {"a": 1}, "megatron_core": "evil_core"}
    change(adapter(run) / "adapter_config.json", lambda record: record.update(spoilt))


def auto_mapping(run: Path, mark: Path) -> None:
    spoilt = {"auto_mapping": {"base_model_class": "X", "parent_library": "evil_core"}}
    change(adapter(run) / "adapter_config.json", lambda record: record.update(spoilt))


def path_upwards(run: Path, mark: Path) -> None:
    shutil.move(adapter(run), run.parent.parent / "elsewhere")
    outside = {"artifacts": {"adapter": "../../elsewhere"}}
    change(run / "outcome.json", lambda record: record["outcome"].update(outside))


def absolute_path(run: Path, mark: Path) -> None:
    outside = {"artifacts": {"adapter": str(adapter(run))}}
    change(run / "outcome.json", lambda record: record["outcome"].update(outside))


def linked_folder(run: Path, mark: Path) -> None:
    shutil.move(adapter(run), run.parent.parent / "elsewhere")
    adapter(run).symlink_to(run.parent.parent / "elsewhere")


def linked_file(run: Path, mark: Path) -> None:
    secret = run.parent.parent / "id_rsa"
    secret.write_text("secret")
    (adapter(run) / "README.md").unlink(missing_ok=True)
    (adapter(run) / "README.md").symlink_to(secret)


def remote_code(run: Path, mark: Path) -> None:
    base = run.parent.parent / "base"
    shutil.copytree(tiny_models.folder("bert"), base)
    (base / "evil_model.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).write_text({MARK!r})")
    change(base / "config.json", lambda record: record.update(auto_map={"AutoConfig": "evil_model.Evil"}))
    model = {"path": str(base), "name": str(base), "trust_remote_code": True}
    change(run / "request.json", lambda record: record["model"].update(model))


def itself_as_model(run: Path, mark: Path) -> None:
    change(run / "request.json", lambda record: record["model"].update(kind="run", path=str(run)))


def damaged_outcome(run: Path, mark: Path) -> None:
    change(run / "outcome.json", lambda record: record["outcome"].update(artifacts={"adapter": 3}))


def code_as_name(run: Path, mark: Path) -> None:
    code = f"x\nopen({str(mark)!r}, 'w')"
    change(run / "request.json", lambda record: record["model"].update(name=code))


def code_as_seed(run: Path, mark: Path) -> None:
    change(run / "request.json", lambda record: record.update(seed=f"0; open({str(mark)!r}, 'w')"))


def foreign_method(run: Path, mark: Path) -> None:
    change(run / "request.json", lambda record: record.update(method="os:system"))


HOSTILE = {
    pickled_weights: "files of this kind can run code",
    pickle_called_safetensors: "cannot be loaded",
    named_module: "the setting megatron_config",
    auto_mapping: "the setting auto_mapping",
    path_upwards: "lies outside its folder",
    absolute_path: "lies outside its folder",
    linked_folder: "a link that leads out of its folder, artifacts/adapter",
    linked_file: "a link that leads out of its folder, artifacts/adapter/README.md",
    remote_code: "lets the model's own code run, which you have not allowed",
    itself_as_model: "is that run itself",
    damaged_outcome: "is no path",
    code_as_name: "is no name",
    code_as_seed: "is no whole number",
    foreign_method: "unknown method 'os:system'",
}


def test_the_honest_run_works(hostile: Path) -> None:
    assert len(nbadapt.show(hostile.name).predict(["good"])) == 1


@pytest.mark.parametrize("spoil", HOSTILE, ids=lambda spoil: spoil.__name__)
def test_a_hostile_run_is_refused_and_runs_nothing(
    spoil: Callable[[Path, Path], None], hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    monkeypatch.syspath_prepend(str(hostile.parent))  # as a notebook's folder is
    spoil(hostile, mark)
    run = nbadapt.show(hostile.name)
    assert nbadapt.runs()[0].id == hostile.name  # the table is still there
    assert hostile.name in repr(run)
    uses = [lambda: run.predict(["good"]), lambda: run.export("merged", tmp_path / "out")]
    for use in uses[:1] if spoil is pickle_called_safetensors else uses:
        with pytest.raises(NbadaptError) as caught:
            use()
        assert HOSTILE[spoil] in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
    assert not mark.exists()
    assert not (tmp_path / "out").exists()


def test_rows_are_read_from_the_folder_of_runs_alone(hostile: Path) -> None:
    rows = hostile.parent.parent / "rows.jsonl"
    shutil.copy(next((hostile.parent / "data").glob("*.jsonl")), rows)
    change(hostile / "request.json", lambda record: record["data"].update(fingerprint="../../rows"))
    with pytest.raises(StoreError, match="rows outside the folder of runs"):
        nbadapt.show(hostile.name).job(tables=True)


def test_a_run_with_links_outwards_is_not_continued(hostile: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    change(hostile / "outcome.json", lambda record: record.update(state="stopped"))
    shutil.rmtree(hostile / "checkpoints", ignore_errors=True)
    (hostile / "checkpoints").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="leads out of its folder, checkpoints"):
        nbadapt.resume(hostile.name)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_note_is_not_written_through_a_link(hostile: Path, tmp_path: Path) -> None:
    (tmp_path / "profile").write_text("as it was")
    (hostile / "notes.jsonl").symlink_to(tmp_path / "profile")
    with pytest.raises(StoreError, match="cannot be written"):
        nbadapt.show(hostile.name).note = "hello"
    assert (tmp_path / "profile").read_text() == "as it was"


def test_an_optimizer_that_is_a_bomb_does_not_go_off(hostile: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("NBADAPT_UI", "text")
    change(hostile / "outcome.json", lambda record: record.update(state="stopped"))
    checkpoint = store.last_checkpoint(hostile)
    assert checkpoint is not None
    spoilt = [file for file in checkpoint.iterdir() if file.suffix in {".pt", ".pth", ".bin"}]
    for file in spoilt:
        file.write_bytes(pickle.dumps(Bomb(tmp_path / "mark")))
    assert spoilt
    with pytest.raises(NbadaptError):
        nbadapt.resume(hostile.name)
    assert not (tmp_path / "mark").exists()


def test_code_that_the_user_allowed_is_allowed_to_a_stored_run(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("NBADAPT_TRUSTED", str(tmp_path / "trusted.jsonl"))
    monkeypatch.setattr(consent, "_here", set())
    folder = tiny_models.folder("bert")
    asked = model_names.resolve(str(folder), trust_remote_code=True)
    monkeypatch.setattr(consent, "_here", set())  # another kernel
    with consent.stored():
        consent.settle(asked)
        with pytest.raises(ModelError, match="which you have not allowed on this machine"):
            model_names.resolve(str(tiny_models.folder("gpt2")), trust_remote_code=True)


def test_a_stored_run_sends_a_key_only_where_the_user_did(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("NBADAPT_TRUSTED", str(tmp_path / "trusted.jsonl"))
    monkeypatch.setattr(consent, "_here", set())
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-key-1234567890")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    record = {"name": "openai:m", "kind": "endpoint", "path": "m", "key_env": "OPENAI_API_KEY"}
    folder = tmp_path / "run"
    folder.mkdir()

    def read(url: str) -> None:
        store.write_json(folder / "request.json", {"model": {**record, "base_url": url}})
        store.read_model(folder)

    read("https://api.openai.com/v1")  # the provider's own
    with pytest.raises(ModelError, match="sends the key in the environment variable OPENAI_API_KEY to https://evil"):
        read("https://evil.example/v1")
    model_names.resolve("openai:m", base_url="https://evil.example/v1")
    read("https://evil.example/v1")
    assert "planted" not in (tmp_path / "trusted.jsonl").read_text()


# ---------------------------------------------------------------------------------------------- hostile models and more


def test_a_models_own_code_does_not_run_unasked(tmp_path: Path) -> None:
    folder, mark = tmp_path / "model", tmp_path / "mark"
    shutil.copytree(tiny_models.folder("gpt2"), folder)
    (folder / "evil_model.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).write_text({MARK!r})")
    names = {"AutoConfig": "evil_model.C", "AutoModelForCausalLM": "evil_model.M", "AutoTokenizer": "evil_model.T"}
    change(folder / "config.json", lambda record: record.update(auto_map=names))
    change(
        folder / "tokenizer_config.json", lambda record: record.update(auto_map={"AutoTokenizer": ["evil_model.T"] * 2})
    )
    with_code = model_names.resolve(str(folder))
    with contextlib.suppress(ModelError):  # transformers' own classes, or an error
        models.load(with_code, "cpu", "float32")
    change(folder / "config.json", lambda record: record.update(model_type="evil"))
    models.free()
    with pytest.raises(ModelError, match="--trust-remote-code"):
        models.load(model_names.resolve(str(folder)), "cpu", "float32")
    assert not mark.exists()


def test_pickled_weights_of_a_model_are_not_read(tmp_path: Path) -> None:
    folder, mark = tmp_path / "model", tmp_path / "mark"
    shutil.copytree(tiny_models.folder("gpt2"), folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(ModelError, match="may run code when it is read"):
        models.load(model_names.resolve(str(folder)), "cpu", "float32")
    assert not mark.exists()


def test_an_adapter_beside_a_models_weights_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_models.folder("gpt2"), folder)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "megatron_core": "evil"}')
    with pytest.raises(ModelError, match="has a peft adapter beside its weights"):
        models.load(model_names.resolve(str(folder)), "cpu", "float32")


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "C:\\x", "..\\x", "", None, 3, ["a"]])
def test_paths_that_leave_the_folder(path: Any) -> None:
    with pytest.raises(StoreError):
        guard.relative("run", path)


@pytest.mark.parametrize("path", ["artifacts/adapter", "a/..b/c", "predictions.jsonl", "a b/ü"])
def test_paths_that_stay_in_the_folder(path: str) -> None:
    assert guard.relative("run", path) == path


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", "x.sqlite/../../y"])
def test_an_index_has_a_name_and_no_path_upwards(name: str) -> None:
    with pytest.raises((RequestError, StoreError)):
        nbadapt.index("x.md", name=name)


# ---------------------------------------------------------------------------------------------- secrets

TOKEN = "hf_PlantedPlantedPlanted01"
KEY = "planted-openai-key-0123"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"401 for {TOKEN}", "401 for ***"),
        (f"key={KEY}!", "key=***!"),
        ("GET https://ann:pass@host/x failed", "GET https://***@host/x failed"),
        (
            "postgresql://ann:pass@host/db or postgresql://ann@host/db",
            "postgresql://ann:***@host/db or postgresql://ann@host/db",
        ),
        ("host=h password='a b' user=ann", "host=h password=*** user=ann"),
        ("https://host/v1?api_key=abc123&n=1", "https://host/v1?api_key=***&n=1"),
        ("https://h/x?X-Amz-Signature=abcdef&sig=12", "https://h/x?X-Amz-Signature=***&sig=***"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer ***"),
        ("hf_OtherOtherOtherOther12 and sk-proj-abcdefghijklmnop", "*** and ***"),
        (
            "data/sk-translations-train.csv, models/sk-finetuned-model-v2",
            "data/sk-translations-train.csv, models/sk-finetuned-model-v2",
        ),
        ("https://host/a?monkey=1 lora r=8", "https://host/a?monkey=1 lora r=8"),
        ("ann@example.org wrote http://host/@ann", "ann@example.org wrote http://host/@ann"),
        ("task-token sk-learn hf_short short", "task-token sk-learn hf_short short"),
    ],
)
def test_what_is_hidden(text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("SHORT_TOKEN", "short")
    assert redaction.hide(text) == shown


ODD_KEY = "pa\"ss\\word-é/it's-<1>"


@pytest.mark.parametrize(
    "quoted",
    [
        repr,
        ascii,
        json.dumps,
        lambda key: json.dumps(key, ensure_ascii=False),
        lambda key: json.dumps({"error": json.dumps({"key": key})}),
        lambda key: repr(repr(key)),
        lambda key: str(KeyError(key, json.dumps(key))),
        lambda key: str(key.encode()),
        html.escape,
        parse.quote,
        parse.quote_plus,
        lambda key: parse.quote(key, safe=""),
    ],
)
def test_a_secret_is_hidden_in_every_spelling(quoted: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", ODD_KEY)
    shown = redaction.hide(f"told {quoted(ODD_KEY)}")
    assert redaction.HIDDEN in shown
    assert not any(part in shown for part in ("pa", "ss", "word", "it", "1"))


@pytest.mark.parametrize(
    "pieces", [("split", "secret", "value99\n"), ("split", "secretvalue99"), ("a\nsplitsecret", "value99\nb\n")]
)
def test_a_secret_that_is_printed_in_pieces_is_not_in_the_log(
    pieces: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_KEY", "splitsecretvalue99")
    log = tmp_path / "output.log"
    with Capture(log):
        print(*pieces, sep="", end="", flush=True)
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
    assert log.read_text() == ("".join(pieces) * 2).replace("splitsecretvalue99", "***")


@pytest.mark.parametrize("pieces", [("Bearer ", "abcdefgh", "ijklmnop\n"), ("hf_abcdefghijklmnop", "qrstuvwxyz")])
def test_a_key_that_is_printed_in_pieces_is_hidden_whole(pieces: tuple[str, ...], tmp_path: Path) -> None:
    log = tmp_path / "output.log"
    with Capture(log):
        for piece in pieces:
            sys.stdout.write(piece)
    assert log.read_text().rstrip("\n") in {"***", "Bearer ***"}


def test_what_no_encoding_can_write_spoils_neither_the_log_nor_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environb, b"MY_TOKEN", b"abcdefgh\xff\xfe")
    with Capture(tmp_path / "output.log"):
        print("a \ud800 b")
        print("and on")
    assert (tmp_path / "output.log").read_text() == "a \\ud800 b\nand on\n"


def test_a_line_without_an_end_is_not_held_back_for_ever(tmp_path: Path) -> None:
    with Capture(tmp_path / "output.log"):
        print("x" * 20_000, end="", flush=True)
        assert (tmp_path / "output.log").stat().st_size == 20_000
        print("\r10 %", end="")
    assert (tmp_path / "output.log").read_bytes().endswith(b"x\r10 %")


LEAKY = """
import logging, sys, warnings
from nbadapt.errors import RunError
from nbadapt.events import Candidate, Notice, Panel, Reply, Sample, Source, Stage
from nbadapt.method import Config, Estimate, Method, Outcome

class Plugin(Method):
    name, verb, summary, reference = "leaky", "finetune", "tells secrets", "https://example.org"
    tasks = frozenset({{"text"}})

    class Config(Config):
        api_key: str = ""
        servers: list[str] = []

    def estimate(self, job):
        return Estimate(notes=("estimated with {token}",))

    def run(self, job, emit):
        print("printed {token}")
        print("to stderr {token}", file=sys.stderr)
        warnings.warn("warned {key}")
        logging.getLogger("transformers").warning("logged {key}")
        emit(Notice("told {key} https://ann:secret@host/"))
        emit(Stage("asking https://host/?token={key}"))
        emit(Panel("loss", "loss of {token}"))
        emit(Sample(1, "in {key}", "out {token}", "right {key}", "because {token}", "before {key}"))
        emit(Source(1, "page {token}", "text {key}"))
        emit(Candidate(1, 1, "prompt {key}", "{token}", 0.5, 0.0, 1.0, 3, 4, "left {key}"))
        emit(Reply(1, "asked {token}", "said {key}"))
        {end}

    def load(self, outcome, job): ...
"""


ENDS = (
    f"raise RuntimeError('https://host/?token={KEY} {TOKEN}')",
    f"raise RunError('https://host/?token={KEY} {TOKEN}')",
    f"return Outcome({{'loss': 0.5}}, {{}}, 'the server said {KEY} and {TOKEN}')",
)


@pytest.mark.parametrize("end", ENDS, ids=["an error", "an error of its own", "an outcome"])
@pytest.mark.filterwarnings("ignore:warned")
def test_planted_secrets_are_nowhere(
    end: str, site: Site, runs: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    source = LEAKY.format(token=TOKEN, key=KEY, end=end)
    site.add("leaky", "1.0", {"leaky": "leaky_m:Plugin"}, {"leaky_m": source})
    shell["rows"] = [{"text": f"row {i}"} for i in range(20)]
    done = shell.run(f"%%finetune leaky --model {tiny_models.folder('gpt2')} --data rows --as run")
    run = nbadapt.show(nbadapt.runs()[0].id)
    if end.startswith("return"):
        assert run.output == "the server said *** and ***"
    else:
        assert done.err.splitlines()[-1].startswith("UsageError: "), done
    shown = done.out + done.err
    for refused in (
        f"api_key: {KEY}",
        f"servers: ['https://{TOKEN}@host/']",
        "api_key: postgresql://ann:secret@host/db",
    ):
        again = shell.run(f"%%finetune leaky --model {tiny_models.folder('gpt2')} --data rows\n{refused}")
        shown += again.out + again.err
        assert "' of leaky holds a password or a key, which would be kept with the run" in again.err
    assert len(nbadapt.runs()) == 1
    shown += shell.run(f"%nbadapt show {run.id}").out + repr(run) + str(run.events) + str(run._repr_mimebundle_())
    kept = all_texts(runs)
    assert {"output.log", "events.jsonl", "outcome.json"} <= {path.name for path in runs.rglob("*")}
    assert "told ***" in kept
    for secret in (TOKEN, KEY, "ann:secret"):
        assert secret not in shown
        assert secret not in kept


def all_texts(folder: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


ECHO = """
from nbadapt.provider import Answer, Connection, Provider

class Echo(Provider):
    name, summary, base_url = "echo", "repeats the key", "http://echo.invalid"
    def connect(self, model, key, tell): return Way()

class Way(Connection):
    async def ask(self, question): return Answer("you sent {key}, Bearer {token}")
    async def close(self): pass
"""


def test_a_key_that_a_server_repeats_is_in_no_answer_that_is_kept(
    site: Site, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("ECHO_API_KEY", KEY)
    modules = {"echo_m": ECHO.format(key=KEY, token=TOKEN)}
    site.add("echo", "1.0", {"echo": "echo_m:Echo"}, modules, group="nbadapt.providers")
    rows = [{"text": f"row {i}"} for i in range(3)]
    asked = {"model": "echo:any", "base_url": "http://other.invalid"}
    table = nbadapt.prompt("zero-shot", "Repeat: {{text}}", data=rows, **asked)
    one = nbadapt.prompt("zero-shot", "Repeat: row", **asked)
    said = "you sent ***, Bearer ***"
    assert (one.output, set(table.answers["output"])) == (said, {said})
    kept, cached = all_texts(runs), all_texts(tmp_path / "nbadapt_answers")
    assert "predictions.jsonl" in {path.name for path in runs.rglob("*")}
    assert said in kept
    assert said in cached
    for secret in (TOKEN, KEY):
        assert secret not in kept + cached + repr(one) + repr(table) + str(table.answers)


def test_an_answer_of_a_plugins_own_model_is_kept_without_keys(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    job = SimpleNamespace(directory=runs, config=SimpleNamespace(batch_size=2), seed=0, metric=None, device="cpu")
    queries = [Query(row, "Say it", "Say it", f"it is {KEY}") for row in (1, 2)]
    record = evaluation._Record(job, queries, "exact_match")
    record.add(queries, {row: Reply(f"it is {KEY}", None, (f"as {KEY} says",), {KEY: 1}) for row in (1, 2)})
    assert record.close().metrics["exact_match"] == 1.0  # what was answered is compared, not what is kept
    assert KEY not in (runs / evaluation.PREDICTIONS).read_text().replace(f'"expected": "it is {KEY}"', "")


@pytest.mark.parametrize(
    ("given", "called"),
    [
        ({"prompt": f"Log in with {KEY}"}, "the prompt"),
        ({"variables": {"word": TOKEN}}, "the variable 'word'"),
        ({"labels": ["good", KEY]}, "the value of --labels"),
        ({"data": "https://ann:secret@host/rows.csv"}, "the value of --data"),
    ],
)
def test_what_would_be_kept_with_a_secret_in_it_is_refused(
    given: dict[str, Any], called: str, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    asked = {"prompt": "Say {{word}}", "variables": {"word": "tree"}, **given}
    with pytest.raises(RequestError) as caught:
        nbadapt.prompt("zero-shot", asked.pop("prompt"), model=str(tiny_models.folder("gpt2")), **asked)
    assert str(caught.value).startswith(f"{called} holds a password or a key, which would be kept with the run: ")
    assert not runs.exists()


def test_prompts_may_be_about_addresses(runs: Path) -> None:
    prompt = "Whose password is in postgresql://ann:secret@host/db?"
    run = nbadapt.prompt("zero-shot", prompt, model=str(tiny_models.folder("gpt2")), max_new_tokens=1)
    assert run.request["prompt"] == prompt


def test_a_note_or_a_tag_with_a_secret_is_refused(hostile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    run = nbadapt.show(hostile.name)
    for name, value in (("note", f"asked with {KEY}"), ("tags", [KEY])):
        with pytest.raises(RequestError, match="holds a password or a key, which would be kept with the run"):
            setattr(run, name, value)
    assert not (hostile / "notes.jsonl").exists()


def test_every_free_text_of_an_event_is_hidden_and_what_is_looked_up_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    looked_up = {"path", "metric", "spread"}
    for kind in events.KINDS.values():
        fields = {field.name: str(field.type) for field in dataclasses.fields(kind)}
        texts = {name for name, said in fields.items() if said in {"str", "str | None"}}
        rest = {name: 1 for name in fields if name not in texts}
        event = kind(**dict.fromkeys(texts, f"a {KEY}"), **rest)
        shown = {name: getattr(event, name) for name in texts}
        assert shown == {name: f"a {KEY}" if name in looked_up else "a ***" for name in texts}, kind


def test_an_address_with_a_password_is_not_indexed() -> None:
    for url in ("https://ann:pass@host/docs", "https://host/docs?token=abc"):
        with pytest.raises(RequestError, match="would be kept in the index") as caught:
            find([url])
        assert "pass@" not in str(caught.value)
        assert "abc" not in str(caught.value)


def test_errors_hide_what_they_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert str(DataError(f"no file {TOKEN}")) == "no file ***"
    assert str(pickle.loads(pickle.dumps(DataError("a")))) == "a"


@pytest.fixture
def shell() -> Shell:
    return Shell()
