"""The method form in real JupyterLab: chosen, slid, mended, inserted and run by clicks and keys."""

from __future__ import annotations

import json
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
    write_notebook,
)

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

    page.evaluate(
        """() => {
          const rows = document.querySelector('.nbadapt-costs dl');
          document.querySelector('.nbadapt-field[data-name="r"] input[type=range]')
            .addEventListener('input', () => { window.slid = performance.now(); });
          new MutationObserver(() => { window.told ??= performance.now(); }).observe(rows, { childList: true });
        }"""
    )
    field(page, "r").get_by_label("r, slider").press("ArrowRight")
    expect(field(page, "r").get_by_label("r", exact=True)).to_have_value("16")
    expect(cost(page, "trainable parameters")).to_contain_text("4,162")
    print(f"{page.evaluate('window.told - window.slid'):.0f} ms from the slider to the figures")
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
    field(page, "max_steps").get_by_label("max_steps").fill("30")
    expect(page.locator(".nbadapt-cell")).to_contain_text("max_steps: 30")
    before = page.locator(".jp-Notebook-cell").count()
    page.locator(".nbadapt-insert").click()
    expect(page.locator(".jp-Notebook-cell")).to_have_count(before + 1)
    expect(page.locator(".jp-Notebook-cell").nth(2)).to_contain_text("max_steps: 30")

    page.locator(".nbadapt-run").click()
    page.locator(".jp-OutputArea-output img[alt^='Loss by step']").wait_for(timeout=120_000)
    expect(page.locator(".nbadapt")).to_have_count(0)
    picture(page, f"form-{kernel}-5-run")
    save(page, folder / name)
    look_at_the_saved_notebook(folder / name)


def look_at_the_saved_notebook(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    assert "widgets" not in notebook.metadata
    assert WIDGET not in text
    shown, run = notebook.cells[1].outputs
    assert "%%finetune lora" in shown.data["text/html"]
    assert "data:image/png;base64," in run.data["text/html"]
    assert notebook.cells[2].source.startswith("%%finetune lora --model ")
    assert notebook.cells[2].source.endswith("r: 4\nmax_steps: 30")
    assert len(text) < 60_000


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
