"""An open playground without its page: one question at a time, answered in a thread while the kernel is free.

::

    ask(prompt, settings) ──> thread: for each player   wait for the end of a run ── load ── tokens ──> changed(place)
    stop() ────────────────────────────────────────────────────────────^ between two tokens

The thread works beside the notebook's cells. A run of nbadapt that starts meanwhile has the machine to itself: the
next token waits for its end.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import threading
from collections.abc import Callable, Sequence

from nbadapt.errors import RequestError, Stopped
from nbadapt.playing.answers import Round, ask
from nbadapt.playing.choice import Choices
from nbadapt.playing.players import Player
from nbadapt.playing.settings import Settings

LOOK_SECONDS = 0.2  # between two looks whether a run has ended
LEAVE_SECONDS = 5.0  # the longest that closing waits for the thread


class Playground:
    """Players, and the last question to them.

    Args:
        players: who answers.
        choices: takes what the person finds better.

    Attributes:
        round: the last question; None before the first one.
        held_by: the run whose end the next token waits for; "" for none.
    """

    def __init__(self, players: Sequence[Player], choices: Choices) -> None:
        self.players, self.choices = list(players), choices
        self.round: Round | None = None
        self.held_by = ""
        self._changed: Callable[[int | None], None] = lambda _place: None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._answering = False

    def listen(self, changed: Callable[[int | None], None]) -> None:
        """Have `changed` called with the place of an answer that has grown, and with None when anything else has.

        It is called in another thread.
        """
        self._changed = changed

    @property
    def working(self) -> bool:
        """Whether a question is being answered."""
        return self._answering

    def ask(self, prompt: str, settings: Settings) -> None:
        """Begin to answer.

        Raises:
            RequestError: there is no prompt, or the last one is still being answered.
        """
        if not prompt.strip():
            raise RequestError("the prompt is empty: write at least one word")
        if self.working:
            raise RequestError("the last prompt is still being answered: stop it first")
        self._stop = threading.Event()
        self.round = Round(prompt, settings, self.players)
        context = contextvars.copy_context()  # what a library prints by accident goes to no other cell
        work = functools.partial(context.run, self._work, self.round, self._stop)
        self._thread = threading.Thread(target=work, name="nbadapt-play", daemon=True)
        self._answering = True
        self._thread.start()

    def stop(self) -> None:
        """End the answering at the next token; what is written stays."""
        self._stop.set()

    def close(self) -> None:
        """Stop, and wait until nothing works any more."""
        self.stop()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(LEAVE_SECONDS)

    def wait(self, seconds: float | None = None) -> None:
        """Wait for the answers, until the page was told of them too."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)

    def _work(self, asked: Round, stop: threading.Event) -> None:
        try:
            ask(asked, self._tell, lambda: self._wait_for_turn(stop))
        finally:
            self._answering = False  # before it is told: the page may ask at once
            self._tell(None)

    def _tell(self, place: int | None) -> None:
        with contextlib.suppress(Exception):  # no trouble of a page may cost the answers
            self._changed(place)

    def _wait_for_turn(self, stop: threading.Event) -> None:
        """Wait while a run is at work in this kernel."""
        from nbadapt import runner

        while True:
            if stop.is_set():
                self.held_by = ""
                raise Stopped
            run = runner.current()
            before, self.held_by = self.held_by, run.id if run is not None else ""
            if before != self.held_by:
                self._tell(None)
            if run is None:
                return
            stop.wait(LOOK_SECONDS)
