"""What an index keeps its documents in: the abstract class that every store implements.

A store is an entry point of the group ``nbadapt.stores``: the default one is SQLite. The index ``notes`` in a store
``kind`` lies at ``nbadapt_runs/indexes/notes.kind``: the file itself, or a file that says where the rest is.
`nbadapt.testing.stores.StoreContract` holds the tests that each must pass.
"""

from __future__ import annotations

import fnmatch
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nbadapt.errors import PluginError, RequestError, did_you_mean, first_line

if TYPE_CHECKING:
    import numpy as np

    from nbadapt.indexing.chunks import Chunk

GROUP = "nbadapt.stores"
DEFAULT = "sqlite"


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
        path: a pattern of the whole path, in which ``*`` stands for anything and ``?`` for one character.
        metadata: name -> value.
    """

    path: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.path or self.metadata)

    def admits(self, record: Record) -> bool:
        """Whether a document is searched."""
        fits = not self.path or fnmatch.fnmatchcase(record.path, self.path)
        return fits and all(record.metadata.get(name) == value for name, value in self.metadata.items())


EVERYWHERE = Where()


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
    """

    @abstractmethod
    def __init__(self, path: Path) -> None:
        """Open what lies at `path`; make it where nothing does."""

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

    @abstractmethod
    def close(self) -> None:
        """Let go of the files. Closing twice is no mistake."""


def names() -> list[str]:
    """The kinds of stores that installed packages bring."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def kind(name: str) -> type[Store]:
    """The class of one kind of store.

    Raises:
        RequestError: there is no such kind.
        PluginError: its package is broken.
    """
    point = next(iter(entry_points(group=GROUP, name=name)), None)
    if point is None:
        raise RequestError(f"unknown kind of store {name!r}: {did_you_mean(name, names(), kind='stores')}")
    owner = point.dist.metadata["Name"] if point.dist else "an unknown distribution"
    try:
        found: Any = point.load()
    except Exception as error:  # noqa: BLE001 - whatever a package raises becomes one line
        raise PluginError(f"the store {name!r} of {owner} cannot be imported: {first_line(error)}") from None
    if not (isinstance(found, type) and issubclass(found, Store)):
        raise PluginError(f"the store {name!r} of {owner} is broken: {point.value} is no subclass of Store")
    return found
