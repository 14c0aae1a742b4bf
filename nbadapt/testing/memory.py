"""Measures the memory that a method takes: torch's own record of what is allocated, and what models hold."""

from __future__ import annotations

import contextlib
import gc
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import torch


@contextlib.contextmanager
def _without_remarks() -> Iterator[None]:
    """Without what the profiler's library writes to the process's own standard error, which notebooks show."""
    kept = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def allocated_peak(work: Callable[[], Any]) -> int:
    """Bytes that torch holds on the CPU at the peak of `work`, beyond what was there before.

    Every allocation of torch's allocator is seen, also inside kernels; memory that other libraries take is not.
    """
    import torch

    gc.collect()  # what an earlier measurement saw come would be taken off this one's count where it went in it

    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
    with _without_remarks():
        profiler.start()
    try:
        work()
    finally:
        with _without_remarks():
            profiler.stop()
    found: Any = profiler.profiler
    changes = [event for event in found.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        now += change.nbytes()
        peak = max(peak, now)
    return peak


def held_bytes(models: Iterable[torch.nn.Module]) -> int:
    """Bytes of the tensors that models hold: parameters, buffers and the scales of 4-bit weights, shared ones once."""
    tensors = (t for model in models for module in model.modules() for t in _own_tensors(module))
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def _own_tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    import torch

    for parameter in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        yield parameter
        scales: Any = getattr(parameter, "quant_state", None)
        while scales is not None:  # bitsandbytes quantises the scales as well, which have scales of their own
            yield from (value for value in vars(scales).values() if isinstance(value, torch.Tensor))
            scales = getattr(scales, "state2", None)
