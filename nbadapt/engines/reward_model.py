"""A reward model in memory: a transformers model with one output, and how well its margins are calibrated.

::

    margin  m = r(prompt, chosen) - r(prompt, rejected)
    P(chosen is preferred) = sigmoid(m)          Bradley and Terry 1952
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbadapt.engines.batches import by_length, inference
from nbadapt.engines.encoding import collate, length_limit, virtual_tokens
from nbadapt.engines.pairs import fitted, shown
from nbadapt.engines.tokens import Prompt, encode_completion, encode_prompt
from nbadapt.errors import RequestError
from nbadapt.method import Adapted

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from nbadapt.engines.training_report import Shown

BATCH = 32  # texts in one forward pass
BINS = 10  # of the predicted probability, from one half to one


class RewardModel(Adapted):
    """A transformers model with a head of one output, and its tokenizer.

    Args:
        model: gives logits (B, 1).
        tokenizer: with a padding token.
        max_length: tokens kept of a prompt and its answer; None: the model's limit, at most 1024.
    """

    abilities = frozenset({"reward"})

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.chat = bool(tokenizer.chat_template)
        self.limit = length_limit(model.config, max_length, virtual_tokens(model))

    def reward(
        self, prompts: Sequence[Prompt], completions: Sequence[str], *, tick: Callable[[], None] | None = None
    ) -> np.ndarray[Any, Any]:
        """The score of each completion after the prompt beside it: shape (n,), float64.

        It is read at the last token that is no padding, as it was in training. A text that is too long loses the start
        of its prompt first.

        Args:
            prompts: n texts or conversations; see `encode_prompt`.
            completions: n answers; an empty one is scored too.
            tick: called before each batch; may raise to leave early.

        Raises:
            RequestError: something that is no text, or a number of completions that is not n.
        """
        import numpy as np

        if len(prompts) != len(completions):
            raise RequestError(f"there are {len(prompts):,} prompts and {len(completions):,} completions: one for each")
        wrong = next((text for text in completions if not isinstance(text, str)), None)
        if wrong is not None:
            raise RequestError(f"reward takes texts, not {type(wrong).__name__}: {wrong!r:.40}")
        ids = [self._ids(prompt, text) for prompt, text in zip(prompts, completions, strict=True)]
        rewards: np.ndarray[Any, Any] = np.zeros(len(ids))
        for batch in by_length([len(tokens) for tokens in ids], BATCH):
            if tick is not None:
                tick()
            rewards[batch] = self._rewards([ids[i] for i in batch])
        return rewards

    def _ids(self, prompt: Prompt, completion: str) -> list[int]:
        answer = encode_completion(self.tokenizer, completion, prompt, end=True)
        ((_, text),) = fitted(encode_prompt(self.tokenizer, prompt), [answer], self.limit)
        return text

    def _rewards(self, ids: list[list[int]]) -> np.ndarray[Any, Any]:
        batch = collate([{"input_ids": tokens, "labels": 0} for tokens in ids], self.tokenizer.pad_token_id)
        del batch["labels"]
        with inference(self.model):
            logits = self.model(**{k: v.to(self.model.device) for k, v in batch.items()}).logits  # (B, 1)
        result: np.ndarray[Any, Any] = logits[:, 0].float().cpu().double().numpy()
        return result

    def show(self, rows: Sequence[Mapping[str, Any]], tick: Callable[[], None]) -> list[Shown]:
        """Preference rows with their margins, for the samples of an evaluation."""
        prompts = [row["prompt"] for row in rows]
        chosen, rejected = (
            self.reward(prompts, [row[name] for row in rows], tick=tick) for name in ("chosen", "rejected")
        )
        said = [
            f"margin {a - b:+.3f} (chosen {a:.3f}, rejected {b:.3f})" for a, b in zip(chosen, rejected, strict=True)
        ]
        return [(shown(row), text, "a margin above 0") for row, text in zip(rows, said, strict=True)]


def calibration(margins: np.ndarray[Any, Any]) -> tuple[dict[str, float], list[dict[str, float]]]:
    """How far the probabilities that margins stand for are right, and the reliability table behind it.

    A margin of the wrong sign prefers the rejected answer, with the probability ``sigmoid(|m|)``. In each bin of that
    probability the share of pairs that are ordered rightly should be as large: the expected calibration error is the
    mean difference of the two, weighted by pairs (Naeini et al. 2015). The Brier score is the mean of
    (1 - sigmoid(m))^2; 0.25 is a coin's (Brier 1950).

    Args:
        margins: shape (n,), of held-out pairs.

    Returns:
        "brier" and "calibration_error"; and a row for each of the `BINS` that has pairs: "from", "to", "pairs",
        "predicted" and "observed".
    """
    import numpy as np

    right = (1 + np.tanh(margins / 2)) / 2  # (n,) sigmoid(m), the probability of the human's choice
    sure = np.maximum(right, 1 - right)
    ordered = margins > 0
    places = np.minimum(((sure - 0.5) * 2 * BINS).astype(int), BINS - 1)
    table = []
    for place in np.unique(places):
        inside = places == place
        table.append(
            {
                "from": 0.5 + place / (2 * BINS),
                "to": 0.5 + (place + 1) / (2 * BINS),
                "pairs": int(inside.sum()),
                "predicted": float(sure[inside].mean()),
                "observed": float(ordered[inside].mean()),
            }
        )
    error = sum(row["pairs"] * abs(row["predicted"] - row["observed"]) for row in table) / len(margins)
    return {"brier": float(((1 - right) ** 2).mean()), "calibration_error": float(error)}, table
