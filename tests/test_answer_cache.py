"""Answers are kept on disk: the same is asked once, and what decides an answer is in its key."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from test_prompting import REVIEWS, TRANSLATIONS, Stopper, make_job, predictions, trained
from test_prompting import run as run_job

import nbadapt
from nbadapt import answer_cache, commands, devices, models, registry, timing
from nbadapt.answer_cache import AnswerCache
from nbadapt.engines.generate import LanguageModel
from nbadapt.errors import RequestError, StoreError
from nbadapt.events import Notice, Progress
from nbadapt.method import ModelRef
from nbadapt.testing.tiny import tiny_model

WRITE = {"max_new_tokens": 3, "batch_size": 2}
CHOICE = {"batch_size": 2}
TASKS = [("generation", TRANSLATIONS, WRITE), ("classification", REVIEWS, CHOICE)]


@pytest.fixture(autouse=True, scope="module")
def _forget_bases() -> Iterator[None]:
    yield
    models.free()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every prompt that a language model was really asked."""
    prompts: list[Any] = []
    generate, scored = LanguageModel.generate, LanguageModel.scored

    def generating(self: Any, given: Any, **settings: Any) -> Any:
        prompts.extend(given)
        return generate(self, given, **settings)

    def scoring(self: Any, given: Any, labels: Any, **settings: Any) -> Any:
        prompts.extend(given)
        return scored(self, given, labels, **settings)

    monkeypatch.setattr(LanguageModel, "generate", generating)
    monkeypatch.setattr(LanguageModel, "scored", scoring)
    return prompts


@pytest.mark.parametrize(("task", "rows", "settings"), TASKS, ids=[t[0] for t in TASKS])
def test_the_same_is_asked_once(task: str, rows: Any, settings: Any, tmp_path: Path, asked: list[Any]) -> None:
    first = make_job("zero-shot", tmp_path / "a", data=rows, settings=settings)
    outcome, _ = run_job(first)
    assert len(asked) == len(rows)
    again = make_job("zero-shot", tmp_path / "b", data=rows, settings=settings)
    repeated, events = run_job(again)
    assert len(asked) == len(rows)
    assert (repeated, predictions(again)) == (outcome, predictions(first))
    total = registry.load("zero-shot")().estimate(again).steps
    assert [(e.step, e.total, e.examples) for e in events if isinstance(e, Progress)] == [(total, total, len(rows))]
    told = [e.text for e in events if isinstance(e, Notice)]
    assert f"{len(rows)} of {len(rows)} rows were asked before: see  %nbadapt cache" in told
    more = [*rows, {**rows[0], ("text" if "text" in rows[0] else "prompt"): "New."}]
    run_job(make_job("zero-shot", tmp_path / "c", data=more, settings=settings))
    assert len(asked) == len(rows) + 1


def test_one_prompt_is_asked_once(tmp_path: Path, asked: list[Any]) -> None:
    for labels in ((), ("good", "bad")):
        found = [run_job(make_job("zero-shot", tmp_path, prompt="The dog", labels=labels))[0] for _ in range(2)]
        assert found[0] == found[1]
    assert len(asked) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {**WRITE, "max_new_tokens": 4}},
        {"settings": {**WRITE, "temperature": 0.5}},
        {"settings": {**WRITE, "cache": False}},
        {"prompt": "Say: {{prompt}}"},
        {"chat": True},
        {"architecture": "llama"},
        {"dtype": "bfloat16"},
        {"labels": ("Haus", "Hund")},
    ],
    ids=str,
)
def test_what_decides_an_answer_is_in_its_key(change: dict[str, Any], tmp_path: Path, asked: list[Any]) -> None:
    rows = TRANSLATIONS[:2] if "labels" not in change else [{"prompt": row["prompt"]} for row in TRANSLATIONS[:2]]
    given = {"data": rows, "settings": WRITE}
    run_job(make_job("zero-shot", tmp_path / "a", **given))
    run_job(make_job("zero-shot", tmp_path / "b", **{**given, **change}))
    assert len(asked) == 4


def test_the_seed_counts_where_something_is_drawn(tmp_path: Path, asked: list[Any]) -> None:
    for seed in (0, 1):
        run_job(make_job("zero-shot", tmp_path / "a", prompt="The dog", seed=seed, settings=WRITE))
    assert len(asked) == 1
    for seed in (0, 1, 1):
        run_job(
            make_job("zero-shot", tmp_path / "b", prompt="The dog", seed=seed, settings={**WRITE, "temperature": 1.0})
        )
    assert len(asked) == 3


