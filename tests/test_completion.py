"""Tab in the cell: methods, options, settings and values, and nothing else among them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from distributions import Site, method_source
from shells import Shell
from tiny_models import reviews

from nbadapt import model_names, registry
from nbadapt.commands import COMMANDS
from nbadapt.completion import complete
from nbadapt.options import DTYPES, TASKS, options, setting_flag
from nbadapt.settings import describe

SETTINGS = """class Settings(Config):
        size: int = 3
        long_name: bool = False
        way: __import__("typing").Literal["slow", "fast"] = "slow"
    Config = Settings
"""


@pytest.fixture(scope="module")
def shell() -> Shell:
    made = Shell()
    made["train_df"] = pd.DataFrame(reviews())
    made["rows"] = reviews()
    made["by_column"] = {"text": ["a"], "label": ["b"]}
    made["number"] = 3
    return made


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A third party's method, to show that completion knows nothing of methods itself."""
    site = Site(tmp_path / "site", monkeypatch)
    source = method_source("theirs", extra=SETTINGS)
    site.add("their-methods", "1.0", {"theirs": "their_plugin:Plugin"}, {"their_plugin": source})
    site.add("broken-methods", "1.0", {"broken": "broken_plugin:Plugin"}, {"broken_plugin": "import nothing_like_it"})
    yield
    site.forget()


TABLES = ["by_column", "rows", "train_df"]
FINETUNE = [*options("finetune")]


def test_methods_of_each_magic(shell: Shell):
    assert shell.tab("%%finetune ") == [m.name for m in registry.methods("finetune")]
    assert shell.tab("%%prompt ") == [m.name for m in registry.methods("prompt")]
    assert shell.tab("%%finetune lo") == ["lora"]
    assert shell.tab("x = %finetune lo") == ["lora"]


def test_options_and_settings_of_the_method(shell: Shell):
    settings = [setting_flag(setting.name) for setting in describe(registry.load("lora"))]
    assert shell.tab("%%finetune lora ") == [*options("finetune"), *settings]
    assert shell.tab("%%finetune lora --mod") == ["--model"]
    assert shell.tab("%%finetune lora --le") == ["--learning-rate"]
    assert "--model" not in shell.tab("%%finetune lora --model minilm ")
    assert shell.tab("%%finetune lora --dry-run --back") == ["--background"]
    assert "--labels" not in shell.tab("%%finetune lora --l")


def test_values_of_options(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.csv").touch()
    (tmp_path / "OLD.CSV").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "b.jsonl").touch()
    assert shell.tab("%%finetune lora --model ") == model_names.names()
    assert shell.tab("%%finetune lora --model=mini") == ["minilm"]
    assert shell.tab("%%prompt zero-shot --model op") == ["openai:"]  # finetuning needs the weights
    assert shell.tab("%%finetune lora --data ") == [*TABLES, "OLD.CSV", "more/", "train.csv"]
    assert shell.tab("%%finetune lora --data more/") == ["more/b.jsonl"]
    assert complete(["%%finetune lora --data ~no-such-user/"], {}) == ("~no-such-user/", [])
    assert shell.tab("%%finetune lora --eval tr") == ["train_df", "train.csv"]
    assert shell.tab("%%finetune lora --data train_df --text ") == ["text", "label"]
    assert shell.tab("%%finetune lora --data by_column --label l") == ["label"]
    assert shell.tab("%%finetune lora --dtype ") == list(DTYPES)
    assert shell.tab("%%finetune lora --task ") == list(TASKS)
    assert shell.tab("%%finetune lora --device c") == ["cpu", "cuda"]


def test_a_run_is_offered_as_a_model(shell: Shell, tmp_path: Path):
    from nbadapt.run import Run

    shell["tuned"] = Run(tmp_path / "20260101-000000-lora-abcd")
    try:
        assert shell.tab("%%finetune lora --model tu") == ["tuned"]
        assert shell.tab("%nbadapt show t") == ["tuned"]
    finally:
        del shell.ip.user_ns["tuned"]


