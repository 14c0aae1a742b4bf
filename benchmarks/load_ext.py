"""How long ``%load_ext nbadapt`` takes beyond IPython's own start.

Run it with ``python benchmarks/load_ext.py``. Each figure is a fresh process; the cases take turns, so that a busy
moment of the machine meets all of them. The first round, which fills the file cache, is not counted. Writes
benchmarks/results/load_ext.md.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from report import environment, save, table

START = "from IPython.core.interactiveshell import InteractiveShell; shell = InteractiveShell.instance()"
LOAD = "import time; t = time.perf_counter(); shell.run_line_magic('load_ext', '{}'); print(time.perf_counter() - t)"
CASES = {
    "bare IPython": START,
    "IPython + %load_ext autoreload": START + "; " + LOAD.format("autoreload"),
    "IPython + %load_ext nbadapt": START + "; " + LOAD.format("nbadapt"),
    "IPython + import ipywidgets": START + "; import time; t = time.perf_counter(); import ipywidgets; "
    "print(time.perf_counter() - t)",
}
BUDGET_MS = 50


def measure(code: str) -> tuple[float, float]:
    """Milliseconds of the whole process, and of the one line (0 for bare IPython)."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    whole = 1000 * (time.perf_counter() - start)
    return whole, 1000 * float(done.stdout.split()[-1]) if done.stdout.strip() else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="processes a case (9)")
    rounds = parser.parse_args().rounds
    figures: dict[str, list[tuple[float, float]]] = {case: [] for case in CASES}
    for turn in range(rounds + 1):
        for case, code in CASES.items():
            measured = measure(code)
            if turn:
                figures[case].append(measured)
    save("load_ext", report(figures))


def report(figures: dict[str, list[tuple[float, float]]]) -> str:
    """The results as Markdown."""
    bare = statistics.median(whole for whole, _ in figures["bare IPython"])
    rows, lines = [], {}
    for case, measured in figures.items():
        whole = statistics.median(whole for whole, _ in measured)
        lines[case] = statistics.median(line for _, line in measured)
        shown = f"{lines[case]:.1f}" if lines[case] else ""
        rows.append((case, f"{whole:.0f}", f"{whole / bare:.3f}", shown))
    rounds = len(figures["bare IPython"])
    return "\n\n".join(
        [
            "# What `%load_ext nbadapt` costs",
            f"Medians of {rounds} fresh processes a case, in turn. How: [load_ext.py](../load_ext.py).",
            table(("case", "process, ms", "ratio to bare IPython", "the line itself, ms"), rows),
            f"**`%load_ext nbadapt` takes {lines['IPython + %load_ext nbadapt']:.1f} ms** of its budget of "
            f"{BUDGET_MS} ms beyond IPython's own start.",
            environment("benchmarks/load_ext.py", ("ipython",)),
        ]
    )


if __name__ == "__main__":
    main()
