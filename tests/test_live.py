"""What is asked of a run while it works: without a trace in its result, kept by checkpoints, repeated by the script."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nbadapt import models, runner, store
from nbadapt.errors import NbadaptError, RequestError, RunError, StoreError
from nbadapt.events import Change, Checkpoint, Controls, Metric, Reply, StateChange
from nbadapt.history import History
from nbadapt.method import Predictions
from nbadapt.plan import Plan
from nbadapt.run import Run
from nbadapt.steering import Ask, ChangeRate, EndAtEpoch, Save
from nbadapt_plugins.dpo import Dpo
from nbadapt_plugins.lora import Lora
from nbadapt_plugins.output_layers import OutputLayers
from nbadapt_plugins.p_tuning import PTuning
from nbadapt_plugins.ppo import Ppo
from nbadapt_plugins.reward import Reward
from nbadapt_plugins.top_layers import TopLayers
from tests import test_ppo
from tests.steered import STOP, Steered, resumed
from tests.trained_jobs import make_job

ALL = {"save", "learning_rate", "epoch_end"}
DROPOUT = {"dropout": 0.3, "base_dropout": True}


@pytest.fixture(autouse=True, scope="module")
def _forget_bases():
    yield
    models.free()


def trained(steered: Steered) -> dict[str, torch.Tensor]:
    """The stored result."""
    (name,) = steered.outcome.artifacts.values()
    (file,) = (steered.job.directory / name).glob("*.safetensors")
    return load_file(file)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def rates(steered: Steered) -> list[float]:
    return [e.values["learning_rate"] for e in steered.events if isinstance(e, Metric) and e.split == "train"]


def lora_job(directory: Path, task: str = "classification", **settings: Any):
    architecture = "bert" if task == "classification" else "llama"
    return make_job(Lora, architecture, task, directory, **settings)


BUSY = {1: [Ask("one"), Ask("two words")], 2: [Save(), Ask("three")], 4: [Ask("a film"), Save()], 5: [Save()]}
CASES = [
    pytest.param(Lora, "bert", "classification", DROPOUT, id="lora-classification"),
    pytest.param(Lora, "llama", "generation", DROPOUT, id="lora-generation"),
    pytest.param(OutputLayers, "bert", "classification", {"dropout": 0.3}, id="output-layers", marks=pytest.mark.slow),
    pytest.param(TopLayers, "bert", "classification", {"layers": 1}, id="top-layers", marks=pytest.mark.slow),
    pytest.param(PTuning, "bert", "classification", {}, id="p-tuning", marks=pytest.mark.slow),
    pytest.param(Dpo, "llama", "preference", DROPOUT, id="dpo", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("method", "architecture", "task", "settings"), CASES)
def test_samples_and_saves_leave_no_trace_in_the_weights(method, architecture, task, settings, tmp_path, runs):
    quiet = Steered(method, make_job(method, architecture, task, tmp_path / "quiet", **settings))
    busy = Steered(method, make_job(method, architecture, task, tmp_path / "busy", **settings), BUSY)
    assert [str(wish.error) for wish in busy.wishes if wish.error is not None] == []
    assert len([e for e in busy.events if isinstance(e, Reply)]) == 4
    assert same(trained(quiet), trained(busy))
    losses = [[e.values["loss"] for e in s.events if isinstance(e, Metric)] for s in (quiet, busy)]
    assert losses[0] == losses[1]


def test_ppo_is_steered_without_a_trace(tmp_path, runs):
    quiet = Steered(Ppo, test_ppo.make_job(tmp_path / "quiet"))
    busy = Steered(Ppo, test_ppo.make_job(tmp_path / "busy"), {1: [Ask("one"), Save()], 2: [Ask("two")]})
    assert [wish.error for wish in busy.wishes] == [None] * 3
    assert same(trained(quiet), trained(busy))
    assert busy.run.saved_steps == [1]
    assert isinstance(busy.run.adapted(step=1).generate(["one"])[0], str)


def test_a_changed_rate_scales_the_rest_of_the_schedule(tmp_path, runs):
    settings = {"max_steps": 10, "warmup_ratio": 0.0, "learning_rate": 1e-2}
    plan = {3: [ChangeRate(factor=0.5)], 6: [ChangeRate(rate=1e-3)]}
    steered = Steered(Lora, lora_job(tmp_path, **settings), plan)
    line = [1e-2 * (1 - step / 10) for step in range(10)]  # the rate of steps 1 to 10
    factor = 1e-3 / (0.5 * line[6])
    wanted = [*line[:3], *(0.5 * r for r in line[3:6]), *(0.5 * factor * r for r in line[6:])]
    assert rates(steered) == pytest.approx(wanted, rel=1e-12)
    changes = [e for e in steered.events if isinstance(e, Change)]
    assert [(c.step, c.what) for c in changes] == [(3, "learning_rate"), (6, "learning_rate")]
    assert changes[0].factor == 0.5
    assert changes[1].rate == pytest.approx(1e-3, rel=1e-12)
    assert steered.wishes[1].result == pytest.approx(1e-3, rel=1e-12)
    assert steered.wishes[1].said == "0.001 from step 7 on"


@pytest.mark.parametrize(("steps", "rise"), [(10, 0), (25, 2)])
def test_the_rate_rises_for_its_share_of_the_steps_unless_that_is_one_that_would_learn_nothing(steps, rise, tmp_path):
    found = rates(Steered(Lora, lora_job(tmp_path, max_steps=steps, warmup_ratio=0.08, learning_rate=1e-2)))
    rising = [1e-2 * step / rise for step in range(rise)]
    falling = [1e-2 * (steps - step) / (steps - rise) for step in range(rise, steps)]
    assert found == pytest.approx([*rising, *falling], rel=1e-12)


@pytest.mark.parametrize("save_first", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_resumed_run_keeps_the_changed_rate(tmp_path, runs, save_first):
    settings = {"max_steps": 8, "save_steps": 100, **DROPOUT}
    rate = ChangeRate(factor=0.25)
    whole = Steered(Lora, lora_job(tmp_path / "whole", **settings), {4: [rate]})
    first = [Save(), rate, STOP] if save_first else [rate, STOP]  # a checkpoint of before gets to know the change
    broken = Steered(Lora, lora_job(tmp_path / "broken", **settings), {4: first})
    assert History(broken.timed).progress.step == 4
    again = Steered(Lora, resumed(broken))
    assert same(trained(whole), trained(again))
    log = History(store.read_events(again.job.directory))
    assert [(c.step, c.what) for c in log.changes if c.what == "learning_rate"] == [(4, "learning_rate")]


def test_ppo_goes_on_with_the_changed_rate(tmp_path, runs):
    whole = Steered(Ppo, test_ppo.make_job(tmp_path / "whole"), {1: [ChangeRate(factor=0.5)]})
    assert rates(whole) == pytest.approx([1e-2, 5e-3, 5e-3])
    broken = Steered(Ppo, test_ppo.make_job(tmp_path / "broken"), {1: [ChangeRate(factor=0.5)], 2: [STOP]})
    again = Steered(Ppo, resumed(broken))
    assert rates(again)[-1] == pytest.approx(5e-3)
    assert same(trained(whole), trained(again))


@pytest.mark.parametrize("method", [Lora, Ppo])
def test_it_stops_at_the_end_of_the_epoch_and_goes_on_later(method, tmp_path, runs):
    if method is Ppo:  # 8 prompts, 4 a step
        job = test_ppo.make_job(tmp_path / "a", max_steps=6)
        other = test_ppo.make_job(tmp_path / "b", max_steps=6)
    else:
        job, other = (lora_job(tmp_path / name, epochs=3, eval_steps=100, **DROPOUT) for name in "ab")
    epoch = 2 if method is Ppo else 5
    steered = Steered(method, job, {1: [EndAtEpoch()]})
    log = History(steered.timed)
    assert log.progress.step == epoch
    assert steered.ended == "stopped at the end of epoch 1, as asked"
    assert ("evaluation", "reward" if method is Ppo else "accuracy") in log.series
    assert store.checkpoint_step(store.last_checkpoint(job.directory)) == epoch
    again = Steered(method, resumed(steered))
    assert again.ended == ""
    assert same(trained(again), trained(Steered(method, other)))


def test_the_end_of_the_epoch_can_be_called_off(tmp_path, runs):
    steered = Steered(Lora, lora_job(tmp_path), {1: [EndAtEpoch()], 2: [EndAtEpoch(on=False)]})
    assert steered.ended == ""
    assert History(steered.timed).progress.step == 10
    assert not History(steered.timed).ending


def test_what_was_saved_is_used_and_gone_on_from_after_a_kill(tmp_path, runs):
    """The run's process is as good as killed: nothing is written at its end."""
    steered = Steered(Lora, lora_job(tmp_path / "a", save_steps=100, **DROPOUT), {3: [Save()]})
    whole = trained(steered)
    run = steered.run
    assert run.saved_steps == [3]
    then = run.adapted(step=3).predict(["a fine film"]).probabilities
    stopped = Steered(Lora, lora_job(tmp_path / "b", save_steps=100, **DROPOUT), {3: [STOP]})
    store.write_outcome(stopped.job.directory, "stopped", stopped.outcome, "")
    assert (then == stopped.run.predict(["a fine film"]).probabilities).all()
    with pytest.raises(StoreError, match="no model of step 4; saved steps: 3"):
        run.adapted(step=4)
    with pytest.raises(RunError, match=r"or take what was saved, with run\.adapted\(step=3\)"):
        run.predict("a fine film")
    again = Steered(Lora, resumed(steered))
    assert store.checkpoint_step(again.job.checkpoint) == 3
    assert same(whole, trained(again))
    assert run.saved_steps == [3]


