"""What the benchmarks share: a clock, a Markdown table, notes on machine and memory, and where results are kept."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

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


def code_of(folder: str) -> str:
    """8 hex digits that stand for the Python files of a folder of nbadapt."""
    files = sorted((Path(__file__).parents[1] / "nbadapt" / folder).glob("*.py"))
    return hashlib.sha256(b"\n".join(path.read_bytes() for path in files)).hexdigest()[:8]


def kept(path: Path, key: Mapping[str, Any], *, adopt: bool = False) -> dict[str, Any] | None:
    """The line of a file of JSON lines that agrees with the key; None where there is none.

    Args:
        path: the file, which need not be there.
        key: its field "code", where it has one, says what code is to have been measured; see `code_of`.
        adopt: lines without "code" are of the code that is here: it is written into the one that is found.

    Raises:
        SystemExit: the line has no "code": whoever measured it is to say of which code it is.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    unmarked = None
    for place, line in enumerate(lines):
        entry: dict[str, Any] = json.loads(line)
        if any(entry.get(name) != value for name, value in key.items() if name != "code"):
            continue
        if entry.get("code") == key.get("code"):
            return entry
        if "code" not in entry:
            unmarked = place
    if unmarked is None:
        return None
    if not adopt:
        raise SystemExit(
            f"{path.name}, line {unmarked + 1}, does not say which code it measured: where that is the code that is "
            f'here, add --adopt once, which writes "code": "{key["code"]}" into such lines; else delete the line'
        )
    entry = {**json.loads(lines[unmarked]), "code": key["code"]}
    lines[unmarked] = json.dumps(entry)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return entry


def keep(path: Path, entry: Mapping[str, Any]) -> None:
    """Add a line to a file of JSON lines."""
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


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
