"""One line in the cell that says how far an index is, and goes when it is done."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from nbadapt.tables import Page
from nbadapt.widgets.texts import clip

if TYPE_CHECKING:
    from nbadapt.indexing.update import Progress

SECONDS = 0.3  # between two updates
PATH_BYTES = 120


class IndexingLine:
    """Shows `Progress` in a notebook; in a terminal, which cannot take a line back, nothing.

    Args:
        name: the index.
    """

    def __init__(self, name: str) -> None:
        from IPython.core.getipython import get_ipython

        self._name, self._shown = name, 0.0
        self._handle: Any = None
        self._works = hasattr(get_ipython(), "kernel")

    def __call__(self, progress: Progress) -> None:
        """Take in how far it is."""
        now = time.monotonic()
        last = progress.done == progress.total
        if not self._works or (now - self._shown < SECONDS and not last):
            return
        self._shown = now
        if last:
            if self._handle is not None:
                self._handle.update(Nothing())
            return
        share = 100 * progress.done // max(1, progress.total)
        path = clip(progress.path, PATH_BYTES)
        text = f"index {self._name}: {share} % · file {progress.done + 1:,} of {progress.total:,} · {path}"
        if self._handle is None:
            from IPython.display import display

            self._handle = display(Page(text), display_id=True)  # type: ignore[no-untyped-call]  # IPython's
        else:
            self._handle.update(Page(text))


class Nothing:
    """What takes the line's place."""

    def _repr_html_(self) -> str:
        return ""

    def __repr__(self) -> str:
        return ""
