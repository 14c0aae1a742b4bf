"""Stop and Pause: asked for in one thread, obeyed in another."""

from __future__ import annotations

import threading

from nbadapt.errors import Stopped


class Control:
    """The switches of one run. The main thread turns them, `obey` acts on them in the worker thread."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._go = threading.Event()
        self._go.set()
        self._raised = False
        self.reason = ""

    def stop(self, reason: str = "stopped by the user") -> None:
        """Ask the worker to stop at its next event; the first reason is kept. Ends a pause."""
        self.reason = self.reason or reason
        self._stop.set()
        self._go.set()

    def pause(self) -> None:
        """Hold the worker at its next event. Without effect once a stop was asked for."""
        if not self._stop.is_set():
            self._go.clear()

    def resume(self) -> None:
        """Let the worker go on."""
        self._go.set()

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

    def wait_while_paused(self) -> None:
        """Block until no pause is asked for."""
        self._go.wait()

    def raise_if_stopping(self) -> None:
        """Raise Stopped, once: what follows is the method saving its work.

        Raises:
            Stopped: a stop was asked for and not yet told.
        """
        if self._stop.is_set() and not self._raised:
            self._raised = True
            raise Stopped(self.reason)