OFFERS = [
    (Lora, "bert", "classification", {*ALL, "predict"}),
    (Lora, "llama", "generation", {*ALL, "generate"}),
    pytest.param(Dpo, "llama", "preference", {*ALL, "generate"}, marks=pytest.mark.slow),
    (Reward, "llama", "preference", ALL),
]


@pytest.mark.parametrize(("method", "architecture", "task", "offered"), OFFERS)
def test_a_run_offers_what_its_engine_can(method, architecture, task, offered, tmp_path, runs):
    steered = Steered(method, make_job(method, architecture, task, tmp_path, max_steps=2), {1: [Ask("?"), Save()]})
    told = [e for e in steered.events if isinstance(e, Controls)]
    assert [set(e.offered) for e in told] == [offered, set()]
    assert told[1].reason == "the training is over"
    asked, saved = steered.wishes
    assert saved.error is None
    answers = bool(offered & {"generate", "predict"})
    assert (asked.error is None) == answers
    if not answers:
        assert str(asked.error) == "this run does not offer to answer prompts, or not yet"
    assert not steered.run.control.ask(Save()).result  # it is over


def test_what_fails_costs_no_run(tmp_path, runs, monkeypatch):
    job = lora_job(tmp_path, "generation", max_steps=4, save_steps=100)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Lora, "keep", full)
    plan = {1: [Ask("word " * 3000), Save()], 2: [ChangeRate(factor=1e5)], 3: [Ask("fine")]}
    steered = Steered(Lora, job, plan)
    too_long, unsaved, absurd, fine = steered.wishes
    assert "tokens is" in str(too_long.error)
    assert str(unsaved.error) == "it could not be written: No space left on device; the run goes on"
    assert str(absurd.error).startswith("that makes")
    assert fine.error is None
    assert steered.run.saved_steps == []
    assert not list((tmp_path / "saves").glob("*"))
    assert History(steered.timed).progress.step == 4
    assert len(set(rates(steered))) == 4  # falling as it was planned


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1e-4", ChangeRate(rate=1e-4)),
        ("x0.5", ChangeRate(factor=0.5)),
        ("× 2", ChangeRate(factor=2.0)),  # noqa: RUF001 - people type that sign
        ("2x", ChangeRate(factor=2.0)),
        ("0,001", ChangeRate(rate=0.001)),
        (" 3e-5 ", ChangeRate(rate=3e-5)),
        (0.01, ChangeRate(rate=0.01)),
    ],
)
def test_rates_and_factors_are_read(text, wanted):
    assert ChangeRate.parse(text) == wanted


