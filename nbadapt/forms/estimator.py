"""The estimate of a dry run, fast enough to follow a slider.

::

    settings ──> known for what the method reads of them? ── yes ──> exact, at once
                     │ no
                     ├──> parameters and steps exactly; activations scaled from the last measured batch ──> at once
                     └──> later, where nothing else goes on: the step gone through as in a dry run ──> exact, known

What a method reads of its settings is watched: moving the learning rate costs nothing where no estimate asks for it.
Tokenizers, skeletons on the meta device and encoded rows are kept between estimates; weights are never loaded, and no
table is kept but that of the last request.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nbadapt import config_reads, estimating, garbage, memo, plan, support
from nbadapt.capture import quiet_libraries
from nbadapt.engines import rough_time
from nbadapt.errors import OutOfMemoryError
from nbadapt.estimating import NoEstimateError
from nbadapt.method import Estimate
from nbadapt.settings import validate

if TYPE_CHECKING:
    from nbadapt.method import Job, Method
    from nbadapt.request import Request

MOST_KEPT = 80  # tokenizers, skeletons, ... that are remembered, and combinations of method, model, ... likewise
PLAIN = (str, int, float, tuple, type(None))  # told apart by what they say
PATIENCE = 10.0  # seconds that a person may have to look at a form that does not move, once


@dataclass(frozen=True)
class Figures:
    """An estimate as a form shows it.

    Attributes:
        approximate: whether the activations' memory is scaled from a measured batch, and not gone through.
        unmeasured: whether no batch was measured yet: the memory is a first guess, and may be far off.
        seconds: the time, by a rule of thumb that is good to a factor of three; None where there is none.
        problem: why it does not fit into what memory is free; "" where it does.
    """

    job: Job
    method: Method
    estimate: Estimate
    notices: tuple[str, ...]
    approximate: bool
    unmeasured: bool
    seconds: float | None
    problem: str = ""


@dataclass
class _Learnt:
    """What was found out about requests that differ in their settings alone; holds none of their rows."""

    silent: str = ""  # why the method gave no estimate in time
    supported: bool = False  # whether `support` has looked at it
    measured: dict[str, tuple[int, int]] = field(default_factory=dict)
    followed: dict[str, Any] = field(default_factory=dict)  # what was read up to the end of that measurement
    known: list[tuple[dict[str, Any], Estimate]] = field(default_factory=list)  # what was read -> exact


@dataclass(frozen=True)
class _Base:
    """Everything of a request but its settings, looked up."""

    request: Request  # keeps what is told by its identity
    method: Method
    job: Job
    notices: tuple[str, ...]
    learnt: _Learnt


class Estimator:
    """Estimates requests that differ little from one another. For one thread at a time."""

    def __init__(self) -> None:
        self._last: tuple[tuple[Any, ...], _Base] | None = None
        self._learnt: dict[tuple[Any, ...], _Learnt] = {}  # of requests about the tables of the last one
        self._kept: dict[Any, Any] = {}

    @property
    def tables(self) -> list[Any]:
        """The notebook's tables that are kept: those of the last request."""
        if self._last is None:
            return []
        asked = self._last[1].request
        return [table for table in (asked.data, asked.evaluation, asked.examples) if not isinstance(table, PLAIN)]

    def forget(self) -> None:
        """Let go of the tables, and of what was found out about them."""
        self._last, self._learnt = None, {}
        memo.forget_tables(self._kept)

    def quick(self, request: Request) -> Figures:
        """What is known at once.

        Raises:
            NbadaptError: whatever is wrong with the request, as `plan.prepare` says it; that it does not fit into
                memory is told in the figures.
        """
        base = self._base(request)
        job = dataclasses.replace(base.job, config=validate(type(base.method), request.settings))
        known = next((e for reads, e in base.learnt.known if config_reads.fit(reads, job.config)), None)
        if known is not None:
            return self._figures(base, job, known, approximate=False)
        estimate, approximate = self._estimate(base, job)
        return self._figures(base, job, estimate, approximate=approximate)

    def exact(self, request: Request, check: Callable[[], None] | None = None) -> Figures:
        """What a dry run would say.

        Args:
            request: what `quick` was asked.
            check: called again and again; it may raise `nbadapt.estimating.Cancelled`.

        Raises:
            NbadaptError: whatever is wrong with the request.
        """
        base = self._base(request)
        job = dataclasses.replace(base.job, config=validate(type(base.method), request.settings))
        try:
            estimate, _ = self._estimate(base, job, measures=True, check=check)
        except NoEstimateError as error:  # it takes too long here: what was told at once stands
            estimate, _ = self._estimate(base, job)
            estimate = dataclasses.replace(estimate, notes=(*estimate.notes, str(error)))
        return self._figures(base, job, estimate, approximate=False)

    def _base(self, request: Request) -> _Base:
        key = _key(request)
        if self._last is None or self._last[0] != key:
            if self._last is None or _objects(self._last[1].request) != _objects(request):
                self.forget()
            for kept in (self._kept, self._learnt):
                if len(kept) > MOST_KEPT:
                    kept.clear()
            self._last = None  # before the next one is looked up: two are not to be there at once
            method, job, notices = plan.look_up(request)
            self._last = key, _Base(request, method, job, notices, self._learnt.setdefault(key, _Learnt()))
        return self._last[1]

    def _estimate(
        self, base: _Base, job: Job, *, measures: bool = False, check: Callable[[], None] | None = None
    ) -> tuple[Estimate, bool]:
        """An estimate, and whether it is approximate."""
        from nbadapt.engines import training_memory
        from nbadapt.engines.training_estimate import ROUGH

        learnt = base.learnt
        same = bool(learnt.followed) and config_reads.fit(learnt.followed, job.config)
        scaling = training_memory.Scaling(measures, check, same=same, kept=learnt.measured)
        followed: set[str] = set()
        token = training_memory.scaling.set(scaling)
        try:
            with (
                garbage.only_new(),
                memo.remembering(self._kept),
                quiet_libraries(),
                config_reads.watched(job.config) as (config, reads),
            ):
                scaling.on_keep = lambda: followed.update(reads)
                asked = dataclasses.replace(job, config=config)
                estimate = self._asked(base, asked, PATIENCE if check is None else None, final=not measures)
        finally:
            training_memory.scaling.reset(token)
        if followed:
            learnt.followed = {name: getattr(job.config, name) for name in followed}
        if not scaling.asked:
            learnt.known.append(({name: getattr(job.config, name) for name in reads}, estimate))
            return estimate, False
        notes = tuple(note for note in estimate.notes if note != ROUGH)
        return dataclasses.replace(estimate, notes=notes), True

    def _asked(self, base: _Base, job: Job, seconds: float | None, *, final: bool) -> Estimate:
        """The method's estimate; the first one looks up whether the method works with the model at all.

        Raises:
            NoEstimateError: none came in time, and this was not the `final` try, after which the form goes on without.
        """
        if base.learnt.silent:
            return Estimate()
        ask = estimating.estimate if base.learnt.supported else support.estimate
        try:
            estimate = ask(base.method, job, seconds)
        except NoEstimateError as error:
            if not final:
                raise
            base.learnt.silent = str(error)
            return Estimate()
        base.learnt.supported = True
        return estimate

    def _figures(self, base: _Base, job: Job, estimate: Estimate, *, approximate: bool) -> Figures:
        problem = ""
        try:
            plan.check_memory(estimate, job)
        except OutOfMemoryError as error:
            problem = str(error)
        seconds = estimate.seconds if estimate.seconds is not None else rough_time.of_training(job, estimate)
        unmeasured = approximate and not base.learnt.measured
        notices = (*base.notices, base.learnt.silent) if base.learnt.silent else base.notices
        return Figures(job, base.method, estimate, notices, approximate, unmeasured, seconds, problem)


def _key(request: Request) -> tuple[Any, ...]:
    """All of a request but its settings; tables and other objects by identity."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return tuple((key, str(item)) for key, item in value.items())
        return value if isinstance(value, PLAIN) else id(value)

    return tuple(map(plain, _values(request)))


def _objects(request: Request) -> list[int]:
    """The identities of what a request is told apart by: tables, above all."""
    return [id(value) for value in _values(request) if not isinstance(value, (*PLAIN, Mapping))]


def _values(request: Request) -> list[Any]:
    fields = dataclasses.fields(request)
    return [getattr(request, f.name) for f in fields if f.name not in {"settings", "name"}]
