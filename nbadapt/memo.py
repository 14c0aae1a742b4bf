"""What one who estimates again and again need not make anew: tokenizers, skeletons and encoded rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

_remembered: ContextVar[dict[Any, Any] | None] = ContextVar("remembered", default=None)
R = TypeVar("R")


@contextlib.contextmanager
def remembering(kept: dict[Any, Any]) -> Iterator[None]:
    """Inside, tokenizers, skeletons and encoded rows are taken from `kept` where they were made before.

    For one who estimates again and again. It holds no weights, and is not to outlive the files of its models.
    """
    token = _remembered.set(kept)
    try:
        yield
    finally:
        _remembered.reset(token)


def active() -> bool:
    """Whether `remembering` is under way."""
    return _remembered.get() is not None


def remembered(key: tuple[Any, ...], make: Callable[[], R]) -> R:
    """What `make` gives, or gave before for this key, inside `remembering`; tables in a key are told by identity."""
    kept = _remembered.get()
    if kept is None:
        return make()
    plain = tuple(id(part) if _is_table(part) else part for part in key)
    if plain not in kept:
        kept[plain] = (make(), key)  # the key keeps its tables: no other one is to get their place in memory
    found: R = kept[plain][0]
    return found


def forget_tables(kept: dict[Any, Any]) -> None:
    """Take what belongs to tables out of what `remembering` kept; tokenizers and skeletons stay."""
    for plain, (_, key) in list(kept.items()):
        if any(map(_is_table, key)):
            del kept[plain]


def _is_table(part: Any) -> bool:
    return hasattr(part, "rows")
