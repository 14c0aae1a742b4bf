"""What the table of runs is told: numbered messages of at most 20 KB, each with what changed since the one before.

A message holds ``seq``, ``full`` (forget everything before it) and some of:

- ``ui``: what is chosen: ticked ids, curve, quality and cost, with what may be chosen
- ``ids``: all runs that the page has, newest first; ``more``: how many are left out
- ``found``: {search, places, all}: where in ``ids`` those stand that the last search fits, and how many it fits in all
- ``rows``: [{id, cells, keys, metrics, live}, ...]; cells are texts by `CELLS`, keys numbers by `KEYS`
- ``table``: what differs between the ticked runs: {lines: [[group, label, [cell, ...], [best place, ...]], ...], more}
- ``curves``: [[id, split, n], ...] with one binary buffer: for each, n buckets as `thin.pack` writes them
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from nbadapt.comparing.columns import COLUMNS, fits
from nbadapt.comparing.comparison import MOST_RUNS
from nbadapt.comparing.differences import Difference, differences
from nbadapt.comparing.facts import Facts, Known, Overview, is_quality, measures, smaller_is_better
from nbadapt.widgets.runs_figure import COSTS
from nbadapt.widgets.texts import clip
from nbadapt.widgets.thin import pack

CELLS = ("name", "method", "state", "result", "time", "parameters", "memory", "tags", "note", "model", "data", "steps",
         "when", "run")  # fmt: skip
KEYS = ("steps", "time", "parameters", "memory", "when")
MOST_ROWS = 300
MOST_METRICS = 6  # of a row
MOST_CHOICES = 24  # of a menu
CELL_BYTES, NOTE_BYTES, NAME_BYTES = 80, 140, 40
MESSAGE_BYTES = 17_000  # of the sections of one message; its envelope and its buffer come to these
TABLE_BYTES = 9_000
CURVE_BYTES = 12_000  # of all curves together
BUCKET_BYTES = 16
EVALUATION_SHARE = 0.2  # of the buckets
READ_BYTES = 2 << 20  # of the logs, before one answer


class RunsFeed:
    """Follows the runs of an overview and makes the messages about them.

    Attributes:
        ticked: ids of the runs that are compared, in the order of their numbers.
        curve: what is drawn by step: "loss", or a metric of the evaluation.
        quality: the metric of the column and of the scatter.
        cost: a key of `COSTS`.
        sought: what the page filters by: older runs that fit come before newer ones that do not.
        facts: what is known of all runs, newest first.
    """

    def __init__(self, overview: Overview, search: str = "", sort: str = "") -> None:
        self._overview = overview
        self.search, self.sort = search, sort
        self.ticked: list[str] = []
        self.curve, self.quality, self.cost = "loss", "", "time"
        self.sought = search
        self.facts: list[Facts] = []
        self._sequence = 0
        self._told: dict[Any, Any] = {}  # section, or row by id -> what the front end shows
        self._points: dict[tuple[str, str], Any] = {}
        self._rows: dict[str, tuple[Facts, dict[str, Any]]] = {}  # id -> what its row was made from, and the row
        self.look(0)
        name = sort.removeprefix("-")
        if name in self.qualities and name not in COLUMNS:
            self.quality = name

    # ------------------------------------------------------------------ what is known and chosen

    def look(self, most: int = READ_BYTES) -> None:
        """Look at the folder of runs again, and read what is new of their logs."""
        self.facts = self._overview.refresh(most)
        there = {facts.id for facts in self.facts}
        self.ticked = [run_id for run_id in self.ticked if run_id in there]
        self.qualities = measures(self.facts)[:MOST_CHOICES]
        if self.quality not in self.qualities:
            self.quality = next(iter(self.qualities), "")
        curves = {name for known in self.known for _, name in known.digest.curves}
        self.curves = ["loss", *sorted(curves - {"loss"})][:MOST_CHOICES]
        if self.curve not in self.curves:
            self.curve = "loss"

    @property
    def known(self) -> list[Known]:
        """The ticked runs."""
        found = (self._overview.get(run_id) for run_id in self.ticked)
        return [known for known in found if known is not None]

    @property
    def ticked_facts(self) -> list[Facts]:
        """What is known of the ticked runs."""
        by_id = {facts.id: facts for facts in self.facts}
        return [by_id[run_id] for run_id in self.ticked if run_id in by_id]

    def tick(self, run_id: str, on: bool) -> bool:
        """Take a run into the comparison or out of it; False where there is no such run, or no more room."""
        if run_id in self.ticked:
            if not on:
                self.ticked.remove(run_id)
            return True
        if on and (len(self.ticked) >= MOST_RUNS or self._overview.get(run_id) is None):
            return False
        if on:
            self.ticked.append(run_id)
        return True

    def differences(self) -> list[Difference]:
        """What differs between the ticked runs; nothing for one."""
        known = self.known
        return differences(known, self.ticked_facts) if len(known) > 1 else []

    # ------------------------------------------------------------------ messages

    def messages(self, *, full: bool = False) -> list[tuple[dict[str, Any], bytes]]:
        """What is new since the last messages, each with its buffer; none where nothing is.

        Args:
            full: tell everything, to a front end that has nothing or has missed a message.
        """
        if full:
            self._told, self._points = {}, {}
        sections = [(key, value) for key, value in self._sections() if self._told.get(key) != value]
        self._told.update(sections)
        packed = list(_packed(sections)) or ([{}] if full else [])
        counts, buffer = self._new_curves()
        buffers = [b""] * len(packed)
        if counts or (full and self.ticked):
            packed.append({"curves": counts})
            buffers.append(buffer)
        found = []
        for place, (content, data) in enumerate(zip(packed, buffers, strict=True)):
            self._sequence += 1
            found.append(({"seq": self._sequence, "full": full and not place, **content}, data))
        return found

    def _sections(self) -> Iterable[tuple[Any, Any]]:
        fitting = {facts.id for facts in self.facts if fits(facts, self.sought)}
        wanted = sorted(self.facts, key=lambda facts: facts.id not in fitting)[:MOST_ROWS]  # a stable order
        ids = {facts.id for facts in wanted}
        shown = [facts for facts in self.facts if facts.id in ids]
        yield "ui", self._ui()
        yield "ids", [facts.id for facts in shown]
        yield "more", len(self.facts) - len(shown)
        places = [place for place, facts in enumerate(shown) if facts.id in fitting]
        yield "found", {"search": self.sought, "places": places, "all": len(fitting)}
        for facts in shown:
            before = self._rows.get(facts.id)
            if before is None or before[0] != facts:
                before = self._rows[facts.id] = (facts, _row(facts))
            yield ("row", facts.id), before[1]
        yield "table", _table(self.differences())

    def _ui(self) -> dict[str, Any]:
        return {
            "ticked": list(self.ticked),
            "curve": self.curve,
            "curves": [clip(name, NAME_BYTES) for name in self.curves],
            "quality": clip(self.quality, NAME_BYTES),
            "qualities": [[clip(name, NAME_BYTES), smaller_is_better(name)] for name in self.qualities],
            "cost": self.cost,
            "costs": [[name, label] for name, (_, label, _) in COSTS.items()],
            "search": clip(self.search, CELL_BYTES),
            "sort": self.sort if self.sort.removeprefix("-") in CELLS else _turned(self.sort),
            "most": MOST_RUNS,
        }

    def _new_curves(self) -> tuple[list[list[Any]], bytes]:
        """The ticked runs' series that have changed, whole: all of them together fit into one message."""
        known = self.known
        splits = ("train", "evaluation") if self.curve == "loss" else ("evaluation",)
        room = CURVE_BYTES // BUCKET_BYTES // max(1, len(known))
        most = {"train": round(room * (1 - EVALUATION_SHARE)), "evaluation": round(room * EVALUATION_SHARE)}
        if len(splits) == 1:
            most["evaluation"] = room
        counts, buffer, points = [], b"", dict[tuple[str, str], Any]()
        for one in known:
            for split in splits:
                curve = one.digest.curves.get((split, self.curve))
                stamp = (self.curve, most[split], 0 if curve is None else len(curve), curve and curve.width)
                points[one.run.id, split] = stamp
                if self._points.get((one.run.id, split)) != stamp:
                    buckets = curve.buckets(most[split]) if curve is not None else []
                    counts.append([one.run.id, split, len(buckets)])
                    buffer += pack(buckets)
        self._points = points
        return counts, buffer


