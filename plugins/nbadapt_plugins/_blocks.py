"""Where the blocks of a transformer are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbadapt.errors import UnsuitedError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def blocks(model: PreTrainedModel, method: str) -> tuple[str, int]:
    """The name of the list of the model's blocks, and how many there are; the model may be on the meta device.

    Raises:
        UnsuitedError: there is no one list of all blocks; it names the method.
    """
    import torch

    kind = model.config.model_type
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsuitedError(f"{method} does not work with {kind}, whose blocks are an encoder's and a decoder's")
    count: int = model.config.get_text_config().num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return name, count
    raise UnsuitedError(f"{method} does not work with {kind}, whose {count} blocks are not in one list")
