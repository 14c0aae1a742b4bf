"""Prefix tuning: learned keys and values before the text in every block (Li and Liang 2021, https://arxiv.org/abs/2101.00190).

::

    block l, frozen:        query of x_t  (B, heads, T, s)
                                 │ attends to
    [ K_1 ... K_P | keys of x_1 ... x_T ]       K, V  (B, heads of keys, P, s)  trained, for each of the L blocks
    [ V_1 ... V_P | values of x         ]

    without projection   [K, V] = E                                 E (P, 2 L d)
    with projection      [K, V] = tanh(e W_1 + b_1) W_2 + b_2       e (P, d), the network is thrown away afterwards

Sizes, for P virtual tokens, L blocks and d = heads of keys · size of a head:
    without projection   P · 2 L d
    with projection      P d + (d h + h) + (h · 2 L d + 2 L d)
the classification head, where there is one, is trained whole.

Random keys and values disturb every block, and what is learned from there stays poor. So the prefix starts as what
the frozen model itself computes for real tokens: at the start a language model with a prefix equals the base with
that text before the input. With projection W_2 and b_2 are solved so that the network gives the same keys and values;
where its inner size h is smaller than P there is no such network, and the prefix starts as the nearest it can give.

When to use it: to generate with a small result: a loss of 1.022 on school mathematics beside LoRA's 1.131, with half
its parameters.

When not: to classify where accuracy counts (0.763 on film reviews beside LoRA's 0.799); DistilBERT and T5 are
refused.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

from pydantic import Field

from nbadapt.errors import RequestError, UnsuitedError
from nbadapt.method import Estimate, Job
from nbadapt_plugins._prompt_learning import PromptLearningMethod, StartedConfig, as_script, start_text

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel


class PrefixTuningSettings(StartedConfig):
    """Settings of prefix tuning."""

    prefix_projection: bool = Field(False, description="let a small network make the keys and values while training")
    encoder_hidden_size: int | None = Field(
        None, ge=1, le=65_536, description="that network's inner size; none: the width of the model's keys"
    )
    learning_rate: float = Field(3e-2, gt=0, le=10, description="peak learning rate of AdamW")


class PrefixTuning(PromptLearningMethod):
    """Trains keys and values that stand before those of the text in every block."""

    name = "prefix-tuning"
    verb = "finetune"
    family = "Learned prompts"
    summary = "learned keys and values before the text in every block, started from real tokens"
    reference = "https://arxiv.org/abs/2101.00190"
    Config = PrefixTuningSettings
    in_every_block = True

    def prompt_config(self, model: PreTrainedModel, job: Job, shared: dict[str, Any]) -> PeftConfig:
        """A PrefixTuningConfig for a model that takes keys and values."""
        from peft import PrefixTuningConfig

        settings: PrefixTuningSettings = job.config
        if not any("past_key_values" in inspect.signature(m.forward).parameters for m in (model, model.base_model)):
            raise UnsuitedError(
                f"prefix-tuning does not work with {model.config.model_type}, which takes no keys and values"
            )
        if settings.encoder_hidden_size and not settings.prefix_projection:
            raise RequestError("encoder_hidden_size is the projection's: add prefix_projection: true, or drop it")
        return PrefixTuningConfig(
            **shared,
            prefix_projection=settings.prefix_projection,
            encoder_hidden_size=settings.encoder_hidden_size,
        )

    def estimate_with(self, job: Job) -> tuple[Estimate, PreTrainedModel]:
        """As for every trained method; a network too narrow for its start is told."""
        found, model = super().estimate_with(job)
        config = model.active_peft_config
        narrow = config.prefix_projection and config.encoder_hidden_size < config.num_virtual_tokens
        if not narrow or job.config.init == "random":
            return found, model
        note = (
            f"encoder_hidden_size ({config.encoder_hidden_size:,}) is below num_virtual_tokens "
            f"({config.num_virtual_tokens:,}): the prefix starts near the real keys and values, not as them"
        )
        return dataclasses.replace(found, notes=(*found.notes, note)), model

    def attach(self, model: PreTrainedModel, job: Job) -> PeftModel:
        """The model with a new prefix, started from real tokens unless it is on the meta device."""
        prefixed = super().attach(model, job)
        if prefixed.device.type != "meta" and job.config.init != "random":
            start_from_tokens(prefixed, _start_tokens(job))
        return prefixed

    def script_start(self, model: PreTrainedModel, job: Job) -> str:
        """The same start, from the same tokens."""
        return "" if job.config.init == "random" else as_script(start_from_tokens, _start_tokens(job))


def _start_tokens(job: Job) -> list[int]:
    """The tokens that the prefix starts from: a text over and over, or drawn from the vocabulary by the seed."""
    import random

    from nbadapt import models, pretrained

    settings: PrefixTuningSettings = job.config
    tokenizer = pretrained.load_tokenizer(models.base_ref(job.model))
    count = settings.num_virtual_tokens
    if settings.init == "vocab":
        plain = sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))
        return random.Random(job.seed).choices(plain, k=count)  # noqa: S311 - a start, no secret
    ids: list[int] = tokenizer(start_text(settings, job))["input_ids"]
    return (ids * count)[:count]


def start_from_tokens(model: Any, ids: list[int]) -> None:
    """Make the prefix the keys and values that the frozen base computes for these tokens."""
    import torch
    from transformers import DynamicCache

    base, encoder, cache = model.get_base_model(), model.prompt_encoder["default"], DynamicCache()
    training = base.training
    base.eval()
    with torch.no_grad():
        tokens = torch.tensor([ids], device=model.device)
        base.base_model(input_ids=tokens, past_key_values=cache, use_cache=True)
        kept = [both[0] for layer in cache.layers for both in (layer.keys, layer.values)]  # each (heads, P, s)
        wanted = torch.cat([both.transpose(0, 1).flatten(1) for both in kept], dim=1).float()  # (P, 2 L d)
        if not encoder.prefix_projection:
            encoder.embedding.weight.copy_(wanted)
        else:  # solve inner W_2 = wanted - b_2, of all solutions the smallest
            inner = encoder.transform[:-1](encoder.embedding.weight).double().cpu()  # (P, h)
            middle = wanted.mean(0)
            solved = torch.linalg.pinv(inner) @ (wanted - middle).double().cpu()  # (h, 2 L d)
            encoder.transform[-1].weight.copy_(solved.T)
            encoder.transform[-1].bias.copy_(middle)
    base.train(training)
