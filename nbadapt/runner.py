"""Plan -> worker thread -> events. Decides when a run starts, stops, pauses and ends."""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import dataclasses
import gc
import sys
import threading
import time
import traceback
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from nbadapt import consent, guard, models, origins, registry, results, store
from nbadapt.capture import Capture
from nbadapt.errors import (
    NbadaptError,
    OutOfMemoryError,
    RequestError,
    RunError,
    Stopped,
    StoreError,
    drop_frames,
    first_line,
)
from nbadapt.events import Checkpoint, Controls, Event, Notice, Stage, StateChange
from nbadapt.gradients import GradientWatch
from nbadapt.memory import measure, out_of_memory, trim
from nbadapt.method import Job, Method, Outcome
from nbadapt.plan import Plan, prepare
from nbadapt.redaction import hide
from nbadapt.run import Run
from nbadapt.steering import CONTROLS, Steering

if TYPE_CHECKING:
    from nbadapt.request import Request

MEMORY_SECONDS = 0.5  # how often memory is measured

# One run works at a time: two would share the cores and the random state. Its thread keeps it, not this.
_current: weakref.ref[Run] | None = None


# ------------------------------------------------------------------------------------------------ start


def submit(request: Request) -> Run | Plan:
    """Do what a request asks for, and hold the cell until it is done (unless it asks for the background).

    Returns:
        The Run; for a dry run the Plan.

    Raises:
        NbadaptError: the request was wrong, or the run failed.
    """
    from nbadapt import foreground

    check_idle()
    plan = prepare(request)
    if request.dry_run:
        return _timed(plan) if request.timed and plan.estimate.steps else plan
    run = start(plan)
    foreground.hold(run, background=request.background)
    if run.error is not None:
        raise run.error
    return run


def _timed(plan: Plan) -> Plan:
    """The plan with the time that it will take, from a few steps on the main thread."""
    from nbadapt import timing

    if plan.job.model.kind == "endpoint":
        raise RequestError(f"--timed would put questions to {plan.job.model.name}, which costs tokens: leave it out")
    try:
        seconds = timing.seconds(plan.method, plan.job, plan.estimate.steps)
    except (NbadaptError, KeyboardInterrupt):
        raise
    except BaseException as error:  # noqa: BLE001 - whatever a plugin raises becomes one line
        raise RunError(f"{plan.job.method} failed while it was timed: {first_line(error)}") from None
    finally:
        models.release_cached_memory()
    return dataclasses.replace(plan, estimate=dataclasses.replace(plan.estimate, seconds=seconds))


def current() -> Run | None:
    """The run that this kernel is working on, or None."""
    run = _current() if _current is not None else None
    return run if run is not None and run.alive else None


def check_idle() -> None:
    """Refuse to start something beside a run that is at work in this kernel.

    Raises:
        RequestError: there is one.
    """
    busy = current()
    if busy is not None:
        raise RequestError(f"the run {busy.id} is still going on here: wait for it, or stop it with  %nbadapt stop")


def start(plan: Plan) -> Run:
    """Write the run down and start its worker thread."""
    check_idle()
    job = store.create(plan.job, plan.estimate, plan.title, plan.name)
    run = Run.at(job.directory)
    run.metric, run.functions = job.metric, job.functions
    told = () if plan.method.verb == "prompt" else plan.estimate.notes  # a prompting method tells its notes itself
    return _launch(run, plan.method, job, (*told, *plan.notices))


def resume(run: Run) -> Run:
    """Continue a stopped, failed or killed run from its last complete checkpoint, and hold the cell.

    Raises:
        NbadaptError: the run is done or at work, or fails again.
    """
    from nbadapt import foreground

    go_on(run)
    foreground.hold(run)
    if run.error is not None:
        raise run.error
    return run


def go_on(run: Run) -> None:
    """Start the worker thread of a stopped, failed or killed run again, from its last complete checkpoint.

    Raises:
        NbadaptError: the run is done or at work.
    """
    check_idle()
    state = run.state
    if state == "done":
        raise RequestError(f"the run {run.id} is done: there is nothing to resume")
    if state == "running":
        raise RequestError(f"the run {run.id} is at work in another kernel: stop it there first")
    guard.check(run.directory)
    method = registry.make(registry.load(run.method))
    checkpoint = store.last_checkpoint(run.directory)
    job = dataclasses.replace(run.job(tables=True), checkpoint=checkpoint, metric=run.metric, functions=run.functions)
    name = run.request.get("metric")
    lost = f"the function of the metric {name} is not in this kernel: its figure is left out"
    with consent.stored():  # the worker's thread copies the context
        _launch(run, method, job, (lost,) if name and run.metric is None else ())


