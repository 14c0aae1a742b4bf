"""One method that keeps the contract, and for every rule one that breaks it."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from nbadapt.errors import DataError, Stopped
from nbadapt.events import Checkpoint, Metric, Parameters, Progress, Stage, StateChange
from nbadapt.method import Adapted, Config, Emit, Estimate, Job, Method, Outcome
from nbadapt_plugins.zero_shot import ZeroShot

BROKEN: list[tuple[type[Method], str]] = []
HEAD = "artifacts/head.safetensors"


def breaks(rule: str) -> Callable[[Any], Any]:
    """Notes that a method breaks this rule."""

    def note(method: Any) -> Any:
        BROKEN.append((method, rule))
        return method

    return note


class GoodSettings(Config):
    epochs: int = Field(2, ge=1, description="passes over the rows")
    batch_size: int = Field(8, ge=1, description="rows in one step")


class Good(Method):
    """Trains the output layer."""

    name = "good"
    verb = "finetune"
    summary = "trains the output layer"
    reference = "https://example.org/paper"
    tasks = frozenset({"classification"})
    requires = ("torch",)
    Config = GoodSettings

    def estimate(self, job: Job) -> Estimate:
        from nbadapt import pretrained
        from nbadapt.engines.training_estimate import count_parameters

        model = pretrained.skeleton(job.model, "classification", job.labels)
        model.base_model.requires_grad_(False)
        trainable, total = count_parameters(model)
        steps = job.config.epochs * -(-len(job.data) // job.config.batch_size)
        return Estimate(trainable, total, {"weights": 4 * total, "optimizer": 8 * trainable}, 4 * trainable, steps)

    def run(self, job: Job, emit: Emit) -> Outcome:
        from nbadapt.engines.training_estimate import count_parameters

        emit(Stage("loading the model"))
        model, tokenizer = self.open(job)
        emit(Parameters(*count_parameters(model)))
        losses: list[float] = []
        with contextlib.suppress(Stopped):
            self.train(model, tokenizer, job, emit, losses)
        self.save(model, job)
        return self.outcome(losses)

    def open(self, job: Job) -> Any:
        from nbadapt import models

        return models.load_classifier(job.model, job.labels, job.device, job.dtype, job.seed)

    def train(self, model: Any, tokenizer: Any, job: Job, emit: Emit, losses: list[float]) -> None:
        import torch

        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
        batches = [job.data.rows[i : i + job.config.batch_size] for i in range(0, len(job.data), job.config.batch_size)]
        total = len(batches) * job.config.epochs
        for step, rows in enumerate(batches * job.config.epochs, 1):
            inputs = self.encoded(tokenizer, [row["text"] for row in rows])
            labels = torch.tensor([model.config.label2id[row["label"]] for row in rows])
            loss = model(**inputs, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            self.tell(emit, step, total, losses[-1])

    def encoded(self, tokenizer: Any, texts: list[str]) -> Any:
        return tokenizer(texts, return_tensors="pt", padding=True, truncation=True)

    def tell(self, emit: Emit, step: int, total: int, loss: float) -> None:
        emit(Metric(step, "train", {"loss": loss}))
        emit(Progress(step, total, examples=8 * step))

    def save(self, model: Any, job: Job) -> None:
        from safetensors.torch import save_file

        path = job.directory / HEAD
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: p.detach() for name, p in model.named_parameters() if p.requires_grad}, path)

    def outcome(self, losses: list[float]) -> Outcome:
        return Outcome({"loss": losses[-1]} if losses else {}, {"head": HEAD})

    def load(self, outcome: Outcome, job: Job) -> Adapted:
        from safetensors.torch import load_file

        from nbadapt.engines.classify import Classifier

        model, tokenizer = self.open(job)
        model.load_state_dict(load_file(job.directory / outcome.artifacts["head"]), strict=False)
        return Classifier(model, tokenizer, None)


class Pruning(Good):
    """Tells of a checkpoint after every step, and keeps the last one alone."""

    name = "pruning"

    def run(self, job: Job, emit: Emit) -> Outcome:
        return super().run(job, lambda event: self.kept(job, event, emit))

    def kept(self, job: Job, event: Any, emit: Emit) -> None:
        if isinstance(event, Progress):
            shutil.rmtree(job.directory / "checkpoints", ignore_errors=True)
            folder = job.directory / f"checkpoints/checkpoint-{event.step}"
            folder.mkdir(parents=True)
            (folder / "state.json").write_text(json.dumps({"step": event.step}), encoding="utf-8")
            emit(Checkpoint(event.step, folder.relative_to(job.directory).as_posix()))
        emit(event)


# ---------------------------------------------------------------------------------------------- declarations


@breaks("name")
class BadName(Good):
    name = "Good Method"


@breaks("verb")
class BadVerb(Good):
    verb = "train"


@breaks("summary")
class LongSummary(Good):
    summary = "trains the output layer " * 5


@breaks("summary")
class TwoLines(Good):
    summary = "trains\nthe output layer"


@breaks("summary")
class Red(Good):
    summary = "trains the \x1b[31moutput\x1b[0m layer"


@breaks("reference")
class NoURL(Good):
    reference = "Hu et al. 2021"


@breaks("declared_tasks")
class UnknownTask(Good):
    tasks = frozenset({"classification", "translation"})


@breaks("declared_tasks")
class NoTask(Good):
    tasks = frozenset()


@breaks("contract")
class OldContract(Good):
    contract = 0


@breaks("requires")
class BadRequirement(Good):
    requires = ("scikit-learn",)


@breaks("config_fields")
class Undescribed(Good):
    class Config(GoodSettings):
        rate: float = Field(0.1, gt=0)


@breaks("config_fields")
class Unbounded(Good):
    class Config(GoodSettings):
        rate: float | None = Field(None, description="a rate")


@breaks("config_fields")
class NoDefault(Good):
    class Config(GoodSettings):
        rate: float = Field(gt=0, description="a rate")


@breaks("config_strict")
class Thawed(Good):
    class Config(GoodSettings):
        model_config = ConfigDict(frozen=False)


@breaks("config_strict")
class Lenient(Good):
    class Config(GoodSettings):
        model_config = ConfigDict(extra="ignore")


@breaks("config_strict")
class Foreign(Good):
    class Config(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")
        epochs: int = Field(2, ge=1, description="passes over the rows")
        batch_size: int = Field(8, ge=1, description="rows in one step")


@breaks("config_json")
class WrongDefault(Good):
    class Config(GoodSettings):
        rate: float = Field(-1.0, gt=0, description="a rate")


@breaks("config_json")
class Forgetful(Good):
    class Config(GoodSettings):
        rate: float = Field(0.5, gt=0, description="a rate", exclude=True)
        count: tuple[int, ...] | frozenset[int] = Field(frozenset({1}), description="some")


@breaks("config_names")
class Shadowing(Good):
    class Config(GoodSettings):
        dry_run: bool = Field(False, description="train nothing")


@breaks("help_texts")
class Wordy(Good):
    class Config(GoodSettings):
        rate: float = Field(0.1, gt=0, description="a rate, " * 40)


@breaks("help_texts")
class Markup(Good):
    class Config(GoodSettings):
        rate: float = Field(0.1, gt=0, description="a <b>rate</b>")


@breaks("help_texts")
class NoExample(Good):
    example = "%%finetune good"  # type: ignore[assignment]


@breaks("help_texts")
class Speechless(Good):
    __doc__ = Method.__doc__


# HeavyImport is in a module of its own: kit_heavy_method.


# ---------------------------------------------------------------------------------------------- behaviour


@breaks("tasks")
class Failing(Good):
    def train(self, *_: Any) -> None:
        raise ValueError("no such thing")


@breaks("tasks")
class NoOutcome(Good):
    def outcome(self, losses: list[float]) -> Any:
        return {"loss": losses[-1]}


@breaks("estimate_weightless")
class Loading(Good):
    def estimate(self, job: Job) -> Estimate:
        self.open(job)
        return super().estimate(job)


@breaks("estimate_weightless")
class WritingEarly(Good):
    def estimate(self, job: Job) -> Estimate:
        job.directory.mkdir()
        return super().estimate(job)


def estimating(**wrong: Any) -> Any:
    class Estimating(Good):
        def estimate(self, job: Job) -> Estimate:
            right = super().estimate(job)
            return dataclasses.replace(right, **{name: change(right) for name, change in wrong.items()})

    return Estimating


@breaks("estimate_figures")
class NoWeights(estimating(memory=lambda e: {"optimizer": 8})):
    pass


@breaks("estimate_figures")
class Negative(estimating(artifact=lambda e: -1)):
    pass


@breaks("estimate_figures")
class NotANumber(estimating(seconds=lambda e: float("nan"))):
    pass


@breaks("estimate_exact")
class OneTooMany(estimating(trainable=lambda e: e.trainable + 1)):
    pass


@breaks("estimate_exact")
class WrongSteps(estimating(steps=lambda e: e.steps + 1)):
    pass


@breaks("parameters")
class Secretive(Good):
    def run(self, job: Job, emit: Emit) -> Outcome:
        return super().run(job, lambda event: None if isinstance(event, Parameters) else emit(event))


@breaks("progress")
class Skipping(Good):
    def tell(self, emit: Emit, step: int, total: int, loss: float) -> None:
        emit(Metric(step, "train", {"loss": loss}))
        if step % 2:
            emit(Progress(step, total))


@breaks("progress")
class Backwards(Good):
    def tell(self, emit: Emit, step: int, total: int, loss: float) -> None:
        emit(Progress(step, total, examples=100 - step))


@breaks("events")
class TellingNaN(Good):
    def tell(self, emit: Emit, step: int, total: int, loss: float) -> None:
        super().tell(emit, step, total, float("nan") if step == 2 else loss)


@breaks("events")
class Presuming(Good):
    def run(self, job: Job, emit: Emit) -> Outcome:
        emit(StateChange("running"))
        return super().run(job, emit)


@breaks("events")
class Unstorable(Good):
    def run(self, job: Job, emit: Emit) -> Outcome:
        emit(Stage(Path("a path")))
        return super().run(job, emit)


@breaks("outcome")
class Infinite(Good):
    def outcome(self, losses: list[float]) -> Outcome:
        return Outcome({"loss": float("inf")}, {"head": HEAD})


@breaks("outcome")
class Missing(Good):
    def outcome(self, losses: list[float]) -> Outcome:
        done = super().outcome(losses)
        return done if len(losses) < 3 else Outcome(done.metrics, {**done.artifacts, "log": "artifacts/log"})


@breaks("outcome")
class Announcing(Good):
    def tell(self, emit: Emit, step: int, total: int, loss: float) -> None:
        emit(Checkpoint(step, f"checkpoints/checkpoint-{step}"))
        super().tell(emit, step, total, loss)


@breaks("outcome")
class KeptElsewhere(Good):
    def tell(self, emit: Emit, step: int, total: int, loss: float) -> None:
        emit(Checkpoint(step, "../bert"))  # it is there, but not in the run's folder
        super().tell(emit, step, total, loss)


@breaks("writes")
class Straying(Good):
    def save(self, model: Any, job: Job) -> None:
        super().save(model, job)
        Path("head.txt").write_text("here", encoding="utf-8")


@breaks("writes")
class Marking(Good):
    def save(self, model: Any, job: Job) -> None:
        super().save(model, job)
        (Path(job.model.path) / "used").touch()


@breaks("writes")
class Spilling(Good):
    def save(self, model: Any, job: Job) -> None:
        super().save(model, job)
        (job.directory.parent / "best.txt").write_text(job.directory.name, encoding="utf-8")


@breaks("writes")
class Settling(Good):
    def save(self, model: Any, job: Job) -> None:
        super().save(model, job)
        (Path.home() / ".settling").write_text("here", encoding="utf-8")


@breaks("gradients")
class Cut(Good):
    def open(self, job: Job) -> Any:
        model, tokenizer = super().open(job)
        model.classifier.bias.register_hook(lambda gradient: 0 * gradient)
        return model, tokenizer


def stray() -> Path:
    """A path that is far from everything of the kit's, in the folder of the test."""
    return Path(os.environ["NBADAPT_RUNS"]).with_name("stray.txt")


