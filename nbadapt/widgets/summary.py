"""A run's history in words and figures: the same ones in the dashboard, the static result and plain text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nbadapt.events import FINISHED, Event, Progress, Stage, StateChange
from nbadapt.memory import gibibytes
from nbadapt.widgets.texts import clip

if TYPE_CHECKING:
    from nbadapt.history import History

MINUTE, HOUR = 60, 3600
LABEL_BYTES = 40
COUNTS = frozenset({"rows", "unmatched", "search_rows"})
TOKENS = "_tokens"  # the end of what was paid for, which is shown however many metrics there are
MOST_METRICS = 8  # of evaluation; the run's `history` has them all


def number(value: float) -> str:
    """About four digits: 0.8172, 1234, 2.00e-05."""
    if not value or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < 1e-3 or abs(value) >= 1e6:
        return f"{value:.2e}"
    return f"{value:.{max(0, 3 - math.floor(math.log10(abs(value))))}f}" if abs(value) >= 1 else f"{value:.4f}"


def amount(value: float) -> str:
    """A count, short from a million on: 1,240, 22.7 M, 1.24 B."""
    for unit, one in (("B", 1e9), ("M", 1e6)):
        if value >= one:
            return f"{value / one:.3g} {unit}"
    return f"{value:,.0f}"


def duration(seconds: float) -> str:
    """45 s, 3 min 05 s, 2 h 07 min; a fraction below ten seconds where the value has one."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 10 and seconds != int(seconds):
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE:02d} s"
    return f"{whole // HOUR} h {whole % HOUR // MINUTE:02d} min"


def figures(
    history: History,
    *,
    now: float | None = None,
    rates: Mapping[str, float] | None = None,
    final: Mapping[str, float] | None = None,
) -> list[tuple[str, str]]:
    """What a person wants to know, as (label, text), most wanted first. What is unknown is left out.

    Args:
        history: the run so far.
        now: seconds since the epoch, for a run that works; None takes the time of the last event.
        final: metrics of the run's outcome; those that the history has too are not told twice.
        rates: "examples" and "tokens" a second; None takes those of the last seconds of work.
    """
    working = history.state not in FINISHED
    rows = [*_position(history, working=working, now=now), *_quality(history, final or {})]
    for what in ("examples", "tokens"):
        speed = history.rate(what) if rates is None else rates.get(what)
        if speed:
            rows.append((f"{what.capitalize()}/s", amount(speed) if speed >= 100 else f"{speed:.3g}"))
    return [*rows, *_resources(history)]


def _position(history: History, *, working: bool, now: float | None) -> list[tuple[str, str]]:
    rows = []
    if (progress := history.progress) is not None:
        if progress.total > 1:
            rows.append(("Step", f"{progress.step:,} / {progress.total:,}"))
        if progress.epoch is not None:
            rows.append(("Epoch", f"{progress.epoch:.2f}"))
    if history.started is not None:
        live = working and now is not None
        rows.append(("Elapsed", duration(int((now or 0) - history.started) if live else history.elapsed)))
    if working and (left := history.seconds_left) is not None:
        rows.append(("Time left", duration(int(left))))
    return rows


def _quality(history: History, final: Mapping[str, float]) -> list[tuple[str, str]]:
    rows = []
    if (value := history.latest("loss")) is not None:
        rows.append(("Training loss", number(value)))
    for name in ("loss", *metric_names(history)[:MOST_METRICS]):
        value = history.latest(name, "evaluation")
        if value is not None:
            panel = history.panels.get(name)
            label = "Evaluation loss" if name == "loss" else metric_label(name)
            label = label if panel is None else f"{clip(panel.label, LABEL_BYTES)}, held-out"
            rows.append((label, number(value) + _when(history, name)))
    paid = {name: value for name, value in final.items() if name.endswith(TOKENS)}
    rows += _final(history, {name: value for name, value in final.items() if name not in paid})[:MOST_METRICS]
    rows += [(metric_label(name), amount(value)) for name, value in paid.items()]
    for name, label in (("learning_rate", "Learning rate"), ("grad_norm", "Gradient norm")):
        if (value := history.latest(name)) is not None:
            rows.append((label, number(value)))
    return rows


