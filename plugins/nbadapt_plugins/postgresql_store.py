"""An index on a server: PostgreSQL with the extension pgvector, the way to outgrow one machine.

::

    notes.postgresql {server, schema} ──psycopg──> schema "nbadapt_notes" of a database
        documents (id, path, stamp, metadata, chunks, words)   a changed document gets a new id, as in SQLite
        chunks    (id, document, number, ..., text)
        vectors   (chunk, document, embedding)                 <#> is the negative inner product
        words     (chunk, document, length, counts)            "pad/2" in counts: the stem pad, twice; a GIN index

By meaning: every vector is compared with the question (exact, recall 1.0). Whoever prefers speed makes an index in the
index's schema, and then questions without a filter use it; what it leaves short is asked again exactly::

    CREATE INDEX ON vectors USING hnsw (embedding vector_ip_ops)

By words: PostgreSQL's own ts_rank knows nothing of how rare a word is. So its full text search stems the words and
finds them with their counts, and SQL ranks the chunks by BM25 (Robertson et al. 1994)::

    score(q, c) = sum over words w of q: ln((N - n_w + 1/2) / (n_w + 1/2)) f_w (k1 + 1) / (f_w + k1 (1 - b + b |c| / m))

N chunks, n_w of them with w, f_w times in c, |c| words in c, m on average; k1 = 1.2, b = 0.75, as in SQLite's FTS5.
Counts above 32 are 32, which takes less than 4 % off what a word adds.

The password is never written down: it comes from PGPASSWORD or ~/.pgpass, or with the whole connection string from
the environment variable NBADAPT_POSTGRESQL. Sources: https://www.postgresql.org/docs/15/textsearch.html,
https://github.com/pgvector/pgvector
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbadapt.errors import RequestError, StoreError
from nbadapt.indexing.store import (
    EVERYWHERE,
    Passage,
    Ranked,
    Record,
    Store,
    Where,
    check_width,
    checked_vectors,
    digest,
    metadata_json,
    question_words,
    storable,
)
from nbadapt.store import read_json, write_json
from nbadapt_plugins._postgresql import Server, from_environment, given, one_line, same

if TYPE_CHECKING:
    import numpy as np
    import psycopg

    from nbadapt.indexing.chunks import Chunk

FORMAT = "an index of nbadapt, format 1"  # the comment on a schema
LONGEST = 63  # bytes of a name in PostgreSQL, which cuts longer ones off
FEW = 400  # up to so many chunks an approximate index is asked for; it gives 1,000 at most
MOST = 32  # the highest count of a word in a chunk
LEAST = 1e-6  # the weight of a word that half of all chunks have, as in SQLite's FTS5
IN_PLACE = 1900  # numbers of a vector that fit into a page; longer ones PostgreSQL keeps beside the table

_TABLES = """
CREATE TABLE settings (name text PRIMARY KEY, value text NOT NULL);
CREATE TABLE documents (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name bytea NOT NULL UNIQUE, path text NOT NULL,
    stamp text NOT NULL, metadata jsonb NOT NULL, chunks integer NOT NULL, words integer NOT NULL);
CREATE TABLE chunks (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    document bigint NOT NULL REFERENCES documents ON DELETE CASCADE, number integer NOT NULL,
    start integer NOT NULL, stop integer NOT NULL, page integer, digest bytea NOT NULL, text text NOT NULL);
CREATE INDEX chunks_by_document ON chunks (document, number);
CREATE INDEX chunks_by_digest ON chunks (digest);
CREATE TABLE vectors (
    chunk bigint PRIMARY KEY, document bigint NOT NULL REFERENCES documents ON DELETE CASCADE,
    embedding vector NOT NULL);
CREATE INDEX vectors_by_document ON vectors (document);
CREATE TABLE words (
    chunk bigint PRIMARY KEY, document bigint NOT NULL REFERENCES documents ON DELETE CASCADE,
    length integer NOT NULL, counts tsvector NOT NULL) WITH (toast_tuple_target = 128);
