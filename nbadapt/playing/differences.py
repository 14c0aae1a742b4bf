"""Where two answers differ, token by token; and texts as words, for answers whose tokens are not to be compared."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Sequence

# A word is letters and digits with marks inside it, or one mark; of scripts without spaces it is one sign.
_WORD = re.compile(
    r"[\u2e80-\u2fff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
    r"|(?:(?![\u2e80-\u2fff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])\w)+(?:['\u2019.,-]\w+)*|[^\w\s]"
)

Segments = list[tuple[str, bool]]
"""Texts in their order, each with whether it differs from what it is compared with."""


def spans(text: str) -> list[tuple[int, int]]:
    """Where the words of a text begin and end."""
    return [match.span() for match in _WORD.finditer(text)]


def words(text: str) -> list[str]:
    """The words of a text, each with the space behind it; joined they are the text."""
    starts = [start for start, _ in spans(text)]
    if not starts:
        return [text] if text else []
    return [text[a:b] for a, b in itertools.pairwise([0, *starts[1:], len(text)])]


def lacking(pieces: Sequence[str], other: Sequence[str]) -> list[bool]:
    """For each piece whether the other text lacks it at its place.

    Blocks are matched by difflib (Ratcliff and Obershelp 1988). Spaces around a piece do not count, so that a word at
    the end of a text is the same in the middle of another.
    """
    own, others = [piece.strip() or piece for piece in pieces], [piece.strip() or piece for piece in other]
    found = [True] * len(pieces)
    for block in difflib.SequenceMatcher(None, own, others, autojunk=False).get_matching_blocks():
        found[block.a : block.a + block.size] = [False] * block.size
    return found


def segments(pieces: Sequence[str], marked: Sequence[bool]) -> Segments:
    """The text with its marks; neighbours of one kind together."""
    found: Segments = []
    for piece, mark in zip(pieces, marked, strict=True):
        if found and found[-1][1] == mark:
            found[-1] = (found[-1][0] + piece, mark)
        else:
            found.append((piece, mark))
    return found


def compared(answers: Sequence[Sequence[str]]) -> list[list[bool]]:
    """For every piece of n answers whether it is marked.

    A piece of the first answer is marked where not every other answer has it, one of another where the first has not.
    """
    if len(answers) < 2:
        return [[False] * len(pieces) for pieces in answers]
    first, *others = answers
    missing = [lacking(first, other) for other in others]
    return [[any(marks) for marks in zip(*missing, strict=True)], *(lacking(other, first) for other in others)]
