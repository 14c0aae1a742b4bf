"""Index: documents that are kept up to date with their files, and searched by meaning, by words, or by both.

::

    question ──> vector ──nearest──> ranks ─┐
             └─> words ──matching──> ranks ─┴─> sum of 1 / (60 + rank) ──> the k best passages

Both rankings are fused by reciprocal ranks (Cormack, Clarke and Buettcher 2009, doi:10.1145/1571941.1572114).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from nbadapt.errors import RequestError, StoreError, did_you_mean
from nbadapt.indexing import store as stores
from nbadapt.indexing.chunks import OVERLAP, SIZE, Cutter
from nbadapt.indexing.store import EVERYWHERE, Passage, Ranked, Where
from nbadapt.indexing.update import Progress, Report, Update
from nbadapt.indexing.web import Reach, is_url

if TYPE_CHECKING:
    import numpy as np

    from nbadapt.engines.embed import Embedder

How = Literal["hybrid", "vector", "bm25"]
MODEL = "minilm"
LONGEST = 512  # tokens of a text that are embedded
RANK = 60  # the constant of reciprocal rank fusion, as in the paper
DEPTH = 50  # ranks of each search that are fused, at least


@dataclass(frozen=True)
class Hit(Passage):
    """A passage that was found.

    Attributes:
        score: cosine similarity, BM25 or the sum of reciprocal ranks: more is better, within one search only.
    """

    score: float = 0.0

    @property
    def place(self) -> str:
        """Where it stands, in words: file, page, characters."""
        return f"{self.title}, characters {self.start:,} to {self.end:,}"

    @property
    def title(self) -> str:
        """The file, or the URL, and the page."""
        name = self.path if is_url(self.path) else Path(self.path).name
        return name + (f", page {self.page}" if self.page is not None else "")


def folder() -> Path:
    """Where indexes lie: beside the runs."""
    from nbadapt import store

    return store.root() / "indexes"


def names() -> list[str]:
    """The indexes that there are."""
    if not folder().is_dir():
        return []
    kinds = {f".{kind}" for kind in stores.names()}
    return sorted(path.stem for path in folder().iterdir() if path.suffix in kinds)


_opened: dict[Path, Index] = {}
_lock = threading.Lock()


def close_all() -> None:
    """Let go of the indexes that are open, and of their vectors in memory."""
    with _lock:
        for index in _opened.values():
            index.store.close()
        _opened.clear()


class Index:
    """Documents that can be searched; get one from `nbadapt.index` or `Index.open`.

    Attributes:
        path: where it lies.
        model: the name of the embedding model.
        size, overlap: tokens of its chunks.
        report: what the last update did, in this process.
    """

    def __init__(self, path: Path, settings: Callable[[], Mapping[str, str]] | None = None) -> None:
        """For `Index.open` and `Index.make`, which gives the settings of an index that has none yet."""
        self.path, self.name = path, path.stem
        self.report: Report | None = None
        self._embedder: Embedder | None = None
        self.store = stores.kind(path.suffix[1:])(path)
        try:
            self._settings = self.store.remember({})
            if "model" not in self._settings and settings is not None:
                self._settings = self.store.remember(settings())
            self.model, self.size, self.overlap = _read(self._settings, self.name)
        except BaseException:
            self.store.close()
            raise

    @classmethod
    def open(cls, name: str) -> Index:
        """The index of this name, or at this path; the same object for as long as this process has it open.

        Raises:
            StoreError: there is none, or it cannot be read.
        """
        path = _path(name)
        with _lock:
            if path in _opened and not path.exists():
                _opened.pop(path).store.close()
            if path not in _opened:
                if not path.exists():
                    hint = did_you_mean(name, names(), kind="indexes here")
                    raise StoreError(
                        f"no index {name!r}: {hint}; %nbadapt index PATH --as {Path(name).stem} builds one"
                    )
                _opened[path] = cls(path)
            return _opened[path]

    @classmethod
    def make(
        cls,
        name: str,
        *,
        model: str | None = None,
        size: int | None = None,
        overlap: int | None = None,
        kind: str = "",
        dsn: str = "",
    ) -> Index:
        """The index of this name, made where there is none; None takes what it has, or the defaults.

        Raises:
            RequestError: it was built with another embedding model or other chunks, it is kept elsewhere, or the name
                is none.
            ModelError: there is no such model.
        """
        path = _path(name, kind or stores.DEFAULT)
        stored = path.suffix[1:]
        if kind and kind != stored:
            stores.kind(kind)  # a word that is none is told as such
            raise RequestError(f"the index {path.stem} is kept in {stored}: leave --store out, or take another name")
        chosen = None if path.exists() else _settings(model, size, overlap)  # a mistake leaves no file behind
        if dsn:
            stores.kind(stored).place(path, dsn)
        with _lock:
            if path not in _opened or chosen is not None:
                _opened[path] = cls(path, lambda: chosen or _settings(model, size, overlap))
        index = cls.open(str(path))
        index._refuse_change(model, size, overlap)
        return index

    def _refuse_change(self, model: str | None, size: int | None, overlap: int | None) -> None:
        if model is not None and model != self.model:
            from nbadapt import model_names
            from nbadapt.engines.embed import fingerprint

            if fingerprint(model_names.resolve(model)) != self._settings["fingerprint"]:
                raise RequestError(
                    f"the index {self.name} was built with the embedding model {self.model}, and vectors of {model} "
                    f"cannot be compared with its own: leave the model out, or build another index"
                )
        for what, value, own in (("size", size, self.size), ("overlap", overlap, self.overlap)):
            if value is not None and value != own:
                raise RequestError(
                    f"the index {self.name} was built with chunks of {what} {own}, not {value}: leave {what} out, "
                    "or build another index"
                )

    # ------------------------------------------------------------------ embedding

    def embedder(self) -> Embedder:
        """What makes vectors of texts: the mean over a text's tokens of the last hidden states.

        Raises:
            ModelError: the embedding model is gone.
            StoreError: it is not the one that the index was built with.
        """
        if self._embedder is None:
            from nbadapt import devices, model_names
            from nbadapt.engines.embed import Embedder, fingerprint
            from nbadapt.method import Config, Job

            class Settings(Config):
                max_length: int = LONGEST

            ref = model_names.resolve(self.model)
            if fingerprint(ref) != self._settings["fingerprint"]:
                raise StoreError(
                    f"the embedding model {self.model} is not the one that the index {self.name} was built with: "
                    "its files changed; build the index anew under another name"
                )
            device = devices.best_device()
            job = Job(
                method="index",
                config=Settings(),
                model=ref,
                task="classification",
                directory=self.path.parent,
                labels=("0", "1"),  # of a head that is not used
                device=device,
                dtype=devices.best_dtype(device),
            )
            self._embedder = Embedder(job, "mean")
        return self._embedder

    def forget_model(self) -> None:
        """Let go of the embedding model; it is loaded again when it is needed."""
        self._embedder = None

    # ------------------------------------------------------------------ update

    def update(
        self,
        paths: Sequence[str],
        *,
        metadata: Mapping[str, str] | None = None,
        reach: Reach | None = None,
        progress: Callable[[Progress], None] = lambda _: None,
    ) -> Report:
        """Bring the documents that `paths` name up to date with their files; other documents stay.

        An interrupt ends it after what was acknowledged, and the same call goes on from there.

        Args:
            paths: files, folders, patterns and URLs.
            reach: how far URLs lead; None for their pages alone.
            metadata: given to each of these documents, for filters.
            progress: told of every file.

        Raises:
            NbadaptError: the store or the embedding model cannot be used; what is stored by then stays.
        """
        report = Report()
        try:
            Update(self, report, dict(metadata or {}), reach or Reach(), progress).run(paths)
            self.store.tidy()
        except KeyboardInterrupt:
            report.stopped = True
        report.chunks = self.store.count()
        self.report = report
        return report

    # ------------------------------------------------------------------ search

    def search(
        self,
        question: str,
        k: int = 5,
        *,
        how: How = "hybrid",
        path: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> Hits:
        """The k best passages for a question, best first; fewer where the index or the filter has no more.

        Args:
            question: any text.
            k: how many.
            how: "vector" by meaning, "bm25" by words, "hybrid" by both.
            path: a pattern of the documents' whole paths, such as ``*/manuals/*``.
            metadata: what the documents' metadata must hold.

        Raises:
            RequestError: an unknown way of searching, or no question.
            StoreError: the index cannot be read.
            ModelError: its embedding model is gone.
        """
        (found,) = self.search_all([question], k, how=how, path=path, metadata=metadata)
        return Hits(found)

    def search_all(
        self,
        questions: Sequence[str],
        k: int,
        *,
        how: How = "hybrid",
        path: str = "",
        metadata: Mapping[str, str] | None = None,
        tick: Callable[[], None] = lambda: None,
    ) -> list[list[Hit]]:
        """What `search` gives for each question; `tick` is called between them and may raise to leave early."""
        if how not in get_args(How):
            raise RequestError(f"there is no search by {how!r}: {did_you_mean(how, get_args(How), kind='ways')}")
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise RequestError(f"k is {k!r}: give the number of passages, 1 or more")
        if not all(isinstance(question, str) and question.strip() for question in questions):
            raise RequestError("there is nothing to search for: write a question")
        where = Where(path, dict(metadata or {})) if path or metadata else EVERYWHERE
        vectors: Any = [None] * len(questions)
        if how != "bm25" and questions:
            vectors = self.embedder().compute(questions, lambda _: tick())
        found = []
        for question, vector in zip(questions, vectors, strict=True):
            tick()
            found.append(self._hits(self._ranked(question, vector, k, how, where)))
        return found

    def _ranked(
        self, question: str, vector: np.ndarray[Any, Any] | None, k: int, how: How, where: Where
    ) -> list[Ranked]:
        if vector is None:
            return self.store.matching(question, k, where)
        if how == "vector":
            return self.store.nearest(vector, k, where)
        depth = max(DEPTH, 2 * k)
        return fused([self.store.nearest(vector, depth, where), self.store.matching(question, depth, where)])[:k]

    def _hits(self, ranked: Sequence[Ranked]) -> list[Hit]:
        passages = self.store.passages([chunk for chunk, _ in ranked])
        return [Hit(**vars(passages[chunk]), score=score) for chunk, score in ranked if chunk in passages]

    # ------------------------------------------------------------------ shown

    def __len__(self) -> int:
        """How many chunks there are."""
        return self.store.count()

    def __repr__(self) -> str:
        head = f"Index {self.name}: {len(self.store.documents()):,} documents, {len(self):,} chunks, {self.model}"
        if self.report is None:
            return head
        unreadable = [f"not indexed: {path} ({reason})" for path, reason in self.report.unreadable]
        return "\n".join([head, str(self.report), *unreadable])


def _settings(model: str | None, size: int | None, overlap: int | None) -> dict[str, str]:
    """What a new index remembers."""
    from nbadapt import heads, model_names, pretrained
    from nbadapt.engines.embed import fingerprint

    ref = model_names.resolve(model or MODEL)
    size = SIZE if size is None else size
    overlap = min(OVERLAP, size // 2) if overlap is None and isinstance(size, int) else overlap
    Cutter(pretrained.load_tokenizer(ref), size, overlap or 0)  # refuses what makes no chunks
    heads.check(ref, pretrained.read_config(ref), "classification")
    return {"model": ref.name, "fingerprint": fingerprint(ref), "size": str(size), "overlap": str(overlap)}


def _read(settings: Mapping[str, str], name: str) -> tuple[str, int, int]:
    """Model, size and overlap of an index.

    Raises:
        StoreError: they are not there, or are none.
    """
    if "model" not in settings:
        raise StoreError(f"the index {name} is empty: build it with  %nbadapt index PATH --as {name}")
    try:
        return settings["model"], int(settings["size"]), int(settings["overlap"])
    except (KeyError, ValueError):
        raise StoreError(f"the index {name} was written by another version: build it anew") from None


def fused(rankings: Sequence[Sequence[Ranked]]) -> list[Ranked]:
    """One ranking of several: each chunk's score is the sum of 1 / (60 + its rank), ranks counted from 1."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, (chunk, _) in enumerate(ranking, 1):
            scores[chunk] = scores.get(chunk, 0.0) + 1 / (RANK + rank)
    return [Ranked(chunk, scores[chunk]) for chunk in sorted(scores, key=lambda chunk: (-scores[chunk], chunk))]


