"""PostgreSQL as a store: what every store must do, against a real server, and what is special to a server."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from pathlib import Path

import bm25
import numpy as np
import pytest
from postgresql_server import PASSWORD, USER, Server

from nbadapt.errors import NbadaptError, RequestError, StoreError
from nbadapt.indexing.chunks import Chunk
from nbadapt.indexing.sqlite import SqliteStore
from nbadapt.indexing.store import Record, Where
from nbadapt.testing.stores import StoreContract, chunks_of, vectors
from nbadapt_plugins import _postgresql
from nbadapt_plugins.postgresql_store import PostgresqlStore

VARIABLE = "NBADAPT_POSTGRESQL"
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _environment(postgresql: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGPASSWORD", "PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PGPASSFILE", "/nowhere")
    monkeypatch.setenv(VARIABLE, postgresql.dsn(password=PASSWORD))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of an index whose name, and so whose schema, no other test has."""
    return tmp_path / "some" / f"index{next(_numbers)}.postgresql"


class TestPostgresql(StoreContract):
    kind = "nbadapt_plugins.postgresql_store:PostgresqlStore"
    kills = 2

    @pytest.fixture
    def path(self, path: Path) -> Path:
        return path

    @pytest.fixture(autouse=True)
    def _server(self, postgresql: Server) -> None:
        self.server = postgresql

    @pytest.mark.slow
    def test_many_kills_lose_nothing(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(TestPostgresql, "kills", 8)
        self.test_a_kill_loses_nothing_and_leaves_no_half(path)

    def settle(self, process: subprocess.Popen[str]) -> None:
        asked = f"SELECT 1 FROM pg_stat_activity WHERE application_name = 'nbadapt {process.pid}'"
        while self.server.run(asked):
            time.sleep(0.02)


@pytest.fixture
def opened():
    """Opens stores, and closes them behind the test."""
    stores = []

    def open_at(path: Path) -> PostgresqlStore:
        stores.append(PostgresqlStore(path))
        return stores[-1]

    yield open_at
    for store in stores:
        store.close()


def line(error: pytest.ExceptionInfo[NbadaptError]) -> str:
    """The message: one line, without the password."""
    text = str(error.value)
    assert "\n" not in text
    assert PASSWORD not in text
    assert "secret" not in text
    return text


# ---------------------------------------------------------------------------------------------- search


def test_bm25_is_that_of_the_paper(path, opened):
    store = opened(path)
    store.put(Record("a"), chunks_of(*bm25.TEXTS), vectors(bm25.TEXTS))
    for asked in bm25.ASKED:
        expected = bm25.scores(bm25.TEXTS, asked)
        assert [score for _, score in store.matching(asked, 9)] == pytest.approx(expected, rel=1e-5)


def test_words_are_found_as_in_sqlite(tmp_path, path, opened):
    texts = [
        "Running shoes wear out",
        "He runs; the SHOE fits",
        "naïve café, Ångström",
        "v1_2 costs 1e5 at example.org/a-b",
        "Ελληνικά, 日本語 and हिन्दी",
        "it's don't",
        "the the the",
    ]
    stores = [opened(path), SqliteStore(tmp_path / "x")]
    for store in stores:
        store.put(Record("a"), chunks_of(*texts), vectors(texts))
    for asked in (
        "run shoes",
        "cafe NAIVE",
        "angstrom",
        "1e5",
        "example b",
        "日本語",
        "Ελληνικά",
        "don",
        "the",
        "v1_2",
    ):
        found = []
        for store in stores:
            passages = store.passages([chunk for chunk, _ in store.matching(asked, 9)])
            found.append(sorted(passage.text for passage in passages.values()))
        assert found[0] == found[1] != [], asked


def test_a_path_pattern_means_what_it_means_elsewhere(path, opened):
    store = opened(path)
    paths = ("a/b.md", "a/(x)+[1].md", "a/b\\c.md", "ä/ö.txt", "a/1.md", "a/2.md", "a\nb", "$^.md", "a/]")
    for name in paths:
        store.put(Record(name), chunks_of(name), vectors([name]))
    for pattern in (
        "*",
        "a/*",
        "?/?.md",
        "*(x)+*",
        "*\\c*",
        "ä/*",
        "a/[12].md",
        "a/[!12].md",
        "a?b",
        "$^*",
        "a/]",
        "[",
        "*.MD",
    ):
        where = Where(pattern)
        expected = {name for name in paths if where.admits(Record(name))}
        passages = store.passages([chunk for chunk, _ in store.nearest(vectors(["x"])[0], 99, where)])
        assert {passage.path for passage in passages.values()} == expected, pattern


def test_an_approximate_index_leaves_no_list_short(path, opened, postgresql, monkeypatch):
    monkeypatch.setenv("PGOPTIONS", "-c enable_seqscan=off")  # for the table is small
    store = opened(path)
    drawn = np.random.default_rng(0).normal(size=(1200, 16)).astype(np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    for start in range(0, 1200, 100):
        chunks = [Chunk(f"chunk {i}", 0, 1) for i in range(start, start + 100)]
        store.put(Record(f"d{start}", metadata={"start": str(start)}), chunks, drawn[start : start + 100])
    schema = f'"nbadapt_{path.stem}"'
    postgresql.run(f"CREATE INDEX ON {schema}.vectors USING hnsw (embedding vector_ip_ops)")
    postgresql.run(f"ANALYZE {schema}.vectors")
    store.remove([f"d{start}" for start in range(0, 900, 100)])  # the index still leads to most of what is gone
    exact = -np.sort(-(drawn[900:] @ drawn[0]))
    for k in (1, 10, 299, 300, 1000):
        ranked = store.nearest(drawn[0], k)
        assert len(ranked) == min(k, 300)
        if k > 10:
            np.testing.assert_allclose([score for _, score in ranked], exact[:k], atol=1e-5)
    filtered = store.nearest(drawn[0], 10, Where(metadata={"start": "1000"}))
    np.testing.assert_allclose([s for _, s in filtered], -np.sort(-(drawn[1000:1100] @ drawn[0]))[:10], atol=1e-5)
    store.close()  # which has the server count
    asked = (
        f"SELECT idx_scan FROM pg_stat_user_indexes WHERE schemaname = 'nbadapt_{path.stem}' AND indexrelname ~ 'emb'"
    )
    end = time.monotonic() + 20
    while postgresql.run(asked)[0][0] < 3 and time.monotonic() < end:
        time.sleep(0.05)
    assert postgresql.run(asked)[0][0] == 4  # for 1, 10, 299 and 300


# ---------------------------------------------------------------------------------------------- the connection


def test_the_file_says_where_the_index_is_and_holds_no_password(path, opened, postgresql, monkeypatch):
    store = opened(path)
    store.put(Record("a"), chunks_of("text"), vectors(["text"]))
    assert PASSWORD not in path.read_text()
    server = {"host": "127.0.0.1", "port": str(postgresql.port), "dbname": "postgres", "user": USER}
    assert json.loads(path.read_text()) == {"server": server, "schema": f"nbadapt_{path.stem}"}
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert opened(path).count() == 1
    monkeypatch.setenv(VARIABLE, "host=other.example password=other")  # of another server: not used
    assert opened(path).count() == 1
    copied = path.with_name("copied.postgresql")
    copied.write_text(path.read_text())
    assert opened(copied).count() == 1


def test_a_broken_connection_is_made_anew(path, opened, postgresql):
    store = opened(path)
    store.put(Record("a"), chunks_of("text"), vectors(["text"]))
    for act in (store.count, lambda: store.put(Record("b"), chunks_of("text"), vectors(["text"]))):
        postgresql.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'nbadapt %'")
        act()
    assert store.count() == 2
    store.close()
    with pytest.raises(StoreError, match="is closed") as error:
        store.count()
    assert line(error)


def test_two_that_store_the_same_document_leave_one(path, opened):
    from concurrent.futures import ThreadPoolExecutor

    stores = [opened(path) for _ in range(4)]

    def work(number: int) -> None:
        texts = [f"{number} part {part}" for part in range(20)]
        for _ in range(5):
            stores[number].put(Record("same", str(number)), chunks_of(*texts), vectors(texts))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    store = stores[0]
    texts = {
        p.text.partition(" ")[0] for p in store.passages([c for c, _ in store.nearest(vectors(["x"])[0], 99)]).values()
    }
    assert texts == {store.documents()["same"].stamp}
    assert store.count() == 20


# ---------------------------------------------------------------------------------------------- mistakes


def test_what_keeps_the_server_away_is_one_line(path, postgresql, monkeypatch):
    for dsn, words in (
        (postgresql.dsn(password="wrong secret"), f"the password of the user {USER} is missing or wrong"),
        (postgresql.dsn(), f"the password of the user {USER} is missing or wrong"),
        (postgresql.dsn(database="nothing", password=PASSWORD), '"nothing" does not exist: create it'),
        (f"postgresql://{USER}:secret@127.0.0.1:1/postgres", "start the server, or correct --dsn"),
        ("host=/nowhere password=secret", "start the server, or correct --dsn"),
    ):
        monkeypatch.setenv(VARIABLE, dsn)
        with pytest.raises(StoreError) as error:
            PostgresqlStore(path)
        assert words in line(error)
        assert not path.exists()
    for dsn, words in (
        ("", "needs a server: add --dsn"),
        ("secret://x", f"variable {VARIABLE} is no connection string"),
    ):
        monkeypatch.setenv(VARIABLE, dsn)
        with pytest.raises(RequestError) as error:
            PostgresqlStore(path)
        assert words in line(error)
    assert not path.exists()


def test_a_place_is_given_without_a_password(path, opened, postgresql, monkeypatch):
    for dsn in (f"postgresql://{USER}:secret@127.0.0.1/x", "host=x password=secret", "host=x sslpassword=secret"):
        with pytest.raises(RequestError, match="must hold no password") as error:
            PostgresqlStore.place(path, dsn)
        assert line(error)
    with pytest.raises(RequestError, match="--dsn is no connection string"):
        PostgresqlStore.place(path, "127.0.0.1")
    with pytest.raises(StoreError, match="start the server"):
        PostgresqlStore.place(path, f"postgresql://{USER}@127.0.0.1:1/postgres")
    assert not path.exists()
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    PostgresqlStore.place(path, f"postgresql://{USER}@127.0.0.1:{postgresql.port}/postgres")
    PostgresqlStore.place(path, postgresql.dsn())  # the same in other words
    assert opened(path).count() == 0
    with pytest.raises(RequestError, match=f"is in the database postgres at 127.0.0.1:{postgresql.port}"):
        PostgresqlStore.place(path, "postgresql://elsewhere/postgres")


@pytest.fixture
def guest(postgresql, monkeypatch):
    """A database, and a user with no right in it."""
    number = next(_numbers)
    postgresql.run(f"CREATE DATABASE d{number}")
    postgresql.run(f"CREATE USER guest{number} PASSWORD '{PASSWORD.replace(chr(39), chr(39) * 2)}'")
    monkeypatch.setenv(VARIABLE, postgresql.dsn(user=f"guest{number}", database=f"d{number}", password=PASSWORD))
    return f"guest{number}", f"d{number}"


def test_missing_rights_are_one_line(guest, path, opened, postgresql, monkeypatch):
    user, database = guest
    with pytest.raises(StoreError, match=r"no pgvector yet, .* CREATE EXTENSION vector") as error:
        PostgresqlStore(path)
    assert user in line(error)
    postgresql.run("CREATE EXTENSION vector", database=database)
    with pytest.raises(StoreError) as error:
        PostgresqlStore(path)
    assert f"GRANT CREATE ON DATABASE {database} TO {user}" in line(error)
    with pytest.raises(StoreError, match="GRANT CREATE"):
        PostgresqlStore.place(path, postgresql.dsn(user=user, database=database))
    assert not path.exists()
    postgresql.run(f"GRANT CREATE ON DATABASE {database} TO {user}", database=database)
    store = opened(path)
    store.put(Record("a"), chunks_of("text"), vectors(["text"]))

    # Another user may read, once it has the rights, and cannot write.
    reader = f"reader{next(_numbers)}"
    postgresql.run(f"CREATE USER {reader} PASSWORD '{PASSWORD.replace(chr(39), chr(39) * 2)}'")
    monkeypatch.setenv(VARIABLE, postgresql.dsn(user=reader, database=database, password=PASSWORD))
    other = path.parent / "again" / path.name
    with pytest.raises(StoreError, match="GRANT USAGE ON SCHEMA") as error:
        opened(other)
    assert reader in line(error)
    postgresql.run(f"GRANT USAGE ON SCHEMA nbadapt_{path.stem} TO {reader}", database=database)
    postgresql.run(f"GRANT SELECT ON ALL TABLES IN SCHEMA nbadapt_{path.stem} TO {reader}", database=database)
    reading = opened(other)
    assert len(reading.nearest(vectors(["text"])[0], 3)) == len(reading.matching("text", 3)) == reading.count() == 1
    with pytest.raises(StoreError, match="permission denied"):
        reading.put(Record("b"), chunks_of("b"), vectors(["b"]))


def test_what_is_no_index_is_told_in_one_line(path, opened, postgresql):
    postgresql.run(f"CREATE SCHEMA nbadapt_{path.stem}")
    with pytest.raises(StoreError, match="is no index, or one of another version") as error:
        PostgresqlStore(path)
    assert line(error)
    with pytest.raises(RequestError, match="too long"):
        PostgresqlStore(path.with_name("x" * 60 + ".postgresql"))
    for content in ("", "{}", '{"server": 1, "schema": 2}'):
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        with pytest.raises(StoreError):
            PostgresqlStore(path)
    other = path.with_name(f"{path.stem}b.postgresql")
    store = opened(other)
    store.put(Record("a"), chunks_of("a"), vectors(["a"]))
    postgresql.run(f"DROP SCHEMA nbadapt_{other.stem} CASCADE")
    with pytest.raises(StoreError, match="not there any more") as error:
        store.count()
    assert line(error)


def test_odd_letters_do_not_break_a_document(path, opened):
    store = opened(path)
    text = "a\0b \ud800 c"
    store.put(Record("a", metadata={"title": text}), [Chunk(text, 0, len(text))], vectors([text]))
    (passage,) = store.passages([store.nearest(vectors([text])[0], 1)[0].chunk]).values()
    assert len(passage.text) == len(passage.metadata["title"]) == len(text)
    with pytest.raises(StoreError, match="no Unicode"):
        store.put(Record("\ud800"), [], np.zeros((0, 0), np.float32))


@pytest.mark.parametrize(
    ("server", "told"),
    [
        ({"host": "db.example", "dbname": "notes"}, True),
        ({"host": "db.example", "dbname": "notes", "hostaddr": "192.0.2.6"}, False),
        ({"host": "db.example", "dbname": "notes", "service": "other"}, False),
        ({"host": "elsewhere.example", "dbname": "notes"}, False),
        ({"host": "db.example", "dbname": "others"}, False),
    ],
)
def test_a_secret_goes_to_the_database_that_it_was_given_for(server, told, monkeypatch):
    monkeypatch.setenv("NBADAPT_POSTGRESQL", "host=db.example dbname=notes password=secret")
    assert _postgresql.Server("notes", server)._secrets() == ({"password": "secret"} if told else {})


def test_a_secret_without_a_host_stays_on_this_machine(monkeypatch):
    monkeypatch.setenv("NBADAPT_POSTGRESQL", "dbname=notes password=secret")
    assert _postgresql.Server("notes", {"host": "db.example", "dbname": "notes"})._secrets() == {}
    for here in ({}, {"host": "localhost"}, {"host": "/var/run/postgresql"}):
        assert _postgresql.Server("notes", {**here, "dbname": "notes"})._secrets() == {"password": "secret"}
