"""Several runs in one static figure: their curves over each other, and what each was worth against what it cost.

Runs go by numbers in it, which the table beside it explains: names and notes are user text, and stay out of a picture.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nbadapt.comparing.facts import Facts, Known, measures, smaller_is_better
from nbadapt.errors import RequestError, did_you_mean
from nbadapt.widgets.figure import DPI, GRID, INK, PAPER, SMOOTHING
from nbadapt.widgets.summary import metric_label
from nbadapt.widgets.thin import smooth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of Okabe and Ito, darker where they would be pale on paper; runs.js has the same, and lighter ones for dark pages.
COLOURS = ("#0072b2", "#c04f00", "#00795c", "#9c4f80", "#7d6200", "#444444")
BUCKETS, EVALUATION_BUCKETS = 200, 40  # of one run
WIDE = 30.0  # from this ratio of the largest cost to the smallest one on, the axis is logarithmic
COSTS = {
    "time": ("seconds", "time (s)", 1.0),
    "parameters": ("parameters", "trained parameters", 1.0),
    "memory": ("memory", "peak memory (GiB)", 2.0**30),
}
LABELLED = 24  # characters of a metric's name on an axis
INKS = 48  # colours of the PNG
NUMBER_HEIGHT = 0.055  # of the axis


def figure(known: Sequence[Known], facts: Sequence[Facts], curve: str, quality: str | None, cost: str) -> Figure:
    """The curves, and quality against cost where at least two runs have both.

    Args:
        known: the runs, with their logs read.
        facts: of the same runs.
        curve: "loss", or a metric of the evaluation.
        quality: a metric; None for the one that most of the runs have.
        cost: a key of `COSTS`.

    Raises:
        RequestError: there is no such cost.
    """
    from matplotlib.figure import Figure

    if cost not in COSTS:
        raise RequestError(f"there is no cost {cost!r}: {did_you_mean(cost, COSTS, kind='costs')}")
    if quality is None:
        quality = next(iter(measures(facts)), "")
    points = scatter_points(facts, quality, cost)
    drawing = Figure(figsize=(7.8, 3.0), dpi=DPI, facecolor=PAPER, layout="constrained")
    if len(points) > 1:
        curves, scatter = drawing.subplots(1, 2, width_ratios=(1.5, 1))
        _draw_scatter(scatter, points, quality, cost)
    else:
        curves = drawing.subplots()
    _draw_curves(curves, known, curve)
    return drawing


def png(known: Sequence[Known], facts: Sequence[Facts], curve: str, quality: str | None, cost: str) -> bytes:
    """The figure as a PNG of about 860 x 330 pixels in few colours."""
    from PIL import Image

    raw, small = io.BytesIO(), io.BytesIO()
    figure(known, facts, curve, quality, cost).savefig(raw, format="png", dpi=DPI)
    image = Image.open(raw).convert("RGB").quantize(colors=INKS, dither=Image.Dither.NONE)
    image.save(small, format="png", optimize=True)
    return small.getvalue()


def scatter_points(facts: Sequence[Facts], quality: str, cost: str) -> list[tuple[int, float, float]]:
    """(place among the runs, cost, quality) of the runs that have both."""
    attribute = COSTS[cost][0]
    pairs = [(getattr(one, attribute), one.metrics.get(quality)) for one in facts]
    return [(i, float(x), y) for i, (x, y) in enumerate(pairs) if x is not None and y is not None and math.isfinite(y)]


def has_curves(known: Sequence[Known]) -> bool:
    """Whether there is any curve of two points or more."""
    return any(len(curve.buckets(2)) > 1 for one in known for curve in one.digest.curves.values())


def colour(place: int) -> str:
    """The colour of a run by its place among those that are compared."""
    return COLOURS[place % len(COLOURS)]


def _draw_curves(axes: Axes, known: Sequence[Known], name: str) -> None:
    seen: list[float] = []
    marks: list[tuple[int, float, float]] = []
    for place, one in enumerate(known):
        curves = one.digest.curves
        ends = []
        if name == "loss" and ("train", name) in curves:
            buckets = curves["train", name].buckets(BUCKETS)
            line = smooth(buckets, SMOOTHING * buckets[-1].step)
            steps = [b.step for b in buckets]
            axes.plot(steps, line, color=colour(place), linewidth=1.7, linestyle="-")
            seen += line
            ends.append((steps[-1], line[-1]))
        if ("evaluation", name) in curves:
            buckets = curves["evaluation", name].buckets(EVALUATION_BUCKETS)
            steps, means = [b.step for b in buckets], [b.mean for b in buckets]
            axes.plot(steps, means, color=colour(place), linewidth=1.3, linestyle="--", marker="o", markersize=3.5)
            seen += means
            ends.append((steps[-1], means[-1]))
        if ends and math.isfinite(ends[-1][1]):
            marks.append((place, *ends[-1]))
    finite = [value for value in seen if math.isfinite(value)]
    if finite:
        room = (max(finite) - min(finite)) * 0.06 or abs(max(finite)) * 0.05 or 0.5
        axes.set_ylim(min(finite) - room, max(finite) + room)
        axes.margins(x=0.08)
        for place, x, y in spread(marks, NUMBER_HEIGHT * (axes.get_ylim()[1] - axes.get_ylim()[0])):
            _number(axes, place, x, y)
    else:
        axes.text(0.5, 0.5, f"no {_plain(name)} was recorded", color=INK, ha="center", transform=axes.transAxes)
    if name == "loss":
        axes.set_title("lines: training, smoothed; dashes: evaluation", color=INK, fontsize=8.5, loc="left")
    _frame(axes, "step", "loss (nats)" if name == "loss" else _plain(name))


def spread(marks: Sequence[tuple[int, float, float]], gap: float) -> list[tuple[int, float, float]]:
    """(place, x, y) of numbers beside points, moved down so far that none covers another."""
    moved: list[tuple[int, float, float]] = []
    for place, x, y in sorted(marks, key=lambda mark: -mark[2]):
        above = moved[-1][2] - gap if moved else math.inf
        moved.append((place, x, min(y, above)))
    return moved


def _draw_scatter(axes: Axes, points: Sequence[tuple[int, float, float]], quality: str, cost: str) -> None:
    _, label, unit = COSTS[cost]
    costs = [x for _, x, _ in points]
    if min(costs) > 0 and max(costs) / min(costs) > WIDE:
        axes.set_xscale("log")
    for place, x, y in points:
        axes.plot([x / unit], [y], color=colour(place), marker="o", markersize=6, linestyle="")
        _number(axes, place, x / unit, y)
    axes.margins(0.18)
    better = "smaller" if smaller_is_better(quality) else "larger"
    _frame(axes, label, f"{_plain(quality)} ({better} is better)")


def _number(axes: Axes, place: int, x: float, y: float) -> None:
    axes.annotate(
        str(place + 1), (x, y), xytext=(5, 3), textcoords="offset points", fontsize=9, color=colour(place),
        fontweight="bold", annotation_clip=False,
    )  # fmt: skip


def _plain(name: str) -> str:
    """A metric's name for an axis: it may come from a user's function, and the font has no glyph for every letter."""
    return metric_label(name).lower().encode("ascii", "replace").decode()[:LABELLED]


def _frame(axes: Axes, below: str, beside: str) -> None:
    axes.set_facecolor(PAPER)
    for label, text in ((axes.set_xlabel, below), (axes.set_ylabel, beside)):
        written: Any = label(text, color=INK, fontsize=9)
        written.set_parse_math(False)  # a dollar in a name is a dollar
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in {"left", "bottom"})
        spine.set_color("#8a8a8a")
