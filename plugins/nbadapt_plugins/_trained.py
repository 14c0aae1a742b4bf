"""What all methods share that train part of a transformers model with gradients.

A method says what it puts on the model (`attach`), and how that is stored and put back (`save`, `restore`).
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from nbadapt import store
from nbadapt.engines.training_config import TrainingConfig
from nbadapt.errors import Stopped
from nbadapt.events import Stage
from nbadapt.method import ADVANCED, Adapted, Emit, Estimate, Job, Method, Outcome

if TYPE_CHECKING:
    import torch
    from torch.optim import Optimizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from nbadapt.engines.training_estimate import Objective
    from nbadapt.heads import Head

ADAPTER = "artifacts/adapter"


class FrozenBaseConfig(TrainingConfig):
    """The settings that all methods with a frozen base share."""

    base_dropout: bool = Field(
        False,
        description="keep the dropout that the model's own layers have: slower, and the frozen base needs none",
        json_schema_extra=ADVANCED,
    )


class TrainedMethod(Method):
    """A method that trains parameters on a shared, frozen base and stores them in a folder."""

    requires: ClassVar[tuple[str, ...]] = ("transformers",)
    tasks = frozenset({"classification", "generation", "text"})

    @abstractmethod
    def attach(self, model: PreTrainedModel, job: Job) -> PreTrainedModel:
        """The model with what is trained on it, which alone requires gradients; drawn from the job's seed.

        The model may be on the meta device. Its classification head, if any, is trainable already.

        Raises:
            RequestError: a setting that the model cannot satisfy.
        """

    @abstractmethod
    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write what was trained into an empty folder."""

    @abstractmethod
    def restore(self, model: PreTrainedModel, folder: Path, job: Job) -> PreTrainedModel:
        """The base model with what `save` wrote on it."""

    def optimizer(self, model: PreTrainedModel, job: Job) -> Optimizer | None:
        """The optimizer, where it is not AdamW with one learning rate for all."""
        return None

    def objective(self, model: PreTrainedModel, job: Job) -> Objective | None:
        """What a step computes for the estimate, where it is not the loss of the job's task."""
        return None

    def skeleton(self, job: Job) -> PreTrainedModel:
        """What `load_base` gives, on the meta device."""
        return skeleton(job)

    def load_base(self, job: Job) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The base model, frozen, with a head for the job's task, and its tokenizer."""
        return load_base(job)

    def estimate(self, job: Job) -> Estimate:
        """The exact parameters from a model on the meta device, and the predicted peak memory."""
        return self.estimate_with(job)[0]

    def estimate_with(self, job: Job) -> tuple[Estimate, PreTrainedModel]:
        """The estimate, and the adapted model on the meta device, whose shapes and configs tell the rest."""
        from nbadapt.engines import training_estimate

        base = self.skeleton(job)
        tensors = [*base.parameters(), *base.buffers()]
        if not getattr(job.config, "base_dropout", True):
            switch_off_dropout(base)
        model = self.attach(base, job)
        return training_estimate.estimate(model, job, tensors, self.objective(model, job)), model

    def run(self, job: Job, emit: Emit) -> Outcome:
        """Train, and save what was trained."""
        emit(Stage("loading the model"))
        base, tokenizer = self.load_base(job)
        if not getattr(job.config, "base_dropout", True):
            switch_off_dropout(base)
        model = self.attach(base, job)
        with _without_cache(base.config):
            metrics = self.train(model, tokenizer, job, emit)
        with contextlib.suppress(Stopped):  # what was trained is saved, whenever Stop was pressed
            emit(Stage("saving"))
        with store.new_folder(job.directory / ADAPTER) as folder:
            self.save(model, folder)
        return Outcome(metrics=metrics, artifacts={"adapter": ADAPTER})

    def train(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, job: Job, emit: Emit
    ) -> dict[str, float]:
        """Train what was attached; returns the last figures."""
        from nbadapt.engines import supervised

        live, optimizer = adapted(model, tokenizer, job), self.optimizer(model, job)
        return supervised.train(
            model, tokenizer, job, emit, live, optimizer=optimizer, keep=lambda folder: self.keep(model, folder)
        )

    def keep(self, model: PreTrainedModel, folder: Path) -> str:
        """Write what was trained, as it is while the training goes on; the name under which `load` looks for it."""
        self.save(model, folder)
        return "adapter"

    def load(self, outcome: Outcome, job: Job) -> Adapted:
        """The base model with what was stored on it."""
        model, tokenizer = self.restored(outcome, job)
        result: Adapted = adapted(model, tokenizer, job)
        return result

    def restored(self, outcome: Outcome, job: Job) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The adapted model, in evaluation mode, and its tokenizer."""
        base, tokenizer = self.load_base(job)
        return self.restore(base, job.directory / outcome.artifacts["adapter"], job).eval(), tokenizer


@contextlib.contextmanager
def _without_cache(config: Any) -> Iterator[None]:
    """Keys and values are for generating: none are kept inside, and a config saved later says what it said before."""
    used = getattr(config, "use_cache", None)
    if used:
        config.use_cache = False
    try:
        yield
    finally:
        if used:
            config.use_cache = used


def head_of(job: Job) -> Head:
    """The head that the job's task needs."""
    return "classification" if job.task == "classification" else "causal"


