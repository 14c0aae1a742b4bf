"""What becomes of trouble with the display; that all else works is tried in real kernels (test_foreground.py)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from watching import QuietRun, Wire, make_wire, train

from nbadapt import store
from nbadapt.events import Notice, StateChange
from nbadapt.view import KernelView, TextView

wire = pytest.fixture(make_wire)


class Handle:
    """A display that breaks when it is told to."""

    def __init__(self) -> None:
        self.shown: list[dict[str, Any]] = []
        self.broken = False

    def update(self, content: dict[str, Any], raw: bool) -> None:
        if self.broken:
            raise OSError("broken on purpose")
        self.shown.append(content)


@pytest.fixture
def run(tmp_path: Path) -> QuietRun:
    quiet = QuietRun()
    quiet.directory = tmp_path  # type: ignore[attr-defined]  # a view writes there
    quiet.tell(StateChange("starting"), StateChange("running"))
    return quiet


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> Handle:
    made = Handle()
    monkeypatch.setattr("IPython.display.display", lambda *args, **more: made)
    monkeypatch.setenv("NBADAPT_HELLO_SECONDS", "0")
    return made


def notices(run: QuietRun) -> list[str]:
    return [notice.text for notice in run.log.notices]


def test_trouble_with_the_display_is_kept_on_disk_and_closes_the_widget(wire: Wire, run: QuietRun, handle: Handle):
    view = KernelView(run, live=True)  # type: ignore[arg-type]  # all that a view needs of a run
    view.show()
    widget = view._dashboard
    assert widget is not None
    handle.broken = True
    train(run, 1, 50, 100)
    view.update()
    assert widget.comm is None, "an open widget's state would be saved with the notebook"
    assert widget.layout.comm is None
    assert not view.can_greet
    assert notices(run) == ["the live display was switched off: OSError: broken on purpose"]
    [(_, stored)] = store.read_events(run.directory)  # type: ignore[attr-defined]
    assert stored == Notice(notices(run)[0], "warning")


def test_a_reloaded_page_keeps_its_widget_where_the_result_cannot_be_drawn(
    wire: Wire, run: QuietRun, handle: Handle, monkeypatch: pytest.MonkeyPatch
):
    view = KernelView(run, live=True)  # type: ignore[arg-type]
    view.show()
    widget = view._dashboard
    assert widget is not None
    for _ in range(2):
        wire.say({"type": "hello"})
    run.tell(StateChange("done"))
    monkeypatch.setattr("nbadapt.widgets.report.bundle", lambda run: 1 / 0)
    view.finish()
    assert widget.comm is not None
    assert wire.take()[-1][0]["head"]["state"] == "done", "it shows how the run ended"
    assert "ZeroDivisionError" in notices(run)[0]
    assert set(handle.shown[-1]) == {"text/plain"}


def test_a_stderr_that_is_closed_is_a_notice(run: QuietRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    closed = (tmp_path / "stderr").open("w")
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    train(run, 1, 50, 100)
    TextView(run).update()  # type: ignore[arg-type]
    assert "could not be printed" in notices(run)[0]
    assert [event for _, event in store.read_events(tmp_path)] == run.log.notices


def test_a_notice_that_cannot_be_written_costs_nothing(wire: Wire, run: QuietRun, handle: Handle, tmp_path: Path):
    run.directory = tmp_path / "gone"  # type: ignore[attr-defined]
    view = KernelView(run, live=False)  # type: ignore[arg-type]
    view.show()
    handle.broken = True
    train(run, 1, 50, 100)
    view.update()
    assert "broken on purpose" in notices(run)[0]
