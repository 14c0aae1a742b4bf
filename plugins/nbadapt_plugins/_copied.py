"""What methods share that train some of the model's own parameters, on copies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nbadapt.capture import quiet_libraries
from nbadapt.method import Job, Outcome
from nbadapt_plugins._trained import TrainedMethod, base_as_stored

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class CopiedMethod(TrainedMethod):
    """A method whose result is the new values of some parameters: a safetensors file under the model's own names."""

    exports = frozenset({"merged"})

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write the trained values."""
        from nbadapt_plugins import _copies

        _copies.save(model, folder, {"method": self.name, "model_type": model.config.model_type})

    def restore(self, model: PreTrainedModel, folder: Path, job: Job) -> PreTrainedModel:
        """The model with the trained values in it."""
        from nbadapt_plugins import _copies

        _copies.put_back(model, folder)
        return model

    def export(self, kind: str, outcome: Outcome, job: Job, target: Path) -> None:
        """Write "merged": a whole transformers model with the trained values in it, typed as the base's files."""
        from nbadapt import pretrained

        model = self.restore(base_as_stored(self.load_base, job), job.directory / outcome.artifacts["adapter"], job)
        for parameter in model.parameters():
            if parameter.dtype != model.dtype:  # a head, which no other run has
                parameter.data = parameter.data.to(model.dtype)
        with quiet_libraries():
            model.save_pretrained(target)
        pretrained.load_tokenizer(job.model).save_pretrained(target)
