"""Specs -> candidates that were looked up, checked and estimated. Loads no weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbadapt import config_reads, models, plan, registry, support
from nbadapt.capture import quiet_libraries
from nbadapt.engines import rough_time
from nbadapt.errors import DataError, NbadaptError, OutOfMemoryError, RequestError
from nbadapt.memory import gibibytes
from nbadapt.method import Method
from nbadapt.request import Request
from nbadapt.selection import specs as writing
from nbadapt.selection.parts import Parts, split
from nbadapt.selection.specs import Spec
from nbadapt.widgets.summary import duration

if TYPE_CHECKING:
    from nbadapt.data import Examples
    from nbadapt.method import Estimate, Job
    from nbadapt.selection.asked import Asked, Budget

TRUST = 2.0  # a rough time may be so much too long
BASELINE = 0.25  # of the time budget, that a baseline which nobody named may take
UNASKED = 30 * 60.0  # seconds of rough time that a candidate which nobody named may take, where there is no budget
DEFAULT_METRIC = {"classification": "accuracy", "generation": "bits_per_byte"}
METRICS = {"classification": ("accuracy", "macro_f1"), "generation": ("bits_per_byte", "exact_match")}


@dataclass(frozen=True)
class Candidate:
    """One way of adapting a model, ready to be tried.

    Attributes:
        label: a short name, unlike that of every other candidate.
        spec: as it was written.
        method: what does it.
        job: on all training rows.
        estimate: parameters, memory by item, size on disk.
        seconds: rough time of the work on all training rows; None where nothing is known.
        own_prompt: whether its template was given, and may name any column.
    """

    label: str
    spec: Spec
    method: Method
    job: Job
    estimate: Estimate
    seconds: float | None = None
    own_prompt: bool = False

    @property
    def baseline(self) -> bool:
        """Whether it is one of those that everything is held against."""
        return type(self.method).baseline

    @property
    def group(self) -> str:
        """The candidates among which it must be the best to go on: of one method on one model."""
        return f"{self.method.name} · {self.job.model.name}"

    @property
    def prompts(self) -> bool:
        """Whether it asks the rows, and trains on none."""
        return self.method.verb == "prompt"

    @property
    def reads_model(self) -> bool:
        """Whether weights of the base model are loaded here: not where all there is was fitted without gradients."""
        if self.job.model.kind == "endpoint":
            return False
        own = self.estimate.total <= self.estimate.trainable and "gradients" not in self.estimate.memory
        return self.prompts or not own


@dataclass(frozen=True)
class LeftOut:
    """A candidate that is not tried, and why.

    Attributes:
        lacks: what there is too little of: "memory" or "time".
    """

    label: str
    reason: str
    lacks: str


@dataclass(frozen=True)
class Prepared:
    """A comparison that was looked up, checked and estimated."""

    asked: Asked
    parts: Parts
    metric: str
    candidates: tuple[Candidate, ...]
    left_out: tuple[LeftOut, ...] = ()
    notices: tuple[str, ...] = ()


def prepare(asked: Asked) -> Prepared:
    """Look everything up, check it and estimate the costs.

    Raises:
        NbadaptError: whatever is wrong, in one line.
    """
    written = writing.sampled(writing.specs(asked.blocks, asked.namespace), asked.search, asked.seed)
    parts = split(asked)
    metric = asked.metric or DEFAULT_METRIC[parts.training.task]
    if metric not in METRICS[parts.training.task]:
        able = " or ".join(METRICS[parts.training.task])
        raise RequestError(f"--metric {metric} is none for {parts.training.task}: use {able}")
    with models.remembering({}):
        found, left_out, notices = _candidates(asked, parts, written)
    return Prepared(asked, parts, metric, tuple(found), tuple(left_out), (*parts.notices, *notices))


def _candidates(asked: Asked, parts: Parts, written: list[Spec]) -> tuple[list[Candidate], list[LeftOut], list[str]]:
    notices: list[str] = []
    found = [_looked_up(asked, parts, spec) for spec in written]
    unchosen: list[LeftOut] = []
    if not written:
        found, unchosen = _default_set(asked, parts)
        if not found:
            told = "; ".join(f"{left.label} {left.reason}" for left in unchosen[:1]) or "name some"
            model = asked.sources.get("model", asked.model)
            raise RequestError(f"no method here can be tried on {model}: {told}")
        methods = ", ".join(candidate.method.name for candidate in found)
        notices.append(f"nothing was named to compare: one method of each family was taken ({methods})")
    unasked = _baselines(asked, parts, found, notices)
    found += unasked
    names = writing.labels([candidate.spec for candidate in found])
    large = [_too_large(one, asked.budget) for one in found]
    dear = [_too_dear(one, asked.budget) if one in unasked else "" for one in found]
    reasons = [
        (why, "memory") if why else (late, "time") if late else None for why, late in zip(large, dear, strict=True)
    ]
    found = [dataclasses.replace(one, label=name) for one, name in zip(found, names, strict=True)]
    left_out = [LeftOut(one.label, *reason) for one, reason in zip(found, reasons, strict=True) if reason] + unchosen
    kept = [one for one, reason in zip(found, reasons, strict=True) if reason is None]
    check_budget(kept, found, asked.budget)
    unknown = [one.label for one in kept if one.seconds is None]
    if asked.budget.seconds is not None and unknown:
        notices.append(
            f"how long {', '.join(unknown)} will take cannot be told before: what the budget ends says how far it came"
        )
    return kept, left_out, notices


def _baselines(asked: Asked, parts: Parts, found: Sequence[Candidate], notices: list[str]) -> list[Candidate]:
    """The baselines that nobody named; where a notice says so, on a model of their own."""
    there = {candidate.method.name for candidate in found}
    added = []
    for method in registry.methods():
        if not method.baseline or parts.training.task not in method.tasks or method.name in there:
            continue
        candidate = _with_any_model(asked, parts, method, found, installed=parts.training.task == "classification")
        if candidate is None:
            notices.append(
                f"the baseline {method.name} was left out: no model of this comparison can do it; one that can is "
                f"named as  {method.name}: {{model: NAME}}"
            )
            continue
        if candidate.spec.model_name and all(candidate.spec.model != other.spec.model for other in found):
            notices.append(
                f"the baseline {method.name} asks {candidate.spec.model_name}, which is installed here: no model of "
                "this comparison can do it"
            )
        added.append(candidate)
    return added


def _too_dear(candidate: Candidate, budget: Budget) -> str:
    """Why there is no time for a baseline that nobody asked for; empty where there is."""
    if budget.seconds is None:
        late = _too_long(candidate, budget)
        return f"a baseline that {late}" if late else ""
    if candidate.seconds is None or candidate.seconds / TRUST <= BASELINE * budget.seconds:
        return ""
    return (
        f"a baseline that takes about {candidate.seconds:,.0f} s, too much of the budget of {budget.seconds:,.0f} s; "
        "named in the cell it is tried all the same"
    )


def look_up_one(asked: Asked, parts: Parts, spec: Spec, others: Sequence[Candidate]) -> Candidate:
    """A candidate that comes later.

    Raises:
        NbadaptError: it cannot be tried, or is there already.
    """
    if any(other.spec == spec for other in others):
        raise RequestError(f"the candidate {writing.label(spec, spec.settings)} is there already")
    candidate = _looked_up(asked, parts, spec)
    reason = _too_large(candidate, asked.budget)
    if reason:
        raise OutOfMemoryError(f"{writing.label(spec, spec.settings)}: {reason}")
    taken = {other.label for other in others}
    name = writing.label(spec, spec.settings)
    numbered = (f"{name} · {n}" for n in range(2, len(others) + 3))
    return dataclasses.replace(candidate, label=next(n for n in (name, *numbered) if n not in taken))


# ------------------------------------------------------------------------------------------------ one of them


def _looked_up(asked: Asked, parts: Parts, spec: Spec) -> Candidate:
    """One candidate; examples are shown by those prompting methods that take some.

    Raises:
        NbadaptError: it cannot do this.
    """
    method = registry.load(spec.method)
    task = parts.training.task
    if task not in method.tasks:
        able = ", ".join(sorted(method.tasks))
        raise DataError(f"{method.name} does {able}; {parts.training.source} is a table for {task}: leave it out")
    if method.verb == "finetune":
        return _estimated(asked, spec, {"data": parts.training, "evaluation": None})
    full = spec.prompt is not None
    asking, showing = parts.validation, parts.training
    if full:
        asking, showing = parts.with_columns(asking), parts.with_columns(showing)
    try:
        return _estimated(asked, spec, {"data": asking, "examples": showing})
    except RequestError as error:
        try:
            return _estimated(asked, spec, {"data": asking, "examples": None})
        except NbadaptError:
            raise error from None


def _estimated(asked: Asked, spec: Spec, tables: dict[str, Any]) -> Candidate:
    method = registry.load(spec.method)
    prompting = method.verb == "prompt"
    chosen = asked.model if spec.model is None else spec.model
    request = Request(
        verb=method.verb,
        method=method.name,
        model=chosen,
        sources={**asked.sources, "model": spec.model_name or asked.sources.get("model", str(chosen))},
        labels=tables["data"].labels if prompting else (),
        prompt=(spec.prompt or "") if prompting else None,
        settings=spec.settings,
        seed=asked.seed,
        device=asked.device,
        dtype=asked.dtype,
        trust_remote_code=asked.trust_remote_code,
    )
    made, job, _ = plan.look_up(request, tables)
    estimate = _estimate(made, job)
    seconds = _rough_seconds(job, estimate, tables["data"])
    return Candidate("", spec, made, job, estimate, seconds, own_prompt=spec.prompt is not None)


def _estimate(method: Method, job: Job) -> Estimate:
    """The method's estimate; jobs that differ in settings alone which it does not read share one."""
    variables = tuple(sorted(job.variables.items()))
    key = ("estimates", type(method), job.model, job.prompt, variables, job.device, job.dtype, job.data, job.examples)
    known: list[tuple[dict[str, Any], Estimate]] = models.remembered(key, list)
    for reads, estimate in known:
        if config_reads.fit(reads, job.config):
            return estimate
    with quiet_libraries(), config_reads.watched(job.config) as (config, names):
        estimate = support.estimate(method, dataclasses.replace(job, config=config))
    known.append(({name: getattr(job.config, name) for name in names}, estimate))
    return estimate