@breaks("writes")
class Wandering(Good):
    def save(self, model: Any, job: Job) -> None:
        super().save(model, job)
        stray().write_text("here", encoding="utf-8")


@breaks("writes")
class WanderingEarly(Good):
    def estimate(self, job: Job) -> Estimate:
        stray().write_text(job.directory.name, encoding="utf-8")
        return super().estimate(job)


@breaks("writes")
class WanderingLate(Good):
    def load(self, outcome: Outcome, job: Job) -> Adapted:
        stray().mkdir(exist_ok=True)
        return super().load(outcome, job)


@breaks("silent")
class Talking(Good):
    def save(self, model: Any, job: Job) -> None:
        super().save(model, job)
        print("saved")


@breaks("silent")
class TalkingEarly(Good):
    def estimate(self, job: Job) -> Estimate:
        print("estimating")
        return super().estimate(job)


@breaks("silent")
class TalkingLate(Good):
    def load(self, outcome: Outcome, job: Job) -> Adapted:
        print("loading", file=sys.stderr)
        return super().load(outcome, job)


@breaks("silent")
class Muttering(Good):
    def save(self, model: Any, job: Job) -> None:
        super().save(model, job)
        os.write(1, b"saved\n")


@breaks("silent")
class MutteringEarly(Good):
    def estimate(self, job: Job) -> Estimate:
        ctypes.CDLL(None).puts(b"estimating")  # C's library holds it back until it is flushed
        return super().estimate(job)


