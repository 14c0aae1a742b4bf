"""What is known of each run, for a table: read from its folder, and read again only where that has changed."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbadapt import notes, store
from nbadapt.comparing.digest import Digest
from nbadapt.errors import StoreError
from nbadapt.events import FINISHED
from nbadapt.method import Outcome
from nbadapt.run import Run

MAIN_METRICS = ("accuracy", "reward", "loss")  # the first one that a run has is its result
_SMALLER_IS_BETTER = re.compile(r"loss|perplexity|error|divergence|brier|(?:^|_)kl(?:$|_)")
_COUNTS = ("rows", "unmatched", "length", "train_length")
_STAMP = re.compile(r"^\d{8}-\d{6}-")
_ENDS = ("_low", "_high", "_rows", "_tokens", "_spread", "_before")


@dataclass(frozen=True)
class Facts:
    """One run as a table shows it. What is unknown is None or empty.

    Attributes:
        name: the variable that it was bound to with ``--as``.
        model: its name; of a folder the last part.
        data: what the rows were called.
        state: one of `nbadapt.events.State`, or "unreadable".
        here: whether this kernel works on it.
        stage: what it does now, while it works.
        step: steps that are done, of `total`.
        metrics: the final figures; while it works, the latest ones of the evaluation.
        parameters: how many are trained, of `all_parameters`.
        memory: the peak, in bytes: of the accelerator where there is one.
        seconds: of work.
        left: seconds that the rest will take.
        created: seconds since the epoch.
        complete: whether its log was read to the end.
    """

    id: str
    state: str = "unreadable"
    name: str = ""
    method: str = ""
    verb: str = ""
    model: str = ""
    data: str = ""
    rows: int | None = None
    here: bool = False
    stage: str = ""
    step: int | None = None
    total: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    parameters: int | None = None
    all_parameters: int | None = None
    memory: int | None = None
    seconds: float | None = None
    left: float | None = None
    created: float = 0.0
    note: str = ""
    tags: tuple[str, ...] = ()
    complete: bool = True

    @property
    def live(self) -> bool:
        """Whether there is more to come."""
        return not self.complete or (self.state not in FINISHED and self.state != "unreadable")

    @property
    def called(self) -> str:
        """The shortest name that means it: that of --as, or its id without the time."""
        return self.name or _STAMP.sub("", self.id)


def where(facts: Facts) -> str:
    """The state in words: of a run at work in another kernel, that too."""
    working = facts.state not in FINISHED and facts.state != "unreadable"
    return f"{facts.state} in another kernel" if working and not facts.here else facts.state


def smaller_is_better(metric: str) -> bool:
    """Whether a metric is one that falls as a model gets better; said by its name."""
    return _SMALLER_IS_BETTER.search(metric.lower()) is not None


def is_quality(metric: str) -> bool:
    """Whether a figure of an outcome says how good the run is: counts, spreads and the figures of before do not."""
    return metric not in _COUNTS and not metric.endswith(_ENDS)


def main_metric(facts: Facts) -> str | None:
    """The metric that stands for a run's result; None where it has none."""
    ranked = [*MAIN_METRICS, *filter(is_quality, facts.metrics), *facts.metrics]
    return next((metric for metric in ranked if metric in facts.metrics), None)


def measures(all_facts: Iterable[Facts]) -> list[str]:
    """The metrics of quality that the runs have: the main ones that are common, then those of most runs."""
    counts: dict[str, int] = {}
    for facts in all_facts:
        for metric in filter(is_quality, facts.metrics):
            counts[metric] = counts.get(metric, 0) + 1
    common = max(counts.values(), default=0) / 2
    ranks = {metric: rank for rank, metric in enumerate(MAIN_METRICS) if counts.get(metric, 0) >= common}
    return sorted(counts, key=lambda metric: (ranks.get(metric, len(ranks)), -counts[metric], metric))


