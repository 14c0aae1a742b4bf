"""What a person is shown of a policy that learns: held-out prompts answered before and after, and alarms."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import torch

from nbadapt.engines.generate import ANSWER_TOKENS
from nbadapt.engines.rollout import look_at
from nbadapt.events import Metric, Notice, Sample, Stage

if TYPE_CHECKING:
    from nbadapt.engines.ppo import PpoTrainer, Prompt

LONGER = 2.0  # times the length at the start, or its inverse
FULL = 0.95  # of the longest answer there may be
SHORT = 0.8  # of it, where answers came to an end of themselves at the start


class Alarms:
    """Tells once each when the KL or the length of the answers says that the reward may be met by other means.

    Attributes:
        state: what a checkpoint keeps.
    """

    def __init__(self, kl: float, room: int) -> None:
        self._kl, self._room = kl, room
        self.state: dict[str, Any] = {"length": None, "told": []}

    def after(self, step: int, kl: float, length: float) -> list[Notice]:
        """The notices that a step gives rise to."""
        first = self.state["length"]
        if first is None:
            first = self.state["length"] = max(length, 1.0)
        alarms = {}
        if kl > self._kl:
            alarms["kl"] = (
                f"the KL to the base is {kl:.3g} nats an answer at step {step}, above kl_alarm ({self._kl:g}): are "
                "the samples still good text? A higher kl_coef or a target_kl holds the policy back"
            )
        if not 1 / LONGER < length / first < LONGER:
            alarms["length"] = (
                f"answers have {length:.0f} tokens at step {step} and had {first:.0f} at the start: "
                "does the reward pay for their length?"
            )
        if length > FULL * self._room and first < SHORT * self._room:
            alarms["room"] = (
                f"answers have {length:.0f} tokens at step {step}, and max_new_tokens is {self._room}: most are cut"
            )
        new = {name: text for name, text in alarms.items() if name not in self.state["told"]}
        self.state["told"] = [*self.state["told"], *new]
        return [Notice(text, "warning") for text in new.values()]


class Evaluator:
    """Answers the same held-out prompts with the same draws, before training and after.

    Attributes:
        start: what was found before the first step: "reward", "reward_spread" and the answers; a checkpoint keeps it.
    """

    def __init__(self, trainer: PpoTrainer, prompts: list[Prompt]) -> None:
        self._trainer, self._prompts = trainer, prompts
        self.start: dict[str, Any] = {}
        self._found: tuple[int, dict[str, float]] = (0, {})  # the last step that was looked at, and what was found

    def figures(self, step: int) -> dict[str, float]:
        """For the outcome of a policy of `step` steps: what was found of it, and what was found at the start."""
        at, found = self._found
        before = {f"{name}_before": self.start[name] for name in ("reward", "reward_spread") if name in self.start}
        return {**(found if at == step else {}), **before}

    def evaluate(self, step: int) -> None:
        """Tell the mean reward, KL and length of the answers to the held-out prompts, and show some answers."""
        trainer, prompts = self._trainer, self._prompts
        if not prompts:
            return

        def tick() -> None:
            trainer.emit(Stage("evaluating"))

        tick()
        rewards: list[float] = []
        kls: list[float] = []
        lengths: list[float] = []
        size = trainer.config.batch_size
        for place in range(0, len(prompts), size):
            asked = prompts[place : place + size]
            rollout = trainer.draw(asked, f"evaluation {place}", tick)
            with trainer.looking():
                rewards += trainer.judge([prompt.asked for prompt in asked], rollout.texts, tick).tolist()
                seen = look_at(trainer.model, rollout, trainer.config.minibatch_size, tick)
            kls += torch.where(rollout.drawn, seen.policy - seen.reference, 0.0).sum(dim=1).tolist()
            lengths += rollout.lengths.tolist()
        found = {
            "reward": statistics.fmean(rewards),
            "reward_spread": statistics.pstdev(rewards),
            "kl": statistics.fmean(kls),
            "length": statistics.fmean(lengths),
        }
        if step == 0:
            self.start = dict(found)
        self._found = (step, found)
        trainer.emit(Metric(step, "evaluation", found))
        self._show_samples(step)

    def _show_samples(self, step: int) -> None:
        """Some answers, each the most probable token by token, to the prompts as they are cut; and those of before."""
        trainer, shown = self._trainer, self._prompts[: self._trainer.config.samples]
        room = min(ANSWER_TOKENS, trainer.config.max_new_tokens)
        said = trainer.language.generate_ids(
            [prompt.ids for prompt in shown], max_new_tokens=room, tick=lambda: trainer.emit(Stage("evaluating"))
        )
        if step == 0:
            self.start["texts"] = said
        before = self.start.get("texts", [])
        for i, (prompt, answer) in enumerate(zip(shown, said, strict=True)):
            trainer.emit(Sample(step, prompt.text, answer, before=before[i] if step and before else None))
