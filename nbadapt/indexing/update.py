"""Brings an index up to date with files and web pages, one document after another.

::

    files, pages ──changed?──> text ──> chunks ──new texts?──> vectors ──> one transaction a document
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nbadapt.errors import DataError
from nbadapt.indexing.chunks import Chunk, Cutter
from nbadapt.indexing.finding import find
from nbadapt.indexing.loaders import load
from nbadapt.indexing.store import Record, digest
from nbadapt.indexing.web import Reach, StatusError, crawl, site

if TYPE_CHECKING:
    from nbadapt.indexing.documents import Document
    from nbadapt.indexing.index import Index

TOGETHER = 128  # chunks that are embedded at once, however many documents they come from


@dataclass(frozen=True)
class Progress:
    """How far an update is: files of all files, chunks stored, and the file that is read or embedded now."""

    done: int
    total: int
    chunks: int
    path: str


@dataclass
class Report:
    """What an update did.

    Attributes:
        added, changed, removed: documents.
        unchanged: documents whose file is as it was.
        embedded: chunks that were embedded; others of the same text had their vectors already.
        chunks: chunks in the index now.
        unreadable: (path, reason) of what is not in the index.
        stopped: whether it was interrupted; the same call goes on.
    """

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    embedded: int = 0
    chunks: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    stopped: bool = False

    def __str__(self) -> str:
        told = [f"{self.added:,} documents added", f"{self.changed:,} changed", f"{self.unchanged:,} unchanged"]
        told += [f"{self.removed:,} removed", f"{self.embedded:,} chunks embedded", f"{self.chunks:,} in all"]
        return ("stopped; the same line goes on: " if self.stopped else "") + ", ".join(told)


class Update:
    """One update of an index."""

    def __init__(
        self,
        index: Index,
        report: Report,
        metadata: dict[str, str],
        reach: Reach,
        progress: Callable[[Progress], None],
    ) -> None:
        self._index, self._store, self._report = index, index.store, report
        self._metadata, self._reach, self._progress = metadata, reach, progress
        self._pages: list[str] = []  # that were read, from whatever URL on
        self._waiting: list[tuple[Record, list[Chunk]]] = []  # read and cut, not embedded yet

    def run(self, paths: Sequence[str]) -> None:
        """Do it."""
        from nbadapt import model_names, pretrained

        found = find(paths)
        self._report.unreadable += found.unreadable
        self._known = self._store.documents()
        cutter = Cutter(
            pretrained.load_tokenizer(model_names.resolve(self._index.model)), self._index.size, self._index.overlap
        )
        self._index.embedder()  # refuses another model before anything is read
        wanted = {str(path) for path in found.files}
        self._drop(path for path in self._known if path not in wanted and found.covers(path))
        for number, path in enumerate(found.files):
            self._progress(Progress(number, len(found.files), self._report.embedded, str(path)))
            self._take(path, cutter)
        whole = [site(url) for url in found.urls if self._crawl(url, cutter) and self._reach.depth]
        self._drop(path for path in self._known if path not in self._pages and path.startswith(tuple(whole)))
        self._flush()
        self._progress(Progress(len(found.files), len(found.files), self._report.embedded, ""))

    def _crawl(self, url: str, cutter: Cutter) -> bool:
        """Read pages; returns whether the first one could be read, so that what is not among them is gone."""
        before = len(self._pages)
        reached = True
        for here, page in crawl(url, self._reach):
            self._progress(Progress(len(self._pages) - before, self._reach.pages, self._report.embedded, here))
            old = self._known.get(here)
            if isinstance(page, DataError):
                self._report.unreadable.append((here, str(page)))
                reached = reached and len(self._pages) > before
                if old is not None and isinstance(page, StatusError) and page.gone:
                    self._drop([here])
                continue
            self._pages.append(here)
            stamp = digest(page.text).hex()
            if old is not None and old.stamp == stamp:
                self._keep(old)
            else:
                self._add(here, stamp, page, cutter)
        return reached

    def _drop(self, paths: Iterable[str]) -> None:
        gone = list(paths)
        for path in gone:
            del self._known[path]
        self._store.remove(gone)
        self._report.removed += len(gone)

    def _take(self, path: Path, cutter: Cutter) -> None:
        """Read and cut one file, unless it is as it was."""
        old = self._known.get(str(path))
        try:
            state = path.stat()
            stamp = f"{state.st_size} {state.st_mtime_ns}"
            if old is not None and old.stamp == stamp:
                self._keep(old)
                return
            document = load(path)
        except (DataError, OSError) as error:
            reason = str(error) if isinstance(error, DataError) else str(error.strerror)
            self._report.unreadable.append((str(path), reason))
            if old is not None:  # what it held is not what it holds
                self._drop([old.path])
            return
        self._add(str(path), stamp, document, cutter)

    def _add(self, path: str, stamp: str, document: Document, cutter: Cutter) -> None:
        """Cut a new or changed document; embed what waits where it is enough for a batch."""
        metadata = {"kind": document.kind, **({"title": document.title} if document.title else {}), **self._metadata}
        self._waiting.append((Record(path, stamp, metadata), cutter.cut(document)))
        if sum(len(chunks) for _, chunks in self._waiting) >= TOGETHER:
            self._flush()

    def _keep(self, old: Record) -> None:
        metadata = {**old.metadata, **self._metadata}
        if metadata != old.metadata:
            self._store.touch(Record(old.path, old.stamp, metadata))
        self._report.unchanged += 1

    def _flush(self) -> None:
        """Embed the chunks that wait, as far as their texts are new, and store their documents one by one."""
        import numpy as np

        texts = {digest(chunk.text): chunk.text for _, chunks in self._waiting for chunk in chunks}
        vectors = self._store.vectors(texts)
        new = {name: text for name, text in texts.items() if name not in vectors}
        if new:
            vectors |= zip(new, self._index.embedder().compute(list(new.values())), strict=True)
        self._report.embedded += len(new)
        while self._waiting:
            record, chunks = self._waiting[0]
            own = [vectors[digest(chunk.text)] for chunk in chunks]
            self._store.put(record, chunks, np.stack(own) if own else np.zeros((0, 0), np.float32))
            del self._waiting[0]
            if record.path in self._known:
                self._report.changed += 1
            else:
                self._report.added += 1
