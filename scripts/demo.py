"""Run a notebook without a screen and print what its cells show. The notebook's file stays as it is.

usage: python scripts/demo.py NOTEBOOK
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

BUILD = Path("build/demo")


def main(path: Path) -> int:
    """Execute, print and save below `BUILD`; the exit status."""
    notebook = nbformat.read(path, as_version=4)
    room = BUILD / "work"
    room.mkdir(parents=True, exist_ok=True)
    client = NotebookClient(
        notebook,
        timeout=900,
        kernel_name="python3",
        resources={"metadata": {"path": str(room)}},
        on_cell_execute=announce,
        on_cell_executed=show,
    )
    print(f"Running {path} without a screen: it trains a pretrained model, some minutes on a CPU.\n")
    start = time.monotonic()
    try:
        client.execute()
    except (CellExecutionError, DeadKernelError) as error:
        print(f"{path} failed: {error}", file=sys.stderr)
        return 1
    nbformat.write(notebook, BUILD / path.name)
    print(f"\nDone in {time.monotonic() - start:.0f} s; the executed notebook is {BUILD / path.name}.")
    print("See it live in JupyterLab, with the training dashboard:  make lab")
    return 0


def announce(cell: Any, **_: Any) -> None:
    """Print the code of a cell that starts."""
    if cell.cell_type == "code":
        print("\n".join(f"  {line}" for line in cell.source.splitlines()), flush=True)


def show(cell: Any, **_: Any) -> None:
    """Print the text of what a finished cell shows."""
    for output in cell.get("outputs", ()):
        text = output.get("text") or output.get("data", {}).get("text/plain", "")
        if text.strip():
            print(text.rstrip(), flush=True)
    print(flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
