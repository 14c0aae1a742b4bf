"""What differs between runs: settings, data, quality, parameters, memory, time; what all share is left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbadapt.comparing.facts import Facts, Known, is_quality, smaller_is_better, where
from nbadapt.memory import gibibytes
from nbadapt.widgets.summary import duration, metric_label, number

UNKNOWN = "-"


@dataclass(frozen=True)
class Difference:
    """One line: what it is about, and the cell of each run. `best` are the places of the best cells, if any are."""

    group: str
    label: str
    cells: tuple[str, ...]
    best: tuple[int, ...] = ()

    @property
    def differs(self) -> bool:
        """Whether not all runs have the same."""
        return len(set(self.cells)) > 1


def differences(runs: Sequence[Known], all_facts: Sequence[Facts], *, everything: bool = False) -> list[Difference]:
    """The lines of a comparison, in groups.

    Args:
        runs: those that are compared.
        all_facts: of the same runs.
        everything: also what all of them share.
    """
    requests = [_request(run) for run in runs]
    lines = [
        *(_line("run", label, all_facts, lambda f, a=attribute: getattr(f, a)) for label, attribute in _ABOUT),
        _line("run", "State", all_facts, where),
        *_settings(requests),
        *_data(requests),
        *_quality(all_facts),
        *_cost(all_facts),
        *_versions(requests),
    ]
    return [line for line in lines if everything or line.differs]


_ABOUT = (("Method", "method"), ("Model", "model"), ("Tags", "tags"), ("Note", "note"))
_ASKED = (("Task", "task"), ("Prompt", "prompt"), ("Labels", "labels"), ("Seed", "seed"), ("Device", "device"),
          ("Type of the weights", "dtype"))  # fmt: skip
_TABLES = (("Data", "data"), ("Evaluation data", "evaluation"), ("Examples", "examples"))


def _request(run: Known) -> Mapping[str, Any]:
    try:
        return run.request
    except Exception:  # noqa: BLE001 - a damaged run takes part with what is known of it
        return {}


def _line(group: str, label: str, items: Sequence[Any], of: Any) -> Difference:
    return Difference(group, label, tuple(_text(of(item)) for item in items))


def _text(value: Any) -> str:
    if value is None or value in ("", (), []):
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value)
    return str(value)


def _settings(requests: Sequence[Mapping[str, Any]]) -> list[Difference]:
    settings = [request.get("settings") or {} for request in requests]
    names = list(dict.fromkeys(name for given in settings for name in given))
    lines = [_line("settings", name, settings, lambda given, n=name: given.get(n)) for name in names]
    return lines + [_line("settings", label, requests, lambda r, f=field: r.get(f)) for label, field in _ASKED]


def _data(requests: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """The tables by name and number of rows; where those are alike and the rows are not, by fingerprint too."""
    lines = []
    for label, field in _TABLES:
        tables = [request.get(field) or {} for request in requests]
        shown = [f"{t['source']}, {t['rows']:,} rows" if {"source", "rows"} <= t.keys() else UNKNOWN for t in tables]
        prints = [str(table.get("fingerprint", ""))[:8] for table in tables]
        alike = {text: {p for other, p in zip(shown, prints, strict=True) if other == text} for text in shown}
        cells = [f"{t} ({p})" if len(alike[t]) > 1 else t for t, p in zip(shown, prints, strict=True)]
        lines.append(Difference("data", label, tuple(cells)))
    return lines


def _quality(all_facts: Sequence[Facts]) -> list[Difference]:
    names = list(dict.fromkeys(name for facts in all_facts for name in facts.metrics))
    lines = []
    for name in names:
        if name.endswith(("_low", "_high")) and name.rpartition("_")[0] in names:
            continue  # the ends of an interval stand with their figure
        values = [facts.metrics.get(name) for facts in all_facts]
        cells = tuple(_measured(facts.metrics, name) for facts in all_facts)
        lines.append(Difference("quality", metric_label(name), cells, _best(name, values)))
    return lines


def _measured(metrics: Mapping[str, float], name: str) -> str:
    if name not in metrics:
        return UNKNOWN
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    interval = f" ({number(low)} to {number(high)})" if low is not None and high is not None else ""
    return number(metrics[name]) + interval


def _best(name: str, values: Sequence[float | None]) -> tuple[int, ...]:
    """The places of the best values; none where a figure is no quality, or where all have the same."""
    there = [value for value in values if value is not None and math.isfinite(value)]
    if not is_quality(name) or len(set(there)) < 2:
        return ()
    best = min(there) if smaller_is_better(name) else max(there)
    return tuple(place for place, value in enumerate(values) if value == best)


def _cost(all_facts: Sequence[Facts]) -> list[Difference]:
    def line(group: str, label: str, attribute: str, text: Any) -> Difference:
        values = [getattr(facts, attribute) for facts in all_facts]
        return Difference(group, label, tuple(UNKNOWN if value is None else text(value) for value in values))

    return [
        line("parameters", "Trained parameters", "parameters", "{:,}".format),
        line("parameters", "All parameters", "all_parameters", "{:,}".format),
        line("memory", "Peak memory", "memory", gibibytes),
        line("time", "Time", "seconds", duration),
        line("time", "Steps", "step", "{:,}".format),
    ]


def _versions(requests: Sequence[Mapping[str, Any]]) -> list[Difference]:
    versions = [request.get("versions") or {} for request in requests]
    names = list(dict.fromkeys(name for given in versions for name in given))
    return [_line("versions", name, versions, lambda given, n=name: given.get(n)) for name in names]
