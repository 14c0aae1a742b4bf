"""The ranking widget: one comparison at a time, blind; a click or a key is on the disk before the next one shows.

::

    session ──state──> ranker.js            the whole state each time: one card, a few figures
            <── hello (a new view), vote, undo, close

The command that shows it returns at once; clicks are handled on the kernel's main thread, between cells and, while
a run of nbadapt holds a cell, by its message pump. While any other cell runs they wait for its end.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anywidget

from nbadapt.errors import NbadaptError
from nbadapt.feedback.session import Session
from nbadapt.widgets import preferences
from nbadapt.widgets.texts import clip

HERE = Path(__file__).parent
CARD_BYTES = 16_000  # of the prompt and all its answers
PROMPT_SHARE = 0.25  # of these, at most
NOTE_BYTES = 300

_shown: weakref.WeakValueDictionary[Path, Ranker] = weakref.WeakValueDictionary()  # file -> who ranks into it here


class Ranker(anywidget.AnyWidget):
    """The view of one session.

    Attributes:
        hello: how often a front end has said that it shows this widget.
        closed: whether its static picture has taken its place.
    """

    _esm = (HERE / "ranker.js").read_text(encoding="utf-8")
    _css = (HERE / "ranker.css").read_text(encoding="utf-8")

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.hello, self.closed = 0, False
        self._session = session
        self._sequence = self._saved = 0
        self._problem = ""
        self._lock = threading.RLock()  # answers come in another thread than clicks
        self._place: Any = None  # of the widget in the notebook
        self._picture: Any = None  # of the static summary below it
        self.on_msg(self._answer_front_end)
        if hasattr(self.comm, "_reply_subshell_for"):
            # ipykernel 7.4 sends clicks to the shell that made the widget, which may be one that is busy.
            self.comm._reply_subshell_for = lambda _data, default: default

    # ------------------------------------------------------------------ in the notebook

    def display(self) -> None:
        """Appear in the cell, above a summary that a saved notebook keeps."""
        from IPython.display import display

        shown, _metadata = self._repr_mimebundle_() or ({}, {})
        content = {**shown, "text/plain": "The widget to rank answers is shown while its kernel runs."}
        self._place = display(content, raw=True, display_id=True)  # type: ignore[no-untyped-call]  # IPython's
        picture = preferences.bundle(self._session.preferences, finished=False)
        self._picture = display(picture, raw=True, display_id=True)  # type: ignore[no-untyped-call]  # IPython's
        self._session.start(self.push)

    def retire(self) -> None:
        """End: the summary stays, the widget goes, and with it its state in a saved notebook."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
        try:
            self.push()
        finally:
            self._session.close()  # without the lock: it waits for a thread that may be about to push
        if self._place is not None:
            self._place.update({"text/plain": "", "text/html": ""}, raw=True)
            self._draw_picture()
        if self.hello <= 1:  # a page that was reloaded knows the widget, but not the display that was replaced
            self.layout.close()
            self.close()

    def _draw_picture(self) -> None:
        if self._picture is not None:
            finished = self.closed or self._session.state == "done"
            with contextlib.suppress(NbadaptError):  # of a spoilt file the last picture stays; `_state` tells why
                self._picture.update(preferences.bundle(self._session.preferences, finished=finished), raw=True)

    # ------------------------------------------------------------------ messages

    def push(self) -> None:
        """Send the state as it is."""
        with self._lock:
            self._sequence += 1
            self.send({"seq": self._sequence, **self._state()})

    def _state(self) -> dict[str, Any]:
        session = self._session
        state = session.state
        card = session.current
        problem = self._problem or session.preferences.late
        try:
            self._saved = len(session.preferences)
        except NbadaptError as error:  # such as a line that somebody spoilt
            problem = problem or str(error)
        return {
            "state": "closed" if self.closed else state,
            "rater": session.rater + (f", pass {session.turn}" if session.turn > 1 else ""),
            "file": session.preferences.path.name,
            "saved": self._saved,
            "done": session.done,
            "total": session.supply.total,
            "ready": len(session.supply.ready),
            "undo": session.can_undo,
            "card": None if card is None else _card(card.key, card.prompt, card.answers),
            "problem": clip(problem or session.supply.failure, NOTE_BYTES),
            "notes": [clip(note, NOTE_BYTES) for note in session.supply.notes],
        }

    def _answer_front_end(self, _widget: Any, message: Mapping[str, Any], _buffers: Any) -> None:
        kind = message.get("type")
        self._problem = ""
        if kind == "close":
            self.retire()
            return
        try:
            changed = self._obey(kind, message)
        except NbadaptError as error:  # such as a full disk: the card stays, and can be judged again
            self._problem, changed = f"not saved: {error}", False
        except Exception as error:  # noqa: BLE001 - a message of no form must not break the widget
            self._problem, changed = f"not saved: {type(error).__name__}: {error}", False
        self.push()
        if changed:
            self._draw_picture()

    def _obey(self, kind: Any, message: Mapping[str, Any]) -> bool:
        """Do what a message says; whether a choice was kept or taken back."""
        match kind:
            case "hello":
                self.hello += 1
            case "undo":
                return self._session.undo()
            case "vote":
                choice, key = message.get("choice"), str(message.get("card"))
                if choice == "tie":
                    return self._session.choose(key, "tie")
                if choice == "skip":
                    return self._session.choose(key, "skip")
                if isinstance(choice, int) and not isinstance(choice, bool):
                    return self._session.choose(key, "best", choice)
        return False


def _card(key: str, prompt: str, answers: tuple[str, ...]) -> dict[str, Any]:
    """What is shown of a comparison: texts cut to what a message may hold."""
    asked = clip(prompt, round(CARD_BYTES * PROMPT_SHARE))
    most = round(CARD_BYTES * (1 - PROMPT_SHARE) / len(answers))
    return {"key": key, "prompt": asked, "answers": [clip(answer, most) for answer in answers]}


def show(session: Session) -> Ranker:
    """Show the widget of a session in this cell; one that ranked into the same file before gives way to it."""
    path = session.preferences.path
    before = _shown.get(path)
    if before is not None:
        before.retire()
    ranker = Ranker(session)
    _shown[path] = ranker
    ranker.display()
    return ranker
