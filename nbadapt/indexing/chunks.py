"""Cuts a text into overlapping chunks of at most so many tokens, at places where people would cut.

::

    text  |# Brakes  Check the pads. ...|A new pad is 4 mm thick. ...|# Chain  A chain ...
           <───── chunk 1, at most `size` tokens ─────>
                                     <─────── chunk 2, begins up to `overlap` tokens earlier ───────>

A chunk ends at the last heading in its second half; where there is none at the last paragraph, then sentence, line,
word, and only then inside a word. No overlap reaches back over a heading. Tokens are counted once for the whole text,
in blocks that the tokenizer takes as one batch; the number of tokens between two characters is then a difference.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbadapt.errors import ModelError, RequestError

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

    from nbadapt.indexing.documents import Document

SIZE, OVERLAP = 200, 40  # tokens
BLOCK = 4_000  # characters that are tokenised as one text
WIDEST = 12  # characters a token, at most: a tokenizer may take a line of base64 for one unknown word

_HEADING = re.compile(r"^#{1,6}[ \t]", re.MULTILINE)
_DEFINITION = re.compile(r"^(?:@|class\b|def\b|async def\b)", re.MULTILINE)
_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")
_LINE = re.compile(r"\n")
_SPACE = re.compile(r"\s+")
_SENTENCE = re.compile(r"[.!?\u2026][\"'\u201d\u2019)\]]*\s+|[\u3002\uff01\uff1f]")


@dataclass(frozen=True)
class Chunk:
    """A passage of a document.

    Attributes:
        text: the characters from `start` to `end` of the document's text.
        page: where it begins, from 1; None where there are no pages.
    """

    text: str
    start: int
    end: int
    page: int | None = None


class Cutter:
    """Cuts documents by the token counts of one tokenizer.

    Args:
        tokenizer: a fast one; its special tokens are not counted.
        size: most tokens in a chunk.
        overlap: most tokens that two neighbours share; at most half the size.

    Raises:
        RequestError: sizes that make no chunks.
        ModelError: the tokenizer does not tell where its tokens stand.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, size: int = SIZE, overlap: int = OVERLAP) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 8:
            raise RequestError(f"a chunk of {size!r} tokens is no chunk: give a size of 8 or more, such as {SIZE}")
        if isinstance(overlap, bool) or not isinstance(overlap, int) or not 0 <= overlap <= size // 2:
            raise RequestError(f"the overlap is {overlap!r} tokens: give 0 to {size // 2}, half of the size {size}")
        if not tokenizer.is_fast:
            raise ModelError("this model's tokenizer does not tell where its tokens stand: use minilm, or another one")
        backend: Any = tokenizer.backend_tokenizer
        self._backend, self._size, self._overlap = backend, size, overlap

    def cut(self, document: Document) -> list[Chunk]:
        """The chunks of a document, in order; none where it holds but white space."""
        text = document.text
        chunks = []
        for start, end in self._spans(text, document.kind):
            own = text[start:end].rstrip()
            if own:
                chunks.append(Chunk(own, start, start + len(own), document.page(start)))
        return chunks

    def _spans(self, text: str, kind: str) -> Iterator[tuple[int, int]]:
        """(start, end) of each chunk; white space may be at its end."""
        tokens = self._token_starts(text)  # (T,)
        levels = _boundaries(text, kind)
        headings, soft = set(levels[0]), sorted({*levels[0], *levels[1], *levels[2], *levels[3]})
        start = done = _after_space(text, 0)
        while done < len(text):
            end = self._end(text, tokens, levels, start)
            if not text[done:end].strip():  # nothing new behind the overlap: begin where the last chunk ended
                start = done
                end = self._end(text, tokens, levels, start)
            yield start, end
            done = _after_space(text, end)
            start = done if end in headings else _after_space(text, self._back(text, tokens, soft, start, end))

    def _end(self, text: str, tokens: np.ndarray[Any, Any], levels: Sequence[Sequence[int]], start: int) -> int:
        """Where the chunk that begins at `start` ends."""
        first = int(tokens.searchsorted(start))
        over = first + self._size
        far = min(int(tokens[over]) if over < len(tokens) else len(text), start + WIDEST * self._size)
        if far >= len(text):
            return len(text)
        half = min(int(tokens[min(first + self._size // 2, len(tokens) - 1)]), (start + far) // 2)
        for places in levels:
            last = bisect_right(places, far) - 1
            if last >= 0 and places[last] >= half > start:
                return places[last]
        word = max(text.rfind(space, half, far) for space in " \n\t")
        return max(word + 1 if word >= half else far, start + 1)

    def _back(self, text: str, tokens: np.ndarray[Any, Any], soft: Sequence[int], start: int, end: int) -> int:
        """Where the chunk behind the one from `start` to `end` begins: earlier than `end`, by the overlap."""
        first = max(int(tokens.searchsorted(end)) - self._overlap, 0)
        back = int(tokens[first]) if first < len(tokens) else end
        if not self._overlap or back <= start:
            return end
        place = bisect_left(soft, back)
        if place < len(soft) and soft[place] < end:
            return soft[place]
        space = _SPACE.search(text, back + 1, end)
        return space.end() if space else end

    def _token_starts(self, text: str) -> np.ndarray[Any, Any]:
        """The character at which each token of a text begins: shape (T,), never falling."""
        import numpy as np

        blocks = list(_blocks(text))
        encodings = self._backend.encode_batch([text[a:b] for a, b in blocks], add_special_tokens=False)
        found = [
            np.fromiter((start for start, _ in encoding.offsets), np.int64) + begin
            for (begin, _), encoding in zip(blocks, encodings, strict=True)
        ]
        starts: np.ndarray[Any, Any] = np.concatenate([*found, np.zeros(0, np.int64)])
        return np.maximum.accumulate(starts) if len(starts) else starts


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Neighbouring parts of a text that end at white space, where there is some."""
    start = 0
    while start < len(text):
        end = start + BLOCK
        if end < len(text):
            space = max(text.rfind("\n", start + 1, end), text.rfind(" ", start + 1, end))
            end = space if space > 0 else end
        yield start, min(end, len(text))
        start = end


def _boundaries(text: str, kind: str) -> list[list[int]]:
    """Where headings, paragraphs, sentences and lines begin: four sorted lists, the better places first.

    In code and tables a line is a better unit than what looks like a sentence.
    """
    heading = _DEFINITION if kind == "py" else _HEADING
    sentences, lines = ([match.end() for match in part.finditer(text)] for part in (_SENTENCE, _LINE))
    inner = [lines, sentences] if kind in {"py", "csv"} else [sentences, lines]
    paragraphs = [match.end() for match in _PARAGRAPH.finditer(text)]
    return [[match.start() for match in heading.finditer(text)], paragraphs, *inner]
