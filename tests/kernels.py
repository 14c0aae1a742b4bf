"""Real kernels for the tests: the oldest ipykernel that nbadapt supports, and the installed one.

``python tests/kernels.py`` installs the old one into a folder of its own beforehand.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"
OLD = "6.29.5"
VERSIONS = ("old", "new")

WIDGET = "application/vnd.jupyter.widget-view+json"


def old_ipykernel() -> Path:
    """The folder with ipykernel 6.29, to be put in front of the path; installed on first use."""
    folder = CACHE / "ipykernel-6.29"
    if not (folder / f"ipykernel-{OLD}.dist-info").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        requirements = [f"ipykernel=={OLD}", "nest-asyncio"]  # all else it needs is in the environment
        subprocess.run([*command, "--no-deps", "--upgrade", "--target", folder, *requirements], check=True)
    return folder


def kernelspecs() -> Path:
    """A folder for JUPYTER_PATH with the kernelspecs "old" and "new", both of this environment's Python."""
    folder = CACHE / "jupyter"
    for version in VERSIONS:
        front = [str(old_ipykernel())] if version == "old" else []
        path = os.pathsep.join([*front, *filter(None, [os.environ.get("PYTHONPATH")])])
        spec = {
            "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            "display_name": f"Python ({version} ipykernel)",
            "language": "python",
            "env": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        }
        target = folder / "kernels" / version / "kernel.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(spec, indent=1), encoding="utf-8")
    return folder


@dataclass
class Cell:
    """What a front end knows of one executed cell."""

    outputs: list[dict[str, Any]] = field(default_factory=list)  # content of its stream, display and error messages
    reply: dict[str, Any] | None = None
    idle: bool = False

    @property
    def status(self) -> str:
        """Either "ok", "error" or "aborted"."""
        return str((self.reply or {})["status"])

    @property
    def text(self) -> str:
        """What it printed, to stdout and stderr."""
        return "".join(output["text"] for output in self.outputs if "text" in output)

    @property
    def error(self) -> str:
        """The error's name and value."""
        reply = self.reply or {}
        return f"{reply.get('ename')}: {reply.get('evalue')}"


class Kernel:
    """A running kernel and a front end of one person: it sends cells, clicks and interrupts, and sees outputs.

    Attributes:
        displays: display id -> MIME bundle now on display, as the notebook would save it.
        comm: every comm message of the kernel, as (time of arrival, message).
    """

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self._manager, self._client = manager, client
        self.cells: dict[str, Cell] = {}
        self.displays: dict[str, dict[str, Any]] = {}
        self.shown_in: dict[str, str] = {}  # display id -> cell that shows it
        self.updates = 0
        self.comm: list[tuple[float, dict[str, Any]]] = []
        self.replies: dict[str, dict[str, Any]] = {}

    def send(self, code: str) -> str:
        """Queue a cell, as Run All does; returns its id."""
        cell = self._client.execute(code, allow_stdin=True)
        self.cells[cell] = Cell()
        return str(cell)

    def ask(self, kind: str, content: dict[str, Any]) -> str:
        """Send any other message on the shell channel; returns its id."""
        message = self._client.session.msg(kind, content)
        self._client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def click(self, comm_id: str, content: dict[str, Any]) -> str:
        """Send a widget's custom message."""
        return self.ask("comm_msg", {"comm_id": comm_id, "data": {"method": "custom", "content": content}})

    def interrupt(self) -> None:
        """Press the front end's interrupt button."""
        self._manager.interrupt_kernel()

    def run(self, code: str, timeout: float = 60) -> Cell:
        """Execute a cell and wait for its end."""
        return self.finish(self.send(code), timeout)

    def value(self, expression: str) -> Any:
        """A JSON-able value out of the kernel."""
        cell = self.run(f"import json as _json; print(_json.dumps({expression}))")
        assert cell.status == "ok", cell.error
        return json.loads(cell.text)

    def finish(self, cell: str, timeout: float = 60) -> Cell:
        """Wait for the end of a cell."""
        it = self.cells[cell]
        self.until(lambda: it.idle and it.reply is not None, timeout, f"cell {cell} did not end: {it}")
        return it

    def until(self, condition: Callable[[], Any], timeout: float = 60, why: str = "") -> Any:
        """Take in messages until the condition holds, and return its value."""
        deadline = time.monotonic() + timeout
        while not (value := condition()):
            assert time.monotonic() < deadline, why or "waited in vain"
            self._read(0.01)
        return value

    def model(self, cell: str, timeout: float = 20) -> str:
        """The comm id of the widget that a cell shows."""

        def found() -> str | None:
            for name, data in self.displays.items():
                if self.shown_in[name] == cell and WIDGET in data:
                    return str(data[WIDGET]["model_id"])
            return None

        return str(self.until(found, timeout, "the cell showed no widget"))

    def messages(self, comm_id: str, since: int = 0) -> list[dict[str, Any]]:
        """The custom messages that a widget has sent, from the `since`-th comm message on."""
        return [
            m["content"]["data"]["content"]
            for _, m in self.comm[since:]
            if m["msg_type"] == "comm_msg"
            and m["content"]["comm_id"] == comm_id
            and m["content"]["data"].get("method") == "custom"
        ]

    def _read(self, timeout: float) -> None:
        from queue import Empty

        for channel, take in (("shell", self._take_reply), ("iopub", self._take_output)):
            with contextlib.suppress(Empty):
                wait = timeout if channel == "iopub" else 0
                while True:
                    take(getattr(self._client, f"get_{channel}_msg")(timeout=wait))
                    wait = 0

    def _take_reply(self, message: dict[str, Any]) -> None:
        parent = message["parent_header"].get("msg_id", "")
        self.replies[parent] = message["content"]
        if parent in self.cells:
            self.cells[parent].reply = message["content"]

    def _take_output(self, message: dict[str, Any]) -> None:
        kind, content = message["msg_type"], message["content"]
        parent = message["parent_header"].get("msg_id", "")
        display = content.get("transient", {}).get("display_id")
        if kind.startswith("comm_"):
            self.comm.append((time.monotonic(), message))
        elif kind == "update_display_data":
            self.updates += 1
            self.displays[display] = content["data"]
        elif kind in {"stream", "display_data", "execute_result", "error"} and parent in self.cells:
            self.cells[parent].outputs.append(content)
            if display is not None:
                self.displays[display], self.shown_in[display] = content["data"], parent
        elif kind == "status" and content["execution_state"] == "idle" and parent in self.cells:
            self.cells[parent].idle = True


@contextlib.contextmanager
def running(version: str, folder: Path, **environment: str) -> Iterator[Kernel]:
    """Start a kernel, "old" or "new", that works in `folder`; it ends with the context."""
    specs = KernelSpecManager(kernel_dirs=[str(kernelspecs() / "kernels")])
    manager = KernelManager(kernel_name=version, kernel_spec_manager=specs)
    manager.start_kernel(cwd=str(folder), env={**os.environ, "PYDEVD_DISABLE_FILE_VALIDATION": "1", **environment})
    client = manager.blocking_client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=60)
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


if __name__ == "__main__":
    print(kernelspecs())
