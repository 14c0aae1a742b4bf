"""From a request to a run: checks before, events during, what is kept after. Real tiny models, real threads."""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file

import nbadapt
from nbadapt import models, plan, runner, store, timing
from nbadapt.errors import NbadaptError, RequestError, RunError, StoreError
from nbadapt.events import Checkpoint, Notice, Progress, StateChange
from nbadapt.method import Job, ModelRef
from nbadapt.plan import prepare
from nbadapt.request import Request
from tests import tiny_models
from tests.steps_method import Steps, StepsSettings

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _forget_bases(monkeypatch):
    monkeypatch.setenv("NBADAPT_UI", "text")
    yield
    models.free()


def request(**changes: object) -> Request:
    settings = {"epochs": 4, "batch_size": 4, "samples": 0, **changes.pop("settings", {})}
    given = {
        "verb": "finetune",
        "method": "lora",
        "model": str(tiny_models.folder("bert")),
        "data": pd.DataFrame(tiny_models.reviews(24)),
        "split": 0.25,
        "dtype": "float32",
        **changes,
    }
    return Request(settings=settings, **given)


def start(**changes: object):
    return runner.start(prepare(request(**changes)))


def wait_for(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def steps(run) -> list[int]:
    return [e.step for _, e in list(run.events) if isinstance(e, Progress)]


def test_a_run_is_the_same_object_on_disk_and_in_memory():
    run = runner.submit(request())
    assert run.state == "done"
    assert store.open(run.id) is run
    memory = (run.metrics, run.history, run.estimate.trainable, run.title)
    store.Run = None  # type: ignore[attr-defined]
    type(run)._known.clear()
    again = store.open(run.id)
    assert again is not run
    assert (again.metrics, again.estimate.trainable, again.title) == (memory[0], memory[2], memory[3])
    pd.testing.assert_frame_equal(again.history, memory[1])
    texts = ["The film was great.", "The film was dull."]
    assert (again.predict(texts).probabilities == run.predict(texts).probabilities).all()


def test_what_was_asked_is_enough_to_repeat_it():
    first = runner.submit(request())
    record = first.request
    assert record["settings"]["r"] == 8
    assert record["data"]["rows"] == 18
    assert len(record["data"]["fingerprint"]) >= 16
    assert {"torch", "transformers", "peft", "python"} <= record["versions"].keys()
    second = runner.submit(request())
    assert second.metrics == first.metrics
    assert second.request["data"] == record["data"]


def test_held_out_rows_are_told():
    run = runner.submit(request())
    texts = [n.text for n in run.log.notices]
    assert any("6 of 24 rows held out (stratified by label, seed 0)" in text for text in texts)


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": {"max_steps": 1000}},
        {"method": "features", "settings": {}, "data": pd.DataFrame(tiny_models.reviews(300))},
    ],
    ids=["lora", "features"],
)
def test_a_timed_dry_run_predicts_seconds_and_writes_nothing(changes, runs):
    asked = request(dry_run=True, timed=True, **changes)
    if asked.method == "features":  # it has no epochs
        asked = dataclasses.replace(asked, settings={})
    planned = runner.submit(asked)
    assert planned.estimate.seconds > 0
    assert "evaluations not counted" in repr(planned)
    assert not runs.exists()
    assert runner.current() is None


def test_what_is_timed_is_not_kept(runs, monkeypatch, tmp_path):
    """Timed twice, features would be found on disk, and take no time at all."""
    monkeypatch.setenv("NBADAPT_EMBEDDINGS", str(tmp_path / "embeddings"))
    rows = pd.DataFrame(tiny_models.reviews(300))
    runner.submit(dataclasses.replace(request(dry_run=True, timed=True, method="features", data=rows), settings={}))
    assert not (tmp_path / "embeddings").exists()


def test_the_predicted_time_is_that_of_a_step_times_the_steps(tmp_path):
    """A method whose steps take 20 ms: no less than that, and not much more."""
    job = Job("steps", StepsSettings(steps=500, seconds=0.02), ModelRef("none", "folder", ""), "text", tmp_path)
    found = timing.seconds(Steps(), job, 500)
    assert 10 <= found < 30


def test_all_layers_warn_with_the_estimate_when_they_start():
    run = start(method="full", settings={"max_steps": 1})
    run.join(60)
    notices = [event.text for _, event in run.events if isinstance(event, Notice)]
    assert any("all layers are trained on a copy" in text and "of memory beside the base's" in text for text in notices)


def test_timed_goes_with_a_dry_run():
    with pytest.raises(RequestError, match="add --dry-run"):
        request(timed=True)


def test_a_dry_run_estimates_and_writes_nothing(runs):
    planned = runner.submit(request(dry_run=True))
    assert planned.estimate.trainable > 0
    assert "trainable parameters" in repr(planned)
    assert "<table>" in planned._repr_html_()
    assert not runs.exists()


