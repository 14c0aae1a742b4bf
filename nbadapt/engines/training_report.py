"""Tells of a training what its user should see: the Trainer's callbacks as events."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from nbadapt import store
from nbadapt.engines.tokens import as_text
from nbadapt.engines.trainer import LengthGroupedSampler, no_number
from nbadapt.engines.training_config import steps_per_epoch
from nbadapt.errors import ModelError, Stopped, first_line
from nbadapt.events import Checkpoint, Metric, Progress, Sample, Stage
from nbadapt.memory import out_of_memory
from nbadapt.models import release_cached_memory
from nbadapt.steering import Steering, offer

if TYPE_CHECKING:
    from nbadapt.engines.supervised import Answer
    from nbadapt.engines.training_config import TrainingConfig
    from nbadapt.method import Emit, Job, Task

SAVE_SECONDS = 60.0  # a checkpoint at least this often, where the user set no save_steps


CLASSIFICATION = MappingProxyType({"accuracy": "accuracy", "macro_f1": "macro_f1"})

Shown = tuple[str, str, str | None]
"""A held-out row as a sample tells of it: what was asked, what the model says, what was expected."""

Show = Callable[[Sequence[Mapping[str, Any]], Callable[[], None]], Iterable[Shown]]
"""Held-out rows, and what may be called to let Stop through -> what to show of them."""


def answered(answer: Answer, task: Task) -> Show:
    """Rows as a model answers them that classifies or writes."""
    columns = {"classification": ("text", "label"), "text": ("text", ""), "preference": ("prompt", "chosen")}
    source, target = columns.get(task, ("prompt", "completion"))

    def show(rows: Sequence[Mapping[str, Any]], tick: Callable[[], None]) -> Iterable[Shown]:
        asked = [row[source] for row in rows]
        try:
            said = answer(asked, tick)
        except Exception as error:
            if not _is_no_reason_to_end(error):
                raise
            said = []
        if not said:  # here the error's frames are gone, and with them the memory they held
            gc.collect()
            release_cached_memory()
            said = [_answered_alone(answer, prompt, tick) for prompt in asked]
        return [(as_text(row[source]), text, row.get(target)) for row, text in zip(rows, said, strict=True)]

    return show


def _answered_alone(answer: Answer, prompt: Any, tick: Callable[[], None]) -> str:
    try:
        return answer([prompt], tick)[0]
    except Exception as error:
        if not _is_no_reason_to_end(error):
            raise
        return f"(not answered: {'memory ran out' if out_of_memory(error) else first_line(error)})"


def _is_no_reason_to_end(error: Exception) -> bool:
    """A prompt fills the context by itself, or all at once the memory: a training is not lost for its samples."""
    return isinstance(error, ModelError) or out_of_memory(error)


class TrainingReporter(TrainerCallback):  # type: ignore[misc]  # transformers' class is untyped
    """Turns the Trainer's callbacks into events, and decides when to evaluate, to save and to stop.

    Args:
        job: its config is a TrainingConfig.
        emit: told of everything.
        sampler: what draws the training rows.
        show: what to show of a few held-out rows.
        figures: what the Trainer calls a figure beside the loss -> what the user reads, where it is told.

    Attributes:
        figures: the latest ones, for the outcome.
        between_steps: whether no gradient is half computed.
        ends_at_epoch: set it to end the training with the epoch.
        ended: why the training ended before its last step, where that was set.
        steering: offered to the user when the training begins.
    """

    def __init__(
        self,
        job: Job,
        emit: Emit,
        sampler: LengthGroupedSampler,
        show: Show,
        figures: Mapping[str, str] = CLASSIFICATION,
    ) -> None:
        self._job, self._emit, self._sampler, self._show, self._names = job, emit, sampler, show, figures
        self._config: TrainingConfig = job.config
        self._per_epoch = steps_per_epoch(self._config, len(sampler))
        self._saved_at = time.monotonic()
        self._evaluates = job.evaluation is not None
        self.figures: dict[str, float] = {}
        self.between_steps = True
        self.ends_at_epoch = False  # a person wants it to
        self.ended = ""
        self.steering: Steering | None = None

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The order of the rows is this epoch's, also where a resumed run begins in it."""
        self._sampler.epoch = state.global_step // self._per_epoch

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """From here on there is something to steer."""
        offer(self._emit, self.steering)

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Gradients come."""
        self.between_steps = False

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Tell of the step; decide what follows it."""
        step, last = state.global_step, state.global_step >= state.max_steps
        self.between_steps = True
        epoch_ends = step % self._per_epoch == 0
        due = step % self._config.eval_steps == 0 if self._config.eval_steps else epoch_ends
        control.should_evaluate = self._evaluates and (due or last)
        control.should_save = not last and self._must_save(step, epoch_ends)
        try:
            self._emit(self._progress(state))
        except Stopped:
            control.should_training_stop = control.should_save = True
            control.should_evaluate = False
        else:
            if self.ends_at_epoch and epoch_ends and not last:
                control.should_training_stop = control.should_save = True
                control.should_evaluate = self._evaluates
                self.ended = f"stopped at the end of epoch {step // self._per_epoch:,}, as asked"

    def _must_save(self, step: int, epoch_ends: bool) -> bool:
        if self._config.save_steps:
            return step % self._config.save_steps == 0
        return epoch_ends or time.monotonic() - self._saved_at > SAVE_SECONDS

    def _progress(self, state: TrainerState) -> Progress:
        rows = len(self._sampler)
        epochs, steps = divmod(state.global_step, self._per_epoch)
        per_step = self._config.batch_size * self._config.gradient_accumulation_steps
        examples = epochs * rows + min(steps * per_step, rows)
        return Progress(state.global_step, state.max_steps, state.epoch, examples, int(state.num_input_tokens_seen))

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, float], **_: Any) -> None:
        """Tell the figures of a step.

        Raises:
            RunError: they are no numbers.
        """
        state.log_history.clear()  # it is in the event log; here it would grow with every checkpoint
        if "loss" not in logs:
            return
        self.figures["train_loss"] = logs["loss"]
        shown = {**{name: name for name in ("loss", "learning_rate", "grad_norm")}, **self._names}
        values: dict[str, float] = {name: logs[key] for key, name in shown.items() if key in logs}
        self._emit(Metric(state.global_step, "train", values))
        for name, what in (("loss", "loss"), ("grad_norm", "gradient's norm")):
            if not math.isfinite(logs.get(name, 0.0)):
                raise no_number(what, logs[name], state.global_step, self._job)

    def on_prediction_step(self, *_: Any, **__: Any) -> None:
        """Let a Stop through between two batches of an evaluation."""
        self._emit(Stage("evaluating"))

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, metrics: dict[str, float], **_: Any
    ) -> None:
        """Tell the figures of an evaluation, and show some answers.

        Raises:
            RunError: the loss is no number.
        """
        names = {"loss": "loss", **self._names}
        values = {name: metrics[f"eval_{key}"] for key, name in names.items() if f"eval_{key}" in metrics}
        self.figures.update(values)
        self._emit(Metric(state.global_step, "evaluation", values))
        if not math.isfinite(values.get("loss", 0.0)):
            raise no_number("loss of the held-out rows", values["loss"], state.global_step, self._job)
        self._show_samples(state.global_step)
        self._emit(Stage("training"))
        epochs, rest = divmod(state.global_step, self._per_epoch)
        if self.ends_at_epoch and not self.ended and not rest and 0 < state.global_step < state.max_steps:
            control.should_training_stop = control.should_save = True  # asked for during this evaluation
            self.ended = f"stopped at the end of epoch {epochs:,}, as asked"

    def _show_samples(self, step: int) -> None:
        rows = self._job.evaluation.rows[: self._config.samples] if self._job.evaluation else ()
        if not rows:
            return
        for asked, said, expected in self._show(rows, lambda: self._emit(Stage("answering samples"))):
            self._emit(Sample(step, asked, said, expected))

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Mark a checkpoint that is whole, and tell of it."""
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        store.mark_complete(checkpoint)
        self._saved_at = time.monotonic()
        relative = checkpoint.relative_to(self._job.directory)
        self._emit(Checkpoint(state.global_step, relative.as_posix()))
