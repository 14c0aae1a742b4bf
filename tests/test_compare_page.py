"""The dashboard of a comparison as a page: selection.js in Chromium beside a real widget of a real comparison."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from playwright.sync_api import expect
from test_dashboard_page import ADDRESS, HOST, browser  # noqa: F401 - a fixture
from watching import HOSTILE, make_wire, portable, weight

from nbadapt import model_names
from nbadapt.selection.asked import Asked
from nbadapt.selection.candidates import prepare
from nbadapt.selection.contest import Contest
from nbadapt.selection.entry import FINISHED
from nbadapt.selection.trials import Said, Trial
from nbadapt.selection.verdict import verdict
from nbadapt.widgets.selection import ContestDashboard
from nbadapt.widgets.selection_report import bundle

wire = pytest.fixture(make_wire)
pytestmark = [pytest.mark.browser, pytest.mark.alone]

SHOTS = Path(__file__).parent / "artifacts"
LIGHT, DARK = "background:#fff;color:#111", "background:#111;color:#eee"
SHOWN = HOSTILE.encode("utf-8", "replace").decode()


@pytest.fixture(scope="module")
def prepared() -> Any:
    grid = {"weight_decay": [i / 100 for i in range(28)]}
    rows = tiny_models.reviews(400)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_names, "generators", list)  # zero-shot on an installed one would be the 31st
        return prepare(Asked(blocks={"output-layers": grid}, model=str(tiny_models.folder("bert")), data=rows))


@pytest.fixture
def contest(prepared: Any) -> Contest:
    """Thirty candidates, most of which were dropped: what is on disk after some rungs, without the work."""
    found = Contest(prepared)
    found.state = "comparing"
    count = len(prepared.parts.validation)
    full = len(prepared.parts.training)
    for i, entry in enumerate(found.entries):
        last = 0 if i > 8 else 1 if i > 2 else 2
        for rung, rows in enumerate((48, 78, full)[: last + 1]):
            right = min(count, round(count * (0.5 + 0.012 * (30 - i) * (0.6 + 0.2 * rung))))
            said = Said(("positive",) * count, (1.0,) * right + (0.0,) * (count - right))
            entry.trials.append(Trial(f"{i}-{rung}", entry.label, rows, 0, "", "done", said=said))
        entry.state = FINISHED if last == 2 else "dropped"
        entry.reason = "" if last == 2 else "behind another one"
    found.entries[1].state = "running"
    return found


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:  # noqa: F811
    page = browser.new_page(viewport={"width": 900, "height": 760})
    page.set_default_timeout(10_000)
    page.route(
        ADDRESS, lambda route: route.fulfill(content_type="text/html", body="<!doctype html><meta charset=utf-8>")
    )
    page.goto(ADDRESS)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    assert errors == []
    page.close()


class Desk:
    """One page and one widget with everything between them delivered."""

    def __init__(self, page: Any, wire: Any, contest: Contest) -> None:
        self.page, self.wire = page, wire
        self.widget = ContestDashboard(contest)
        host = HOST.replace("\\nexport { Series, Chart };", "")
        page.evaluate(host, [ContestDashboard._esm, ContestDashboard._css])
        self.deliver()

    def deliver(self) -> list[int]:
        sizes = []
        while True:
            for message in self.wire.take():
                sizes.append(weight(message))
                self.page.evaluate("(m) => hear(m)", portable(message))
            said = self.page.evaluate("said.splice(0)")
            for content in said:
                self.wire.say(content)
            if not said and not self.wire.sent:
                return sizes


def test_thirty_candidates_are_one_chart_with_few_names(page: Any, wire: Any, contest: Contest):
    desk = Desk(page, wire, contest)
    assert len(contest.entries) == 30
    expect(page.locator(".nbadapt-compare-line")).to_have_count(30)
    expect(page.locator("tbody tr")).to_have_count(30)
    expect(page.locator("tbody .nbadapt-compare-between").first).to_have_text(re.compile(r"0\.\d{3} to \d\.\d{3}"))
    assert page.locator(".nbadapt-compare-interval").count() >= 3  # of the best one
    assert page.locator(".nbadapt-compare-name").count() <= 3
    desk.widget.push()
    assert max(desk.deliver()) < 20_000
    few = next(entry for entry in contest.entries if entry.label.endswith("weight_decay=0.1"))  # as others begin
    page.locator("tbody tr").filter(has=page.get_by_text(few.label, exact=True)).hover()
    expect(page.locator('tbody tr[data-chosen="true"]')).to_have_count(1)
    expect(page.locator('tbody tr[data-chosen="true"] .nbadapt-compare-label')).to_have_text(few.label)
    expect(page.locator('.nbadapt-compare-line[data-kind="chosen"]')).to_have_count(1)
    SHOTS.mkdir(exist_ok=True)
    for name, width, dark in (("light", 900, False), ("dark", 900, True), ("narrow", 480, False)):
        page.set_viewport_size({"width": width, "height": 760})
        page.evaluate("(css) => { document.body.style.cssText = css }", DARK if dark else LIGHT)
        page.wait_for_function(
            "(dark) => (document.querySelector('section').dataset.theme === 'dark') === dark", arg=dark
        )
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing stands over the edge"
        inside = "document.querySelector('.nbadapt-compare-scroll')"
        assert page.evaluate(f"{inside}.scrollWidth <= {inside}.clientWidth"), "all buttons can be reached"
        page.screenshot(path=SHOTS / f"compare-{name}.png")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "width", "style"), [("light", 860, LIGHT), ("dark", 860, DARK), ("narrow", 480, DARK)]
)
def test_the_answer_is_read_in_both_themes_and_480_pixels(
    page: Any, contest: Contest, name: str, width: int, style: str
):
    contest.state = "done"
    contest.entries[1].state = FINISHED
    count, costs = len(contest.prepared.parts.test), {"seconds": 12.3, "inference": 4.5, "memory": 2**29}
    best, *others = contest.entries[:3]
    baselines = [entry for entry in contest.entries if entry.candidate.baseline]
    for entry, right in zip([best, *others, *baselines], (1.0, 0.95, 0.5, 0.97, 0.6), strict=True):
        full = replace(best.last, label=entry.label, costs={**costs, "trainable": 1925, "artifact": 8000, "tokens": 25})
        entry.trials, entry.state, entry.reason = [*entry.trials[:-1], full], FINISHED, ""
        entry.test = [Said(("a",) * count, tuple(float(i < right * count) for i in range(count)))]
    page.set_viewport_size({"width": width, "height": 900})
    html = bundle(contest, verdict(contest))["text/html"]
    page.evaluate(
        "([html, css]) => { document.body.innerHTML = html; document.body.style.cssText = css }", [html, style]
    )
    page.wait_for_function("document.querySelector('img').complete")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing stands over the edge"
    rows = page.locator("tbody tr")
    expect(rows.filter(has_text="does not beat")).to_have_count(3)
    assert max(row.bounding_box()["height"] for row in rows.all()) < 60, "no row is tall for one narrow cell"
    assert "seeds" not in page.locator("thead").inner_text(), "no column without a figure"
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / f"compare-answer-{name}.png", full_page=True)


def test_a_candidate_is_stopped_cloned_and_added(page: Any, wire: Any, contest: Contest):
    desk = Desk(page, wire, contest)
    running = contest.entries[1]
    page.get_by_role("button", name=f"Stop {running.label}", exact=True).click()
    desk.deliver()
    assert running.state == "stopped"
    row = page.locator("tbody tr").filter(has=page.get_by_text(running.label, exact=True))
    expect(row.locator(".nbadapt-compare-state")).to_have_text("stopped")  # though the focus was on its button
    page.get_by_role("button", name=f"Clone {contest.entries[0].label} with a change", exact=True).click()
    line = page.get_by_label("Candidate to add, as a line of the cell")
    assert line.input_value() == "output-layers: {weight_decay: 0}"
    line.fill("output-layers: {weight_decay: 0.5}")
    page.get_by_role("button", name="Add", exact=True).click()
    desk.deliver()
    assert contest.entries[-1].label == "output-layers weight_decay=0.5"
    expect(page.get_by_text("1 added: tried when those that are there are through")).to_be_visible()
    line.fill("lorra: {r: 8}")
    page.get_by_role("button", name="Add", exact=True).click()
    desk.deliver()
    expect(page.get_by_text("unknown method 'lorra'")).to_be_visible()


def test_texts_are_texts(page: Any, wire: Any, contest: Contest):
    entry = contest.entries[3]
    entry.candidate = replace(entry.candidate, label=HOSTILE)
    entry.reason = HOSTILE
    Desk(page, wire, contest)
    assert page.evaluate("window.hacked") is None
    assert SHOWN[:40] in page.locator("tbody").inner_text()