CREATE INDEX words_by_document ON words (document);
CREATE INDEX words_by_counts ON words USING gin (counts) WITH (fastupdate = off);
CREATE TEXT SEARCH DICTIONARY stems (TEMPLATE = pg_catalog.snowball, Language = english);
CREATE TEXT SEARCH CONFIGURATION words (COPY = pg_catalog.simple);
ALTER TEXT SEARCH CONFIGURATION words ALTER MAPPING REPLACE pg_catalog.simple WITH stems;
"""

_ADD = """
WITH added AS (
    INSERT INTO chunks (document, number, start, stop, page, digest, text)
    SELECT %(document)s, number, start, stop, page, digest, text
    FROM unnest(%(starts)s::int[], %(stops)s::int[], %(pages)s::int[], %(digests)s::bytea[], %(texts)s::text[])
        WITH ORDINALITY AS given (start, stop, page, digest, text, number)
    ORDER BY number RETURNING id, number),
counted AS (
    INSERT INTO words (chunk, document, length, counts)
    SELECT id, %(document)s, length, array_to_tsvector(ARRAY(
        SELECT lexeme || '/' || least(cardinality(positions), %(most)s) FROM unnest(to_tsvector('words', folded))))
    FROM added JOIN unnest(%(lengths)s::int[], %(folded)s::text[]) WITH ORDINALITY
        AS own (length, folded, number) USING (number))
INSERT INTO vectors (chunk, document, embedding)
SELECT id, %(document)s, embedding::vector FROM added
JOIN unnest(%(vectors)s::text[]) WITH ORDINALITY AS own (embedding, number) USING (number)
"""

_BM25 = """
WITH totals AS (SELECT sum(chunks)::float8 AS n, sum(words)::float8 / greatest(sum(chunks), 1) AS mean FROM documents),
asked AS (
    SELECT lexeme, f, quote_literal(lexeme || '/' || f)::tsquery AS query
    FROM unnest(tsvector_to_array(to_tsvector('words', %(words)s))) AS lexeme, generate_series(1, %(most)s) AS f),
hits AS MATERIALIZED (SELECT lexeme, f, chunk, document, length FROM asked JOIN words ON counts @@ query),
weighted AS (
    SELECT lexeme, greatest(ln((n - count(*) + 0.5) / (count(*) + 0.5)), %(least)s) AS weight
    FROM hits, totals GROUP BY lexeme, n)
