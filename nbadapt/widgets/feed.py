"""What the dashboard is told: numbered messages, each with what changed since the one before.

Every message stays below 20 KB however long the run is: series are thinned, texts are cut. It holds ``seq``,
``full`` and the sections that changed:

- ``head``: title, state, reason, stage, whether it is finished, whether a chart is wanted
- ``progress``: [step, total]
- ``figures``: [[label, text], ...]
- ``sources``: {more, items: [[number, title, text], ...]}: the passages behind an answer
- ``samples``: {step, more, items: [[input, output, expected or null, reasoning, before or null], ...]}
- ``ranking``: {head: [...], rows: [[cell, ...], ...], more}: the prompts that are compared
- ``notices``: [[level, text], ...]
- ``controls``: {offered, reason, rate, ending, waiting: [name, ...], said: {name: text}, errors: {name: text}}: what
  may be asked of the run, and what came of it; name is that of a control
- ``replies``: {items: [[step, prompt, output, [[class, share], ...]], ...]}: answers to the user, the latest first
- ``changes``: {marks: [[step, label], ...], lines: [text, ...]}: what was changed on the way
- ``panels``: [[key, label, latest value], ...]: the small charts beside the loss
- ``series``: [[split or key, n], ...] with one binary buffer: for each, n buckets as `thin.pack` writes them
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from nbadapt.events import FINISHED, Notice, StateChange
from nbadapt.history import History
from nbadapt.widgets import controls, panels, summary
from nbadapt.widgets.quotes import clipped, quotes_of
from nbadapt.widgets.ranking import ranking
from nbadapt.widgets.texts import clip, samples
from nbadapt.widgets.thin import Blocks, Bucket, pack, thin
from nbadapt.widgets.watched import Watched

SERIES = {"train": 390, "evaluation": 110}  # the loss of these splits -> most buckets in a message
BESIDE_PANELS = {"train": 190, "evaluation": 40}  # the same where there are panels
PANEL_BUCKETS = 30  # of each panel in a message
MOST_NOTICES = 4
NOTICE_BYTES = 320
LINE_BYTES = 200
MOST_SOURCES = 8
FOLDED_BYTES = 3_000  # of the passages, and of the reasonings; runs with a chart have neither


class Feed:
    """Follows one run's events and makes the messages about them."""

    def __init__(self, run: Watched) -> None:
        self._run = run
        self._title, self._verb = clip(run.title, LINE_BYTES), run.verb  # may be read from disk: once
        self._history = History()
        self._seen = 0  # events taken from the run
        self._sequence = 0
        self._points: dict[str, int] = {}  # split or panel -> points that were told
        self._blocks: dict[str, Blocks] = {}  # the same -> its points
        self._told: dict[str, Any] = {}  # section -> what the front end shows
        self._stale = True  # the next message has to be a full one

    def message(self, *, full: bool = False) -> tuple[dict[str, Any], bytes] | None:
        """What is new since the last message: its content and its buffer; None where nothing is.

        Args:
            full: tell everything, to a front end that has nothing or has missed a message.
        """
        self._pull()
        if full or self._stale:
            full, self._points, self._told = True, {}, {}
        changed = {key: value for key, value in self._sections().items() if self._told.get(key) != value}
        series = self._new_points()
        if not (changed or series or full):
            return None
        self._sequence += 1
        self._told.update(changed)
        self._stale = False
        counts = [[split, len(buckets)] for split, buckets in series.items()]
        content = {"seq": self._sequence, "full": full, **changed, "series": counts}
        return content, b"".join(pack(buckets) for buckets in series.values())

    def warn(self, text: str) -> None:
        """Add a notice of the dashboard's own."""
        self._history.notices.append(Notice(text, "warning"))

    def forget(self, section: str | None = None) -> None:
        """Tell this section again next time, or everything, even where nothing changed."""
        if section is None:
            self._stale = True
        self._told.pop(section or "", None)

    def _pull(self) -> None:
        events = self._run.events
        while self._seen < len(events):
            stamp, event = events[self._seen]
            self._seen += 1
            if isinstance(event, StateChange) and event.state == "starting":
                self._stale, self._blocks = True, {}  # a resumed run takes points back
            self._history.add(stamp, event)

    def _new_points(self) -> dict[str, list[Bucket]]:
        history, shown = self._history, panels.panels(self._history)
        series = {}
        for split, most in (BESIDE_PANELS if shown else SERIES).items():
            points = history.series.get((split, "loss"), [])
            series[split] = self._beyond(split, len(points), partial(thin, points), most)
        for (key, _, _), panel in zip(panels.headings(history), shown, strict=True):
            count = len(panels.points(history, panel))
            series[key] = self._beyond(key, count, partial(panels.buckets, history, panel), PANEL_BUCKETS)
        return {key: buckets for key, buckets in series.items() if buckets}

    def _beyond(self, key: str, count: int, some: Callable[[int, int, int], list[Bucket]], most: int) -> list[Bucket]:
        """The points of a series that were not told yet."""
        told, self._points[key] = self._points.get(key, 0), count
        return self._blocks.setdefault(key, Blocks()).buckets(count, some, most, told)

    def _sections(self) -> dict[str, Any]:
        history = self._history
        progress = history.progress
        notices = history.notices[-MOST_NOTICES:]
        return {
            "head": self._head(),
            "progress": [progress.step, progress.total] if progress else [0, 0],
            "figures": summary.figures(history, now=time.time()),
            "panels": panels.headings(history),
            "ranking": ranking(history),
            "sources": self._sources(),
            "samples": samples(history, FOLDED_BYTES * (not self._chart)),
            "controls": controls.controls(history, self._run.control),
            "replies": controls.replies(history),
            "changes": controls.changes(history),
            "notices": [[notice.level, clip(notice.text, NOTICE_BYTES)] for notice in notices],
        }

    @property
    def _chart(self) -> bool:
        """Whether there is a loss to draw, whose points leave little room for texts."""
        return self._verb == "finetune" or any(name == "loss" for _, name in self._history.series)

    def _sources(self) -> dict[str, Any]:
        found = [] if self._chart else quotes_of(self._history)
        return {"more": len(found[MOST_SOURCES:]), "items": clipped(found[:MOST_SOURCES], FOLDED_BYTES)}

    def _head(self) -> dict[str, Any]:
        history, control = self._history, self._run.control
        state, finished = history.state, history.state in FINISHED
        if not finished and control.stopping:
            state = "stopping"
        elif state == "running" and control.paused:
            state = "pausing"
        return {
            "title": self._title,
            "state": state,
            "reason": clip(history.reason, LINE_BYTES),
            "stage": clip(history.stage, LINE_BYTES),
            "finished": finished,
            "chart": self._chart,
        }
