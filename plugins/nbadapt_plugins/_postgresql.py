"""One connection to a PostgreSQL database: made when it is needed, made anew where it broke, told in one line.

The password is kept nowhere: it comes from libpq's own places (PGPASSWORD, ~/.pgpass), or from the connection string
in the environment variable NBADAPT_POSTGRESQL, where that names the same database.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from nbadapt.errors import RequestError, StoreError

if TYPE_CHECKING:
    import psycopg

VARIABLE = "NBADAPT_POSTGRESQL"  # the environment variable with a connection string
SECRETS = frozenset({"password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"})
NAMED = ("host", "port", "dbname", "user")  # say which database it is, and who asks
CONNECT = 10  # seconds for a connection
WAIT = 60  # seconds for which another process may hold a lock
MOST_TOLD = 240  # characters of what a server says

_PUT = f"put it into PGPASSWORD or ~/.pgpass, or the whole connection string into the environment variable {VARIABLE}"


def parameters(dsn: str, source: str) -> dict[str, str]:
    """A connection string taken apart; what is wrong with it is told without repeating it.

    Raises:
        RequestError: it is none.
    """
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        return {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
    except psycopg.Error:
        raise RequestError(
            f"{source} is no connection string: write it as postgresql://user@host:5432/database"
        ) from None


def given(dsn: str) -> dict[str, str]:
    """What ``--dsn`` says.

    Raises:
        RequestError: it is no connection string, or holds a secret.
    """
    found = parameters(dsn, "--dsn")
    if SECRETS & found.keys():
        raise RequestError(f"--dsn must hold no password, for it is kept with the index: {_PUT}")
    return found


def from_environment() -> dict[str, str]:
    """What the environment variable says, secrets included.

    Raises:
        RequestError: it says nothing.
    """
    dsn = os.environ.get(VARIABLE, "").strip()
    if not dsn:
        raise RequestError(
            "an index in PostgreSQL needs a server: add --dsn postgresql://user@host:5432/database, or put the "
            f"connection string into the environment variable {VARIABLE}"
        )
    return parameters(dsn, f"the environment variable {VARIABLE}")


def same(asked: Mapping[str, str], server: Mapping[str, str]) -> bool:
    """Whether all that `asked` says of a database is true of this one."""
    return all(server.get(name) == value for name, value in asked.items() if name not in SECRETS)


class Server:
    """A database for one index; one thread at a time.

    Args:
        index: the index's name, for messages.
        server: the parameters of the connection; secrets are taken from the environment.

    Attributes:
        server: the parameters without secrets; complete once it was connected.
    """

    def __init__(self, index: str, server: Mapping[str, str]) -> None:
        self.index = index
        self.server = {name: value for name, value in server.items() if name not in SECRETS}
        self._lock, self._closed = threading.RLock(), False
        self._connection: psycopg.Connection[Any] | None = None

    def __str__(self) -> str:
        """Which database it is, in words."""
        place = f"{self.server.get('host', 'localhost')}:{self.server.get('port', '5432')}"
        return f"the database {self.database} at {place}"

    @property
    def database(self) -> str:
        """The name of the database."""
        return self.server.get("dbname", self.user)

    @property
    def user(self) -> str:
        """Who asks."""
        return self.server.get("user", os.environ.get("PGUSER", "?"))

    def close(self) -> None:
        """Close the connection for good."""
        with self._lock:
            self._closed = True
            if self._connection is not None:
                self._connection.close()

    @contextlib.contextmanager
    def transaction(self, search_path: str = "pg_catalog") -> Iterator[psycopg.Connection[Any]]:
        """All that is written in the block, or nothing of it; what goes wrong there is one line.

        Nothing is left set on the connection, so that a pool may hand each transaction to another one.

        Raises:
            StoreError: the server cannot be reached, or refuses.
        """
        import psycopg

        with self._lock:
            try:
                connection = self._begun(search_path)
                try:
                    yield connection
                    connection.commit()
                except BaseException:
                    _undo(connection)
                    raise
            except psycopg.Error as error:
                raise StoreError(f"the index {self.index} in {self} cannot be used: {self._reason(error)}") from None
            except UnicodeError as error:
                raise StoreError(f"the index {self.index} cannot keep a text that is no Unicode: {error}") from None

    def _begun(self, search_path: str) -> psycopg.Connection[Any]:
        """The connection with a transaction in it; one that broke since it was last used is made anew."""
        import psycopg

        settings = {"search_path": search_path, "lock_timeout": f"{WAIT}s", "jit": "off"}
        first = "SELECT " + ", ".join(f"set_config('{name}', %({name})s, true)" for name in settings)
        connection = self._connected()
        if connection.pgconn.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            _undo(connection)  # an interrupt ended the last one, wherever that was
            connection = self._connected()
        try:
            connection.execute(first, settings)
        except psycopg.OperationalError:
            if not connection.closed:
                raise
            connection = self._connected()
            connection.execute(first, settings)
        return connection

    def _connected(self) -> psycopg.Connection[Any]:
        import psycopg

        if self._closed:
            raise StoreError(f"the index {self.index} is closed: open it again")
        if self._connection is not None and not self._connection.closed:
            return self._connection
        asked: dict[str, Any] = {
            "connect_timeout": CONNECT,
            "application_name": f"nbadapt {os.getpid()}",
            "client_encoding": "utf8",
            **self.server,
            **self._secrets(),
        }
        try:
            # Statements are not prepared: a pool may give each transaction another server process.
            self._connection = psycopg.connect(prepare_threshold=None, **asked)
        except psycopg.Error as error:
            raise StoreError(f"the index {self.index} in {self} cannot be opened: {self._refusal(error)}") from None
        info = self._connection.info
        known = {"host": info.host, "port": str(info.port), "dbname": info.dbname, "user": info.user}
        self.server = {**known, **self.server}
        return self._connection

    def _secrets(self) -> dict[str, str]:
        """Those in the environment variable, where it names this database."""
        if not os.environ.get(VARIABLE, "").strip():
            return {}
        found = from_environment()
        named = {name: value for name, value in found.items() if name in NAMED}
        known = same(named, self.server) and self._is_at(found)
        return {name: found[name] for name in SECRETS & found.keys()} if known else {}

    def _is_at(self, asked: Mapping[str, str]) -> bool:
        """Whether the connection goes where `asked` says: a file from elsewhere must not send a secret elsewhere."""
        if any(self.server.get(name) != asked.get(name) for name in ("hostaddr", "service")):
            return False
        host = self.server.get("host", "")
        return host == asked.get("host", "") or ("host" not in asked and (host == "localhost" or host.startswith("/")))

    def _refusal(self, error: psycopg.Error) -> str:
        """Why there is no connection, and what to do."""
        said = one_line(error)
        if "password" in said:
            return f"the password of the user {self.user} is missing or wrong ({said}): {_PUT}"
        if "does not exist" in said:
            return f"{said}: create it, or correct --dsn"
        return f"{said}: start the server, or correct --dsn"

    def _reason(self, error: psycopg.Error) -> str:
        """Why a statement failed, and what to do."""
        from psycopg import errors

        said = one_line(error)
        match error:
            case errors.InsufficientPrivilege():
                return f"{said}: its owner can give the user {self.user} that right with GRANT"
            case errors.UndefinedTable() | errors.InvalidSchemaName():
                return f"it is not there any more ({said}): build it anew"
            case errors.LockNotAvailable():
                return f"another process has held it for more than {WAIT} s"
        return said


def _undo(connection: psycopg.Connection[Any]) -> None:
    """Roll back; a connection that cannot is closed, and the server rolls back."""
    import psycopg

    try:
        if connection.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
            connection.cancel()  # the interrupt came between a command and its answer
            while connection.pgconn.get_result() is not None:
                pass
        connection.rollback()
    except psycopg.Error:
        connection.close()


def one_line(error: BaseException) -> str:
    """What a server says, in one short line."""
    said = getattr(getattr(error, "diag", None), "message_primary", None) or str(error)
    line = " ".join(said.split()) or type(error).__name__
    return line if len(line) <= MOST_TOLD else line[: MOST_TOLD - 1] + "…"