SELECT chunk, sum(weight * f * 2.2 / (f + 1.2 * (0.25 + 0.75 * length / mean))) AS score
FROM hits JOIN weighted USING (lexeme), totals WHERE {condition}
GROUP BY chunk ORDER BY score DESC, chunk LIMIT %(k)s
"""


class PostgresqlStore(Store):
    """An index in one schema of a database; any number of threads, processes and machines may read and write it."""

    requires = ("psycopg",)

    def __init__(self, path: Path, server: Mapping[str, str] | None = None) -> None:
        """Open or make an index; `server` holds the parameters of a connection, for one that is not there yet."""
        if path.exists():
            known, self._schema = _read(path)
        else:
            known, self._schema = dict(from_environment() if server is None else server), _schema_of(path)
        self._server = Server(path.stem, known)
        if server is not None and not same(server, self._server.server):
            raise RequestError(f"the index {path.stem} is in {self._server}: leave --dsn out, or take another name")
        self._search_path = "pg_catalog"
        self._width = 0  # numbers in a vector; 0 as long as there was none
        self._wrote = False
        try:
            self._make_tables()
            if not path.exists():
                _write(path, self._server, self._schema)
        except BaseException:
            self._server.close()
            raise

    @classmethod
    def place(cls, path: Path, dsn: str) -> None:
        """Make the index on a server, and write down which one it is."""
        cls(path, given(dsn)).close()

    def tidy(self) -> None:
        """Have the server count what there is, so that it plans well."""
        if self._wrote:
            with self._transaction() as connection:
                connection.execute("ANALYZE documents, chunks, vectors, words")
            self._wrote = False

    def close(self) -> None:
        """Close the connection."""
        self._server.close()

    def _transaction(self) -> AbstractContextManager[psycopg.Connection[Any]]:
        return self._server.transaction(self._search_path)

    # ------------------------------------------------------------------ tables

    def _make_tables(self) -> None:
        """Find the index's schema, or make it; two processes that make it wait for each other."""
        with self._server.transaction() as connection:
            found = self._format(connection)
            if found is None:
                _lock(connection, self._schema)
                found = self._format(connection)
            if found not in {None, FORMAT}:
                raise StoreError(
                    f"the schema {self._schema} in {self._server} is no index, or one of another version: drop it, or "
                    "take another name for the index"
                )
            if found is None:
                self._make_extension(connection)
            (own,) = connection.execute("SELECT quote_ident(%s)", (self._schema,)).fetchone() or ("",)
            (others,) = connection.execute(
                "SELECT string_agg(quote_ident(nspname), ', ') FROM pg_extension "
                "JOIN pg_namespace ON pg_namespace.oid = extnamespace WHERE extname = 'vector'"
            ).fetchone() or ("",)
            self._search_path = f"{own}, {others or 'public'}"
            usable = "SELECT 1 WHERE has_schema_privilege(%s, 'USAGE')"
            if found is None:
                self._make_schema(connection)
            elif connection.execute(usable, (self._schema,)).fetchone() is None:
                raise StoreError(
                    f"the index {self._server.index} in {self._server} is not for the user {self._server.user}: its "
                    f"owner allows it with  GRANT USAGE ON SCHEMA {own} TO {self._server.user}"
                )

    def _format(self, connection: psycopg.Connection[Any]) -> str | None:
        """What the comment on the schema says; None where there is no schema."""
        asked = "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = %s"
        row = connection.execute(asked, (self._schema,)).fetchone()
        return None if row is None else str(row[0])

    def _make_extension(self, connection: psycopg.Connection[Any]) -> None:
        from psycopg import errors

        _lock(connection, "extension")  # another process may make another index
        if connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone():
            return
        cannot = f"the index {self._server.index} cannot be made in {self._server}"
        try:
            connection.execute("SET LOCAL search_path TO public")
            connection.execute("CREATE EXTENSION vector")
        except errors.InsufficientPrivilege:
            raise StoreError(
                f"{cannot}: it has no pgvector yet, and the user {self._server.user} may not add it; an administrator "
                "does so with  CREATE EXTENSION vector"
            ) from None
        except (errors.FeatureNotSupported, errors.UndefinedFile):
            raise StoreError(
                f"{cannot}: the server has no pgvector; install it there, such as Debian's package "
                "postgresql-17-pgvector"
            ) from None

    def _make_schema(self, connection: psycopg.Connection[Any]) -> None:
        from psycopg import errors, sql

        name = sql.Identifier(self._schema)
        try:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(name))
        except errors.InsufficientPrivilege as error:
            raise StoreError(
                f"the index {self._server.index} cannot be made in {self._server} ({one_line(error)}): its owner "
                f"allows it with  GRANT CREATE ON DATABASE {self._server.database} TO {self._server.user}"
            ) from None
        connection.execute(sql.SQL("COMMENT ON SCHEMA {} IS {}").format(name, sql.Literal(FORMAT)))
        connection.execute("SELECT set_config('search_path', %s, true)", (self._search_path,))
        connection.execute(_TABLES)

    def _known_width(self, connection: psycopg.Connection[Any]) -> int:
        """Numbers in a vector; 0 where none was stored yet."""
        if not self._width:
            row = connection.execute(
                "SELECT atttypmod FROM pg_attribute WHERE attrelid = 'vectors'::regclass AND attname = 'embedding'"
            ).fetchone()
            self._width = max(0, row[0]) if row else 0
        return self._width

    def _settle_width(self, width: int) -> None:
        """Take vectors of this many numbers from now on, or refuse them."""
        if not self._width:
            with self._transaction() as connection:
                _lock(connection, self._schema)
                if not self._known_width(connection):
                    kept = ", ALTER embedding SET STORAGE plain" if width <= IN_PLACE else ""
                    connection.execute(f"ALTER TABLE vectors ALTER embedding TYPE vector({width:d}){kept}")
        if not self._width:  # now that it is committed
            self._width = width
        check_width(self._server.index, self._width, width)

    # ------------------------------------------------------------------ documents

    def remember(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Keep new settings, and return all."""
        with self._transaction() as connection:
            for name, value in settings.items():
                connection.execute("INSERT INTO settings VALUES (%s, %s) ON CONFLICT DO NOTHING", (name, value))
            return dict(connection.execute("SELECT name, value FROM settings").fetchall())

    def documents(self) -> dict[str, Record]:
        """All documents by path."""
        with self._transaction() as connection:
            rows = connection.execute("SELECT path, stamp, metadata FROM documents ORDER BY id")
            return {path: Record(path, stamp, metadata) for path, stamp, metadata in rows}

    def count(self) -> int:
        """How many chunks there are."""
        with self._transaction() as connection:
            row = connection.execute("SELECT coalesce(sum(chunks), 0) FROM documents").fetchone()
            return int(row[0]) if row else 0

    def put(self, record: Record, chunks: Sequence[Chunk], vectors: np.ndarray[Any, Any]) -> None:
        """Store a document in one transaction."""
        data = checked_vectors(record, chunks, vectors)
        if chunks:
            self._settle_width(data.shape[1])
        folded = [_words(chunk.text) for chunk in chunks]
        lengths = [len(words) for words in folded]
        name = digest(record.path)
        with self._transaction() as connection:
            _lock(connection, f"{self._schema}/{name.hex()}")  # another process may store the same document
            connection.execute("DELETE FROM documents WHERE name = %s", (name,))
            values = (name, record.path, record.stamp, metadata_json(record.metadata), len(chunks), sum(lengths))
            made = connection.execute(
                "INSERT INTO documents (name, path, stamp, metadata, chunks, words) VALUES (%s, %s, %s, %s, %s, %s) "
                "RETURNING id",
                values,
            ).fetchone()
            assert made is not None  # RETURNING gives a row
            columns = {
                "document": made[0],
                "starts": [chunk.start for chunk in chunks],
                "stops": [chunk.end for chunk in chunks],
                "pages": [chunk.page for chunk in chunks],
                "digests": [digest(chunk.text) for chunk in chunks],
                "most": MOST,
                "lengths": lengths,
                "folded": [" ".join(words) for words in folded],
                "texts": [storable(chunk.text) for chunk in chunks],
                "vectors": [_vector(row) for row in data],
            }
            if chunks:
                connection.execute(_ADD, columns)
        self._wrote = True

    def touch(self, record: Record) -> None:
        """Another stamp and other metadata for a stored document."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE documents SET stamp = %s, metadata = %s WHERE name = %s",
                (record.stamp, metadata_json(record.metadata), digest(record.path)),
            )

    def remove(self, paths: Collection[str]) -> None:
        """Forget documents; their rows are locked in one order, so that two processes never wait for each other."""
        if paths:
            with self._transaction() as connection:
                connection.execute(
                    "DELETE FROM documents WHERE id IN "
                    "(SELECT id FROM documents WHERE name = ANY(%s) ORDER BY id FOR UPDATE)",
                    ([digest(path) for path in paths],),
                )

    def vectors(self, digests: Collection[bytes]) -> dict[bytes, np.ndarray[Any, Any]]:
        """The vectors of stored texts."""
        import numpy as np

        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT DISTINCT ON (digest) digest, embedding::real[] FROM chunks JOIN vectors ON chunk = id "
                "WHERE digest = ANY(%s)",
                (list(digests),),
                binary=True,
            )
            return {key: np.array(own, np.float32) for key, own in rows}

    # ------------------------------------------------------------------ search

    def nearest(self, vector: np.ndarray[Any, Any], k: int, where: Where = EVERYWHERE) -> list[Ranked]:
        """Search by inner product: exact, or by an index that somebody made, as far as that gives k chunks."""
        if k < 1:
            return []
        condition, values = _condition(where)
        asked = (
            f"SELECT chunk, -(embedding <#> %(vector)s::vector) FROM vectors WHERE {condition} "
            "ORDER BY embedding <#> %(vector)s::vector{} LIMIT %(k)s"
        )
        with self._transaction() as connection:
            width = self._known_width(connection)
            if not width:
                return []
            check_width(self._server.index, width, len(vector))
            values |= {"vector": _vector(vector), "k": k}
            rows: list[Any] = []
            if not where and k <= FEW:
                connection.execute("SELECT set_config('hnsw.ef_search', %s, true)", (str(max(100, 2 * k)),))
                rows = connection.execute(asked.format(""), values).fetchall()  # one key: no index gives two
                rows.sort(key=lambda row: (-row[1], row[0]))
            if len(rows) < k:
                exact = "SELECT set_config('enable_indexscan', 'off', true), set_config('enable_seqscan', 'on', true)"
                connection.execute(exact)
                rows = connection.execute(asked.format(", chunk"), values).fetchall()
            return [Ranked(chunk, score) for chunk, score in rows]

    def matching(self, text: str, k: int, where: Where = EVERYWHERE) -> list[Ranked]:
        """Chunks with the words of `text`, ranked by BM25."""
        words = " ".join(_folded(word) for word in question_words(storable(text)))
        if not words or k < 1:
            return []
        condition, values = _condition(where)
        values |= {"words": words, "k": k, "most": MOST, "least": LEAST}
        with self._transaction() as connection:
            rows = connection.execute(_BM25.format(condition=condition), values)
            return [Ranked(chunk, score) for chunk, score in rows]

    def passages(self, chunks: Collection[int]) -> dict[int, Passage]:
        """The contents of chunks."""
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT chunks.id, path, text, start, stop, page, metadata FROM chunks "
                "JOIN documents ON documents.id = document WHERE chunks.id = ANY(%s)",
                (list(chunks),),
            )
            return {chunk: Passage(*contents) for chunk, *contents in rows}


