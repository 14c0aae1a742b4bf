"""Events folded into what a person wants to see: series, latest figures, rates. No drawing here."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from nbadapt.events import (
    FINISHED,
    Candidate,
    Change,
    Checkpoint,
    Controls,
    Event,
    Memory,
    Metric,
    Notice,
    Panel,
    Parameters,
    Progress,
    Reliability,
    Reply,
    Sample,
    Source,
    Stage,
    StateChange,
)

if TYPE_CHECKING:
    import pandas as pd

RATE_WINDOW = 15.0  # seconds over which examples/s and tokens/s are averaged


class History:
    """The state of one run after a number of events. Feed it with `add`, live or from a stored log.

    Attributes:
        state: the run's state; see `nbadapt.events.State`.
        series: (split, metric name) -> list of (step, value), in order of arrival.
        samples: every Sample, oldest first; those of the last evaluation share its step.
        sources: the passages behind the answer to a single prompt.
        candidates: number -> the prompt that is compared, as it was told last.
        panels: metric name -> the chart of its own that it has.
        reliability: how far the model's probabilities were right at the last evaluation.
        controls: what may be asked of the run now.
        changes: what was changed while it worked and is in its result, oldest first.
        replies: what the model said to prompts of the user's, oldest first.
    """

    def __init__(self, events: Iterable[tuple[float, Event]] = ()) -> None:
        self.state = "starting"
        self.reason = ""
        self.stage = ""
        self.started: float | None = None
        self.ended: float | None = None
        self.parameters: Parameters | None = None
        self.progress: Progress | None = None
        self.memory: Memory | None = None
        self.checkpoint: Checkpoint | None = None
        self.series: dict[tuple[str, str], list[tuple[int, float]]] = {}
        self.samples: list[Sample] = []
        self.sources: list[Source] = []
        self.candidates: dict[int, Candidate] = {}
        self.panels: dict[str, Panel] = {}
        self.reliability: Reliability | None = None
        self.notices: list[Notice] = []
        self.controls: Controls | None = None
        self.changes: list[Change] = []
        self.replies: list[Reply] = []
        self._window: deque[tuple[float, Progress]] = deque()
        self._last_time = 0.0
        self._progressed: float | None = None  # when the last step was done
        for time, event in events:
            self.add(time, event)

    def add(self, time: float, event: Event) -> None:
        """Take in one event that happened at `time` (seconds since the epoch)."""
        if self.started is None:
            self.started = time
        self._last_time = time
        match event:
            case StateChange():
                self._change_state(time, event)
            case Progress():
                self.progress = event
                self._progressed = time
                self._window.append((time, event))
                while len(self._window) > 2 and time - self._window[0][0] > RATE_WINDOW:
                    self._window.popleft()
            case Metric():
                for name, value in event.values.items():
                    self.series.setdefault((event.split, name), []).append((event.step, value))
            case Panel():
                self.panels[event.metric] = event
            case Memory():
                self.memory = event
            case Stage():
                self.stage = event.text
                self._window.clear()  # an evaluation between two steps is not training time
            case Parameters():
                self.parameters = event
            case Sample():
                self.samples.append(event)
            case Source():
                self.sources = [event] if event.number == 1 else [*self.sources, event]  # a resumed run tells again
            case Candidate():
                self.candidates[event.number] = event
            case Reliability():
                self.reliability = event
            case Notice():
                self.notices.append(event)
            case Checkpoint():
                self.checkpoint = event
            case Controls():
                self.controls = event
            case Change():
                self.changes.append(event)
            case Reply():
                self.replies.append(event)

    def _change_state(self, time: float, event: StateChange) -> None:
        if event.state == "starting":  # resumed: steps after the checkpoint are told anew
            self._forget_after(self.checkpoint.step if self.checkpoint else 0)
            worked_until = next((t for t in (self.ended, self._progressed) if t is not None), time)
            if self.started is not None:
                self.started += time - worked_until  # the break does not count
        self.state, self.reason = event.state, event.reason
        self.ended = time if event.state in FINISHED else None
        self._window.clear()

    def _forget_after(self, step: int) -> None:
        for key, points in self.series.items():
            self.series[key] = [p for p in points if p[0] <= step]
        self.samples = [s for s in self.samples if s.step <= step]
        self.replies = [r for r in self.replies if r.step <= step]
        # A checkpoint holds the changes of its own step: one that comes after it has it written anew.
        self.changes = [c for c in self.changes if c.step <= step and not c.what.endswith("epoch_end")]
        self.controls = None
        self.candidates.clear()
        self.reliability = None

    @property
    def ending(self) -> bool:
        """Whether the run is to stop at the end of this epoch."""
        return next((c.what == "epoch_end" for c in reversed(self.changes) if c.what.endswith("epoch_end")), False)

    @property
    def ranking(self) -> list[Candidate]:
        """The prompts that are compared, best first."""
        return sorted(self.candidates.values(), key=lambda candidate: (candidate.rank, candidate.number))

    @property
    def elapsed(self) -> float:
        """Seconds from the first event to the last one; the time between a stop and a resume does not count."""
        return 0.0 if self.started is None else (self.ended or self._last_time) - self.started

    def latest(self, name: str, split: str = "train") -> float | None:
        """The last value of a metric, or None."""
        points = self.series.get((split, name))
        return points[-1][1] if points else None

    def rate(self, what: str) -> float | None:
        """`steps`, `examples` or `tokens` a second over the last seconds of work; None while unknown."""
        if len(self._window) < 2:
            return None
        (t0, first), (t1, last) = self._window[0], self._window[-1]
        field = "step" if what == "steps" else what
        done: int = getattr(last, field) - getattr(first, field)
        return done / (t1 - t0) if t1 > t0 and done else None

    @property
    def seconds_left(self) -> float | None:
        """Seconds that the remaining steps will take at the present rate; None while unknown."""
        speed = self.rate("steps")
        if speed is None or self.progress is None:
            return None
        return (self.progress.total - self.progress.step) / speed

    def frame(self) -> pd.DataFrame:
        """All metrics as a table: one row a step and split, one column a metric."""
        import pandas as pd

        rows: dict[tuple[int, str], dict[str, float]] = {}
        for (split, name), points in self.series.items():
            for step, value in points:
                rows.setdefault((step, split), {})[name] = value
        ordered = sorted(rows.items(), key=lambda item: (item[0][0], item[0][1] == "evaluation"))
        return pd.DataFrame([{"step": step, "split": split, **values} for (step, split), values in ordered])