@breaks("silent")
class Delegating(Good):
    def load(self, outcome: Outcome, job: Job) -> Adapted:
        subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write('loading')"], check=True)
        return super().load(outcome, job)


def call_home() -> None:
    with contextlib.suppress(OSError):
        socket.create_connection(("example.org", 443), timeout=1)


@breaks("offline")
class Calling(Good):
    def save(self, model: Any, job: Job) -> None:
        super().save(model, job)
        call_home()


@breaks("offline")
class Sending(Good):
    def save(self, model: Any, job: Job) -> None:
        super().save(model, job)
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
            way.sendto(b"saved", ("192.0.2.1", 9))


@breaks("offline")
class Asking(Good):
    def save(self, model: Any, job: Job) -> None:
        super().save(model, job)
        with contextlib.suppress(OSError):
            socket.gethostbyname("example.org")


@breaks("offline")
class CallingEarly(Good):
    def estimate(self, job: Job) -> Estimate:
        call_home()
        return super().estimate(job)


@breaks("offline")
class CallingLate(Good):
    def load(self, outcome: Outcome, job: Job) -> Adapted:
        call_home()
        return super().load(outcome, job)


@breaks("odd_rows")
class Overlong(Good):
    def encoded(self, tokenizer: Any, texts: list[str]) -> Any:
        return tokenizer(texts, return_tensors="pt", padding=True)


