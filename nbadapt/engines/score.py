"""How likely each of k completions is after each of n prompts.

::

    prompt 1   ████████████ ▒▒▒▒▒ ░░ ░        ████  prefix that all prompts share: run once
    prompt 2   ████████████   ▒▒▒ ░           ▒▒▒   rest of a prompt: run once, batched
    prompt 3   ████████████  ▒▒▒▒ ░░ ░        ░░    tokens of a completion: run over the kept keys and values

    log p(completion | prompt) = sum over its tokens t of log p(t | prompt, tokens before t)

The rests are padded on the left, so that every row predicts from the same column.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nbadapt.engines.batches import by_length, keep, left_padded, runs

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import Cache, PreTrainedModel

    Scored = tuple[list[int], np.ndarray[Any, Any]]

Tick = Callable[[], None]


def log_likelihoods(
    model: PreTrainedModel,
    starts: Sequence[list[int]],
    answers: Sequence[Sequence[list[int]]],
    batch_size: int,
    tick: Tick,
) -> Iterator[Scored]:
    """Log-likelihoods summed over tokens, batch by batch: (indices of B prompts, array of shape (B, k)).

    Each prompt comes in one batch.

    Args:
        model: in inference mode.
        starts: token ids of n >= 1 prompts, none empty.
        answers: n times k completions, as token ids, none empty.
        batch_size: prompts in one forward pass.
        tick: called before each batch; may raise to leave early.
    """
    score = _with_cache if shares_cache(model) else _plainly
    yield from score(model, starts, answers, batch_size, tick)


def shares_cache(model: PreTrainedModel) -> bool:
    """Whether keys and values of a prefix can be kept and used again for other rows."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    prompt_learning = any(
        getattr(config, "is_prompt_learning", False)  # peft: learned keys or tokens before the first one
        for config in getattr(model, "peft_config", {}).values()
    )
    if prompt_learning or getattr(model, "_is_stateful", False):
        return False
    cache = DynamicCache(config=model.config)
    return all(type(layer) is DynamicLayer for layer in cache.layers)  # windows and states drop what was


def _with_cache(
    model: PreTrainedModel,
    starts: Sequence[list[int]],
    answers: Sequence[Sequence[list[int]]],
    batch_size: int,
    tick: Tick,
) -> Iterator[Scored]:
    shared = min(_common_prefix(starts), min(map(len, starts)) - 1)  # a token is left to predict from
    prefix = _prefill(model, starts[0][:shared])
    rests = [start[shared:] for start in starts]
    for batch in by_length([len(rest) for rest in rests], batch_size):
        tick()
        # No name for the rows: their keys and values are gone before the next ones come.
        yield batch, _Rows(model, prefix, shared, [rests[i] for i in batch]).scores([answers[i] for i in batch])


