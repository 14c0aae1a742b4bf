"""Numbered passages of documents that open at a click; their texts are escaped, whatever they hold."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from nbadapt.widgets.texts import clip

MOST_BYTES = 16_000  # of all passages together
TITLE_BYTES = 240
_TEXT = "white-space:pre-wrap;overflow-wrap:anywhere;font-family:inherit;margin:4px 0 8px 18px"


def quotes_html(quotes: Sequence[tuple[int, str, str]]) -> str:
    """(number, title, text) of each passage -> one element a passage; empty where there are none."""
    most = MOST_BYTES // max(1, len(quotes))
    return "".join(
        f"<details><summary>[{number}] {escape(clip(title, TITLE_BYTES), quote=False)}</summary>"
        f'<pre style="{_TEXT}">{escape(clip(text, most), quote=False)}</pre></details>'
        for number, title, text in quotes
    )
