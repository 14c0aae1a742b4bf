"""What a file becomes before it is cut: its text, where its pages begin, and which of its lines are headings."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """The text of one file.

    Attributes:
        text: what is indexed; offsets of chunks are characters of it. Of plain text, Markdown and Python it is the
            decoded file with a line feed at each line's end; of other kinds what their loader took out of them.
        kind: the name of the loader, such as "pdf".
        pages: the character at which each page begins; empty where there are no pages.
        title: what the document calls itself, where it does.
    """

    text: str
    kind: str
    pages: tuple[int, ...] = ()
    title: str = ""

    def page(self, at: int) -> int | None:
        """The page, from 1, on which a character stands."""
        return max(1, bisect_right(self.pages, at)) if self.pages else None
