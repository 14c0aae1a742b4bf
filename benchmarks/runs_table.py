"""How long the table of runs takes to draw a history of 200,000 steps, and how much is sent for it.

usage: python benchmarks/runs_table.py [--steps 200000] [--rounds 9]

A real widget, the messages that it would send, and its page in a headless Chromium on the same machine. What is drawn
are the curves of one run of so many steps and of three short ones, in a table of 50 runs. A log is read once, in
pieces between which the page is answered; what came of it is kept beside it. Writes benchmarks/results/runs_table.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from playwright.sync_api import sync_playwright
from report import environment, save, table

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "tests"))

from stored_runs import keep  # noqa: E402 - found just above
from test_dashboard_page import ADDRESS, ARGUMENTS, HOST  # noqa: E402
from watching import Wire, make_wire, portable, weight  # noqa: E402

from nbadapt.comparing.digest import FILE, PIECE, Digest  # noqa: E402
from nbadapt.comparing.facts import Overview  # noqa: E402
from nbadapt.widgets.runs import RunsWidget  # noqa: E402

RUNS = 50
BUDGET_MS, BUDGET_BYTES = 300, 20_000
DRAWN = """async (messages) => {
  const start = performance.now();
  for (const message of messages) hear(message);
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  return performance.now() - start;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
        sync_playwright() as playwright,
    ):
        os.environ["NBADAPT_RUNS"] = folder
        for number in range(1, RUNS):
            keep(number, name=f"run_{number}", steps=500)
        long = keep(RUNS, name="long", steps=arguments.steps)
        chromium = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        page = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS).new_page()
        page.route(ADDRESS, lambda route: route.fulfill(content_type="text/html", body="<!doctype html>"))
        reading = [read(long.directory) for _ in range(3)]
        wire = make_wire(patch)
        rounds = [draw(page, wire, long.id) for _ in range(arguments.rounds)]
        size = (long.directory / "events.jsonl").stat().st_size
        page.context.browser.close()
    save("runs_table", report(arguments.steps, size, reading, rounds))


def read(directory: Path) -> dict[str, float]:
    """Milliseconds to read a log that nobody has read: in all, its longest piece, and again from what was kept."""
    (directory / FILE).unlink(missing_ok=True)
    digest, pieces = Digest(directory), []
    while not digest.complete:
        pieces.append(took(lambda: digest.update(PIECE))[0])
    return {"all": sum(pieces), "piece": max(pieces), "again": took(lambda: Digest(directory).update())[0]}


def took(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = work()
    return 1000 * (time.perf_counter() - start), found


def draw(page: Any, wire: Wire, long: str) -> dict[str, float]:
    """Milliseconds in the kernel and on the page: of the table, and of ticking the long run beside three others."""
    page.goto(ADDRESS)
    overview = Overview()
    overview.refresh()
    widget = RunsWidget(overview)
    page.evaluate(HOST.replace("Series, Chart", "Series"), [RunsWidget._esm, RunsWidget._css])
    found: dict[str, float] = {}
    biggest = 0

    def step(name: str, message: dict[str, Any]) -> None:
        nonlocal biggest
        kernel, _ = took(lambda: wire.say(message))
        messages = wire.take()
        biggest = max(biggest, *(weight(one) for one in messages))
        found[f"{name}, kernel"] = kernel
        found[f"{name}, page"] = page.evaluate(DRAWN, [portable(one) for one in messages])

    step("table", {"type": "hello"})
    others = [facts.id for facts in overview.refresh() if facts.id != long][:3]
    for run_id in others:
        step("other", {"type": "tick", "id": run_id, "on": True})
    step("curve", {"type": "tick", "id": long, "on": True})
    found["picture"] = took(widget.bundle)[0]
    found["bytes"] = biggest
    widget.close()
    return found


def report(steps: int, size: int, reading: list[dict[str, float]], rounds: list[dict[str, float]]) -> str:
    """The results as Markdown."""

    def figure(name: str) -> float:
        return median(one[name] for one in rounds)

    def line(what: str, name: str) -> tuple[str, ...]:
        kernel, page = figure(f"{name}, kernel"), figure(f"{name}, page")
        return what, f"{kernel:.0f}", f"{page:.0f}", f"{kernel + page:.0f}"

    drawn = median(one["curve, kernel"] + one["curve, page"] for one in rounds)
    largest = max(one["bytes"] for one in rounds)
    first = {name: median(one[name] for one in reading) for name in reading[0]}
    rows = [
        line(f"the table of {RUNS} runs appears", "table"),
        line(f"the curve of {steps:,} steps is drawn, over three others", "curve"),
    ]
    return "\n\n".join(
        [
            "# Drawing the table of runs",
            f"Medians of {len(rounds)} rounds, in milliseconds; the page's time goes up to the second frame after the "
            "message. How: [runs_table.py](../runs_table.py).",
            table(("what", "kernel", "page", "together"), rows),
            f"**A history of {steps:,} steps is drawn in {drawn:.0f} ms** (budget: {BUDGET_MS}); the largest message "
            f"has {largest / 1000:.1f} KB (budget: {BUDGET_BYTES / 1000:.0f}). The picture for the saved notebook "
            f"takes {figure('picture'):.0f} ms, when the page has been quiet for a while.",
            f"Before that, its log of {size / 2**20:.0f} MiB is read once: {first['all'] / 1000:.1f} s in pieces of at "
            f"most {first['piece']:.0f} ms, between which clicks are answered. What is kept of it is read again in "
            f"{first['again']:.0f} ms, also in another kernel.",
            environment("benchmarks/runs_table.py", ("anywidget", "matplotlib")),
        ]
    )


if __name__ == "__main__":
    main()
