"""The loss of a language model on held-out rows, each alone: the same figure whatever a trainer's batches are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

IGNORED = -100  # transformers' mark for tokens that the loss does not count


def held_out_loss(model: Any, rows: Iterable[Mapping[str, Sequence[int]]]) -> dict[str, float]:
    """The mean loss of a learned token in nats as "loss", and its standard error over the rows as "loss_error".

    Args:
        model: takes input_ids, attention_mask and labels, and gives the mean loss of the tokens that are counted.
        rows: "input_ids" and "labels" of each, as lists.
    """
    import torch

    sums, counts = [], []
    model.eval()
    for row in rows:
        ids, labels = (torch.tensor([row[name]]) for name in ("input_ids", "labels"))
        counted = int((labels[:, 1:] != IGNORED).sum())
        with torch.no_grad():
            loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
        sums.append(float(loss) * counted)
        counts.append(counted)
    return ratio(sums, counts)


def ratio(sums: Sequence[float], counts: Sequence[int]) -> dict[str, float]:
    """The sum of n sums over that of their counts, and its standard error (Cochran 1977, eq. 6.13)."""
    n, total = len(sums), sum(counts)
    loss = sum(sums) / total
    spread = sum((s - loss * count) ** 2 for s, count in zip(sums, counts, strict=True))
    return {"loss": loss, "loss_error": math.sqrt(spread * n / (n - 1)) / total}
