"""Request -> plan -> worker thread -> events. Decides when a run starts, stops, pauses and ends."""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import dataclasses
import gc
import html
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbadapt import data, endpoints, models, registry, store, support, template
from nbadapt.capture import Capture, quiet_libraries
from nbadapt.errors import (
    DataError,
    DependencyError,
    NbadaptError,
    OutOfMemoryError,
    RequestError,
    RunError,
    Stopped,
    StoreError,
    drop_frames,
    first_line,
)
from nbadapt.events import Checkpoint, Event, Notice, Stage, StateChange
from nbadapt.memory import available_bytes, gibibytes, measure, out_of_memory
from nbadapt.method import Estimate, Job, Method, ModelRef, Outcome, OwnMetric
from nbadapt.options import DTYPES
from nbadapt.run import Run
from nbadapt.settings import validate

if TYPE_CHECKING:
    from nbadapt.data import Examples
    from nbadapt.request import Request

MEMORY_SECONDS = 0.5  # how often memory is measured

# One run works at a time: two would share the cores and the random state. Its thread keeps it, not this.
_current: weakref.ref[Run] | None = None


# ------------------------------------------------------------------------------------------------ plan


@dataclass(frozen=True)
class Plan:
    """A request that was looked up, checked and estimated, and is ready to start.

    Attributes:
        notices: what the user should know, told when the run starts.
    """

    job: Job
    method: Method
    estimate: Estimate
    notices: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """A short name for headings."""
        return f"{self.method.verb} {self.method.name} · {Path(self.job.model.name).name}"

    def rows(self) -> list[tuple[str, str]]:
        """The estimate as (item, figure) pairs."""
        e = self.estimate
        shown = [("method", self.title), ("task", self.job.task)]
        for name in ("data", "evaluation", "examples"):
            table: Examples | None = getattr(self.job, name)
            if table is not None:
                shown.append((f"{name} rows", f"{len(table):,}"))
        if self.job.model.kind == "endpoint":
            shown.append(("endpoint", self.job.model.base_url))
        else:
            shown += self._resources()
        shown.append(("steps", f"{e.steps:,}"))
        if e.seconds is not None:
            shown.append(("time", f"about {e.seconds:,.0f} s, evaluations not counted"))
        shown += [("note", note) for note in (*e.notes, *self.notices)]
        return shown

    def _resources(self) -> list[tuple[str, str]]:
        """What the job takes of this machine."""
        e = self.estimate
        if self.method.verb == "finetune":
            share = 100 * e.trainable / e.total if e.total else 0.0
            shown = [("trainable parameters", f"{e.trainable:,} of {e.total:,} ({share:.2f} %)")]
        else:
            shown = [("parameters", f"{e.total:,}")]
        shown += [(f"memory: {item}", gibibytes(size)) for item, size in e.memory.items()]
        shown.append(("predicted peak memory", f"{gibibytes(e.peak)} on {self.job.device} ({self.job.dtype})"))
        if e.artifact:
            shown.append(("size on disk", gibibytes(e.artifact)))
        return shown

    def __repr__(self) -> str:
        rows = self.rows()
        width = max(len(item) for item, _ in rows)
        return "\n".join(["dry run: nothing was trained or written", *(f"{i:<{width}}  {f}" for i, f in rows)])

    def _repr_html_(self) -> str:
        cells = "".join(
            f'<tr><td style="text-align:left">{html.escape(i)}</td>'
            f'<td style="text-align:left">{html.escape(f)}</td></tr>'
            for i, f in self.rows()
        )
        return f"<b>Dry run</b>: nothing was trained or written<table>{cells}</table>"


