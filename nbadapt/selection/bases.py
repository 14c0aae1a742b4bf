"""Base models in memory: each read once, as far as there is room for it beside the others.

A comparison is to take no more than its largest candidate does, and a tenth: within the former (`ROOM`), the budget and
what is free, the bases of other candidates stay. Where they do not fit, these are let go, and what is read anew is kept
small by the order of the work: see `Bases.order`. The tenth is for what C libraries keep of candidates that have ended.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nbadapt import garbage, models
from nbadapt.memory import available_bytes, trim

if TYPE_CHECKING:
    from nbadapt.selection.candidates import Candidate

ROOM = 1.0  # of the predicted peak of the largest candidate


class Bases:
    """The base models that a comparison has in memory.

    Args:
        candidates: all that take part.
        limit: bytes that the comparison may take; None: no more than there are.

    Attributes:
        kept: tokenizers and encoded rows, for `nbadapt.memo.remembering`; gone when a base is let go, as they may be
            its own: of 2,000 reviews some 40 MiB.
    """

    def __init__(self, candidates: Sequence[Candidate], limit: int | None) -> None:
        self.kept: dict[Any, Any] = {}
        self._largest = max((one.estimate.peak for one in candidates), default=0)
        self._limit = limit
        self._held: dict[str, int] = {}  # path of a base -> bytes of its weights; 0: not known
        self._last = ""
        self._aside = False

    @contextlib.contextmanager
    def garbage_of_trials(self) -> Iterator[None]:
        """Inside, garbage is looked for in what is new: after each trial all of torch would be gone through, anew."""
        gc.collect()
        with garbage.only_new():
            self._aside = True
            try:
                yield
            finally:
                self._aside = False

    def make_room(self, candidate: Candidate) -> None:
        """Let go of the other bases where a candidate would not fit beside them, its own base in memory or not.

        Without an estimate nobody knows whether it would, or how large its base is: it is alone with that.
        """
        path = base_of(candidate)
        if not path:
            return
        others = [size for other, size in self._held.items() if other != path]
        known = all(others) and not candidate.no_estimate
        if others and not (known and self._fits(candidate, path, sum(others))):
            self.let_go(but=path)
        self._held[path] = max(self._held.get(path, 0), candidate.estimate.memory.get("weights", 0))
        self._last = path

    def _fits(self, candidate: Candidate, path: str, others: int) -> bool:
        """Whether a candidate, whose peak holds its own base's weights, fits beside so many bytes of other bases."""
        peak = candidate.estimate.peak
        most = ROOM * max(self._largest, peak)
        if self._limit is not None:
            most = min(most, self._limit)
        free = available_bytes(candidate.job.device)
        return others + peak <= most and (free is None or peak - self._held.get(path, 0) <= free)

    def let_go(self, but: str = "") -> None:
        """Let go of all of them, but for the one of this path."""
        self._held = {path: size for path, size in self._held.items() if path == but}
        self.kept.clear()
        gc.unfreeze()
        gc.collect()
        models.free(but)
        if self._aside:
            gc.freeze()

    def order(self, candidate: Candidate) -> tuple[int, str]:
        """A sort key: what reads no model, then what is in memory, then one model after the other."""
        path = base_of(candidate)
        return (0 if not path else 1 if path == self._last else 2 if path in self._held else 3), path


def base_of(candidate: Candidate) -> str:
    """The path of the base model whose weights a candidate reads; "" where it reads none."""
    return models.base_ref(candidate.job.model).path if candidate.reads_model else ""


def give_back() -> None:
    """Return what the C library holds of freed memory to the system: else the next peak would not show above it."""
    gc.collect()
    models.release_cached_memory()
    trim()