def _schema_of(path: Path) -> str:
    """The schema of the index at a path.

    Raises:
        RequestError: its name is longer than PostgreSQL's may be.
    """
    name = f"nbadapt_{path.stem}"
    if len(name.encode("utf-8")) > LONGEST:
        raise RequestError(f"{path.stem:.20}... is too long for the name of an index in PostgreSQL: take a shorter one")
    return name


def _read(path: Path) -> tuple[dict[str, str], str]:
    """The server and the schema that a file names.

    Raises:
        StoreError: it names none.
    """
    stored = read_json(path)
    server, schema = stored.get("server"), stored.get("schema")
    if not isinstance(server, dict) or not isinstance(schema, str):
        raise StoreError(f"the file {path} does not say where an index is: build it anew")
    return {str(name): str(value) for name, value in server.items()}, schema


def _write(path: Path, server: Server, schema: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"server": server.server, "schema": schema})
    except OSError as error:
        raise StoreError(f"the index {path} cannot be written: {error}") from None


def _lock(connection: psycopg.Connection[Any], what: str) -> None:
    """Wait until no other transaction has locked the same; let go at the end of this one."""
    key = int.from_bytes(digest(what)[:8], "big", signed=True)
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (key,))


def _vector(row: np.ndarray[Any, Any]) -> str:
    """A vector as pgvector reads it; every float32 comes out as it went in."""
    return f"[{','.join(map(str, row.tolist()))}]"


