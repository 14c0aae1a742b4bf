"""Small charts of what a run measures beside the loss: the same ones in the dashboard and in the static result."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from nbadapt.widgets.summary import number
from nbadapt.widgets.texts import clip
from nbadapt.widgets.thin import Bucket

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


def buckets(history: History, panel: Panel) -> list[Bucket]:
    """Each point of a panel's metric as a bucket, which is as high as its spread is wide."""
    around = dict(history.series.get(("train", panel.spread), []))
    points = history.series.get(("train", panel.metric), [])
    return [Bucket(s, value - around.get(s, 0.0), value, value + around.get(s, 0.0)) for s, value in points]


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
