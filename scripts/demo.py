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


class Client(NotebookClient):
    """Executes a notebook and prints the lines in which a long cell tells how far it is."""

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        """Take in one message of the kernel."""
        if msg["msg_type"] == "update_display_data":
            text = msg["content"]["data"].get("text/plain", "")
            if "\n" not in text:  # more lines are a result, which is printed at the cell's end
                print(text, flush=True)
        return super().process_message(msg, cell, cell_index)


def main(path: Path) -> int:
    """Execute, print and save below `BUILD`; the exit status."""
    notebook = nbformat.read(path, as_version=4)
    room = BUILD / "work"
    room.mkdir(parents=True, exist_ok=True)
    client = Client(
        notebook,
        timeout=1800,
        extra_arguments=["--log-level=ERROR"],  # of the kernel, which warns about its own TCP
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
