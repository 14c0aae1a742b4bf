"""A run's log in short: what a table and a figure of many runs need of it, read as the log grows.

::

    events.jsonl ──the lines since the last look──> curves, in buckets
                                                └─> the few other events ──> History

A log of 200,000 steps has 60 MB. It is read once, in pieces; what came of it is kept in ``digest.json`` beside it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nbadapt import json_text, store
from nbadapt.comparing.curve import Curve
from nbadapt.errors import StoreError
from nbadapt.events import Checkpoint, Event, Memory, Parameters, Progress, Stage, StateChange, from_json, to_json
from nbadapt.history import History

FILE, VERSION = "digest.json", 1
PIECE = 2 << 20  # bytes of a log that are read at once
WORTH_KEEPING = 1 << 20  # bytes read since the digest was kept
WANTED = (StateChange, Stage, Parameters, Progress, Memory, Checkpoint)
RECENT = 60  # steps whose times are looked at, for the speed of a run that works
SPLITS = ("train", "evaluation")
METRIC, PROGRESS = b'{"event": "metric"', b'{"event": "progress"'
LOSS = ("train", "loss")
# The figures of a step as nearly every line of a long log has them: found so, they take a third of the time.
_NUMBER = rb"(-?\d[\d.eE+-]*|NaN|-?Infinity)"
STEP = re.compile(
    rb'\{"event": "metric", "time": [\d.]+, "step": (\d+), "split": "train", "values": \{'
    rb'"loss": %b(?:, "learning_rate": %b)?(?:, "grad_norm": %b)?\}\}' % (_NUMBER, _NUMBER, _NUMBER)
)


class Digest:
    """The log of one run; `update` takes in what is new.

    Attributes:
        history: everything but the series: state, progress, memory, times.
        curves: (split, metric) -> its series; of training the loss alone.
        latest: (split, metric) -> its last value, also of training's other metrics.
        complete: whether the log was read to its end at the last look.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._forget()
        self._load()

    def _forget(self) -> None:
        self.history = History()
        self.curves: dict[tuple[str, str], Curve] = {}
        self.latest: dict[tuple[str, str], float] = {}
        self.complete = False
        self._kept: list[tuple[float, Event]] = []  # what History needs, for the file
        self._offset = self._stored = 0

    # ------------------------------------------------------------------ reading the log

    @property
    def offset(self) -> int:
        """How many bytes of the log are read."""
        return self._offset

    def update(self, most: int | None = None) -> bool:
        """Read what is new in the log; whether there was anything.

        Args:
            most: about how many bytes; None reads to the end. `complete` tells whether that was reached.
        """
        start = self._offset
        try:
            if self.complete and (self.directory / "events.jsonl").stat().st_size == start:
                return False
            with (self.directory / "events.jsonl").open("rb") as file:
                if file.seek(0, 2) < self._offset:  # another log has taken its place
                    self._forget()
                    start = 0
                while most is None or self._offset - start < most:
                    file.seek(self._offset)
                    piece = file.read(PIECE)
                    whole = piece[: piece.rfind(b"\n") + 1]
                    self.complete = len(piece) < PIECE
                    if not whole:
                        break
                    self._take(whole.split(b"\n"))
                    self._offset += len(whole)
        except OSError:  # no event yet; or the run is being removed
            self.complete = True
        if self._offset - self._stored > WORTH_KEEPING:
            self._keep()
        return self._offset > start

    def _take(self, lines: list[bytes]) -> None:
        """Take in whole lines; those that are no event are passed over."""
        recent = len(lines) - 3 * RECENT
        waiting = b""  # the last line of progress: of those between two other events one is enough
        latest: tuple[bytes | None, bytes | None] = (None, None)  # rate and norm of the steps that were found so
        for number, line in enumerate(lines):
            if (step := STEP.fullmatch(line)) is not None and self._take_loss(step[1], step[2]):
                latest = step[3] or latest[0], step[4] or latest[1]
            elif line.startswith(METRIC):
                self._take_latest(latest)
                latest = None, None
                self._take_metric(line)
            elif line.startswith(PROGRESS):
                if number >= recent:
                    self._take_event(line)
                else:
                    waiting = line
            elif line:
                self._take_event(waiting)
                self._take_event(line)
                waiting = b""
        self._take_event(waiting)
        self._take_latest(latest)

    def _take_latest(self, figures: tuple[bytes | None, bytes | None]) -> None:
        for name, text in zip(("learning_rate", "grad_norm"), figures, strict=True):
            with contextlib.suppress(ValueError):
                if text is not None:
                    self.latest["train", name] = float(text)

    def _take_loss(self, step: bytes, loss: bytes) -> bool:
        """Take in a step's loss; whether it is a number."""
        try:
            value = float(loss)
        except ValueError:
            return False
        self.latest[LOSS] = value
        curve = self.curves.get(LOSS)
        if curve is None:
            curve = self.curves[LOSS] = Curve()
        curve.add(int(step), value)
        return True

    def _take_metric(self, line: bytes) -> None:
        try:
            record = json_text.loads(line)
            step, split, values = record["step"], record["split"], record["values"]
            named = [(name, float(value)) for name, value in values.items()]
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        if type(step) is not int or step < 0 or split not in SPLITS:
            return
        for name, value in named:
            key = (split, name)
            self.latest[key] = value
            if split == "evaluation" or name == "loss":
                curve = self.curves.get(key)
                if curve is None:
                    curve = self.curves[key] = Curve()
                curve.add(step, value)

    def _take_event(self, line: bytes) -> None:
        try:
            stamped = from_json(json_text.loads(line)) if line else None
        except (ValueError, KeyError, TypeError):
            return
        if stamped is None or not isinstance(stamped[1], WANTED):
            return
        self._add(*stamped)

    def _add(self, time: float, event: Event) -> None:
        self.history.add(time, event)
        if isinstance(event, StateChange) and event.state == "starting":  # resumed: later steps are told anew
            checkpoint = self.history.checkpoint
            for curve in self.curves.values():
                curve.forget_after(checkpoint.step if checkpoint else 0)
        alike = (Progress, Memory, Stage, Checkpoint)
        kept = self._kept
        if kept and isinstance(event, alike):  # of neighbours of one kind the last is enough
            for back in range(len(kept) - 1, -1, -1):
                if not isinstance(kept[back][1], alike):
                    break
                if type(kept[back][1]) is type(event):
                    del kept[back]
                    break
        kept.append((time, event))

    # ------------------------------------------------------------------ the file

    def _keep(self) -> None:
        record = {
            "version": VERSION,
            "offset": self._offset,
            "events": [to_json(event, time) for time, event in self._kept],
            "latest": [[*key, value] for key, value in self.latest.items()],
            "curves": [[*key, curve.record()] for key, curve in self.curves.items()],
        }
        self._stored = self._offset
        with contextlib.suppress(OSError):  # a folder that is read-only or gone: the log is there to be read again
            store.write_json(self.directory / FILE, record)

    def _load(self) -> None:
        try:
            record = store.read_json(self.directory / FILE)
            if record["version"] != VERSION or record["offset"] > (self.directory / "events.jsonl").stat().st_size:
                return
            self._replay(record["events"])
            self.latest = {(split, name): float(value) for split, name, value in record["latest"]}
            self.curves = {(split, name): Curve.of(curve) for split, name, curve in record["curves"]}
            self._offset = self._stored = int(record["offset"])
        except (StoreError, OSError, KeyError, ValueError, TypeError):  # none yet, or a damaged one
            self._forget()

    def _replay(self, records: Iterable[Any]) -> None:
        for record in records:
            stamped = from_json(record)
            if stamped is not None:
                self._kept.append(stamped)
                self.history.add(*stamped)
