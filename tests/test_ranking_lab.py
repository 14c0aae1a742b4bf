"""A person ranks in real JupyterLab: clicks and keys become lines of the files; light, dark, narrow."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from kernels import WIDGET
from playwright.sync_api import Page, expect
from test_lab import browser, connected, folder, lab, menu, open_notebook, page, picture, save, theme, write_notebook  # noqa: F401

from nbadapt import data

pytestmark = [pytest.mark.browser, pytest.mark.alone]

HOSTILE = "<img src=x onerror=\"document.title='broken'\"><b>bold</b>"
BEGINNING = f"""%load_ext nbadapt
poems = [
    {{
        "prompt": f"Write a line about the river, number {{i}}." + ({HOSTILE!r} if i == 1 else ""),
        "answer_a": f"good {{i}}: The river carries the lamps of the town to the sea, and brings back their names.",
        "answer_b": f"bad {{i}}: River is wet. " * 12,
    }}
    for i in range(6)
]"""
RANK = "%nbadapt rank --prompts poems --as prefs"
AFTER = "print(len(prefs), 'rows')"


def votes(folder: Path) -> list[dict]:  # noqa: F811
    file = folder / "prefs.votes.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def judged(page: Page, done: int) -> None:  # noqa: F811
    expect(page.locator(".nbadapt-rank-count")).to_contain_text(f"{done} of 6", timeout=15_000)


def test_clicks_and_keys_become_preferences(lab: str, folder: Path, page: Page):  # noqa: F811
    write_notebook(folder, "rank.ipynb", "new", BEGINNING, RANK, AFTER)
    open_notebook(page, lab, "rank.ipynb")
    connected(page)
    menu(page, "Run", "Run All Cells")
    root = page.locator(".nbadapt-rank")
    judged(page, 0)
    expect(page.locator(".jp-OutputArea-output", has_text="0 rows")).to_be_visible()  # the command has returned
    expect(page.locator(".nbadapt-rank-prompt")).to_contain_text(HOSTILE)  # the seed puts it first
    assert page.locator(".nbadapt-rank b, .nbadapt-rank img").count() == 0
    picture(page, "rank-1-light")
    assert page.locator(".nbadapt-rank-answer").count() == 2
    left, right = (text.inner_text() for text in page.locator(".nbadapt-rank-text").all())

    page.get_by_role("button", name="Left is better").click()
    judged(page, 1)
    first = votes(folder)[0]
    assert first["choice"] == "left"
    assert [text.strip() for text in first["answers"]] == [left.strip(), right.strip()]
    expect(root).to_be_focused()
    page.keyboard.press("ArrowRight")
    judged(page, 2)
    page.keyboard.press("t")
    judged(page, 3)
    page.keyboard.press("s")
    judged(page, 4)
    page.keyboard.press("1")
    judged(page, 5)
    page.keyboard.press("u")
    judged(page, 4)
    told = votes(folder)
    assert [vote.get("choice", "undo") for vote in told] == ["left", "right", "tie", "skip", "left", "undo"]
    assert told[5]["undo"] == told[4]["vote"]
    assert len(data.read(folder / "prefs.jsonl", name="prefs")) == 2

    theme(page, "JupyterLab Dark")
    picture(page, "rank-2-dark")
    page.set_viewport_size({"width": 480, "height": 900})
    expect(page.get_by_role("button", name="Upper is better")).to_be_visible()
    root.scroll_into_view_if_needed()
    picture(page, "rank-3-narrow-dark")
    page.set_viewport_size({"width": 1100, "height": 900})
    theme(page, "JupyterLab Light")

    page.get_by_role("button", name="Left is better").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    picture(page, "rank-4-focus")
    page.keyboard.press("Enter")
    judged(page, 5)
    page.keyboard.press("Tab")  # from the widget itself into it
    page.get_by_role("button", name="Right is better").click()
    judged(page, 6)
    expect(page.locator(".nbadapt-rank-status")).to_contain_text("4 preferences in prefs.jsonl")
    expect(page.locator(".nbadapt-rank-title")).to_have_text("All answers are ranked")
    picture(page, "rank-5-done")
    assert page.title() != "broken"
    page.get_by_role("button", name="Close").click()
    expect(root).to_have_count(0)
    page.locator(".jp-OutputArea-output summary", has_text="The last 3 preferences").click()
    picture(page, "rank-6-result")

    save(page, folder / "rank.ipynb")
    text = (folder / "rank.ipynb").read_text(encoding="utf-8")
    assert WIDGET not in text
    assert len(text) < 20_000
    outputs = nbformat.reads(text, as_version=4).cells[1].outputs
    assert any("4 preferences in prefs.jsonl" in output.data["text/plain"] for output in outputs)

    menu(page, "Run", "Run All Cells")  # goes on where it was
    judged(page, 6)
    page.get_by_role("button", name="Undo").click()
    judged(page, 5)
    save(page, folder / "rank.ipynb")
    page.reload()
    page.locator(".jp-Notebook").wait_for()
    judged(page, 5)
    page.get_by_role("button", name="Left is better").click()
    judged(page, 6)
    assert [vote.get("choice", "undo") for vote in votes(folder)][-2:] == ["undo", "left"]
    page.get_by_role("button", name="Close").click()
    expect(page.locator(".nbadapt-rank-status")).to_contain_text("closed; 4 preferences in prefs.jsonl")
