"""The static figure: what it shows, its inks, its size; that it needs no pyplot."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from itertools import pairwise

import pytest
from matplotlib.figure import Figure
from PIL import Image
from watching import started, train

from nbadapt.events import Metric
from nbadapt.history import History
from nbadapt.widgets import figure


def luminance(colour: tuple[int, ...]) -> float:
    """Relative luminance of WCAG 2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(figure._rgb(c)) for c in (one, other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.fixture(scope="module")
def history() -> History:
    run = started()
    train(run, 1, 375, 375)
    return run.log


def test_loss_and_metric_have_labelled_axes(history: History) -> None:
    drawing = figure.figure(history)
    assert isinstance(drawing, Figure)
    losses, metrics = drawing.axes
    assert (losses.get_xlabel(), losses.get_ylabel()) == ("step", "loss (nats)")
    assert (metrics.get_xlabel(), metrics.get_ylabel()) == ("step", "accuracy (evaluation)")
    assert [t.get_text() for t in losses.get_legend().get_texts()] == ["training", "training, smoothed", "evaluation"]
    raw, smoothed, evaluation = losses.lines
    assert raw.get_alpha() < 0.5
    assert list(evaluation.get_xdata()) == list(range(25, 376, 25))
    assert evaluation.get_marker() == "o"
    values = dict(history.series["evaluation", "loss"])
    assert list(evaluation.get_ydata()) == pytest.approx(list(values.values()))
    roughness = [sum(abs(b - a) for a, b in pairwise(y)) for y in (raw.get_ydata(), smoothed.get_ydata())]
    assert roughness[1] < roughness[0] / 5


def test_one_panel_without_a_repeated_metric() -> None:
    run = started()
    train(run, 1, 30, 30)
    assert len(figure.figure(run.log).axes) == 1


def test_png_is_small_and_reads_on_any_page(history: History) -> None:
    data = figure.png(history)
    assert len(data) <= 40_000
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    assert image.size == (858, 319)
    assert image.getpixel((1, 1)) == (*figure._rgb(figure.PAPER), 255), "it brings its own background"
    colours = {colour[:3] for _, colour in image.getcolors(10_000)}
    for ink in (figure.TRAIN, figure.EVALUATION):
        assert figure._rgb(ink) in colours
        assert contrast(ink, figure.PAPER) >= 4.5
    assert contrast(figure.INK, figure.PAPER) >= 7


def test_long_runs_and_wild_losses_stay_small() -> None:
    run = started()
    run.tell(*(Metric(s, "train", {"loss": 2 + math.sin(s * s)}) for s in range(1, 100_001)), gap=0.01)
    run.tell(*(Metric(s, "evaluation", {"loss": 2.0, "accuracy": (s % 7) / 7}) for s in range(0, 100_001, 50)))
    assert len(figure.png(run.log)) <= 40_000


def test_one_outlier_does_not_flatten_the_curve() -> None:
    run = started()
    train(run, 1, 375, 375)
    run.tell(Metric(375, "train", {"loss": math.nan}), Metric(375, "train", {"loss": math.inf}))
    tame = figure.figure(run.log).axes[0].get_ylim()
    history = run.log
    step, _ = history.series["train", "loss"][200]
    history.series["train", "loss"][200] = (step, 10.0)
    wild = figure.figure(history).axes[0].get_ylim()
    assert wild[1] < 2 * tame[1]


def test_nothing_recorded() -> None:
    history = History()
    assert not figure.has_curve(history)
    assert "no loss was recorded" in [t.get_text() for t in figure.figure(history).axes[0].texts]
    only_nan = History([(0.0, Metric(1, "train", {"loss": math.nan})), (1.0, Metric(2, "train", {"loss": math.nan}))])
    assert figure.png(only_nan).startswith(b"\x89PNG")


def test_pyplot_stays_unloaded() -> None:
    code = (
        "import sys\n"
        "from nbadapt.widgets import figure\n"
        "from nbadapt.history import History\n"
        "figure.png(History())\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
