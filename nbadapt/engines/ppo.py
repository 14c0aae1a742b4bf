"""Proximal policy optimisation of a language model (PPO).

Schulman et al. 2017, arXiv:1707.06347; as Ziegler et al. 2019, arXiv:1909.08593, Stiennon et al. 2020,
arXiv:2009.01325, and Ouyang et al. 2022, arXiv:2203.02155, use it.

::

    prompts ──> draw answers ──> judge ──> score at the last token ─┐
                     │                                              ├──> advantages (GAE) ──> clipped steps
                     └──> policy, reference, values ──> KL penalty ─┘    over minibatches, several times

One frozen trunk is in memory: the policy is an adapter on it, the value a head on the policy's hidden states, the
reference the trunk with the adapter off. What is random in a step (its prompts, the answers drawn, the order of the
minibatches) follows from the seed and the step's number, so a resumed run goes on as an unbroken one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
import shutil
import time
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from nbadapt import store
from nbadapt.engines import ppo_math
from nbadapt.engines.encoding import length_limit
from nbadapt.engines.generate import LanguageModel
from nbadapt.engines.ppo_config import PpoConfig, ppo_steps
from nbadapt.engines.ppo_live import PpoSteering
from nbadapt.engines.ppo_report import Alarms, Evaluator
from nbadapt.engines.rollout import ActorCritic, Rollout, Seen, Tick, draw, look_at
from nbadapt.engines.tokens import as_text, context_length, encode_prompt
from nbadapt.engines.trainer import TRAINED, load_trained, no_number, trained_tensors
from nbadapt.engines.training_estimate import count_parameters
from nbadapt.engines.training_report import SAVE_SECONDS
from nbadapt.errors import NbadaptError, RequestError, Stopped
from nbadapt.events import Checkpoint, Metric, Notice, Panel, Parameters, Progress, Stage
from nbadapt.steering import offer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from nbadapt.data import Examples
    from nbadapt.engines.judging import Judge
    from nbadapt.engines.live import Keep
    from nbadapt.method import Emit, Job

OPTIMIZER, STATE = "optimizer.safetensors", "state.json"  # in a checkpoint, beside TRAINED
KEPT = 2  # checkpoints
Start = dict[str, tuple[torch.Tensor, dict[str, torch.Tensor]]]  # see PpoTrainer._start
PANELS = (
    Panel("reward", "Reward", spread="reward_spread"),
    Panel("kl", "KL to the base (nats an answer)"),
    Panel("entropy", "Entropy (nats a token)"),
    Panel("clip_fraction", "Clipped share of the tokens"),
    Panel("value_loss", "Value loss"),
    Panel("length", "Answer length (tokens)"),
)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt as a person reads it, as the user gave it (it may be a conversation), and its tokens."""

    text: str
    asked: Any
    ids: list[int]


@dataclasses.dataclass(frozen=True)
class Experience:
    """What is learned from in one step: a rollout, and for each of its tokens (B, K) what follows from the scores."""

    rollout: Rollout
    old: Seen
    advantages: torch.Tensor
    returns: torch.Tensor