def test_stop_acts_at_the_next_step_and_keeps_a_usable_run():
    run = start(settings={"epochs": 500})
    wait_for(lambda: len(steps(run)) > 5)
    at = steps(run)[-1]
    run.stop()
    run.join(20)
    assert run.state == "stopped"
    assert steps(run)[-1] <= at + 2
    assert len(run.predict(["great"])) == 1
    assert store.last_checkpoint(run.directory).name == f"checkpoint-{steps(run)[-1]}"


def test_pause_holds_and_resume_goes_on():
    run = start(settings={"epochs": 500})
    wait_for(lambda: len(steps(run)) > 3)
    run.pause()
    wait_for(lambda: run.state == "paused")
    at = steps(run)[-1]
    time.sleep(0.4)
    assert steps(run)[-1] == at
    run.resume()
    wait_for(lambda: steps(run)[-1] > at)
    run.pause()
    wait_for(lambda: run.state == "paused")
    run.stop()
    run.join(20)
    assert run.state == "stopped"


def test_a_stopped_run_resumes_to_the_same_loss_as_an_unbroken_one():
    changes = {"settings": {"epochs": 6, "dropout": 0.1}}
    whole = runner.submit(request(**changes))
    broken = start(**changes)
    wait_for(lambda: len(steps(broken)) >= 7)
    broken.stop()
    broken.join(20)
    assert broken.state == "stopped"
    broken.resume()
    assert broken.state == "done"
    assert broken.metrics["loss"] == pytest.approx(whole.metrics["loss"], rel=1e-5)
    assert broken.metrics["train_loss"] == pytest.approx(whole.metrics["train_loss"], rel=1e-5)
    train = broken.history.query("split == 'train'")
    assert train.step.tolist() == list(range(1, len(train) + 1))
    expected = whole.history.query("split == 'train'")
    assert train.loss.tolist() == pytest.approx(expected.loss.tolist(), rel=1e-4)


TRAIN = """
import sys
import pandas as pd
from nbadapt import runner
from nbadapt.method import Job, ModelRef
from nbadapt.plan import prepare
from nbadapt.request import Request
from tests import tiny_models
from tests.steps_method import Steps, StepsSettings
settings = {"epochs": 40, "batch_size": 4, "samples": 0, "save_steps": 3, "dropout": 0.1}
model = sys.argv[1]
run = runner.start(prepare(Request(
    verb="finetune", method="lora", model=model, data=pd.DataFrame(tiny_models.reviews(24)), split=0.25,
    dtype="float32", settings=settings)))
run.join()
"""


