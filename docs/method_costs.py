"""What a method was measured to cost, beside others: from the benchmarks' tables and the executed notebooks.

::

    benchmarks/results/finetuning_methods_*.jsonl, prompting_methods.jsonl ──> all methods on the same rows
    benchmarks/results/*.md, a row that begins with the method's name      ──> that table
    example_notebooks/*.ipynb, the summary below its cell                  ──> time, figures, memory of that run

Nothing here names a method: whatever is measured later shows up when the site is built.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
NOTEBOOKS = ROOT / "example_notebooks"
UNMEASURED = "No benchmark measures it yet: `--dry-run` tells what it would cost."
BENCHMARKS = {
    "classification": ("2,000 film reviews with MiniLM", "accuracy", max),
    "generation": (
        "128 rows of school mathematics with SmolLM2-135M, batch_size=8, epochs=1, max_length=256",
        "loss",
        min,
    ),
}
PROMPTING = "prompting_methods"
PLUMBING = re.compile(
    r"Step|Epoch|Elapsed|Training loss|Learning rate|Gradient norm|Examples/s|Tokens/s|RAM|GPU.*|Run|Rows|Trained "
    r"parameters|.*95 % interval|.* before"
)
MOST_FIGURES = 3


def of_method(name: str) -> str:
    """The method's figures, with those of others around them, in Markdown for its page; or that there are none."""
    found = _on_same_rows(name) or [*_tables_with(name), *_notebooks_with(name)]
    return "\n\n".join(found) or UNMEASURED


def is_benchmarked(name: str) -> bool:
    """Whether a benchmark measures it: the runs of notebooks do not count."""
    return bool(_on_same_rows(name) or [*_tables_with(name)])


def _on_same_rows(name: str) -> list[str]:
    """The tables of all methods that have it."""
    found = [costs(task, name) for task in BENCHMARKS if any(r["method"] == name for r in _records(task))]
    return [*found, prompting(name)] if any(record["method"] == name for record in _prompting()) else found


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the cells are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _marked(cells: Sequence[str], mine: bool) -> tuple[str, ...]:
    """A row in bold where it is the method's own."""
    return tuple(f"**{cell}**" if mine and cell else cell for cell in cells)


# ------------------------------------------------------------------------------------ all methods on the same rows


def costs(task: str, name: str = "", up: str = "../") -> str:
    """What all methods cost on a task, best first; that of one method is set off.

    Args:
        task: one of `BENCHMARKS`.
        name: the method.
        up: from the page to the root of the site.
    """
    what, figure, better = BENCHMARKS[task]
    ordered = sorted(_records(task), key=lambda record: record[figure], reverse=better is max)
    rows = [_cost_row(record, figure, record["method"] == name) for record in ordered]
    head = ("method", figure, "trained parameters", "training, s", "memory, MiB", "on disk, KiB")
    measured = f"[How it was measured]({up}measured/finetuning_methods_{task}.md)."
    cores = " or ".join(sorted({str(record["cores"]) for record in ordered}))
    where = f"on {cores} core{'s' * (cores != '1')}"
    return f"On {what}, {where}, with each method's other defaults. {measured}\n\n{table(head, rows)}"


def _records(task: str) -> list[dict[str, Any]]:
    """The runs of nbadapt itself with its defaults: one of each method, on the newest held-out rows."""
    found = _lines(f"finetuning_methods_{task}")
    found = [record for record in found if record["held_out"] == found[-1]["held_out"]]
    found = [r for r in found if r["side"] == "nbadapt" and r["seed"] == 0 and r["rows"] in {128, 2000}]
    found = [record for record in found if not record.get("settings")]
    return list({record["method"]: record for record in found}.values())


def _lines(name: str) -> list[dict[str, Any]]:
    path = RESULTS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _cost_row(record: Mapping[str, Any], figure: str, mine: bool) -> tuple[str, ...]:
    cells = (
        f"`{record['method']}`",
        f"{record[figure]:.3f}",
        f"{record['trainable']:,}",
        f"{record['training']:.0f}",
        f"{record['peak'] / 2**20:,.0f}",
        f"{record['size'] / 2**10:,.0f}",
    )
    return _marked(cells, mine)


def _prompting() -> list[dict[str, Any]]:
    """One run of each way to ask, those of the largest number of rows."""
    found = _lines(PROMPTING)
    most = max(record["rows"] for record in found)
    return list({record["way"]: record for record in found if record["rows"] == most}.values())


