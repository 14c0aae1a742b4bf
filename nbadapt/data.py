"""Tables of many kinds -> Examples of one task. Errors name the row and the column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nbadapt.method import Task


@dataclass(frozen=True)
class Examples:
    """Rows of one task, with the task's own column names.

    classification: ``text``, ``label`` (both str). generation: ``prompt``, ``completion`` (str; prompt may be a
    list of chat messages, where the source had ``messages``). preference: ``prompt``, ``chosen``, ``rejected``.
    text: ``text``. Rows read for a prompt template keep the source's other columns too.

    Attributes:
        task: what the rows are for.
        rows: one mapping a row.
        labels: the distinct labels in sorted order; empty where the task has none.
        source: what the user calls the table.
    """

    task: Task
    rows: tuple[Mapping[str, Any], ...]
    labels: tuple[str, ...] = ()
    source: str = "data"

    def __len__(self) -> int:
        return len(self.rows)
