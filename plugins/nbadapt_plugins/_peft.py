"""What all methods that rest on a peft adapter share; a method adds its settings and its peft config."""

from __future__ import annotations

import contextlib
import copy
import shutil
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from nbadapt.capture import quiet_libraries
from nbadapt.engines.training_config import TrainingConfig
from nbadapt.errors import Stopped
from nbadapt.events import Stage
from nbadapt.method import Adapted, Emit, Estimate, Job, Method, Outcome

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from nbadapt.models import Head

ADAPTER = "artifacts/adapter"
TASK_TYPES = {"classification": "SEQ_CLS", "generation": "CAUSAL_LM", "text": "CAUSAL_LM"}


class AdapterConfig(TrainingConfig):
    """The settings that all methods with a frozen base share."""

    base_dropout: bool = Field(
        False, description="keep the dropout that the model's own layers have: slower, and the frozen base needs none"
    )


class PeftMethod(Method):
    """A method whose result is a peft adapter folder that plain ``PeftModel.from_pretrained`` loads."""

    requires = ("peft", "transformers")
    exports = frozenset({"peft", "merged", "script"})

    @abstractmethod
    def peft_config(self, model: PreTrainedModel, job: Job) -> PeftConfig:
        """The peft configuration for this model, which may be on the meta device.

        Raises:
            RequestError: a setting that the model cannot satisfy.
        """

    def estimate(self, job: Job) -> Estimate:
        """The exact parameters from a model on the meta device, and the predicted peak memory."""
        from nbadapt import models
        from nbadapt.engines import training_estimate

        model = models.skeleton(job.model, _head(job), job.labels).requires_grad_(False)
        return training_estimate.estimate(self._attach(model, job), job)

    def run(self, job: Job, emit: Emit) -> Outcome:
        """Train the adapter and save it as a peft adapter folder."""
        from nbadapt.engines import supervised

        emit(Stage("loading the model"))
        base, tokenizer = _load_base(job)
        base.config.use_cache = False  # a cache is for generating
        if not job.config.base_dropout:
            switch_off_dropout(base)
        model = self._attach(base, job)
        metrics = supervised.train(model, tokenizer, job, emit, _adapted(model, tokenizer, job).answer)
        with contextlib.suppress(Stopped):  # what was trained is saved, whenever Stop was pressed
            emit(Stage("saving"))
        _save(model, job.directory / ADAPTER)
        return Outcome(metrics=metrics, artifacts={"adapter": ADAPTER})

    def load(self, outcome: Outcome, job: Job) -> Adapted:
        """The base model with the stored adapter on it."""
        base, tokenizer = _load_base(job)
        adapted: Adapted = _adapted(_with_adapter(base, job.directory / outcome.artifacts["adapter"]), tokenizer, job)
        return adapted

    def export(self, kind: str, outcome: Outcome, job: Job, target: Path) -> None:
        """Write "peft": the adapter folder; "merged": a whole model; "script": a plain transformers script."""
        from nbadapt_plugins import _script

        adapter = job.directory / outcome.artifacts["adapter"]
        if kind == "peft":
            shutil.copytree(adapter, target, dirs_exist_ok=True)
        elif kind == "merged":
            base, tokenizer = _load_base(job)
            _own_weights(base)
            merged: PreTrainedModel = _with_adapter(base, adapter).merge_and_unload()
            merged.to(base.dtype).save_pretrained(target)
            tokenizer.save_pretrained(target)
        else:
            from nbadapt import models

            skeleton = models.skeleton(job.model, _head(job), job.labels)
            _script.write(self.peft_config(skeleton, job), skeleton, job, target)

    def _attach(self, model: PreTrainedModel, job: Job) -> PeftModel:
        import torch
        from peft import get_peft_model

        with torch.random.fork_rng(devices=_cuda_devices(job)), quiet_libraries():
            torch.manual_seed(job.seed)
            return get_peft_model(model, self.peft_config(model, job))


def switch_off_dropout(model: torch.nn.Module) -> None:
    """Set every dropout probability in a model to zero: those of its Dropout modules and those of its attention."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def _head(job: Job) -> Head:
    return "classification" if job.task == "classification" else "causal"


def _cuda_devices(job: Job) -> list[str]:
    return [job.device] if job.device.startswith("cuda") else []


def _load_base(job: Job) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from nbadapt import models

    if job.task == "classification":
        return models.load_classifier(job.model, job.labels, job.device, job.dtype, job.seed)
    return models.load(job.model, job.device, job.dtype)


def _with_adapter(base: PreTrainedModel, folder: Path) -> PeftModel:
    from peft import PeftModel

    with quiet_libraries():
        return PeftModel.from_pretrained(base, folder).eval()


def _adapted(model: PeftModel, tokenizer: PreTrainedTokenizerBase, job: Job) -> Any:
    """The model as an Adapted for its task; each has `answer`, for samples."""
    if job.task == "classification":
        from nbadapt.engines.classify import Classifier

        return Classifier(model, tokenizer, job.config.max_length)
    from nbadapt.engines.generate import LanguageModel

    return LanguageModel(model, tokenizer)


def _own_weights(model: PreTrainedModel) -> None:
    """Give the model weights of its own, before something changes them: the base is shared."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            owned = copy.deepcopy(parameter)
            setattr(module, name, owned)


def _save(model: PeftModel, folder: Path) -> None:
    """Write the adapter so that the folder is there whole, or not at all."""
    from nbadapt import store

    with store.new_folder(folder) as temporary:
        model.save_pretrained(temporary)