def _folded(text: str) -> str:
    """A text in lower case without the marks of Latin letters, so that cafe finds café, as SQLite's FTS5 does."""
    apart = unicodedata.normalize("NFD", text.lower())
    return unicodedata.normalize("NFC", re.sub("[\u0300-\u036f]", "", apart))


def _words(text: str) -> list[str]:
    """The words of a chunk. They are told apart here, not by the server, whose locale might know no umlauts."""
    return re.findall(r"\w+", _folded(storable(text)))


def _condition(where: Where) -> tuple[str, dict[str, Any]]:
    """What admits rows by their documents, and its values."""
    tests, values = [], {}
    if where.path:
        tests.append("path ~ %(path)s")
        values["path"] = _pattern(storable(where.path))
    if where.metadata:
        tests.append("metadata @> %(metadata)s::jsonb")
        values["metadata"] = metadata_json(where.metadata)
    return (f"document IN (SELECT id FROM documents WHERE {' AND '.join(tests)})" if tests else "true"), values


def _pattern(text: str) -> str:
    """A pattern with ``*`` and ``?`` as a regular expression of PostgreSQL."""
    written = [
        {"*": ".*", "?": "."}.get(part) or re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", part)
        for part in re.split(r"(\*|\?)", text)
    ]
    return f"^(?:{''.join(written)})$"