def skeleton(job: Job) -> PreTrainedModel:
    """The base model on the meta device, in the types that it is trained in; a classification head is trainable."""
    from nbadapt import pretrained

    return pretrained.skeleton(job.model, head_of(job), job.labels, job.dtype)


def load_base(job: Job) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model, with a head for the job's task, and its tokenizer."""
    from nbadapt import models

    if job.task == "classification":
        return models.load_classifier(job.model, job.labels, job.device, job.dtype, job.seed)
    return models.load(job.model, job.device, job.dtype)


def base_as_stored(load: Callable[[Job], tuple[PreTrainedModel, PreTrainedTokenizerBase]], job: Job) -> PreTrainedModel:
    """The base that `load` gives, in the type that its files have, whatever the run computes in.

    Its weights are its own, for an export to change, and no other run finds it loaded.
    """
    from nbadapt import models, pretrained

    with models.keeping_no_base():
        base, _ = load(dataclasses.replace(job, dtype=pretrained.stored_dtype(job.model)))
        own_weights(base)
    return base


def adapted(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, job: Job) -> Any:
    """The model as an Adapted for its task; each has `answer`, for samples."""
    if job.task == "classification":
        from nbadapt.engines.classify import Classifier

        return Classifier(model, tokenizer, job.config.max_length)
    from nbadapt.engines.generate import LanguageModel

    return LanguageModel(model, tokenizer)


@contextlib.contextmanager
def seeded(job: Job) -> Any:
    """Random numbers from the job's seed inside, the global random state as it was outside."""
    import torch

    with torch.random.fork_rng(devices=[job.device] if job.device.startswith("cuda") else []):
        torch.manual_seed(job.seed)
        yield


def switch_off_dropout(model: torch.nn.Module) -> None:
    """Set every dropout probability in a model to zero: those of its Dropout modules and those of its attention."""
    for module in model.modules():
        switch_off_own_dropout(module)


def switch_off_own_dropout(module: torch.nn.Module) -> None:
    """Set the dropout probabilities of one module to zero, not those of the modules inside it."""
    import torch

    if isinstance(module, torch.nn.Dropout):
        module.p = 0.0
    for name, value in vars(module).items():
        if "drop" in name and isinstance(value, float):
            setattr(module, name, 0.0)


def own_weights(model: torch.nn.Module) -> None:
    """Give the model weights of its own, before something changes them: the base is shared."""
    owned: dict[int, torch.nn.Parameter] = {}  # a weight that two modules tie stays one weight
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in owned:
                owned[id(parameter)] = copy.deepcopy(parameter)
            setattr(module, name, owned[id(parameter)])
