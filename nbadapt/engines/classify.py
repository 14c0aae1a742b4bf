"""Classifiers in memory, ready to use: a whole transformers model, or something on a backbone's vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from nbadapt.engines.batches import inference
from nbadapt.engines.encoding import collate, length_limit, text_ids, virtual_tokens
from nbadapt.errors import RequestError
from nbadapt.method import Adapted, Predictions

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from nbadapt.engines.embed import Embedder

BATCH = 32  # texts in one forward pass


class Classifier(Adapted):
    """A transformers model with a classification head, and its tokenizer.

    Args:
        model: gives logits (B, k); its config names the k classes.
        tokenizer: with a padding token.
        max_length: tokens kept of a text; None: the model's limit, at most 1024.
    """

    abilities = frozenset({"predict"})

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.limit = length_limit(model.config, max_length, virtual_tokens(model))
        names = model.config.id2label
        self.names = tuple(names[i] for i in range(len(names)))

    def predict(
        self, texts: Sequence[str], labels: Sequence[str] | None = None, tick: Callable[[], None] | None = None
    ) -> Predictions:
        """Class probabilities of n texts, in batches of similar length.

        Args:
            texts: n texts; each is cut at the length that the model was trained with.
            labels: must be the model's own classes, or None.
            tick: called between batches; may raise to leave early.

        Raises:
            RequestError: other labels than the model was trained for, or a text that is no str.
        """
        import numpy as np

        _check(texts, labels, self.names)
        probabilities: np.ndarray[Any, Any] = np.zeros((len(texts), len(self.names)))
        if not texts:
            return Predictions(self.names, probabilities)
        encoded = text_ids(self.tokenizer, texts, self.limit)
        order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
        for start in range(0, len(order), BATCH):
            if tick is not None:
                tick()
            chosen = order[start : start + BATCH]
            probabilities[chosen] = self._probabilities([encoded[i] for i in chosen])
        return Predictions(self.names, probabilities)

    def _probabilities(self, ids: list[list[int]]) -> np.ndarray[Any, Any]:
        batch = collate([{"input_ids": i, "labels": 0} for i in ids], self.tokenizer.pad_token_id)
        del batch["labels"]
        with inference(self.model):
            logits = self.model(**{k: v.to(self.model.device) for k, v in batch.items()}).logits  # (B, k)
        result: np.ndarray[Any, Any] = logits.float().softmax(-1).cpu().double().numpy()
        result /= result.sum(axis=1, keepdims=True)
        return result

    def answer(self, texts: list[str], tick: Callable[[], None]) -> list[str]:
        """The labels of n texts, for the samples of an evaluation."""
        return self.predict(texts, tick=tick).labels


class FeatureClassifier(Adapted):
    """A classifier on the vectors of a frozen backbone.

    Args:
        embedder: turns texts into vectors.
        names: the k classes.
        probabilities: vectors (n, d) -> probabilities (n, k), for n >= 1.
    """

    abilities = frozenset({"predict"})

    def __init__(
        self,
        embedder: Embedder,
        names: Sequence[str],
        probabilities: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]],
    ) -> None:
        self.embedder, self.names, self._probabilities = embedder, tuple(names), probabilities

    def predict(
        self, texts: Sequence[str], labels: Sequence[str] | None = None, tick: Callable[[], None] | None = None
    ) -> Predictions:
        """Class probabilities of n texts.

        Args:
            texts: n texts; each is cut at the length that the classifier was trained with.
            labels: must be the classifier's own classes, or None.
            tick: called between batches; may raise to leave early.

        Raises:
            RequestError: other labels than the classifier was trained for, or a text that is no str.
        """
        import numpy as np

        _check(texts, labels, self.names)
        if not texts:
            return Predictions(self.names, np.zeros((0, len(self.names))))

        def each(_done: int) -> None:
            if tick is not None:
                tick()

        vectors = self.embedder.embed(texts, each, keep_few=False).vectors
        probabilities = self._probabilities(vectors).astype(float)
        return Predictions(self.names, probabilities / probabilities.sum(axis=1, keepdims=True))

    def answer(self, inputs: list[Any], tick: Callable[[], None]) -> list[str]:
        """The labels of n texts, for the samples of an evaluation."""
        return self.predict(inputs, tick=tick).labels


def _check(texts: Sequence[Any], labels: Sequence[str] | None, names: Sequence[str]) -> None:
    if labels is not None and set(labels) != set(names):
        raise RequestError(f"this classifier was trained for the labels {', '.join(names)}: leave labels out")
    wrong = next((t for t in texts if not isinstance(t, str)), None)
    if wrong is not None:
        raise RequestError(f"predict takes texts, not {type(wrong).__name__}: {wrong!r:.40}")
