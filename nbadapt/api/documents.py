"""Indexes of documents."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from nbadapt.errors import NbadaptError, RequestError

if TYPE_CHECKING:
    from nbadapt.indexing.index import Index
    from nbadapt.indexing.update import Progress
    from nbadapt.tables import Table


def index(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    *,
    name: str,
    model: str | None = None,
    size: int | None = None,
    overlap: int | None = None,
    metadata: Mapping[str, str] | None = None,
    depth: int = 0,
    pages: int = 100,
    allow_hosts: Sequence[str] = (),
    store: str = "",
    dsn: str = "",
    progress: Callable[[Progress], None] | None = None,
) -> Index:
    """Build an index of documents or bring it up to date, as ``%nbadapt index`` does; without paths, open it.

    Args:
        paths: files, folders, patterns such as ``notes/**/*.md``, and URLs.
        name: what the index is called; it lies beside the runs.
        model: the embedding model; None for that of the index, or minilm.
        size: most tokens of a chunk; None for that of the index, or 200.
        overlap: most tokens that two chunks share; None for that of the index, or 40.
        metadata: kept with each of these documents, for filters.
        depth: how many links are followed from a URL on, within its host; 0 takes its page alone.
        pages: most pages from a URL on.
        allow_hosts: hosts of URLs whose address may be on this machine or the local network.
        store: the kind of store of a new index; empty for the default one, a file of SQLite.
        dsn: the server of a new index, for a store that has one; without a password.
        progress: told of every file.

    Returns:
        The index: `search` asks it, `report` says what was done. An interrupt ends the work with ``report.stopped``.

    Raises:
        NbadaptError: a name, a model or a setting is wrong, or the index cannot be written.
    """
    from nbadapt import runner
    from nbadapt.indexing.index import Index
    from nbadapt.indexing.web import Reach

    if not isinstance(name, str):
        raise RequestError(f"the name of the index is {name!r:.40}: give a text, such as 'manuals'")
    named = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    for path in named:
        if not isinstance(path, str | os.PathLike):
            raise RequestError(f"{path!r:.40} is no path: give files, folders, patterns or URLs as texts")
    for what, count, least in (("depth", depth, 0), ("pages", pages, 1)):
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise RequestError(f"{what} is {count!r}: give a whole number from {least} on")
    if not named:
        return Index.open(name)
    busy = runner.current()
    if busy is not None:
        raise RequestError(f"the run {busy.id} is at work: wait for it, or stop it with  %nbadapt stop")
    for key, value in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise RequestError(f"metadata holds {key!r}: {value!r:.40}: give texts, as metadata={{'language': 'en'}}")
    found = Index.make(name, model=model, size=size, overlap=overlap, kind=store, dsn=dsn)
    found.update(
        [os.fspath(path) for path in named],
        metadata=metadata,
        reach=Reach(depth, pages, [allow_hosts] if isinstance(allow_hosts, str) else tuple(allow_hosts)),
        progress=progress or (lambda _: None),
    )
    return found


def indexes() -> Table[Index]:
    """All indexes beside the runs."""
    from nbadapt.indexing import index
    from nbadapt.tables import Table

    opened: list[Index] = []
    counts: dict[str, tuple[int, int]] = {}
    notes = []
    for name in index.names():
        try:
            one = index.Index.open(name)
            counts[name] = len(one.store.documents()), len(one)
        except NbadaptError as error:  # a damaged one, or one whose server is down, hides no other
            notes.append(str(error))
        else:
            opened.append(one)
    columns: Mapping[str, Callable[[Index], str]] = {
        "index": lambda one: one.name,
        "documents": lambda one: f"{counts[one.name][0]:,}",
        "chunks": lambda one: f"{counts[one.name][1]:,}",
        "model": lambda one: one.model,
        "path": lambda one: str(one.path),
    }
    return Table(opened, columns, empty=f"There are no indexes in {index.folder()}.", notes=notes)
