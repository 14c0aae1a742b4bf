"""The estimate of a dry run, fast enough to follow a slider.

::

    settings ──> known for what the method reads of them? ── yes ──> exact, at once
                     │ no
                     ├──> parameters and steps exactly; activations scaled from the last measured batch ──> at once
                     └──> later, where nothing else goes on: the step gone through as in a dry run ──> exact, known

What a method reads of its settings is watched: moving the learning rate costs nothing where no estimate asks for it.
Tokenizers, skeletons on the meta device and encoded rows are kept between estimates; weights are never loaded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nbadapt import estimating, models, plan, support
from nbadapt.capture import quiet_libraries
from nbadapt.engines import rough_time
from nbadapt.estimating import NoEstimateError
from nbadapt.method import Estimate
from nbadapt.settings import validate

if TYPE_CHECKING:
    from nbadapt.method import Config, Job, Method
    from nbadapt.request import Request

MOST_BASES = 8  # combinations of model, data, ... that are remembered
PATIENCE = 10.0  # seconds that a person may have to look at a form that does not move, once


class Cancelled(BaseException):
    """The measurement is not wanted any more. No Exception: an estimate goes on after those."""


@dataclass(frozen=True)
class Figures:
    """An estimate as a form shows it.

    Attributes:
        approximate: whether the activations' memory is scaled from a measured batch, and not gone through.
        unmeasured: whether no batch was measured yet: the memory is a first guess, and may be far off.
        seconds: the time, by a rule of thumb that is good to a factor of three; None where there is none.
    """

    job: Job
    method: Method
    estimate: Estimate
    notices: tuple[str, ...]
    approximate: bool
    unmeasured: bool
    seconds: float | None


@dataclass
class _Base:
    """Everything of a request but its settings, looked up."""

    request: Request  # keeps what is told by its identity
    method: Method
    job: Job
    notices: tuple[str, ...]
    silent: bool = False  # whether the method gave no estimate in time
    supported: bool = False  # whether `support` has looked at it
    measured: dict[str, tuple[int, int]] = field(default_factory=dict)
    followed: dict[str, Any] = field(default_factory=dict)  # what was read up to the end of that measurement
    known: list[tuple[dict[str, Any], Estimate]] = field(default_factory=list)  # what was read -> exact


class Estimator:
    """Estimates requests that differ little from one another. For one thread at a time."""

    def __init__(self) -> None:
        self._bases: dict[tuple[Any, ...], _Base] = {}
        self._kept: dict[Any, Any] = {}

    def quick(self, request: Request) -> Figures:
        """What is known at once.

        Raises:
            NbadaptError: whatever is wrong with the request, as `plan.prepare` says it.
        """
        base = self._base(request)
        job = dataclasses.replace(base.job, config=validate(type(base.method), request.settings))
        known = next((e for reads, e in base.known if _fits(reads, job.config)), None)
        if known is not None:
            return self._figures(base, job, known, approximate=False)
        estimate, approximate = self._estimate(base, job)
        return self._figures(base, job, estimate, approximate=approximate)

    def exact(self, request: Request, check: Callable[[], None] | None = None) -> Figures:
        """What a dry run would say.

        Args:
            request: what `quick` was asked.
            check: called again and again; it may raise `Cancelled`.

        Raises:
            NbadaptError: whatever is wrong with the request.
        """
        base = self._base(request)
        job = dataclasses.replace(base.job, config=validate(type(base.method), request.settings))
        estimate, _ = self._estimate(base, job, measures=True, check=check)
        return self._figures(base, job, estimate, approximate=False)

    def _base(self, request: Request) -> _Base:
        key = _key(request)
        if key not in self._bases:
            while len(self._bases) >= MOST_BASES:
                del self._bases[next(iter(self._bases))]
            self._kept = {} if len(self._kept) > 10 * MOST_BASES else self._kept
            self._bases[key] = _Base(request, *plan.look_up(request))
        return self._bases[key]

    def _estimate(
        self, base: _Base, job: Job, *, measures: bool = False, check: Callable[[], None] | None = None
    ) -> tuple[Estimate, bool]:
        """An estimate, and whether it is approximate."""
        from nbadapt.engines import training_memory
        from nbadapt.engines.training_estimate import ROUGH

        same = bool(base.followed) and _fits(base.followed, job.config)
        scaling = training_memory.Scaling(measures, check, same=same, kept=base.measured)
        followed: set[str] = set()
        token = training_memory.scaling.set(scaling)
        try:
            with (
                _uncollected(not measures),
                models.remembering(self._kept),
                quiet_libraries(),
                watched(job.config) as (config, reads),
            ):
                scaling.on_keep = lambda: followed.update(reads)
                estimate = self._asked(base, dataclasses.replace(job, config=config))
        finally:
            training_memory.scaling.reset(token)
        if followed:
            base.followed = {name: getattr(job.config, name) for name in followed}
        if not scaling.asked:
            base.known.append(({name: getattr(job.config, name) for name in reads}, estimate))
            return estimate, False
        notes = tuple(note for note in estimate.notes if note != ROUGH)
        return dataclasses.replace(estimate, notes=notes), True

    def _asked(self, base: _Base, job: Job) -> Estimate:
        """The method's estimate; the first one looks up whether the method works with the model at all."""
        if base.silent:
            return Estimate()
        ask = estimating.estimate if base.supported else support.estimate
        try:
            estimate = ask(base.method, job, PATIENCE)
        except NoEstimateError as error:  # once is enough: the form goes on without
            base.silent, base.notices = True, (*base.notices, str(error))
            return Estimate()
        base.supported = True
        return estimate

    def _figures(self, base: _Base, job: Job, estimate: Estimate, *, approximate: bool) -> Figures:
        plan.check_memory(estimate, job)
        seconds = estimate.seconds if estimate.seconds is not None else rough_time.of_training(job, estimate)
        unmeasured = approximate and not base.measured
        return Figures(job, base.method, estimate, base.notices, approximate, unmeasured, seconds)


