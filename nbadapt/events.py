"""What a method tells while it works: small frozen records, one JSON object a line in ``events.jsonl``.

The dashboard and the store both live from these alone; replaying a stored log draws the same dashboard.
Sizes are bytes, times are seconds, steps are optimizer steps counted from 1.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from nbadapt.redaction import hide

Split = Literal["train", "evaluation"]
State = Literal["starting", "running", "paused", "stopping", "done", "stopped", "failed", "killed"]

_MOST_WHOLE = 2**63  # whole numbers of a field are below this
FINISHED: frozenset[str] = frozenset({"done", "stopped", "failed", "killed"})


@dataclass(frozen=True)
class Event:
    """Base of all events. Secrets are hidden in every text of one: a plugin may repeat what a server told it."""

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        """Hide secrets in the fields that hold free text."""
        for name in _texts(type(self)):  # type: ignore[arg-type]  # a class can be hashed
            text = getattr(self, name)
            if isinstance(text, str) and text:  # anything else is a mistake that the log tells
                object.__setattr__(self, name, hide(text))


@functools.cache
def _texts(kind: type[Event]) -> tuple[str, ...]:
    """The fields of free text: none whose words a Literal gives, and none that something is looked up by."""
    names = (f.name for f in dataclasses.fields(kind) if f.name not in {"path", "metric", "spread"})
    return tuple(name for name in names if get_type_hints(kind)[name] in {str, str | None})


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
class Panel(Event):
    """A metric of the training that is worth a chart of its own, beside the loss.

    `metric` is its name in `Metric` events, `label` what the chart is called, with the unit; `spread` names another
    metric that lies around it on both sides, such as a standard deviation.
    """

    kind: ClassVar[str] = "panel"
    metric: str
    label: str
    spread: str = ""


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
    """What the model answers at this step to one input, what was expected, and how it came to it where it told.

    `before` is its answer before training.
    """

    kind: ClassVar[str] = "sample"
    step: int
    input: str
    output: str
    expected: str | None = None
    reasoning: str | None = None
    before: str | None = None


@dataclass(frozen=True)
class Source(Event):
    """A passage that the answer to a single prompt may name as ``[number]``; `title` says where it stands."""

    kind: ClassVar[str] = "source"
    number: int
    title: str
    text: str


@dataclass(frozen=True)
class Candidate(Event):
    """One of several prompts that a run compares, as far as it was tried; a later one of its number replaces it.

    `figure` is what `value` measures over the `rows` that it was asked, with its 95 % interval; `tokens` is the mean
    length of some of its prompts, the same rows for each candidate. Among equal ranks the number decides; rank 1 is
    the best so far.
    """

    kind: ClassVar[str] = "candidate"
    number: int
    rank: int
    text: str
    figure: str
    value: float
    low: float
    high: float
    rows: int
    tokens: int
    standing: str = ""


@dataclass(frozen=True)
class Reliability(Event):
    """How far the probabilities that a model gives to its choices are right, in bins of held-out rows.

    Three numbers a bin: the mean `predicted` probability, the share of right choices that was `observed`, and how many
    `rows` are in it.
    """

    kind: ClassVar[str] = "reliability"
    step: int
    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    rows: tuple[int, ...]


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


@dataclass(frozen=True)
class Controls(Event):
    """What may be asked of the run from now on besides Pause and Stop; emitted by the runner for the engine.

    `offered` are words of `nbadapt.steering.CONTROLS`; `reason` says why there is none any more.
    """

    kind: ClassVar[str] = "controls"
    offered: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Change(Event):
    """Somebody changed the run's course, or kept its model as it is, when `step` steps were done.

    Of a changed learning rate `factor` is what the rest of its schedule is multiplied by, and `rate` that of the next
    step; of a saved model `path` is where it lies in the run's folder.
    """

    kind: ClassVar[str] = "change"
    step: int
    what: Literal["learning_rate", "epoch_end", "no_epoch_end", "save"]
    factor: float = 1.0
    rate: float = 0.0
    path: str = ""


@dataclass(frozen=True)
class Reply(Event):
    """What the model as it is at this step says to the user's prompt: a text, or the likeliest class.

    `names` are the classes and `probabilities` theirs; both are empty where it wrote a text.
    """

    kind: ClassVar[str] = "reply"
    step: int
    prompt: str
    output: str
    names: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()


KINDS: Mapping[str, type[Event]] = types.MappingProxyType(
    {
        c.kind: c
        for c in (
            StateChange,
            Stage,
            Parameters,
            Progress,
            Metric,
            Panel,
            Memory,
            Sample,
            Source,
            Candidate,
            Reliability,
            Notice,
            Checkpoint,
            Controls,
            Change,
            Reply,
        )
    }
)


def to_json(event: Event, time: float) -> dict[str, Any]:
    """A JSON-able object of an event, stamped with `time` (seconds since the epoch)."""
    return {"event": event.kind, "time": round(time, 3), **dataclasses.asdict(event)}


def from_json(record: Mapping[str, Any]) -> tuple[float, Event] | None:
    """The stamped event of one log record; None for a kind that this version does not know.

    Raises:
        ValueError, KeyError, TypeError: no record of an event. A log may come from anywhere, and what is read
            from it is drawn and counted with.
    """
    if not isinstance(record, Mapping):
        raise TypeError("a record is an object")
    kind = KINDS.get(record.get("event", ""))
    if kind is None:
        return None
    known = _types(kind.kind)
    time: float = _checked(record["time"], float)
    if not math.isfinite(time):
        raise ValueError(f"{time} is no time")
    return time, kind(**{k: _checked(v, known[k]) for k, v in record.items() if k in known})


@functools.cache
def _types(kind: str) -> dict[str, Any]:
    """Field names -> their types; Python works them out anew at every question."""
    hints = get_type_hints(KINDS[kind])
    return {f.name: hints[f.name] for f in dataclasses.fields(KINDS[kind])}


def checked(event: Any) -> Event:
    """An event as it can be kept and drawn: with Python's own numbers in the place of numpy's.

    Raises:
        TypeError: it is none, or a field of it has another type than is declared; says which.
    """
    if not isinstance(event, Event):
        raise TypeError(f"{event!r:.40} is no event")
    if KINDS.get(event.kind) is not type(event):
        return event  # a plugin's own kind: kept, and passed over by whoever does not know it
    changed = {}
    for name, wanted in _types(event.kind).items():
        value = getattr(event, name)
        try:
            found = _checked(value, wanted)
        except TypeError as error:
            raise TypeError(f"{name} of {type(event).__name__}: {error}") from None
        if found is not value:
            changed[name] = found
    return dataclasses.replace(event, **changed) if changed else event


def _checked(value: Any, wanted: Any) -> Any:
    """The value itself, where it is of the wanted type; of a Literal any text, for a later version has more words."""
    origin = get_origin(wanted)
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise TypeError(f"{value!r:.40} is no mapping")
        return {_checked(name, str): _checked(item, get_args(wanted)[1]) for name, item in value.items()}
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError(f"{value!r:.40} is no tuple")
        return tuple(_checked(item, get_args(wanted)[0]) for item in value)
    if origin is types.UnionType:
        return None if value is None else _checked(value, get_args(wanted)[0])
    if wanted in (int, float):
        return _number(value, wanted)
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def _number(value: Any, wanted: Any) -> Any:
    number = plain_number(value)
    if wanted is int and isinstance(number, float) and abs(number) < _MOST_WHOLE and number.is_integer():
        number = int(number)
    if isinstance(value, bool) or number is None or (wanted is int and not isinstance(number, int)):
        raise TypeError(f"{value!r:.40} is no {'whole ' if wanted is int else ''}number")
    return number


def plain_number(value: Any) -> int | float | None:
    """A number as one of Python's own, which JSON has a form for; None for what is no number, and where it has none.

    Numpy's are taken, and nan. What 64 bits do not hold is a float, or none: figures are counted with as floats.
    """
    if type(value) is float or (type(value) is int and abs(value) < _MOST_WHOLE):
        return value
    try:
        if isinstance(value, numbers.Integral) and abs(int(value)) < _MOST_WHOLE:
            return int(value)
        return float(value) if isinstance(value, numbers.Real) else None
    except (OverflowError, TypeError, ValueError):
        return None