def prompting(name: str = "", up: str = "../") -> str:
    """What the prompting methods cost, and the baselines, best first; that of one method is set off."""
    records = sorted(_prompting(), key=lambda record: -record["accuracy"])
    rows = [_asked_row(record, record["method"] == name) for record in records]
    head = ("method", "settings", "accuracy", "macro F1", "processor time, s", "memory, MiB")
    what = f"{records[0]['rows']} messages to a bicycle shop, of five kinds, sorted by SmolLM2-135M"
    measured = f"[How it was measured]({up}measured/{PROMPTING}.md)."
    return f"On {what}, beside baselines without a language model. {measured}\n\n{table(head, rows)}"


def _asked_row(record: Mapping[str, Any], mine: bool) -> tuple[str, ...]:
    cells = (
        f"`{record['method']}`",
        ", ".join(f"`{name}: {value}`" for name, value in record["settings"].items()),
        f"{record['accuracy']:.3f}",
        f"{record['macro_f1']:.3f}",
        f"{record['seconds']:.1f}",
        f"{record['peak'] / 2**20:,.0f}",
    )
    return _marked(cells, mine)


# --------------------------------------------------------------------------------------- tables with a row of it


def _tables_with(name: str) -> Iterator[str]:
    """Tables of results that have a row of the method, each below a link to its page."""
    mine = re.compile(rf"{re.escape(name)}\b", re.IGNORECASE)
    for path in sorted(RESULTS.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        title = text.partition("\n")[0].removeprefix("# ")
        for found in re.findall(r"^\|.*\n\| --- .*\n(?:\|.*(?:\n|\Z))+", text, re.MULTILINE):
            head, _, *rows = [_cells(line) for line in found.strip().splitlines()]
            if any(mine.match(row[0].strip("`*")) for row in rows):
                marked = [_marked(row, bool(mine.match(row[0].strip("`*")))) for row in rows]
                yield f"[{title}](../measured/{path.stem}.md):\n\n{table(head, marked)}"


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


# ----------------------------------------------------------------------------------------------- executed notebooks


class Executed(NamedTuple):
    """A run in a notebook, as its summary tells.

    Attributes:
        notebook: the file's name.
        method: the word after the magic.
        cell: its line and, of a finetuning, its settings.
        time: as it is written there.
        figures: name -> value, as they are written there.
    """

    notebook: str
    method: str
    cell: str
    time: str
    figures: Mapping[str, str]

    @property
    def quality(self) -> str:
        """The first figures of quality; empty for a single answer."""
        chosen = [f"{name} {value}" for name, value in self.figures.items() if not PLUMBING.fullmatch(name)]
        return ", ".join(chosen[:MOST_FIGURES])


@functools.cache
def executed() -> tuple[Executed, ...]:
    """The runs of all notebooks, in their order."""
    return tuple(run for path in sorted(NOTEBOOKS.glob("*.ipynb")) for run in _runs(path))


def _runs(path: Path) -> Iterator[Executed]:
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        for output in cell.get("outputs", ()):
            text = "".join(output.get("data", {}).get("text/plain", ()))
            head = re.match(r"(finetune|prompt) (\S+) · .*: done in (.+)\n", text)
            if head and source.startswith(f"%%{head[1]} {head[2]} "):
                shown = source if head[1] == "finetune" else source.partition("\n")[0]
                figures = dict(re.findall(r"^  (\S.*?)  +(\S.*)$", text, re.MULTILINE))
                yield Executed(path.name, head[2], " · ".join(shown.splitlines()), head[3], figures)


def _notebooks_with(name: str) -> Iterator[str]:
    """A table of the method's runs in notebooks; those of a single answer only where there are no others."""
    found = [run for run in executed() if run.method == name]
    found = [run for run in found if run.quality] or found
    if not found:
        return
    rows = [(f"`{run.cell}`", run.time, run.quality, run.figures["RAM"].partition("peak ")[2]) for run in found]
    places = ", ".join(
        f"[{name}](../../example_notebooks/{name})" for name in dict.fromkeys(run.notebook for run in found)
    )
    yield f"As executed in {places}:\n\n{table(('cell', 'time', 'figures', 'peak memory'), rows)}"
