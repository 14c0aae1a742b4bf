"""What a person did while a run went on, as lines of its exported script: the script then goes the same way.

What has no part in the result, a pause or a prompt that was asked on the way, is told in a comment.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from nbadapt import store
from nbadapt.events import Checkpoint, Event, Progress, StateChange
from nbadapt.history import History
from nbadapt.widgets.controls import line
from nbadapt.widgets.summary import duration
from nbadapt.widgets.texts import clip

if TYPE_CHECKING:
    from nbadapt.method import Job

PROMPT_BYTES = 400  # of a prompt in a comment
COURSE = '''
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
    events = store.read_events(job.directory)
    history = History(events)
    rates: dict[int, list[float]] = {}
    for change in history.changes:
        if change.what == "learning_rate":
            rates.setdefault(change.step, []).append(change.factor)
    said = [(change.step, line(change)) for change in history.changes]
    said += [(reply.step, _asked(reply.step, reply.prompt)) for reply in history.replies]
    said += [(step, f"after step {step:,}: paused{_for(seconds)}") for step, seconds in _pauses(events)]
    end, progress = None, history.progress
    if progress is not None and progress.step < progress.total and history.state == "stopped":
        end = progress.step
        said.append((end, f"after step {end:,}: {history.reason or 'stopped'}"))
    if not said:
        return ""
    told = "".join(f"\n# {' '.join(text.split())}" for _, text in sorted(said, key=lambda pair: pair[0]))
    return told + (COURSE.format(rates=rates, end=end) if rates or end is not None else "\n")


def _asked(step: int, prompt: str) -> str:
    """A prompt in one line, whatever it holds."""
    return f"after step {step:,}: asked {json.dumps(clip(prompt, PROMPT_BYTES), ensure_ascii=False)}"


def _for(seconds: float | None) -> str:
    return "" if seconds is None else f" for {duration(seconds)}"


def _pauses(events: Iterable[tuple[float, Event]]) -> list[tuple[int, float | None]]:
    """The pauses of a run: after how many steps, and how many seconds, where it went on.

    What comes after the checkpoint that a run was resumed from has no part in it any more.
    """
    found: list[tuple[int, float | None]] = []
    step, kept, began = 0, 0, None
    for time, event in events:
        match event:
            case Progress():
                step = event.step
            case Checkpoint():
                kept = event.step
            case StateChange(state="starting"):
                step, began = kept, None
                found = [pause for pause in found if pause[0] <= kept]
            case StateChange(state="paused"):
                began = time
                found.append((step, None))
            case StateChange() if began is not None:
                found[-1] = step, time - began
                began = None
    return found