def _train_in_a_process(model: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", TRAIN, model], cwd=PROJECT, stderr=subprocess.PIPE)


def _only_new(before: set[str]):
    return next((r for r in store.runs() if r.id not in before), None)


@pytest.mark.parametrize("after_step", [pytest.param(4, marks=pytest.mark.slow), 50])
def test_a_killed_run_resumes_and_harms_no_other(after_step):
    earlier = runner.submit(request())
    settings = {"epochs": 40, "save_steps": 3, "dropout": 0.1}
    whole = runner.submit(request(settings=settings))
    before = {r.id for r in store.runs()}
    worker = _train_in_a_process(str(tiny_models.folder("bert")))
    try:
        wait_for(lambda: (run := _only_new(before)) is not None and len(steps(run)) >= after_step, 120)
        assert _only_new(before).state == "running"
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
    assert store.open(earlier.id).metrics == earlier.metrics
    killed = _only_new(before)
    assert killed.state == "killed"
    assert store.checkpoint_step(store.last_checkpoint(killed.directory)) >= after_step - 3
    killed.resume()
    assert killed.state == "done"
    assert killed.metrics["loss"] == pytest.approx(whole.metrics["loss"], rel=1e-4)
    told = killed.history.query("split == 'train'").step.tolist()
    assert told == list(range(1, len(told) + 1))


def test_a_checkpoint_without_its_mark_is_not_used():
    run = start(settings={"epochs": 500, "save_steps": 2})
    wait_for(lambda: any(isinstance(e, Checkpoint) for _, e in list(run.events)))
    run.stop()
    run.join(20)
    newest = store.last_checkpoint(run.directory)
    (newest / store.COMPLETE).unlink()
    assert store.last_checkpoint(run.directory) != newest


def test_an_event_log_cut_short_is_read_up_to_there_and_goes_on():
    run = runner.submit(request())
    path = run.directory / "events.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + '\n{"event": "metr')
    assert len(store.read_events(run.directory)) == len(lines) - 1
    log = store.EventLog(run.directory)
    log.write(1.0, StateChange("done"))
    log.close()
    assert store.read_events(run.directory)[-1] == (1.0, StateChange("done"))


def test_one_run_at_a_time():
    run = start(settings={"epochs": 500})
    with pytest.raises(RequestError, match="still going on"):
        start()
    run.stop()
    run.join(20)


@pytest.mark.parametrize(("alpha", "kept"), [(1e38, ""), (1e18, "; the checkpoint of step [1-8] is kept")])
def test_a_loss_that_is_no_number_ends_the_run_in_one_line_and_keeps_the_last_good_checkpoint(alpha, kept):
    words = rf"is (nan|inf) at step \d: lower learning_rate .*max_grad_norm: 1{kept}$"
    with pytest.raises(RunError, match=words) as caught:
        runner.submit(
            request(
                settings={
                    "alpha": alpha,
                    "r": 1,
                    "learning_rate": 10,
                    "max_grad_norm": 0,
                    "save_steps": 1,
                    "max_steps": 9,
                }
            )
        )
    assert "\n" not in str(caught.value)
    run = store.runs()[0]
    assert run.state == "failed"
    good = store.last_checkpoint(run.directory)
    assert (good is not None) == bool(kept)
    if good is not None:
        assert all(tensor.isfinite().all() for tensor in load_file(good / "trained.safetensors").values())


def test_a_failure_keeps_no_model_in_memory(monkeypatch):
    """After an error in the middle of training nothing holds the adapted model any more."""
    from transformers import Trainer

    held = []

    def fail(self, *_args, **_kwargs):
        held.append(weakref.ref(self.model))
        raise ValueError("broken <b>inside</b>\nsecond line")

    monkeypatch.setattr(Trainer, "training_step", fail)
    with pytest.raises(RunError) as caught:
        runner.submit(request())
    assert "ValueError: broken" in str(caught.value)
    assert "\n" not in str(caught.value)
    run = store.runs()[0]
    assert "second line" in (run.directory / "error.txt").read_text()
    del caught
    gc.collect()
    assert held[0]() is None


def test_nothing_that_libraries_print_reaches_the_notebook(capfd):
    capfd.readouterr()
    run = start()
    run.join(60)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_an_unknown_or_ambiguous_run_is_one_line():
    run = runner.submit(request())
    with pytest.raises(StoreError, match="no run 'nothing'"):
        store.open("nothing")
    runner.submit(request())
    with pytest.raises(StoreError, match="several runs"):
        store.open(run.id[:4])


def test_a_damaged_run_hurts_no_other():
    good, bad = runner.submit(request()), runner.submit(request())
    (bad.directory / "request.json").write_text("{")
    assert store.open(good.id).metrics
    assert "cannot be read" in repr(store.open(bad.id))


@pytest.mark.parametrize(
    "file",
    [
        "request.json",
        "events.jsonl",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("outcome.json", "notes.jsonl", "worker.json")),
    ],
)
def test_json_that_is_nested_too_deeply_hurts_no_other_run(file):
    good, bad = (runner.submit(request(settings={"max_steps": 1})) for _ in range(2))
    path = bad.directory / file
    path.write_text((path.read_text() if file == "events.jsonl" else "") + "[" * 100_000 + "\n")
    type(bad)._known.clear()
    table = repr(nbadapt.runs())
    assert good.id in table
    assert bad.id in table
    shown = repr(store.open(str(bad.directory)))
    assert ("nested too deeply" in shown) == (file in {"request.json", "outcome.json"})
    if file == "events.jsonl":
        assert len(store.read_events(bad.directory)) == len(path.read_text().splitlines()) - 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": None}, ("--model", "minilm")),
        ({"data": None}, ("--data",)),
        ({"split": 1.5}, ("--split", "between 0 and 1")),
        ({"device": "cuda:9"}, ("cuda:9", "cpu")),
        ({"device": "tpu!"}, ("tpu!", "cpu")),
        ({"dtype": "int8"}, ("int8", "bfloat16")),
        ({"dtype": "float16", "device": "cpu"}, ("float16", "CPU")),
        ({"model": 3}, ("int",)),
    ],
)
def test_bad_requests_are_one_line_and_leave_nothing(changes, words, runs):
    with pytest.raises(NbadaptError) as caught:
        runner.submit(request(**changes))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    assert not runs.exists()


def test_a_job_that_does_not_fit_is_refused_before_weights_load(monkeypatch):
    monkeypatch.setattr(plan, "available_bytes", lambda _device: 1000)
    with pytest.raises(NbadaptError, match=r"needs about .* is free on cpu"):
        runner.submit(request())


def test_a_second_run_is_not_charged_for_weights_that_are_loaded(monkeypatch):
    first = runner.submit(request())
    needed = sum(size for item, size in first.estimate.memory.items() if item not in {"activations", "weights"})
    monkeypatch.setattr(plan, "available_bytes", lambda _device: needed + 1)
    assert runner.submit(request()).state == "done"
    models.free()
    with pytest.raises(NbadaptError, match="is free on cpu"):
        runner.submit(request())


