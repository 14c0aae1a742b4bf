"""Handles widget messages on the main thread while a cell keeps it.

A kernel works off its shell channel one message at a time: while a cell runs, clicks wait. The pump takes the
messages out of the channel itself::

    shell channel ──> poll() ──┬── comm, comm_info, kernel_info ──> handled now, in the cell
                               └── everything else (queued cells, ...) ──> back into the channel, in order

Private parts of ipykernel are used, which differ between 6.x and 7.x. Where they are not as expected, and
outside a kernel, `poll` only sleeps: clicks then wait for the end of the cell, all else works.
"""

from __future__ import annotations

import contextvars
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any

# comm_info and kernel_info are what a reloaded page asks for before it draws its widgets again.
HANDLED = frozenset({"comm_open", "comm_msg", "comm_close", "comm_info_request", "kernel_info_request"})
HANDOVER_SECONDS = 1.0  # how long the shell channel's thread may take to answer before the pump goes on without it


class MessagePump:
    """Context manager; call `poll` again and again while it is entered.

    Only the kernel's main thread pumps. A pump inside another one sleeps: the work is the outer one's.
    """

    _entered = False

    def __init__(self) -> None:
        self._channel: _Channel | None = None

    def __enter__(self) -> MessagePump:
        if not MessagePump._entered and threading.current_thread() is threading.main_thread():
            self._channel = _find_channel()
        if self._channel is not None:
            MessagePump._entered = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._channel is None:
            return
        channel, self._channel = self._channel, None
        MessagePump._entered = False
        channel.give_back()

    def poll(self, timeout: float) -> None:
        """Handle the messages that are waiting; wait at most `timeout` seconds for the first one."""
        if self._channel is None:
            time.sleep(timeout)
        else:
            self._channel.poll(timeout)


def works() -> bool:
    """Whether this kernel is built as expected, so that clicks are handled while a cell runs."""
    return _find_channel() is not None


def _find_channel() -> _Channel | None:
    from IPython.core.getipython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        return None
    try:
        return _ThreadChannel(kernel) if getattr(kernel, "shell_channel_thread", None) else _QueueChannel(kernel)
    except (AttributeError, KeyError, TypeError):  # not the ipykernel that we know
        return None


class _Channel(ABC):
    """A kernel's shell channel as seen from inside a running cell.

    Raises:
        AttributeError, KeyError, TypeError: on construction, where the kernel is not built as expected.
    """

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        identity = kernel._parent_ident
        self._parent = (
            identity if isinstance(identity, bytes) else identity["shell"],
            kernel.get_parent("shell"),
        )
        self._unpack: Callable[[Any], dict[str, Any]] = kernel.session.unpack
        self._identities: Callable[..., Any] = kernel.session.feed_identities

    @abstractmethod
    def poll(self, timeout: float) -> None:
        """Handle what is waiting; wait at most `timeout` seconds for the first message."""

    @abstractmethod
    def give_back(self) -> None:
        """Put what was taken and not handled back into the channel, in order."""

    @abstractmethod
    def _dispatch(self, message: list[Any]) -> Coroutine[Any, Any, None]:
        """The kernel's own handling of one message."""

    def _is_ours(self, message: list[Any]) -> bool:
        try:
            _, frames = self._identities(message, copy=False)
            return self._unpack(frames[1].bytes)["msg_type"] in HANDLED  # frames: signature, header, ...
        except (ValueError, IndexError, KeyError, TypeError, AttributeError):
            return False  # such as the marker that ends an abort: the kernel knows what it is

    def _handle(self, message: list[Any]) -> None:
        """Dispatch a message inside the cell, and leave no trace of that in the cell."""
        kernel = self._kernel
        # The hooks swap SIGINT handlers and remember one only: nested, the cell's own would be lost for good.
        hooks = kernel.pre_handler_hook, kernel.post_handler_hook
        kernel.pre_handler_hook = kernel.post_handler_hook = _no_hook
        try:
            contextvars.copy_context().run(_drive, self._dispatch(message))
        except Exception:
            kernel.log.exception("nbadapt: a widget message could not be handled inside a cell")
        finally:
            kernel.pre_handler_hook, kernel.post_handler_hook = hooks
            kernel.set_parent(*self._parent)  # what the cell shows goes on going to the cell
            kernel._publish_status("busy", "shell")  # handling the message ended with "idle"


def _no_hook() -> None:
    """Stands in for the kernel's hooks around a message."""


def _drive(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never really waits; one that does is closed."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()


class _ThreadChannel(_Channel):
    """ipykernel 7: another thread reads the shell socket and passes messages on through a pair of sockets."""

    def __init__(self, kernel: Any) -> None:
        super().__init__(kernel)
        self._thread = kernel.shell_channel_thread
        pair = self._thread.manager._shell_channel_to_main
        self._inbox, self._outbox = pair.to_socket, pair.from_socket
        self._add_callback: Callable[[Callable[[], None]], None] = self._thread.io_loop.add_callback
        self._kept: list[list[Any]] = []

    def _dispatch(self, message: list[Any]) -> Coroutine[Any, Any, None]:
        coroutine: Coroutine[Any, Any, None] = self._kernel.dispatch_shell(message, subshell_id=None)
        return coroutine

    def poll(self, timeout: float) -> None:
        if not self._inbox.poll(int(timeout * 1000)):
            return
        while self._inbox.poll(0):
            message = self._inbox.recv_multipart(copy=False)
            if self._is_ours(message):
                self._handle(message)
            else:
                self._kept.append(message)

    def give_back(self) -> None:
        """Send everything once more from the shell channel's thread, which passes nothing on meanwhile.

        An error in this cell makes that thread mark the end of the messages to abort. What is in the channel
        by then comes before that mark, so queued cells are aborted as they should be.
        """
        held, drained = threading.Event(), threading.Event()

        def resend() -> None:
            held.set()
            drained.wait(HANDOVER_SECONDS)
            for message in self._kept:
                self._outbox.send_multipart(message, copy=False)

        self._add_callback(resend)
        held.wait(HANDOVER_SECONDS)
        while self._inbox.poll(0):
            self._kept.append(self._inbox.recv_multipart(copy=False))
        drained.set()


class _QueueChannel(_Channel):
    """ipykernel 6: the main thread reads the shell socket into a queue of (number, function, arguments)."""

    def __init__(self, kernel: Any) -> None:
        super().__init__(kernel)
        self._stream = kernel.shell_stream
        self._socket = kernel.shell_stream.socket
        self._queue = kernel.msg_queue
        self._kernel_dispatch = kernel.dispatch_shell

    def _dispatch(self, message: list[Any]) -> Coroutine[Any, Any, None]:
        coroutine: Coroutine[Any, Any, None] = self._kernel_dispatch(message)
        return coroutine

    def poll(self, timeout: float) -> None:
        if not self._handle_waiting() and self._socket.poll(int(timeout * 1000)):
            self._handle_waiting()

    def _handle_waiting(self) -> bool:
        self._stream.flush()
        ours = []
        for _ in range(self._queue.qsize()):
            item = self._queue.get_nowait()
            if item[-1] and self._is_ours(item[-1][0]):
                ours.append(item[-1][0])
            else:
                self._queue.put_nowait(item)
        for message in ours:
            self._handle(message)
        return bool(ours)

    def give_back(self) -> None:
        """Read what came since the last poll: nobody would tell the kernel's loop of it any more."""
        self._stream.flush()