class PpoTrainer:
    """Trains an `ActorCritic`; whatever of it requires gradients.

    Args:
        model: on its device, in evaluation mode: dropout would move the ratio of the first update away from 1.
        tokenizer: with the chat template that the prompts are to be given, or none.
        judge: gives the scores.
        job: its config is a PpoConfig; its checkpoint, if any, is where training goes on from.
        emit: told of every step; a Stop it raises ends training with a checkpoint of the last whole step.
        keep: writes the policy as it is, where the user wants it saved while training goes on.
    """

    def __init__(
        self, model: ActorCritic, tokenizer: Any, judge: Judge, job: Job, emit: Emit, keep: Keep | None = None
    ) -> None:
        self.model, self.judge, self.job, self.emit = model, judge, job, emit
        self.config: PpoConfig = job.config
        self.language = LanguageModel(model.policy, tokenizer)
        self.steering = PpoSteering(self, keep)
        assert job.data is not None
        self.prompts, cut = encode_prompts(job.data, self.language, self.config)
        if cut:
            emit(Notice(f"{cut:,} of {len(self.prompts):,} prompts were longer than max_length and lost their start"))
        self.total = ppo_steps(self.config, len(self.prompts))
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        value = [p for p in self.named.values() if any(p is own for own in model.value.parameters())]
        policy = [p for p in self.named.values() if not any(p is own for own in value)]
        self.groups = (policy, value)  # of parameters, each with a learning rate and a clipped gradient of its own
        self.optimizer = torch.optim.AdamW(
            [{"params": policy}, {"params": value, "lr": self.config.value_learning_rate}],
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            fused=True,
        )
        self.done = self._tokens = 0
        self.coefficient = self.config.kl_coef
        self.alarms = Alarms(self.config.kl_alarm, self.config.max_new_tokens)
        held_out = encode_prompts(job.evaluation, self.language, self.config)[0] if job.evaluation else []
        self.evaluator = Evaluator(self, held_out[: self.config.eval_rows])
        self.figures: dict[str, float] = {}
        self._saved_at = time.monotonic()
        self._between_steps = True  # the weights are those that `done` steps led to
        self._looking = False  # at the answers: the adapter may be off, or another one on
        self._rate = 1.0  # what a person has the learning rates multiplied by
        self.ends_at_epoch = False  # a person wants it to
        self.ended = ""

    # ------------------------------------------------------------------ the loop

    def train(self) -> dict[str, float]:
        """Train to the end, and return the last figures.

        Raises:
            RequestError: the judge fails. What was done so far is in a checkpoint.
            RunError: the loss is no longer a finite number.
        """
        trainable, total = count_parameters(self.model)
        self.emit(Parameters(trainable, total))
        if self.job.checkpoint is not None:
            self._restore(self.job.checkpoint)
        try:
            for panel in PANELS:
                self.emit(panel)
            offer(self.emit, self.steering)
            if self.done == 0:
                self.evaluator.evaluate(0)
            self.emit(Stage("training"))
            while self.done < self.total and self.step():
                if self.ends_at_epoch and self._epoch_ends() and self.done < self.total:
                    epoch = self.done * self.config.batch_size // len(self.prompts)
                    self.ended = f"stopped at the end of epoch {epoch:,}, as asked"
                    self.save()
                    break
                if self._due(self.config.eval_steps) and self.done < self.total:
                    self.evaluator.evaluate(self.done)
                    self.emit(Stage("training"))
                if self.done < self.total and self._must_save():
                    self.save()
            self.evaluator.evaluate(self.done)
        except Stopped:  # what a half step changed was undone: what `done` counts is complete
            self.save()
        except NbadaptError:
            with contextlib.suppress(Stopped, NbadaptError):
                self.save()
            raise
        finally:
            offer(self.emit, None)
        return self.latest_figures()

    def latest_figures(self) -> dict[str, float]:
        """What is known of the policy as it is: those of the last step, and the evaluation's where it was evaluated."""
        return {**self.figures, **self.evaluator.figures(self.done)}

    def step(self) -> bool:
        """Draw, judge and learn once; False where the KL is above its target and nothing was learned."""
        number = self.done + 1
        asked = self._asked(number)
        rollout = self.draw(asked, f"step {number}")
        with self.looking():
            scores = self.judge([prompt.asked for prompt in asked], rollout.texts, self._tick)
            old = look_at(self.model, rollout, self.config.minibatch_size, self._tick)
        per_token = ppo_math.kl_per_token(old.policy, old.reference, self.config.kl_estimator)
        kl = float(torch.where(rollout.drawn, old.policy - old.reference, 0.0).sum(dim=1).mean())
        if self.config.target_kl is not None and kl > self.config.target_kl:
            told = f"the KL to the base is {kl:.3g} nats an answer, above target_kl ({self.config.target_kl:g})"
            self.emit(Notice(f"{told}: training ended after step {self.done} of {self.total}"))
            return False
        experience = self._experience(rollout, old, scores, per_token)
        start = self._start()
        self._between_steps = False
        try:
            figures = self._learn(experience, number)
        except BaseException:  # half a step cannot be gone on from, nor kept
            self._go_back(start)
            self._between_steps = True
            raise
        mask = rollout.drawn
        figures |= {
            "reward": float(scores.mean()),
            "reward_spread": float(scores.std(correction=0)),
            "kl": kl,
            "kl_coef": self.coefficient,
            "entropy": float(ppo_math.masked_mean(old.entropy, mask)),
            "length": float(rollout.lengths.float().mean()),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        if self.config.kl == "adaptive":
            self.coefficient = ppo_math.next_coefficient(self.coefficient, kl, self.config.kl_goal, self.config.kl_rate)
        self.done, self._between_steps = number, True  # from here on a Stop finds the step complete
        self._tokens += int(mask.sum())
        self.figures = {f"train_{name}": figures[name] for name in ("loss", "reward", "kl", "length")}
        self.emit(Metric(number, "train", figures))
        for notice in self.alarms.after(number, kl, figures["length"]):
            self.emit(notice)
        examples = number * self.config.batch_size
        self.emit(Progress(number, self.total, examples / len(self.prompts), examples, self._tokens))
        return True

    def draw(self, prompts: Sequence[Prompt], salt: str, tick: Tick | None = None) -> Rollout:
        """One answer a prompt, from the policy as it is; drawn by the job's seed and the salt."""
        return draw(
            self.model.policy,
            self.language.tokenizer,
            [prompt.ids for prompt in prompts],
            ends=self.language.ends(),
            room=self.config.max_new_tokens,
            temperature=self.config.temperature,
            seed=self._seed(f"draw {salt}"),
            tick=tick or self._tick,
        )

    def _tick(self) -> None:
        self.emit(Stage("training"))

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """While the answers are judged or looked at, nobody else asks the model."""
        self._looking = True
        try:
            yield
        finally:
            self._looking = False

    @property
    def between_steps(self) -> bool:
        """Whether the weights are those of `done` steps, and the policy is the model's adapter."""
        return self._between_steps and not self._looking

    def scale_rate(self, factor: float) -> None:
        """Multiply the learning rates from the next step on; a checkpoint that is there already gets to know it."""
        before = self._rate, [group["lr"] for group in self.optimizer.param_groups]
        self._rate *= factor
        for group in self.optimizer.param_groups:
            group["lr"] *= factor
        try:
            if store.is_complete(self._checkpoint()):
                self.save(again=True)
        except BaseException:  # such as a full disk: then nothing has changed
            self._rate = before[0]
            for group, rate in zip(self.optimizer.param_groups, before[1], strict=True):
                group["lr"] = rate
            raise

    def _epoch_ends(self) -> bool:
        """Whether the last step has asked the last prompt of an epoch."""
        size, count = self.config.batch_size, len(self.prompts)
        return self.done * size // count > (self.done - 1) * size // count

    def _seed(self, salt: str) -> int:
        return random.Random(f"{self.job.seed} {salt}").getrandbits(62)  # noqa: S311 - draws answers, guards no secret

    def _asked(self, number: int) -> list[Prompt]:
        """The prompts of a step: those of the data in an order of each epoch's own, one after the other."""
        count, size = len(self.prompts), self.config.batch_size
        chosen = []
        orders: dict[int, list[int]] = {}
        for place in range((number - 1) * size, number * size):
            epoch, at = divmod(place, count)
            if epoch not in orders:
                orders[epoch] = torch.randperm(count, generator=self._generator(f"epoch {epoch}")).tolist()
            chosen.append(self.prompts[orders[epoch][at]])
        return chosen

    def _generator(self, salt: str) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed(salt))

    # ------------------------------------------------------------------ learning

    def _experience(self, rollout: Rollout, old: Seen, scores: torch.Tensor, kl: torch.Tensor) -> Experience:
        mask, bound = rollout.drawn, self.config.reward_clip
        scores = scores.to(mask.device)
        if bound is not None:
            scores = scores.clamp(-bound, bound)
        rewards = ppo_math.token_rewards(scores, kl, self.coefficient, mask)
        found, returns = ppo_math.advantages(rewards, old.values, mask, self.config.gamma, self.config.lam)
        if self.config.whiten:
            found = ppo_math.whitened(found, mask)
        return Experience(rollout, old, found, returns)

    def _learn(self, experience: Experience, number: int) -> dict[str, float]:
        """Some passes over the answers of a step; the mean of what was measured at each change of the weights."""
        measured: list[dict[str, float]] = []
        generator = self._generator(f"minibatches {number}")
        for _ in range(self.config.ppo_epochs):
            order = torch.randperm(len(experience.advantages), generator=generator)
            for place in range(0, len(order), self.config.minibatch_size):
                self._tick()
                rows = order[place : place + self.config.minibatch_size].to(self.model.policy.device)
                measured.append(self._update(experience, rows, number))
        return {name: math.fsum(m[name] for m in measured) / len(measured) for name in measured[0]}

    def _update(self, experience: Experience, rows: torch.Tensor, number: int) -> dict[str, float]:
        """One change of the weights, from the answers in `rows` (b,)."""
        loss, parts = minibatch_loss(self.model, experience, rows, self.config)
        figures = {name: float(part.detach()) for name, part in parts.items()}
        if not math.isfinite(figures["loss"]):
            raise no_number("loss", figures["loss"], number, self.job)
        loss.backward()  # type: ignore[no-untyped-call]
        bound = self.config.max_grad_norm or math.inf
        figures["grad_norm"], _ = (float(torch.nn.utils.clip_grad_norm_(group, bound)) for group in self.groups)
        if not math.isfinite(figures["grad_norm"]):
            raise no_number("gradient's norm", figures["grad_norm"], number, self.job)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return figures

    def _start(self) -> Start:
        """Copies of what a step changes: name -> weights, and the optimizer's moments of them."""
        kept = {}
        for name, parameter in self.named.items():
            moments = self.optimizer.state.get(parameter, {})
            kept[name] = (parameter.detach().clone(), {what: tensor.clone() for what, tensor in moments.items()})
        return kept

    def _go_back(self, start: Start) -> None:
        with torch.no_grad():
            for name, (values, moments) in start.items():
                self.named[name].copy_(values)
                self.optimizer.state[self.named[name]] = moments

    # ------------------------------------------------------------------ checkpoints

    def _due(self, every: int | None) -> bool:
        return every is not None and self.done % every == 0

    def _must_save(self) -> bool:
        if self.config.save_steps is not None:
            return self._due(self.config.save_steps)
        return time.monotonic() - self._saved_at > SAVE_SECONDS

    def _checkpoint(self) -> Path:
        return self.job.directory / "checkpoints" / f"checkpoint-{self.done}"

    def save(self, *, again: bool = False) -> None:
        """Write a checkpoint at the present step, unless it is there (or `again`); of the older ones the last stays."""
        folder = self._checkpoint()
        if self.done == 0 or not self._between_steps or (store.is_complete(folder) and not again):
            return
        with store.new_folder(folder) as new:
            save_file(trained_tensors(self.model), new / TRAINED)
            save_file(dict(self._moments()), new / OPTIMIZER)
            record = {"coefficient": self.coefficient, "tokens": self._tokens, "figures": self.figures}
            record["rate"] = self._rate
            store.write_json(new / STATE, {**record, "alarms": self.alarms.state, "start": self.evaluator.start})
            store.mark_complete(new)
        self._saved_at = time.monotonic()
        for old in sorted(folder.parent.glob("checkpoint-*"), key=store.checkpoint_step)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        self.emit(Checkpoint(self.done, folder.relative_to(self.job.directory).as_posix()))

    def _moments(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, parameter in self.named.items():
            for what, tensor in self.optimizer.state[parameter].items():
                yield f"{name}/{what}", tensor.detach().cpu().contiguous()

    def _restore(self, checkpoint: Path) -> None:
        load_trained(self.model, checkpoint / TRAINED)
        for key, tensor in load_file(checkpoint / OPTIMIZER).items():
            name, _, what = key.rpartition("/")
            parameter = self.named[name]
            self.optimizer.state[parameter][what] = tensor.to(parameter.device)
        record = store.read_json(checkpoint / STATE)
        self.scale_rate(record.get("rate", 1.0))
        self.coefficient, self._tokens = record["coefficient"], record["tokens"]
        self.figures, self.alarms.state, self.evaluator.start = record["figures"], record["alarms"], record["start"]
        self.done = store.checkpoint_step(checkpoint)


def minibatch_loss(
    model: ActorCritic, experience: Experience, rows: torch.Tensor, config: PpoConfig
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of the answers in `rows` (b,), and what it is made of."""
    rollout, old = experience.rollout, experience.old
    tokens, mask = rollout.tokens[rows], rollout.drawn[rows]
    new, values = model(tokens, rollout.mask[rows], mask.shape[1])
    ours, clipped = ppo_math.policy_loss(new, old.policy[rows], experience.advantages[rows], mask, config.clip)
    reach = math.inf if config.value_clip is None else config.value_clip
    theirs = ppo_math.value_loss(values, old.values[rows], experience.returns[rows], mask, reach)
    loss = ours + theirs  # of parameters apart: no weight is needed between them
    return loss, {"loss": loss, "policy_loss": ours, "value_loss": theirs, "clip_fraction": clipped}


def encode_prompts(examples: Examples, language: LanguageModel, config: PpoConfig) -> tuple[list[Prompt], int]:
    """The prompts of a table of any task that has some, and how many of them lost their start.

    Raises:
        RequestError: max_new_tokens leaves a prompt no room.
    """
    limit = prompt_limit(language.model.config, config)
    column = "text" if examples.task == "text" else "prompt"
    found, cut = [], 0
    for row in examples.rows:
        ids = encode_prompt(language.tokenizer, row[column])
        cut += len(ids) > limit
        found.append(Prompt(as_text(row[column]), row[column], ids[-limit:]))
    return found, cut


def prompt_limit(model_config: Any, config: PpoConfig) -> int:
    """The longest prompt in tokens: what the user asked for, and what the answer leaves of the model's context.

    Raises:
        RequestError: nothing.
    """
    limit = length_limit(model_config, config.max_length)
    context = context_length(model_config)
    if context is not None:
        limit = min(limit, context - config.max_new_tokens)
    if limit < 1:
        raise RequestError(
            f"max_new_tokens is {config.max_new_tokens:,} and the model's context {context:,} tokens: "
            "that leaves no room for a prompt; lower it"
        )
    return limit
