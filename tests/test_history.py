"""Events, their JSON, and what a history makes of them."""

from __future__ import annotations

import json

import pytest

from nbadapt import events
from nbadapt.events import (
    Checkpoint,
    Metric,
    Notice,
    Panel,
    Parameters,
    Progress,
    Sample,
    Source,
    Stage,
    StateChange,
    from_json,
    to_json,
)
from nbadapt.history import History

EXAMPLES = [
    StateChange("paused", "by the button"),
    Stage("training"),
    Parameters(10, 100),
    Progress(3, 9, 0.5, 24, 512),
    Metric(3, "train", {"loss": 0.25}),
    events.Memory(5, 6, None, None, None),
    events.Memory(5, 6, 1, 2, 3),
    Sample(3, "in", "out", None),
    Panel("reward", "Reward", spread="reward_spread"),
    Source(1, "a.pdf, page 2", "passage"),
    events.Candidate(2, 1, "Label: {{text}}", "accuracy", 0.5, 0.25, 0.75, 40, 12, "dropped"),
    events.Reliability(3, (0.25, 0.75), (0.5, 1.0), (4, 2)),
    Notice("said", "warning"),
    Checkpoint(3, "checkpoints/checkpoint-3"),
    events.Controls(("save", "generate")),
    events.Change(3, "learning_rate", factor=0.5, rate=1e-4),
    events.Reply(3, "Why?", "b", ("a", "b"), (0.25, 0.75)),
]


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda e: e.kind)
def test_an_event_survives_its_json(event):
    assert from_json(json.loads(json.dumps(to_json(event, 12.5)))) == (12.5, event)


def test_every_kind_of_event_is_tried_above():
    assert {e.kind for e in EXAMPLES} == set(events.KINDS)


def test_an_event_of_a_later_version_is_passed_over():
    assert from_json({"event": "hologram", "time": 1.0}) is None
    assert from_json({"event": "stage", "time": 1.0, "text": "x", "colour": "red"}) == (1.0, Stage("x"))


@pytest.mark.parametrize(
    "record",
    [
        {"event": "sample", "step": "<b>3</b>", "input": "in", "output": "out"},
        {"event": "sample", "step": 3, "input": None, "output": "out"},
        {"event": "sample", "step": 3, "input": "in", "output": "out", "expected": 4},
        {"event": "progress", "step": True, "total": 9},
        {"event": "progress", "step": 3, "total": 9, "epoch": "half"},
        {"event": "metric", "step": 3, "split": "train", "values": {"loss": "low"}},
        {"event": "metric", "step": 3, "split": "train", "values": [0.5]},
        {"event": "notice", "text": ["a", "b"]},
        {"event": ["notice"], "text": "a"},
        {"event": "stage"},
        {"event": "stage", "text": "x", "time": "noon"},
        "stage",
        None,
    ],
)
def test_what_is_no_record_of_an_event_is_refused(record):
    with pytest.raises((ValueError, KeyError, TypeError)):
        from_json({"time": 1.0, **record} if isinstance(record, dict) else record)


def test_words_of_a_later_version_and_whole_numbers_are_taken():
    assert from_json({"event": "notice", "time": 1, "text": "x", "level": "advice"}) == (1.0, Notice("x", "advice"))
    assert from_json({"event": "progress", "time": 1, "step": 1, "total": 2, "epoch": 1}) == (1.0, Progress(1, 2, 1))


def progress(step: int) -> Progress:
    return Progress(step, 100, examples=16 * step, tokens=1000 * step)


def test_rates_are_those_of_the_last_seconds_without_evaluations():
    log = History((float(t), progress(t)) for t in range(20))
    assert log.rate("steps") == pytest.approx(1.0)
    assert log.rate("examples") == pytest.approx(16.0)
    assert log.rate("tokens") == pytest.approx(1000.0)
    assert log.seconds_left == pytest.approx(81.0)
    log.add(60.0, Stage("training"))  # after an evaluation of 40 s
    assert log.rate("steps") is None
    log.add(60.5, progress(20))
    log.add(61.0, progress(21))
    assert log.rate("steps") == pytest.approx(2.0)


def test_resuming_forgets_what_came_after_the_checkpoint():
    log = History()
    for step in range(1, 6):
        log.add(step, Metric(step, "train", {"loss": float(step)}))
    log.add(5.5, Sample(5, "in", "out"))
    log.add(6, StateChange("stopped"))
    log.add(9, Checkpoint(3, "checkpoints/checkpoint-3"))
    log.add(9, StateChange("starting"))
    log.add(10, Metric(4, "train", {"loss": 40.0}))
    assert log.series["train", "loss"] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]
    assert log.samples == []


def test_the_break_before_resuming_is_no_working_time():
    log = History([(0.0, StateChange("starting")), (10.0, progress(1)), (11.0, StateChange("stopped"))])
    assert log.elapsed == 11.0
    log.add(500.0, StateChange("starting"))
    log.add(505.0, progress(2))
    assert log.elapsed == pytest.approx(16.0)


def test_the_frame_has_one_row_a_step_and_split():
    log = History()
    log.add(1, Metric(1, "train", {"loss": 2.0, "learning_rate": 0.1}))
    log.add(2, Metric(2, "train", {"loss": 1.0, "learning_rate": 0.2}))
    log.add(3, Metric(2, "evaluation", {"loss": 1.5, "accuracy": 0.5}))
    frame = log.frame()
    assert frame[["step", "split"]].values.tolist() == [[1, "train"], [2, "train"], [2, "evaluation"]]
    assert frame.loss.tolist() == [2.0, 1.0, 1.5]
    assert frame.accuracy.isna().tolist() == [True, True, False]
    assert History().frame().empty