def _rough_seconds(job: Job, estimate: Estimate, rows: Examples) -> float | None:
    if estimate.seconds is not None:
        return estimate.seconds
    if job.model.kind == "endpoint":
        return None
    trained = rough_time.of_training(job, estimate)
    return trained if trained is not None else rough_time.of_reading(job, estimate, rows)


def _too_large(candidate: Candidate, budget: Budget) -> str:
    """Why there is no memory for it; empty where there is."""
    peak = candidate.estimate.peak
    if budget.memory is not None and peak > budget.memory:
        return f"needs about {gibibytes(peak)}, more than the budget of {gibibytes(budget.memory)}"
    try:
        plan.check_memory(candidate.estimate, candidate.job)
    except OutOfMemoryError as error:
        return str(error)
    return ""


def check_budget(kept: Sequence[Candidate], found: Sequence[Candidate], budget: Budget) -> None:
    """Refuse a budget that is too small for even one candidate.

    Raises:
        OutOfMemoryError: all need more memory; the message says how much the smallest one needs.
        RequestError: all need more time; the message says how much the quickest one needs.
    """
    wanted = [one for one in found if not one.baseline] or list(found)
    tried = [one for one in kept if one in wanted]
    if not tried:
        smallest = min(wanted, key=lambda one: one.estimate.peak)
        why = _too_large(smallest, budget)
        raise OutOfMemoryError(f"no candidate fits into memory: the smallest one, {smallest.label}, {why}")
    if budget.seconds is None or any(one.seconds is None for one in tried):
        return
    quickest = min(tried, key=lambda one: one.seconds or 0.0)
    needed = quickest.seconds or 0.0
    if needed / TRUST > budget.seconds:
        raise RequestError(
            f"a budget of {budget.seconds:g} s is too small for even one candidate: the quickest one, "
            f"{quickest.label}, needs about {needed:,.0f} s; raise --budget, or compare on fewer rows"
        )


