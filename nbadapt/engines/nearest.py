"""Which texts of a pool are most similar to a text: exact search by the cosine of their embeddings.

::

    e(x) = mean over the tokens of the embedding model's last hidden states, divided by its length
    similarity(x, y) = e(x) · e(y)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nbadapt.errors import ModelError
from nbadapt.events import Stage

if TYPE_CHECKING:
    from nbadapt.method import Emit, Job

LABELS = ("0", "1")  # of the head that the embedding model is loaded with; nobody asks it


@dataclasses.dataclass(frozen=True)
class _Embedding:
    """The settings that an `Embedder` reads."""

    max_length: int | None = None


def _embedding_job(job: Job, name: str) -> Job:
    """The job as the embedding model is given it.

    Raises:
        ModelError: there is no such model.
    """
    from nbadapt import model_names

    ref = model_names.resolve(name, trust_remote_code=False)
    return dataclasses.replace(job, model=ref, config=_Embedding(), labels=LABELS)


def weight_bytes(job: Job, name: str) -> int:
    """The memory of the embedding model's weights, in bytes; loads none of them.

    Raises:
        ModelError: there is no such model, or it has no single backbone that reads a text.
    """
    from nbadapt import pretrained

    model = pretrained.skeleton(_embedding_job(job, name).model, "classification", LABELS, job.dtype)
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(f"the embedding model {name!r} is an encoder and a decoder: use one that embeds, as minilm")
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def ranking(
    job: Job, name: str, texts: Sequence[str], pool: Sequence[str], emit: Emit
) -> Callable[[int], Sequence[int]]:
    """The pool's places for each text, the most similar first; of equally similar ones the first in the pool.

    Args:
        job: its device and dtype are the embedding model's too.
        name: the embedding model.
        texts: n texts.
        pool: m texts to choose from.
        emit: told while texts are embedded, so that a Stop gets through.

    Raises:
        ModelError: there is no such model.
    """
    import numpy as np

    from nbadapt.engines.embed import Embedder

    def tick(_done: int) -> None:
        emit(Stage(f"comparing texts with {name}"))

    embedder = Embedder(_embedding_job(job, name), "mean")
    vectors = embedder.embed([*pool, *texts], tick, keep_few=False).vectors.astype(np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    known, asked = vectors[: len(pool)], vectors[len(pool) :]  # (m, d), (n, d)

    def ranked(row: int) -> list[int]:
        order: list[int] = np.argsort(-(known @ asked[row]), kind="stable").tolist()
        return order

    return ranked
