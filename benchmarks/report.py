"""What the benchmarks share: a clock, a Markdown table, notes on machine and memory, and where results are kept."""

from __future__ import annotations

import os
import platform
import resource
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")
RESULTS = Path(__file__).parent / "results"
# gsm8k has no test file here: learning rates are chosen on the first half of the validation file, and what methods
# reach with them is reported on the other.
CHOSEN_ON, REPORTED_ON = (0, 100), (100, 200)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def environment(script: str, packages: Iterable[str], cores: str | None = None) -> str:
    """The command that was given, the machine and the versions, as one paragraph.

    Args:
        script: what was started.
        packages: whose versions matter.
        cores: how many it had, in words, where these are not this process's.
    """
    command = shlex.join(["python", script, *_given(sys.argv[1:])])
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    here = len(os.sched_getaffinity(0))
    cores = cores or ("one core" if here == 1 else f"{here} cores")
    where = f"{processor()}, {cores}, Python {platform.python_version()}"
    return f"Measured with `{command}` on {where}, {versions}. Seconds depend on the machine: trust the ratio."


def _given(arguments: Sequence[str]) -> list[str]:
    """The arguments without ``--data FOLDER`` and ``--keep FOLDER``, another machine's affair, and ``--kept``."""
    left = [argument for argument in arguments if argument != "--kept"]  # which measures nothing
    for option in ("--data", "--keep"):
        if option in left:
            place = left.index(option)
            del left[place : place + 2]
    return left


def processor() -> str:
    """The name of the processor's model, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "?")


def peak_memory() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def save(name: str, text: str) -> None:
    """Print a report and keep it as ``results/<name>.md``."""
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text + "\n", encoding="utf-8")


class Took(NamedTuple):
    """Seconds by the clock, and on the processor in all threads: what others do on the machine weighs less there."""

    elapsed: float
    processor: float

    def share(self, count: int) -> Took:
        """The same for one of so many."""
        return Took(self.elapsed / count, self.processor / count)

    def over(self, other: Took) -> tuple[str, str]:
        """How many times as long this took as the other, by both."""
        return f"{self.elapsed / other.elapsed:.2f}", f"{self.processor / other.processor:.2f}"


def timed(work: Callable[[], T]) -> tuple[Took, T]:
    """How long some work took, and what it gave."""
    start, busy = time.perf_counter(), time.process_time()
    found = work()
    return Took(time.perf_counter() - start, time.process_time() - busy), found


def middle(runs: Sequence[Took], share: float = 0.5) -> Took:
    """The median, or another quantile, of each of both."""
    return Took(*(float(np.quantile(times, share)) for times in zip(*runs, strict=True)))
