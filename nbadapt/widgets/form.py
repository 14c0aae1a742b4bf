"""The form as a widget: it passes on what is typed, and shows what it is told.

::

    page ──hello, set {name: raw}, run, offers──> on_message          form.js draws and holds nothing but what is typed
         <──form (fields, values), state (errors, figures, cell)──

Nothing but the code is in synced state, so a notebook that saves widget state stays small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anywidget

from nbadapt.widgets.texts import clip

HERE = Path(__file__).parent
TEXT_BYTES = 2_000  # of one text in a message
CELL_BYTES = 20_000


class FormWidget(anywidget.AnyWidget):
    """The page of one form.

    Attributes:
        hello: how often a front end has said that it shows this form.
    """

    _esm = "\n".join((HERE / name).read_text(encoding="utf-8") for name in ("fields.js", "form.js"))
    _css = "\n".join((HERE / name).read_text(encoding="utf-8") for name in ("dashboard.css", "form.css"))

    def __init__(self, on_message: Callable[[Mapping[str, Any]], None]) -> None:
        super().__init__()
        self.hello = 0
        self._on_message = on_message
        self.on_msg(self._answer)
        if hasattr(self.comm, "_reply_subshell_for"):
            # ipykernel 7.4 answers in the subshell that a front end names: estimates and runs belong to the main one.
            self.comm._reply_subshell_for = lambda _data, _default: None

    def _answer(self, _widget: Any, message: Mapping[str, Any], _buffers: Any) -> None:
        if message.get("type") == "hello":
            self.hello += 1
        self._on_message(message)

    def tell(self, message: Mapping[str, Any]) -> None:
        """Send a message whose texts may hold anything."""
        self.send(_clean(message))


def _clean(part: Any) -> Any:
    """The same with every text cut to what a message may hold, and fit for one."""
    if isinstance(part, str):
        return clip(part, CELL_BYTES if "\n" in part else TEXT_BYTES)
    if isinstance(part, Mapping):
        return {str(key): _clean(value) for key, value in part.items()}
    return [_clean(value) for value in part] if isinstance(part, list | tuple) else part
