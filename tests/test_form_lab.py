"""The method form in real JupyterLab: chosen, slid, mended, inserted and run by clicks and keys."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import tiny_models
from kernels import WIDGET
from playwright.sync_api import Browser, Locator, Page, expect
from test_lab import (  # noqa: F401 - fixtures among them
    BEGINNING,
    TOKEN,
    browser,
    connected,
    jupyterlab,
    lab,
    menu,
    open_notebook,
    picture,
    save,
    theme,
    wait_for_step,
    write_notebook,
)

FIGURES_MS = 200  # from a moved slider to its figures
QUIET = 1.5  # of the processors: beside more work than that, a time says nothing about the form

pytestmark = [pytest.mark.browser, pytest.mark.alone]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("form")
    (folder / "rows.json").write_text(json.dumps(tiny_models.reviews(40)), encoding="utf-8")
    return folder


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:  # noqa: F811
    context = browser.new_context(viewport={"width": 1000, "height": 1250})
    page = context.new_page()
    page.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    yield page
    picture(page, f"last-{request.node.name}")
    context.close()


def field(page: Page, name: str) -> Locator:
    return page.locator(f'.nbadapt-field[data-name="{name}"]')


def cost(page: Page, name: str) -> Locator:
    return page.locator(".nbadapt-costs dl > div", has=page.locator("dt", has_text=name)).locator("dd")


@pytest.mark.parametrize("kernel", ["new", pytest.param("old", marks=pytest.mark.slow)])
def test_a_form_is_filled_in_inserted_and_run(lab: str, folder: Path, page: Page, kernel: str):  # noqa: F811
    name = f"form-{kernel}.ipynb"
    write_notebook(folder, name, kernel, BEGINNING, "%finetune bitfit", "print('the next cell runs')")
    open_notebook(page, lab, name)
    connected(page)
    menu(page, "Run", "Run All Cells")
    expect(page.locator(".jp-OutputArea-output", has_text="the next cell runs")).to_be_visible(timeout=60_000)
    form = page.locator(".nbadapt-form")
    form.wait_for()

    method = form.get_by_label("method", exact=True)
    expect(method.locator("optgroup").first).to_be_attached(timeout=60_000)
    assert "Low-rank" in method.locator("optgroup").evaluate_all("groups => groups.map(g => g.label)")
    method.select_option("lora")
    expect(field(page, "r")).to_be_visible()
    expect(method.locator("option:checked")).to_contain_text("low-rank")
    field(page, "--model").get_by_label("model", exact=True).select_option(label="other …")
    field(page, "--model").get_by_label("model, typed").fill(str(tiny_models.folder("bert")))
    expect(cost(page, "trainable parameters")).to_contain_text("2,114")
    expect(page.locator(".nbadapt-costs")).to_have_attribute("data-working", "false")
    picture(page, f"form-{kernel}-1-light")

    look_how_fast_figures_follow(page)
    expect(page.locator(".nbadapt-cell")).to_contain_text("r: 16")

    field(page, "r").get_by_label("r", exact=True).fill("0")
    expect(field(page, "r").locator(".nbadapt-error")).to_have_text("Input should be greater than or equal to 1")
    expect(field(page, "r").get_by_label("r", exact=True)).to_have_attribute("aria-invalid", "true")
    expect(page.locator(".nbadapt-run")).to_be_disabled()
    expect(page.locator(".nbadapt-said")).to_have_text("r: Input should be greater than or equal to 1")
    expect(page.locator(".nbadapt-insert")).to_be_disabled()
    picture(page, f"form-{kernel}-2-invalid")
    field(page, "r").get_by_label("r", exact=True).fill("4")
    expect(page.locator(".nbadapt-run")).to_be_enabled()

    theme(page, "JupyterLab Dark")
    expect(form).to_have_attribute("data-theme", "dark")
    picture(page, f"form-{kernel}-3-dark")
    theme(page, "JupyterLab Light")
    page.set_viewport_size({"width": 480, "height": 1700})
    page.wait_for_timeout(500)
    assert form.evaluate("f => f.scrollWidth <= f.clientWidth"), "nothing sticks out"
    picture(page, f"form-{kernel}-4-narrow")
    page.set_viewport_size({"width": 1000, "height": 1250})

    page.locator(".nbadapt-form summary", has_text="More settings").click()
    field(page, "epochs").get_by_label("epochs", exact=True).fill("10000")
    field(page, "max_steps").get_by_label("max_steps").fill("20000")
    expect(page.locator(".nbadapt-cell")).to_contain_text("max_steps: 20000")
    before = page.locator(".jp-Notebook-cell").count()
    page.locator(".nbadapt-insert").click()
    expect(page.locator(".jp-Notebook-cell")).to_have_count(before + 1)
    expect(page.locator(".jp-Notebook-cell").nth(2)).to_contain_text("max_steps: 20000")

    page.locator(".nbadapt-run").click()
    expect(page.locator(".nbadapt-form")).to_have_count(0)
    wait_for_step(page, 5)
    picture(page, f"form-{kernel}-5-dashboard")
    page.locator(".nbadapt-stop").click()
    page.locator(".jp-OutputArea-output img[alt^='Loss by step']").wait_for(timeout=120_000)
    expect(page.locator(".nbadapt")).to_have_count(0)
    picture(page, f"form-{kernel}-6-run")
    save(page, folder / name)
    look_at_the_saved_notebook(folder / name)


def look_how_fast_figures_follow(page: Page) -> None:
    """Move the slider of r there and back, and time the figures; where much else goes on, they are only printed."""
    page.evaluate(
        """() => {
          const rows = document.querySelector('.nbadapt-costs dl');
          window.moves = [];
          document.querySelector('.nbadapt-field[data-name="r"] input[type=range]')
            .addEventListener('input', () => { window.moves.push([performance.now()]); });
          const told = () => { window.moves.at(-1)?.push(performance.now()); };
          new MutationObserver(told).observe(rows, { childList: true });
        }"""
    )
    slider = field(page, "r").get_by_label("r, slider")
    moves = [("ArrowRight", "16", "4,162"), ("ArrowLeft", "8", "2,114")] * 4
    for key, value, parameters in [*moves, moves[0]]:
        slider.press(key)
        expect(field(page, "r").get_by_label("r", exact=True)).to_have_value(value)
        expect(cost(page, "trainable parameters")).to_contain_text(parameters)
    times = page.evaluate("window.moves.map(([slid, told]) => told - slid)")
    print(f"{statistics.median(times):.0f} ms from the slider to the figures, of {len(times)} moves")
    if os.getloadavg()[0] <= QUIET * (os.cpu_count() or 1):
        assert statistics.median(times) < FIGURES_MS, times


def look_at_the_saved_notebook(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    assert "widgets" not in notebook.metadata
    assert WIDGET not in text
    widget, shown, run = notebook.cells[1].outputs
    assert set(widget.data) <= {"text/html", "text/plain"}
    assert "%%finetune lora" in shown.data["text/html"]
    assert "data:image/png;base64," in run.data["text/html"]
    assert notebook.cells[2].source.startswith("%%finetune lora --model ")
    assert {"r: 4", "epochs: 10000", "max_steps: 20000"} <= set(notebook.cells[2].source.splitlines())
    assert len(text) < 60_000


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["new", "old"])
def test_a_form_on_a_reloaded_page_runs_and_stops(lab: str, folder: Path, page: Page, kernel: str):  # noqa: F811
    name = f"form-reload-{kernel}.ipynb"
    write_notebook(folder, name, kernel, BEGINNING, "%finetune lora")
    open_notebook(page, lab, name)
    connected(page)
    menu(page, "Run", "Run All Cells")
    expect(page.locator(".nbadapt-run")).to_be_enabled()  # the first estimate imports much
    model = field(page, "--model")
    model.get_by_label("model", exact=True).select_option(label="other …")
    model.get_by_label("model, typed").fill(str(tiny_models.folder("bert")))
    page.locator(".nbadapt-form summary", has_text="More settings").click()
    field(page, "epochs").get_by_label("epochs", exact=True).fill("10000")
    field(page, "max_steps").get_by_label("max_steps").fill("20000")
    expect(page.locator(".nbadapt-cell")).to_contain_text("max_steps: 20000")
    expect(page.locator(".nbadapt-run")).to_be_enabled()
    expect(page.locator(".nbadapt-costs")).to_have_attribute("data-working", "false")
    page.wait_for_timeout(2_500)  # its picture follows when it rests
    save(page, folder / name)
    picture_of_it = nbformat.read(folder / name, as_version=4).cells[1].outputs[1].data["text/plain"]
    assert "max_steps: 20000" in picture_of_it
    assert "trainable parameters" in picture_of_it

    page.reload()
    expect(field(page, "max_steps").get_by_label("max_steps")).to_have_value("20000")
    expect(page.locator(".nbadapt-run")).to_be_enabled()
    expect(page.get_by_text("needs a running kernel")).to_be_hidden()
    page.locator(".nbadapt-run").click()
    page.wait_for_function(
        "document.querySelector('.nbadapt:not(.nbadapt-form) .nbadapt-bar')?.getAttribute('aria-valuenow') >= 5"
    )
    expect(page.locator(".nbadapt-said")).to_contain_text("is at work")
    expect(page.locator(".nbadapt-run")).to_be_disabled()
    picture(page, f"form-reload-{kernel}-1-running")
    page.locator(".nbadapt:not(.nbadapt-form) .nbadapt-stop").click()
    expect(page.locator(".nbadapt-state")).to_have_text("stopped")
    expect(page.locator(".nbadapt-run")).to_be_enabled()
    expect(page.locator(".nbadapt:not(.nbadapt-form) canvas")).to_be_visible()
    picture(page, f"form-reload-{kernel}-2-stopped")
    page.locator(".nbadapt-form summary", has_text="More settings").click()
    field(page, "max_steps").get_by_label("max_steps").fill("3")
    expect(page.locator(".nbadapt-cell")).to_contain_text("max_steps: 3")
    page.locator(".nbadapt-run").click()  # and once more
    expect(page.locator(".nbadapt-state")).to_have_text("done")


@pytest.mark.slow
def test_the_form_in_notebook_7(folder: Path, page: Page):
    write_notebook(folder, "seven.ipynb", "new", BEGINNING, "%finetune lora", "print('after')")
    with jupyterlab(folder, module="notebook") as address:
        page.goto(f"{address}/notebooks/seven.ipynb?token={TOKEN}")
        page.locator(".jp-Notebook").wait_for()
        page.wait_for_timeout(4000)  # the kernel is there when it says so, and there is no bar that does
        menu(page, "Run", "Run All Cells")
        form = page.locator(".nbadapt-form")
        form.wait_for()
        expect(page.locator(".nbadapt-cell")).to_contain_text("--data rows")
        field(page, "r").get_by_label("r, slider").press("ArrowRight")
        expect(field(page, "r").get_by_label("r", exact=True)).to_have_value("16")
        expect(page.locator(".nbadapt-cell")).to_contain_text("r: 16")
        page.locator(".nbadapt-insert").click()
        expect(page.locator(".jp-Notebook-cell").nth(2)).to_contain_text("r: 16")
        picture(page, "form-notebook-7")
