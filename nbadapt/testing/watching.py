"""What a piece of work does that it should not: opens connections, keeps memory."""

from __future__ import annotations

import contextlib
import gc
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1", ""})


@contextlib.contextmanager
def connections() -> Iterator[list[str]]:
    """Inside, no other machine can be reached; the list grows by what was tried."""
    tried: list[str] = []
    home = threading.get_ident()
    kept = (socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo)

    def refuse(address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else ""  # a name in the file system is this machine's own
        host = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host or "")
        if host not in LOOPBACK:
            tried.append(host)
            raise OSError(f"the conformance kit lets nobody reach {host}")

    def guarded(original: Callable[..., Any], *, named: bool = False) -> Callable[..., Any]:
        def call(first: Any, *rest: Any, **options: Any) -> Any:
            refuse((first,) if named else rest[0])
            return original(first, *rest, **options)

        return call

    socket.socket.connect = guarded(kept[0])  # type: ignore[method-assign]
    socket.socket.connect_ex = guarded(kept[1])  # type: ignore[method-assign]
    socket.getaddrinfo = guarded(kept[2], named=True)
    try:
        yield tried
    finally:
        assert threading.get_ident() == home  # one piece of work at a time is watched
        socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo = kept  # type: ignore[method-assign]


class Held:
    """The tensors that are in memory at one moment, told apart from those that come later."""

    def __init__(self) -> None:
        import weakref

        self._there = [weakref.ref(tensor) for tensor in _tensors()]

    def since(self) -> tuple[int, int]:
        """How many tensors came since and are still there, and their bytes."""
        new = _tensors()
        old = {id(tensor) for reference in self._there if (tensor := reference()) is not None}
        found = [tensor for tensor in new if id(tensor) not in old]
        return len(found), sum(tensor.numel() * tensor.element_size() for tensor in found)


def _tensors() -> list[Any]:
    """Every tensor that anything in this process holds; without those of no memory."""
    torch = sys.modules.get("torch")
    if torch is None:
        return []
    gc.collect()
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # looking at some objects of libraries warns
        for thing in gc.get_objects():
            if issubclass(type(thing), torch.Tensor) and thing.device.type != "meta":
                found.append(thing)
    return found
