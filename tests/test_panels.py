"""Charts beside the loss: what a run declares is drawn in the dashboard and in the static result, and stays small."""

from __future__ import annotations

import math

import pytest
from watching import HOSTILE, Wire, make_wire, started, weight

from nbadapt.events import Metric, Panel, Progress, Sample, Stage, StateChange
from nbadapt.widgets import figure, panels, report
from nbadapt.widgets.dashboard import Dashboard
from nbadapt.widgets.thin import Bucket
from tests.test_dashboard import LIMIT, unpack

wire = pytest.fixture(make_wire)


def learning(steps: int, count: int = 2):
    """A run with panels, one of which has a spread."""
    run = started()
    run.tell(Stage("training"), Panel("reward", "Reward", spread="reward_spread"))
    run.tell(*(Panel(f"other_{i}", f"Other {i}") for i in range(count - 1)))
    run.tell(Metric(0, "evaluation", {"reward": 0.1}), Sample(0, "Say", "old"))
    for step in range(1, steps + 1):
        others = {f"other_{i}": 1.0 / step for i in range(count - 1)}
        run.tell(Metric(step, "train", {"loss": 0.5, "reward": step / 10, "reward_spread": 0.2, **others}))
        run.tell(Progress(step, steps))
    return run


def test_a_panel_is_sent_with_its_points_and_its_spread(wire: Wire) -> None:
    run = learning(3)
    dashboard = Dashboard(run)
    dashboard.push()
    (message,) = wire.take()
    assert message[0]["panels"] == [["panel 0", "Reward", "0.3000 ± 0.2000"], ["panel 1", "Other 0", "0.3333"]]
    sent = unpack(message)["panel 0"]
    assert [b.step for b in sent] == [1, 2, 3]
    for bucket, mean in zip(sent, (0.1, 0.2, 0.3), strict=True):
        assert bucket[1:] == pytest.approx((mean - 0.2, mean, mean + 0.2), abs=1e-6)
    run.tell(Metric(4, "train", {"loss": 0.5, "reward": 0.4, "reward_spread": 0.1}))
    dashboard.push()
    (message,) = wire.take()
    assert [b.step for b in unpack(message)["panel 0"]] == [4]  # the others are there


def test_messages_with_many_panels_stay_small(wire: Wire) -> None:
    run = learning(3000, count=12)
    run.tell(*(Panel(f"{HOSTILE}{i}", HOSTILE * 90) for i in range(9)))
    run.tell(*(Sample(3000, HOSTILE * 900, HOSTILE * 900, HOSTILE * 900, before=HOSTILE * 900) for _ in range(9)))
    dashboard = Dashboard(run)
    dashboard.push()
    (message,) = wire.take()
    assert len(message[0]["panels"]) == panels.MOST
    assert weight(message) < LIMIT


def test_thinned_panels_keep_what_lay_between_and_go_on_where_they_were() -> None:
    run = started()
    panel = Panel("reward", "Reward", spread="reward_spread")
    for step in range(1, 7):
        run.tell(Metric(step, "train", {"reward": float(step), "reward_spread": 1.0}))
    assert panels.buckets(run.log, panel, 2) == [Bucket(3, 0.0, 2.0, 4.0), Bucket(6, 3.0, 5.0, 7.0)]
    assert panels.buckets(run.log, panel, 9) == [Bucket(i, i - 1.0, float(i), i + 1.0) for i in range(1, 7)]
    assert panels.buckets(run.log, panel, 9, first=4) == [Bucket(5, 4.0, 5.0, 6.0), Bucket(6, 5.0, 6.0, 7.0)]
    assert panels.buckets(run.log, panel, 9, first=6) == []
    run.tell(Metric(7, "train", {"reward": math.nan, "reward_spread": math.nan}))
    assert panels.buckets(run.log, panel, 1) == [Bucket(7, 0.0, 3.5, 7.0)]
    plain = Panel("reward", "Reward")
    assert panels.buckets(run.log, plain, 2, first=2) == [Bucket(4, 3.0, 3.5, 4.0), Bucket(7, 5.0, 5.5, 6.0)]


def test_the_figure_has_a_small_chart_for_each_panel() -> None:
    history = learning(30, count=4).log
    losses, *small = [axes for axes in figure.figure(history).axes if axes.get_visible()]
    assert losses.get_ylabel() == "loss"
    assert [axes.get_title(loc="left") for axes in small] == ["Reward", "Other 0", "Other 1", "Other 2"]
    (mean,) = small[0].lines
    assert list(mean.get_ydata()) == pytest.approx([step / 10 for step in range(1, 31)])
    (band,) = small[0].collections
    assert band.get_paths()[0].get_extents().y1 == pytest.approx(3.2)
    assert len(figure.png(history)) < 40_000


def test_the_result_tells_the_latest_values_and_the_answers_of_before() -> None:
    run = learning(5)
    run.tell(Metric(5, "evaluation", {"reward": 0.9}), Sample(5, "Say", "new", before="old"), StateChange("done"))
    shown = report.bundle(run)
    assert "Reward, held-out" in shown["text/plain"]
    assert "Other 0" in shown["text/plain"]
    assert "0.2000" in shown["text/plain"]
    for word in ("before", "old", "new"):
        assert word in shown["text/html"]


def test_a_panel_without_points_or_with_no_numbers_draws_nothing_wrong(wire: Wire) -> None:
    run = started()
    run.tell(Panel("gone", "Gone"), Metric(1, "train", {"loss": 1.0, "odd": math.nan}), Panel("odd", "Odd"))
    Dashboard(run).push()
    (message,) = wire.take()
    assert message[0]["panels"][0] == ["panel 0", "Gone", ""]
    assert figure.figure(run.log)
