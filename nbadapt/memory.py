"""Memory: what is free, what is used, how little of it a finished piece of work keeps, and how it is written."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

from nbadapt.events import Memory

KERNELS = 16  # that oneDNN keeps
LARGE = 4 * 2**20  # bytes of a block that glibc does not put into a heap
_M_MMAP_THRESHOLD = -3  # in glibc's malloc.h


def available_bytes(device: str) -> int | None:
    """Bytes that a job on `device` may still take; None where that cannot be told."""
    if device.startswith("cuda"):
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device == "cpu":
        import psutil

        return int(psutil.virtual_memory().available)
    return None


def measure(device: str, ram_peak: int = 0) -> Memory:
    """Memory of this process and of `device` now; the peak is the larger of now and `ram_peak`."""
    import psutil

    ram = psutil.Process().memory_info().rss
    peak = max(ram, ram_peak)
    torch = sys.modules.get("torch")
    if torch is None or not device.startswith("cuda"):
        return Memory(ram, peak)
    return Memory(
        ram,
        peak,
        vram=torch.cuda.memory_allocated(device),
        vram_peak=torch.cuda.max_memory_allocated(device),
        vram_total=torch.cuda.get_device_properties(device).total_memory,
    )


def leave_little_behind() -> None:
    """Let C libraries keep little of what a training took: what comes later in the process would be added to it.

    To be called before the first product. What the environment sets stays.

    - oneDNN makes a kernel for each operation and shape, each batch has another length, and it keeps 1,024 of them:
      tens of MiB after a short training. It is to keep `KERNELS`. See its guide, "Primitive cache".
    - glibc puts a block into a heap, whose holes fit no block of another length, unless it is larger than the largest
      freed before, up to 32 MiB. From `LARGE` on each is to be apart, and so is given back when it is freed. See
      mallopt(3), M_MMAP_THRESHOLD.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))
    if sys.platform == "linux" and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # of glibc alone
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, LARGE)


def trim() -> None:
    """Return what the C library holds of freed memory to the system, the holes between what is in use too.

    Batches of other lengths make more and more holes: with this whenever a run is at a new peak, asking with
    demonstrations took 1.2 GiB instead of 1.4 in the same time. See malloc_trim(3).
    """
    if sys.platform == "linux":
        malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
        if malloc_trim is not None:
            malloc_trim(0)


def gibibytes(size: float) -> str:
    """A size in bytes as people write it: "345 MiB", "1.32 GiB"."""
    if size >= 2**30:
        return f"{size / 2**30:.2f} GiB"
    if size >= 2**20:
        return f"{size / 2**20:.0f} MiB"
    return f"{size / 2**10:.0f} KiB"


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the CPU or on an accelerator."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if not isinstance(error, RuntimeError):
        return False
    with contextlib.suppress(Exception):  # a plugin's own error may not be able to say what it is
        return _says_so(str(error))
    return False


def _says_so(text: str) -> bool:
    # On Windows, on accelerators, on Linux, in oneDNN and in cuBLAS.
    said = ("not enough memory", "out of memory", "t allocate memory", "could not create a primitive", "ALLOC_FAILED")
    return any(words in text for words in said)