def _launch(run: Run, method: Method, job: Job, notices: tuple[str, ...]) -> Run:
    global _current  # noqa: PLW0603 - the kernel's one place that knows what is going on
    events = store.read_events(job.directory)
    emit = _Emitter(run, events, job)
    thread = threading.Thread(
        target=contextvars.copy_context().run,  # what the worker prints by accident goes to its own cell
        args=(_work, run, method, job, notices, emit),
        name=f"nbadapt-{run.id}",
        daemon=True,
    )
    store.claim(job.directory)
    run.attach(thread, events)
    _release_openmp_team()
    _current = weakref.ref(run)
    if job.checkpoint is not None:
        relative = job.checkpoint.relative_to(job.directory)
        emit.record(Checkpoint(store.checkpoint_step(job.checkpoint), relative.as_posix()))
    emit.record(StateChange("starting"))
    thread.start()
    return run


def _release_openmp_team() -> None:
    """Let go of the main thread's idle OpenMP threads: beside the worker's they cost a fifth of its speed."""
    file = getattr(sys.modules.get("torch"), "__file__", None)
    if file is None:
        return
    for library in (Path(file).parent / "lib").glob("libgomp*"):
        try:
            ctypes.CDLL(str(library)).omp_pause_resource_all(1)
        except (OSError, AttributeError):
            return


# ------------------------------------------------------------------------------------------------ the worker


STAGES = {
    "save": "saving the model as it is",
    "learning_rate": "changing the learning rate",
    "epoch_end": "planning the end",
    "sample": "answering your prompt",
}


class _Left(BaseException):
    """Raised inside a wish when the run is to stop. Not an Exception, so that no library eats it."""


class _Emitter:
    """What a method calls with its events: records them, measures memory, obeys Pause and Stop, fulfils wishes.

    Attributes:
        ended: why the engine ended before its last step, where a person asked it to.
        gradients: sees whether they reach all that is trained.
    """

    def __init__(self, run: Run, events: list[tuple[float, Event]], job: Job) -> None:
        self._run, self._events = run, events
        self._log = store.EventLog(job.directory)
        self.ended = ""
        self.gradients = GradientWatch(self.record)
        self._device = job.device
        self._measured = 0.0
        self._directory = job.directory
        self._stage: Stage | None = None
        self._ram_peak = 0
        self._told = results.Told(job.method)
        self._steering: Steering | None = None  # the engine's, while it offers one
        self._serving = False

    def record(self, event: Event) -> None:
        """Write an event down, now, without looking at the switches."""
        now = time.time()
        self._events.append((now, event))
        self._log.write(now, event)

    def offer(self, steering: Steering | None, reason: str) -> None:
        """Take from the engine what may be asked of it from now on; see `nbadapt.steering.offer`."""
        had, self._steering = self._steering, steering  # what is over is let go: it holds the model
        if had is not None:
            self.ended = self.ended or had.ended
        offered = steering.offered if steering is not None else frozenset()
        self._run.control.offer(offered, reason)
        if offered or had is not None:
            words = tuple(word for word in CONTROLS if word in offered)
            self.record(Controls(words, "" if offered else reason))

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        found, remark = self._told.checked(event)
        if found is not None and found != self._stage:  # a stage that is told at every batch is written down once
            self.record(found)
            self.gradients.see(found)
        if remark is not None:
            self.record(remark)
        if isinstance(found, Stage):
            self._stage = found
        if now - self._measured >= MEMORY_SECONDS:
            self._measured = now
            memory = measure(self._device, self._ram_peak)
            self.record(memory)
            if memory.ram >= self._ram_peak:  # each time would cost a twelfth of a training's speed
                trim()
            self._ram_peak = memory.ram_peak
        if not self._serving:  # what a wish lets the engine tell is no moment for the next one
            self._obey()

    def _obey(self) -> None:
        control = self._run.control
        if self._steering is not None and not self._steering.ready and not control.stopping:
            return  # a pause and wishes wait for the end of the step
        self._serve()
        if control.paused and not control.stopping:
            self.record(StateChange("paused"))
            while control.paused and not control.stopping:
                control.wait_for_word()
                self._serve()
            if not control.stopping:
                self.record(StateChange("running"))
        if control.stopping and not control.obeyed:
            self.record(StateChange("stopping", control.reason))
            control.raise_if_stopping()

    def _serve(self) -> None:
        """Fulfil the wishes that wait."""
        control = self._run.control
        while self._steering is not None and not control.stopping and (wish := control.next_wish()) is not None:
            stage, self._serving = self._stage, True
            self.record(Stage(STAGES[wish.name]))
            try:
                result, said = wish.asked.do(self._steering, self._directory, self.record, self._leave_if_stopping)
            except _Left:
                wish.refuse(RunError("the run was stopped before it was done"))
            except NbadaptError as error:
                drop_frames(error)
                wish.refuse(error)
            except Exception as error:  # noqa: BLE001 - a wish that fails costs no run
                wish.refuse(_wish_failed(error))
                drop_frames(error)
                models.release_cached_memory()
            else:
                wish.fulfil(result, said)
            finally:
                self._serving = False
                if not wish.done:  # such as an interrupt: nobody is left waiting
                    wish.refuse(RunError("the run was left before it was done"))
            if stage is not None:
                self.record(stage)

    def _leave_if_stopping(self) -> None:
        if self._run.control.stopping:
            raise _Left

    def close(self) -> None:
        """Close the log."""
        self._steering = None
        self._run.control.offer(frozenset(), "the run has ended")
        self._log.close()

    @property
    def closed(self) -> bool:
        """Whether nothing more can be recorded."""
        return self._log.closed


