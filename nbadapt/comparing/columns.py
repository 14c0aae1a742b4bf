"""The columns of the table of runs: what stands in a cell, and by what it is sorted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from nbadapt.comparing.facts import Facts, main_metric, smaller_is_better, where
from nbadapt.errors import RequestError, did_you_mean
from nbadapt.memory import gibibytes
from nbadapt.widgets.summary import amount, duration

Key = float | str | None


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        text: the cell of a run.
        key: what the run is sorted by; None, for what is unknown, comes last in both directions.
        first: the direction that is wanted first.
    """

    name: str
    text: Callable[[Facts], str]
    key: Callable[[Facts], Key]
    first: int = 1


def _text_column(name: str, text: Callable[[Facts], str]) -> Column:
    return Column(name, text, lambda facts: text(facts).casefold() or None)


def _steps(facts: Facts) -> str:
    return f"{facts.step:,} / {facts.total:,}" if facts.step is not None and facts.total is not None else ""


def _result(facts: Facts) -> str:
    name = main_metric(facts)
    return f"{name} {facts.metrics[name]:.4g}" if name else ""


def _result_key(facts: Facts) -> Key:
    """The better, the larger, among runs that are measured by the same."""
    name = main_metric(facts)
    return measured(facts, name, better=1) if name else None


def measured(facts: Facts, metric: str, *, better: int = 0) -> float | None:
    """A metric of a run; None where it has none, or no number. `better` 1 turns it so that larger is better."""
    value = facts.metrics.get(metric)
    if value is None or not math.isfinite(value):
        return None
    return -value if better and smaller_is_better(metric) else value


COLUMNS: dict[str, Column] = {
    column.name: column
    for column in (
        _text_column("run", lambda f: f.id),
        _text_column("name", lambda f: f.name),
        _text_column("method", lambda f: f.method),
        _text_column("model", lambda f: f.model),
        _text_column("data", lambda f: f.data),
        _text_column("state", where),
        Column("steps", _steps, lambda f: f.step),
        Column("result", _result, _result_key, -1),
        Column("parameters", lambda f: "" if f.parameters is None else amount(f.parameters), lambda f: f.parameters),
        Column("memory", lambda f: "" if f.memory is None else gibibytes(f.memory), lambda f: f.memory),
        Column("time", lambda f: "" if f.seconds is None else duration(f.seconds), lambda f: f.seconds),
        Column(
            "when",
            lambda f: time.strftime("%Y-%m-%d %H:%M", time.localtime(f.created)) if f.created else "",
            lambda f: f.created or None,
            -1,
        ),
        _text_column("tags", lambda f: " ".join(f.tags)),
        _text_column("note", lambda f: f.note),
    )
}


def chosen(all_facts: Sequence[Facts], search: str = "", sort: str = "") -> list[Facts]:
    """The runs that are wanted, in the wanted order.

    Args:
        all_facts: newest first.
        search: words that a run's cells must hold, in any order; with a dash in front, must not hold.
        sort: a column or a metric, the better or the smaller first; with a dash in front the other way round.

    Raises:
        RequestError: there is no such column and no run has such a metric.
    """
    found = [facts for facts in all_facts if fits(facts, search)]
    return in_order(found, sort) if sort else found


def fits(facts: Facts, search: str) -> bool:
    """Whether the cells of a run hold all the words, and none of those with a dash in front.

    The column of results is not looked at: what stands there is a matter of what is chosen.
    """
    wanted = search.lower().split()
    words = (
        ""
        if not wanted
        else "\n".join(column.text(facts) for column in COLUMNS.values() if column.name != "result").lower()
    )
    return all(word[1:] not in words if len(word) > 1 and word[0] == "-" else word in words
               for word in wanted)  # fmt: skip


def in_order(all_facts: Iterable[Facts], sort: str) -> list[Facts]:
    """The runs by a column or a metric; those where it is unknown last, equal ones as they were."""
    given = list(all_facts)
    name = sort.removeprefix("-")
    turn = -1 if sort.startswith("-") else 1
    if name in COLUMNS:
        key, turn = COLUMNS[name].key, turn * COLUMNS[name].first
    elif any(name in facts.metrics for facts in given):
        key, turn = (lambda facts: measured(facts, name, better=1)), -turn
    else:
        valid = [*COLUMNS, *sorted({metric for facts in given for metric in facts.metrics})]
        raise RequestError(f"the runs cannot be sorted by {name!r}: {did_you_mean(name, valid, kind='columns')}")
    known = [(key(facts), facts) for facts in given]
    there = [(k, facts) for k, facts in known if k is not None]
    there.sort(key=lambda pair: pair[0], reverse=turn < 0)
    return [facts for _, facts in there] + [facts for k, facts in known if k is None]
