"""Measures the memory that a method takes, by torch's own record of what is allocated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def allocated_peak(work: Callable[[], Any]) -> int:
    """Bytes that torch holds on the CPU at the peak of `work`, beyond what was there before.

    Every allocation of torch's allocator is seen, also inside kernels; memory that other libraries take is not.
    """
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    found: Any = profiler.profiler
    changes = [event for event in found.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        now += change.nbytes()
        peak = max(peak, now)
    return peak
