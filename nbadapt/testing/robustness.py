"""Rules about trouble, and about what a run costs: odd rows, Stop and resume, memory, the network, printing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from nbadapt import store
from nbadapt.errors import NbadaptError, Stopped, drop_frames, first_line
from nbadapt.events import Event, Progress
from nbadapt.method import Job, Verb
from nbadapt.testing import fresh
from nbadapt.testing.behaviour import alike, short
from nbadapt.testing.kit import UnusableError
from nbadapt.testing.memory import allocated_peak
from nbadapt.testing.printing import Printed
from nbadapt.testing.subject import LABELS, Interrupt, Subject, Trial
from nbadapt.testing.watching import Held

SPARE = 64  # bytes of tensors that may stay in memory: a library's constants
SPARE_ARRAYS = 1024  # bytes of arrays
LEAST = 0.5  # of the predicted peak, what must be measured
# What may be measured at most. An answer's cache grows by copies, so that two are there at a time: prompting's estimate
# counts one, and on a tiny model that is most of what is there beside the weights.
MOST: Mapping[Verb, float] = {"finetune": 1.5, "prompt": 3.0}
LITTLE = 2**20  # bytes: where less is predicted and less measured, as of counts of words, a ratio says nothing
WIDE = (128, 4)  # of the model whose memory is measured: beside a tinier one what libraries take would count
LONG = " ".join(f"word {i}" for i in range(2_000))  # several times a tiny model's context
ODD = ("x", "[MASK] </s> <|im_end|> {{text}} {x}", "\N{GRINNING FACE}\u200b\u0301 שלום", "  y\n\ny  ")


def silent(subject: Subject) -> Iterator[str]:
    """Estimate, run and load print nothing, from Python or past it, and neither do processes that they start."""
    for task, trial in subject.trials():
        said = {
            "estimate": _printed(lambda: subject.estimate(subject.job(task))),  # noqa: B023 - called at once
            "run": trial.printed,
            "load": _printed(lambda: subject.load(trial)),  # noqa: B023 - called at once
        }
        yield from (f"{task}: {what} prints {short(text.strip())}" for what, text in said.items() if text.strip())


def _printed(work: Callable[[], Any]) -> str:
    with Printed() as output:
        work()
    return output.text


def offline(subject: Subject) -> Iterator[str]:
    """Estimate, run and load on a local model reach for no other machine (child processes are not watched).

    Heard is what goes through Python in this process: not what a library does in machine code.
    """
    for task, trial in subject.trials():
        subject.estimate(subject.job(task))
        subject.load(trial)
        if trial.connections:
            yield f"{task}: run reaches for {', '.join(sorted(set(trial.connections)))}"
    for what, names in subject.reached.items():
        if names:
            yield f"{what} reaches for {', '.join(sorted(names))}"


def odd_rows(subject: Subject) -> Iterator[str]:
    """Odd, long and few rows are worked with, or refused with one line before the first step."""
    for task, _ in subject.trials():
        for what, rows in (("odd rows", _rows(task, ODD)), ("a long row", _rows(task, (LONG,))), ("two rows", None)):
            job = _with_rows(subject.job(task), rows)
            try:
                subject.estimate(job)
            except NbadaptError as error:
                yield from (f"{task}, {what}: {fault}" for fault in _line_faults(error))
                continue
            except Exception as error:  # noqa: BLE001 - any other failure is the finding
                yield f"{task}, {what}: the estimate raises {type(error).__name__}: {first_line(error)}"
                continue
            trial = subject.observe(job)
            if isinstance(trial.error, NbadaptError):
                yield from (f"{task}, {what}: {fault}" for fault in _line_faults(trial.error))
                steps = sum(isinstance(event, Progress) for event in trial.events)
                if steps:
                    yield f"{task}, {what}: refused after {steps} steps: {first_line(trial.error)}"
            elif trial.error is not None:
                yield f"{task}, {what}: {type(trial.error).__name__}: {first_line(trial.error)}"


def _line_faults(error: NbadaptError) -> Iterator[str]:
    if len(str(error).strip().splitlines()) != 1:
        yield f"the error is no single line: {short(str(error))}"


def _rows(task: str, texts: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a task with these texts."""
    match task:
        case "classification":
            return [{"text": text, "label": LABELS[i % 2]} for i, text in enumerate(texts)]
        case "preference":
            return [{"prompt": text, "chosen": "good", "rejected": "bad"} for text in texts]
        case "text":
            return [{"text": text} for text in texts]
    return [{"prompt": text, "completion": "good"} for text in texts]


def _with_rows(job: Job, rows: list[dict[str, str]] | None) -> Job:
    """The job with these rows among its own, or with two rows of its own alone."""

    def changed(table: Any, own: int) -> Any:
        if table is None:
            return None
        chosen = table.rows[:own] if rows is None else (*rows, *table.rows[:own])
        return dataclasses.replace(table, rows=tuple(chosen))

    return dataclasses.replace(job, data=changed(job.data, 2), evaluation=changed(job.evaluation, 1))


