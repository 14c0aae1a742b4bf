"""What a language model writes, piece by piece while it writes; transformers' streamers do it.

::

    with listening(hear):                  in the thread that generates; wrapped models are heard through as well
        model.generate([prompt])           hear(["The", " chain"]), hear(["The", " chain", " wears"]), ...
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

Hear = Callable[[list[str]], None]

UNFINISHED = "\ufffd"  # what the bytes of a letter decode to while some of them are still to come

_hear: ContextVar[Hear | None] = ContextVar("hear", default=None)


@contextlib.contextmanager
def listening(hear: Hear) -> Iterator[None]:
    """Inside, each answer to a single prompt is heard after every token: all of its pieces so far, a text a token.

    A letter that takes several tokens is one piece with them. Joined and stripped, the pieces are the answer. Models
    that are not in this process are not heard.
    """
    token = _hear.set(hear)
    try:
        yield
    finally:
        _hear.reset(token)


def streamer(tokenizer: PreTrainedTokenizerBase, ends: Sequence[int], rows: int) -> dict[str, Any]:
    """The argument of transformers' `generate` for a batch of `rows` prompts; empty where nobody listens.

    Args:
        tokenizer: the model's.
        ends: tokens that end an answer, and are no part of it.
        rows: only one is heard.
    """
    hear = _hear.get()
    return {"streamer": Pieces(tokenizer, ends, hear)} if hear is not None and rows == 1 else {}


class Pieces:
    """A streamer of transformers: it is given the prompt's tokens, then each new one."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int], hear: Hear) -> None:
        self._tokenizer, self._ends, self._hear = tokenizer, frozenset(ends), hear
        self._prompt = True
        self._ids: list[int] = []
        self._pieces: list[str] = []

    def put(self, tokens: torch.Tensor) -> None:
        """Take in the prompt, the first time, and then one token each time."""
        if self._prompt:
            self._prompt = False
            return
        new = [token for token in tokens.flatten().tolist() if token not in self._ends]
        if new:
            self._ids += new
            self._tell(last=False)

    def end(self) -> None:
        """Tell what was held back."""
        self._tell(last=True)

    def _tell(self, *, last: bool) -> None:
        text = str(self._tokenizer.decode(self._ids, skip_special_tokens=True))
        if text.endswith(UNFINISHED) and not last:
            return
        said = "".join(self._pieces)
        if not text.startswith(said):  # a tokenizer that takes spaces back
            self._pieces, said = [], ""
        if len(text) > len(said):
            self._pieces.append(text[len(said) :])
            self._hear(list(self._pieces))
