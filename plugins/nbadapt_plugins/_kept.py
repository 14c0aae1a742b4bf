"""Keeps what frozen blocks give for each row, so that a row runs through them once in a training.

::

    batch of rows ──> embeddings ──> [ block 1 ──> ... ──> block n ] ──> H (B, T, d) ──> trained blocks
                                       new rows only                ↑↓
                                                       row's tokens -> its H (T, d)

A row is known by its token ids. Batches that are not plain rows padded on the right (generating, keys and values of
earlier tokens, positions or segments of their own) go through the blocks as always.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PLAIN = frozenset({"input_ids", "attention_mask"})  # inputs that decide what the frozen blocks give


class Kept:
    """What a list of frozen blocks gives, by row.

    Args:
        budget: bytes that may be kept; rows beyond it are computed each time.
    """

    def __init__(self, budget: int) -> None:
        self.free = budget
        self._rows: dict[bytes, torch.Tensor] = {}  # token ids -> (T, d)
        self._batch: _Batch | None = None

    def watch(self, model: PreTrainedModel, blocks: Sequence[torch.nn.Module]) -> None:
        """Stand between the model and its frozen blocks, from the first block on."""
        model.base_model.register_forward_pre_hook(self._look_up, with_kwargs=True)
        for place, block in enumerate(blocks):
            block.forward = partial(self._pass, place, place == len(blocks) - 1, block.forward)

    def _look_up(self, body: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._batch = None
        given = {name for name, value in kwargs.items() if isinstance(value, torch.Tensor) and value.ndim}
        ids = args[0] if args else kwargs.get("input_ids")
        mask = kwargs.get("attention_mask")
        caching = kwargs.get("use_cache")
        if caching is None:
            caching = getattr(body.config, "use_cache", False)
        if len(args) > 1 or given - PLAIN or caching or kwargs.get("past_key_values") is not None:
            return
        if ids is None or mask is None or mask.ndim != 2:
            return
        lengths = mask.sum(1)  # (B,)
        if not torch.equal(mask.bool(), torch.arange(mask.shape[1], device=mask.device) < lengths[:, None]):
            return
        self._batch = _Batch(ids, lengths.tolist(), self._rows)

    def _pass(
        self, place: int, last: bool, forward: Callable[..., Any], hidden: torch.Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """One frozen block: the rows that are not kept go through it, and the last block joins them to the others."""
        batch = self._batch
        if batch is None:
            return forward(hidden, *args, **kwargs)
        if batch.new:
            if place == 0:
                hidden = batch.chosen(hidden)
            hidden = forward(hidden, *map(batch.chosen, args), **{n: batch.chosen(v) for n, v in kwargs.items()})
        return self._joined(batch, hidden) if last else hidden

    def _joined(self, batch: _Batch, new: torch.Tensor) -> torch.Tensor:
        """(B, T, d) from what is kept and from the new rows, which are kept if there is room."""
        if len(batch.new) == len(batch.keys):
            joined = new
        else:
            joined = new.new_zeros((len(batch.keys), batch.width, new.shape[-1]))
            if batch.new:
                joined[batch.new] = new
        for row, key in enumerate(batch.keys):
            length = batch.lengths[row]
            if row not in batch.new:
                joined[row, :length] = batch.kept[row]
            elif not torch.is_inference_mode_enabled():  # what is made there cannot be trained on
                self._keep(key, joined[row, :length])
        return joined

    def _keep(self, key: bytes, states: torch.Tensor) -> None:
        if states.nbytes <= self.free and key not in self._rows:
            self._rows[key] = states.detach().clone()
            self.free -= states.nbytes


class _Batch:
    """The rows of one forward pass: what is kept of them, and which are new."""

    def __init__(self, ids: torch.Tensor, lengths: list[int], rows: dict[bytes, torch.Tensor]) -> None:
        self.lengths, self.width = lengths, ids.shape[1]
        self.keys = [row[:n].tobytes() for row, n in zip(ids.cpu().numpy(), lengths, strict=True)]
        self.kept = {row: rows[key] for row, key in enumerate(self.keys) if key in rows}
        self.new = [row for row in range(len(self.keys)) if row not in self.kept]

    def chosen(self, value: Any) -> Any:
        """The new rows of a tensor with an entry for every row, also inside a tuple; anything else as it is."""
        if isinstance(value, tuple):
            return tuple(map(self.chosen, value))
        if len(self.new) == len(self.keys) or not isinstance(value, torch.Tensor):
            return value
        return value[self.new] if value.ndim > 1 and len(value) == len(self.keys) else value
