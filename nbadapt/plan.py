"""A request, looked up, checked and estimated: what will be done, and what it will cost."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbadapt import data, devices, endpoints, model_names, models, registry, store, support, template
from nbadapt.capture import quiet_libraries
from nbadapt.errors import DataError, OutOfMemoryError, RequestError
from nbadapt.estimating import NoEstimateError
from nbadapt.memory import available_bytes, gibibytes
from nbadapt.method import Config, Estimate, Job, Method, ModelRef, OwnMetric
from nbadapt.options import DTYPES
from nbadapt.redaction import hide_keys, holds_secret
from nbadapt.run import Run
from nbadapt.settings import validate

if TYPE_CHECKING:
    from nbadapt.data import Examples
    from nbadapt.request import Request


@dataclass(frozen=True)
class Plan:
    """A request that was looked up, checked and estimated, and is ready to start.

    Attributes:
        notices: what the user should know, told when the run starts.
        name: the variable that the run is bound to; "" where there is none.
    """

    job: Job
    method: Method
    estimate: Estimate
    notices: tuple[str, ...] = ()
    name: str = ""

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
            places = {item: _place(e, item, self.job) for item in e.memory}
            shown += [(f"memory: {item}", f"{gibibytes(e.memory[item])} on {place}") for item, place in places.items()]
        else:
            shown += self._resources() if e != Estimate() else []
        if e.steps:
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
        tensors = f"{gibibytes(e.peak)} of tensors on {self.job.device} ({self.job.dtype})"
        more = "; the process takes several hundred MiB more" if self.job.device == "cpu" else ""
        shown.append(("predicted peak memory", tensors + more))
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
    method, job, notices = look_up(request)
    with quiet_libraries():
        try:
            estimate = support.estimate(method, job)
        except NoEstimateError as error:  # what the cost would be is good to know, and no more than that
            estimate, notices = Estimate(), (*notices, str(error))
    check_memory(estimate, job)
    return Plan(job, method, estimate, notices, request.name or "")


def look_up(request: Request, tables: Mapping[str, Any] | None = None) -> tuple[Method, Job, tuple[str, ...]]:
    """The method, the complete and checked job, and what the user should know: all of a plan but its estimate.

    Args:
        request: what is asked for.
        tables: the job's tables by name, where they are read and split already: those of the request do not count then.

    Raises:
        NbadaptError: whatever is wrong with the request, in one line.
    """
    method_class = registry.load(request.method, request.verb)
    config = validate(method_class, request.settings)
    _refuse_secrets(request, config)
    registry.demand_requirements(method_class)
    if not 0 < request.split < 1:
        raise RequestError(f"--split is {request.split:g}: it is a share between 0 and 1, such as 0.1")
    model = _find_model(request)
    tables, notices = _read_tables(request) if tables is None else (dict(tables), [])
    task = _task(request, tables, method_class, model)
    device, dtype = _device(request, model), _dtype(request, model)
    method = registry.make(method_class)
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
        functions=request.functions,
        seed=request.seed,
        device=device,
        dtype=dtype,
    )
    if job.dtype == "auto":
        job = dataclasses.replace(job, dtype=devices.best_dtype(device))
    return method, job, tuple(notices)


def _refuse_secrets(request: Request, config: Config) -> None:
    """Raises RequestError where a password or a key would be kept with the run; what tables hold is the user's own."""
    sources = {"eval" if name == "evaluation" else name: word for name, word in request.sources.items()}
    words = {"model": request.model, "labels": request.labels, **sources, **request.columns}
    settings = config.model_dump()
    found = [f"the setting {name!r} of {request.method}" for name in settings if holds_secret(settings[name])]
    found += [f"the value of --{name}" for name, word in words.items() if holds_secret(word)]
    # These may be about addresses and passwords: of them keys alone are refused.
    texts = {"the prompt": request.prompt or ""}
    texts |= {f"the variable {name!r}": text for name, text in request.variables.items() if isinstance(text, str)}
    found += [called for called, text in texts.items() if hide_keys(text) != text]
    if found:
        raise RequestError(
            f"{found[0]} holds a password or a key, which would be kept with the run: leave it out; what needs a key "
            "takes it from an environment variable"
        )


def _find_model(request: Request) -> ModelRef:
    if request.model is None:
        raise RequestError(
            f"no model given: add --model, one of {', '.join(model_names.names())}, a folder or a hub name"
        )
    if not isinstance(request.model, Run):
        if not isinstance(request.model, str):
            kind = type(request.model).__name__
            raise RequestError(f"--model takes a name, a folder or a run, not a {kind}")
        if request.verb == "finetune":
            _refuse_endpoint(request.model)
        return model_names.resolve(
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
            f"or one of {', '.join(model_names.names())}, or use %%prompt"
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
            "name them with --text and --label, --prompt and --completion, or --prompt, --chosen and --rejected"
            + (f", or {other}" if other else "")
        )
    return task


def _variables(request: Request, rows: Examples | None) -> dict[str, str]:
    """Values for the placeholders that are no columns of the data.

    Raises:
        RequestError: the prompt is empty, or a placeholder has no value or the value None.
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
        return devices.best_device()
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
    if request.dtype == "float16" and (request.device or devices.best_device()) == "cpu":
        raise RequestError("float16 is several times slower than float32 on a CPU: use bfloat16 or float32")
    return request.dtype


def check_memory(estimate: Estimate, job: Job) -> None:
    """Refuse what does not fit, on each device that something runs on; activations are left out, they can shrink.

    Raises:
        OutOfMemoryError: it needs more than is free.
    """
    needed = {job.device: 0, **dict.fromkeys(estimate.elsewhere.values(), 0)}
    for item, size in estimate.memory.items():
        if item != "activations":
            needed[_place(estimate, item, job)] += size
    needed[job.device] -= loaded_bytes(estimate, job)
    for device, size in needed.items():
        free = available_bytes(device)
        if free is None or size <= free:
            continue
        items = {item: size for item, size in estimate.memory.items() if _place(estimate, item, job) == device}
        what = f" for the {' and the '.join(items)}" if device != job.device else ""
        raise OutOfMemoryError(
            f"{job.method} on {job.model.name} needs about {gibibytes(sum(items.values()))}{what}, {gibibytes(free)} "
            f"is free on {device}: use a smaller model, close other notebooks, or run  %nbadapt free"
        )


def loaded_bytes(estimate: Estimate, job: Job) -> int:
    """What of an estimate's memory is taken already, on the job's device: the base's weights, where they are kept."""
    return estimate.memory.get("weights", 0) if models.is_loaded(job.model, job.device, job.dtype) else 0


def _place(estimate: Estimate, item: str, job: Job) -> str:
    """The device of one item of an estimate's memory."""
    return estimate.elsewhere.get(item, job.device)
