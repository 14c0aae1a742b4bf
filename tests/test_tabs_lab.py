"""Two tabs of a browser on one notebook in real JupyterLab: what is done in one is seen in both, and acts once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import tiny_models
from kernels import WIDGET
from playwright.sync_api import Browser, Page, expect
from stored_runs import keep
from test_form_lab import BEGINNING, field
from test_lab import (  # noqa: F401 - fixtures among them
    browser,
    connected,
    folder,
    jupyterlab,
    lab,
    menu,
    open_notebook,
    picture,
    save,
    write_notebook,
)
from test_play_lab import beginning, say, states

import nbadapt

pytestmark = [pytest.mark.browser, pytest.mark.alone, pytest.mark.slow]


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:  # noqa: F811
    context = browser.new_context(viewport={"width": 1200, "height": 1200})
    page = context.new_page()
    page.set_default_timeout(60_000)
    expect.set_options(timeout=40_000)
    yield page
    for number, tab in enumerate(context.pages):
        picture(tab, f"last-{request.node.name}-{number}")
    context.close()


def opened(page: Page, address: str, notebook: Path) -> None:
    """Run the whole notebook."""
    open_notebook(page, address, notebook.name)
    connected(page)
    menu(page, "Run", "Run All Cells")


def second_tab(page: Page, address: str, notebook: Path, shown: str) -> Page:
    """The same notebook once more, when it shows what a selector names."""
    save(page, notebook)
    other = page.context.new_page()
    other.set_default_timeout(60_000)
    open_notebook(other, address, notebook.name)
    other.locator(shown).first.wait_for()
    return other


def nothing_dead(page: Page, notebook: Path) -> None:
    """A saved notebook has no view of a widget that is gone."""
    page.bring_to_front()
    page.locator(".jp-InputPrompt").first.click()
    before = notebook.stat().st_mtime_ns
    page.keyboard.press("Control+s")
    page.wait_for_timeout(1500)
    overwrite = page.get_by_role("button", name="Overwrite")  # where the other tab has saved meanwhile
    if overwrite.count():
        overwrite.click()
        page.wait_for_timeout(1500)
    assert notebook.stat().st_mtime_ns > before
    text = notebook.read_text(encoding="utf-8")
    assert WIDGET not in text
    assert "widgets" not in nbformat.reads(text, as_version=4).metadata


def ticked(page: Page, *names: str) -> None:
    expect(page.locator(".nbadapt-runs-legend li")).to_have_count(len(names))
    for name in names:
        expect(page.get_by_role("checkbox", name=f"compare {name}", exact=True)).to_be_checked()


def test_the_table_of_runs(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: Page):  # noqa: F811
    monkeypatch.setenv("NBADAPT_RUNS", str(tmp_path / "nbadapt_runs"))
    one, two, _three = (keep(number, name=f"run_{number}") for number in range(3))
    notebook = write_notebook(tmp_path, "tabs.ipynb", "new", "%load_ext nbadapt", "%nbadapt runs")
    with jupyterlab(tmp_path) as address:
        opened(page, address, notebook)
        page.locator(".nbadapt-runs-count", has_text="3").wait_for()
        other = second_tab(page, address, notebook, ".nbadapt-runs tbody tr")
        both = (page, other)
        other.get_by_role("checkbox", name="compare run_0", exact=True).click()
        for tab in both:
            ticked(tab, "run_0")

        editors = {tab: tab.locator(".nbadapt-runs-editor") for tab in both}
        other.get_by_role("searchbox", name="Filter").fill("run_")
        other.get_by_role("button", name="Note and tags").click()
        other.get_by_role("textbox", name="Note").fill("written in the other tab")
        expect(editors[page]).to_be_hidden()
        page.locator("th [data-name=name]").click()
        page.get_by_role("button", name="Note and tags").click()
        page.get_by_label("Tags").fill("first")
        expect(other.get_by_role("textbox", name="Note")).to_have_value("written in the other tab")
        page.get_by_role("button", name="Save", exact=True).click()
        for tab in both:
            expect(tab.locator(".nbadapt-runs tbody tr", has_text="run_0")).to_contain_text("first")
        expect(editors[page]).to_be_hidden()
        expect(editors[other]).to_be_visible()
        assert other.get_by_role("textbox", name="Note").input_value() == "written in the other tab"
        other.get_by_role("button", name="Save", exact=True).click()
        for tab in both:
            expect(tab.locator(".nbadapt-runs tbody tr", has_text="run_0")).to_contain_text("written in the other tab")
        assert (one.note, one.tags) == ("written in the other tab", ("first",))

        page.get_by_role("button", name="Untick all").click()
        page.get_by_role("checkbox", name="compare run_1", exact=True).click()
        for tab in both:
            ticked(tab, "run_1")
        page.get_by_role("button", name="Delete …").click()
        page.get_by_role("alertdialog").wait_for()
        expect(other.get_by_role("alertdialog")).to_have_count(0)
        page.get_by_role("button", name="Delete this run for good").click()
        for tab in both:
            expect(tab.locator(".nbadapt-runs-count")).to_contain_text("2")
            expect(tab.locator(".nbadapt-runs tbody tr", has_text="run_1")).to_have_count(0)
        assert sorted(run.name for run in nbadapt.runs()) == ["run_0", "run_2"]
        assert not two.directory.exists()
        assert other.get_by_role("searchbox", name="Filter").input_value() == "run_"
        picture(other, "tabs-runs-other")

        page.get_by_role("button", name="Close").click()
        for tab in both:
            expect(tab.locator(".nbadapt-runs")).to_have_count(0)
            left = tab.locator(".jp-OutputArea-output table", has_text="run_2")
            expect(left).to_contain_text("written in the other tab")
            expect(left).not_to_contain_text("run_1")
            nothing_dead(tab, notebook)


def test_the_form(lab: str, folder: Path, page: Page):  # noqa: F811
    notebook = write_notebook(folder, "tabs-form.ipynb", "new", BEGINNING, "%finetune lora")
    opened(page, lab, notebook)
    expect(page.locator(".nbadapt-run")).to_be_enabled()  # the first estimate imports much
    field(page, "--model").get_by_label("model", exact=True).select_option(label="other …")
    field(page, "--model").get_by_label("model, typed").fill(str(tiny_models.folder("bert")))
    expect(page.locator(".nbadapt-cell")).to_contain_text("--model /")
    other = second_tab(page, lab, notebook, ".nbadapt-form .nbadapt-run:enabled")
    both = (page, other)
    epochs = {tab: field(tab, "epochs").get_by_label("epochs", exact=True) for tab in both}
    for tab in both:
        tab.locator(".nbadapt-form summary", has_text="More settings").click()

    other.bring_to_front()
    field(other, "r").get_by_label("r, slider").press("ArrowRight")
    for tab in both:
        expect(field(tab, "r").get_by_label("r", exact=True)).to_have_value("16")
    epochs[other].fill("7")
    epochs[other].press_sequentially("5", delay=30)  # and the kernel has not heard of it yet
    field(page, "r").get_by_label("r, slider").press("ArrowRight")
    for tab in both:
        expect(epochs[tab]).to_have_value("75")
        expect(tab.locator(".nbadapt-cell")).to_contain_text("epochs: 75")
        expect(field(tab, "r").get_by_label("r", exact=True)).to_have_value("32")

    epochs[other].press_sequentially("0")
    page.get_by_label("method", exact=True).select_option("bitfit")
    expect(other.get_by_label("method", exact=True)).to_have_value("bitfit")
    expect(epochs[other]).to_be_focused()
    for tab in both:
        expect(epochs[tab]).to_have_value("750")
        expect(tab.locator(".nbadapt-cell")).to_contain_text("epochs: 750")
    picture(other, "tabs-form-other")

    cells = [tab.locator(".jp-Notebook-cell").count() for tab in both]
    other.locator(".nbadapt-insert").click()
    expect(other.locator(".jp-Notebook-cell")).to_have_count(cells[1] + 1)
    assert page.locator(".jp-Notebook-cell").count() == cells[0], "into the notebook of its own tab"
    field(other, "max_steps").get_by_label("max_steps").fill("3")
    for tab in both:
        expect(tab.locator(".nbadapt-cell")).to_contain_text("max_steps: 3")
    other.locator(".nbadapt-run").click()
    expect(other.locator(".nbadapt-state")).to_have_text("done")
    page.locator(".jp-OutputArea-output img[alt^='Loss by step']").wait_for()
    runs = [json.loads(path.read_text()) for path in folder.glob("nbadapt_runs/*/request.json")]
    assert [run["method"] for run in runs] == ["bitfit"], "a press acts once"
    picture(page, "tabs-form-run")


def test_the_playground(lab: str, folder: Path, page: Page):  # noqa: F811
    notebook = write_notebook(folder, "tabs-play.ipynb", "new", beginning(), "%nbadapt play judge writer --as liked")
    opened(page, lab, notebook)
    page.get_by_label("longest answer", exact=True).fill("12")
    say(page, "The film number 3 was terrible.")
    states(page, "done", "done", "done")
    other = second_tab(page, lab, notebook, ".nbadapt-play .nbadapt-run:enabled")
    both = (page, other)
    prompts = {tab: tab.get_by_label("prompt", exact=True) for tab in both}
    states(other, "done", "done", "done")
    expect(prompts[other]).to_have_value("The film number 3 was terrible.")
    say(other, "Asked in the other one.")
    for tab in both:
        states(tab, "done", "done", "done")
        expect(prompts[tab]).to_have_value("Asked in the other one.")

    prompts[other].fill("Still being written")
    other.get_by_label("longest answer", exact=True).fill("many")
    expect(field(other, "max_new_tokens")).to_contain_text("integer")
    expect(other.locator(".nbadapt-run")).to_be_disabled()
    expect(field(page, "max_new_tokens").locator(".nbadapt-error")).to_be_empty()
    say(page, "Asked in the first one.")
    for tab in both:
        states(tab, "done", "done", "done")
    expect(other.get_by_text("Asked in another tab: Asked in the first one.")).to_be_visible()
    assert prompts[other].input_value() == "Still being written"
    assert other.get_by_label("longest answer", exact=True).input_value() == "many"
    picture(other, "tabs-play-other")
    other.get_by_role("button", name="writer: this answer is better").click()
    for tab in both:
        expect(tab.locator(".nbadapt-kept")).to_contain_text("1 preference in liked.jsonl")
        expect(tab.locator(".nbadapt-answer-state", has_text="better")).to_have_count(1)
    (row,) = [json.loads(line) for line in (folder / "liked.jsonl").read_text().splitlines()]
    assert row["prompt"] == "Asked in the first one."

    page.get_by_role("button", name="Close").click()
    for tab in both:
        expect(tab.locator(".nbadapt-play")).to_have_count(0)
        expect(tab.locator(".jp-OutputArea-output", has_text="Asked in the first one.").last).to_be_visible()
        nothing_dead(tab, notebook)
