"""What the kit hears of files and connections, and that what others do meanwhile is left out."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nbadapt.testing import auditing
from nbadapt.testing.auditing import changes, connections


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a file `old`, a folder `place`, and one that is admitted."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").write_text("old")
    for name in ("place", "admitted", "home/.cache", "__pycache__"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def found(folder: Path, work: Callable[[], Any]) -> list[str]:
    with changes([folder / "admitted"]) as seen:
        work()
    return [Path(path).relative_to(folder).as_posix() for path in seen]


def with_descriptor(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))


def database(path: str) -> None:
    with sqlite3.connect(path) as there:
        there.execute("CREATE TABLE a (b)")
    there.close()


def below(place: str) -> None:
    place_fd = os.open(place, os.O_RDONLY)
    os.mkdir("inner", dir_fd=place_fd)
    os.close(place_fd)


def in_a_thread(work: Callable[[], Any]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@pytest.mark.parametrize(
    ("work", "paths"),
    [
        (lambda: Path("new").write_text("x"), ["new"]),
        (lambda: Path("old").write_text("other"), ["old"]),
        (lambda: with_descriptor("new"), ["new"]),
        (lambda: Path("new").mkdir(), ["new"]),
        (lambda: Path("old").rename("new"), ["new", "old"]),
        (lambda: Path("old").replace("admitted/new"), ["old"]),
        (lambda: Path("old").unlink(), ["old"]),
        (lambda: Path("place").rmdir(), ["place"]),
        (lambda: shutil.rmtree("place"), ["place"]),
        (lambda: os.truncate("old", 1), ["old"]),
        (lambda: Path("new").symlink_to("old"), ["new"]),
        (lambda: os.link("old", "new"), ["new"]),
        (lambda: shutil.copy("old", "place"), ["place/old"]),
        (lambda: database("new"), ["new"]),
        (lambda: in_a_thread(lambda: Path("new").write_text("x")), ["new"]),
        pytest.param(
            lambda: below("place"),
            ["place/inner"],
            marks=pytest.mark.skipif(sys.platform != "linux", reason="no other system tells"),
        ),
    ],
)
def test_what_becomes_of_files_is_heard(work: Callable[[], Any], paths: list[str], folder: Path) -> None:
    assert found(folder, work) == paths


@pytest.mark.parametrize(
    "work",
    [
        lambda: Path("old").read_text(),
        lambda: Path("old").open("r+").close(),  # nothing is written
        lambda: (Path("new").write_text("x"), Path("new").unlink()),
        lambda: Path("admitted/new").write_text("x"),
        lambda: Path("home/.cache/new").write_text("x"),
        lambda: Path("__pycache__/new.pyc").write_bytes(b""),
        lambda: Path(os.devnull).write_text("x"),
        lambda: tempfile.TemporaryFile().close(),
        lambda: database(":memory:"),
        lambda: Path("missing").unlink(missing_ok=True),
    ],
)
def test_what_is_read_undone_or_cached_is_left_out(work: Callable[[], Any], folder: Path) -> None:
    assert found(folder, work) == []


def test_what_another_thread_does_meanwhile_is_left_out(folder: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()  # its thread is there
        assert found(folder, lambda: pool.submit(Path("new").write_text, "x").result()) == []
    assert (folder / "new").exists()


@pytest.mark.parametrize(
    ("work", "host"),
    [
        (lambda way: way.connect(("192.0.2.1", 9)), "192.0.2.1"),
        (lambda way: way.connect_ex(("192.0.2.1", 9)), "192.0.2.1"),
        (lambda way: way.sendto(b"x", ("192.0.2.1", 9)), "192.0.2.1"),
        (lambda way: way.sendmsg([b"x"], [], 0, ("192.0.2.1", 9)), "192.0.2.1"),
        (lambda way: socket.SocketType.connect(way, ("192.0.2.1", 9)), "192.0.2.1"),
        (lambda way: socket.getaddrinfo("example.org", 9), "example.org"),
        (lambda way: socket.getaddrinfo(b"example.org", 9), "example.org"),
        (lambda way: socket.gethostbyname("example.org"), "example.org"),
        (lambda way: socket.gethostbyaddr("192.0.2.1"), "192.0.2.1"),
        (lambda way: socket.getnameinfo(("192.0.2.1", 9), 0), "192.0.2.1"),
    ],
)
def test_no_way_leads_to_another_machine(work: Callable[[socket.socket], Any], host: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way, connections() as tried:
        with pytest.raises(OSError, match=f"the conformance kit lets nobody reach {host}"):
            work(way)
        assert tried == [host]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.53", "localhost", None])
def test_this_machine_can_be_reached(host: str | None) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way, connections() as tried:
        socket.getaddrinfo(host, 9)
        way.sendto(b"x", (host or "127.0.0.1", 9))
    assert tried == []


def test_nobody_is_listened_to_afterwards(folder: Path) -> None:
    assert found(folder, lambda: Path("new").write_text("x")) == ["new"]
    with connections():
        pass
    assert auditing._listeners == []
    assert found(folder, lambda: subprocess.run(["touch", "child"], check=True)) == []  # as its docstring says