# ------------------------------------------------------------------------------------------------ what nobody named


def _default_set(asked: Asked, parts: Parts) -> tuple[list[Candidate], list[LeftOut]]:
    """One method of each family, the first that works, and the one that trains most: all from declarations.

    Methods that need what only the user can bring, and so declare a `trial`, are not among them. One that would not fit
    into the memory, or alone take longer than the budget (without one, `UNASKED`), gives its place to the next of its
    family, and is told by name. Few rows take nothing out: on them a trial costs seconds, and which method learns
    most from few is what is to be measured.
    """
    order = {name: place for place, name in enumerate(support.records())}
    able = [m for m in registry.methods() if _comes_unasked(m, parts.training.task)]
    able.sort(key=lambda method: order.get(method.name, len(order)))
    there: list[Candidate] = []
    for method in able:
        candidate = _with_any_model(asked, parts, method, there, installed=True)
        if candidate is not None:
            there.append(candidate)
    lacks = {one.method.name: _lacks(one, asked.budget) for one in there}
    chosen = _one_a_family([one for one in there if lacks[one.method.name] is None])
    left = [(one, lack) for one in _one_a_family(there) if (lack := lacks[one.method.name]) is not None]
    return chosen, [LeftOut(writing.label(one.spec, {}), *lack) for one, lack in left]


