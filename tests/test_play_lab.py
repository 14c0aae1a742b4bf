"""The playground in real JupyterLab: asked by keys, stopped while it writes, a better answer kept; dark, narrow."""

from __future__ import annotations

import json
import time
from pathlib import Path

import nbformat
import pytest
import tiny_models
from kernels import WIDGET
from playwright.sync_api import Page, expect
from test_lab import (  # noqa: F401 - fixtures among them
    TOKEN,
    browser,
    connected,
    folder,
    jupyterlab,
    lab,
    menu,
    open_notebook,
    page,
    picture,
    save,
    theme,
    write_notebook,
)

pytestmark = [pytest.mark.browser, pytest.mark.alone]

BEGINNING = """%load_ext nbadapt
import os
os.environ["NBADAPT_RUNS"] = "runs-of-play"
import nbadapt, json, pathlib
rows = json.loads(pathlib.Path('rows.json').read_text())
pairs = [{"prompt": r["text"], "completion": r["label"]} for r in rows]
os.environ["NBADAPT_UI"] = "text"
writer = nbadapt.finetune("lora", model=MODEL, data=pairs, max_steps=6, batch_size=4, samples=0, learning_rate=0.05)
judge = nbadapt.finetune("features", model=ENCODER, data=rows)
os.environ["NBADAPT_UI"] = "live"
print('ready')"""


def beginning() -> str:
    names = {"MODEL": tiny_models.folder("llama"), "ENCODER": tiny_models.folder("bert")}
    source = BEGINNING
    for name, path in names.items():
        source = source.replace(f"model={name}", f"model={str(path)!r}")
    return source


def say(page: Page, text: str) -> None:  # noqa: F811
    expect(page.locator(".nbadapt-run")).to_be_enabled(timeout=20_000)  # the kernel has answered
    page.get_by_label("prompt", exact=True).fill(text)
    page.keyboard.press("Control+Enter")


def states(page: Page, *expected: str) -> None:  # noqa: F811
    for place, state in enumerate(expected):
        expect(page.locator(".nbadapt-answer").nth(place)).to_have_attribute("data-state", state, timeout=30_000)


@pytest.mark.parametrize("kernel", ["new", pytest.param("old", marks=pytest.mark.slow)])
def test_answers_side_by_side(lab: str, folder: Path, page: Page, kernel: str):  # noqa: F811
    name = f"play-{kernel}.ipynb"
    after = "print('the next cell runs')"
    write_notebook(folder, name, kernel, beginning(), "%nbadapt play judge writer --as liked", after)
    open_notebook(page, lab, name)
    connected(page)
    menu(page, "Run", "Run All Cells")
    expect(page.locator(".jp-OutputArea-output", has_text="the next cell runs")).to_be_visible(timeout=90_000)
    root = page.locator(".nbadapt-play")
    root.wait_for()
    page.get_by_label("longest answer", exact=True).fill("24")
    say(page, "The film number 3 was terrible and dull.")
    states(page, "done", "done", "done")
    expect(page.locator(".nbadapt-top tr")).not_to_have_count(0)
    expect(page.locator("ins").first).to_be_visible()
    root.scroll_into_view_if_needed()
    picture(page, f"play-{kernel}-1-light")
    theme(page, "JupyterLab Dark")
    expect(root).to_have_attribute("data-theme", "dark")
    picture(page, f"play-{kernel}-2-dark")
    page.set_viewport_size({"width": 480, "height": 1500})
    page.wait_for_timeout(300)
    assert root.evaluate("f => f.scrollWidth <= f.clientWidth"), "nothing sticks out"
    picture(page, f"play-{kernel}-3-narrow-dark")
    page.set_viewport_size({"width": 1100, "height": 900})
    theme(page, "JupyterLab Dark High Contrast")
    picture(page, f"play-{kernel}-3-contrast")
    theme(page, "JupyterLab Light")

    page.get_by_role("button", name="writer: this answer is better").press("Enter")
    expect(page.locator(".nbadapt-kept")).to_contain_text("1 preference in liked.jsonl")
    (row,) = [json.loads(line) for line in (folder / "liked.jsonl").read_text().splitlines()]
    assert row["prompt"] == "The film number 3 was terrible and dull."

    page.get_by_label("longest answer", exact=True).fill("480")
    say(page, "Tell me a very long story.")
    expect(page.locator(".nbadapt-answer").nth(1).locator(".nbadapt-answer-line")).to_contain_text("tokens")
    picture(page, f"play-{kernel}-4-streaming")
    clicked = time.monotonic()
    page.get_by_role("button", name="Stop").click()
    states(page, "done", "stopped", "stopped")
    assert time.monotonic() - clicked < 3
    look_at_the_end(page, folder / name)
    (folder / "liked.jsonl").unlink()
    (folder / "liked.votes.jsonl").unlink()


def look_at_the_end(page: Page, path: Path) -> None:  # noqa: F811
    """A reload finds the playground again; closed, it leaves text and HTML and no widget."""
    page.wait_for_timeout(300)
    save(page, path)
    kept = nbformat.read(path, as_version=4)
    assert "widgets" not in kept.metadata
    page.get_by_role("button", name="Close").click()
    expect(page.locator(".nbadapt-play")).to_have_count(0)
    expect(page.locator(".jp-OutputArea-output table", has_text="writer")).to_be_visible()
    picture(page, f"{path.stem}-5-closed")
    save(page, path)
    text = path.read_text(encoding="utf-8")
    assert WIDGET not in text
    assert len(text) < 60_000
    outputs = nbformat.reads(text, as_version=4).cells[1].outputs
    assert any("Tell me a very long story." in output.data["text/plain"] for output in outputs)


@pytest.mark.slow
def test_a_reloaded_page_and_notebook_7_go_on(folder: Path, page: Page):  # noqa: F811
    write_notebook(folder, "play-seven.ipynb", "new", beginning(), "%nbadapt play writer", "print('after')")
    with jupyterlab(folder, module="notebook") as address:
        page.goto(f"{address}/notebooks/play-seven.ipynb?token={TOKEN}")
        page.locator(".jp-Notebook").wait_for()
        page.wait_for_timeout(4000)  # the kernel is there when it says so, and there is no bar that does
        menu(page, "Run", "Run All Cells")
        expect(page.locator(".jp-OutputArea-output", has_text="after")).to_be_visible(timeout=90_000)
        page.get_by_label("longest answer", exact=True).fill("12")
        say(page, "The film number 3 was terrible.")
        states(page, "done", "done")
        save(page, folder / "play-seven.ipynb")
        page.reload()
        page.locator(".jp-Notebook").wait_for()
        states(page, "done", "done")
        assert page.get_by_label("prompt", exact=True).input_value() == "The film number 3 was terrible."
        say(page, "Another one.")
        expect(page.locator(".nbadapt-run")).to_be_enabled()
        states(page, "done", "done")
        picture(page, "play-notebook-7")
