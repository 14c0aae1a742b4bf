"""What Python is asked to do while a piece of work goes on, by its audit events (PEP 578): connections and files.

::

    sys.addaudithook ──> _hear ──> connections(): refuses, and notes where it was to go
                              └──> changes():     notes what becomes of which file

All threads of this process are heard, whichever function they call. Not heard is what a library does by itself in
machine code, and what other processes do.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

Listener = Callable[[str, tuple[Any, ...]], None]

_listeners: list[Listener] = []


@functools.cache
def _install() -> None:
    """Once: a hook cannot be taken away again."""
    sys.addaudithook(_hear)


def _hear(event: str, details: tuple[Any, ...]) -> None:
    if _listeners and (event in _ADDRESSES or event in _PATHS):  # most events are none of these
        for listener in tuple(_listeners):
            listener(event, details)


@contextlib.contextmanager
def _heard(listener: Listener) -> Iterator[None]:
    """Inside, the listener is told; what it raises is raised by the call that it was told of."""
    _install()
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


# ------------------------------------------------------------------------------------------------ connections

# Where the address is among an event's details. That of a socket is a tuple, of a name in the file system a text.
_ADDRESSES: Mapping[str, int] = {
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
    "socket.gethostbyaddr": 0,
    "socket.getnameinfo": 0,
}
_INTERNET = (socket.AF_INET, socket.AF_INET6)


@contextlib.contextmanager
def connections() -> Iterator[list[str]]:
    """Inside, no other machine can be reached or looked up; the list grows by what was tried."""
    tried: list[str] = []
    here = {"", "localhost", socket.gethostname()}

    def refuse(event: str, details: tuple[Any, ...]) -> None:
        host = _host(event, details)
        if host not in here and not _is_loopback(host):
            tried.append(host)
            raise OSError(f"the conformance kit lets nobody reach {host}")

    with _heard(refuse):
        yield tried


def _host(event: str, details: tuple[Any, ...]) -> str:
    """The other end of a call; "" where there is none, or none that is a machine."""
    if event not in _ADDRESSES:
        return ""
    if isinstance(details[0], socket.SocketType) and details[0].family not in _INTERNET:
        return ""
    address = details[_ADDRESSES[event]]
    host = (address or ("",))[0] if isinstance(address, tuple) else address
    return os.fsdecode(host) if isinstance(host, bytes) else str(host or "")


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])  # behind it is the interface
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_loopback or mapped.is_unspecified


# ------------------------------------------------------------------------------------------------ files

# Where the paths are among an event's details, each with where its dir_fd is.
_PATHS: Mapping[str, tuple[tuple[int, int | None], ...]] = {
    "open": ((0, None),),
    "os.mkdir": ((0, 2),),
    "os.rename": ((0, 2), (1, 3)),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "sqlite3.connect": ((0, None),),
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# What libraries may write wherever they work: their caches, as these variables or their own habits place them.
_CACHES = (
    "XDG_CACHE_HOME",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_DATASETS_CACHE",
    "HF_MODULES_CACHE",
    "HF_XET_CACHE",
    "JOBLIB_TEMP_FOLDER",
    "MPLCONFIGDIR",
    "NBADAPT_ANSWERS",
    "NBADAPT_CACHE",
    "NBADAPT_EMBEDDINGS",
    "NUMBA_CACHE_DIR",
    "TORCH_HOME",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
)
_IN_HOME = (".cache", ".config/matplotlib", ".nv", ".triton", "Library/Caches", "AppData/Local")
_TEMPORARY = ("joblib_memmapping_folder_", "matplotlib-", "pymp-", "torchinductor_")
_NO_FILES = ("/dev", "/proc", "/sys")

_State = tuple[int, int] | str | None


@contextlib.contextmanager
def changes(admitted: Collection[Path]) -> Iterator[list[str]]:
    """Inside, files are watched; afterwards the list has the path of each that appeared, changed or went.

    Left out are files in the folders `admitted`, in caches of libraries, and what is made and removed again. Threads
    that are there already are not listened to: what they do belongs to somebody else.
    """
    before: dict[Path, _State] = {}
    found: list[str] = []
    others = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
    free = [folder.resolve() for folder in (*admitted, *_caches())]
    temporary = Path(tempfile.gettempdir()).resolve()

    def note(event: str, details: tuple[Any, ...]) -> None:
        if event not in _PATHS or threading.get_ident() in others:
            return
        with contextlib.suppress(OSError, TypeError, ValueError):  # the call itself will say what is wrong with it
            for path in _paths(event, details):
                before.setdefault(path, _state(path))

    try:
        with _heard(note):
            yield found
    finally:
        for path, was in sorted(before.items()):
            place = path.parent.resolve() / path.name
            if _state(path) != was and not _is_free(place, free, temporary):
                found.append(str(place))


def _paths(event: str, details: tuple[Any, ...]) -> Iterator[Path]:
    """The absolute paths that a call may change."""
    if event == "open" and not (isinstance(details[2], int) and details[2] & _WRITING):
        return
    for at, folder_at in _PATHS[event]:
        if isinstance(details[at], int):  # a file that is open already
            continue
        path = os.fsdecode(details[at])
        if event == "sqlite3.connect":
            path = path.removeprefix("file:").partition("?")[0]
        folder = -1 if folder_at is None else details[folder_at]
        base = Path.cwd() if folder == -1 else Path(f"/proc/self/fd/{folder}").readlink()  # elsewhere it is not known
        yield Path(os.path.normpath(base / path))


def _state(path: Path) -> _State:
    """Tells a file from what it was before; a folder is there or not."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return "a folder" if path.is_dir() else (found.st_size, found.st_mtime_ns)


def _caches() -> Iterator[Path]:
    yield from (Path(os.environ[name]).expanduser() for name in _CACHES if os.environ.get(name))
    yield from (Path.home() / place for place in _IN_HOME)
    yield from map(Path, _NO_FILES)
    if sys.pycache_prefix:
        yield Path(sys.pycache_prefix)


def _is_free(path: Path, free: Collection[Path], temporary: Path) -> bool:
    """Whether anybody may write there."""
    if "__pycache__" in path.parts or any(path.is_relative_to(folder) for folder in free):
        return True
    return path.is_relative_to(temporary) and str(path.relative_to(temporary)).startswith(_TEMPORARY)
