"""What an index keeps its documents in: the abstract class that every store implements.

A store is an entry point of the group ``nbadapt.stores``: the default one is SQLite. The index ``notes`` in a store
``kind`` lies at ``nbadapt_runs/indexes/notes.kind``: the file itself, or a file that says where the rest is.
`nbadapt.testing.stores.StoreContract` holds the tests that each must pass.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from nbadapt import origins, registry
from nbadapt.errors import PluginError, RequestError, StoreError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

    from nbadapt.indexing.chunks import Chunk

CONTRACT = 1
"""The version of this contract; a plugin states the one it was written for in ``Store.contract``."""

GROUP = "nbadapt.stores"
DEFAULT = "sqlite"
MOST_WORDS = 64  # of a question that are looked up


@dataclass(frozen=True)
class Record:
    """A document as a store knows it.

    Attributes:
        path: what it is told by; each is there once.
        stamp: tells whether the file changed since; any text.
        metadata: what a filter may ask for, as text.
    """

    path: str
    stamp: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Where:
    """Which documents are searched: all conditions must hold.

    Attributes:
        path: a pattern of the whole path, in which ``*`` stands for anything and ``?`` for one character; all else,
            brackets too, stands for itself.
        metadata: name -> value.
    """

    path: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.path or self.metadata)

    @property
    def glob(self) -> str:
        """The pattern for what reads ``[...]`` as a choice of letters: fnmatch, and GLOB in SQLite."""
        return self.path.replace("[", "[[]")

    def admits(self, record: Record) -> bool:
        """Whether a document is searched."""
        fits = not self.path or fnmatch.fnmatchcase(record.path, self.glob)
        return fits and all(record.metadata.get(name) == value for name, value in self.metadata.items())


EVERYWHERE = Where()
"""The condition that every document meets."""


class Ranked(NamedTuple):
    """A chunk's number in its store, and how well it fits: more is better."""

    chunk: int
    score: float


@dataclass(frozen=True)
class Passage:
    """A chunk as it comes out of a store.

    Attributes:
        path: its document.
        start, end: the characters of the document's text.
        page: where it begins, from 1; None where there are no pages.
        metadata: its document's.
    """

    path: str
    text: str
    start: int
    end: int
    page: int | None
    metadata: Mapping[str, str]


def digest(text: str) -> bytes:
    """What a chunk's text is told by: 16 bytes."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Store(ABC):
    """Documents, their chunks and vectors. Several processes may have the same one open.

    Every method acts on what is stored at that moment, whoever stored it, and raises `StoreError` with one line
    where the store cannot be read or written. A document is there with all its chunks or not at all, also after a
    process was killed.

    Attributes:
        requires: import names that must be installed; checked before a store is opened.
        contract: the version of this contract that it was written for.
    """

    requires: ClassVar[tuple[str, ...]] = ()
    contract: ClassVar[int] = 1  # the first one, where a plugin states none

    @abstractmethod
    def __init__(self, path: Path) -> None:
        """Open what lies at `path`; make it where nothing does."""

    @classmethod
    def place(cls, path: Path, dsn: str) -> None:  # noqa: ARG003 - for those that override it
        """Make an index on the server that `dsn` names, and write down at `path` which one it is.

        Only stores behind a server take a `dsn`. Where the index is there already, it must be the same server.

        Raises:
            RequestError: this is no such store, or the index lies elsewhere.
            StoreError: it cannot be made there; then nothing is written down.
        """
        kind = path.suffix[1:]
        raise RequestError(f"--dsn is for stores behind a server, and {kind} is none: leave it out, or change --store")

    @abstractmethod
    def remember(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Keep those settings whose names are new, and return all that are kept."""

    @abstractmethod
    def documents(self) -> dict[str, Record]:
        """All documents by path."""

    @abstractmethod
    def count(self) -> int:
        """How many chunks there are."""

    @abstractmethod
    def put(self, record: Record, chunks: Sequence[Chunk], vectors: np.ndarray[Any, Any]) -> None:
        """Store a document in the place of the one with its path. When this returns, it is acknowledged.

        Args:
            record: the document.
            chunks: n of them.
            vectors: shape (n, d), each of length 1.
        """

    @abstractmethod
    def touch(self, record: Record) -> None:
        """Give a stored document another stamp and other metadata; its chunks stay."""

    @abstractmethod
    def remove(self, paths: Collection[str]) -> None:
        """Forget documents, those that are not there included."""

    @abstractmethod
    def vectors(self, digests: Collection[bytes]) -> dict[bytes, np.ndarray[Any, Any]]:
        """The vectors (d,) of those texts, by their `digest`, that are stored in any document."""

    @abstractmethod
    def nearest(self, vector: np.ndarray[Any, Any], k: int, where: Where = EVERYWHERE) -> list[Ranked]:
        """The min(k, number of admitted) chunks with the largest inner products with `vector` (d,), best first."""

    @abstractmethod
    def matching(self, text: str, k: int, where: Where = EVERYWHERE) -> list[Ranked]:
        """At most k chunks that hold any of the words of `text`, best first by BM25 (Robertson et al. 1994)."""

    @abstractmethod
    def passages(self, chunks: Collection[int]) -> dict[int, Passage]:
        """The contents of chunks by number; those that are gone by now are left out."""

    def tidy(self) -> None:
        """Make questions fast again after many documents were stored, where that takes anything."""
        return

    @abstractmethod
    def close(self) -> None:
        """Let go of the files. Closing twice is no mistake."""


