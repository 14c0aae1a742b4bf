"""A comparison at work as a widget: all candidates in one chart, each to be stopped, cloned with a change, or added.

::

    contest ──> ContestFeed ──whole state, once a second──> selection.js
                   <── hello, stop, drop {label}, add {text}

The state is a few hundred bytes a candidate; nothing but the code is in synced state.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget

from nbadapt.errors import NbadaptError
from nbadapt.events import Metric, Progress
from nbadapt.selection import specs
from nbadapt.selection.comparison import validation
from nbadapt.selection.entry import FINISHED
from nbadapt.widgets.summary import duration
from nbadapt.widgets.texts import clip

if TYPE_CHECKING:
    from nbadapt.selection.contest import Contest
    from nbadapt.selection.entry import Entry
    from nbadapt.selection.trials import Trial

HERE = Path(__file__).parent
MOST_POINTS = 48  # of the loss of one candidate
LABEL_BYTES, NOTE_BYTES, TEXT_BYTES = 90, 160, 1_000


class ContestFeed:
    """What a page is told of a comparison."""

    def __init__(self, contest: Contest) -> None:
        self._contest = contest
        self._losses: dict[str, list[tuple[float, float]]] = {}  # label -> (share done, loss), of its last run
        self._shares: dict[str, float] = {}
        self._points: dict[str, tuple[float, ...]] = {}  # by trial
        self._run = ""
        self._seen = self._total = 0
        self._every = self._count = 1

    def state(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        contest = self._contest
        self._follow()
        left = contest.left
        return {
            "state": contest.state,
            "elapsed": duration(int(contest.elapsed)),
            "left": None if left is None else duration(int(max(0.0, left))),
            "metric": contest.measure.label,
            "larger": contest.measure.larger,
            "rows": len(contest.prepared.parts.training),
            "candidates": [self._candidate(i, entry) for i, entry in enumerate(list(contest.entries))],
        }

    def _candidate(self, place: int, entry: Entry) -> dict[str, Any]:
        contest = self._contest
        seed = entry.trials[0].seed if entry.trials else None
        points = [self._point(t) for t in entry.trials if t.said and t.seed == seed]
        now = contest.current is entry
        return {
            "place": place,
            "label": clip(entry.label, LABEL_BYTES),
            "state": "done" if entry.state == FINISHED else entry.state,
            "note": clip(entry.reason, NOTE_BYTES),
            "baseline": entry.candidate.baseline,
            "points": sorted(points),
            "losses": self._losses.get(entry.label, []),
            "share": self._shares.get(entry.label) if now else None,
            "text": clip(specs.line(entry.candidate.spec), TEXT_BYTES),
        }

    def _point(self, trial: Trial) -> tuple[float, ...]:
        """Training rows, the figure, and the ends of its interval, computed once."""
        if trial.key not in self._points:
            figures = (round(value, 5) for value in validation(self._contest, trial) if value is not None)
            self._points[trial.key] = (trial.rows, *figures)
        return self._points[trial.key]

    def _follow(self) -> None:
        """Take in what the run at work has told since the last look; of a long one every n-th loss."""
        run, entry = self._contest.run, self._contest.current
        if run is None or entry is None:
            return
        label = entry.label
        if run.id != self._run:
            self._run, self._seen, self._total, self._every, self._count = run.id, 0, 0, 1, 0
            self._losses[label] = []
        events = run.events
        end = len(events)
        for _, event in events[self._seen : end]:
            if isinstance(event, Progress) and event.total:
                self._total = event.total
                self._shares[label] = event.step / event.total
            if isinstance(event, Metric) and event.split == "train" and "loss" in event.values and self._total:
                self._add(self._losses[label], event.step / self._total, event.values["loss"])
        self._seen = end

    def _add(self, losses: list[tuple[float, float]], share: float, loss: float) -> None:
        self._count += 1
        if self._count % self._every or loss != loss:  # noqa: PLR0124 - a NaN is not itself
            return
        losses.append((round(share, 4), round(loss, 5)))
        if len(losses) > MOST_POINTS:
            del losses[1::2]
            self._every *= 2


class ContestDashboard(anywidget.AnyWidget):
    """The live view of one comparison. Call `push` about once a second; it never raises.

    Attributes:
        hello: how often a front end has said that it shows this dashboard.
        error: the first thing that went wrong here.
    """

    _esm = (HERE / "selection.js").read_text(encoding="utf-8")
    _css = (HERE / "selection.css").read_text(encoding="utf-8")

    def __init__(self, contest: Contest) -> None:
        super().__init__()
        self.hello = 0
        self.error: str | None = None
        self._contest, self._feed = contest, ContestFeed(contest)
        self._lock = threading.RLock()  # messages may come in on another thread than the one that pushes
        self.on_msg(self._answer_front_end)
        if hasattr(self.comm, "_reply_subshell_for"):
            # ipykernel 7.4 sends clicks to the shell that made the widget, which is the one that is busy.
            self.comm._reply_subshell_for = lambda _data, default: default

    def push(self, said: str = "") -> None:
        """Send the state, and a line about what was asked for last."""
        with self._lock:
            try:
                self.send({**self._feed.state(), "said": clip(said, NOTE_BYTES * 2)})
            except Exception as error:  # noqa: BLE001 - no trouble of the view may cost the work
                self.error = self.error or f"the dashboard missed an update: {type(error).__name__}: {error}"

    def _answer_front_end(self, _widget: Any, message: Mapping[str, Any], _buffers: Any) -> None:
        said = ""
        match message:
            case {"type": "hello"}:
                self.hello += 1
            case {"type": "stop"}:
                self._contest.stop()
            case {"type": "drop", "place": int(place)} if 0 <= place < len(self._contest.entries):
                self._contest.stop_candidate(self._contest.entries[place].label)
            case {"type": "add", "text": str(text)}:
                said = self._added(text)
        self.push(said)

    def _added(self, text: str) -> str:
        """Take candidates in, written as a line of the cell; what came of it in one line."""
        try:
            found = specs.specs(specs.read(text), self._contest.prepared.asked.namespace)
            for spec in found:
                self._contest.add(spec)
        except NbadaptError as error:
            return " ".join(str(error).splitlines())
        if not found:
            return "nothing was added: write a method, as  METHOD: {SETTING: VALUE}"
        return f"{len(found)} added: tried when those that are there are through"
