"""Where a form stands in a notebook: three displays of its cell, one below the other.

::

    widget     empty once a run was started
    picture    the cell and its costs as text, which a live page hides and a saved notebook keeps
    run        empty at first; then the dashboard, and at last the result

A page that was reloaded shows the widget, but none of these displays can be changed there any more.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from nbadapt.forms.form import State
from nbadapt.forms.picture import static

WIDGET = "application/vnd.jupyter.widget-view+json"
DEAD = "The form is live while its kernel runs."
EMPTY = {"text/html": "", "text/plain": ""}


class Places:
    """The displays of one form.

    Attributes:
        token: the end of the class of this form's picture, by which a page hides it.
    """

    def __init__(self, verb: str) -> None:
        self.token = secrets.token_hex(6)
        self._line = f"The form of %{verb} needs a running kernel. This cell does the same:"
        self._drawn: dict[str, str] = {}
        self._given_way = False
        self._widget: Any = None
        self._picture: Any = None
        self._run: Any = None

    def show(self, content: Mapping[str, Any], state: State) -> None:
        """Appear in the running cell; `content` is the widget's."""
        self._drawn = self._bundle(state)
        self._widget = _displayed({**content, "text/plain": DEAD})
        self._picture = _displayed(self._drawn)
        self._run = _displayed(EMPTY)

    def draw(self, state: State) -> None:
        """Draw the picture anew where it changed."""
        bundle = self._bundle(state)
        if bundle != self._drawn and not self._given_way:
            self._drawn = bundle
            self._picture.update(bundle, raw=True)

    def give_way(self, state: State, line: str) -> None:
        """Leave the equivalent cell below a line, and nothing of the widget."""
        self._given_way = True
        self._widget.update(EMPTY, raw=True)
        self._picture.update(static(State(state.cell), line), raw=True)

    def slot(self, tell: Callable[[str], None]) -> Slot:
        """The place of a run; `tell` hears the model id of a dashboard that is put there."""
        return Slot(self._run, tell)

    def _bundle(self, state: State) -> dict[str, str]:
        found = static(state, self._line)
        return {**found, "text/html": f'<div class="nbadapt-form-{self.token}">{found["text/html"]}</div>'}


class Slot:
    """A display handle that tells which widget is put into it."""

    def __init__(self, handle: Any, tell: Callable[[str], None]) -> None:
        self._handle, self._tell = handle, tell
        self._told = ""

    def update(self, content: Mapping[str, Any], *, raw: bool) -> None:
        """As the handle's own."""
        self._handle.update(content, raw=raw)
        model_id = content.get(WIDGET, {}).get("model_id", self._told)
        if model_id != self._told:
            self._told = model_id
            self._tell(model_id)


def _displayed(content: Mapping[str, Any]) -> Any:
    from IPython.display import display

    return display(content, raw=True, display_id=True)  # type: ignore[no-untyped-call]  # IPython's