def test_runs_and_functions_are_offered_where_a_setting_names_one(shell: Shell, tmp_path: Path):
    from nbadapt.run import Run

    shell["judged"] = Run(tmp_path / "20260101-000000-reward-abcd")
    shell["judge_length"] = lambda prompts, completions: [len(text) for text in completions]
    try:
        assert shell.tab("%%finetune ppo --reward judge") == ["judged", "judge_length"]
        assert shell.tab("%%finetune ppo --set reward=judge_") == ["judge_length"]
        assert shell.tab("%%finetune ppo\nreward: judge") == ["judged", "judge_length"]
    finally:
        del shell.ip.user_ns["judged"], shell.ip.user_ns["judge_length"]


@pytest.mark.usefixtures("theirs")
def test_settings_and_values_come_from_the_plugin(shell: Shell):
    assert "theirs" in shell.tab("%%finetune ")
    assert "broken" not in shell.tab("%%finetune ")
    assert shell.tab("%%finetune theirs --way ") == ["slow", "fast"]
    assert shell.tab("%%finetune theirs --long-name t") == ["true"]
    assert shell.tab("%%finetune theirs --set ") == ["size=", "long_name=", "way="]
    assert shell.tab("%%finetune theirs --set way=f") == ["fast"]
    assert shell.tab("%%finetune theirs --model minilm\n") == ["size: ", "long_name: ", "way: "]
    assert shell.tab("%%finetune theirs\nsize: 3\nlo") == ["long_name: "]
    assert shell.tab("%%finetune theirs\nsize: 3\n") == ["long_name: ", "way: "]
    assert shell.tab("%%finetune theirs\nway: ") == ["slow", "fast"]
    assert shell.tab("\n\n%%finetune theirs\nway:f") == ["fast"]


class Unlike:
    """A variable that fails at being looked at, as a proxy may whose server is gone."""

    @property
    def __class__(self) -> type:
        raise LookupError


def test_a_variable_that_cannot_be_looked_at_breaks_no_tab(shell: Shell):
    shell["unlike"] = Unlike()
    try:
        assert shell.tab("%%finetune lora --model mini") == []
        assert shell.tab("%%finetune lora --dt") == ["--dtype"]
    finally:
        del shell.ip.user_ns["unlike"]


def test_examples_of_open_settings_are_offered(shell: Shell):
    assert shell.tab("%%finetune lora\ntarget_modules: all") == ["all-linear"]


def test_commands(shell: Shell):
    assert shell.tab("%nbadapt ") == list(COMMANDS)
    assert shell.tab("%nbadapt he") == ["help"]
    assert shell.tab("%nbadapt help lo") == ["lora"]


def test_runs_complete_by_id(shell: Shell, runs: Path):
    for name in ("20260101-000000-lora-abcd", "20260102-000000-lora-abce"):
        (runs / name).mkdir(parents=True)
        (runs / name / "request.json").write_text("{}")
    assert shell.tab("%nbadapt resume 2026") == ["20260102-000000-lora-abce", "20260101-000000-lora-abcd"]


def test_other_cells_complete_as_before(shell: Shell):
    assert "train_df" in shell.tab("train_")
    assert "train_df" in shell.tab("x = 1\ntrain_")
    assert shell.tab("%%finet") == ["%%finetune"]


def test_a_kernel_completes_too(tmp_path: Path):
    """Through the protocol: what the kernel answers to a front end's Tab, and which text it replaces."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(cwd=str(tmp_path))
    try:
        client.execute_interactive("%load_ext nbadapt", timeout=60)
        for code, start, expected in (
            ("%%finetune lora --model mi", 24, ["minilm"]),
            ("%%finetune lora --dt", 16, ["--dtype"]),
            ("%%finetune lora\nr: 8\nlear", 21, ["learning_rate: "]),
            ("%%finetune lora --target-modules all-", 33, ["all-linear"]),
        ):
            content = client.complete(code, len(code), reply=True, timeout=60)["content"]
            assert content["matches"] == expected
            assert (content["cursor_start"], content["cursor_end"]) == (start, len(code))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
