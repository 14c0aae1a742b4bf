"""The live dashboard: what is sent, how much, and what a page makes of it (tests/test_dashboard_page.py)."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
from functools import partial

import pytest
from watching import HOSTILE, QuietRun, Wire, make_wire, started, train, weight

from nbadapt.errors import RunError
from nbadapt.events import (
    Candidate,
    Change,
    Checkpoint,
    Controls,
    Memory,
    Metric,
    Notice,
    Parameters,
    Progress,
    Reply,
    Sample,
    Source,
    Stage,
    StateChange,
)
from nbadapt.steering import CONTROLS
from nbadapt.widgets.controls import wish
from nbadapt.widgets.dashboard import Dashboard
from nbadapt.widgets.ranking import ranking_html
from nbadapt.widgets.texts import clip
from nbadapt.widgets.thin import BLOCK, EXACT, Blocks, Bucket, smooth, thin

wire = pytest.fixture(make_wire)

LIMIT = 19_000  # 20 KB with the envelope that Jupyter puts around it


def unpack(message) -> dict[str, list[Bucket]]:
    """The series of a message."""
    content, buffers = message
    data, series, offset = buffers[0], {}, 0
    for split, n in content["series"]:
        columns = struct.unpack_from(f"{n}I{3 * n}f", data, offset)
        offset += 16 * n
        series[split] = [Bucket(*(columns[k * n + i] for k in range(4))) for i in range(n)]
    assert offset == len(data)
    return series


class Reader:
    """A front end in a few lines: keeps series, refuses gaps."""

    def __init__(self) -> None:
        self.series: dict[str, list[Bucket]] = {"train": [], "evaluation": []}
        self.sections: dict = {}
        self.sequence: int | None = None
        self.gaps = 0

    def read(self, message) -> None:
        content, _ = message
        if content["full"]:
            self.series = {"train": [], "evaluation": []}
        elif self.sequence is None or content["seq"] != self.sequence + 1:
            self.sequence = None
            self.gaps += 1
            return
        self.sequence = content["seq"]
        self.sections.update(content)
        for split, buckets in unpack(message).items():
            self.series[split] += buckets

    def losses(self, split: str) -> list[tuple[int, float]]:
        assert all(b.low == b.mean == b.high for b in self.series[split])
        return [(b.step, b.mean) for b in self.series[split]]


def as_sent(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(step, struct.unpack("f", struct.pack("f", value))[0]) for step, value in points]


def test_deltas_rebuild_the_log_exactly(wire: Wire) -> None:
    run, reader = started(), Reader()
    dashboard = Dashboard(run)
    for first in range(1, 375, 20):
        train(run, first, min(first + 19, 375), 375)
        dashboard.push()
        for message in wire.take():
            reader.read(message)
    assert reader.gaps == 0
    for split in ("train", "evaluation"):
        assert reader.losses(split) == as_sent(run.log.series[split, "loss"])
    assert reader.sections["progress"] == [375, 375]
    assert ["Accuracy", "0.7945"] in reader.sections["figures"]
    assert reader.sections["samples"]["step"] == 375


def test_a_lost_message_is_repaired_by_a_full_one(wire: Wire) -> None:
    run, reader = started(), Reader()
    dashboard = Dashboard(run)
    for number, first in enumerate(range(1, 200, 20)):
        train(run, first, first + 19, 200)
        dashboard.push()
        for message in wire.take():
            if number != 4:  # the server drops it
                reader.read(message)
    assert reader.gaps > 0
    wire.say({"type": "hello"})
    for message in wire.take():
        reader.read(message)
    assert reader.losses("train") == as_sent(run.log.series["train", "loss"])
    assert dashboard.hello == 1


def test_every_message_stays_small_in_a_run_of_200_000_steps(wire: Wire) -> None:
    run = started(title=HOSTILE * 50)
    for step in range(1, 200_001):
        run.tell(Metric(step, "train", {"loss": 1.2345678 + 1 / step}), gap=0.01)
    for step in range(0, 200_001, 100):
        values = {"loss": 2.0, **{f"metric_{i}_{'m' * 60}": 1 / 3 for i in range(40)}}
        run.tell(Metric(step, "evaluation", values), gap=0.0)
    for k in range(300):
        run.tell(Notice(f"{k}{HOSTILE * 100}"), Sample(200_000, HOSTILE * 900, '\x00\n"' * 9000, "漢" * 9000))
    run.tell(
        Stage(HOSTILE * 100),
        Progress(200_000, 200_000, 1e6 / 3, 10**10, 10**13),
        Memory(10**12, 10**12, 10**12, 10**12),
        Parameters(10**12, 10**13),
        Controls(CONTROLS),
        *(Change(step, "learning_rate", factor=1 / 3, rate=1e-9 / 3) for step in range(199_900, 200_000)),
        *(Reply(200_000, HOSTILE * 99, "漢" * 9000, ("漢" * 99,) * 50, (0.02,) * 50) for _ in range(9)),
        StateChange("paused", HOSTILE * 100),
    )
    run.control.offer(frozenset(CONTROLS))
    for text in ("漢" * 9000, HOSTILE * 99):
        for kind in ("rate", "sample", "save", "epoch_end"):
            wish(run.control, {"type": kind, "text": text})
            run.control.latest[{"rate": "learning_rate"}.get(kind, kind)].refuse(RunError(HOSTILE * 99))
    dashboard = Dashboard(run)
    dashboard.push()  # everything at once
    train(run, 200_001, 260_000, 260_000, evaluate_every=50)  # a long time without a push
    dashboard.push()
    wire.say({"type": "hello"})
    run.tell(*(Metric(s, "train", {"loss": 1.0}) for s in range(260_001, 260_021)))
    dashboard.push()
    first, late, again, usual = wire.take()
    assert dashboard.error is None
    assert [m[0]["full"] for m in (first, late, again, usual)] == [True, False, True, False]
    assert max(weight(message) for message in (first, late, again)) <= LIMIT
    assert weight(usual) < 1500
    losses = [value for _, value in run.log.series["train", "loss"][:-20]]
    buckets = unpack(again)["train"]
    assert buckets[-1].step == 260_000
    assert min(b.low for b in buckets) == pytest.approx(min(losses), rel=1e-6)
    assert max(b.high for b in buckets) == pytest.approx(max(losses), rel=1e-6)


def test_nothing_new_sends_nothing(wire: Wire) -> None:
    run = started()
    run.tell(StateChange("done"))
    dashboard = Dashboard(run)
    dashboard.push()
    dashboard.push()
    assert len(wire.take()) == 1


def test_no_data_in_synced_state(wire: Wire) -> None:
    run = started(title="a title to look for")
    dashboard = Dashboard(run)
    before = json.dumps(dashboard.get_state(), default=str)
    train(run, 1, 300, 300)
    dashboard.push()
    assert json.dumps(dashboard.get_state(), default=str) == before
    assert "a title to look for" not in before


def test_buttons_turn_the_switches_and_are_answered_at_once(wire: Wire) -> None:
    run = started()
    dashboard = Dashboard(run)
    dashboard.push()
    wire.take()
    wire.say({"type": "pause"})
    assert run.control.paused
    assert [m[0]["head"]["state"] for m in wire.take()] == ["pausing"]
    run.tell(StateChange("paused"))
    wire.say({"type": "resume"})
    assert not run.control.paused
    wire.take()
    wire.say({"type": "stop"})
    assert run.control.stopping
    assert [m[0]["head"]["state"] for m in wire.take()] == ["stopping"]
    wire.say({"type": "stop"})
    assert [m[0]["head"]["state"] for m in wire.take()] == ["stopping"], "every click is answered"


def test_trouble_never_leaves_push_and_is_told_once(wire: Wire) -> None:
    run = started()
    dashboard = Dashboard(run)
    dashboard.push()
    wire.take()
    wire.broken = True
    for first in (1, 11):
        train(run, first, first + 9, 100)
        dashboard.push()
    wire.say({"type": "pause"})
    assert dashboard.error is not None
    assert "the socket is closed" in dashboard.error
    assert run.control.paused, "buttons still act"
    wire.broken = False
    dashboard.push()
    [message] = wire.take()
    assert message[0]["full"]
    assert len(unpack(message)["train"]) == 20
    assert [text for _, text in message[0]["notices"]].count(dashboard.error) == 1


def test_an_event_that_cannot_be_folded_is_skipped(wire: Wire) -> None:
    run = started()
    dashboard = Dashboard(run)
    run.tell(Metric(1, "train", None), Metric(2, "train", {"loss": 0.5}))  # type: ignore[arg-type]  # what is tested
    dashboard.push()
    dashboard.push()
    assert "NoneType" in str(dashboard.error)
    assert unpack(wire.take()[-1])["train"] == [Bucket(2, 0.5, 0.5, 0.5)]


def test_a_resumed_run_takes_points_back(wire: Wire) -> None:
    run, reader = started(), Reader()
    train(run, 1, 50, 100)
    dashboard = Dashboard(run)
    dashboard.push()
    run.tell(Checkpoint(30, "checkpoints/30"), StateChange("starting"), StateChange("running"))
    train(run, 31, 33, 100)
    dashboard.push()
    for message in wire.take():
        reader.read(message)
    assert [step for step, _ in reader.losses("train")] == list(range(1, 34))


def test_a_loss_that_is_no_number_is_sent_as_such(wire: Wire) -> None:
    run = started()
    run.tell(
        *(Metric(s, "train", {"loss": v, "grad_norm": math.nan}) for s, v in ((1, 0.5), (2, math.nan), (3, math.inf)))
    )
    dashboard = Dashboard(run)
    dashboard.push()
    assert dashboard.error is None
    [one, two, three] = unpack(wire.take()[0])["train"]
    assert one.mean == 0.5
    assert math.isnan(two.mean)
    assert math.isnan(three.high)


def test_prompt_runs_ask_for_no_chart(wire: Wire) -> None:
    run = QuietRun(verb="prompt", title="prompt few-shot · smollm2")
    run.tell(StateChange("running"), Progress(3, 10), Metric(10, "evaluation", {"accuracy": 0.7}))
    Dashboard(run).push()
    assert wire.take()[0][0]["head"]["chart"] is False


def test_many_long_prompts_stay_a_small_message(wire: Wire) -> None:
    run = QuietRun(verb="prompt", title="prompt prompt-search · smollm2")
    for number in range(1, 301):
        run.tell(Candidate(number, number, f"{HOSTILE} " * 400, "accuracy", 0.5, 0.25, 0.75, 20, 31, "dropped"))
    run.tell(*(Sample(1, HOSTILE * 90, HOSTILE * 90) for _ in range(9)), *(Notice(HOSTILE * 90) for _ in range(9)))
    Dashboard(run).push()
    content, buffers = wire.take()[0]
    assert weight((content, buffers)) < LIMIT
    assert len(content["ranking"]["rows"]) + content["ranking"]["more"] == 300
    html = ranking_html(run.log)
    assert "<img" not in html
    assert len(html.encode("utf-8", "replace")) < 12_000


def test_sources_and_reasonings_are_told_while_the_run_works(wire: Wire) -> None:
    run = QuietRun(verb="prompt", title="prompt rag · smollm2")
    dashboard = Dashboard(run)
    run.tell(StateChange("running"), *(Source(n, f"file {n}.md", f"passage {n}") for n in range(1, 11)))
    dashboard.push()
    run.tell(Sample(1, "asked", "said", None, "First this, then that."), Sample(1, "asked too", "said too"))
    dashboard.push()
    first, second = (content for content, _ in wire.take())
    assert first["sources"] == {"more": 2, "items": [[n, f"file {n}.md", f"passage {n}"] for n in range(1, 9)]}
    assert "sources" not in second
    items = [["asked", "said", None, "First this, then that.", None], ["asked too", "said too", None, "", None]]
    assert second["samples"]["items"] == items
    run.tell(*(Source(n, HOSTILE * 90, HOSTILE * 90) for n in range(1, 31)), *(Notice(HOSTILE * 90) for _ in range(9)))
    run.tell(*(Sample(2, HOSTILE * 90, HOSTILE * 90, HOSTILE * 90, HOSTILE * 90) for _ in range(9)))
    run.tell(*(Candidate(n, n, HOSTILE * 40, "accuracy", 0.5, 0.25, 0.75, 20, 31, "dropped") for n in range(1, 31)))
    dashboard.push(full=True)
    (message,) = wire.take()
    assert weight(message) < LIMIT
    assert message[0]["sources"]["more"] == 22
    assert len(message[0]["samples"]["items"][0][3]) > 300


def test_thinning_keeps_extremes_means_and_the_last_step() -> None:
    points = [(s, float(s % 7)) for s in range(1, 1001)]
    points[500] = (501, 99.0)
    buckets = thin(points, 100)
    assert len(buckets) == 100
    assert buckets[-1].step == 1000
    assert max(b.high for b in buckets) == 99.0
    assert sum(b.mean for b in buckets) / 100 == pytest.approx(sum(v for _, v in points) / 1000)
    assert thin([], 10) == []


def test_blocks_of_a_long_series_tell_what_its_points_do() -> None:
    points = [(step, math.sin(step / 500) + (step % 9) / 100) for step in range(1, 40_001)]
    points[30_000] = (30_001, 99.0)
    points[9_000:9_100] = [(step, math.nan) for step in range(9_001, 9_101)]
    blocks, told = Blocks(), 0
    for count in (0, 5, 32, EXACT, 39_999, 40_000):
        told_now = blocks.buckets(count, partial(thin, points), 100, told)
        assert told_now == thin(points, 100, told, count)
        told = count
    again, exact = blocks.buckets(40_000, partial(thin, points), 100, 0), thin(points, 100)
    assert [bucket.step for bucket in again] == pytest.approx([bucket.step for bucket in exact], abs=BLOCK)
    assert (again[-1].step, max(bucket.high for bucket in again)) == (40_000, 99.0)
    for ours, theirs in zip(again, exact, strict=True):
        assert ours[1:] == pytest.approx(theirs[1:], abs=0.07), "as they would be 32 points earlier or later"
    assert Blocks().buckets(EXACT - 1, partial(thin, points), 100, 0) == thin(points, 100, 0, EXACT - 1)
    unreadable = [(step, math.nan) for step in range(EXACT)]
    assert all(math.isnan(bucket.mean) for bucket in Blocks().buckets(EXACT, partial(thin, unreadable), 10, 0))


def test_the_smoothed_line_does_not_depend_on_the_thinning() -> None:
    points = [(s, 1 + 1 / s + 0.1 * math.sin(s)) for s in range(1, 20_001)]
    fine = dict(zip((s for s, _ in points), smooth(thin(points, 20_000), 800), strict=True))
    coarse = thin(points, 500)
    line = smooth(coarse, 800)
    assert max(abs(v - fine[b.step]) for b, v in zip(coarse, line, strict=True)) < 0.01
    constant = smooth(thin([(s, 2.5) for s in range(5, 100, 5)], 100), 30)
    assert constant == pytest.approx([2.5] * 19), "no bias at the start"


@pytest.mark.parametrize("text", ["", "short", "漢" * 500, '"\\\n\x00' * 200, HOSTILE * 20, "\ud800" * 90])
def test_clipped_texts_keep_their_beginning_and_their_limit(text: str) -> None:
    short = clip(text, 240)
    assert len(json.dumps(short, ensure_ascii=False).encode()) - 2 <= 240
    whole = text.encode("utf-8", "replace").decode()
    assert short == whole or whole.startswith(short.removesuffix("…"))


def test_the_modules_that_need_no_front_end_import_none() -> None:
    code = (
        "import sys, nbadapt.widgets.feed, nbadapt.widgets.report, nbadapt.widgets.figure\n"
        "heavy = {'anywidget', 'ipywidgets', 'matplotlib', 'torch', 'pandas', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
