"""Steering of PPO: what a person asks of the policy while it learns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nbadapt.engines.live import Keep, ModelSteering
from nbadapt.method import Outcome

if TYPE_CHECKING:
    from nbadapt.engines.ppo import PpoTrainer


class PpoSteering(ModelSteering):
    """Steers a `PpoTrainer`."""

    def __init__(self, trainer: PpoTrainer, keep: Keep | None) -> None:
        super().__init__(trainer.model, trainer.language, keep)
        self._trainer = trainer
        self.room = min(self.room, trainer.config.max_new_tokens)  # what lies beyond it is never learned

    @property
    def step(self) -> int:
        """Whole steps: answers drawn, judged and learned from."""
        return self._trainer.done

    @property
    def ended(self) -> str:
        """Set by the trainer."""
        return self._trainer.ended

    @property
    def ready(self) -> bool:
        """Not while it learns, nor while the adapter is off."""
        return self._trainer.between_steps

    def save(self, folder: Path) -> Outcome:
        """A checkpoint, and the policy's adapter."""
        self._trainer.save()
        return self.kept(folder, self._trainer.latest_figures())

    def rate(self) -> float:
        """That of the policy."""
        return float(self._trainer.optimizer.param_groups[0]["lr"])

    def scale_rate(self, factor: float) -> None:
        """That of the value head is scaled alike."""
        self._trainer.scale_rate(factor)

    def end_at_epoch(self, on: bool) -> None:
        """The trainer sees to it when all prompts were asked."""
        self._trainer.ends_at_epoch = on