# ------------------------------------------------------------------------------------------------ resume


def resume(subject: Subject) -> Iterator[str]:
    """A run that is stopped half-way and gone on with ends as one that nobody stopped."""
    for task, whole in subject.trials():
        steps = [event for event in whole.events if isinstance(event, Progress)]
        if not steps:
            continue
        job = subject.job(task)
        broken = subject.observe(job, _StopAt(math.ceil(steps[-1].total / 2)))
        if broken.error is not None and not isinstance(broken.error, Stopped):
            yield f"{task}: the stopped run fails: {type(broken.error).__name__}: {first_line(broken.error)}"
            continue
        again = subject.observe(dataclasses.replace(job, checkpoint=store.last_checkpoint(job.directory)))
        if again.outcome is None:
            assert again.error is not None  # one of the two
            yield f"{task}: the second half fails: {type(again.error).__name__}: {first_line(again.error)}"
            continue
        yield from (f"{task}: {fault}" for fault in _differences(subject, whole, again))


def _differences(subject: Subject, whole: Trial, again: Trial) -> Iterator[str]:
    assert whole.outcome is not None  # the callers looked
    assert again.outcome is not None
    ends = (whole.outcome.metrics, again.outcome.metrics)
    for figure in sorted({*ends[0], *ends[1]}):
        a, b = (metrics.get(figure, math.nan) for metrics in ends)
        if not math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-5):
            yield f"{figure} is {b}, and {a} without the stop"
    answers = fresh.answers(subject.load(whole)), fresh.answers(subject.load(again))
    for ability, said in answers[0].items():
        if not alike(said, answers[1].get(ability)):
            yield f"{ability} gives {short(answers[1].get(ability))}, and {short(said)} without the stop"


class _StopAt:
    """Raises Stopped at a step, once, as the runner does."""

    def __init__(self, step: int) -> None:
        self._step, self._told = step, False

    def __call__(self, event: Event) -> None:
        if not self._told and isinstance(event, Progress) and event.step >= self._step:
            self._told = True
            raise Stopped("stopped by the conformance kit")


# ------------------------------------------------------------------------------------------------ memory


def estimate_measured(subject: Subject) -> Iterator[str]:
    """The peak of memory is 0.5 to 1.5 times the predicted one, with prompting 0.5 to 3 times (time is not measured).

    The predicted time is that of this machine, and a tiny job says nothing of it.
    """
    most = MOST[subject.method.verb]
    for task, _ in subject.trials():
        job = subject.job(task, wide=WIDE)
        estimate = subject.estimate(job)
        if estimate.elsewhere:
            raise UnusableError("what it needs is on several devices")
        first = subject.observe(job)  # the base is loaded
        if first.error is not None:
            yield f"{task}: on a wider model: {type(first.error).__name__}: {first_line(first.error)}"
            continue
        second = subject.job(task, wide=WIDE)
        before = subject.base_bytes(second)
        peak = allocated_peak(lambda: subject.observe(second)) + before  # noqa: B023 - called at once
        if max(peak, estimate.peak) > LITTLE and not LEAST * estimate.peak <= peak <= most * estimate.peak:
            yield f"{task}: {estimate.peak / 2**20:.2f} MiB are predicted, {peak / 2**20:.2f} MiB measured"


def memory_released(subject: Subject) -> Iterator[str]:
    """Nothing of a run stays in memory after its end, a failure or an interrupt, and the base weights are as before."""
    for number, (task, first) in enumerate(subject.trials()):
        with Held() as held:
            for what, error in _ENDS.items():
                if number and error is not None:  # how it is left does not depend on the task
                    continue
                trial = subject.observe(subject.job(task), _RaiseAt(error) if error is not None else None)
                changed = trial.weights_changed
                if trial.error is not None:
                    drop_frames(trial.error)  # as the runner does
                del trial
                yield from (f"{task}: after {what} {fault}" for fault in _kept(held))
                if changed and error is not None:  # without one: the rule base_unchanged
                    yield f"{task}: after {what} the shared base weights are changed"
            subject.load(first)
            yield from (f"{task}: after its result was loaded and let go {fault}" for fault in _kept(held))


def _kept(held: Held) -> list[str]:
    """What stays in memory of what came since the last look."""
    (count, size), arrays = held.tensors(), held.arrays()
    faults = [f"{size:,} bytes in {count} tensors stay in memory"] if size > SPARE else []
    if arrays > SPARE_ARRAYS:
        faults.append(f"{arrays:,} bytes in arrays stay in memory")
    if faults:
        held.mark()  # each is told once
    return faults


_ENDS: Mapping[str, BaseException | None] = {
    "the end": None,
    "a failure": RuntimeError("made by the conformance kit"),
    "an interrupt": Interrupt("made by the conformance kit"),
}


class _RaiseAt:
    """Raises an error at the first step."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress):
            raise type(self._error)(*self._error.args)


RULES = (silent, offline, odd_rows, resume, estimate_measured, memory_released)
