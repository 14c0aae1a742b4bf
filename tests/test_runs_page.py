"""The table of runs as a page: runs.js in Chromium beside a real widget, and the whole of it in real JupyterLab."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import steps_method
from kernels import WIDGET
from playwright.sync_api import Page, expect
from stored_runs import keep
from test_dashboard_page import ADDRESS, HOST, browser  # noqa: F401 - a fixture
from test_lab import connected, jupyterlab, menu, open_notebook, save, write_notebook
from watching import HOSTILE, Wire, make_wire, portable

import nbadapt
from nbadapt.comparing.columns import chosen
from nbadapt.comparing.facts import Overview
from nbadapt.widgets.runs import RunsWidget

wire = pytest.fixture(make_wire)
pytestmark = [pytest.mark.browser, pytest.mark.alone]

ARTIFACTS = Path(__file__).parent / "artifacts"
SHOWN = HOSTILE.encode("utf-8", "replace").decode()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:  # noqa: F811
    page = browser.new_page(viewport={"width": 1100, "height": 1000})
    page.set_default_timeout(10_000)
    page.route(
        ADDRESS, lambda route: route.fulfill(content_type="text/html", body="<!doctype html><meta charset=utf-8>")
    )
    page.goto(ADDRESS)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    yield page
    assert errors == []
    page.close()


class Desk:
    """One page and one widget with everything between them delivered."""

    def __init__(self, page: Any, wire: Wire) -> None:
        self.page, self.wire = page, wire
        overview = Overview()
        overview.refresh()
        self.widget = RunsWidget(overview)
        page.evaluate(HOST.replace("Series, Chart", "Series, Overlay"), [RunsWidget._esm, RunsWidget._css])
        self.deliver()

    def deliver(self) -> None:
        while True:
            for message in self.wire.take():
                self.page.evaluate("(m) => hear(m)", portable(message))
            said = self.page.evaluate("said.splice(0)")
            for content in said:
                self.wire.say(content)
            if not said and not self.wire.sent:
                return

    def names(self) -> list[str]:
        return self.page.locator("tbody .nbadapt-runs-cell-name").all_inner_texts()

    def tick(self, name: str) -> None:
        self.page.get_by_role("checkbox", name=f"compare {name}", exact=True).click()
        self.deliver()


def fifty() -> None:
    for i in range(50):
        accuracy = None if i % 10 == 9 else 0.5 + ((i * 37) % 50) / 120
        metrics = {"loss": 0.3 + i / 100, **({} if accuracy is None else {"accuracy": accuracy})}
        method = ["lora", "full", "bitfit"][i % 3]
        keep(
            i,
            name=f"run_{i}",
            method=method,
            metrics=metrics,
            steps=20,
            seconds=10 + (i * 13) % 50,
            trainable=10 ** (3 + i % 4),
        )


def test_fifty_runs_are_sorted_filtered_and_compared_by_key_and_mouse(page: Any, wire: Wire) -> None:
    fifty()
    desk = Desk(page, wire)
    facts = desk.widget._feed.facts
    assert desk.names() == [one.name for one in facts]
    for name in ("accuracy", "time", "parameters", "name", "method", "when"):
        column = "result" if name == "accuracy" else name
        head = page.locator(f"th [data-name={column}]")
        for sort in (name, f"-{name}"):
            head.press("Enter")
            assert desk.names() == [one.name for one in chosen(facts, "", sort)], sort
        head.press("Enter")  # and back to the newest first
    page.get_by_role("searchbox", name="Filter").fill("LORA -run_3")
    assert desk.names() == [one.name for one in chosen(facts, "LORA -run_3")]
    assert page.locator(".nbadapt-runs-count").inner_text() == f"{len(desk.names())} of 50"
    page.wait_for_timeout(300)
    desk.deliver()  # the kernel says the same of all runs
    assert desk.names() == [one.name for one in chosen(facts, "LORA -run_3")]
    page.get_by_role("searchbox", name="Filter").fill("")
    page.wait_for_timeout(300)
    desk.deliver()
    box = page.get_by_role("checkbox", name="compare run_49", exact=True)
    box.focus()
    page.keyboard.press("Space")
    desk.deliver()
    assert box.is_checked()
    assert page.evaluate("document.activeElement.type") == "checkbox", "the focus stays"
    desk.tick("run_48")
    differ = page.locator(".nbadapt-runs-differ")
    for part in ("lora", "full", "Trained parameters", "Accuracy"):
        assert part in differ.inner_text()
    assert "run_49" in page.locator(".nbadapt-runs-legend").inner_text()
    page.get_by_role("combobox", name="Curves of").select_option("accuracy")
    desk.deliver()
    page.get_by_role("img", name="Curves of accuracy").focus()
    assert page.locator(".nbadapt-runs-scatter canvas").get_attribute("aria-label").startswith("accuracy against time")
    page.get_by_role("combobox", name="Quality", exact=False).first.select_option("loss")
    desk.deliver()
    page.locator("th [data-name=result]").click()
    assert desk.names() == [one.name for one in chosen(facts, "", "loss")]
    page.get_by_role("button", name="Untick all").click()
    desk.deliver()
    assert page.locator(".nbadapt-runs-charts").is_hidden()


def test_a_note_is_written_and_a_run_deleted_after_a_second_click(page: Any, wire: Wire) -> None:
    run, other = keep(1, name="old"), keep(2, name="new")
    desk = Desk(page, wire)
    desk.tick("old")
    page.get_by_role("button", name="Note and tags").click()
    desk.deliver()
    page.get_by_label("Tags").fill("a b")
    page.get_by_role("textbox", name="Note").fill("<b>mine</b>")
    page.get_by_role("button", name="Save").click()
    desk.deliver()
    assert (run.note, run.tags) == ("<b>mine</b>", ("a", "b"))
    assert page.locator("tr", has_text="<b>mine</b>").count() == 1
    page.get_by_role("button", name="Delete …").click()
    desk.deliver()
    assert run.directory.exists()
    assert run.id in page.get_by_role("alertdialog").inner_text()
    page.keyboard.press("Escape")
    assert page.get_by_role("alertdialog").count() == 0
    page.get_by_role("button", name="Delete …").click()
    desk.deliver()
    page.get_by_role("button", name="Delete this run for good").click()
    desk.deliver()
    assert not run.directory.exists()
    assert desk.names() == ["new"]
    assert other.directory.exists()


def test_hostile_texts_are_shown_and_do_nothing(page: Any, wire: Wire) -> None:
    for i, name in enumerate(("first", "second")):
        run = keep(
            i, name=SHOWN + name, source=SHOWN, settings={SHOWN: SHOWN + name}, metrics={SHOWN: 0.5 + i}, model=SHOWN
        )
        run.note, run.tags = HOSTILE, ["<script>window.hacked=1</script>"]
    desk = Desk(page, wire)
    for box in page.get_by_role("checkbox").all():
        box.click()
        desk.deliver()
    page.get_by_role("button", name="Delete …").click()
    desk.deliver()
    page.wait_for_timeout(50)
    assert page.evaluate("window.hacked") is None
    assert page.locator(".nbadapt-runs img:not(canvas), .nbadapt-runs script").count() == 0
    for selector in (".nbadapt-runs-cell-note", ".nbadapt-runs-differ", ".nbadapt-runs-legend"):
        assert "<img src=x" in page.locator(selector).last.inner_text()


def test_a_second_page_and_a_gap_see_everything(page: Any, wire: Wire) -> None:
    keep(1, name="one")
    desk = Desk(page, wire)
    desk.tick("one")
    page.evaluate("attach()")
    desk.deliver()
    assert desk.widget.hello == 2
    assert page.locator("tbody input:checked").count() == 2
    nbadapt.runs()[0].note = "lost on the way"
    desk.widget.push()
    assert wire.take()
    nbadapt.runs()[0].tags = ["seen"]
    desk.widget.push()
    desk.deliver()
    assert desk.widget.hello == 4
    assert page.locator(".nbadapt-runs-cell-note", has_text="lost on the way").count() == 2
    page.evaluate("views[0].leave()")
    assert page.evaluate("views.map((v) => v.handlers.size)") == [0, 1]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_480_pixels(page: Any, wire: Wire, theme: str) -> None:
    page.set_viewport_size({"width": 480, "height": 1000})
    ink, paper = ("#ddd", "#111") if theme == "dark" else ("#222", "#fff")
    style = f"--jp-ui-font-color1:{ink};--jp-layout-color0:{paper};background:{paper};margin:0"
    page.evaluate(f"document.body.style.cssText = '{style}'")
    for i in range(6):
        run = keep(
            i, name="x" * 80 if i == 1 else f"run_{i}", source="y" * 200, accuracy=0.5 + i / 20, seconds=10 * i + 5
        )
        run.note = "z" * 300
    desk = Desk(page, wire)
    for name in ("x" * 80, "run_2", "run_3"):
        page.get_by_role("checkbox", name=f"compare {name}"[:60]).click()
        desk.deliver()
    page.get_by_role("button", name="Delete …").click()
    desk.deliver()
    assert page.evaluate("document.documentElement.scrollWidth") <= 480
    assert page.locator(".nbadapt-runs").get_attribute("data-theme") == theme
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"runs-480-{theme}.png", full_page=True)


@contextlib.contextmanager
def another_kernel(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that works on a run in the same folder."""
    (folder / ".plugins").mkdir()
    plugins = steps_method.install(folder / ".plugins")
    path = os.pathsep.join([str(plugins), *filter(None, [os.environ.get("PYTHONPATH")])])
    code = "from steps_method import begin\nrun = begin(steps=100_000, seconds=0.05)\nrun.join()"
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def last_step(page: Page) -> int:
    """How far the row of the run at work has come."""
    text = page.locator("tr", has_text="in another kernel").locator(".nbadapt-runs-cell-steps").inner_text()
    return int(text.split(" / ")[0].replace(",", ""))


