"""Rows for several LoRA runs in one batch (S-LoRA: Sheng et al. 2023, https://arxiv.org/abs/2311.03285).

::

    row 1, run a  ──┐              ┌── + B_a A_a x
    row 2, run b  ──┤   W x, once  ├── + B_b A_b x
    row 3, run a  ──┤   for all    ├── + B_a A_a x
    row 4, no run ──┘              └──

The runs' models stay as they are: a batch goes through a tree of modules of its own over the same tensors, base and
adapters, which is made for one call. So no run sees another's adapter, and an interrupt leaves nothing behind.
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbadapt.capture import quiet_libraries
from nbadapt.engines.generate import LanguageModel
from nbadapt.method import Adapted
from nbadapt.models import shell

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BARE = "__base__"  # peft's name for no adapter
OWN = "default"  # peft's name for the adapter that a model was loaded with


def mixable(model: Any) -> bool:
    """Whether peft can run the model's adapter beside others: plain LoRA, not DoRA, and nothing else replaced."""
    from peft import PeftType
    from peft.tuners.lora import LoraLayer

    config = model.peft_config[OWN]
    if config.peft_type != PeftType.LORA or config.modules_to_save or config.trainable_token_indices:
        return False
    return not any(layer.lora_variant for layer in model.modules() if isinstance(layer, LoraLayer))


class MixableModel(LanguageModel):
    """A language model with one plain LoRA adapter on a shared base."""

    def mixes_with(self, other: Adapted) -> bool:
        """Whether the other is the same base in memory, bare or with an adapter that can be mixed."""
        if not isinstance(other, LanguageModel):
            return False
        bare = type(other) is LanguageModel and not hasattr(other.model, "peft_config")
        return (bare or isinstance(other, MixableModel)) and _base(other.model) == _base(self.model)

    def generate_mixed(
        self,
        prompts: Sequence[Any],
        models: Sequence[Adapted],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        tick: Callable[[], None] | None = None,
    ) -> list[str]:
        """One answer a prompt, by the model beside it."""
        others = [m for m in dict.fromkeys(models) if isinstance(m, MixableModel) and m is not self]
        names: dict[Adapted, str] = {self: OWN, **{model: f"other{i}" for i, model in enumerate(others)}}
        joint = _joint(self.model, {names[model]: model.model for model in others})
        rows = _Rows(joint, self.tokenizer, [names.get(model, BARE) for model in models], self.batch_size)
        return rows.generate(
            prompts, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed, tick=tick
        )


def _base(model: PreTrainedModel) -> set[int]:
    """The tensors of a model without those of its LoRA adapter."""
    tensors = itertools.chain(model.named_parameters(), model.named_buffers())
    return {id(tensor) for name, tensor in tensors if "lora_" not in name}


def _joint(first: Any, others: Mapping[str, Any]) -> Any:
    """A model with the adapters of several models on one base; it shares every tensor with them.

    Args:
        first: its adapter keeps its name.
        others: name -> model.
    """
    from peft.tuners.lora import LoraLayer

    with quiet_libraries():
        joint: Any = shell(first)
        for name, model in others.items():
            config = copy.deepcopy(model.peft_config[OWN])
            config.init_lora_weights = True  # some other starts change the base, which all runs share
            joint.add_adapter(name, config, low_cpu_mem_usage=True)
            for path, layer in model.named_modules():
                if isinstance(layer, LoraLayer):
                    place = joint.get_submodule(path)
                    place.lora_A[name], place.lora_B[name] = layer.lora_A[OWN], layer.lora_B[OWN]
    return joint.requires_grad_(False)


class _Rows(LanguageModel):
    """A model with several adapters, and the name of each prompt's own."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, names: Sequence[str], batch_size: int
    ) -> None:
        super().__init__(model, tokenizer, batch_size)
        self._names = names
        seen: Counter[str] = Counter()
        self._places = []
        for name in names:
            self._places.append(seen[name])
            seen[name] += 1

    def place(self, index: int) -> int:
        """The prompt's place among those of its own adapter."""
        return self._places[index]

    def arguments(self, batch: Sequence[int]) -> dict[str, Any]:
        """The adapter of each row."""
        return {"adapter_names": [self._names[i] for i in batch]}
