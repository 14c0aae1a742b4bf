"""The live dashboard: one widget, fed with numbered deltas, whose buttons act while the cell runs.

::

    run.events ──> Feed ──message n──> dashboard.js
                     <── hello (new view, page reload, gap in the numbers): everything again, thinned
    run.control <── stop, pause, resume, and wishes: save, rate, sample, epoch_end

Nothing but the code is in synced state, so a notebook that saves widget state stays small.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anywidget

from nbadapt.widgets.controls import wish
from nbadapt.widgets.feed import Feed
from nbadapt.widgets.watched import Watched

HERE = Path(__file__).parent


class Dashboard(anywidget.AnyWidget):
    """The live view of one run. Call `push` a few times a second; it never raises.

    Attributes:
        hello: how often a front end has said that it shows this dashboard; 0 means that none is there.
        error: the first thing that went wrong here, in one line; the run goes on all the same.
    """

    _esm = "\n".join((HERE / name).read_text(encoding="utf-8") for name in ("chart.js", "controls.js", "dashboard.js"))
    _css = (HERE / "dashboard.css").read_text(encoding="utf-8")

    def __init__(self, run: Watched) -> None:
        super().__init__()
        self.hello = 0
        self.error: str | None = None
        self._watched_run = run
        self._feed = Feed(run)
        self._feed_lock = threading.RLock()  # messages may come in on another thread than the one that pushes
        self.on_msg(self._answer_front_end)
        if hasattr(self.comm, "_reply_subshell_for"):
            # ipykernel 7.4 sends clicks to the shell that made the widget, which is the one that is busy.
            self.comm._reply_subshell_for = lambda _data, default: default

    def push(self, full: bool = False) -> None:
        """Send what is new since the last message; nothing where nothing changed.

        Args:
            full: send everything, for a front end that has nothing or has missed a message.
        """
        with self._feed_lock:
            try:
                message = self._feed.message(full=full)
                if message is not None:
                    self.send(message[0], [message[1]])
            except Exception as error:  # noqa: BLE001  no trouble of the view may cost the run
                self._feed.forget()
                if self.error is None:
                    self.error = f"the dashboard missed an update: {type(error).__name__}: {error}"
                    self._feed.warn(self.error)

    def _answer_front_end(self, _widget: Any, message: Mapping[str, Any], _buffers: Any) -> None:
        control = self._watched_run.control  # not run.resume(): a stale view must not start a stopped run anew
        match message.get("type"):
            case "hello":
                self.hello += 1
                self.push(full=True)
                return
            case "stop":
                control.stop()
            case "pause":
                control.pause()
            case "resume":
                control.resume()
            case _:
                wish(control, message)
        with self._feed_lock:
            self._feed.forget("head")  # the button waits for an answer, even where nothing changed
            self._feed.forget("controls")
        self.push()
