"""The playground as a widget: a prompt, how to ask, and answers side by side that grow as they are written.

::

    page ──hello, check, ask, stop, best, undo, close──> Playground     answers come in its thread
         <──page (fields, players), asked, state, column (one answer)──        a column at most ten times a second

The command that shows it returns at once; clicks are handled on the kernel's main thread, between cells and, while
a run of nbadapt holds a cell, by its message pump. Below the widget stands a static picture of the last prompt, which
a saved notebook keeps; a live page hides it.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anywidget

from nbadapt.errors import NbadaptError, first_line
from nbadapt.forms.fields import described, raw_of
from nbadapt.playing import settings as asking
from nbadapt.playing.choice import comparison
from nbadapt.playing.session import Playground
from nbadapt.playing.settings import Settings
from nbadapt.widgets.play_columns import LINE_BYTES, NAME_BYTES, column, legend
from nbadapt.widgets.play_report import bundle
from nbadapt.widgets.texts import clip, sent

HERE = Path(__file__).parent
PUSH_SECONDS = 0.1  # between two messages about an answer that grows
DEAD = "The playground is live while its kernel runs."


class PlayWidget(anywidget.AnyWidget):
    """The view of one playground.

    Attributes:
        hello: how often a front end has said that it shows this widget.
        closed: whether the static picture alone is left.
    """

    _esm = "\n".join(
        (HERE / name).read_text(encoding="utf-8") for name in ("notebook.js", "fields.js", "playground.js")
    )
    _css = "\n".join(
        (HERE / name).read_text(encoding="utf-8") for name in ("dashboard.css", "form.css", "playground.css")
    )

    def __init__(self, playground: Playground, settings: Settings, prompt: str = "") -> None:
        super().__init__()
        self.hello, self.closed = 0, False
        self._playground = playground
        self._fields = asking.fields([player.kind for player in playground.players])
        self._raw = {field.name: raw_of(getattr(settings, field.name), field.kind) for field in self._fields}
        self._prompt, self._said, self._kept = prompt, "", ""
        self._errors: dict[str, str] = {}
        self._typed_in = ""  # the page whose values these are, of several that show this playground
        self._token = secrets.token_hex(6)  # of this widget's picture on the page
        self._lock = threading.RLock()  # answers come in another thread than clicks
        self._sequence = 0
        self._pushed = 0.0
        self._place: Any = None
        self._picture: Any = None
        playground.listen(self._grown)
        self.on_msg(self._answer_front_end)
        if hasattr(self.comm, "_reply_subshell_for"):
            # ipykernel 7.4 sends clicks to the shell that made the widget, which may be one that is busy.
            self.comm._reply_subshell_for = lambda _data, default: default

    # ------------------------------------------------------------------ in the notebook

    def display(self) -> None:
        """Appear in the cell, above the picture."""
        from IPython.display import display

        shown, _metadata = self._repr_mimebundle_() or ({}, {})
        self._place = display({**shown, "text/plain": DEAD}, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        self._picture = display(self._static(), raw=True, display_id=True)  # type: ignore[no-untyped-call]

    def _static(self) -> dict[str, str]:
        asked = self._playground.round
        found = {"text/html": "", "text/plain": "Nothing was asked in this playground yet."}
        if asked is not None:
            found = bundle(asked, self._playground.choices.chosen(asked), self._kept)
        return {**found, "text/html": f'<div class="nbadapt-play-{self._token}">{found["text/html"]}</div>'}

    def _draw_picture(self) -> None:
        if self._picture is None:
            return
        found = self._static()
        self._picture.update(found, raw=True)
        if self.hello > 1:  # pages that were reloaded, and other tabs, do not know that display
            self._tell("picture", {"token": self._token, "data": found})

    def retire(self) -> None:
        """End: the picture stays, the widget goes, and with it its state in a saved notebook."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
        self._playground.close()  # without the lock: it waits for a thread that may be about to push
        self._draw_picture()
        if self._place is not None:
            self._place.update({"text/plain": "", "text/html": ""}, raw=True)
        self._tell("gone", {"id": self.model_id})
        self.layout.close()
        self.close()

    # ------------------------------------------------------------------ what the page is told

    def _tell(self, kind: str, content: Mapping[str, Any]) -> None:
        with self._lock:
            self._sequence += 1
            self.send({"type": kind, "seq": self._sequence, **content})

    def _tell_page(self, view: str) -> None:
        """What does not change, and what `view`, a page that has just come, begins with; others have it already."""
        asked = self._playground.round
        self._tell(
            "page",
            {
                "view": view,
                "token": self._token,
                "fields": [described(field) for field in self._fields],
                "values": self._raw,
                "prompt": sent(self._prompt if asked is None else asked.prompt),  # whole: it will be asked again
                "players": [
                    {"name": clip(p.name, NAME_BYTES), "about": clip(p.about, NAME_BYTES), "kind": p.kind}
                    for p in self._playground.players
                ],
            },
        )

    def push(self) -> None:
        """Send the state, without the answers."""
        playground = self._playground
        asked, choices = playground.round, playground.choices
        done = asked is not None and not playground.working
        self._tell(
            "state",
            {
                "working": playground.working,
                "held": playground.held_by,
                "said": clip(self._said, LINE_BYTES),
                "errors": self._errors,
                "view": self._typed_in,
                "legend": legend(asked) if asked is not None and done else "",
                "kept": clip(self._kept, LINE_BYTES),
                "choosable": asked is not None and done and comparison(asked) is not None,
                "undo": choices.can_undo,
            },
        )

    def _push_columns(self) -> None:
        """Send all answers, compared; one message each, so that none is large."""
        asked = self._playground.round
        if asked is None:
            return
        marks = {} if self._playground.working else asked.marks()
        chosen = self._playground.choices.chosen(asked)
        for place in range(len(asked.players)):
            self._tell("column", {"place": place, **column(asked, place, marks, chosen)})

    def _grown(self, place: int | None) -> None:
        """Something of the playground has changed; called in its thread."""
        asked = self._playground.round
        assert asked is not None  # or nothing would grow
        if place is None:
            if not self._playground.working:
                self._push_columns()
                self._draw_picture()
            self.push()
            return
        now = time.monotonic()
        if asked.answers[place].state == "working" and now - self._pushed < PUSH_SECONDS:
            return
        self._pushed = now
        self._tell("column", {"place": place, **column(asked, place, {})})

    # ------------------------------------------------------------------ what the page says

    def _answer_front_end(self, _widget: Any, message: Mapping[str, Any], _buffers: Any) -> None:
        kind = message.get("type")
        if kind == "close":
            self.retire()
            return
        if self.closed:
            return
        try:
            self._obey(message)
        except NbadaptError as error:
            self._said = str(error)
        except Exception as error:  # noqa: BLE001 - a message of no form must not break the widget
            self._said = f"{type(error).__name__}: {first_line(error)}"
        self.push()

    def _obey(self, message: Mapping[str, Any]) -> None:
        playground, view = self._playground, clip(str(message.get("view", "")), NAME_BYTES)
        if message.get("type") in {"hello", "check", "ask"}:
            self._typed_in = view
        match message:
            case {"type": "hello"}:
                self.hello += 1
                self._tell_page(view)
                self._push_columns()
            case {"type": "check", "values": dict(values)}:
                self._take(values)
            case {"type": "ask", "prompt": str(prompt), "values": dict(values)}:
                found = self._take(values)
                if found is not None:
                    self._said = self._kept = ""
                    self._prompt = prompt
                    playground.ask(sent(prompt), found)
                    self._tell("asked", {"view": view, "prompt": sent(prompt)})
                    self._push_columns()
            case {"type": "stop"}:
                playground.stop()
            case {"type": "best", "place": int(place)} if playground.round is not None and not playground.working:
                self._kept = playground.choices.best(playground.round, place)
                self._after_choice()
            case {"type": "undo"}:
                self._kept = playground.choices.undo()
                self._after_choice()

    def _take(self, values: Mapping[str, Any]) -> Settings | None:
        """Take what was typed; None where something of it is not allowed, which is told at its field."""
        known = {field.name for field in self._fields}
        self._raw |= {str(name): clip(str(value), NAME_BYTES) for name, value in values.items() if name in known}
        found, self._errors = asking.read(self._raw)
        self._said = ""
        return found

    def _after_choice(self) -> None:
        self._said = ""
        self._push_columns()
        with contextlib.suppress(NbadaptError):  # of a spoilt file the last picture stays
            self._draw_picture()


def show(playground: Playground, settings: Settings, prompt: str = "") -> PlayWidget:
    """Show the widget in this cell; with a prompt, ask it at once."""
    widget = PlayWidget(playground, settings, prompt)
    widget.display()
    if prompt.strip():
        playground.ask(prompt, settings)
    return widget
