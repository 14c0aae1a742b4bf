"""Cores, memory, GPUs, the fastest type, disk and network: each asked for a moment at most."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from nbadapt import answer_cache, packaged_models, store
from nbadapt.diagnosis.report import Finding
from nbadapt.diagnosis.software import installed
from nbadapt.memory import gibibytes

NETWORK_SECONDS = 1.0
WALK_SECONDS = 0.25  # for the size of one folder
LITTLE_DISK = 2 * 2**30  # bytes: less than the checkpoints of a small model take
LITTLE_MEMORY = 2**30
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
HUB = "https://huggingface.co"


def hardware(full: bool) -> Iterator[Finding]:
    """Cores, memory, GPU and the type of weights.

    Args:
        full: whether to import torch, where it is not yet, and to try the types.
    """
    import psutil

    topic = "Machine"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding(topic, "cores", f"{cores} usable of {os.cpu_count()}")
    memory = psutil.virtual_memory()
    little = memory.available < LITTLE_MEMORY
    free = f"{gibibytes(memory.available)} free of {gibibytes(memory.total)}"
    fix = "end other programs, or %nbadapt free" if little else ""
    yield Finding(topic, "memory", free, "problem" if little else "ok", fix)
    cards = _nvidia()
    if not full and "torch" not in sys.modules:
        yield _gpu_without_torch(cards)
        yield Finding(topic, "type of weights", "not looked at, to be quick", "unknown", "%nbadapt doctor --full")
        return
    yield from _gpus(cards)
    yield from _types()


def _nvidia() -> list[str]:
    """NVIDIA's GPUs as their driver tells: name, memory, version of the driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    asked = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(  # noqa: S603 - the driver's own tool
            [tool, *asked], capture_output=True, text=True, timeout=2, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


_NO_CUDA = "torch is built without CUDA: {cards} cannot be used"
_GET_CUDA = "pip install --force-reinstall torch   (a build with CUDA: https://pytorch.org/get-started/locally)"


def _gpu_without_torch(cards: list[str]) -> Finding:
    if not cards:
        return Finding("Machine", "GPU", "none that nvidia-smi tells of (torch was not asked)")
    if "+cpu" in (installed("torch") or ""):
        return Finding("Machine", "GPU", _NO_CUDA.format(cards="; ".join(cards)), "problem", _GET_CUDA)
    return Finding("Machine", "GPU", f"{'; '.join(cards)} (as nvidia-smi tells; torch was not asked)")


def _gpus(cards: list[str]) -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(i)
            name = torch.cuda.get_device_name(i)
            yield Finding("Machine", f"GPU cuda:{i}", f"{name}, {gibibytes(free)} free of {gibibytes(total)}")
    elif torch.backends.mps.is_available():
        yield Finding("Machine", "GPU", "Apple's, by mps")
    elif cards and torch.version.cuda is None:
        yield Finding("Machine", "GPU", _NO_CUDA.format(cards="; ".join(cards)), "problem", _GET_CUDA)
    elif cards:
        value = f"torch does not reach {'; '.join(cards)}"
        fix = f"update the driver to one for CUDA {torch.version.cuda}, and look at CUDA_VISIBLE_DEVICES"
        yield Finding("Machine", "GPU", value, "problem", fix)
    else:
        yield Finding("Machine", "GPU", "none: the work runs on the CPU")


def _types() -> Iterator[Finding]:
    from nbadapt import devices

    device = devices.best_device()
    best = devices.best_dtype(device)
    slower = {"bfloat16": "as quick as it gets", "float32": "bfloat16 is no faster on this CPU"}
    note = slower.get(best, "this GPU has no bfloat16") if device == "cpu" or best == "float16" else "by the GPU"
    yield Finding("Machine", "type of weights", f"{best} on {device} ({note})")


# ------------------------------------------------------------------------------------------------ disk


