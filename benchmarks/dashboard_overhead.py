"""What the live dashboard costs: training steps a second with it and without it, in a real JupyterLab.

usage: python benchmarks/dashboard_overhead.py [--data FOLDER] [--pairs 10] [--steps 200]

One notebook in JupyterLab, open in a headless Chromium on the same machine, trains MiniLM with LoRA again and
again, in turn with the dashboard on the page and with lines of text (NBADAPT_UI=text), first one then the other.
The browser draws on the same cores that train, so this is the worst case. Steps a second are counted from the
20th step to the last. Writes benchmarks/results/dashboard_overhead.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from playwright.sync_api import sync_playwright
from report import environment, save, table

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "tests"))

from test_lab import ARGUMENTS, jupyterlab, menu, open_notebook, write_notebook  # noqa: E402 - found just above

SKIPPED = 20  # steps, in which the page loads the widget
COUNT_DASHBOARDS = """() => {
  window.dashboards = new Set();
  const look = () => document.querySelectorAll(".nbadapt canvas").forEach((c) => window.dashboards.add(c));
  new MutationObserver(look).observe(document.body, {childList: true, subtree: true});
}"""
MEASURE = """
import json, os, pathlib
import pandas, nbadapt
from IPython.display import clear_output
from nbadapt.events import Progress

def speed(ui):
    "Steps a second of one run."
    clear_output()
    os.environ["NBADAPT_UI"] = ui
    run = nbadapt.finetune(
        "lora", model="minilm", data=rows, eval=rows[:32], r=8, target_modules=["query", "value"],
        epochs=1000, max_steps={steps}, eval_steps=10**6, save_steps=10**6,
    )
    steps = [(time, event.step) for time, event in run.events if isinstance(event, Progress)]
    (start, first), (end, last) = steps[{skipped}], steps[-1]
    return (last - first) / (end - start)

rows = pandas.read_csv({train!r})[:2000]
speed("text")  # the first run warms up
measured = []
for i in range({pairs}):
    order = ("auto", "text") if i % 2 else ("text", "auto")
    measured.append({{ui: speed(ui) for ui in order}})
    pathlib.Path("measured.json").write_text(json.dumps(measured))
pathlib.Path("done").touch()
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    train = arguments.data / "movie_reviews_train.csv"
    if not train.is_file():
        sys.exit(f"no movie_reviews_train.csv in {arguments.data}: name its folder with --data")
    pairs = measure(train.resolve(), arguments.pairs, arguments.steps)
    save("dashboard_overhead", report(pairs))


def measure(train: Path, pairs: int, steps: int) -> list[dict[str, float]]:
    """Steps a second, pair by pair: "auto" with the dashboard, "text" without."""
    chromium = shutil.which("chromium") or sys.exit("this benchmark needs Chromium: apt-get install chromium")
    code = MEASURE.format(train=str(train), pairs=pairs, steps=steps, skipped=SKIPPED)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_notebook(folder, "overhead.ipynb", "python3", code)
        with jupyterlab(folder, folder / ".jupyter") as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
            page = browser.new_page(viewport={"width": 1200, "height": 900})
            open_notebook(page, address, "overhead.ipynb")
            page.evaluate(COUNT_DASHBOARDS)
            menu(page, "Run", "Run All Cells")
            while not (folder / "done").exists():
                if page.locator("[data-mime-type='application/vnd.jupyter.stderr']", has_text="Error").count():
                    sys.exit(page.locator(".jp-OutputArea").inner_text())
                time.sleep(1)
            shown = page.evaluate("window.dashboards.size")
            assert shown >= pairs, f"the page showed {shown} dashboards in {pairs} runs"
            measured: list[dict[str, float]] = json.loads((folder / "measured.json").read_text(encoding="utf-8"))
            browser.close()
    return measured


def report(pairs: list[dict[str, float]]) -> str:
    """The results as Markdown."""
    rows = [
        (str(i), f"{pair['text']:.2f}", f"{pair['auto']:.2f}", f"{pair['auto'] / pair['text']:.3f}")
        for i, pair in enumerate(pairs, 1)
    ]
    ratio = median(pair["auto"] / pair["text"] for pair in pairs)
    return "\n\n".join(
        [
            "# The cost of the live dashboard",
            "LoRA on MiniLM in a JupyterLab notebook, open in Chromium on the same machine, with the dashboard on "
            "the page and without it, in turn. How: [dashboard_overhead.py](../dashboard_overhead.py).",
            table(("pair", "without, steps/s", "with, steps/s", "ratio"), rows),
            f"**With the dashboard training reaches {100 * ratio:.1f} % of the steps a second without it** "
            "(median of the pairs' ratios).",
            environment("benchmarks/dashboard_overhead.py", ("torch", "jupyterlab", "ipykernel", "anywidget")),
        ]
    )


if __name__ == "__main__":
    main()