def prepare(request: Request) -> Plan:
    """Look everything up, check it and estimate the cost. Loads no weights and makes no run.

    A packaged model that is used for the first time is unpacked into the user's cache.

    Raises:
        NbadaptError: whatever is wrong with the request, in one line.
    """
    method_class = registry.load(request.method, request.verb)
    config = validate(method_class, request.settings)
    missing = registry.missing_requirements(method_class)
    if missing:
        install = registry.install_command(method_class)
        raise DependencyError(f"{method_class.name} needs {', '.join(missing)}: run  {install}")
    if not 0 < request.split < 1:
        raise RequestError(f"--split is {request.split:g}: it is a share between 0 and 1, such as 0.1")
    model = _find_model(request)
    tables, notices = _read_tables(request)
    task = _task(request, tables, method_class, model)
    device, dtype = _device(request, model), _dtype(request, model)
    method = method_class()
    labels = request.labels
    if not labels and request.verb == "finetune":
        labels = tables["data"].labels
    job = Job(
        method=method.name,
        config=config,
        model=model,
        task=task,
        directory=store.root(),
        **tables,
        prompt=request.prompt,
        variables=_variables(request, tables.get("data")),
        labels=labels,
        metric=None if request.metric is None else OwnMetric(request.sources.get("metric", "metric"), request.metric),
        seed=request.seed,
        device=device,
        dtype=dtype,
    )
    if job.dtype == "auto":
        job = dataclasses.replace(job, dtype=models.best_dtype(device))
    with quiet_libraries():
        estimate = support.estimate(method, job)
    _check_memory(estimate, job)
    return Plan(job, method, estimate, tuple(notices))


def _find_model(request: Request) -> ModelRef:
    if request.model is None:
        raise RequestError(f"no model given: add --model, one of {', '.join(models.names())}, a folder or a hub name")
    if not isinstance(request.model, Run):
        if not isinstance(request.model, str):
            kind = type(request.model).__name__
            raise RequestError(f"--model takes a name, a folder or a run, not a {kind}")
        if request.verb == "finetune":
            _refuse_endpoint(request.model)
        return models.resolve(
            request.model,
            trust_remote_code=request.trust_remote_code,
            base_url=request.base_url,
            key_env=request.key_env,
        )
    run = request.model
    if request.base_url is not None or request.key_env is not None:
        raise RequestError(f"--base-url and --api-key-env are for models behind an endpoint, and {run.id} is a run")
    if request.verb == "finetune":
        raise RequestError(
            f"finetuning goes from a base model, not from the run {run.id}: "
            'write it out with run.export("merged") and give that folder to --model'
        )
    if run.verb != "finetune":
        raise RequestError(f"the run {run.id} was a prompt and left no model: give --model a finetuned run or a name")
    run.job()  # readable at all
    if run.alive or run.outcome is None or not run.outcome.artifacts:
        raise RequestError(f"the run {run.id} is {run.state} and has no model yet: wait for it or resume it")
    return ModelRef(request.sources.get("model", run.id), "run", str(run.directory))


def _refuse_endpoint(name: str) -> None:
    """Finetuning changes weights, and those of an endpoint are out of reach."""
    parts = endpoints.split(name)
    if parts is not None and parts[0] in endpoints.prefixes() and not Path(name).is_dir():
        raise RequestError(
            f"{name} is behind an endpoint, where its weights cannot be finetuned: give --model a folder, a hub name "
            f"or one of {', '.join(models.names())}, or use %%prompt"
        )


def _read_tables(request: Request) -> tuple[dict[str, Any], list[str]]:
    """The tables of a request, checked and read: keyword arguments of Job, and notices."""
    if request.verb == "prompt":
        return _read_prompt_tables(request), []
    if request.data is None:
        raise RequestError("no data given: add --data, a notebook variable, a file or a hub data set")
    name = request.sources.get("data", "data")
    task: Any = request.task
    rows = data.read(request.data, name=name, task=task, columns=request.columns)
    if request.evaluation is not None:
        source = request.sources.get("evaluation", "eval")
        held_out = data.read(request.evaluation, name=source, task=rows.task, columns=request.columns)
        data.check_labels(held_out, rows)
        return {"data": rows, "evaluation": held_out}, []
    train, held_out = data.split(rows, request.split, request.seed)
    how = "stratified by label, " if rows.labels else ""
    notice = f"no evaluation data given: {len(held_out):,} of {len(rows):,} rows held out ({how}seed {request.seed})"
    return {"data": train, "evaluation": held_out}, [notice]


def _read_prompt_tables(request: Request) -> dict[str, Any]:
    found: dict[str, Any] = {}
    label = request.columns.get("label")
    for field in ("data", "examples"):
        source = getattr(request, field)
        if source is not None:
            name = request.sources.get(field, field)
            found[field] = data.read_for_prompt(source, name=name, columns=request.columns, label=label)
    return found


