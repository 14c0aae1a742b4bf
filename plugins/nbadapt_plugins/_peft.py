"""What all methods that rest on a peft adapter share; a method adds its settings and its peft config."""

from __future__ import annotations

import shutil
import warnings
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from nbadapt.capture import quiet_libraries
from nbadapt.heads import head_modules
from nbadapt.method import Adapted, Job, Outcome
from nbadapt_plugins._trained import TrainedMethod, adapted, base_as_stored, load_base, seeded, skeleton

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel

TASK_TYPES = {
    "classification": "SEQ_CLS",
    "generation": "CAUSAL_LM",
    "preference": "CAUSAL_LM",
    "text": "CAUSAL_LM",
}
"""Task -> what peft calls it."""


class PeftMethod(TrainedMethod):
    """A method whose result is a peft adapter folder that plain ``PeftModel.from_pretrained`` loads."""

    requires: ClassVar[tuple[str, ...]] = ("peft", "transformers")
    exports = frozenset({"peft", "merged", "script"})

    @abstractmethod
    def peft_config(self, model: PreTrainedModel, job: Job) -> PeftConfig:
        """The peft configuration for this model, which may be on the meta device.

        Raises:
            RequestError: a setting that the model cannot satisfy.
        """

    def attach(self, model: PreTrainedModel, job: Job) -> PeftModel:
        """The model with a new adapter on it."""
        from peft import get_peft_model

        with seeded(job), quiet_libraries():
            return get_peft_model(model, self._config_with_head(model, job))

    def _config_with_head(self, model: PreTrainedModel, job: Job) -> PeftConfig:
        config = self.peft_config(model, job)
        if job.task == "classification":
            config.modules_to_save = head_modules(model)
        return config

    def save(self, model: PeftModel, folder: Path) -> None:
        """Write a peft adapter folder."""
        model.save_pretrained(folder)

    def restore(self, model: PreTrainedModel, folder: Path, job: Job) -> PeftModel:
        """The model with the adapter of a folder on it."""
        from peft import PeftModel

        with quiet_libraries():
            return PeftModel.from_pretrained(model, folder)

    def load(self, outcome: Outcome, job: Job) -> Adapted:
        """The adapted model; one of LoRA can share its batches with others on the same base."""
        from nbadapt_plugins import _mixed

        model, tokenizer = self.restored(outcome, job)
        if job.task != "classification" and _mixed.mixable(model):
            return _mixed.MixableModel(model, tokenizer)
        result: Adapted = adapted(model, tokenizer, job)
        return result

    def export(self, kind: str, outcome: Outcome, job: Job, target: Path) -> None:
        """Write "peft": the adapter folder; "merged": a whole model; "script": a plain transformers script."""
        from nbadapt import pretrained
        from nbadapt_plugins import _script

        adapter = job.directory / outcome.artifacts["adapter"]
        if kind == "peft":
            shutil.copytree(adapter, target, dirs_exist_ok=True)
        elif kind == "merged":
            base = self.mergeable(job)
            with warnings.catch_warnings():  # in 4 bits GPT-2's weights lay the other way round; peft sees to it
                warnings.filterwarnings("ignore", "fan_in_fan_out is set to False")
                model = self.restore(base, adapter, job)
            _unwrap_heads(model.get_base_model())
            merged: PreTrainedModel = model.merge_and_unload()
            merged.to(base.dtype).save_pretrained(target)
            pretrained.load_tokenizer(job.model).save_pretrained(target)
        else:
            shape = skeleton(job)
            _script.write(self._config_with_head(shape, job), shape, job, target, self.script_start(shape, job))

    def mergeable(self, job: Job) -> PreTrainedModel:
        """The base for a merge to change: with weights of its own, in the type that its files have."""
        return base_as_stored(load_base, job)

    def script_start(self, model: PreTrainedModel, job: Job) -> str:
        """Lines that an exported script needs between putting the adapter on `model` and training it.

        They may set `optimizer`, which is the Trainer's own otherwise.
        """
        return ""


def _unwrap_heads(model: PreTrainedModel) -> None:
    """Put the trained heads in the place of peft's wrappers; merging IA3, peft asks them for a weight of their own."""
    from peft.utils import ModulesToSaveWrapper

    for name, child in list(model.named_children()):
        if isinstance(child, ModulesToSaveWrapper):
            setattr(model, name, child.unload_and_optionally_merge_module(True, False, None))