@pytest.mark.slow
def test_in_jupyterlab_runs_are_followed_compared_and_kept_as_a_picture(
    browser: Any,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NBADAPT_RUNS", str(tmp_path / "nbadapt_runs"))
    fifty()
    nbadapt.runs()[1].note = HOSTILE
    nbadapt.runs()[2].tags = ["paper", "v2"]
    notebook = write_notebook(tmp_path, "runs.ipynb", "new", "%load_ext nbadapt", "%nbadapt runs", "table = _")
    with another_kernel(tmp_path) as worker, jupyterlab(tmp_path, "--LabApp.expose_app_in_browser=True") as address:
        page = browser.new_page(viewport={"width": 1250, "height": 1250})
        page.set_default_timeout(30_000)
        open_notebook(page, address, notebook.name)
        connected(page)
        menu(page, "Run", "Run All Cells")
        page.locator(".nbadapt-runs-count", has_text="51").wait_for()
        for name in ("run_49", "run_46", "run_40"):
            page.get_by_role("checkbox", name=f"compare {name}", exact=True).click()
            page.locator(".nbadapt-runs-legend li", has_text=name).wait_for()
        page.locator("th [data-name=result]").click()
        page.locator(".nbadapt-runs-differ", has_text="Trained parameters").wait_for()
        page.wait_for_timeout(2500)  # the picture is drawn
        page.screenshot(path=ARTIFACTS / "runs-lab-light.png")
        page.evaluate("jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' })")
        page.locator(".nbadapt-runs[data-theme=dark]").wait_for()
        page.screenshot(path=ARTIFACTS / "runs-lab-dark.png")
        page.evaluate(
            "jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark High Contrast' })"
        )
        page.wait_for_timeout(1000)
        page.screenshot(path=ARTIFACTS / "runs-lab-high-contrast.png")
        page.evaluate("jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Light' })")

        page.get_by_role("button", name="Untick all").click()
        page.get_by_role("searchbox", name="Filter").fill("steps-")
        at_work = page.get_by_role("checkbox", name="compare steps-")
        at_work.click()
        expect(page.locator(".nbadapt-runs-legend li")).to_have_count(1)
        seen = last_step(page)
        chart = page.get_by_role("img", name="Curves of loss")
        before = chart.screenshot()
        page.wait_for_timeout(2500)
        assert last_step(page) > seen
        assert chart.screenshot() != before, "the curve goes on"
        worker.kill()
        page.locator(".nbadapt-runs-cell-state", has_text="killed").wait_for()
        page.get_by_role("searchbox", name="Filter").fill("")
        page.wait_for_timeout(2500)
        page.locator(".jp-InputPrompt").first.click()  # keys in the widget are its own
        save(page, notebook)
        look_at_the_saved_notebook(notebook)

        page.reload()
        page.locator(".nbadapt-runs-legend li", has_text="steps-").wait_for()  # what was ticked still is
        page.set_viewport_size({"width": 480, "height": 1000})
        page.wait_for_timeout(1000)
        page.screenshot(path=ARTIFACTS / "runs-lab-480.png")
        page.set_viewport_size({"width": 1250, "height": 1250})
        picture = page.locator("table", has_text="run_27").last
        page.get_by_role("button", name="Close").click()
        expect(page.locator(".nbadapt-runs")).to_have_count(0)
        expect(picture).to_be_visible()
        page.screenshot(path=ARTIFACTS / "runs-lab-picture.png")
        page.locator(".jp-InputPrompt").first.click()
        save(page, notebook)
        look_at_the_saved_notebook(notebook, closed=True)
        assert page.evaluate("window.hacked") is None
        page.close()


def look_at_the_saved_notebook(path: Path, *, closed: bool = False) -> None:
    """It holds the table as text and HTML, no state of a widget, and stays small; closed, no view of one either."""
    text = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    assert "widgets" not in notebook.metadata
    assert len(text) < 62_000
    *widget, picture = notebook.cells[1].outputs
    assert any(WIDGET in output.data for output in widget) is not closed
    assert set(picture.data) == {"text/html", "text/plain"}
    assert "run_27" in picture.data["text/plain"]
    assert "<script" not in picture.data["text/html"]