def test_more_paths_ask_only_for_the_new_ones(tmp_path: Path, asked: list[Any]) -> None:
    found = []
    for paths in (2, 5):
        settings = {**WRITE, "temperature": 1.0, "reasoning_paths": paths}
        job = make_job("chain-of-thought", tmp_path / str(paths), data=TRANSLATIONS[:2], settings=settings)
        run_job(job)
        found.append([row["reasoning"] for row in predictions(job)])
    assert len(asked) == 2 * 5
    assert [texts[:2] for texts in found[1]] == found[0]


def test_weights_that_change_are_asked_anew(tmp_path: Path, asked: list[Any]) -> None:
    folder = shutil.copytree(tiny_models.folder("gpt2"), tmp_path / "model")
    other = tiny_model("gpt2", tmp_path / "other", seed=1)
    model = ModelRef("mine", "folder", str(folder))
    given: dict[str, Any] = {"data": REVIEWS, "settings": CHOICE, "model": model}
    run_job(make_job("zero-shot", tmp_path / "a", **given))
    shutil.copy(other / "model.safetensors", folder / "model.safetensors")  # in the same kernel, which has it loaded
    changed = make_job("zero-shot", tmp_path / "b", **given)
    run_job(changed)
    assert len(asked) == 2 * len(REVIEWS)
    fresh = make_job("zero-shot", tmp_path / "c", **{**given, "model": ModelRef("other", "folder", str(other))})
    run_job(fresh)
    assert predictions(changed) == predictions(fresh)


@pytest.mark.slow
def test_a_finetuned_model_is_told_by_what_its_run_left(tmp_path: Path, asked: list[Any]) -> None:
    base = trained(tmp_path, "generation")
    model = ModelRef("tuned", "run", str(base.directory))
    for _ in range(2):
        run_job(make_job("zero-shot", tmp_path / "a", model=model, prompt="The dog", settings=WRITE))
    assert len(asked) == 1
    adapter = next((base.directory / "artifacts").rglob("*.safetensors"))
    adapter.write_bytes(adapter.read_bytes())  # the same content again
    run_job(make_job("zero-shot", tmp_path / "a", model=model, prompt="The dog", settings=WRITE))
    assert len(asked) == 1
    (adapter.parent / "note.json").write_text("{}")
    run_job(make_job("zero-shot", tmp_path / "a", model=model, prompt="The dog", settings=WRITE))
    assert len(asked) == 2


def test_a_stopped_run_goes_on_with_what_is_new(asked: list[Any]) -> None:
    given: dict[str, Any] = {"model": str(tiny_models.folder("gpt2")), "max_new_tokens": 3, "batch_size": 2}
    folder = answer_cache.file().parent.parent / "stopped"
    outcome = registry.load("zero-shot")().run(
        make_job("zero-shot", folder, data=TRANSLATIONS, settings=WRITE, dtype=devices.best_dtype("cpu")), Stopper(2)
    )
    assert outcome.metrics["rows"] == len(asked) == 4
    run = nbadapt.prompt("zero-shot", data=TRANSLATIONS, device="cpu", dtype=devices.best_dtype("cpu"), **given)
    assert len(asked) == len(TRANSLATIONS)
    assert len(run.answers) == len(TRANSLATIONS)
    steps = [e.step for _, e in run.events if isinstance(e, Progress)]
    assert steps == [2, 3, 4]


def test_a_timed_dry_run_neither_finds_nor_keeps_answers(tmp_path: Path, asked: list[Any]) -> None:
    job = make_job("zero-shot", tmp_path, data=TRANSLATIONS, settings=WRITE)
    run_job(job)
    kept = answer_cache.size().answers
    assert timing.seconds(registry.load("zero-shot")(), job, 4)
    assert len(asked) == 2 * len(TRANSLATIONS)
    assert answer_cache.size().answers == kept == len(TRANSLATIONS)


# ---------------------------------------------------------------------------------------------- the file


def keys(n: int) -> list[bytes]:
    return [answer_cache.key("model", i) for i in range(n)]