def _path(name: str, kind: str = stores.DEFAULT) -> Path:
    """Where the index of a name lies; a path with a known kind of store as its suffix is taken as it is.

    Raises:
        RequestError: the name cannot be one.
    """
    given = Path(name)
    if given.suffix[1:] in stores.names() and given.parent != Path():
        return given.absolute()
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name):
        raise RequestError(f"{name!r} is no name of an index: use letters, digits, - and _, such as manuals")
    stored = [folder() / f"{name}.{other}" for other in stores.names()]
    return next((path for path in stored if path.exists()), folder() / f"{name}.{kind}")


class Hits(Sequence[Hit]):
    """Passages that were found; shown as a list whose texts open."""

    def __init__(self, hits: Sequence[Hit]) -> None:
        self._hits = tuple(hits)

    def __getitem__(self, index: Any) -> Any:
        return self._hits[index]

    def __len__(self) -> int:
        return len(self._hits)

    def __repr__(self) -> str:
        lines = [f"[{i}] {hit.place} ({hit.score:.3f})\n    {_brief(hit.text)}" for i, hit in enumerate(self._hits, 1)]
        return "\n".join(lines) or "Nothing was found."

    def _repr_html_(self) -> str:
        from nbadapt.widgets.quotes import quotes_html

        shown = [(i, f"{hit.place} ({hit.score:.3f})", hit.text) for i, hit in enumerate(self._hits, 1)]
        return quotes_html(shown) or "<p>Nothing was found.</p>"


def _brief(text: str, most: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"
