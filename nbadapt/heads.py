"""What a model ends with: whether transformers has it for an architecture, and new heads of classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from nbadapt.errors import ModelError
from nbadapt.method import ModelRef

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

Head = Literal["causal", "classification"]
"""The next token's logits, or the classes' ones."""


def check(ref: ModelRef, config: PretrainedConfig, head: Head) -> None:
    """Whether transformers has this head for this architecture.

    Raises:
        ModelError: it has not; the message says what the model can do instead.
    """
    from transformers.models.auto import modeling_auto

    causal: Any = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    classify: Any = modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    remote = ref.trust_remote_code and getattr(config, "auto_map", None)
    if remote:
        return
    if head == "causal" and getattr(config, "is_encoder_decoder", False) and config.model_type not in causal:
        raise ModelError(
            f"the model {ref.name!r} ({config.model_type}) is an encoder and a decoder, which nbadapt finetunes for "
            "classification only (columns text and label): to generate use a decoder such as smollm2"
        )
    if head == "causal":
        declared = " ".join(config.architectures or [])
        # BERT-like encoders are in the causal table too, for their use as decoders: they cannot write text.
        encoder = config.model_type in classify and not getattr(config, "is_decoder", False)
        masked = "CausalLM" not in declared and "LMHead" not in declared
        looks_encoder = encoder and masked and ("Masked" in declared or _is_bidirectional(config.model_type))
        if config.model_type not in causal or looks_encoder:
            raise ModelError(
                f"the model {ref.name!r} ({config.model_type}) is an encoder and does not generate text: "
                "use a causal language model such as smollm2, or a classification table (text, label)"
            )
    elif config.model_type not in classify:
        raise ModelError(
            f"the model {ref.name!r} ({config.model_type}) has no classification head in transformers: "
            "use prompt and completion columns, or another model such as minilm"
        )


def _is_bidirectional(model_type: str) -> bool:
    from transformers.models.auto import modeling_auto

    masked: Any = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return model_type in masked


def head_modules(model: PreTrainedModel) -> list[str]:
    """Names of the modules outside the body that have weights: a classifier's head, new and trained whole."""
    body = model.base_model_prefix
    if not hasattr(model, body):  # the model is all body
        return []
    return [name for name, child in model.named_children() if name != body and any(True for _ in child.parameters())]


def replace(model: PreTrainedModel, config: PretrainedConfig, device: str, seed: int) -> None:
    """Replace everything outside a model's body by new modules: normal(0, initializer_range), biases zero."""
    import torch

    with torch.device("meta"):
        shape = type(model)(config)
    generator = torch.Generator().manual_seed(seed)
    scale = getattr(config, "initializer_range", None) or 0.02
    for name, module in shape.named_children():
        if name == model.base_model_prefix:
            continue
        module.to_empty(device=device)
        for parameter in module.parameters():
            parameter.data.zero_()
        for layer in module.modules():
            if isinstance(layer, torch.nn.Linear):
                noise = torch.empty(layer.weight.shape).normal_(0.0, scale, generator=generator)
                layer.weight.data.copy_(noise)
            elif isinstance(layer, torch.nn.LayerNorm) and layer.weight is not None:
                layer.weight.data.fill_(1.0)
        setattr(model, name, module.train(model.training))


def make_trainable(model: PreTrainedModel) -> None:
    """Make what is outside a model's body float32 and trainable, whatever type the body gives."""
    for name, module in model.named_children():
        if name != model.base_model_prefix:
            module.float().requires_grad_(True)
            module.register_forward_pre_hook(_to_float32)


def _to_float32(_module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.float() if hasattr(x, "is_floating_point") and x.is_floating_point() else x for x in inputs)


def set_labels(config: PretrainedConfig, labels: Sequence[str]) -> None:
    """Give a configuration these labels, in the order of the checkpoint where it has the very same ones."""
    if set((config.id2label or {}).values()) == set(labels):
        return  # its own head was trained in that order
    config.num_labels = len(labels)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    config.problem_type = "single_label_classification"
