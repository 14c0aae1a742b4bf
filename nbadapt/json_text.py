"""JSON of files that may come from anybody."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def loads(text: str | bytes, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """What `json.loads` reads.

    Raises:
        ValueError: it is no JSON, or nested more deeply than Python reads, which json tells as a RecursionError.
    """
    try:
        return json.loads(text, object_pairs_hook=object_pairs_hook)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
