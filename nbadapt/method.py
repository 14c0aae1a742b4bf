"""The contract between nbadapt and a method: what a plugin declares, is given and gives back.

::

    class MyMethod(Method):
        name = "my-method"; verb = "finetune"; summary = "..."; reference = "https://..."
        tasks = frozenset({"classification"})
        class Config(Config): ...

        def estimate(self, job): ...        # on the meta device: no weights
        def run(self, job, emit): ...       # emit(event) raises Stopped when the user pressed Stop
        def load(self, outcome, job): ...   # from the stored artifacts alone

A method is looked up in the entry-point group ``nbadapt.methods``. It writes below ``job.directory`` only,
prints nothing, imports torch and transformers only inside its functions, and never changes its job.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from nbadapt.errors import RequestError
from nbadapt.redaction import hide

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from nbadapt.data import Examples
    from nbadapt.events import Event

CONTRACT = 1
"""The version of this contract; a plugin states the one it was written for in ``Method.contract``."""

ADVANCED: dict[str, Any] = {"advanced": True}
"""``json_schema_extra`` of a setting that a form folds away."""

FAMILIES = {"finetune": "Finetuning", "prompt": "Prompting"}
"""Verb -> the family of methods that declare none."""

Task = Literal["classification", "generation", "preference", "text"]
Verb = Literal["finetune", "prompt"]
Emit = Callable[["Event"], None]


class Config(BaseModel):
    """Base of a method's settings. Every field has a default, bounds and a description with its unit.

    It validates the cell's body, completes with Tab, is stored as JSON, printed in help and drawn as a form. There a
    number with two bounds gets a slider, whose scale follows from bounds and default. Two keys of a field's
    ``json_schema_extra`` say otherwise: ``"scale"`` ("log" or "linear"), and ``"advanced": True`` for a setting that
    few people change (`ADVANCED`): it is folded away.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=False)


@dataclass(frozen=True)
class ModelRef:
    """A model name that has been looked up.

    Attributes:
        name: what the user wrote.
        kind: where it was found.
        path: a local folder, a hub id for kind "hub", the run's folder for kind "run", the model's name at its
            endpoint for kind "endpoint".
        trust_remote_code: whether code that comes with the model may run.
        base_url: where the endpoint is; "" for other kinds.
        key_env: the environment variable that holds the endpoint's key; the key itself is nowhere.
    """

    name: str
    kind: Literal["folder", "package", "hub", "run", "endpoint"]
    path: str
    trust_remote_code: bool = False
    base_url: str = ""
    key_env: str = ""


@dataclass(frozen=True)
class OwnMetric:
    """A figure of the user's own.

    Attributes:
        name: what it is called among the figures.
        function: (n answers, n expected answers) -> a number, or a list of one number a row.
    """

    name: str
    function: Callable[[list[str], list[str]], Any]


@dataclass(frozen=True)
class Job:
    """What the user asked for, complete and checked. A method never changes it.

    Attributes:
        method: the word after the magic.
        config: an instance of the method's own Config.
        model: the base model, or the run whose adapted model is prompted.
        task: decides which columns the examples have; see `nbadapt.data.Examples`.
        data: training rows (finetune), or the rows to evaluate a prompt over (prompt).
        evaluation: held-out rows; never trained on.
        examples: demonstrations for in-context methods.
        prompt: the cell's body with ``{{name}}`` placeholders (prompt methods).
        variables: notebook variables that the placeholders name, as text.
        labels: the classes that a prompt chooses from; empty: those of the data, or free text.
        directory: the run's folder, the only place where a method may write.
        metric: a figure of the user's own, measured on the answers of an evaluation; never stored.
        functions: functions of the notebook, by the setting that names them; never stored. See `nbadapt.named`.
        seed: decides every random choice.
        device: "cpu", "cuda", "cuda:1" or "mps"; "cpu" where the model is behind an endpoint.
        dtype: the type of the base weights: "bfloat16", "float32" or "float16"; "" behind an endpoint.
        checkpoint: go on from this checkpoint folder instead of from the start.
    """

    method: str
    config: Any
    model: ModelRef
    task: Task
    directory: Path
    data: Examples | None = None
    evaluation: Examples | None = None
    examples: Examples | None = None
    prompt: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    metric: OwnMetric | None = None
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    checkpoint: Path | None = None