@pytest.mark.parametrize("text", ["", "fast", "0", "-1e-4", "nan", "inf", "1e9", "x0", "x-2", "xnan", "x1e99"])
def test_rates_that_make_no_sense_are_refused_in_one_line(text):
    with pytest.raises(RequestError, match=r"^(the learning rate|the factor) is [^\n]+$"):
        ChangeRate.parse(text)


@pytest.mark.parametrize("prompt", ["", "  \n", "x" * 30_000, None])
def test_prompts_that_make_no_sense_are_refused(prompt):
    with pytest.raises(RequestError, match="the prompt"):
        Ask(prompt)


# ------------------------------------------------------------------ through a real worker thread


def begin(job: Any) -> Run:
    return runner.start(Plan(job=job, method=Lora(), estimate=Lora().estimate(job)))


def until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_a_paused_run_answers_saves_and_changes_and_stays_paused(tmp_path, runs):
    run = begin(lora_job(tmp_path, max_steps=5000, eval_steps=5000, save_steps=5000))
    until(lambda: run.log.progress is not None)
    run.pause()
    until(lambda: run.state == "paused")
    step = run.log.progress.step
    found = run.sample("a fine film")
    assert isinstance(found, Predictions)
    assert found.names == ("negative", "positive")
    assert run.save().name == f"step-{step}"
    assert run.change_learning_rate("x0.5") > 0
    assert run.state == "paused"
    assert run.log.progress.step == step
    reply = run.log.replies[-1]
    assert (reply.step, reply.prompt) == (step, "a fine film")
    assert sum(reply.probabilities) == pytest.approx(1)
    with pytest.raises(RunError, match="still going on"):
        run.adapted(step=step)
    run.resume()
    until(lambda: run.log.progress.step > step)
    run.stop()
    run.join()
    assert run.state == "stopped"
    with pytest.raises(RequestError, match="cannot sample the run"):
        run.sample("too late")
    names = [type(e).__name__ for _, e in run.events if isinstance(e, (Controls, Change, Reply, Checkpoint))]
    # The new rate has the checkpoint of its step written anew.
    assert names == ["Controls", "Reply", "Checkpoint", "Change", "Checkpoint", "Change", "Checkpoint", "Controls"]


