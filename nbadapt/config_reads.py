"""Which settings somebody reads of a config: where only others differ, the answer is the same."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbadapt.method import Config

_reads: ContextVar[set[str] | None] = ContextVar("reads", default=None)


def fit(reads: Mapping[str, Any], config: Config) -> bool:
    """Whether a config has these values."""
    return all(getattr(config, name) == value for name, value in reads.items())


@contextlib.contextmanager
def watched(config: Config) -> Iterator[tuple[Config, set[str]]]:
    """The settings again, and a set that grows by the names of those that are read of them inside."""
    reads: set[str] = set()
    token = _reads.set(reads)
    try:
        fields = type(config).model_fields
        yield _watching(type(config)).model_construct(**{name: getattr(config, name) for name in fields}), reads
    finally:
        _reads.reset(token)


@functools.lru_cache(maxsize=64)
def _watching(kind: type[Config]) -> type[Config]:
    """A subclass whose instances note which of their fields are read; what may read all of them counts as that."""
    names = frozenset(kind.model_fields)
    whole = frozenset({"__dict__", "model_dump", "model_dump_json", "model_copy"})

    def __getattribute__(self: Any, name: str) -> Any:  # noqa: N807 - becomes the class's own
        if name in names or name in whole:
            reads = _reads.get()
            if reads is not None:
                reads.update({name} if name in names else names)
        return object.__getattribute__(self, name)

    metaclass: Any = type(kind)
    made: type[Config] = metaclass(
        kind.__name__,
        (kind,),
        {"__getattribute__": __getattribute__, "__module__": kind.__module__, "__doc__": kind.__doc__},
    )
    return made