def _task(request: Request, tables: Mapping[str, Any], method: type[Method], model: ModelRef) -> Any:
    rows = tables.get("data") or tables.get("examples")
    task = rows.task if rows is not None else ("classification" if request.labels else "generation")
    if request.verb == "finetune" and task not in method.tasks:
        able = ", ".join(sorted(method.tasks))
        source = rows.source if rows else "the data"
        other = support.advice(method, support.kind_of(model), task)
        raise DataError(
            f"{method.name} does {able}; the columns of {source} make it a table for {task}: "
            "name them with --text and --label, or --prompt and --completion" + (f", or {other}" if other else "")
        )
    return task


def _variables(request: Request, rows: Examples | None) -> dict[str, str]:
    """Values for the placeholders that are no columns of the data.

    Raises:
        RequestError: the prompt is empty, or a placeholder has no value, or None.
    """
    if request.verb != "prompt":
        return {}
    columns = set(rows.rows[0]) if rows else set()
    if not (request.prompt or "").strip():
        if not columns:
            raise RequestError("the prompt is empty: write it below the %%prompt line")
        return {}
    assert request.prompt is not None  # said by the line above; for the type checker
    wanted = [name for name in template.placeholders(request.prompt) if name not in columns]
    values = {name: request.variables[name] for name in wanted if name in request.variables}
    template.fill(request.prompt, {**dict.fromkeys(columns, ""), **values})  # names what is missing, or None
    return {name: str(value) for name, value in values.items()}


def _device(request: Request, model: ModelRef) -> str:
    import torch

    if model.kind == "endpoint":
        _refuse_elsewhere("device", request.device, model)
        return "cpu"  # of this process, whose memory is measured
    if model.kind == "run":
        _refuse_change("device", request.device, model)
        return store.read_job(Path(model.path), tables=False).device
    if request.device is None:
        return models.best_device()
    try:
        device = torch.device(request.device)
    except RuntimeError:
        raise RequestError(f"unknown device {request.device!r}: use cpu, cuda, cuda:1 or mps") from None
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(device.type, False) or (device.index or 0) >= max(1, torch.cuda.device_count()):
        here = ", ".join(name for name, there in available.items() if there)
        raise RequestError(f"the device {request.device!r} is not on this machine: use {here}")
    return device.type if device.type != "cuda" or device.index is None else f"cuda:{device.index}"


def _refuse_change(option: str, value: str | None, model: ModelRef) -> None:
    if value is not None:
        raise RequestError(f"--{option} {value} cannot be given with the run {model.name}: it keeps its own {option}")


def _refuse_elsewhere(option: str, value: str | None, model: ModelRef) -> None:
    if value is not None:
        raise RequestError(f"--{option} {value} cannot be given with {model.name}: it computes behind its endpoint")


def _dtype(request: Request, model: ModelRef) -> str:
    if model.kind == "endpoint":
        _refuse_elsewhere("dtype", request.dtype, model)
        return ""
    if model.kind == "run":
        _refuse_change("dtype", request.dtype, model)
        return store.read_job(Path(model.path), tables=False).dtype
    if request.dtype is None:
        return "auto"
    if request.dtype not in DTYPES:
        raise RequestError(f"unknown dtype {request.dtype!r}: use {', '.join(DTYPES)}")
    if request.dtype == "float16" and (request.device or models.best_device()) == "cpu":
        raise RequestError("float16 is several times slower than float32 on a CPU: use bfloat16 or float32")
    return request.dtype


def _check_memory(estimate: Estimate, job: Job) -> None:
    free = available_bytes(job.device)
    needed = sum(size for item, size in estimate.memory.items() if item != "activations")
    if models.is_loaded(job.model, job.device, job.dtype):
        needed -= estimate.memory.get("weights", 0)
    if free is not None and needed > free:
        raise OutOfMemoryError(
            f"{job.method} on {job.model.name} needs about {gibibytes(estimate.peak)}, {gibibytes(free)} is free on "
            f"{job.device}: use a smaller model, close other notebooks, or run  %nbadapt free"
        )


# ------------------------------------------------------------------------------------------------ start


def submit(request: Request) -> Run | Plan:
    """Do what a request asks for, and hold the cell until it is done (unless it asks for the background).

    Returns:
        The Run; for a dry run the Plan.

    Raises:
        NbadaptError: the request was wrong, or the run failed.
    """
    from nbadapt import foreground

    _check_idle()
    plan = prepare(request)
    if request.dry_run:
        return _timed(plan) if request.timed else plan
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
    except NbadaptError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a plugin raises becomes one line
        raise RunError(f"{plan.job.method} failed while it was timed: {first_line(error)}") from None
    finally:
        models.release_cached_memory()
    return dataclasses.replace(plan, estimate=dataclasses.replace(plan.estimate, seconds=seconds))


