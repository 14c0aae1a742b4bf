"""Where the blocks of a transformer are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbadapt.errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def blocks(model: PreTrainedModel) -> tuple[str, int]:
    """The name of the list of the model's blocks, and how many there are; the model may be on the meta device.

    Raises:
        RequestError: there is no one list of all blocks.
    """
    import torch

    count: int = model.config.get_text_config().num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return name, count
    raise RequestError(
        f"the blocks of {model.config.model_type} are not in one list of {count}: use lora, which needs none"
    )
