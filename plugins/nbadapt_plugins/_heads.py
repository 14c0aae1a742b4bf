"""Output layers that are trained on vectors, without the backbone that made them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions, SequenceClassifierOutput

from nbadapt.engines.embed import Pooling, pooled
from nbadapt.engines.encoding import collate
from nbadapt.errors import RequestError
from nbadapt_plugins._trained import switch_off_dropout

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "tanh": nn.Tanh}
PROBES = ("one short text", "another text, which is a little longer than the first one")
CLOSE = 1e-3  # of the logits' size; what rounding may make of them


class _Replay(nn.Module):
    """Stands where the backbone was, and gives out vectors (B, 1, d) as if it had just computed them."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)

    def forward(self, *_: Any, inputs_embeds: torch.Tensor, **__: Any) -> BaseModelOutputWithPoolingAndCrossAttentions:
        hidden = self.dropout(inputs_embeds)  # (B, 1, d)
        return BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=hidden, pooler_output=hidden[:, 0])


def without_backbone(model: PreTrainedModel, dropout: float = 0.0) -> PreTrainedModel:
    """The model's own head alone: its forward pass takes a text's vector as `inputs_embeds` (B, 1, d)."""
    switch_off_dropout(model)
    setattr(model, model.base_model_prefix, _Replay(dropout))
    return model


class NewLayers(nn.Module):
    """d -> hidden sizes -> k, with an activation after each hidden layer; called as a transformers classifier."""

    dtype = torch.float32

    def __init__(self, width: int, hidden: Sequence[int], labels: int, activation: str, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [nn.Dropout(dropout), nn.Linear(width, size), ACTIVATIONS[activation]()]
            width = size
        self.layers = nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(width, labels))

    def forward(
        self, inputs_embeds: torch.Tensor, labels: torch.Tensor | None = None, **_: Any
    ) -> SequenceClassifierOutput:
        logits = self.layers(inputs_embeds[:, 0])  # (B, k)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def arguments(vectors: torch.Tensor, pad: int | None) -> dict[str, torch.Tensor]:
    """What a head's forward pass is given for vectors (B, d): each text is one token that is no padding."""
    token = int(pad == 0)
    ids = torch.full((len(vectors), 1), token, device=vectors.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "inputs_embeds": vectors[:, None].float()}


def collate_vectors(rows: Sequence[dict[str, Any]], pad: int | None) -> dict[str, torch.Tensor]:
    """A batch of rows that hold a `vector` (d,) and a label."""
    vectors = torch.stack([torch.from_numpy(row["vector"]) for row in rows])  # (B, d)
    return {**arguments(vectors, pad), "labels": torch.tensor([row["labels"] for row in rows])}


def reading(model: PreTrainedModel, head: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Pooling:
    """Which vector of a text the model's own head reads: the one that gives the same logits.

    Args:
        model: the whole classifier.
        head: the same one without its backbone.
        tokenizer: the model's.

    Raises:
        RequestError: none does; this head looks at something else.
    """
    pad = tokenizer.pad_token_id
    rows: list[dict[str, Any]] = [{"input_ids": ids, "labels": 0} for ids in tokenizer(list(PROBES))["input_ids"]]
    batch = {name: value.to(model.device) for name, value in collate(rows, pad).items() if name != "labels"}
    model.eval()
    head.eval()
    with torch.no_grad():
        output, expected = model.base_model(**batch), model(**batch).logits.float()
        distances: dict[Pooling, float] = {}
        for pooling in reversed(get_args(Pooling)):
            if pooling != "pooler" or getattr(output, "pooler_output", None) is not None:
                logits = head(**arguments(pooled(output, batch, pooling, pad), pad)).logits.float()
                distances[pooling] = float((logits - expected).abs().max())
    best = min(distances, key=lambda pooling: distances[pooling])
    if distances[best] > CLOSE * float(expected.abs().max()):
        raise RequestError(
            f"the head of {model.config.model_type} reads more of a text than one vector: put new layers in its "
            "place with  hidden_sizes: []  and  pooling: mean, or use lora"
        )
    return best
