"""Specs -> candidates that were looked up, checked and estimated. Loads no weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbadapt import config_reads, memo, model_names, plan, registry, support
from nbadapt.capture import quiet_libraries
from nbadapt.engines import rough_time
from nbadapt.errors import DataError, NbadaptError, OutOfMemoryError, RequestError
from nbadapt.estimating import NoEstimateError
from nbadapt.method import Estimate, Method
from nbadapt.request import Request
from nbadapt.selection import keys, limits
from nbadapt.selection import specs as writing
from nbadapt.selection.parts import Parts, split
from nbadapt.selection.specs import Spec

if TYPE_CHECKING:
    from nbadapt.data import Examples
    from nbadapt.method import Job
    from nbadapt.selection.asked import Asked

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
        estimate: parameters, memory by item, size on disk; an empty one where there is none.
        seconds: rough time of the work on all training rows; None where nothing is known.
        own_prompt: whether its template was given, and may name any column.
        code: of `nbadapt.selection.keys.code`: what its method runs.
        no_estimate: why there is no estimate; "" where there is one.
    """

    label: str
    spec: Spec
    method: Method
    job: Job
    estimate: Estimate
    seconds: float | None = None
    own_prompt: bool = False
    code: str = ""
    no_estimate: str = ""

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
        """Whether weights of the base model are loaded here: not where all there is was fitted without gradients.

        Without an estimate they may be, and room is made for them.
        """
        if self.job.model.kind == "endpoint":
            return False
        if self.no_estimate:
            return True
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
    written = writing.specs(asked.blocks, asked.namespace, asked.search, asked.seed)
    for spec in written:
        asked.check_name({"model": spec.model_name})
    parts = split(asked)
    metric = asked.metric or DEFAULT_METRIC[parts.training.task]
    if metric not in METRICS[parts.training.task]:
        able = " or ".join(METRICS[parts.training.task])
        raise RequestError(f"--metric {metric} is none for {parts.training.task}: use {able}")
    with memo.remembering({}):
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
    large = [limits.too_large(one, asked.budget) for one in found]
    dear = [limits.too_dear(one, asked.budget) if one in unasked else "" for one in found]
    reasons = [
        (why, "memory") if why else (late, "time") if late else None for why, late in zip(large, dear, strict=True)
    ]
    found = [dataclasses.replace(one, label=name) for one, name in zip(found, names, strict=True)]
    left_out = [LeftOut(one.label, *reason) for one, reason in zip(found, reasons, strict=True) if reason] + unchosen
    kept = [one for one, reason in zip(found, reasons, strict=True) if reason is None]
    limits.check_budget(kept, found, asked.budget)
    notices += _unknown(asked, kept)
    return kept, left_out, notices


def _unknown(asked: Asked, kept: Sequence[Candidate]) -> list[str]:
    """What could not be estimated, and what that means for the budget."""
    notices = list(dict.fromkeys(one.no_estimate for one in kept if one.no_estimate))
    timeless = [one.label for one in kept if one.seconds is None]
    if asked.budget.seconds is not None and timeless:
        notices.append(
            f"how long {', '.join(timeless)} will take cannot be told before: what the budget ends says how far it came"
        )
    unsized = [one.label for one in kept if one.no_estimate]
    if asked.budget.memory is not None and unsized:
        notices.append(
            f"how much memory {', '.join(unsized)} will take cannot be told before: the budget of memory does not "
            "keep it out"
        )
    return notices


def _baselines(asked: Asked, parts: Parts, found: Sequence[Candidate], notices: list[str]) -> list[Candidate]:
    """The baselines that nobody named; where a notice says so, on a model of their own."""
    there = {candidate.method.name for candidate in found}
    added = []
    for method in registry.methods():
        if not method.baseline or parts.training.task not in method.tasks or method.name in there:
            continue
        candidate, why = _with_any_model(asked, parts, method, found, installed=parts.training.task == "classification")
        if candidate is None:
            notices.append(
                f"the baseline {method.name} was left out: {why}; with a model of its own it is named as  "
                f"{method.name}: {{model: NAME}}"
            )
            continue
        if candidate.spec.model_name and all(candidate.spec.model != other.spec.model for other in found):
            notices.append(
                f"the baseline {method.name} asks {candidate.spec.model_name}, which is installed here: no model of "
                "this comparison can do it"
            )
        added.append(candidate)
    return added