def test_a_wish_acts_within_a_step(tmp_path, runs):
    run = begin(lora_job(tmp_path, max_steps=5000, eval_steps=5000, save_steps=5000))
    until(lambda: run.log.progress is not None)
    gaps = []
    for _ in range(5):
        before = run.log.progress.step
        run.change_learning_rate("x0.9")
        gaps.append(run.log.changes[-1].step - before)
    run.stop(at_epoch_end=True)
    run.join()
    assert max(gaps) <= 2  # the step that was being done, and one that began before the wish was made
    assert run.state == "stopped"
    assert run.log.progress.step % 5 == 0
    (last,) = [e for _, e in run.events if isinstance(e, StateChange)][-1:]
    assert "at the end of epoch" in last.reason


def test_a_wish_of_a_run_that_ends_is_refused_and_nobody_waits(tmp_path, runs):
    run = begin(lora_job(tmp_path, max_steps=5000, eval_steps=5000, save_steps=5000))
    until(lambda: run.log.progress is not None)
    said: list[str] = []

    def ask() -> None:
        try:
            for _ in range(100_000):
                run.sample("again")
        except NbadaptError as error:
            said.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.2)
    run.stop()
    run.join()
    thread.join(10)
    assert not thread.is_alive()
    assert len(said) == 1


# ------------------------------------------------------------------ the exported script


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "architecture", "task"), [(Lora, "bert", "classification"), (Dpo, "llama", "preference")]
)
def test_the_exported_script_goes_the_same_way(method, architecture, task, tmp_path, runs):
    job = make_job(method, architecture, task, tmp_path / "run", epochs=4, warmup_ratio=0.1)
    plan = {2: [ChangeRate(factor=0.3), Save()], 3: [ChangeRate(factor=5.0), EndAtEpoch()]}
    steered = Steered(method, job, plan)
    steered._emitter = None
    log = store.EventLog(job.directory)
    log.write(time.time(), StateChange("stopped", steered.ended))
    log.close()
    (tmp_path / "script").mkdir()
    method().export("script", steered.outcome, job, tmp_path / "script")
    text = (tmp_path / "script" / "train.py").read_text()
    assert "RATES = {2: [0.3], 3: [5.0]}" in text
    assert "# after step 2: model saved" in text
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path / "script", capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    loss = float(done.stdout.strip().splitlines()[-1].split()[-1])
    assert loss == pytest.approx(steered.outcome.metrics["loss"], rel=1e-4)
    kept = load_file(tmp_path / "script" / "adapter" / "adapter_model.safetensors")
    for name, tensor in trained(steered).items():
        torch.testing.assert_close(kept[name], tensor, rtol=1e-4, atol=1e-5)
