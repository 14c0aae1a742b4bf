"""The figure of a comparison: quality against cost with the Pareto front, and scores over the training rows.

Candidates go by numbers, which the table explains: their names are long, and may hold what no font draws.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nbadapt.errors import RequestError, did_you_mean
from nbadapt.selection.comparison import validation
from nbadapt.selection.verdict import front
from nbadapt.widgets.figure import DPI, GRID, INK, PAPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nbadapt.selection.contest import Contest
    from nbadapt.selection.verdict import Place, Verdict

FRONT, OTHER, MUTED = "#0072b2", "#5a5a5a", "#b9b9b9"
INKS = 96  # colours of the PNG
COSTS = {
    "time": ("", "time to make it and for 1,000 answers (s)", 1.0),
    "inference": ("inference", "time for 1,000 answers (s)", 1.0),
    "memory": ("memory", "peak memory (GiB)", 2.0**30),
    "trainable": ("trainable", "trained parameters", 1.0),
}
GAP = 0.05  # of the axis, between two numbers beside curves
WIDE = 30.0  # from this ratio of the largest cost to the smallest one on, the axis is logarithmic


def figure(contest: Contest, found: Verdict, cost: str = "time") -> Figure:
    """Test figures with their intervals by cost; beside them the validation figures by training rows.

    Raises:
        RequestError: there is no such cost.
    """
    from matplotlib.figure import Figure

    if cost not in COSTS:
        raise RequestError(f"there is no cost {cost!r}: {did_you_mean(cost, COSTS, kind='costs')}")
    drawing = Figure(figsize=(7.8, 3.3), dpi=DPI, facecolor=PAPER, layout="constrained")
    scatter, curves = drawing.subplots(1, 2, width_ratios=(1.35, 1))
    _draw_places(scatter, found, cost)
    _draw_curves(curves, contest, found)
    return drawing


def png(contest: Contest, found: Verdict) -> bytes:
    """The figure as a PNG of about 860 x 360 pixels in few colours."""
    from PIL import Image

    raw, small = io.BytesIO(), io.BytesIO()
    figure(contest, found).savefig(raw, format="png", dpi=DPI)
    image = Image.open(raw).convert("RGB").quantize(colors=INKS, dither=Image.Dither.NONE)
    image.save(small, format="png", optimize=True)
    return small.getvalue()


def numbers(found: Verdict) -> dict[str, int]:
    """The number of each candidate that has a figure on the test rows, from 1, best first."""
    return {place.label: i for i, place in enumerate(found.places, 1)}


def _cost(place: Place, cost: str) -> float | None:
    if cost == "time":
        return place.cost
    last = place.entry.last
    return None if last is None else last.costs.get(COSTS[cost][0])


def _draw_places(axes: Axes, found: Verdict, cost: str) -> None:
    _, label, unit = COSTS[cost]
    places = front([replace(place, cost=_cost(place, cost)) for place in found.places], found.measure)
    points = [(place, place.cost / unit) for place in places if place.cost is not None]
    if not points:
        axes.text(0.5, 0.5, "nothing to draw yet", color=INK, ha="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
    costs = [x for _, x in points]
    if points and min(costs) > 0 and max(costs) / min(costs) > WIDE:
        axes.set_xscale("log")
    named = numbers(found)
    for place, x in points:
        ink = FRONT if place.front else OTHER
        spread = [[place.value - place.low], [place.high - place.value]]
        axes.errorbar([x], [place.value], yerr=[[max(0.0, v) for v in side] for side in spread], color=ink, linewidth=1)
        best = found.best is not None and place.label == found.best.label
        shape = "D" if best else "s" if place.entry.candidate.baseline else "o"
        axes.plot([x], [place.value], marker=shape, markersize=8 if best else 6, color=ink, linestyle="")
        axes.annotate(
            str(named[place.label]), (x, place.value), xytext=(6, 4), textcoords="offset points", fontsize=9,
            color=ink, fontweight="bold", annotation_clip=False, path_effects=_halo(),
        )  # fmt: skip
    edge = sorted((x, place.value) for place, x in points if place.front)
    if len(edge) > 1:
        axes.plot([x for x, _ in edge], [y for _, y in edge], color=FRONT, linewidth=1.2, alpha=0.6, zorder=0)
    axes.margins(0.16)
    better = "larger" if found.measure.larger else "smaller"
    _frame(axes, label, f"{found.measure.label} on test rows ({better} is better)")
    if edge:
        axes.set_title("blue: Pareto front; diamond: advised; squares: baselines", color=INK, fontsize=8, loc="left")


def _draw_curves(axes: Axes, contest: Contest, found: Verdict) -> None:
    """Scores of finished models on growing shares of the rows, with intervals; those that were dropped are pale."""
    named = numbers(found)
    drawn = False
    ends: list[tuple[float, float, str, str]] = []  # x, y, number and ink of the curves that have a number
    for entry in contest.entries:
        seed = entry.trials[0].seed if entry.trials else None
        trials = sorted((t for t in entry.trials if t.said and t.seed == seed), key=lambda trial: trial.rows)
        points = [(trial.rows, *validation(contest, trial)) for trial in trials]
        if not points:
            continue
        drawn = True
        there = entry.label in named
        ink = FRONT if found.best is not None and entry.label == found.best.label else OTHER if there else MUTED
        xs, ys, low, high = map(list, zip(*points, strict=True))
        if there:
            axes.vlines(xs, low, high, color=ink, linewidth=0.9, alpha=0.55)
        axes.plot(xs, ys, color=ink, linewidth=1.4 if there else 0.9, marker="o", markersize=3.5 if there else 2.5)
        if there:
            ends.append((xs[-1], ys[-1], str(named[entry.label]), ink))
    if drawn:
        axes.set_xscale("log")
        _plain_ticks(axes, contest)
    axes.margins(x=0.12, y=0.08)
    _number_ends(axes, ends)
    _frame(axes, "training rows", f"{contest.measure.label} on validation rows")


def _number_ends(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Numbers beside the last points of curves, none upon another one."""
    low, high = axes.get_ylim()
    ends = sorted(ends, key=lambda end: (end[1], -int(end[2])))
    for (x, _, number, ink), y in zip(ends, spread([end[1] for end in ends], GAP * (high - low)), strict=True):
        axes.annotate(
            number, (x, y), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8, color=ink,
            annotation_clip=False, path_effects=_halo(),
        )  # fmt: skip


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Places in ascending order, moved as far apart as `gap`, each crowd around where it was."""
    up, down = list(places), list(places)
    for i in range(1, len(places)):
        up[i] = max(up[i], up[i - 1] + gap)
        down[-1 - i] = min(down[-1 - i], down[-i] - gap)
    return [(above + below) / 2 for above, below in zip(up, down, strict=True)]


def _halo() -> list[Any]:
    """A rim of paper, so that a number is read where a line passes below it."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.5, foreground=PAPER)]


def _plain_ticks(axes: Axes, contest: Contest) -> None:
    """The sizes of the rungs themselves, as whole numbers; of sizes that are near each other the larger one."""
    from matplotlib.ticker import FixedLocator, NullLocator

    sizes = sorted({trial.rows for entry in contest.entries for trial in entry.trials}, reverse=True)
    shown: list[int] = []
    for size in sizes:
        if not shown or math.log(shown[-1] / size) > 0.5:
            shown.append(size)
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(shown, [f"{size:,}" for size in shown])


def _frame(axes: Axes, below: str, beside: str) -> None:
    axes.set_facecolor(PAPER)
    for write, text in ((axes.set_xlabel, below), (axes.set_ylabel, beside)):
        written: Any = write(text, color=INK, fontsize=9)
        written.set_parse_math(False)
    axes.tick_params(colors=INK, labelsize=8.5)
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in {"left", "bottom"})
        spine.set_color("#8a8a8a")
