"""Small charts of what a run measures beside the loss: the same ones in the dashboard and in the static result."""

from __future__ import annotations

from bisect import bisect_left
from itertools import islice
from typing import TYPE_CHECKING

from nbadapt.widgets.summary import number
from nbadapt.widgets.texts import clip
from nbadapt.widgets.thin import Bucket, thin

if TYPE_CHECKING:
    from nbadapt.events import Panel
    from nbadapt.history import History

MOST = 8
LABEL_BYTES = 60


def panels(history: History) -> list[Panel]:
    """The panels that are shown, in the order in which they were told."""
    return list(islice(history.panels.values(), MOST))


def headings(history: History) -> list[list[str]]:
    """[key, what the chart is called, the latest value] of each panel."""
    return [[f"panel {i}", clip(p.label, LABEL_BYTES), _latest(history, p)] for i, p in enumerate(panels(history))]


def points(history: History, panel: Panel) -> list[tuple[int, float]]:
    """(step, value) of a panel's metric, in order."""
    return history.series.get(("train", panel.metric), [])


def buckets(history: History, panel: Panel, most: int, first: int = 0, last: int | None = None) -> list[Bucket]:
    """A panel's points from number `first` to `last` (not included) in at most `most` buckets as high as the spread."""
    found = points(history, panel)[first:last]
    spread = history.series.get(("train", panel.spread), [])
    if not found or not spread:
        return thin(found, most)
    [start, _], [end, _] = found[0], found[-1]
    around = dict(spread[bisect_left(spread, (start,)) : bisect_left(spread, (end + 1,))])
    low = thin([(step, value - around.get(step, 0.0)) for step, value in found], most)
    high = thin([(step, value + around.get(step, 0.0)) for step, value in found], most)
    return [Bucket(b.step, a.low, b.mean, c.high) for a, b, c in zip(low, thin(found, most), high, strict=True)]


def figures(history: History) -> list[tuple[str, str]]:
    """(label, latest value with its spread) of each panel whose metric no evaluation tells."""
    apart = [("evaluation", panel.metric) not in history.series for panel in panels(history)]
    told = zip(headings(history), apart, strict=True)
    return [(label, text) for (_, label, text), alone in told if text and alone]


def _latest(history: History, panel: Panel) -> str:
    value, spread = history.latest(panel.metric), history.latest(panel.spread)
    if value is None:
        return ""
    return number(value) + (f" ± {number(spread)}" if spread is not None else "")