def _key(request: Request) -> tuple[Any, ...]:
    """All of a request but its settings; tables and other objects by identity."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return tuple((key, str(item)) for key, item in value.items())
        return value if isinstance(value, str | int | float | tuple | None) else id(value)

    fields = dataclasses.fields(request)
    return tuple(plain(getattr(request, f.name)) for f in fields if f.name not in {"settings", "name"})


def _fits(reads: Mapping[str, Any], config: Config) -> bool:
    return all(getattr(config, name) == value for name, value in reads.items())


@contextlib.contextmanager
def _uncollected(wanted: bool) -> Iterator[None]:
    """Without the garbage collector: a skeleton's many objects would start it, and all of torch is looked through."""
    enabled = wanted and gc.isenabled()
    if not enabled:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# ------------------------------------------------------------------------------------------------ what is read


_reads: ContextVar[set[str] | None] = ContextVar("reads", default=None)


@contextlib.contextmanager
def watched(config: Config) -> Iterator[tuple[Config, set[str]]]:
    """The settings again, and a set that grows by the names of those that are read of them inside."""
    reads: set[str] = set()
    token = _reads.set(reads)
    try:
        fields = type(config).model_fields
        yield _watching(type(config)).model_construct(**{name: getattr(config, name) for name in fields}), reads
    finally:
        _reads.reset(token)


@functools.lru_cache(maxsize=64)
def _watching(kind: type[Config]) -> type[Config]:
    """A subclass whose instances note which of their fields are read; what may read all of them counts as that."""
    names = frozenset(kind.model_fields)
    whole = frozenset({"__dict__", "model_dump", "model_dump_json", "model_copy"})

    def __getattribute__(self: Any, name: str) -> Any:  # noqa: N807 - becomes the class's own
        if name in names or name in whole:
            reads = _reads.get()
            if reads is not None:
                reads.update({name} if name in names else names)
        return object.__getattribute__(self, name)

    metaclass: Any = type(kind)
    made: type[Config] = metaclass(
        kind.__name__,
        (kind,),
        {"__getattribute__": __getattribute__, "__module__": kind.__module__, "__doc__": kind.__doc__},
    )
    return made