def look_up_one(asked: Asked, parts: Parts, spec: Spec, others: Sequence[Candidate]) -> Candidate:
    """A candidate that comes later.

    Raises:
        NbadaptError: it cannot be tried, or is there already.
    """
    if any(other.spec == spec for other in others):
        raise RequestError(f"the candidate {writing.label(spec, spec.settings)} is there already")
    candidate = _looked_up(asked, parts, spec)
    reason = limits.too_large(candidate, asked.budget)
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
    estimate, why_not = _estimate(made, job)
    seconds = None if why_not else _rough_seconds(job, estimate, tables["data"])
    code = memo.remembered(("code", type(made)), lambda: keys.code(type(made)))
    return Candidate(
        "", spec, made, job, estimate, seconds, own_prompt=spec.prompt is not None, code=code, no_estimate=why_not
    )


def _estimate(method: Method, job: Job) -> tuple[Estimate, str]:
    """The method's estimate, or an empty one and why there is none.

    Jobs that differ in settings alone which it does not read share one: also where none came in time, so that a grid
    is waited for once.
    """
    variables = tuple(sorted(job.variables.items()))
    key = ("estimates", type(method), job.model, job.prompt, variables, job.device, job.dtype, job.data, job.examples)
    known: list[tuple[dict[str, Any], tuple[Estimate, str]]] = memo.remembered(key, list)
    for reads, found in known:
        if config_reads.fit(reads, job.config):
            return found
    with quiet_libraries(), config_reads.watched(job.config) as (config, names):
        try:
            found = support.estimate(method, dataclasses.replace(job, config=config)), ""
        except NoEstimateError as error:  # what it would cost is good to know, and no more than that
            found = Estimate(), str(error)
    read = tuple(names)  # at once: one that is late may still read
    known.append(({name: getattr(job.config, name) for name in read}, found))
    return found


def _rough_seconds(job: Job, estimate: Estimate, rows: Examples) -> float | None:
    if estimate.seconds is not None:
        return estimate.seconds
    if job.model.kind == "endpoint":
        return None
    trained = rough_time.of_training(job, estimate)
    return trained if trained is not None else rough_time.of_reading(job, estimate, rows)


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
        candidate, _ = _with_any_model(asked, parts, method, there, installed=True)
        if candidate is not None:
            there.append(candidate)
    lacks = {one.method.name: limits.lacks(one, asked.budget) for one in there}
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


def _comes_unasked(method: type[Method], task: str) -> bool:
    brings = any(name in vars(kin) for kin in method.__mro__ if kin is not Method for name in ("trial", "trial_prompt"))
    return task in method.tasks and not (brings or method.baseline or registry.missing_requirements(method))


def _with_any_model(
    asked: Asked, parts: Parts, method: type[Method], others: Sequence[Candidate], *, installed: bool
) -> tuple[Candidate | None, str]:
    """The method on the line's model; where it prompts, also on another candidate's, or one that is installed.

    Where it can be tried on none of them, the second value says why.
    """
    tried: list[tuple[Any, str]] = [(None, "")]
    if method.verb == "prompt":
        tried += [(other.spec.model, other.spec.model_name) for other in others if other.spec.model is not None]
        tried += [(name, name) for name in model_names.generators() if installed]
    reasons = []
    for model, name in dict.fromkeys(tried):
        try:
            return _looked_up(asked, parts, Spec(method.name, {}, model, name)), ""
        except NbadaptError as error:
            reasons.append(str(error))
    return None, "; ".join(dict.fromkeys(reasons))
