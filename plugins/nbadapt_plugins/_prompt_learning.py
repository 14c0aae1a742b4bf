"""What the methods share that learn tokens, or keys and values, which stand before the text (peft's prompt learning).

peft leaves three things to its caller, done here: sizes of architectures that it does not know; a classifier
that takes the last column of a padded batch; and positions behind left padding.
"""

from __future__ import annotations

import dataclasses
import inspect
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from nbadapt.errors import RequestError, UnsuitedError
from nbadapt.method import Estimate, Job
from nbadapt_plugins._peft import TASK_TYPES, PeftMethod
from nbadapt_plugins._trained import FrozenBaseConfig

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel

SHORTEST = 8  # tokens of text that must have room behind the virtual ones; also the least that max_length may be


class VirtualTokensConfig(FrozenBaseConfig):
    """The settings that all methods with virtual tokens share."""

    num_virtual_tokens: int = Field(
        20, ge=1, le=4096, description="learned tokens before the text; each takes one of the model's positions"
    )


class StartedConfig(VirtualTokensConfig):
    """The settings of methods whose virtual tokens start as real ones."""

    init: Literal["text", "vocab", "random"] = Field(
        "text",
        description="what the virtual tokens start as: text (init_text, repeated), vocab (tokens drawn at random), "
        "or random numbers, which learn more slowly",
    )
    init_text: str | None = Field(
        None, min_length=1, description="the text to start from; none: a short instruction that names the task"
    )


class PromptLearningMethod(PeftMethod):
    """A method that learns something which stands before the text; nothing to merge."""

    exports = frozenset({"peft", "script"})
    in_every_block: ClassVar[bool] = False  # keys and values there, not embeddings at the input

    @abstractmethod
    def prompt_config(self, model: PreTrainedModel, job: Job, shared: dict[str, Any]) -> PeftConfig:
        """The peft configuration; `shared` are the arguments that every kind of it takes."""

    def peft_config(self, model: PreTrainedModel, job: Job) -> PeftConfig:
        """The peft configuration, with sizes that peft does not find in every architecture."""
        text = model.config.get_text_config()
        if getattr(model.config, "is_encoder_decoder", False):  # its forward pass looks for the last token's id
            raise UnsuitedError(f"{self.name} does not work with {text.model_type}, whose classifier takes tokens only")
        _check_room(model, job.config.num_virtual_tokens)
        if getattr(job.config, "init_text", None) is not None and job.config.init != "text":
            raise RequestError(f"init_text is what `init: text` starts from, and init is {job.config.init}: drop one")
        shared = {
            "task_type": TASK_TYPES[job.task],
            "num_virtual_tokens": job.config.num_virtual_tokens,
            "token_dim": model.get_input_embeddings().embedding_dim,
            "num_layers": text.num_hidden_layers,
            "num_attention_heads": text.num_attention_heads,
        }
        return self.prompt_config(model, job, shared)

    def estimate(self, job: Job) -> Estimate:
        """As for every trained method; what is stored is what the prompt encoder makes, not the encoder."""
        estimate, model = self.estimate_with(job)
        config = model.active_peft_config
        encoder = sum(p.numel() for p in model.prompt_encoder.parameters())
        made = config.num_virtual_tokens * config.token_dim * (2 * config.num_layers if self.in_every_block else 1)
        return dataclasses.replace(estimate, artifact=4 * (estimate.trainable - encoder + made))


class SoftPromptMethod(PromptLearningMethod):
    """A method whose virtual tokens are embeddings before those of the text."""

    def attach(self, model: PreTrainedModel, job: Job) -> PeftModel:
        """The model with new virtual tokens before the text."""
        return _completed(super().attach(model, job))

    def restore(self, model: PreTrainedModel, folder: Path, job: Job) -> PeftModel:
        """The model with the virtual tokens of a folder before the text."""
        return _completed(super().restore(model, folder, job))

    def script_start(self, model: PreTrainedModel, job: Job) -> str:
        """A classifier of the last token needs to know which one that is."""
        if not takes_last_token(model):
            return ""
        return as_script(keep_last_token)


def _check_room(model: PreTrainedModel, virtual: int) -> None:
    from nbadapt.engines.encoding import length_limit

    room = length_limit(model.config, None, virtual)
    if room < SHORTEST:
        raise RequestError(
            f"num_virtual_tokens: {virtual} leave no room for text, {model.config.model_type} has "
            f"{room + virtual} positions: use at most {room + virtual - SHORTEST}"
        )


def start_text(settings: StartedConfig, job: Job) -> str:
    """The text that the virtual tokens start from."""
    if settings.init_text is not None:
        return settings.init_text
    if job.task == "classification":
        return f"Classify the text as {' or '.join(job.labels)}:"
    return "Follow the instruction and give the answer:" if job.task == "generation" else "Continue the text:"


def as_script(function: Callable[..., None], *arguments: Any) -> str:
    """Lines of a script that call a function of ours, which needs nothing but `Any`, on its `model`."""
    given = ", ".join(["model", *map(repr, arguments)])
    return f"\nfrom typing import Any\n\n\n{inspect.getsource(function)}\n\n{function.__name__}({given})\n"


def _completed(model: PeftModel) -> PeftModel:
    """Mend what peft leaves undone with virtual tokens before a padded text."""
    if takes_last_token(model.get_base_model()):
        keep_last_token(model)
    elif hasattr(model, "base_model_prepare_inputs_for_generation"):
        _count_positions(model)
    return model


def takes_last_token(model: PreTrainedModel) -> bool:
    """Whether a model classifies by its last token, as transformers' decoders do; all call that head `score`."""
    return hasattr(model, "score")


def keep_last_token(model: Any) -> None:
    """Leave a classifier that is given embeddings only each row's last token: it would take the padding's."""
    import torch

    def hook(_module: Any, _inputs: Any, given: dict[str, Any], output: Any) -> Any:
        mask = given.get("attention_mask")
        if mask is not None and given.get("inputs_embeds") is not None:
            columns = torch.arange(mask.shape[1], device=mask.device)
            last = (mask * columns).argmax(1)  # (B,)
            rows = torch.arange(len(last), device=mask.device)
            output.last_hidden_state = output.last_hidden_state[rows, last].unsqueeze(1)  # (B, 1, d)
        return output

    model.get_base_model().base_model.register_forward_hook(hook, with_kwargs=True)


def _count_positions(model: PeftModel) -> None:
    """Give generation the positions of real tokens; peft drops them, so that left padding would count."""
    plain, prompted = model.base_model_prepare_inputs_for_generation, model.prepare_inputs_for_generation

    def without_positions(*args: Any, **kwargs: Any) -> dict[str, Any]:
        inputs: dict[str, Any] = plain(*args, **kwargs)
        inputs.pop("position_ids", None)  # peft would warn that it drops them
        return inputs

    def prepare(*args: Any, **kwargs: Any) -> dict[str, Any]:
        inputs: dict[str, Any] = prompted(*args, **kwargs)
        mask, embedded = inputs.get("attention_mask"), inputs.get("inputs_embeds")  # mask: (B, virtual + T)
        if mask is not None:
            width = (inputs["input_ids"] if embedded is None else embedded).shape[1]
            inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -width:]
        return inputs

    model.base_model_prepare_inputs_for_generation = without_positions
    model.prepare_inputs_for_generation = prepare
