"""What a person changed while a run went on, as lines of its exported script: the script then goes the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbadapt import store
from nbadapt.history import History
from nbadapt.widgets.controls import line

if TYPE_CHECKING:
    from nbadapt.method import Job

COURSE = '''
{said}
from transformers import TrainerCallback

RATES = {rates!r}  # steps done -> what the rest of the learning rate's schedule is multiplied by
END = {end!r}  # steps after which the training ends; None: after the last one


class AsItWent(TrainerCallback):
    """Repeats after the same steps what was changed while the run went on."""

    def on_step_begin(self, args, state, control, optimizer=None, lr_scheduler=None, **_):
        for factor in RATES.get(state.global_step, []):
            for group in optimizer.param_groups:
                group["lr"] *= factor
                group["initial_lr"] *= factor
            lr_scheduler.base_lrs = [rate * factor for rate in lr_scheduler.base_lrs]

    def on_step_end(self, args, state, control, **_):
        if state.global_step == END:
            control.should_training_stop = True


trainer.add_callback(AsItWent())
'''


def course(job: Job) -> str:
    """Lines to stand before the trainer of a script starts; "" where the run went as it was set up."""
    history = History(store.read_events(job.directory))
    rates: dict[int, list[float]] = {}
    for change in history.changes:
        if change.what == "learning_rate":
            rates.setdefault(change.step, []).append(change.factor)
    said = [line(change) for change in history.changes]
    end, progress = None, history.progress
    if progress is not None and progress.step < progress.total and history.state == "stopped":
        end = progress.step
        said.append(f"after step {end:,}: {history.reason or 'stopped'}")
    if not said:
        return ""
    return COURSE.format(said="\n".join(f"# {' '.join(text.split())}" for text in said), rates=rates, end=end)
