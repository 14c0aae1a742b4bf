"""Stop, Pause and wishes: asked for in one thread, obeyed in another."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from nbadapt.errors import NbadaptError, RequestError, RunError, Stopped

MOST_WAITING = 20  # wishes of one run


class Wish:
    """One thing that is asked of a run while it works, such as `nbadapt.steering.Save`; its worker fulfils it.

    Attributes:
        asked: what it is.
        said: in a few words what came of it.
        result: the same for a program.
        error: why nothing came of it; then nothing has changed.
    """

    def __init__(self, asked: Any) -> None:
        self.asked = asked
        self.said = ""
        self.result: Any = None
        self.error: NbadaptError | None = None
        self._done = threading.Event()

    @property
    def name(self) -> str:
        """The control that it is asked with: "save", "learning_rate", "epoch_end" or "sample"."""
        return str(self.asked.name)

    @property
    def done(self) -> bool:
        """Whether it is fulfilled or refused."""
        return self._done.is_set()

    def fulfil(self, result: Any, said: str) -> None:
        """Say what came of it."""
        self.result, self.said = result, said
        self._done.set()

    def refuse(self, error: NbadaptError) -> None:
        """Say why nothing comes of it."""
        self.error = error
        self._done.set()


class Control:
    """The switches of one run. The main thread turns them, `obey` acts on them in the worker thread.

    Attributes:
        offered: what may be wished for now; words of `nbadapt.steering.CONTROLS`.
        why: why nothing is offered any more; "" where nothing was offered so far.
        latest: the last wish made with each control.
    """

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._go = threading.Event()
        self._go.set()
        self._word = threading.Event()  # something was asked for
        self._raised = False
        self._waiting: deque[Wish] = deque()
        self._lock = threading.Lock()  # no wish comes in while those that wait are refused
        self.offered: frozenset[str] = frozenset()
        self.why = ""
        self.latest: dict[str, Wish] = {}
        self.reason = ""

    def stop(self, reason: str = "stopped by the user") -> None:
        """Ask the worker to stop at its next event; the first reason is kept. Ends a pause."""
        self.reason = self.reason or reason
        self._stop.set()
        self.resume()

    def pause(self) -> None:
        """Hold the worker at its next event. Without effect once a stop was asked for."""
        if not self._stop.is_set():
            self._go.clear()

    def resume(self) -> None:
        """Let the worker go on."""
        self._go.set()
        self._word.set()

    def ask(self, asked: Any) -> Wish:
        """Wish for something; what cannot be is refused at once."""
        wish = Wish(asked)
        self.latest[wish.name] = wish
        with self._lock:
            if self.stopping:
                wish.refuse(RequestError("the run is stopping"))
            elif not self.offered & asked.needs:
                wish.refuse(RequestError(self.why or f"this run does not offer to {asked.does}, or not yet"))
            elif len(self._waiting) >= MOST_WAITING:
                wish.refuse(RequestError(f"{MOST_WAITING} wishes are waiting already"))
            else:
                self._waiting.append(wish)
        self._word.set()
        return wish

    def refuse(self, asked: Any, error: NbadaptError) -> None:
        """Keep in mind that something was asked for that makes no sense."""
        wish = self.latest[asked.name] = Wish(asked)
        wish.refuse(error)

    def next_wish(self) -> Wish | None:
        """The wish that has waited longest, which is the caller's to fulfil now; None where there is none."""
        return self._waiting.popleft() if self._waiting else None

    def offer(self, offered: frozenset[str], reason: str = "") -> None:
        """Say what may be wished for from now on; where that is nothing, what waits is refused for this reason."""
        with self._lock:
            self.offered, self.why = offered, "" if offered else reason
            while not offered and (wish := self.next_wish()) is not None:
                wish.refuse(RunError(reason))

    @property
    def stopping(self) -> bool:
        """Whether a stop was asked for."""
        return self._stop.is_set()

    @property
    def paused(self) -> bool:
        """Whether a pause is asked for."""
        return not self._go.is_set()

    @property
    def obeyed(self) -> bool:
        """Whether the worker was told to stop."""
        return self._raised

    def wait_for_word(self) -> None:
        """Block until something is asked for: a wish, to go on, or to stop."""
        self._word.wait()
        self._word.clear()

    def raise_if_stopping(self) -> None:
        """Raise Stopped, once: what follows is the method saving its work.

        Raises:
            Stopped: a stop was asked for and not yet told.
        """
        if self._stop.is_set() and not self._raised:
            self._raised = True
            raise Stopped(self.reason)
