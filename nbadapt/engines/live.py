"""Steering of trainings: what a person asks of a model while it learns, without a trace in what it learns."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nbadapt.engines.generate import ANSWER_TOKENS
from nbadapt.method import Adapted, Outcome, Predictions
from nbadapt.steering import Steering, Tick

if TYPE_CHECKING:
    from nbadapt.engines.trainer import ResumableTrainer
    from nbadapt.engines.training_report import TrainingReporter

Keep = Callable[[Path], str]
"""Writes what was trained, as it is now, below a folder that exists; gives the name under which `load` looks for it."""

ANSWERS = ("generate", "predict")  # the abilities with which a model answers a prompt


@contextlib.contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """What happens inside leaves the random states and the modes of the model's modules as they were."""
    modes = [(module, module.training) for module in model.modules()]
    states = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if next(model.parameters()).device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for module, training in modes:
            module.training = training


class ModelSteering(Steering):
    """Steers the training of a model in memory.

    Args:
        model: what is trained.
        live: the model as it is now, ready to use; None: it answers nothing.
        keep: writes what was trained; None: only the run's end does.
    """

    def __init__(self, model: torch.nn.Module, live: Adapted | None, keep: Keep | None) -> None:
        self._model, self._live, self._keep = model, live, keep
        self.room = ANSWER_TOKENS  # of an answer
        able = [ability for ability in ANSWERS if live is not None and ability in live.abilities][:1]
        self.offered = frozenset({"learning_rate", "epoch_end", *able, *(["save"] if keep else [])})

    def generate(self, prompt: str, tick: Tick) -> str:
        """A short answer, the most probable token each time."""
        assert self._live is not None  # it is offered
        with undisturbed(self._model):
            (text,) = self._live.generate([prompt], max_new_tokens=self.room, tick=tick)
        return text

    def predict(self, text: str, tick: Tick) -> Predictions:
        """The class and its probabilities."""
        assert self._live is not None
        with undisturbed(self._model):
            return self._live.predict([text])

    def kept(self, folder: Path, metrics: dict[str, float]) -> Outcome:
        """What was trained, written into a folder."""
        assert self._keep is not None
        place = folder / "model"
        place.mkdir()
        with undisturbed(self._model):
            name = self._keep(place)
        return Outcome(metrics, {name: "model"})


class TrainerSteering(ModelSteering):
    """Steers a Trainer of transformers, or of a library that builds on it."""

    def __init__(
        self, trainer: ResumableTrainer, reporter: TrainingReporter, live: Adapted | None, keep: Keep | None
    ) -> None:
        super().__init__(trainer.model, live, keep)
        self._trainer, self._reporter = trainer, reporter

    @property
    def step(self) -> int:
        """Optimizer steps."""
        return int(self._trainer.state.global_step)

    @property
    def ended(self) -> str:
        """Set by the reporter."""
        return self._reporter.ended

    @property
    def ready(self) -> bool:
        """Not while gradients are computed."""
        return self._reporter.between_steps

    def save(self, folder: Path) -> Outcome:
        """A checkpoint, and what was trained."""
        self._trainer.save_checkpoint()
        return self.kept(folder, dict(self._reporter.figures))

    def rate(self) -> float:
        """That of the first group of parameters, which is what is drawn."""
        return float(self._trainer.optimizer.param_groups[0]["lr"])

    def scale_rate(self, factor: float) -> None:
        """Scale the schedule; a checkpoint of this step that is there already gets to know it too."""
        optimizer, scheduler = self._trainer.optimizer, self._trainer.lr_scheduler
        rates, bases = [(g["lr"], g["initial_lr"]) for g in optimizer.param_groups], scheduler.base_lrs
        scale(optimizer, scheduler, factor)
        try:
            self._trainer.save_again()
        except BaseException:  # then nothing has changed
            for group, (rate, first) in zip(optimizer.param_groups, rates, strict=True):
                group["lr"], group["initial_lr"] = rate, first
            scheduler.base_lrs = bases
            scheduler._last_lr = [rate for rate, _ in rates]
            raise

    def end_at_epoch(self, on: bool) -> None:
        """The reporter sees to it when the epoch ends."""
        self._reporter.ends_at_epoch = on


def scale(optimizer: Any, scheduler: Any, factor: float) -> None:
    """Multiply all learning rates from the next step on. The exported scripts do the same."""
    for group in optimizer.param_groups:
        group["lr"] *= factor
        group["initial_lr"] *= factor
    scheduler.base_lrs = [rate * factor for rate in scheduler.base_lrs]
    scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]  # what is told is the scaled one
