"""Whether gradients reach all that a run trains: watched by the runner, whatever loop trains it.

::

    method.run ──> any loop ──> torch optimizer's step ──> GradientWatch ──> a notice with the names of silent tensors

Looked at are the first steps of each optimizer, and the first ones after the first evaluation, which may change what is
trained: one forward pass without gradients makes bitsandbytes 0.50 repack 4-bit weights for a kernel that has none.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from nbadapt.errors import first_line
from nbadapt.events import Event, Metric, Notice, Progress

if TYPE_CHECKING:
    import torch
    from torch.optim import Optimizer

STEPS = 3  # of an optimizer that a look takes; fewer where no more come


class GradientWatch:
    """Inside, every torch optimizer that steps in this thread is looked at; importing torch is left to others.

    Args:
        tell: told which tensors no gradient reached, once each.
    """

    def __init__(self, tell: Callable[[Notice], None]) -> None:
        self._tell = tell
        self._thread: int | None = None  # while it watches
        self._hook: Any = None
        self._looks: weakref.WeakKeyDictionary[Optimizer, _Look] = weakref.WeakKeyDictionary()
        self._told: set[int] = set()
        self._evaluated = False

    def __enter__(self) -> GradientWatch:
        self._thread = threading.get_ident()
        self._listen()
        return self

    def see(self, event: Event) -> None:
        """Follow what the run tells: its first evaluation and its last step end a look that still goes on."""
        self._listen()  # torch may have come since
        evaluated = not self._evaluated and isinstance(event, Metric) and event.split == "evaluation"
        ended = isinstance(event, Progress) and event.step == event.total  # the model, which knows names, is there yet
        self._evaluated = self._evaluated or evaluated
        for look in [*self._looks.values()] if evaluated or ended else ():
            self._conclude(look)
            if evaluated:
                look.begin_again()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._looks.clear()
        self._thread = None

    def _listen(self) -> None:
        if self._hook is None and self._thread is not None and "torch" in sys.modules:
            from torch.optim.optimizer import register_optimizer_step_post_hook

            self._hook = register_optimizer_step_post_hook(self._stepped)

    def _stepped(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        """After a step: before it, a closure would not have computed the gradients yet."""
        if threading.get_ident() != self._thread:
            return
        look = self._looks.setdefault(optimizer, _Look())
        if look.steps == STEPS:
            return
        try:
            look.take(optimizer)
        except Exception as error:  # noqa: BLE001 - an optimizer of another kind: a look costs no run
            look.give_up()
            self._tell(Notice(f"whether gradients reach all that is trained could not be seen: {first_line(error)}"))
        if look.steps == STEPS:
            self._conclude(look)

    def _conclude(self, look: _Look) -> None:
        silent = [tensor for tensor in look.silent() if id(tensor) not in self._told]
        look.give_up()
        if silent:
            self._told.update(map(id, silent))
            self._tell(Notice(f"no gradient reaches {shortened(_names(silent))}: they learn nothing", "warning"))


class _Look:
    """What some steps of one optimizer give of its tensors."""

    def __init__(self) -> None:
        self._moved = False  # some weight, by a step before the present one
        self.begin_again()

    def begin_again(self) -> None:
        """From the next step on."""
        self.steps = 0
        self._waiting: dict[torch.Tensor, bool] = {}  # without a gradient so far -> whether it should have had one

    def give_up(self) -> None:
        """No step more, and no tensor is held."""
        self.steps = STEPS
        self._waiting = {}

    def take(self, optimizer: Optimizer) -> None:
        """Look at the gradients of a step.

        A gradient of zero means nothing before the first weight has moved: some tensors start behind a zero, such as
        LoRA's A behind B, and where the learning rate warms up from zero the first step moves none.
        """
        if self.steps == 0:
            groups = optimizer.param_groups
            self._waiting = {p: False for group in groups for p in group["params"] if p.requires_grad}
        for tensor in list(self._waiting):
            if tensor.grad is None:
                self._waiting[tensor] = True
            elif _any(tensor.grad):
                del self._waiting[tensor]
            else:
                self._waiting[tensor] = self._waiting[tensor] or self._moved
        self._moved = self._moved or any(float(group.get("lr", 1)) > 0 for group in optimizer.param_groups)
        self.steps += 1

    def silent(self) -> list[torch.Tensor]:
        """The tensors that should have had a gradient, and had none."""
        return [tensor for tensor, due in self._waiting.items() if due]


def _any(gradient: torch.Tensor) -> bool:
    return bool((gradient.coalesce().values() if gradient.is_sparse else gradient).any())


# ------------------------------------------------------------------------------------------------ names


def _names(tensors: Iterable[torch.Tensor]) -> list[str]:
    """What tensors are called in the model that has most of them; of two such models in the outer one."""
    import torch

    wanted = {id(tensor): tensor for tensor in tensors}
    best: Mapping[int, str] = {}
    for thing in gc.get_objects():  # an optimizer knows no names, and the model is the method's own
        found: dict[int, str] = {}
        if issubclass(type(thing), torch.nn.Module):
            with contextlib.suppress(Exception):  # one that is half made, or has a way of its own to tell them
                found = {id(p): name for name, p in thing.named_parameters() if id(p) in wanted}
        if (len(found), sum(map(len, found.values()))) > (len(best), sum(map(len, best.values()))):
            best = found
    unnamed = [t for key, t in wanted.items() if key not in best]
    return [*best.values(), *(f"a tensor of {' x '.join(map(str, t.shape)) or 'one number'}" for t in unnamed)]


def shortened(names: Iterable[str]) -> str:
    """All names in one line, those of the same layer in several blocks as one: "layers.{0-3,5}.weight"."""
    found: dict[tuple[str, str], list[int]] = {}
    for name in names:
        parts = name.split(".")
        place = next((i for i, part in enumerate(parts) if part.isdecimal()), len(parts))
        number = [int(part) for part in parts[place : place + 1]]
        found.setdefault((".".join(parts[:place]), ".".join(parts[place + 1 :])), []).extend(number)
    lines = ([before, _ranges(numbers), after] for (before, after), numbers in found.items())
    return ", ".join(".".join(filter(None, line)) for line in lines)


def _ranges(numbers: Iterable[int]) -> str:
    """3, 0, 1 -> "{0-1,3}"; one alone as it is."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    said = ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return said if said.isdecimal() or not said else f"{{{said}}}"
