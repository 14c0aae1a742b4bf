"""The form as a widget: it passes on what is typed, and shows what it is told.

::

    page ──hello, set {name: raw}, run, stop, offers, settle──> on_message     form.js draws, and holds nothing but
         <──form (fields, values), state (errors, figures, cell), run──        what is typed

Nothing but the code is in synced state, so a notebook that saves widget state stays small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anywidget

from nbadapt.widgets.texts import clip, sent

HERE = Path(__file__).parent
TEXT_BYTES = 2_000  # of one text that is told
WHOLE = frozenset({"values", "offers", "cell"})  # what the user wrote, and will run: never cut


class FormWidget(anywidget.AnyWidget):
    """The page of one form.

    Attributes:
        hello: how often a front end has said that it shows this form.
    """

    _esm = "\n".join((HERE / name).read_text(encoding="utf-8") for name in ("notebook.js", "fields.js", "form.js"))
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


def _clean(part: Any, whole: bool = False) -> Any:
    """The same with every text fit for a message, and cut where it is not the user's own."""
    if isinstance(part, str):
        text = sent(part)
        return text if whole else clip(text, TEXT_BYTES)
    if isinstance(part, Mapping):
        return {sent(str(key)): _clean(value, whole or key in WHOLE) for key, value in part.items()}
    return [_clean(value, whole) for value in part] if isinstance(part, list | tuple) else part