@dataclass(frozen=True)
class Estimate:
    """The cost of a job, known before any weight is loaded.

    Attributes:
        trainable: trained parameters, exact.
        total: parameters of the adapted model, exact.
        memory: predicted peak in bytes by item: "weights", "adapter", "gradients", "optimizer", "activations".
        artifact: bytes that the result takes on disk.
        steps: optimizer steps, or batches of prompts.
        seconds: predicted time, None where it cannot be told.
        notes: what the user should know before starting.
        elsewhere: those items of the memory that are on another device than the job's -> that device.
    """

    trainable: int = 0
    total: int = 0
    memory: Mapping[str, int] = field(default_factory=dict)
    artifact: int = 0
    steps: int = 0
    seconds: float | None = None
    notes: tuple[str, ...] = ()
    elsewhere: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Hide secrets in the notes: they are shown, and kept with the run."""
        if isinstance(self.notes, list | tuple):  # all else is a mistake, which who asked for the estimate tells
            notes = tuple(hide(note) if isinstance(note, str) else note for note in self.notes)
            object.__setattr__(self, "notes", notes)

    @property
    def peak(self) -> int:
        """Predicted peak memory in bytes."""
        return sum(self.memory.values())


@dataclass(frozen=True)
class Outcome:
    """What a finished or stopped job left behind; stored as JSON.

    Attributes:
        metrics: final figures by name, such as "loss", "accuracy".
        artifacts: what -> path relative to the run's folder, such as {"adapter": "artifacts/adapter"}.
        output: the model's answer where the job was one prompt.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    artifacts: Mapping[str, str] = field(default_factory=dict)
    output: str | None = None


@dataclass(frozen=True)
class Predictions:
    """Class probabilities for a number of inputs.

    Attributes:
        names: the k classes.
        probabilities: shape (n, k), rows sum to 1. A model that names the class in words, as one behind an
            endpoint does, gives that class 1; a row is all zeros where its answer names none.
    """

    names: tuple[str, ...]
    probabilities: np.ndarray[Any, Any]

    @property
    def labels(self) -> list[str]:
        """The most probable class of each input; "" where the answer named none."""
        return [self.names[row.argmax()] if row.any() else "" for row in self.probabilities]

    def frame(self) -> pd.DataFrame:
        """One row an input: its label and the probability of every class."""
        import pandas as pd

        table = pd.DataFrame(self.probabilities, columns=list(self.names))
        table.insert(0, "label", self.labels)
        return table

    def __len__(self) -> int:
        return len(self.probabilities)


@dataclass(frozen=True)
class Example:
    """A cell that shows a method at work, for its help page; behind `before` it runs as it stands.

    Attributes:
        cell: the whole cell, its line and its body.
        before: a cell of Python that makes what the first one names; "" where it names nothing.
    """

    cell: str
    before: str = ""


class Adapted:
    """A model as a run left it, in memory and ready to use. Methods return a subclass from `Method.load`.

    `abilities` says which of the functions below work; the others raise a RequestError. `chat` says whether it
    takes conversations: demonstrations are then turns of one.
    """

    abilities: frozenset[str] = frozenset()
    chat: bool = False
    identity: str | None = None
    """What its answers depend on besides the prompt, for those kept on disk; None: the files of the job's model."""

    @property
    def usage(self) -> Mapping[str, int]:
        """What its answers have cost so far, such as prompt_tokens; empty for models that cost nothing."""
        return {}

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        tick: Callable[[], None] | None = None,
    ) -> list[str]:
        """One answer a prompt. Temperature 0 takes the most probable token each time.

        `tick` is called between tokens and may raise to leave early.
        """
        raise RequestError("this run does not generate text: it is a classifier, use run.predict(texts)")

    def mixes_with(self, other: Adapted) -> bool:
        """Whether `generate_mixed` takes rows for this model and for the other one, which may be the bare base.

        The other model need not know it; models that mix with the same one mix with each other.
        """
        return False

    def generate_mixed(
        self,
        prompts: Sequence[str],
        models: Sequence[Adapted],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        tick: Callable[[], None] | None = None,
    ) -> list[str]:
        """One answer a prompt, by the model beside it in `models`: this one, or one that it mixes with.

        The answers are those that `generate` of each model gives to its own prompts, in their order here.
        """
        raise RequestError("this run's method cannot mix rows for several models in one batch")

    def score(
        self, prompts: Sequence[str], completions: Sequence[str], *, tick: Callable[[], None] | None = None
    ) -> np.ndarray[Any, Any]:
        """Log-likelihood of every completion after every prompt, summed over tokens: shape (n, k)."""
        raise RequestError("this run does not score completions: it is a classifier, use run.predict(texts)")

    def predict(self, texts: Sequence[str], labels: Sequence[str] | None = None) -> Predictions:
        """The class of every text, with probabilities.

        Args:
            texts: n inputs.
            labels: the classes to choose from, for models that have none of their own.
        """
        raise RequestError("this run does not classify: use run.generate(prompts)")

    def reward(
        self, prompts: Sequence[str], completions: Sequence[str], *, tick: Callable[[], None] | None = None
    ) -> np.ndarray[Any, Any]:
        """How good each completion is as an answer to the prompt beside it: shape (n,), higher is better.

        Only differences mean something: the reward of one answer alone has no unit and no zero.

        Args:
            prompts: n prompts, in the form that the model was trained on.
            completions: n answers, one to each prompt.
            tick: called between batches; may raise to leave early.
        """
        raise RequestError("this run gives no rewards: finetune a reward model on preference rows first")