def _common_prefix(rows: Sequence[list[int]]) -> int:
    """How many tokens all rows begin with."""
    low, high = min(rows), max(rows)
    same = (i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
    return next(same, min(len(low), len(high)))


def _prefill(model: PreTrainedModel, ids: list[int]) -> Cache:
    """Keys and values of the shared prefix, for one row."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    if ids:
        tokens = torch.tensor([ids], device=model.device)
        model(input_ids=tokens, past_key_values=cache, use_cache=True, **keep(model, 1))
    return cache


def _fork(cache: Cache) -> Cache:
    """A cache that goes its own way from here; a DynamicLayer replaces its tensors and never writes into them."""
    fork = copy.copy(cache)
    fork.layers = [copy.copy(layer) for layer in cache.layers]
    return fork


class _Rows:
    """B prompts that were run: what follows them can be scored many times.

    Args:
        model: in inference mode.
        prefix: keys and values of the P tokens that all prompts begin with; P may be 0.
        shared: P.
        rests: what follows in each prompt, at least one token.
    """

    def __init__(self, model: PreTrainedModel, prefix: Cache, shared: int, rests: Sequence[list[int]]) -> None:
        import torch

        self._model, self._cache = model, _fork(prefix)
        if shared:
            for layer in self._cache.layers:  # views: what comes behind the prefix is put there in one new tensor
                layer.keys = layer.keys.expand(len(rests), -1, -1, -1)
                layer.values = layer.values.expand(len(rests), -1, -1, -1)
        tokens, own = left_padded(rests, model.device)  # (B, S)
        self._mask = torch.cat([own.new_ones(len(rests), shared), own], dim=1)  # (B, P + S)
        places = (shared + own.cumsum(1) - 1).clamp(min=0)  # (B, S)
        self._last = places[:, -1:]  # (B, 1)
        self._first = self._run(tokens, self._mask, places, self._cache, 1)[:, 0]  # (B, V)

    def scores(self, answers: Sequence[Sequence[list[int]]]) -> np.ndarray[Any, Any]:
        """Log-likelihoods of k answers for each prompt: (B, k)."""
        import numpy as np

        columns = [self._score(column) for column in zip(*answers, strict=True)]
        return np.stack([column.double().cpu().numpy() for column in columns], axis=1)

    def _score(self, answers: Sequence[list[int]]) -> torch.Tensor:
        """Log-likelihood of one answer for each prompt: (B,)."""
        total = self._first[range(len(answers)), [ids[0] for ids in answers]]
        return total + self._following(answers) if max(map(len, answers)) > 1 else total

    def _following(self, answers: Sequence[list[int]]) -> torch.Tensor:
        """Log-likelihood of the tokens after the first one: (B,). The answers are padded on the right."""
        import torch

        longest = max(map(len, answers))
        padded = [ids + [-1] * (longest - len(ids)) for ids in answers]
        ids = torch.tensor(padded, device=self._mask.device)  # (B, L)
        given, wanted = ids[:, :-1], ids[:, 1:]  # (B, L-1)
        places = self._last + torch.arange(1, longest, device=ids.device)  # (B, L-1)
        mask = torch.cat([self._mask, (given >= 0).to(self._mask.dtype)], dim=1)  # (B, P + S + L-1)
        steps = self._run(given.clamp(min=0), mask, places, _fork(self._cache), longest - 1)
        chosen = steps.gather(-1, wanted.clamp(min=0).unsqueeze(-1)).squeeze(-1)  # (B, L-1)
        return (chosen * (wanted >= 0)).sum(1)

    def _run(
        self, tokens: torch.Tensor, mask: torch.Tensor, places: torch.Tensor, cache: Cache, last: int
    ) -> torch.Tensor:
        """Log-probabilities (B, last, V) of what follows each of the last tokens."""
        output = self._model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
            **keep(self._model, last),
        )
        logits: torch.Tensor = output.logits[:, -last:]
        return logits.float().log_softmax(-1)


def _plainly(
    model: PreTrainedModel,
    starts: Sequence[list[int]],
    answers: Sequence[Sequence[list[int]]],
    batch_size: int,
    tick: Tick,
) -> Iterator[Scored]:
    """A whole forward for each pair, without padding: right for any architecture."""
    import numpy as np
    import torch

    for batch in by_length([len(start) for start in starts], batch_size):
        scores: np.ndarray[Any, Any] = np.zeros((len(batch), len(answers[0])))
        pairs = [(b, j) for b in range(len(batch)) for j in range(len(answers[0]))]
        sizes = {(b, j): (len(starts[batch[b]]), len(answers[batch[b]][j])) for b, j in pairs}
        for alike in runs(sorted(pairs, key=sizes.__getitem__), batch_size, key=sizes.__getitem__):
            tick()
            last = sizes[alike[0]][1]
            rows = [starts[batch[b]] + answers[batch[b]][j] for b, j in alike]
            tokens = torch.tensor(rows, device=model.device)  # (B, T)
            logits = model(input_ids=tokens, use_cache=False, **keep(model, last + 1)).logits
            steps = logits[:, -last - 1 : -1].float().log_softmax(-1)  # (B, last, V)
            chosen = steps.gather(-1, tokens[:, -last:].unsqueeze(-1)).squeeze(-1)  # (B, last)
            scores[tuple(zip(*alike, strict=True))] = chosen.sum(1).double().cpu().numpy()
        yield batch, scores
