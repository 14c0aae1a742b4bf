"""A person at work: real JupyterLab in headless Chromium, real kernels, a real LoRA run, real clicks."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import tiny_models
from kernels import VERSIONS, WIDGET, kernelspecs
from nbconvert import HTMLExporter
from playwright.sync_api import Browser, Page, expect, sync_playwright

pytestmark = [pytest.mark.browser, pytest.mark.alone]

TOKEN = "test"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ARTIFACTS = Path(__file__).parent / "artifacts"
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "docmanager-extension/plugin": {"autosave": False},
}
BEGINNING = "%load_ext nbadapt\nimport json, pathlib\nrows = json.loads(pathlib.Path('rows.json').read_text())"
FINETUNE = """%%finetune lora --model {model} --data rows --as tuned
batch_size: 2
max_steps: {steps}
epochs: 10000
eval_steps: {evaluation}
save_steps: 100000"""


@contextlib.contextmanager
def jupyterlab(folder: Path, *options: str, module: str = "jupyterlab") -> Iterator[str]:
    """A JupyterLab server, or one of `module`, on a free port whose notebooks lie in `folder`: its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = folder / ".settings"
    for name, content in SETTINGS.items():
        path = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
    command = [sys.executable, "-m", module, "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += [f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}", *options]
    environment = {
        **{name: value for name, value in os.environ.items() if name != "NBADAPT_RUNS"},
        "JUPYTER_PATH": str(kernelspecs()),
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / ".workspaces"),
    }
    with (folder / ".server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 60
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                assert server.poll() is None, (folder / ".server.log").read_text()
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    (folder / "rows.json").write_text(json.dumps(tiny_models.reviews(40)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def lab(folder: Path) -> Iterator[str]:
    with jupyterlab(folder) as address:
        yield address


@pytest.fixture(scope="module")
def lab_without_kernels(folder: Path) -> Iterator[str]:
    """Another server for the same notebooks, which has no kernel for them."""
    none = ["--KernelSpecManager.ensure_native_kernel=False", "--KernelSpecManager.allowed_kernelspecs=none"]
    with jupyterlab(folder, *none) as address:
        yield address


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    page = context.new_page()
    page.set_default_timeout(30_000)
    yield page
    picture(page, f"last-{request.node.name}")
    context.close()


def theme(page: Page, name: str) -> None:
    """Choose a theme in JupyterLab's menu, and wait until its curtain is gone."""
    page.get_by_role("menuitem", name="Settings", exact=True).click()
    for item in ("Theme", name):
        page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{item}$")).click()
    page.locator(f"body[data-jp-theme-name='{name}']").wait_for(state="attached")
    expect(page.locator("#jupyterlab-splash")).to_have_count(0)
    page.wait_for_timeout(300)


def write_notebook(folder: Path, name: str, kernel: str, *sources: str) -> Path:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    notebook.metadata.kernelspec = {"name": kernel, "display_name": kernel, "language": "python"}
    nbformat.write(notebook, folder / name)
    return folder / name


def open_notebook(page: Page, address: str, name: str) -> None:
    page.goto(f"{address}/doc/tree/{name}?token={TOKEN}")
    page.locator(".jp-Notebook").wait_for()


def connected(page: Page) -> None:
    expect(page.locator("#jp-bottom-panel", has_text="ipykernel) | Idle")).to_be_visible(timeout=20_000)
    page.wait_for_timeout(300)


def menu(page: Page, title: str, item: str) -> None:
    page.get_by_role("menuitem", name=title, exact=True).click()
    page.get_by_role("menuitem", name=item, exact=True).click()


def picture(page: Page, name: str) -> None:
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"{name}.png")


def save(page: Page, notebook: Path) -> None:
    before, start, presses = notebook.stat().st_mtime_ns, time.monotonic(), 0
    while notebook.stat().st_mtime_ns == before or not notebook.read_text(encoding="utf-8").rstrip().endswith("}"):
        waited = time.monotonic() - start
        assert waited < 25, "the notebook was not saved"
        if waited >= 8 * presses:  # JupyterLab drops a press while it saves by itself
            page.keyboard.press("Control+s")
            presses += 1
        page.wait_for_timeout(50)


def step_shown(page: Page) -> int:
    return int(page.locator(".nbadapt-bar").get_attribute("aria-valuenow") or 0)


def wait_for_step(page: Page, step: int) -> None:
    page.wait_for_function(
        "n => Number(document.querySelector('.nbadapt-bar')?.getAttribute('aria-valuenow')) >= n", arg=step
    )


def state(page: Page, expected: str) -> None:
    expect(page.locator(".nbadapt-state")).to_have_text(expected, timeout=20_000)


def click_and_time(page: Page, selector: str) -> float:
    """Click, and tell when the page got the click, in seconds since the epoch."""
    page.evaluate(
        "s => document.querySelector(s).addEventListener('click', () => { window.clicked = Date.now(); }, true)",
        selector,
    )
    page.locator(selector).click()
    return float(page.evaluate("window.clicked")) / 1000


def records(folder: Path) -> list[dict[str, Any]]:
    """The events of the newest run below a folder."""
    newest = max(folder.glob("nbadapt_runs/*/events.jsonl"), key=lambda path: path.stat().st_mtime)
    return [json.loads(line) for line in newest.read_text(encoding="utf-8").splitlines()]


def usual_step(events: list[dict[str, Any]]) -> float:
    """Seconds that a step takes."""
    times = [event["time"] for event in events if event["event"] == "progress"]
    return statistics.median(b - a for a, b in itertools.pairwise(times))


@pytest.mark.parametrize("kernel", VERSIONS)
def test_a_run_is_watched_paused_stopped_and_kept(
    lab: str, lab_without_kernels: str, folder: Path, page: Page, kernel: str
):
    name = f"session-{kernel}.ipynb"
    cell = FINETUNE.format(model=tiny_models.folder("bert"), steps=20_000, evaluation=200)
    write_notebook(folder, name, kernel, BEGINNING, cell, "print('the next cell finds it', tuned.state)")
    open_notebook(page, lab, name)
    connected(page)
    menu(page, "Run", "Run All Cells")

    state(page, "running")
    wait_for_step(page, 20)
    chart = page.locator(".nbadapt canvas")
    before, at = chart.screenshot(), step_shown(page)
    wait_for_step(page, at + 20)
    assert chart.screenshot() != before, "the chart moves"
    picture(page, f"{kernel}-1-running")

    clicks = []
    for _ in range(3):
        clicks.append(click_and_time(page, ".nbadapt-pause"))
        state(page, "paused")
        held = step_shown(page)
        time.sleep(0.5)
        assert step_shown(page) == held
        picture(page, f"{kernel}-2-paused")
        page.locator(".nbadapt-pause").click()
        state(page, "running")
        wait_for_step(page, held + 5)

    clicks.append(click_and_time(page, ".nbadapt-stop"))
    result = page.locator(".jp-OutputArea-output img[alt^='Loss by step']")
    result.wait_for()
    expect(page.locator(".nbadapt")).to_have_count(0)
    expect(page.locator(".jp-OutputArea-output", has_text="the next cell finds it stopped")).to_be_visible()
    picture(page, f"{kernel}-3-result")

    events = records(folder)
    acted = [e["time"] for e in events if e["event"] == "state" and e["state"] in {"paused", "stopping"}]
    waits = [then - click for click, then in zip(clicks, acted, strict=True)]
    assert statistics.median(waits) < usual_step(events) + 0.1, waits

    save(page, folder / name)
    look_at_the_saved_notebook(folder / name)
    page.goto("about:blank")
    open_notebook(page, lab_without_kernels, name)
    page.locator(".jp-Dialog select").select_option(label="No Kernel")
    page.locator(".jp-Dialog .jp-mod-accept").click()
    result.wait_for()
    expect(page.locator(".jp-OutputArea-output td", has_text="Trained parameters")).to_be_visible()
    picture(page, f"{kernel}-4-without-kernel")


def look_at_the_saved_notebook(path: Path) -> None:
    """It holds the figure and the table, no widget, and stays small; so does its export."""
    text = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    assert "widgets" not in notebook.metadata
    assert WIDGET not in text
    (output,) = notebook.cells[1].outputs
    assert set(output.data) == {"text/html", "text/plain"}
    assert "data:image/png;base64," in output.data["text/html"]
    assert "stopped" in output.data["text/plain"]
    assert len(json.dumps(output.data)) < 60_000
    page, _ = HTMLExporter().from_notebook_node(notebook)
    assert 'alt="Loss by step' in page


@pytest.mark.parametrize("kernel", ["new", pytest.param("old", marks=pytest.mark.slow)])
def test_a_reloaded_page_finds_the_run_again(lab: str, folder: Path, page: Page, kernel: str):
    name = f"reload-{kernel}.ipynb"
    cell = FINETUNE.format(model=tiny_models.folder("bert"), steps=20_000, evaluation=200)
    write_notebook(folder, name, kernel, BEGINNING, cell)
    open_notebook(page, lab, name)
    connected(page)
    menu(page, "Run", "Run All Cells")
    state(page, "running")
    wait_for_step(page, 5)
    save(page, folder / name)
    seen = step_shown(page)

    page.reload()
    expect(page.locator(".nbadapt-state")).to_have_text("running", timeout=20_000)
    wait_for_step(page, seen + 10)
    picture(page, f"{kernel}-5-reloaded")
    page.locator(".nbadapt-stop").click()
    state(page, "stopped")
    time.sleep(1)
    expect(page.locator(".nbadapt canvas")).to_be_visible()  # the page has lost track of the cell's display
    picture(page, f"{kernel}-6-reloaded-end")


@pytest.mark.parametrize("kernel", ["new", pytest.param("old", marks=pytest.mark.slow)])
def test_a_run_in_the_background_has_its_own_cell(lab: str, folder: Path, page: Page, kernel: str):
    name = f"background-{kernel}.ipynb"
    cell = FINETUNE.format(model=tiny_models.folder("bert"), steps=20_000, evaluation=200)
    write_notebook(folder, name, kernel, BEGINNING, cell.replace("tuned", "tuned --background"), "print(tuned.alive)")
    open_notebook(page, lab, name)
    connected(page)
    menu(page, "Run", "Run All Cells")
    cells = page.locator(".jp-Notebook-cell")
    expect(cells.nth(2).locator(".jp-OutputArea-output")).to_have_text("True", timeout=30_000)
    wait_for_step(page, step_shown(page) + 10)
    picture(page, f"{kernel}-7-background")
    page.locator(".nbadapt-stop").click()
    cells.nth(1).locator("img[alt^='Loss by step']").wait_for()
    expect(page.locator(".nbadapt")).to_have_count(0)
    expect(cells.nth(2).locator(".jp-OutputArea-output")).to_have_text("True")