class Method(ABC):
    """One way of adapting a model. Subclass it, and declare the class as an entry point.

    Attributes:
        name: the word after the magic; the same as the entry point's name.
        verb: "finetune" or "prompt".
        summary: one line for menus.
        reference: URL of the paper or of the library's page.
        tasks: the tasks it can do.
        requires: import names that must be installed; checked before anything heavy is imported.
        family: the group that a menu shows it in, a few words such as "Adapters"; "": that of its verb.
        baseline: whether it is so cheap that everything else should be held against it: ``%%compare`` always tries it.
        contract: the version of this contract that it was written for; 1 where it states none.
        exports: the formats that `export` can write.
        example: a cell that shows it, for methods that need more than the one made of their settings; None: that one.
        Config: its settings.
    """

    name: ClassVar[str]
    verb: ClassVar[Verb]
    summary: ClassVar[str]
    reference: ClassVar[str]
    tasks: ClassVar[frozenset[str]]
    requires: ClassVar[tuple[str, ...]] = ()
    family: ClassVar[str] = ""
    baseline: ClassVar[bool] = False
    contract: ClassVar[int] = 1  # the first one; not CONTRACT, or an old plugin would claim to be of today
    exports: ClassVar[frozenset[str]] = frozenset()
    example: ClassVar[Example | None] = None
    Config: ClassVar[type[Config]] = Config

    @classmethod
    def menu_group(cls) -> str:
        """The family that a menu shows the method in."""
        return cls.family.strip() or FAMILIES[cls.verb]

    @classmethod
    def head(cls, task: str) -> Literal["causal", "classification"]:
        """The head that transformers must have for a model's architecture if this method is to do the task."""
        return "classification" if (cls.verb, task) == ("finetune", "classification") else "causal"

    @classmethod
    def trial(cls, folder: Path) -> Mapping[str, Any]:  # noqa: ARG003 - for those that override it
        """Settings for a small trial, where the defaults lack what a user must bring; for the conformance kit.

        Args:
            folder: a place for what the settings name, such as a small index; it may be there from an earlier call.
        """
        return {}

    @classmethod
    def trial_prompt(cls, prompt: str) -> str:
        """The cell's body of a small trial, made of a template; for methods whose body is more than one."""
        return prompt

    @abstractmethod
    def estimate(self, job: Job) -> Estimate:
        """What the job will cost. Loads no weights, prints nothing, and runs before `run`, in a thread of its own.

        It is to be quick, a second or so: a form asks again and again, and after a minute nobody waits any more.

        Raises:
            NbadaptError: a setting that this model or this data cannot satisfy.
        """

    @abstractmethod
    def run(self, job: Job, emit: Emit) -> Outcome:
        """Do the work, in the worker thread, telling `emit` about it.

        `emit` blocks while the user pauses, and raises `Stopped` once when the user stops: at the first event
        that follows. The method then saves what it has and returns its outcome, or lets Stopped through.
        Call it at least once a step. `nbadapt.parts.offer_steering` lets the user do more while it works.
        """

    @abstractmethod
    def load(self, outcome: Outcome, job: Job) -> Adapted:
        """The adapted model, from the stored artifacts alone; also in another process, days later."""

    def export(self, kind: str, outcome: Outcome, job: Job, target: Path) -> None:
        """Write the result as `kind` (one of `exports`) into the new folder `target`.

        Raises:
            RequestError: the run's settings rule this kind out; the message names one that they do not.
        """
        raise RequestError(f"{self.name} cannot be exported as {kind!r}")
