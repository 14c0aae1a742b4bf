"""Measures the memory that a method takes, by torch's own record of what is allocated."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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
