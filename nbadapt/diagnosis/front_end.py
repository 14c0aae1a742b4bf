"""Where the code runs, and whether live dashboards and their buttons work there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbadapt import pump, view
from nbadapt.diagnosis.report import Finding
from nbadapt.diagnosis.software import installed, too_old

TOPIC = "Front end"


def front_end() -> Iterator[Finding]:
    """The front end, the kernel, the widgets' extension, and what follows for live buttons."""
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    kernel = getattr(shell, "kernel", None)
    yield Finding(TOPIC, "running in", _place(shell, kernel))
    yield from _widgets()
    if kernel is not None:
        yield from _kernel()
    yield _live(kernel)


def _place(shell: Any, kernel: Any) -> str:
    if shell is None:
        return "Python, without IPython: use the functions of nbadapt, such as nbadapt.finetune"
    if kernel is None:
        return "IPython in a terminal: results are lines of text"
    named = _editor(shell)
    if named:
        return named
    if not view.takes_input(kernel):
        return "a kernel that nobody watches, as under nbclient, nbconvert or papermill"
    return "a Jupyter kernel; by what is installed beside it: " + (_servers() or "a server of another environment")


def _editor(shell: Any) -> str:
    if "google.colab" in sys.modules:
        return "Google Colab (expected to work, and not tried yet)"
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        return "Kaggle (not tried yet)"
    if "VSCODE_PID" in os.environ or "__vsc_ipynb_file__" in shell.user_ns:
        return "Visual Studio Code (expected to work, and not tried yet)"
    return ""


def _servers() -> str:
    found = ((title, installed(name)) for title, name in (("JupyterLab", "jupyterlab"), ("Notebook", "notebook")))
    return " and ".join(f"{title} {version}" for title, version in found if version)


def _widgets() -> Iterator[Finding]:
    """The widgets' library, and the extension that shows them where a server is installed beside the kernel."""
    if too_old("ipywidgets", 8):
        value = f"ipywidgets {installed('ipywidgets')}: JupyterLab 4 cannot show it"
        yield Finding(TOPIC, "widgets", value, "problem", 'pip install "ipywidgets>=8.1"')
    if too_old("jupyterlab", 4) or too_old("notebook", 7):
        value = f"{_servers()}: the dashboard needs JupyterLab 4 or Notebook 7"
        yield Finding(TOPIC, "server", value, "problem", 'pip install "jupyterlab>=4" "notebook>=7"')
    if not _servers():
        return
    from jupyter_core.paths import jupyter_path

    places = [Path(place, "@jupyter-widgets", "jupyterlab-manager") for place in jupyter_path("labextensions")]
    if installed("jupyterlab-widgets") is None or not any(place.is_dir() for place in places):
        value = "the server's extension for widgets is missing: dashboards and forms stay empty"
        fix = "pip install --force-reinstall jupyterlab-widgets, then restart the server and reload the page"
        yield Finding(TOPIC, "widgets' extension", value, "problem", fix)
    else:
        yield Finding(TOPIC, "widgets' extension", f"jupyterlab-widgets {installed('jupyterlab-widgets')}")


def _kernel() -> Iterator[Finding]:
    """What is special about the versions of ipykernel."""
    found = installed("ipykernel") or "of unknown version"
    if pump.works():
        how = "6: messages are read from its queue" if too_old("ipykernel", 7) else "7: by its shell channel's thread"
        yield Finding(TOPIC, "kernel", f"ipykernel {found} (as every version {how})")
        return
    value = f"ipykernel {found} is built otherwise than those known: a click waits until the cell has ended"
    yield Finding(TOPIC, "kernel", value, "problem", 'pip install --upgrade "ipykernel>=6.29", and restart the kernel')


def _live(kernel: Any) -> Finding:
    """Whether Stop, Pause and forms work while a cell runs."""
    name, ui = "live buttons", os.environ.get("NBADAPT_UI", "auto")
    if kernel is None:
        return Finding(TOPIC, name, "no: there is no kernel, and so no page to click on", "note")
    if ui in {"static", "text"}:
        return Finding(TOPIC, name, f"no: NBADAPT_UI is {ui}", "note", "unset NBADAPT_UI")
    if not view.has_front_end():
        return Finding(TOPIC, name, "no: nobody watches this kernel; results are drawn when a run ends", "note")
    if not pump.works():
        return Finding(TOPIC, name, "only between cells: see the kernel above", "note")
    return Finding(TOPIC, name, "yes, where the page shows widgets: a click is obeyed while a cell runs")
