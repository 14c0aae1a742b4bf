"""What the live dashboard costs: training steps a second with it and without it, in a real JupyterLab.

usage: python benchmarks/dashboard_overhead.py [--data FOLDER] [--pairs 30] [--steps 50]

One notebook in JupyterLab, open in a headless Chromium on the same machine, trains MiniLM with LoRA under its
dashboard, which is kept from updating in every other stretch of steps. The rows are of equal length, so that every
step is the same work; neighbouring stretches are compared, because the machine's speed drifts by more than what is
looked for. The browser draws on the same cores that train, without a graphics card: the worst case. Writes
benchmarks/results/dashboard_overhead.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import quantiles

from playwright.sync_api import sync_playwright
from report import environment, save, table

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "tests"))

from test_lab import ARGUMENTS, jupyterlab, menu, open_notebook, write_notebook  # noqa: E402 - found just above

SKIPPED = 5  # steps of a stretch, in which the page may still be drawing what came before
WARM_UP = 200  # steps: until a run updates its dashboard at its lasting pace
TOKENS = 32  # of every row
MEASURE = """
import json, pathlib
import pandas, nbadapt
from nbadapt import view
from nbadapt.events import Progress

update = view.KernelView.update

def update_in_turn(self):
    step = next((e.step for _, e in reversed(self._run.events) if isinstance(e, Progress)), 0)
    if step < {warm_up} or (step - {warm_up}) // {steps} % 2:
        update(self)

view.KernelView.update = update_in_turn
rows = pandas.read_csv({train!r})
rows = rows[rows.text.str.len() > 6 * {tokens}][:2000]
run = nbadapt.finetune(
    "lora", model="minilm", data=rows, eval=rows[:32], r=8, target_modules=["query", "value"], epochs=1000,
    max_length={tokens}, max_steps={warm_up} + 2 * {pairs} * {steps}, eval_steps=10**6, save_steps=10**6,
)
times = {{event.step: time for time, event in run.events if isinstance(event, Progress)}}

def speed(start):
    return ({steps} - {skipped}) / (times[start + {steps}] - times[start + {skipped}])

starts = range({warm_up}, {warm_up} + 2 * {pairs} * {steps}, 2 * {steps})
measured = [{{"asleep": speed(start), "awake": speed(start + {steps})}} for start in starts]
pathlib.Path("measured.json").write_text(json.dumps(measured))
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--steps", type=int, default=50)
    arguments = parser.parse_args()
    train = arguments.data / "movie_reviews_train.csv"
    if not train.is_file():
        sys.exit(f"no movie_reviews_train.csv in {arguments.data}: name its folder with --data")
    pairs = measure(train.resolve(), arguments.pairs, arguments.steps)
    save("dashboard_overhead", report(pairs))


def measure(train: Path, pairs: int, steps: int) -> list[dict[str, float]]:
    """Steps a second, pair by pair, with the dashboard "asleep" and "awake"."""
    chromium = shutil.which("chromium") or sys.exit("this benchmark needs Chromium: apt-get install chromium")
    code = MEASURE.format(train=str(train), pairs=pairs, steps=steps, skipped=SKIPPED, warm_up=WARM_UP, tokens=TOKENS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_notebook(folder, "overhead.ipynb", "python3", code)
        with jupyterlab(folder) as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
            page = browser.new_page(viewport={"width": 1200, "height": 900})
            open_notebook(page, address, "overhead.ipynb")
            menu(page, "Run", "Run All Cells")
            page.locator(".nbadapt canvas").wait_for(timeout=60_000)
            while not (folder / "measured.json").exists():
                if page.locator("[data-mime-type='application/vnd.jupyter.stderr']", has_text="Error").count():
                    sys.exit(page.locator(".jp-OutputArea").inner_text())
                time.sleep(1)
            measured: list[dict[str, float]] = json.loads((folder / "measured.json").read_text(encoding="utf-8"))
            browser.close()
    return measured


def report(pairs: list[dict[str, float]]) -> str:
    """The results as Markdown."""
    ratios = [pair["awake"] / pair["asleep"] for pair in pairs]
    low, ratio, high = (100 * share for share in quantiles(ratios, n=4))
    rows = [
        (state, *(f"{speed:.2f}" for speed in quantiles([pair[state] for pair in pairs], n=4)))
        for state in ("asleep", "awake")
    ]
    return "\n\n".join(
        [
            "# The cost of the live dashboard",
            "LoRA on MiniLM in a JupyterLab notebook, open in Chromium on the same machine, with the dashboard on "
            f"the page: {len(pairs)} stretches in which it is kept from updating (asleep) and as many in which it "
            "updates (awake), in turn. How: [dashboard_overhead.py](../dashboard_overhead.py).",
            table(("dashboard", "steps/s, lower quartile", "median", "upper quartile"), rows),
            f"**With the dashboard training reaches {ratio:.1f} % of the steps a second without it** (median of "
            f"the ratios of neighbouring stretches; half of them lie between {low:.1f} and {high:.1f} %).",
            environment("benchmarks/dashboard_overhead.py", ("torch", "jupyterlab", "ipykernel", "anywidget")),
        ]
    )


if __name__ == "__main__":
    main()
