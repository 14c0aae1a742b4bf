"""A person changes a run while it works, in real JupyterLab and Notebook 7: clicks, keys, two tabs, a reload."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import tiny_models
from kernels import WIDGET
from playwright.sync_api import Browser, Page, expect
from test_lab import (  # noqa: F401 - fixtures among them
    BEGINNING,
    FINETUNE,
    TOKEN,
    browser,
    connected,
    folder,
    jupyterlab,
    lab,
    menu,
    open_notebook,
    picture,
    records,
    save,
    step_shown,
    theme,
    wait_for_step,
    write_notebook,
)

pytestmark = [pytest.mark.browser, pytest.mark.alone]

HOSTILE = "<img src=x onerror=\"document.title='broken'\"><b>bold</b>"


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:  # noqa: F811
    context = browser.new_context(viewport={"width": 1100, "height": 1150})
    page = context.new_page()
    page.set_default_timeout(60_000)
    expect.set_options(timeout=40_000)
    yield page
    picture(page, f"last-{request.node.name}")
    context.close()


def control(page: Page, name: str) -> Any:
    return page.locator(f'.nbadapt-wish[data-wish="{name}"]')


def outcome(page: Page, name: str) -> Any:
    return control(page, name).locator(".nbadapt-outcome")


def told(folder: Path, kind: str) -> list[dict[str, Any]]:  # noqa: F811
    return [record for record in records(folder) if record["event"] == kind]


def start(page: Page, address: str, folder: Path, name: str, *, cell: str = "") -> None:  # noqa: F811
    cell = cell or FINETUNE.format(model=tiny_models.folder("bert"), steps=20_000, evaluation=200)
    write_notebook(folder, name, "new", BEGINNING, cell, "print('after', tuned.state)")
    open_notebook(page, address, name)
    connected(page)
    menu(page, "Run", "Run All Cells")
    begun(page)


def state(page: Page, expected: str) -> None:
    expect(page.locator(".nbadapt-state")).to_have_text(expected, timeout=120_000)


def begun(page: Page) -> None:
    state(page, "running")
    page.wait_for_function("Number(document.querySelector('.nbadapt-bar').getAttribute('aria-valuenow')) >= 12")


def test_a_run_is_changed_by_clicks_and_keys_in_two_tabs(lab: str, folder: Path, page: Page):  # noqa: F811
    start(page, lab, folder, "live.ipynb")
    page.get_by_role("button", name="Save now").click()
    expect(outcome(page, "save")).to_contain_text("saved at step")

    rate = page.get_by_label("learning rate", exact=True)
    rate.fill("fast")
    rate.press("Enter")
    expect(outcome(page, "learning_rate")).to_have_text(
        "the learning rate is fast: give a number such as 1e-4, or a factor such as x0.5"
    )
    expect(rate).to_have_attribute("aria-invalid", "true")
    assert [change["what"] for change in told(folder, "change")] == ["save"], "nothing has changed"
    page.get_by_role("button", name="Halve the learning rate").press("Enter")
    expect(outcome(page, "learning_rate")).to_contain_text("from step")
    expect(rate).to_have_attribute("aria-invalid", "false")

    prompt = page.get_by_label("classify with the model as it is now")
    prompt.fill(f"a fine film {HOSTILE}")
    prompt.press("Enter")
    expect(page.locator(".nbadapt-replies .nbadapt-sample")).to_have_count(1)
    expect(page.locator(".nbadapt-replies")).to_contain_text(HOSTILE)
    assert page.locator(".nbadapt-replies b, .nbadapt-replies img").count() == 0

    page.locator(".nbadapt-pause").click()
    state(page, "paused")
    held = step_shown(page)
    page.get_by_role("button", name="Sample now").click()
    expect(page.locator(".nbadapt-replies .nbadapt-sample")).to_have_count(2)
    state(page, "paused")
    assert step_shown(page) == held
    expect(page.locator(".nbadapt-changes li")).to_have_count(2)
    picture(page, "live-1-paused")

    slider = page.get_by_label("Smoothing, in steps")
    slider.focus()
    before = slider.input_value()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert slider.input_value() == str(int(before) + 1), "the keys are the slider's"
    expect(slider).to_be_focused()
    page.locator(".nbadapt-pause").click()

    save(page, folder / "live.ipynb")
    page.reload()
    state(page, "running")
    expect(page.locator(".nbadapt-replies .nbadapt-sample")).to_have_count(2)
    expect(page.locator(".nbadapt-changes li")).to_have_count(2)

    other = page.context.new_page()
    open_notebook(other, lab, "live.ipynb")
    for _ in range(3):  # JupyterLab waits a few seconds for a busy kernel's widgets, and then shows none
        with contextlib.suppress(AssertionError):
            expect(other.locator(".nbadapt-state")).to_have_text("running", timeout=40_000)
            break
        other.reload()
    state(other, "running")
    other.get_by_role("button", name="Stop at epoch end").click()
    for tab in (page, other):
        expect(tab.locator(".nbadapt-epoch-end")).to_have_attribute("aria-pressed", "true")
        state(tab, "stopped")
        expect(tab.locator(".nbadapt-stage")).to_contain_text("stopped at the end of epoch")
    assert [c["what"] for c in told(folder, "change")] == ["save", "learning_rate", "epoch_end"], "each press acts once"
    other.close()
    assert page.title() != "broken"
    last = told(folder, "progress")[-1]["step"]
    assert last % 20 == 0, "40 rows, two a step"


@pytest.mark.slow
def test_how_it_looks(lab: str, folder: Path, page: Page):  # noqa: F811
    start(page, lab, folder, "looks.ipynb")
    page.get_by_role("button", name="Save now").click()
    expect(outcome(page, "save")).to_contain_text("saved at step")
    wait_for_step(page, 300)
    page.get_by_role("button", name="Halve the learning rate").click()
    expect(outcome(page, "learning_rate")).to_contain_text("from step")
    page.get_by_label("classify with the model as it is now").fill("The film was slow, but the end is worth it.")
    page.get_by_role("button", name="Sample now").click()
    expect(page.locator(".nbadapt-replies .nbadapt-sample")).to_have_count(1)
    rate = page.get_by_label("learning rate", exact=True)
    rate.fill("-1")
    rate.press("Enter")
    expect(outcome(page, "learning_rate")).to_contain_text("the learning rate is -1")
    page.get_by_role("button", name="Stop at epoch end").focus()
    page.locator(".nbadapt-pause").click()
    state(page, "paused")
    for number, (name, shown) in enumerate(
        [("JupyterLab Light", "light"), ("JupyterLab Dark", "dark"), ("JupyterLab Dark High Contrast", "contrast")], 2
    ):
        theme(page, name)
        picture(page, f"live-{number}-{shown}")
    page.set_viewport_size({"width": 480, "height": 1300})
    page.wait_for_timeout(700)
    root = page.locator(".nbadapt")
    assert root.evaluate("e => e.scrollWidth <= e.clientWidth"), "nothing sticks out"
    root.scroll_into_view_if_needed()
    picture(page, "live-5-narrow")
    page.set_viewport_size({"width": 1100, "height": 1150})
    theme(page, "JupyterLab Light")
    page.locator(".nbadapt-stop").click()
    page.locator(".jp-OutputArea-output img[alt^='Loss by step']").wait_for()
    picture(page, "live-6-result")
    save(page, folder / "looks.ipynb")
    text = (folder / "looks.ipynb").read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    assert WIDGET not in text
    assert "widgets" not in notebook.metadata
    assert len(json.dumps(notebook.cells[1].outputs)) < 60_000, "a run adds so much at most"
    assert "Changed on the way" in notebook.cells[1].outputs[0].data["text/plain"]


PPO = """%%finetune ppo --model {model} --data rows --reward likes_e --as tuned
max_steps: 2000
batch_size: 4
minibatch_size: 4
max_new_tokens: 8"""
LIKES_E = """%load_ext nbadapt
rows = [{"prompt": f"say {i}", "completion": "yes"} for i in range(40)]
def likes_e(prompts, completions):
    return [text.count("e") / max(1, len(text)) for text in completions]"""


@pytest.mark.slow
def test_ppo_beside_its_panels(lab: str, folder: Path, page: Page):  # noqa: F811
    write_notebook(folder, "ppo.ipynb", "new", LIKES_E, PPO.format(model=tiny_models.folder("llama")))
    open_notebook(page, lab, "ppo.ipynb")
    connected(page)
    menu(page, "Run", "Run All Cells")
    begun(page)
    page.get_by_label("ask the model as it is now").fill("say 3")
    page.get_by_role("button", name="Sample now").click()
    expect(page.locator(".nbadapt-replies .nbadapt-sample")).to_have_count(1)
    page.get_by_role("button", name="Halve the learning rate").click()
    expect(outcome(page, "learning_rate")).to_contain_text("from step")
    wait_for_step(page, 30)
    page.locator(".nbadapt-pause").click()
    state(page, "paused")
    page.set_viewport_size({"width": 1100, "height": 1500})
    page.wait_for_timeout(500)
    picture(page, "live-7-ppo")
    page.locator(".nbadapt-stop").click()
    page.locator(".jp-OutputArea-output img[alt^='Loss by step']").wait_for()
    picture(page, "live-8-ppo-result")


@pytest.mark.slow
def test_the_dashboard_in_notebook_7(folder: Path, page: Page):  # noqa: F811
    cell = FINETUNE.format(model=tiny_models.folder("bert"), steps=20_000, evaluation=200)
    write_notebook(folder, "seven.ipynb", "new", BEGINNING, cell, "%nbadapt runs", "print('after', tuned.state)")
    with jupyterlab(folder, module="notebook") as address:
        page.goto(f"{address}/notebooks/seven.ipynb?token={TOKEN}")
        page.locator(".jp-Notebook").wait_for()
        page.wait_for_timeout(4000)  # the kernel is there when it says so, and there is no bar that does
        menu(page, "Run", "Run All Cells")
        begun(page)
        page.get_by_label("classify with the model as it is now").fill("a fine film")
        page.get_by_role("button", name="Sample now").click()
        expect(page.locator(".nbadapt-replies .nbadapt-sample")).to_have_count(1)
        page.get_by_label("Smoothing, in steps").press("ArrowRight")
        expect(page.get_by_label("Smoothing, in steps")).to_have_value("5")
        picture(page, "live-9-notebook-7")
        page.locator(".nbadapt-stop").click()
        page.locator(".jp-OutputArea-output img[alt^='Loss by step']").wait_for()
        expect(page.locator(".jp-OutputArea-output", has_text="after stopped")).to_be_visible()
        page.locator(".nbadapt-runs-count").wait_for()
        page.get_by_role("checkbox", name="compare tuned").first.press("Space")
        page.locator(".nbadapt-runs-legend li").first.wait_for()
        picture(page, "live-10-runs-notebook-7")


@pytest.mark.slow
def test_ranking_in_notebook_7(folder: Path, page: Page):  # noqa: F811
    rows = "rows = [{'prompt': f'q{i}', 'answer_a': f'good {i}', 'answer_b': f'bad {i}'} for i in range(3)]"
    rank = "%nbadapt rank --prompts rows --as prefs7"
    write_notebook(folder, "rank7.ipynb", "new", f"%load_ext nbadapt\n{rows}", rank, "print(len(prefs7), 'rows')")
    with jupyterlab(folder, module="notebook") as address:
        page.goto(f"{address}/notebooks/rank7.ipynb?token={TOKEN}")
        page.locator(".jp-Notebook").wait_for()
        page.wait_for_timeout(4000)
        menu(page, "Run", "Run All Cells")
        count = page.locator(".nbadapt-rank-count")
        expect(count).to_contain_text("0 of 3")
        expect(page.locator(".jp-OutputArea-output", has_text="0 rows")).to_be_visible()
        page.get_by_role("button", name="Left is better").click()
        expect(count).to_contain_text("1 of 3")
        page.keyboard.press("ArrowRight")
        expect(count).to_contain_text("2 of 3")
        picture(page, "live-11-rank-notebook-7")
    assert len((folder / "prefs7.votes.jsonl").read_text().splitlines()) == 2