def _turned(sort: str) -> str:
    """Sorted by a metric, which the column of results then shows."""
    return ("-" if sort.startswith("-") else "") + "result" if sort else ""


def _row(facts: Facts) -> dict[str, Any]:
    keys = [COLUMNS[name].key(facts) for name in KEYS]
    metrics = {clip(name, NAME_BYTES): _finite(value) for name, value in facts.metrics.items() if is_quality(name)}
    return {
        "id": facts.id,
        "cells": ["" if name == "result" else clip(COLUMNS[name].text(facts), _most(name)) for name in CELLS],
        "keys": [round(key, 1) if isinstance(key, float) else key for key in keys],
        "metrics": dict(list(metrics.items())[:MOST_METRICS]),
        "live": facts.live,
    }


def _most(column: str) -> int:
    return NOTE_BYTES if column in {"note", "tags"} else CELL_BYTES


def _finite(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _table(lines: Sequence[Difference]) -> dict[str, Any]:
    found, size = [], 0
    for line in lines:
        record = [line.group, clip(line.label, CELL_BYTES), [clip(c, CELL_BYTES) for c in line.cells], list(line.best)]
        size += _weight(record)
        if size > TABLE_BYTES:
            break
        found.append(record)
    return {"lines": found, "more": len(lines) - len(found)}


def _packed(sections: Iterable[tuple[Any, Any]]) -> Iterable[dict[str, Any]]:
    """The sections in as few messages as hold them, in their order."""
    content: dict[str, Any] = {}
    size = 0
    for key, value in sections:
        weight = _weight(value) + 12
        if content and size + weight > MESSAGE_BYTES:
            yield content
            content, size = {}, 0
        size += weight
        if isinstance(key, tuple):
            content.setdefault("rows", []).append(value)
        else:
            content[key] = value
    if content:
        yield content


def _weight(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