def _when(history: History, name: str) -> str:
    """The step of an evaluation that is not the last one, where the run has ended: " (step 23)"."""
    step = history.series["evaluation", name][-1][0]
    past = history.progress is not None and step < history.progress.step
    return f" (step {step:,})" if past and history.state in FINISHED else ""


def _final(history: History, final: Mapping[str, float]) -> list[tuple[str, str]]:
    """Figures of the outcome that the history has not; an interval's two ends stand in one row."""
    measured = {name for _, name in history.series}
    rows = []
    for name, value in final.items():
        low, high = final.get(f"{name}_low"), final.get(f"{name}_high")
        if low is not None and high is not None:
            rows.append((f"{metric_label(name)}, 95 % interval", f"{number(low)} to {number(high)}"))
        of = name.removesuffix("_low").removesuffix("_high")
        if name.removeprefix("train_") not in measured and (of == name or of not in final):
            rows.append((metric_label(name), amount(value) if name in COUNTS else number(value)))
    return rows


def _resources(history: History) -> list[tuple[str, str]]:
    rows = []
    if (memory := history.memory) is not None:
        rows.append(("RAM", f"{gibibytes(memory.ram)}, peak {gibibytes(memory.ram_peak)}"))
        if memory.vram is not None:
            there = f" of {gibibytes(memory.vram_total)}" if memory.vram_total is not None else ""
            peak = f", peak {gibibytes(memory.vram_peak)}" if memory.vram_peak is not None else ""
            rows.append(("VRAM", gibibytes(memory.vram) + there + peak))
    if (parameters := history.parameters) is not None and parameters.total:
        share = 100 * parameters.trainable / parameters.total
        rows.append(("Trained parameters", f"{parameters.trainable:,} of {parameters.total:,} ({share:.3g} %)"))
    return rows


def metric_names(history: History) -> list[str]:
    """The metrics of the evaluation other than the loss, in order of their first appearance."""
    return [name for split, name in history.series if split == "evaluation" and name != "loss"]


def metric_label(name: str) -> str:
    """A metric's name as a label: "macro_f1" -> "Macro F1"."""
    return clip(name.replace("_", " ").capitalize().replace(" f1", " F1"), LABEL_BYTES)


def average_rates(events: Sequence[tuple[float, Event]]) -> dict[str, float]:
    """Examples and tokens a second over all training; loading, evaluation and pauses do not count."""
    before: tuple[float, Progress] | None = None
    seconds = 0.0
    done = {"examples": 0, "tokens": 0}
    for time, event in events:
        if isinstance(event, (Stage, StateChange)):
            before = None
        elif isinstance(event, Progress):
            if before is not None:
                seconds += time - before[0]
                done["examples"] += event.examples - before[1].examples
                done["tokens"] += event.tokens - before[1].tokens
            before = (time, event)
    return {what: count / seconds for what, count in done.items() if count > 0 and seconds > 0}


def headline(history: History, error: BaseException | None = None) -> str:
    """How the run stands, in a few words: "done in 95 s", "stopped at step 120 of 375 (...)"."""
    progress = history.progress
    where = f" at step {progress.step:,} of {progress.total:,}" if progress is not None else ""
    if history.state == "done":
        return f"done in {duration(history.elapsed)}"
    why = str(error) if error is not None else history.reason
    return f"{history.state}{where}" + (f": {why}" if why else "")


def progress_line(history: History, title: str) -> str:
    """One line of plain text: title, share done, step, losses, metrics, time left."""
    parts = []
    if (progress := history.progress) is not None and progress.total:
        parts.append(f"{100 * progress.step // progress.total} %")
        parts.append(f"step {progress.step:,}/{progress.total:,}")
    else:
        parts.append(history.stage or history.state)
    for split, name, label in (("train", "loss", "loss"), ("evaluation", "loss", "evaluation loss")):
        if (value := history.latest(name, split)) is not None:
            parts.append(f"{label} {number(value)}")
    for name in metric_names(history)[:2]:
        value = history.latest(name, "evaluation")
        if value is not None:
            parts.append(f"{metric_label(name).lower()} {number(value)}")
    if history.state not in FINISHED and (left := history.seconds_left) is not None:
        parts.append(f"{duration(int(left))} left")
    return " ".join(f"{title}: {' · '.join(parts)}".split())
