"""What a method tells while it works: small frozen records, one JSON object a line in ``events.jsonl``.

The dashboard and the store both live from these alone; replaying a stored log draws the same dashboard.
Sizes are bytes, times are seconds, steps are optimizer steps counted from 1.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

Split = Literal["train", "evaluation"]
State = Literal["starting", "running", "paused", "stopping", "done", "stopped", "failed", "killed"]

FINISHED: frozenset[str] = frozenset({"done", "stopped", "failed", "killed"})


@dataclass(frozen=True)
class Event:
    """Base of all events."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class StateChange(Event):
    """The run's state changed; emitted by the runner, never by a method."""

    kind: ClassVar[str] = "state"
    state: State
    reason: str = ""


@dataclass(frozen=True)
class Stage(Event):
    """What is going on now, in a few words: "loading the model", "training", "evaluating"."""

    kind: ClassVar[str] = "stage"
    text: str


@dataclass(frozen=True)
class Parameters(Event):
    """How many parameters are trained, and how many the adapted model has in all."""

    kind: ClassVar[str] = "parameters"
    trainable: int
    total: int


@dataclass(frozen=True)
class Progress(Event):
    """One unit of work is done (an optimizer step, a batch of prompts).

    `examples` and `tokens` count from the start of the run; `epoch` is fractional.
    """

    kind: ClassVar[str] = "progress"
    step: int
    total: int
    epoch: float | None = None
    examples: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Metric(Event):
    """Figures measured at a step: loss, learning_rate, grad_norm, accuracy, ..."""

    kind: ClassVar[str] = "metric"
    step: int
    split: Split
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Memory(Event):
    """Memory in bytes: of this process, and of the accelerator where there is one."""

    kind: ClassVar[str] = "memory"
    ram: int
    ram_peak: int
    vram: int | None = None
    vram_peak: int | None = None
    vram_total: int | None = None


@dataclass(frozen=True)
class Sample(Event):
    """What the model answers at this step to one input, and what was expected."""

    kind: ClassVar[str] = "sample"
    step: int
    input: str
    output: str
    expected: str | None = None


@dataclass(frozen=True)
class Notice(Event):
    """Something the user should know: shown in the dashboard and kept in the summary."""

    kind: ClassVar[str] = "notice"
    text: str
    level: Literal["info", "warning", "error"] = "info"


@dataclass(frozen=True)
class Checkpoint(Event):
    """A complete checkpoint is on disk; `path` is relative to the run's folder."""

    kind: ClassVar[str] = "checkpoint"
    step: int
    path: str


KINDS: Mapping[str, type[Event]] = types.MappingProxyType(
    {c.kind: c for c in (StateChange, Stage, Parameters, Progress, Metric, Memory, Sample, Notice, Checkpoint)}
)


def to_json(event: Event, time: float) -> dict[str, Any]:
    """A JSON-able object of an event, stamped with `time` (seconds since the epoch)."""
    return {"event": event.kind, "time": round(time, 3), **dataclasses.asdict(event)}


def from_json(record: Mapping[str, Any]) -> tuple[float, Event] | None:
    """The stamped event of one log record; None for a kind that this version does not know."""
    kind = KINDS.get(record.get("event", ""))
    if kind is None:
        return None
    known = {f.name for f in dataclasses.fields(kind)}
    return float(record["time"]), kind(**{k: v for k, v in record.items() if k in known})
