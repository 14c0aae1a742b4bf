"""What judges answers in training: a function of the notebook, or a run that is a reward model.

::

    --reward score    score(prompts, completions) -> n numbers
    --reward RUN      its model's reward(prompts, completions), on the same weights in memory where its base is the same
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from nbadapt import guard, json_text, models, pretrained, registry, store
from nbadapt.cells import brief
from nbadapt.engines.tokens import Prompt, as_text
from nbadapt.errors import NbadaptError, RequestError, StoreError, first_line, in_line

if TYPE_CHECKING:
    import torch

    from nbadapt.method import Job
    from nbadapt.run import Run

SETTING = "reward"
SHAPE = f"def {SETTING}(prompts, completions)"


def check(job: Job) -> Run | None:
    """Refuse a reward that cannot judge this job's answers; gives the run that does, None for a function.

    No weights are loaded, and no function is called.

    Raises:
        RequestError: there is none, or it does not fit; says what would.
    """
    name = job.config.reward
    if SETTING in job.functions:
        _check_signature(name, job.functions[SETTING])
        return None
    if not name:
        raise RequestError(
            f"{job.method} needs a reward: add --{SETTING} with a reward run or a function, {SHAPE} -> one number each"
        )
    run = _open(name)
    _check_model(run, job)
    return run


def load(job: Job) -> Judge:
    """What judges the answers of a job, ready to use; see `check` for what it raises."""
    run = check(job)
    if run is None:
        function = job.functions[SETTING]

        def ask(prompts: Sequence[Prompt], texts: list[str]) -> Any:
            return function([as_text(prompt) for prompt in prompts], texts)

        return Judge(job.config.reward, ask, function=function)
    outcome = run.outcome
    assert outcome is not None  # it was checked
    guard.check(run.directory, outcome.artifacts.values())
    stored = dataclasses.replace(run.job(), device=job.device, dtype=job.dtype)  # so that the weights are shared
    adapted: Any = registry.make(registry.load(run.method)).load(outcome, stored)
    if SETTING not in adapted.abilities:
        raise _no_judge(run)
    return Judge(run.id, adapted.reward, ticks=True)


class Judge:
    """Asks for scores, and checks that they are some.

    Args:
        name: what the user calls it.
        ask: (prompts, completions) -> n numbers.
        ticks: whether `ask` takes a keyword tick, which it calls between batches.
        function: the user's, in which errors are located.
    """

    def __init__(
        self,
        name: str,
        ask: Callable[..., Any],
        *,
        ticks: bool = False,
        function: Callable[..., Any] | None = None,
    ) -> None:
        self.name, self._ask, self._ticks, self._function = name, ask, ticks, function or ask

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[str], tick: Callable[[], None] | None = None
    ) -> torch.Tensor:
        """(n,) scores in float32, on the CPU. A function is given conversations as texts.

        Args:
            prompts: n texts or conversations.
            completions: an answer to each.
            tick: called while a run judges; may raise to leave early.

        Raises:
            RequestError: it fails, or gives anything but a finite number for each.
        """
        import numpy as np
        import torch

        try:
            said = self._ask(list(prompts), list(completions), **({"tick": tick} if self._ticks else {}))
            found = np.asarray(_plain(said))
        except NbadaptError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a user's function raises becomes one line
            reason = f"{type(error).__name__}: {first_line(error)}{in_line(error, self._function)}"
            raise RequestError(f"the reward {self.name} failed: {reason}; it is {SHAPE}") from None
        wanted = f"it must give {len(completions)} numbers for {len(completions)} answers"
        if found.dtype.kind not in "biuf":
            raise RequestError(f"the reward {self.name} gave {brief(said)}: {wanted}")
        if found.shape != (len(completions),):
            shape = "one number" if found.ndim == 0 else f"numbers of shape {found.shape}"
            raise RequestError(f"the reward {self.name} gave {shape}: {wanted}")
        bad = np.flatnonzero(~np.isfinite(found))
        if len(bad):
            raise RequestError(
                f"the reward {self.name} gave {found[bad[0]]} for the answer {completions[bad[0]]!r:.60}: "
                "it must give a finite number for every answer, also for an empty one"
            )
        return torch.from_numpy(found.astype(np.float32))


def _plain(said: Any) -> Any:
    """What numpy can read, where there are tensors: none of a GPU, with gradients or in bfloat16."""
    import torch

    if isinstance(said, torch.Tensor):
        held = said.detach().cpu()
        return (held.double() if held.is_floating_point() else held).numpy()
    return [_plain(one) for one in said] if isinstance(said, (list, tuple)) else said


def _check_signature(name: str, function: Callable[..., Any]) -> None:
    try:
        inspect.signature(function).bind((), ())
    except TypeError:
        raise RequestError(f"the reward {name} must take two lists, as  {SHAPE}") from None
    except ValueError:  # a builtin without a signature
        return


def _open(name: str) -> Run:
    try:
        return store.open(name)
    except StoreError as error:
        raise RequestError(
            f"--{SETTING} {name}: no variable here holds a function or a run of this name (to resume, define it "
            f"again), and {error}"
        ) from None


def _no_judge(run: Run) -> RequestError:
    return RequestError(
        f"--{SETTING} {run.id}: {run.method} makes no reward model: give a run that was trained to judge, from rows "
        "with prompt, chosen and rejected, or a function"
    )


def _check_model(run: Run, job: Job) -> None:
    """Refuse a run that cannot have a reward model, or one that reads other tokens than the policy writes."""
    outcome = run.outcome
    if run.verb != "finetune" or (outcome is not None and not _scores(run, outcome.artifacts.get("adapter"))):
        raise _no_judge(run)
    if run.alive or outcome is None or not outcome.artifacts:
        raise RequestError(f"--{SETTING} {run.id}: the run is {run.state} and has no model yet: resume it first")
    base = models.base_ref(run.job().model)
    if base.path != job.model.path and _tokens(base) != _tokens(job.model):
        raise RequestError(
            f"--{SETTING} {run.id}: it reads the tokens of {base.name}, and {job.model.name} writes others: "
            f"train the reward model on {job.model.name}"
        )


def _scores(run: Run, adapter: str | None) -> bool:
    """Whether a stored adapter may be one of a model that gives scores; True where it does not tell."""
    path = run.directory / (adapter or "") / "adapter_config.json"
    try:
        kind = json_text.loads(path.read_text(encoding="utf-8")).get("task_type")
    except (OSError, ValueError, AttributeError):
        return True
    return kind in ("SEQ_CLS", None) and run.job().task == "preference"


def _tokens(ref: Any) -> dict[str, int]:
    """Token -> id."""
    found: dict[str, int] = pretrained.load_tokenizer(ref).get_vocab()
    return found
