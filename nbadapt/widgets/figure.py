"""The static figure of a run: loss, beside it a metric of the evaluation, and how far probabilities were right.

It brings its own pale background, because no ink is readable on a white and on a dark page at once. Made of
Figure objects alone: pyplot is neither needed nor safe in threads.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

from nbadapt.widgets import panels
from nbadapt.widgets.controls import mark, marked
from nbadapt.widgets.summary import metric_label, metric_names
from nbadapt.widgets.texts import clip
from nbadapt.widgets.thin import Bucket, smooth, thin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nbadapt.events import Panel, Reliability
    from nbadapt.history import History

TRAIN, EVALUATION = "#0072b2", "#c04f00"  # blue and vermilion of Okabe and Ito, the latter darker
PAPER, INK, GRID = "#f8f8f8", "#2b2b2b", "#dcdcdc"
TRAIN_BUCKETS, EVALUATION_BUCKETS = 300, 50  # more would hardly be seen, and cost bytes
MOST_MARKS = 5  # of what was changed on the way
SMOOTHING = 0.04  # of the run's steps, as the dashboard's slider begins
DPI = 110
SHADES = 8  # of every ink in the PNG: a third of the bytes of full colour, and it looks the same


PANEL_ROW = 1.45  # inches of a row of small charts
PANELS_A_ROW = 3
PANEL_BUCKETS = 100
LABEL_BYTES = 40


def has_curve(history: History) -> bool:
    """Whether there is a loss curve to draw: two points at least."""
    return any(len(points) > 1 for (_, name), points in history.series.items() if name == "loss")


def figure(history: History) -> Figure:
    """Loss of training (raw and smoothed) and of evaluation by step.

    Beside it a metric evaluated twice or more, and what was observed by what was predicted, where there are such; below
    them the small charts of the run's panels, as far as they have points.
    """
    from matplotlib.figure import Figure

    metric = next((m for m in metric_names(history) if len(history.series["evaluation", m]) > 1), None)
    beside = [metric is not None, history.reliability is not None].count(True)
    small = [panel for panel in panels.panels(history) if len(panels.points(history, panel)) > 1]
    height = PANEL_ROW * -(-len(small) // PANELS_A_ROW)
    drawing = Figure(figsize=(7.8, 2.9 + height), dpi=DPI, facecolor=PAPER, layout="constrained")
    above: Any = drawing
    if small:
        parts: Any = drawing.subfigures(2, 1, height_ratios=(2.9, height))
        above, below = parts
        above.set_facecolor(PAPER)
        below.set_facecolor(PAPER)
    losses, *others = above.subplots(1, 1 + beside, width_ratios=(1.7, 1, 1)[: 1 + beside], squeeze=False)[0]
    _draw_loss(losses, history)
    if metric is not None:
        _draw_metric(others.pop(0), metric, thin(history.series["evaluation", metric], EVALUATION_BUCKETS))
    if history.reliability is not None:
        _draw_reliability(others.pop(0), history.reliability)
    if small:
        _draw_panels(below, history, small)
    return drawing


def png(history: History) -> bytes:
    """The figure as a PNG of about 860 x 320 pixels in few colours."""
    from PIL import Image

    raw, small = io.BytesIO(), io.BytesIO()
    figure(history).savefig(raw, format="png", dpi=DPI)
    colours = Image.new("P", (1, 1))
    colours.putpalette(_palette())
    image = Image.open(raw).convert("RGB").quantize(palette=colours, dither=Image.Dither.NONE)
    image.save(small, format="png", optimize=True)
    return small.getvalue()


def _palette() -> list[int]:
    """Red, green, blue of every ink, from paper to full strength."""
    paper = _rgb(PAPER)
    return [
        round(a + (b - a) * shade / (SHADES - 1))
        for ink in (TRAIN, EVALUATION, INK, GRID)
        for shade in range(SHADES)
        for a, b in zip(paper, _rgb(ink), strict=True)
    ]


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _draw_loss(axes: Axes, history: History) -> None:
    train = thin(history.series.get(("train", "loss"), []), TRAIN_BUCKETS)
    evaluation = thin(history.series.get(("evaluation", "loss"), []), EVALUATION_BUCKETS)
    line: list[float] = []
    if train:
        line = smooth(train, SMOOTHING * max(train[-1].step, history.progress.total if history.progress else 0))
        steps = [b.step for b in train]
        axes.plot(
            [s for s in steps for _ in range(2)],
            [value for b in train for value in (b.low, b.high)],
            color=TRAIN, alpha=0.35, linewidth=0.8, label="training",
        )  # fmt: skip
        axes.plot(steps, line, color=TRAIN, linewidth=1.8, label="training, smoothed")
    if evaluation:
        _draw_points(axes, evaluation, "evaluation")
    bounds = _bounds(line, train, evaluation)
    if bounds is not None:
        _draw_changes(axes, history)
        axes.set_ylim(*bounds)
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2, columnspacing=1.2,
            frameon=False, fontsize=9, labelcolor=INK,
        )  # fmt: skip
    else:
        axes.text(0.5, 0.5, "no loss was recorded", color=INK, ha="center", transform=axes.transAxes)
    _label(axes, "loss" if history.panels else "loss (nats)")  # what has panels learns from more than likelihoods


def _draw_changes(axes: Axes, history: History) -> None:
    """A dotted line at each step where something was changed on the way, with what it was."""
    shown = marked(history)[-MOST_MARKS:]
    for row, change in enumerate(shown):
        axes.axvline(change.step, color=INK, linewidth=0.9, linestyle=":")
        axes.annotate(
            mark(change), (change.step, 1), xycoords=("data", "axes fraction"), xytext=(3, -9 - 9 * (row % 4)),
            textcoords="offset points", fontsize=7.5, color=INK, annotation_clip=True, parse_math=False,
        )  # fmt: skip


def _draw_metric(axes: Axes, name: str, buckets: list[Bucket]) -> None:
    _draw_points(axes, buckets, name)
    _label(axes, f"{metric_label(name).lower()} (evaluation)")


def _draw_panels(place: Any, history: History, shown: Sequence[Panel]) -> None:
    """Small charts in rows: a band as wide as the spread, and the mean."""
    grid = place.subplots(-(-len(shown) // PANELS_A_ROW), PANELS_A_ROW, squeeze=False).flatten()
    for axes, panel in zip(grid, shown, strict=False):
        found = panels.buckets(history, panel, PANEL_BUCKETS)
        steps = [b.step for b in found]
        axes.fill_between(steps, [b.low for b in found], [b.high for b in found], color=TRAIN, alpha=0.3, linewidth=0)
        axes.plot(steps, [b.mean for b in found], color=TRAIN, linewidth=1.4)
        _label(axes, "")
        axes.set_xlabel("")
        axes.tick_params(labelsize=7)
        axes.ticklabel_format(useOffset=False)  # it would stand in the title
        axes.set_title(clip(panel.label, LABEL_BYTES), fontsize=8, color=INK, loc="left", parse_math=False)
    for axes in grid[len(shown) :]:
        axes.set_visible(False)


def _draw_reliability(axes: Axes, found: Reliability) -> None:
    """What was observed by what was predicted: points as large as their share of the rows, a line where both agree."""
    from matplotlib.ticker import MaxNLocator

    total = sum(found.rows) or 1
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    sizes = [12 + 160 * rows / total for rows in found.rows]
    axes.scatter(found.predicted, found.observed, s=sizes, color=EVALUATION, linewidths=0)
    axes.set_xlim(min((0.5, *found.predicted)) - 0.02, 1.02)
    axes.set_ylim(-0.03, 1.03)
    _label(axes, "share that was right (evaluation)", "predicted probability")
    axes.xaxis.set_major_locator(MaxNLocator(4))


def _draw_points(axes: Axes, buckets: list[Bucket], label: str) -> None:
    axes.plot(
        [b.step for b in buckets],
        [b.mean for b in buckets],
        color=EVALUATION, linewidth=1.6, linestyle="--", marker="o", markersize=4.5, label=label,
        markevery=max(1, len(buckets) // 30),
    )  # fmt: skip


def _label(axes: Axes, what: str, below: str = "step") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_facecolor(PAPER)
    axes.set_xlabel(below, color=INK, fontsize=9)
    axes.set_ylabel(what, color=INK, fontsize=9)
    axes.tick_params(colors=INK, labelsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in {"left", "bottom"})
        spine.set_color("#8a8a8a")


def _bounds(line: list[float], train: list[Bucket], evaluation: list[Bucket]) -> tuple[float, float] | None:
    """What is worth seeing: the smoothed line, the evaluation, and 98 % of the raw points; as chart.js does."""
    seen = [*line, *(b.low for b in evaluation), *(b.high for b in evaluation)]
    for values, share in (([b.low for b in train], 0.01), ([b.high for b in train], 0.99)):
        finite = sorted(v for v in values if math.isfinite(v))
        if finite:
            seen.append(finite[round(share * (len(finite) - 1))])
    seen = [v for v in seen if math.isfinite(v)]
    if not seen:
        return None
    low, high = min(seen), max(seen)
    room = (high - low) * 0.05 or abs(high) * 0.05 or 0.5
    return (max(0.0, low - room) if low >= 0 else low - room), high + room
