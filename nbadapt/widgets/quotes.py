"""Numbered passages of documents that open at a click; their texts are escaped, whatever they hold."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from nbadapt.widgets.texts import clip

if TYPE_CHECKING:
    from nbadapt.history import History

MOST_BYTES = 16_000  # of all passages together
TITLE_BYTES = 240
_TEXT = "white-space:pre-wrap;overflow-wrap:anywhere;font-family:inherit;margin:4px 0 8px 18px"


Quote = tuple[int, str, str]  # number, title, text


def clipped(quotes: Sequence[Quote], most: int = MOST_BYTES) -> list[Quote]:
    """The passages, whose texts together take `most` bytes; titles are cut for themselves."""
    each = most // max(1, len(quotes))
    return [(number, clip(title, TITLE_BYTES), clip(text, each)) for number, title, text in quotes]


def quotes_html(quotes: Sequence[Quote]) -> str:
    """Each passage -> one element that opens; empty where there are none."""
    return "".join(
        f"<details><summary>[{number}] {escape(title, quote=False)}</summary>"
        f'<pre style="{_TEXT}">{escape(text, quote=False)}</pre></details>'
        for number, title, text in clipped(quotes)
    )


def quotes_of(history: History) -> list[Quote]:
    """The passages behind a run's answer."""
    return [(source.number, source.title, source.text) for source in history.sources]
