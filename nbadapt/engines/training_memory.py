"""The memory that training takes, found by going through one step with tensors that have shapes and no values.

::

    skeleton on the meta device ──> the same with fake tensors (torch's FakeTensorMode)
                                       │  forward, backward, evaluation: nothing is computed
                                       └──> bytes of all tensors that exist at the same time

Every method, also a third party's, is followed exactly as far as torch itself is: what a kernel takes inside, and
what the allocator leaves unused, is not seen. Token ids, masks and what is made of them alone have values too, because
a model may look at those: T5 looks for the end of the text.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from nbadapt.engines.causal_loss import causal_loss, keeps_logits, learned_positions, quick_attention
from nbadapt.engines.encoding import virtual_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

Batch = dict[str, torch.Tensor]


class Unmeasured(Exception):  # noqa: N818 - no failure: the caller has a rougher way
    """Nothing like this was measured yet."""


@dataclass
class Scaling:
    """Peaks that were measured once, and what they tell of batches of other sizes. For a form, which cannot wait.

    What a step holds beside the gradients is taken to grow with the tokens of its batch.

    Attributes:
        measures: whether steps are gone through and kept; otherwise what was kept is scaled.
        check: called for every module while measuring; it may raise to break the measurement off.
        same: whether what was kept is of the very same step; nothing is scaled then.
        on_keep: called when something is kept.
        asked: whether anything was scaled.
    """

    measures: bool = False
    check: Callable[[], None] | None = None
    same: bool = False
    on_keep: Callable[[], None] | None = None
    asked: bool = False
    kept: dict[str, tuple[int, int]] = field(default_factory=dict)  # what -> (tokens, bytes)

    def keep(self, what: str, tokens: int, peak: int) -> None:
        """Remember a measured peak."""
        self.kept[what] = (tokens, peak)
        if self.on_keep is not None:
            self.on_keep()

    def tell(self, what: str, tokens: int) -> int:
        """The peak for so many tokens.

        Raises:
            Unmeasured: there is nothing to go by.
        """
        self.asked = self.asked or not self.same
        if what not in self.kept:
            raise Unmeasured
        measured, peak = self.kept[what]
        return peak * tokens // max(measured, 1)


scaling: ContextVar[Scaling | None] = ContextVar("scaling", default=None)
"""The one that `step_peak` and `forward_peak` work with; None: they go through every step themselves."""


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class is untyped
    """Counts the bytes of the tensors that are made inside and exist at the same time."""

    def __init__(self, device: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._device = device
        self._seen: set[int] = set()
        self._values = WeakTensorKeyDictionary()  # fake whole numbers and truths -> what they are

    def fake(self, value: torch.Tensor) -> torch.Tensor:
        """A fake of a real tensor of whole numbers or truths, whose values are known; inside the fake mode."""
        made = torch.empty_like(value, device=self._device)
        self._values[made] = value
        return made

    def leave_out(self, tensors: Iterator[torch.Tensor]) -> None:
        """Do not count these."""
        self._seen |= {tensor.untyped_storage()._cdata for tensor in tensors}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
        known = [tensor in self._values for tensor in tensors]
        try:
            result = self._computed(func, args, kwargs) if known and all(known) else func(*args, **kwargs)
        except DynamicOutputShapeException:  # a choice of rows: which ones is known, what is in them does not matter
            if not any(known):
                raise
            result = self._computed(func, args, kwargs)
        tree_map_only(torch.Tensor, self._count, result)
        return result

    def _computed(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What an operation gives for tensors whose values are known: fakes with values, a number or a truth."""

        def real(fake: torch.Tensor) -> torch.Tensor:
            known = self._values.get(fake)  # type: ignore[no-untyped-call]
            return torch.zeros(fake.shape, dtype=fake.dtype) if known is None else known

        def fake(value: torch.Tensor) -> torch.Tensor:
            made = torch.empty_like(value, device=self._device)
            if not value.is_floating_point():
                self._values[made] = value
            return made

        with unset_fake_temporarily(), torch.device("cpu"):
            found = func(*tree_map_only(torch.Tensor, real, args), **tree_map_only(torch.Tensor, real, kwargs))
        return tree_map_only(torch.Tensor, fake, found)

    def _count(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return tensor

    def _gone(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def autocasts(model: PreTrainedModel, job: Any) -> bool:
    """Whether training computes in bfloat16 over float32 weights (mixed precision).

    As a setting `bf16` of the method says. Without one, or where it is None: on a GPU with a base in bfloat16. On a CPU
    that is at most twice as quick, and what few steps change is then partly lost in the rounding of the weights.
    """
    chosen = getattr(job.config, "bf16", None)
    wanted = job.dtype == "bfloat16" and job.device != "cpu" if chosen is None else chosen
    return bool(wanted and model.dtype == torch.float32)


Loss = Callable[[Any, Batch], torch.Tensor]
"""A model and a batch -> the loss, as it is computed in training."""


def step_peak(
    model: PreTrainedModel, batch: Batch, held_out: Batch | None, job: Any, own: Loss | None = None
) -> tuple[int, int]:
    """Bytes beside weights and optimizer that a training step, and an evaluation of a batch, hold at their peaks.

    Args:
        model: on the meta device, in the types that it is trained in; it is of no use afterwards.
        batch: real input_ids, attention_mask and labels of the most expensive batch.
        held_out: the same of the evaluation.
        job: its task, device and dtype decide what is computed.
        own: the loss, where it is not the task's; the batches are then what it takes, whole numbers.
    """
    known = scaling.get()
    if known is None:
        return _step_peak(model, batch, held_out, job, own)
    gradients = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    tokens = [0 if b is None else _positions(model, b) for b in (batch, held_out)]
    if not known.measures:
        return gradients + known.tell("training", tokens[0]), known.tell("evaluation", tokens[1])
    training, evaluation = _step_peak(model, batch, held_out, job, own)
    known.keep("training", tokens[0], max(0, training - gradients))
    known.keep("evaluation", tokens[1], evaluation)
    return training, evaluation


def _positions(model: PreTrainedModel, batch: Batch) -> int:
    """Positions that a batch takes, learned ones too; of a loss with inputs of its own those of the largest one."""
    largest = max(batch.values(), key=torch.Tensor.numel)
    return largest.numel() + len(largest) * virtual_tokens(model)


def _step_peak(
    model: PreTrainedModel, batch: Batch, held_out: Batch | None, job: Any, own: Loss | None
) -> tuple[int, int]:
    causal = own is None and job.task != "classification"
    autocast = autocasts(model, job)
    bfloat16 = autocast or model.dtype == torch.bfloat16
    keeps = keeps_logits(model)
    kind = job.device.partition(":")[0]
    positions = [learned_positions(b["labels"]) if causal and b else None for b in (batch, held_out)]

    def loss(fake: Batch, learned: torch.Tensor | None) -> torch.Tensor:
        with torch.autocast(kind, torch.bfloat16, enabled=autocast), quick_attention(fake["input_ids"], bfloat16):
            if own is not None:
                return own(model, fake)
            if learned is None:
                found: torch.Tensor = model(**fake).loss
                return found
            return causal_loss(model, fake, learned, keeps)[0]

    with faked(model, kind) as live:
        model.train()
        if job.config.gradient_accumulation_steps > 1:  # the gradients of earlier batches are there already
            for parameter in model.parameters():
                parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
        loss(*_fake(live, batch, positions[0])).backward()  # type: ignore[no-untyped-call]
        model.zero_grad()
        training, live.peak = live.peak, live.now
        if held_out is None:
            return training, 0
        model.eval()
        with torch.no_grad():
            loss(*_fake(live, held_out, positions[1]))
        return training, live.peak


def forward_peak(model: PreTrainedModel, batch: Batch, forward: Callable[..., Any], device: str) -> int:
    """Bytes beside the weights that `forward(**batch)` holds at its peak, without gradients."""
    known, tokens = scaling.get(), batch["input_ids"].numel()
    if known is not None and not known.measures:
        return known.tell("forward", tokens)
    kind = device.partition(":")[0]
    with faked(model, kind) as live, torch.no_grad():
        model.eval()
        forward(**_fake(live, batch, None)[0])
    if known is not None:
        known.keep("forward", tokens, live.peak)
    return live.peak


def _fake(live: Live, batch: Batch, positions: torch.Tensor | None) -> tuple[Batch, torch.Tensor | None]:
    """Fakes of whole numbers, whose values are known; inside the fake mode."""
    fakes = {name: live.fake(tensor) for name, tensor in batch.items()}
    return fakes, None if positions is None else live.fake(positions)


@contextlib.contextmanager
def faked(model: torch.nn.Module, device: str) -> Iterator[Live]:
    """Fake tensors in the place of the model's own; inside, all tensors are fake, and the new ones are counted.

    The model is of no use afterwards.
    """
    known = scaling.get()
    if known is not None and not known.measures:  # for one who goes through steps of his own
        known.asked = True
        raise Unmeasured
    check = known.check if known is not None else None
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device(device):
        made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for module in model.modules():
            if check is not None:
                check()
            for table in (module._parameters, module._buffers, vars(module)):
                _replace(table, made, device)
        if check is not None:
            _check_on_the_way(model, check)
            check()
        live = Live(device)
        live.leave_out(fake for _, fake in made.values())
        with live:
            yield live


def _check_on_the_way(model: torch.nn.Module, check: Callable[[], None]) -> None:
    """Call `check` after the forward and before the backward of every module.

    Not inside an operation: some call back into Python from where no exception may come.
    """

    def after(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        check()
        first = output[0] if isinstance(output, tuple) and output else output
        if isinstance(first, torch.Tensor) and first.requires_grad:
            first.register_hook(lambda _gradient: check())  # type: ignore[no-untyped-call]

    for module in model.modules():
        module.register_forward_hook(after)


def _replace(table: Mapping[str, Any], made: dict[int, tuple[torch.Tensor, torch.Tensor]], device: str) -> None:
    for name, tensor in table.items():
        if isinstance(tensor, torch.Tensor):
            if id(tensor) not in made:  # tied weights stay one
                fake = torch.empty_like(tensor, device=device)
                if isinstance(tensor, torch.nn.Parameter):
                    fake = torch.nn.Parameter(fake, requires_grad=tensor.requires_grad)
                made[id(tensor)] = (tensor, fake)
            table[name] = made[id(tensor)][1]  # type: ignore[index]  # a dict
