"""What may be asked of a run while it works, beside Pause and Stop, and how its worker answers.

::

    dashboard, %nbadapt, run.save() ──Wish──> Control ──> the runner's emit, in the worker ──> the engine's Steering
                                                              └── events: Change, Reply, Checkpoint

An engine hands a `Steering` to `offer` once it can be steered, and tells emit of its work as ever. Wishes are answered
inside emit, where the steering says that the work stands between two steps: also during a pause.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nbadapt.errors import RequestError
from nbadapt.events import Change, Event, Reply

if TYPE_CHECKING:
    from nbadapt.method import Emit, Outcome, Predictions

CONTROLS = ("save", "learning_rate", "epoch_end", "generate", "predict")
"""What a steering may offer; the last two are the abilities with which the model answers a prompt."""

LEAST_RATE, MOST_RATE = 1e-12, 10.0
MOST_FACTOR = 1e6
MOST_PROMPT = 20_000  # characters; what the model's context takes is less
_FACTOR = re.compile(r"^[x×*]\s*|\s*[x×]$")  # noqa: RUF001 - people type that sign

Record = Callable[[Event], None]
Tick = Callable[[], None]


class Steering(ABC):
    """An engine's part: what it lets a person do, done in the worker thread between two steps.

    Attributes:
        offered: words of `CONTROLS`; those functions below work.
    """

    offered: frozenset[str]

    @property
    def ended(self) -> str:
        """Why it ended its work before the last step, where it was asked to; such a run counts as stopped."""
        return ""

    @property
    @abstractmethod
    def step(self) -> int:
        """How many steps are done."""

    @property
    def ready(self) -> bool:
        """Whether the work stands between two steps. Where not, wishes wait, and so does a pause."""
        return True

    def save(self, folder: Path) -> Outcome:
        """Write a checkpoint of this step where those of the run are, and into `folder` what `Method.load` needs.

        Returns:
            An outcome whose artifacts are relative to that folder.
        """
        raise NotImplementedError

    def rate(self) -> float:
        """The learning rate of the next step."""
        raise NotImplementedError

    def scale_rate(self, factor: float) -> None:
        """Multiply the learning rates of all steps from the next one on; a checkpoint keeps that."""
        raise NotImplementedError

    def end_at_epoch(self, on: bool) -> None:
        """End the work with this epoch, evaluated and saved as at its end; or go on after all."""
        raise NotImplementedError

    def generate(self, prompt: str, tick: Tick) -> str:
        """What the model as it is now writes. Changes nothing: neither random state nor mode; `tick` may raise."""
        raise NotImplementedError

    def predict(self, text: str, tick: Tick) -> Predictions:
        """The class that the model as it is now finds, with probabilities. Changes nothing."""
        raise NotImplementedError


def offer(emit: Emit, steering: Steering | None, reason: str = "the training is over") -> None:
    """Let a person steer the run that `emit` tells of; None: no more, for this reason.

    Without effect where nobody listens, as in a test that collects events.
    """
    take = getattr(emit, "offer", None)
    if take is not None:
        take(steering, reason)


# ------------------------------------------------------------------------------------------------ what is asked


@dataclass(frozen=True)
class Save:
    """Keep the model as it is now, in a checkpoint to go on from and in a folder to use."""

    name: ClassVar[str] = "save"
    needs: ClassVar[frozenset[str]] = frozenset({"save"})
    does: ClassVar[str] = "save its model"

    def do(self, steering: Steering, directory: Path, record: Record, tick: Tick) -> tuple[Any, str]:
        """Save, and tell where."""
        from nbadapt import store

        if not steering.step:
            raise RequestError("no step is done yet: there is nothing to save")
        path = store.save_step(directory, steering.step, steering.save)
        relative = path.relative_to(directory).as_posix()
        record(Change(steering.step, "save", path=relative))
        return path, f"saved at step {steering.step:,}"


@dataclass(frozen=True)
class ChangeRate:
    """Go on with another learning rate: `rate` at the next step, or `factor` times what the schedule says.

    The rest of the schedule is scaled alike.

    Raises:
        RequestError: neither is a sensible number.
    """

    rate: float | None = None
    factor: float | None = None
    name: ClassVar[str] = "learning_rate"
    needs: ClassVar[frozenset[str]] = frozenset({"learning_rate"})
    does: ClassVar[str] = "change its learning rate"

    def __post_init__(self) -> None:
        if self.rate is not None and not LEAST_RATE <= self.rate <= MOST_RATE:
            raise RequestError(f"the learning rate is {self.rate:g}: give one from {LEAST_RATE:g} to {MOST_RATE:g}")
        if self.factor is not None and not 1 / MOST_FACTOR <= self.factor <= MOST_FACTOR:
            raise RequestError(f"the factor is {self.factor:g}: give one such as x0.5, above 0")

    @classmethod
    def parse(cls, text: str | float) -> ChangeRate:
        """A rate such as "1e-4", or a factor such as "x0.5".

        Raises:
            RequestError: it is no such number.
        """
        given = str(text).strip()
        plain = _FACTOR.sub("", given)
        try:
            number = float(plain.replace(",", ".") if plain.count(",") == 1 and "." not in plain else plain)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or isinstance(text, bool):
            shown = f"{given:.30}" if given else "empty"
            raise RequestError(f"the learning rate is {shown}: give a number such as 1e-4, or a factor such as x0.5")
        return cls(rate=number) if plain == given else cls(factor=number)

    def do(self, steering: Steering, directory: Path, record: Record, tick: Tick) -> tuple[Any, str]:
        """Scale the schedule, and tell by how much."""
        now = steering.rate()
        if self.factor is None and not now > 0:
            raise RequestError("the schedule's learning rate is 0 at the next step: give a factor such as x2")
        factor = self.factor if self.factor is not None else (self.rate or 0.0) / now
        if now * factor > MOST_RATE or 0 < now * factor < LEAST_RATE:
            raise RequestError(f"that makes {now * factor:.3g}: give one from {LEAST_RATE:g} to {MOST_RATE:g}")
        steering.scale_rate(factor)
        rate = steering.rate()
        record(Change(steering.step, "learning_rate", factor=factor, rate=rate))
        return rate, f"{rate:.3g} from step {steering.step + 1:,} on"


@dataclass(frozen=True)
class EndAtEpoch:
    """Stop when this epoch ends; not `on`: go on after all."""

    on: bool = True
    name: ClassVar[str] = "epoch_end"
    needs: ClassVar[frozenset[str]] = frozenset({"epoch_end"})
    does: ClassVar[str] = "stop at the end of an epoch"

    def do(self, steering: Steering, directory: Path, record: Record, tick: Tick) -> tuple[Any, str]:
        """Plan it."""
        steering.end_at_epoch(self.on)
        record(Change(steering.step, "epoch_end" if self.on else "no_epoch_end"))
        return self.on, "stops when this epoch ends" if self.on else ""


@dataclass(frozen=True)
class Ask:
    """Ask the model as it is now.

    Raises:
        RequestError: the prompt is empty or endless.
    """

    prompt: str
    name: ClassVar[str] = "sample"
    needs: ClassVar[frozenset[str]] = frozenset({"generate", "predict"})
    does: ClassVar[str] = "answer prompts"

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str) or not self.prompt.strip():
            raise RequestError("the prompt is empty: write what the model is to answer")
        if len(self.prompt) > MOST_PROMPT:
            raise RequestError(f"the prompt has {len(self.prompt):,} characters: at most {MOST_PROMPT:,}")

    def do(self, steering: Steering, directory: Path, record: Record, tick: Tick) -> tuple[Any, str]:
        """Answer, and tell."""
        said = f"answered at step {steering.step:,}"
        if "generate" in steering.offered:
            text = steering.generate(self.prompt, tick)
            record(Reply(steering.step, self.prompt, text))
            return text, said
        found = steering.predict(self.prompt, tick)
        (label,), (row,) = found.labels, found.probabilities.tolist()
        record(Reply(steering.step, self.prompt, label, found.names, tuple(row)))
        return found, said
