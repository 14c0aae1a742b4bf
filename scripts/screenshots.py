"""Take the pictures of README: a notebook in real JupyterLab, in headless Chromium, driven by keys and clicks.

usage: python scripts/screenshots.py [SCENE...]

All scenes are of one notebook, in their order; with names only those are kept, in docs/images. It trains small models
first, some minutes on a CPU.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from test_lab import ARGUMENTS, connected, jupyterlab, open_notebook, wait_for_step, write_notebook  # noqa: E402

IMAGES = ROOT / "docs" / "images"
COLOURS = 96  # of a picture's palette: text stays sharp, and a picture is a fifth of its size
LONG = 600_000  # milliseconds that training may take
EDGE = 3  # pixels of page around a widget

BEGINNING = """%load_ext nbadapt
from nbadapt import datasets
messages = datasets.load("bicycle_shop")"""
REPLIES = """import pandas as pd

replies = {
    "order": "Thanks for asking! Your order is on its way. Best wishes, the shop",
    "rental": "Thanks for asking! We keep a bike for you. Best wishes, the shop",
    "repair": "Thanks for asking! Bring the bike and we repair it. Best wishes, the shop",
    "return": "Thanks for asking! Send it back within 30 days. Best wishes, the shop",
    "other": "Thanks for asking! Please call us about it. Best wishes, the shop",
}
some = messages.groupby("label").sample(8, random_state=0).sample(frac=1, random_state=0)
letters = pd.DataFrame({"prompt": some.text, "completion": some.label.map(replies)})"""


def idle(page: Page) -> None:
    """Wait for the end of the cell that was run last."""
    page.evaluate("() => window.ran")


@dataclass(frozen=True)
class Scene:
    """One picture, and what comes before it in the notebook.

    Attributes:
        name: of the file, without its ending.
        sources: cells that are run in their order; the last one shows what is pictured.
        ready: drives the page until it is as it should be, and gives what is pictured.
        alone: no later scene rests on its cells.
        height: pixels that are kept of it, from its top.
    """

    name: str
    sources: tuple[str, ...]
    ready: Callable[[Page], Locator]
    alone: bool = False
    height: int = 1600


def train(page: Page) -> Locator:
    """A run at work, with some of its curve drawn."""
    wait_for_step(page, 110)
    return page.locator(".nbadapt:not(.nbadapt-form)")


def fill_in(page: Page) -> Locator:
    """The form, with its figures known."""
    form = page.locator(".nbadapt-form")
    form.wait_for()
    expect(page.locator(".nbadapt-costs")).to_have_attribute("data-working", "false", timeout=LONG)
    page.locator('.nbadapt-field[data-name="r"] input[type=range]').press("ArrowRight")
    expect(page.locator(".nbadapt-cell")).to_contain_text("r: 16")
    expect(page.locator(".nbadapt-costs")).to_have_attribute("data-working", "false", timeout=LONG)
    return form


def tick(page: Page) -> Locator:
    """The table of runs with a comparison of all of them."""
    root = page.locator(".nbadapt-runs")
    root.wait_for()
    boxes = root.locator("tbody input[type=checkbox]")
    expect(boxes).not_to_have_count(0)
    for place in range(min(3, boxes.count())):
        boxes.nth(place).check()
        page.wait_for_timeout(400)
    page.wait_for_timeout(1500)
    return root


def answered(prompt: str, by: str) -> Callable[[Page], Locator]:
    """The playground of a run with what was said to a prompt."""

    def ready(page: Page) -> Locator:
        idle(page)
        root = page.locator(".nbadapt-play", has=page.locator(".nbadapt-answer", has_text=by)).last
        expect(root.locator(".nbadapt-run")).to_be_enabled(timeout=LONG)
        root.get_by_label("prompt", exact=True).fill(prompt)
        page.keyboard.press("Control+Enter")
        for answer in root.locator(".nbadapt-answer").all():
            expect(answer).to_have_attribute("data-state", "done", timeout=LONG)
        page.wait_for_timeout(500)
        return root

    return ready


def compared(page: Page) -> Locator:
    """The answer of a comparison that has ended."""
    idle(page)
    answer = page.locator(".jp-CodeCell", has_text="%%compare").locator(".jp-OutputArea-child").last
    expect(answer.locator("img").first).to_be_visible()
    page.wait_for_timeout(500)
    return answer.locator(".jp-OutputArea-output")


SCENES = (
    Scene(
        "dashboard",
        (BEGINNING, "%%finetune lora --model minilm --data messages --as tuned\nepochs: 6\ntarget_modules: all-linear"),
        train,
    ),
    Scene("form", ("%finetune lora",), fill_in, alone=True),
    Scene(
        "runs",
        (
            "%%finetune output-layers --model minilm --data messages --as plain",
            "%%finetune lora --model minilm --data messages --as small\nr: 2\nepochs: 1",
            "%nbadapt runs",
        ),
        tick,
        height=550,
    ),
    Scene(
        "words",
        ("%nbadapt play tuned plain",),
        answered("The derailleur I bought yesterday is broken, I want to send it back.", by="plain"),
    ),
    Scene(
        "playground",
        (
            REPLIES,
            "%%finetune lora --model smollm2 --data letters --as polite\n"
            "learning_rate: 2e-3\nmax_steps: 14\nbatch_size: 4\nsamples: 0",
            "%nbadapt play polite",
        ),
        answered("My front brake squeals. Can you look at it today?", by="polite"),
    ),
    Scene(
        "compare",
        (
            "%%compare --model minilm --data messages --as found\nfeatures:\noutput-layers:\n"
            "lora: {r: [4, 16], target_modules: all-linear}\nfew-shot: {model: smollm2, shots: 8}",
        ),
        compared,
        alone=True,
    ),
)


def main(names: list[str]) -> int:
    """Play the scenes that are wanted, and those that they rest on; the exit status."""
    unknown = set(names) - {scene.name for scene in SCENES}
    chromium = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    if unknown or chromium is None:
        fault = f"no scene {', '.join(unknown)}" if unknown else "needs Chromium: apt-get install chromium"
        print(fault, file=sys.stderr)
        return 1
    wanted = names or [scene.name for scene in SCENES]
    last = max(place for place, scene in enumerate(SCENES) if scene.name in wanted)
    played = [scene for scene in SCENES[: last + 1] if scene.name in wanted or not scene.alone]
    IMAGES.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as room,
        jupyterlab(Path(room), "--LabApp.expose_app_in_browser=True") as address,
        sync_playwright() as playwright,
    ):
        sources = [source for scene in played for source in scene.sources]
        write_notebook(Path(room), "scenes.ipynb", "python3", *sources)
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1000, "height": 1700})
        page.set_default_timeout(LONG)
        open_notebook(page, address, "scenes.ipynb")
        connected(page)
        first = 0
        for scene in played:
            play(page, scene, first, kept=scene.name in wanted)
            first += len(scene.sources)
        browser.close()
    return 0


def play(page: Page, scene: Scene, first: int, *, kept: bool) -> None:
    """Run the cells of a scene, which begin at the place `first`, and keep its picture where that is wanted."""
    for place, source in enumerate(scene.sources, first):
        # By JupyterLab's own command, whose promise ends with the cell, and by place: a click into a widget makes its
        # cell the active one.
        page.evaluate(
            """place => {
              window.jupyterapp.shell.currentWidget.content.activeCellIndex = place;
              window.ran = window.jupyterapp.commands.execute("notebook:run-cell");
            }""",
            place,
        )
        if source != scene.sources[-1]:
            idle(page)
    if kept:
        keep(page, scene.ready(page), IMAGES / f"{scene.name}.png", scene.height)
    idle(page)


def keep(page: Page, shown: Locator, path: Path, height: int) -> None:
    """Picture an element, or its upper part, with a little of the page around it, in few colours."""
    shown.scroll_into_view_if_needed()
    page.mouse.move(2, 2)
    page.wait_for_timeout(300)
    box = shown.bounding_box()
    assert box is not None, path.stem
    area = {
        "x": max(0, box["x"] - EDGE),
        "y": max(0, box["y"] - EDGE),
        "width": box["width"] + 2 * EDGE,
        "height": min(box["height"], height) + 2 * EDGE,
    }
    picture = Image.open(io.BytesIO(page.screenshot(clip=area))).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {picture.width} x {picture.height}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