def _one_a_family(able: Sequence[Candidate]) -> list[Candidate]:
    """The first of each family, and the one that trains most, in their order."""
    first: dict[str, Candidate] = {}
    for one in able:
        first.setdefault(one.method.menu_group(), one)
    most = max(able, key=lambda one: one.estimate.trainable, default=None)
    wanted = {one.method.name for one in first.values()}
    if most is not None and most.estimate.trainable:
        wanted.add(most.method.name)
    return [one for one in able if one.method.name in wanted]


def _lacks(candidate: Candidate, budget: Budget) -> tuple[str, str] | None:
    """Why one that nobody named is not tried, and what there is too little of; None where it can be tried."""
    large, late = _too_large(candidate, budget), _too_long(candidate, budget)
    return (large, "memory") if large else (late, "time") if late else None


def _comes_unasked(method: type[Method], task: str) -> bool:
    brings = any(name in vars(kin) for kin in method.__mro__ if kin is not Method for name in ("trial", "trial_prompt"))
    return task in method.tasks and not (brings or method.baseline or registry.missing_requirements(method))


def _too_long(candidate: Candidate, budget: Budget) -> str:
    """Why there is no time for a candidate that nobody named; empty where there is."""
    if candidate.seconds is None:
        return ""
    told = f"takes roughly {duration(candidate.seconds)} on this machine"
    if budget.seconds is not None:
        late = candidate.seconds / TRUST > budget.seconds
        return f"{told}, more than the budget of {duration(budget.seconds)}" if late else ""
    if candidate.seconds <= UNASKED:
        return ""
    limit = f"the {UNASKED / 60:.0f} min of one that nobody named"
    return f"{told}, more than {limit}: name it in the cell, or set --budget"


def _with_any_model(
    asked: Asked, parts: Parts, method: type[Method], others: Sequence[Candidate], *, installed: bool
) -> Candidate | None:
    """The method on the line's model; where it prompts, also on another candidate's, or one that is installed."""
    tried: list[tuple[Any, str]] = [(None, "")]
    if method.verb == "prompt":
        tried += [(other.spec.model, other.spec.model_name) for other in others if other.spec.model is not None]
        tried += [(name, name) for name in models.generators() if installed]
    for model, name in dict.fromkeys(tried):
        try:
            return _looked_up(asked, parts, Spec(method.name, {}, model, name))
        except NbadaptError:
            continue
    return None