def test_a_run_keeps_its_device_and_dtype_and_is_read_on_a_machine_without_that_device():
    run = runner.submit(request())
    for option in ({"device": "cpu"}, {"dtype": "bfloat16"}):
        with pytest.raises(RequestError, match="keeps its own"):
            runner.submit(Request(verb="prompt", method="zero-shot", model=run, prompt="x", **option))
    path = run.directory / "request.json"
    path.write_text(path.read_text().replace('"device": "cpu"', '"device": "cuda:7"'))
    expected = run.predict("The film was great.").probabilities
    run.forget()
    assert (run.predict("The film was great.").probabilities == expected).all()


@pytest.mark.slow
def test_runs_may_be_moved_to_another_folder(tmp_path):
    run = start(settings={"epochs": 200, "save_steps": 1, "max_steps": 30})
    wait_for(lambda: len(steps(run)) > 3)
    run.stop()
    run.join(20)
    moved = (store.root()).rename(tmp_path / "elsewhere")
    again = store.open(str(moved / run.id))
    assert (again.export("peft") / "adapter_config.json").is_file()
    assert (again.export("script") / "train.jsonl").is_file()
    again.resume()
    assert again.state == "done"


def test_a_folder_that_cannot_hold_runs_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("NBADAPT_RUNS", str(tmp_path / "file"))
    with pytest.raises(StoreError, match=r"no run can be kept in .*NBADAPT_RUNS"):
        runner.submit(request())


def test_a_run_whose_folder_goes_away_ends_and_says_so():
    run = start(settings={"epochs": 500})
    wait_for(lambda: len(steps(run)) > 3)
    run.pause()  # it must not write while the folder goes
    wait_for(lambda: run.state == "paused")
    shutil.rmtree(run.directory)
    run.directory.write_text("in the way")
    run.stop()
    run.join(20)
    assert run.state == "failed"
    assert "\n" not in str(run.error)
    with pytest.raises(NbadaptError):
        run.wait()


def test_an_export_that_fails_leaves_nothing(tmp_path, monkeypatch):
    run = runner.submit(request())
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run.export("peft", "~/tuned") == tmp_path / "tuned"
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="could not be exported"):
        run.export("peft", tmp_path / "file" / "below")
    shutil.rmtree(store.root() / "data")
    with pytest.raises(StoreError, match="are gone"):
        run.export("script", tmp_path / "script")
    assert not (tmp_path / "script").exists()
    assert run.export("merged", tmp_path / "merged").is_dir()  # needs no rows


def test_run_functions_refuse_politely():
    run = runner.submit(request())
    for call, words in [
        (lambda: run.generate("x"), "classifier"),
        (lambda: run.predict(["x"], labels=["a"]), "trained for the labels negative, positive"),
        (lambda: run.predict([3]), "takes texts"),
        (lambda: run.export("onnx"), "merged, peft, script"),
        (run.stop, "not at work"),
        (run.resume, "is done"),
    ]:
        with pytest.raises(NbadaptError, match=words):
            call()
    folder = run.export("peft")
    assert (folder / "adapter_config.json").exists()
    with pytest.raises(RequestError, match="exists already"):
        run.export("peft")


@pytest.mark.parametrize(
    ("architecture", "rows"), [pytest.param("bert", "reviews", marks=pytest.mark.slow), ("llama", "translations")]
)
def test_the_exported_script_reaches_the_runs_final_loss(architecture, rows, tmp_path):
    data = pd.DataFrame(getattr(tiny_models, rows)(24))
    run = runner.submit(request(model=str(tiny_models.folder(architecture)), data=data, settings={"dropout": 0.1}))
    folder = run.export("script", tmp_path / "script")
    without = "import runpy, sys; sys.modules['nbadapt'] = None; runpy.run_path('train.py', run_name='__main__')"
    script = subprocess.run(
        [sys.executable, "-c", without], cwd=folder, capture_output=True, text=True, check=False, env={**os.environ}
    )
    assert script.returncode == 0, script.stderr
    loss = float(script.stdout.strip().splitlines()[-1].split()[-1])
    assert math.isfinite(loss)
    assert loss == pytest.approx(run.metrics["loss"], rel=1e-4)
    assert json.loads((folder / "adapter" / "adapter_config.json").read_text())["r"] == 8


def test_python_functions_are_there():
    run = nbadapt.finetune(
        "lora",
        model=str(tiny_models.folder("bert")),
        data=tiny_models.reviews(24),
        split=0.25,
        epochs=1,
        batch_size=8,
    )
    assert run.state == "done"