def disk() -> Iterator[Finding]:
    """What nbadapt and the hub's client keep, where, and how much room is left."""
    from nbadapt.engines import embedding_cache

    topic = "Disk"
    root = store.root()
    yield _room(root)
    runs = sum(1 for _ in root.glob("*/request.json")) if root.is_dir() else 0
    yield Finding(topic, "runs", f"{runs} in {root}, {_size(root)}, with indexes and rows")
    hub = os.environ.get("HF_HUB_CACHE") or os.path.join(  # noqa: PTH118 - as the hub's client does it
        os.environ.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface"), "hub"
    )
    for name, folder, clear in (
        ("answers", answer_cache.file().parent, "%nbadapt cache clear"),
        ("embeddings", embedding_cache.root(), "remove the folder: features and indexes embed anew"),
        ("converted models", packaged_models.cache(), "remove the folder: they are converted anew"),
        ("hub cache", Path(hub).expanduser(), "hf cache prune"),
    ):
        if folder.is_dir():
            yield Finding(topic, name, f"{_size(folder)} in {folder}; to clear it: {clear}")
        else:
            yield Finding(topic, name, f"nothing yet in {folder}")


def _room(root: Path) -> Finding:
    """How much can be written where the runs lie."""
    there = next(path for path in (root, *root.parents) if path.exists())
    if not os.access(there, os.W_OK) or not there.is_dir():
        fix = "name another folder in the environment variable NBADAPT_RUNS"
        return Finding("Disk", "room", f"nothing can be written in {there}", "problem", fix)
    free = shutil.disk_usage(there).free
    if free < LITTLE_DISK:
        fix = "%nbadapt delete RUN, or name a folder on another disk in NBADAPT_RUNS"
        return Finding("Disk", "room", f"{gibibytes(free)} free where runs are kept", "problem", fix)
    return Finding("Disk", "room", f"{gibibytes(free)} free where runs are kept")


def _size(folder: Path) -> str:
    """The size of a folder, or at least how much of it was seen in `WALK_SECONDS`."""
    total, end = 0, time.monotonic() + WALK_SECONDS
    for place, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118 - thousands of them
            except OSError:
                continue
        if time.monotonic() > end:
            return f"more than {gibibytes(total)} (it is large: not counted to the end)"
    return gibibytes(total)


# ------------------------------------------------------------------------------------------------ network and settings


class Hub:
    """Asks the hub whether it is there, in a thread of its own while others look: looking a name up can hang.

    Nobody is asked where the environment says offline.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._offline = next((n for n in OFFLINE if environment.get(n, "").upper() in {"1", "TRUE", "YES", "ON"}), "")
        self._address = environment.get("HF_ENDPOINT") or HUB
        self._end = time.monotonic() + NETWORK_SECONDS
        self._answered = threading.Event()
        if not self._offline:
            threading.Thread(target=self._ask, daemon=True, name="nbadapt-doctor").start()

    def _ask(self) -> None:
        try:
            request = urllib.request.Request(self._address, method="HEAD")  # noqa: S310 - where the hub's client goes
            with urllib.request.urlopen(request, timeout=NETWORK_SECONDS):  # noqa: S310
                self._answered.set()
        except urllib.error.HTTPError:
            self._answered.set()
        except (OSError, ValueError):
            return

    def finding(self) -> Finding:
        """What came of it; waits for the rest of `NETWORK_SECONDS` at most."""
        cached = "models come from folders, packages and the hub's cache"
        if self._offline:
            return Finding("Network", "hub", f"offline, as {self._offline} says: nobody was asked; {cached}")
        if self._answered.wait(max(0.0, self._end - time.monotonic())):
            return Finding("Network", "hub", f"online: {self._address} answered")
        value = f"out of reach: {self._address} did not answer within {NETWORK_SECONDS:.0f} s; {cached}"
        return Finding("Network", "hub", value, "note", "HF_HUB_OFFLINE=1 saves the wait for it")


PLACES = ("NBADAPT_RUNS", "NBADAPT_ANSWERS", "NBADAPT_EMBEDDINGS", "NBADAPT_CACHE", "NBADAPT_TRUSTED", "NBADAPT_UI")
SECRETS = ("HF_TOKEN", "OPENAI_API_KEY", "NBADAPT_POSTGRESQL", "PGPASSWORD")


def settings(environment: Mapping[str, str]) -> Iterator[Finding]:
    """The environment variables that nbadapt reads; of secret ones only whether they are set."""
    for name in PLACES:
        if name in environment:
            yield Finding("Settings", name, environment[name] or "set, to nothing")
    ui = environment.get("NBADAPT_UI", "auto")
    if ui not in {"auto", "live", "static", "text"}:
        value = f"{ui!r} means nothing, and is taken for auto"
        yield Finding("Settings", "NBADAPT_UI", value, "problem", "set it to live, static or text, or unset it")
    for name in SECRETS:
        yield Finding("Settings", name, "set (its value is not shown)" if environment.get(name) else "not set")