def test_what_is_kept_is_found_and_the_first_answer_stays() -> None:
    names = keys(1200)
    with AnswerCache() as cache:
        cache.add({name: {"ü": i} for i, name in enumerate(names)})
        cache.add({names[3]: "another"})
        assert cache.find([*names, b"x" * 16]) == {name: {"ü": i} for i, name in enumerate(names)}
    with AnswerCache(wanted=False) as cache:
        cache.add({b"y" * 16: 1})
        assert cache.find(names) == {}
    assert answer_cache.size().answers == 1200
    mode = sqlite3.connect(answer_cache.file()).execute("PRAGMA journal_mode").fetchone()
    assert mode == ("wal",)


def test_the_command_shows_the_size_and_clears() -> None:
    assert "0 answers, 0.0 MiB" in repr(commands.execute("cache", {}))
    with AnswerCache() as cache:
        cache.add(dict.fromkeys(keys(3), "x"))
        assert "3 answers" in repr(commands.execute("cache", {}))
        assert "Forgot 3 answers." in repr(commands.execute("cache clear", {}))
        assert cache.find(keys(3)) == {}
        cache.add(dict.fromkeys(keys(2), "x"))  # one that is open goes on
    assert nbadapt.cache().answers == 2
    assert nbadapt.clear_cache() == 2
    with pytest.raises(RequestError, match="unexpected 'cler': write  %nbadapt cache  or  %nbadapt cache clear"):
        commands.execute("cache cler", {})


def test_a_damaged_file_is_made_anew() -> None:
    path = answer_cache.file()
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database " * 1000)
    with AnswerCache() as cache:
        cache.add({keys(1)[0]: "x"})
        assert cache.find(keys(1)) == {keys(1)[0]: "x"}
        assert not cache.fault


def test_a_place_that_cannot_be_used_costs_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NBADAPT_ANSWERS", str(tmp_path / "file"))
    outcome, events = run_job(make_job("zero-shot", tmp_path / "run", data=TRANSLATIONS, settings=WRITE))
    assert outcome.metrics["rows"] == len(TRANSLATIONS)
    (warning,) = [e.text for e in events if isinstance(e, Notice) and e.level == "warning"]
    assert warning.startswith("answers are not kept for later runs")
    monkeypatch.setenv("NBADAPT_ANSWERS", str(tmp_path / "folder"))
    (tmp_path / "folder/answers.sqlite").mkdir(parents=True)
    with pytest.raises(StoreError, match="cannot be used"):
        answer_cache.size()


def test_beyond_its_bound_the_older_half_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    with AnswerCache() as cache:
        cache.add(dict.fromkeys(keys(100), "x" * 1000))
    monkeypatch.setattr(answer_cache, "MOST_BYTES", 50_000)
    with AnswerCache() as cache:
        assert list(cache.find(keys(100))) != []
        assert set(cache.find(keys(100))) == set(keys(100)[50:])


def test_a_killed_process_loses_no_batch_that_was_kept() -> None:
    code = """
import itertools, sys
from nbadapt.answer_cache import AnswerCache, key
cache = AnswerCache()
for i in itertools.count():
    cache.add({key("model", 10 * i + j): i for j in range(10)})
    print(i, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        with AnswerCache() as cache:  # two processes at once
            for _ in range(20):
                done = int(worker.stdout.readline())
                cache.add({answer_cache.key("other", done): done})
        worker.send_signal(signal.SIGKILL)
    with AnswerCache() as cache:
        assert len(cache.find(keys(10 * (done + 1)))) == 10 * (done + 1)
        assert len(cache.find([answer_cache.key("other", i) for i in range(20)])) == 20
    assert (answer_cache.size().answers - 20) % 10 == 0  # a batch is whole, or not there


@pytest.mark.slow
def test_a_killed_run_is_resumed_with_what_is_new(asked: list[Any]) -> None:
    rows = tiny_models.translations(40)
    code = f"""
import nbadapt
nbadapt.prompt("zero-shot", model={str(tiny_models.folder("gpt2"))!r}, data={rows!r}, batch_size=2, max_new_tokens=40,
    device="cpu", dtype="float32")
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as worker:
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline and (not answer_cache.file().exists() or answer_cache.size().answers < 6):
            time.sleep(0.02)
        worker.send_signal(signal.SIGKILL)
    kept = answer_cache.size().answers
    assert 6 <= kept < 40
    (run,) = nbadapt.runs()
    assert run.state == "killed"
    run.resume()
    assert run.state == "done"
    assert len(run.answers) == 40
    assert len(asked) == 40 - kept