def _work(run: Run, method: Method, job: Job, notices: tuple[str, ...], emit: _Emitter) -> None:
    """The worker thread's life: run the method, and write down how it ended, whatever happens."""
    outcome: Outcome | None = None
    error: NbadaptError | None = None
    state = "failed"
    try:
        with Capture(job.directory / "output.log"):
            emit.record(StateChange("running"))
            for notice in notices:
                emit.record(Notice(notice))
            with emit.gradients:
                result = method.run(job, emit)
            outcome = results.checked(result, method, emit.record)
        state = "stopped" if run.control.obeyed or emit.ended else "done"
        run.control.reason = run.control.reason or emit.ended
    except Stopped:
        state = "stopped"
    except KeyboardInterrupt:
        state, run.control.reason = "stopped", "interrupted twice: left at once, without saving"
    except NbadaptError as raised:
        error = raised
        drop_frames(error)
    except BaseException as raised:  # noqa: BLE001 - whatever a plugin raises becomes one line
        error = _explain(raised, job)
        drop_frames(raised)
    finally:
        try:
            _end(run, job, emit, state, outcome, error)
        except KeyboardInterrupt:  # the second interrupt came when all was done
            if not emit.closed:
                _end(run, job, emit, state, outcome, error)


def _end(run: Run, job: Job, emit: _Emitter, state: str, outcome: Outcome | None, error: NbadaptError | None) -> None:
    gc.collect()
    models.release_cached_memory()
    run.error = error
    try:
        if error is not None:
            emit.record(Notice(str(error), "error"))
        _write_end(job, state, outcome, str(error or ""))
    except Exception as problem:  # noqa: BLE001 - a full disk, a folder that was deleted, what JSON has no form for
        state = "failed"
        line = f"the end of the run {run.id} could not be written down: {first_line(problem)}"
        run.error = error or StoreError(line)
        with contextlib.suppress(Exception):  # without what could not be written, where that was the reason
            _write_end(job, state, None, str(run.error))
        with contextlib.suppress(OSError):  # nobody works on it any more, whatever is known of it
            store.release(job.directory)
    with contextlib.suppress(Exception):
        emit.record(StateChange(state, str(run.error or run.control.reason)))  # type: ignore[arg-type]  # a State
    emit.close()


def _write_end(job: Job, state: str, outcome: Outcome | None, error: str) -> None:
    """Write down how the run ended; without an outcome the one that is there stays, as of an earlier attempt."""
    store.write_outcome(job.directory, state, outcome or store.read_outcome(job.directory)[1], error)
    store.release(job.directory)


def _wish_failed(error: Exception) -> NbadaptError:
    """One line for an error that nobody foresaw; the run goes on."""
    if out_of_memory(error):
        return OutOfMemoryError("there is not enough memory for that now; the run goes on")
    if isinstance(error, OSError):
        return StoreError(f"it could not be written: {error.strerror or error}; the run goes on")
    return RunError(f"{type(error).__name__}: {first_line(error)}; the run goes on")


def _explain(error: BaseException, job: Job) -> NbadaptError:
    """One line for an error that nobody foresaw; the traceback goes into the run's folder."""
    if out_of_memory(error):
        fields = type(job.config).model_fields
        there = " or ".join(name for name in ("batch_size", "minibatch_size", "max_length") if name in fields)
        lower = f"lower {there}, or " if there else ""
        return OutOfMemoryError(f"{job.method} ran out of memory on {job.device}: {lower}use a smaller model")
    path = job.directory / "error.txt"
    said = origins.told(error)[:250]
    try:
        path.write_text(hide("".join(traceback.format_exception(error))), encoding="utf-8", errors=store.SURROGATES)
    except OSError as problem:
        return RunError(f"{job.method} failed: {said} (no traceback was kept: {problem})")
    return RunError(f"{job.method} failed: {said} (traceback in {path})")