def current() -> Run | None:
    """The run that this kernel is working on, or None."""
    run = _current() if _current is not None else None
    return run if run is not None and run.alive else None


def _check_idle() -> None:
    busy = current()
    if busy is not None:
        raise RequestError(f"the run {busy.id} is still going on here: wait for it, or stop it with  %nbadapt stop")


def start(plan: Plan) -> Run:
    """Write the run down and start its worker thread."""
    _check_idle()
    job = store.create(plan.job, plan.estimate, plan.title)
    run = Run.at(job.directory)
    run.metric = job.metric
    told = () if plan.method.verb == "prompt" else plan.estimate.notes  # a prompting method tells its notes itself
    return _launch(run, plan.method, job, (*told, *plan.notices))


def resume(run: Run) -> Run:
    """Continue a stopped, failed or killed run from its last complete checkpoint, and hold the cell.

    Raises:
        NbadaptError: the run is done or at work, or fails again.
    """
    from nbadapt import foreground

    _check_idle()
    state = run.state
    if state == "done":
        raise RequestError(f"the run {run.id} is done: there is nothing to resume")
    if state == "running":
        raise RequestError(f"the run {run.id} is at work in another kernel: stop it there first")
    method = registry.load(run.method)()
    checkpoint = store.last_checkpoint(run.directory)
    job = dataclasses.replace(run.job(tables=True), checkpoint=checkpoint, metric=run.metric)
    name = run.request.get("metric")
    lost = f"the function of the metric {name} is not in this kernel: its figure is left out"
    _launch(run, method, job, (lost,) if name and run.metric is None else ())
    foreground.hold(run)
    if run.error is not None:
        raise run.error
    return run


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


class _Emitter:
    """What a method calls with its events: records them, measures memory, obeys Pause and Stop."""

    def __init__(self, run: Run, events: list[tuple[float, Event]], job: Job) -> None:
        self._run, self._events = run, events
        self._log = store.EventLog(job.directory)
        self._device = job.device
        self._measured = 0.0
        self._stage: Stage | None = None
        self._ram_peak = 0

    def record(self, event: Event) -> None:
        """Write an event down, now, without looking at the switches."""
        now = time.time()
        self._events.append((now, event))
        self._log.write(now, event)

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if event != self._stage:  # a stage that is told at every batch is written down once
            self.record(event)
        if isinstance(event, Stage):
            self._stage = event
        if now - self._measured >= MEMORY_SECONDS:
            self._measured = now
            memory = measure(self._device, self._ram_peak)
            self._ram_peak = memory.ram_peak
            self.record(memory)
        self._obey()

    def _obey(self) -> None:
        control = self._run.control
        if control.paused and not control.stopping:
            self.record(StateChange("paused"))
            control.wait_while_paused()
            if not control.stopping:
                self.record(StateChange("running"))
        if control.stopping and not control.obeyed:
            self.record(StateChange("stopping", control.reason))
            control.raise_if_stopping()

    def close(self) -> None:
        """Close the log."""
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
            outcome = method.run(job, emit)
        state = "stopped" if run.control.obeyed else "done"
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
        store.write_outcome(job.directory, state, outcome or store.read_outcome(job.directory)[1], str(error or ""))
        store.release(job.directory)
    except (OSError, StoreError) as problem:  # a full disk, a folder that was deleted
        state = "failed"
        run.error = error or StoreError(f"the end of the run {run.id} could not be written down: {problem}")
    with contextlib.suppress(OSError):
        emit.record(StateChange(state, str(run.error or run.control.reason)))  # type: ignore[arg-type]  # a State
    emit.close()


def _explain(error: BaseException, job: Job) -> NbadaptError:
    """One line for an error that nobody foresaw; the traceback goes into the run's folder."""
    if out_of_memory(error):
        return OutOfMemoryError(
            f"{job.method} ran out of memory on {job.device}: lower batch_size or max_length, or use a smaller model"
        )
    path = job.directory / "error.txt"
    first = (str(error).strip().splitlines() or [""])[0][:200]
    try:
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError as problem:
        return RunError(f"{job.method} failed: {type(error).__name__}: {first} (no traceback was kept: {problem})")
    return RunError(f"{job.method} failed: {type(error).__name__}: {first} (traceback in {path})")