@breaks("odd_rows")
class Late(Good):
    def run(self, job: Job, emit: Emit) -> Outcome:
        done = super().run(job, emit)
        if len(job.data) < 3:
            raise DataError("three rows are the least: add some")
        return done


@breaks("resume")
class GoingOn(Good):
    def open(self, job: Job) -> Any:
        from safetensors.torch import load_file

        model, tokenizer = super().open(job)
        if (job.directory / HEAD).exists():  # all steps again from there
            model.load_state_dict(load_file(job.directory / HEAD), strict=False)
        return model, tokenizer


@breaks("estimate_measured")
class Hungry(estimating(memory=lambda e: {"weights": 10 * e.memory["weights"]})):
    pass


@breaks("estimate_measured")
class Modest(estimating(memory=lambda e: {"weights": e.memory["weights"] // 10})):
    pass


class GoodPrompt(ZeroShot):
    """Asks for short answers."""

    tasks = frozenset({"generation"})

    @classmethod
    def trial(cls, folder: Path) -> Any:
        return {"max_new_tokens": 8}


@breaks("estimate_measured")
class Boundless(GoodPrompt):
    def estimate(self, job: Job) -> Estimate:
        right = super().estimate(job)
        return dataclasses.replace(right, memory={"weights": 10 * right.memory["weights"]})


@breaks("estimate_measured")
class Frugal(GoodPrompt):
    def estimate(self, job: Job) -> Estimate:
        right = super().estimate(job)
        return dataclasses.replace(right, memory={"weights": right.memory["weights"] // 4})


class Keeping(Good):
    kept: ClassVar[list[Any]] = []


@breaks("memory_released")
class Hoarding(Keeping):
    def save(self, model: Any, job: Job) -> None:
        super().save(model, job)
        self.kept.append(model)


@breaks("memory_released")
class Collecting(Keeping):
    def save(self, model: Any, job: Job) -> None:
        import numpy as np

        super().save(model, job)
        self.kept.append({"features": np.zeros((len(job.data), 32))})


@breaks("memory_released")
class Caching(Keeping):
    def load(self, outcome: Outcome, job: Job) -> Adapted:
        self.kept.append(super().load(outcome, job))
        return self.kept[-1]


@breaks("memory_released")
class Clinging(Keeping):
    def train(self, model: Any, *rest: Any) -> None:
        try:
            super().train(model, *rest)
        except BaseException as error:
            if not isinstance(error, Stopped):
                self.kept.append(model)
            raise


@breaks("job_unchanged")
class Meddling(Good):
    def train(self, model: Any, tokenizer: Any, job: Job, *rest: Any) -> None:
        super().train(model, tokenizer, job, *rest)
        job.data.rows[0]["seen"] = True


@breaks("base_unchanged")
class Careless(Good):
    def save(self, model: Any, job: Job) -> None:
        super().save(model, job)
        model.base_model.embeddings.word_embeddings.weight.data[0] += 1  # that of padding: answers stay


@breaks("base_unchanged")
class CarelessInFourBits(Careless):
    def open(self, job: Job) -> Any:
        from nbadapt import models, pretrained

        labels, quantization = job.labels or ("negative", "positive"), pretrained.Quantization()
        return models.load_classifier(job.model, labels, job.device, job.dtype, job.seed, quantization)


@breaks("deterministic")
class Moody(Good):
    def outcome(self, losses: list[float]) -> Outcome:
        return Outcome({"loss": int.from_bytes(os.urandom(4))}, {"head": HEAD})


@breaks("deterministic")
class Whimsical(Good):
    def save(self, model: Any, job: Job) -> None:
        model.classifier.bias.data[0] += int.from_bytes(os.urandom(2)) / 2**15  # the figures were told before
        super().save(model, job)


@breaks("stop")
class Deaf(Good):
    def tell(self, emit: Emit, step: int, total: int, loss: float) -> None:
        with contextlib.suppress(Stopped):
            super().tell(emit, step, total, loss)


@breaks("stop")
class Upset(Good):
    def tell(self, emit: Emit, step: int, total: int, loss: float) -> None:
        try:
            super().tell(emit, step, total, loss)
        except Stopped:
            raise RuntimeError("how dare you") from None


@breaks("stop")
class Empty(Good):
    def save(self, model: Any, job: Job) -> None:
        if self.finished:
            super().save(model, job)

    def train(self, *given: Any) -> None:
        self.finished = False
        super().train(*given)
        self.finished = True


@breaks("stop")
class Losing(Good):
    def run(self, job: Job, emit: Emit) -> Outcome:
        outcome = super().run(job, emit)
        emit(Stage("saved"))  # a Stop here goes through, and the outcome with it
        return outcome


@breaks("abilities")
class Boasting(Good):
    def load(self, outcome: Outcome, job: Job) -> Adapted:
        model = super().load(outcome, job)
        model.abilities = frozenset({"predict", "fly"})
        return model


@breaks("abilities")
class Crude(Good):
    def load(self, outcome: Outcome, job: Job) -> Adapted:
        model = super().load(outcome, job)

        def score(*_: Any, **__: Any) -> Any:
            raise TypeError("what")

        model.score = score
        return model


@breaks("load_elsewhere")
class Remembering(Good):
    memory: ClassVar[dict[str, Any]] = {}

    def save(self, model: Any, job: Job) -> None:
        super().save(model, job)
        self.memory[str(job.directory)] = model

    def load(self, outcome: Outcome, job: Job) -> Adapted:
        from nbadapt.engines.classify import Classifier

        _, tokenizer = self.open(job)
        return Classifier(self.memory[str(job.directory)], tokenizer, None)


@breaks("load_elsewhere")
class Fickle(Good):
    def load(self, outcome: Outcome, job: Job) -> Adapted:
        model = super().load(outcome, job)
        model.model.classifier.bias.data[0] += os.getpid() / 2**15
        return model


@breaks("exports")
class Promising(Good):
    exports = frozenset({"merged"})


@breaks("exports")
class Idle(Good):
    exports = frozenset({"merged"})

    def export(self, kind: str, outcome: Outcome, job: Job, target: Path) -> None:
        (target / "model.bin").touch()
