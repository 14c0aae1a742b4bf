"""Keeps a cell while its run works: pumps messages, draws, and turns interrupts into Stop.

::

    hold(run) ──> show ──> loop: pump messages · draw · obey interrupts ──> the result in the same place
                            └─ in the background: a thread goes on drawing, the cell returns

All display happens on the main thread, or on one thread of its own in the background; the worker shows nothing.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from nbadapt.errors import RunError
from nbadapt.pump import MessagePump
from nbadapt.view import View, hello_seconds, thread_name, view_of

if TYPE_CHECKING:
    from nbadapt.control import Wish
    from nbadapt.run import Run

POLL_SECONDS = 0.05  # the longest that an interrupt or the end of the run goes unnoticed
LEAVE_SECONDS = 0.3  # what a worker gets to end when the user leaves at once
RESULT_SECONDS = 10.0  # the longest that `wait` waits for another thread to show the result


def hold(run: Run, *, background: bool = False, slot: Any = None, keep: bool = False) -> None:
    """Show a run that was just started, and keep the cell until it has ended.

    The first interrupt stops the run, as the Stop button does.

    Args:
        run: its worker thread is at work, or has ended already.
        background: return as soon as a front end shows the dashboard. Where none does in time, nobody could
            follow the run or stop it: then this keeps the cell too.
        slot: see `nbadapt.view.view_of`.
        keep: likewise.

    Raises:
        RunError: the user interrupted a second time and left the run.
    """
    view = view_of(run, slot, keep=keep)
    with Interrupts() as interrupts, MessagePump() as pump:
        view.show()
        if background:
            deadline = time.monotonic() + hello_seconds()
            while run.alive and view.can_greet and not view.greeted and time.monotonic() < deadline:
                _turn(run, view, interrupts, pump)
            if view.greeted and run.alive:
                view.go_on_alone()
                return
        while run.alive:
            _turn(run, view, interrupts, pump)
        view.finish()


def wait(run: Run) -> None:
    """Keep the cell until a run in the background has ended; an interrupt stops it.

    Raises:
        RunError: the user interrupted a second time and left the run.
    """
    with Interrupts() as interrupts, MessagePump() as pump:
        while run.alive:
            _turn(run, None, interrupts, pump)
        for thread in threading.enumerate():
            if thread.name == thread_name(run):
                thread.join(RESULT_SECONDS)


def wait_for(wish: Wish, run: Run) -> None:
    """Keep the cell until a run has fulfilled or refused a wish; an interrupt leaves, and the run goes on."""
    with MessagePump() as pump:
        while not wish.done and run.alive:
            pump.poll(POLL_SECONDS)
    if not wish.done:
        wish.refuse(RunError(f"the run {run.id} has ended"))


def _turn(run: Run, view: View | None, interrupts: Interrupts, pump: MessagePump) -> None:
    """Handle the messages that came, draw where there is a view, and do what the interrupts ask for."""
    pump.poll(POLL_SECONDS)
    if view is not None:
        view.update()
    if interrupts.count == 1 and not run.control.stopping:
        run.control.stop("interrupted")
    elif interrupts.count > 1:
        _leave(run, view)


def _leave(run: Run, view: View | None) -> None:
    """Break the worker off and give the cell free, whether the worker has noticed or not.

    Raises:
        RunError: always.
    """
    run.abandon()
    run.join(LEAVE_SECONDS)
    if view is not None:
        view.go_on_alone().join(LEAVE_SECONDS)
    raise RunError(
        f"the run {run.id} was left at once, without saving its last steps: "
        f"continue it from its last checkpoint with  %nbadapt resume {run.id}"
    )


class Interrupts:
    """Counts interrupts (SIGINT) while entered, on the main thread; elsewhere there are none.

    The handler only counts: whatever it did could meet the main thread inside a lock that it needs itself.
    Only where the loop does not react to two of them, the third is a KeyboardInterrupt as usual.
    """

    def __init__(self) -> None:
        self.count = 0
        self._before: Any = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._on_interrupt)
        return self

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count > 2:
            raise KeyboardInterrupt

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