class Known:
    """One run, looked at again and again."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.digest = Digest(run.directory)
        self._files: dict[str, tuple[Any, Any]] = {}  # file -> its stamp, and what was in it

    def facts(self) -> Facts:
        """What is known now; a run whose files are damaged says so and hides no other.

        The log is as far as `digest` has read it.
        """
        with contextlib.suppress(StoreError, OSError, KeyError, TypeError, ValueError, AttributeError):
            return self._facts()
        return Facts(self.run.id)

    @property
    def request(self) -> dict[str, Any]:
        """What was asked."""
        record: dict[str, Any] = self._read("request.json", store.read_json)
        return record

    def _facts(self) -> Facts:
        directory, request, history = self.run.directory, self.request, self.digest.history
        state, outcome = self._state()
        data = next((request[table] for table in ("data", "examples") if request.get(table)), None)
        written: notes.Notes = self._read(notes.FILE, lambda path: notes.read(path.parent)) or notes.Notes()
        working = state not in FINISHED
        progress, parameters, memory = history.progress, history.parameters, history.memory
        return Facts(
            id=directory.name,
            state=state,
            name=str(request.get("name", "")),
            method=str(request["method"]),
            verb=str(request["verb"]),
            model=short_model(request["model"]),
            data=str(data["source"]) if data else "",
            rows=int(data["rows"]) if data else None,
            here=self.run.alive,
            stage=history.stage if working else "",
            step=progress.step if progress else None,
            total=progress.total if progress else None,
            metrics=self._metrics(outcome if not working else None),
            parameters=parameters.trainable if parameters else None,
            all_parameters=parameters.total if parameters else None,
            memory=(memory.vram_peak or memory.ram_peak) if memory else None,
            seconds=self._seconds(working),
            left=history.seconds_left if working else None,
            created=float(request["created"]),
            note=written.note,
            tags=written.tags,
            complete=self.digest.complete,
        )

    def _state(self) -> tuple[str, Outcome | None]:
        """As `Run.state` tells it; of a run in another kernel the log knows more than the process does."""
        if self.run.alive:
            return self.run.state, None
        if (self.run.directory / "worker.json").exists():
            state, outcome, _ = store.read_outcome(self.run.directory)
        else:  # the most usual case, fifty times a second look
            ended = self._read("outcome.json", lambda path: store.read_outcome(path.parent))
            state, outcome, _ = ended or ("killed", None, "")
        told = self.digest.history.state
        return (told if state == "running" and told not in FINISHED else state), outcome

    def _metrics(self, outcome: Outcome | None) -> dict[str, float]:
        told = {name: value for (split, name), value in self.digest.latest.items() if split == "evaluation"}
        found = told if outcome is None else dict(outcome.metrics)
        return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}

    def _seconds(self, working: bool) -> float | None:
        history = self.digest.history
        if history.started is None:
            return None
        return time.time() - history.started if working and history.state == "running" else history.elapsed

    def _read(self, name: str, reader: Any) -> Any:
        """The content of a file of the run; read again where it has changed. None where it is missing."""
        path = self.run.directory / name
        try:
            found = path.stat()
        except FileNotFoundError:
            if name == "request.json":
                raise StoreError(f"the run's file {path} is missing") from None
            return None
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if name not in self._files or self._files[name][0] != stamp:
            self._files[name] = (stamp, reader(path))
        return self._files[name][1]


def short_model(model: Mapping[str, str]) -> str:
    """A model's name; of a folder its last part."""
    return str(model["name"]) if model["kind"] in {"hub", "endpoint"} else Path(model["name"]).name


class Overview:
    """All runs of a folder, newest first, and what is known of them."""

    def __init__(self) -> None:
        self._known: dict[Path, Known] = {}

    def refresh(self, most: int | None = None) -> list[Facts]:
        """Look for runs that came or went, and read what is new of each.

        Args:
            most: about how many bytes of logs, of all runs together; None reads all.
        """
        runs = store.runs()
        self._known = {run.directory: self._known.get(run.directory) or Known(run) for run in runs}
        left = most
        for known in self._known.values():
            if left is not None and left <= 0:
                break  # those of the next ones are read at the next look
            before = known.digest.offset
            known.digest.update(left)
            if left is not None:
                left -= max(0, known.digest.offset - before)
        return [known.facts() for known in self._known.values()]

    def get(self, run_id: str) -> Known | None:
        """The run of this id, if it is there."""
        return next((known for known in self._known.values() if known.run.id == run_id), None)