def names() -> list[str]:
    """The kinds of stores that installed packages bring."""
    return sorted({point.name for point in origins.allowed(GROUP)})


def kind(name: str) -> type[Store]:
    """The class of one kind of store.

    Raises:
        RequestError: there is no such kind.
        PluginError: its package is broken, or two declare it.
        DependencyError: a library is missing; with the command that installs it.
    """
    point = origins.only("store", name, GROUP)
    if point is None:
        refused = origins.explain("store", name, origins.refused(GROUP))
        if refused is not None:
            raise refused
        raise RequestError(f"unknown kind of store {name!r}: {did_you_mean(name, names(), kind='stores')}")
    subject = origins.subject("store", point)
    found = origins.load(point, subject)
    if not (isinstance(found, type) and issubclass(found, Store)):
        fault: str | None = f"is broken: {point.value} is no subclass of nbadapt.indexing.store.Store"
    else:
        fault = registry.version_fault(found.contract, CONTRACT) or registry.requires_fault(found.requires)
    if fault:
        raise PluginError(f"{subject} {fault}: update or uninstall it")
    registry.demand(f"the store {name!r} needs", found.requires, origins.identity(point.dist)[0] or None)
    store: type[Store] = found
    return store


# ------------------------------------------------------------------------------------------------ what stores share


def checked_vectors(record: Record, chunks: Sequence[Chunk], vectors: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The vectors of a document's chunks as contiguous little-endian float32: shape (n, d).

    Raises:
        StoreError: there are not as many as chunks.
    """
    import numpy as np

    data: np.ndarray[Any, Any] = np.ascontiguousarray(vectors, dtype="<f4")
    if data.ndim != 2 or data.shape[0] != len(chunks):
        raise StoreError(f"{len(chunks)} chunks of {record.path} came with vectors of the shape {data.shape}")
    return data


def check_width(index: str | Path, stored: int, given: int) -> None:
    """Refuse vectors that are not as wide as those that are stored.

    Args:
        index: what the message calls it.
        stored: numbers in each vector of the index.
        given: in each of the new ones.

    Raises:
        StoreError: they differ.
    """
    if stored != given:
        raise StoreError(f"the index {index} has vectors of {stored} numbers, not of {given}")


def question_words(text: str) -> list[str]:
    """The words that a question is looked up by: in lower case, each once, `MOST_WORDS` at most."""
    return list(dict.fromkeys(re.findall(r"\w+", text.lower())))[:MOST_WORDS]


def parts(values: Sequence[Any], size: int = 500) -> Iterator[Sequence[Any]]:
    """Values in lists of at most `size`, which one statement of a database takes."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def metadata_json(metadata: Mapping[str, str]) -> str:
    """Metadata as it is stored: a JSON object of texts, each of them `storable`."""
    return json.dumps({name: storable(value) for name, value in metadata.items()}, ensure_ascii=False)


def storable(text: str) -> str:
    """The text without lone surrogates and NULs, neither of which databases can keep: its length stays."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\N{REPLACEMENT CHARACTER}")
