"""What a cell with ``%%compare`` or a call of `nbadapt.compare` asks for, before anything was looked up."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nbadapt.cells import brief, kind
from nbadapt.errors import RequestError, did_you_mean
from nbadapt.request import MAX_SEED, check_columns

_TIME = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s)?")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg])(i?)b", re.IGNORECASE)
_POWERS = {"k": 1, "m": 2, "g": 3}
MOST_SEEDS = 20
MEASURES = ("accuracy", "macro_f1", "exact_match", "bits_per_byte")
NOUNS = {"data": "table", "test": "table"}


@dataclass(frozen=True)
class Budget:
    """What a comparison may take. None where there is no limit.

    Attributes:
        seconds: of work, those of an earlier kernel included.
        memory: bytes that a candidate may be expected to need.
    """

    seconds: float | None = None
    memory: int | None = None


@dataclass(frozen=True)
class Asked:
    """What is to be compared, and how.

    Attributes:
        blocks: method -> what was written about it; empty for a default set. See `nbadapt.selection.specs`.
        model: a name, a folder or a hub id, for the candidates without one of their own.
        data: a table, a file or a hub data set.
        test: a share of the rows that is locked up, or a table of such rows.
        sources: "model", "data", "test" -> what the user calls it.
        task: None to infer it from the columns.
        columns: the task's column name -> the user's column name.
        budget: of time and memory.
        search: how many candidates are drawn of the grid; None for all.
        seeds: how often the last candidates are trained.
        full_ranking: whether every candidate is trained on all rows, without successive halving.
        metric: one of `MEASURES`; None for the task's own.
        seed: decides every random choice; further seeds follow it.
        namespace: the notebook's variables.

    Raises:
        RequestError: a value that cannot be meant.
    """

    blocks: Mapping[str, Any] = field(default_factory=dict)
    model: Any = None
    data: Any = None
    test: Any = 0.2
    sources: Mapping[str, str] = field(default_factory=dict)
    task: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    budget: Budget = Budget()
    search: int | None = None
    seeds: int = 1
    full_ranking: bool = False
    metric: str | None = None
    seed: int = 0
    name: str | None = None
    dry_run: bool = False
    device: str | None = None
    dtype: str | None = None
    trust_remote_code: bool = False
    namespace: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.data is None:
            raise RequestError("no data to compare on: add --data with a notebook variable, a file or a hub data set")
        if self.model is None:
            from nbadapt import model_names

            raise RequestError(
                f"no model given: add --model with a name ({', '.join(model_names.names())}), or a folder"
            )
        if isinstance(self.test, bool) or (isinstance(self.test, int | float) and not 0 < self.test < 1):
            raise RequestError(f"--test is {self.test}: give a share between 0 and 1, such as 0.2, or a table")
        for what, value, most in (("--search", self.search, 100_000), ("--seeds", self.seeds, MOST_SEEDS)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most):
                raise RequestError(f"{what} is {value!r}: give a whole number from 1 to {most:,}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed <= MAX_SEED - MOST_SEEDS:
            raise RequestError(f"the seed is {self.seed!r}: give a whole number from 0 to {MAX_SEED - MOST_SEEDS}")
        self._check_texts()
        if self.metric is not None and self.metric not in MEASURES:
            raise RequestError(f"unknown metric {self.metric!r}: {did_you_mean(self.metric, MEASURES, kind='metrics')}")
        if self.name is not None and (not self.name.isidentifier() or keyword.iskeyword(self.name)):
            raise RequestError(f"--as {self.name!r} is no variable name: use letters, digits and _, such as found")
        self.check_name(self.sources)

    def _check_texts(self) -> None:
        """Refuse what only a Python call can give: a value of another type."""
        check_columns(self.columns)
        for what in ("metric", "task", "device", "dtype"):
            value = getattr(self, what)
            if not isinstance(value, str | None):
                raise RequestError(f"{what} is {brief(value)}, {kind(value)}: give a text")

    def check_name(self, named: Mapping[str, str]) -> None:
        """Refuse a variable for the comparison that the cell reads: run again, it could not go on.

        Args:
            named: what something is -> what the user calls it.

        Raises:
            RequestError: one is called as the comparison shall be.
        """
        what = next((what for what, called in named.items() if called == self.name), None)
        if what is not None:
            raise RequestError(
                f"--as {self.name} would put the comparison in the place of the {NOUNS.get(what, what)} "
                f"{self.name}: give another name, such as found"
            )


def budget(given: Any) -> Budget:
    """A budget as it is written: ``10m``, ``1h30m``, ``90s``, ``2GB``, or both as ``10m,2GB``; a number is seconds.

    Raises:
        RequestError: it is none.
    """
    if given is None or isinstance(given, Budget):
        return given or Budget()
    if isinstance(given, int | float) and not isinstance(given, bool) and given > 0:
        return Budget(seconds=float(given))
    if not isinstance(given, str):
        raise RequestError(f"the budget is {brief(given)}: {_WANTED}")
    seconds, memory = None, None
    for part in (part.strip() for part in given.split(",")):
        size = _SIZE.fullmatch(part)
        if size is not None and memory is None:
            base = 1024 if size[3] else 1000
            memory = int(float(size[1]) * base ** _POWERS[size[2].lower()])
        elif size is None and seconds is None:
            seconds = _seconds(part)
        else:
            raise RequestError(f"--budget {given!r} limits one thing twice: {_WANTED}")
    return Budget(seconds, memory)


_WANTED = "write a time as 10m, 90s or 1h30m, a memory as 2GB, or both as 10m,2GB"


def _seconds(text: str) -> float:
    found = _TIME.fullmatch(text)
    parts = [float(part or 0) for part in found.groups()] if found else []
    if not any(parts):
        raise RequestError(f"--budget {text!r} is no time and no memory: {_WANTED}")
    hours, minutes, seconds = parts
    return 3600 * hours + 60 * minutes + seconds
