"""Run: what a user holds during and after the work; everything in it is also on disk."""

from __future__ import annotations

import contextlib
import ctypes
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nbadapt import consent, guard, notes, store
from nbadapt.capture import quiet_libraries
from nbadapt.control import Control
from nbadapt.errors import NbadaptError, RequestError, RunError, StoreError, first_line
from nbadapt.events import FINISHED, Event
from nbadapt.history import History
from nbadapt.method import Adapted, Estimate, Job, Method, Outcome, OwnMetric, Predictions
from nbadapt.steering import Ask, ChangeRate, EndAtEpoch, Save

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


class Run:
    """One run of one method: live while this kernel works on it, and readable from disk ever after.

    Get one from a magic or from `nbadapt.finetune`, and stored ones from `nbadapt.runs()` or ``%nbadapt show``.
    """

    _known: ClassVar[weakref.WeakValueDictionary[Path, Run]] = weakref.WeakValueDictionary()

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.control = Control()
        self.error: NbadaptError | None = None
        self.metric: OwnMetric | None = None  # what the user gave with it; no function is stored
        self.functions: Mapping[str, Callable[..., Any]] = {}  # the same, by the setting that names them
        self._thread: threading.Thread | None = None
        self._live: list[tuple[float, Event]] | None = None
        self._adapted: Adapted | None = None
        self._known[directory] = self

    @classmethod
    def at(cls, directory: Path) -> Run:
        """The run in this folder: the same object for as long as anybody holds it."""
        return cls._known.get(directory) or cls(directory)

    @classmethod
    def known(cls) -> list[Run]:
        """All runs that somebody holds here, in whatever folder."""
        return list(cls._known.values())

    # ------------------------------------------------------------------ what it is

    @property
    def id(self) -> str:
        """The name of its folder."""
        return self.directory.name

    @property
    def path(self) -> Path:
        """Its folder on disk."""
        return self.directory

    @property
    def request(self) -> dict[str, Any]:
        """What was asked: the content of ``request.json``."""
        return store.read_json(self.directory / "request.json")

    @property
    def method(self) -> str:
        """The word after the magic."""
        return str(self.request["method"])

    @property
    def verb(self) -> str:
        """Either "finetune" or "prompt"."""
        return str(self.request["verb"])

    @property
    def title(self) -> str:
        """A short name for headings, such as "finetune lora · minilm"."""
        return str(self.request["title"])

    @property
    def name(self) -> str:
        """The variable that it was bound to with --as; "" where there was none, or where its request is damaged."""
        try:
            return str(self.request.get("name", ""))
        except StoreError:
            return ""

    @property
    def note(self) -> str:
        """What you wrote about it; set it to change it, also from another kernel."""
        return notes.read(self.directory).note

    @note.setter
    def note(self, text: str) -> None:
        notes.set_note(self.directory, text)

    @property
    def tags(self) -> tuple[str, ...]:
        """Your tags on it, in order of their addition; set them to change them."""
        return notes.read(self.directory).tags

    @tags.setter
    def tags(self, tags: Iterable[str]) -> None:
        notes.set_tags(self.directory, tags)

    @property
    def state(self) -> str:
        """One of `nbadapt.events.State`."""
        if self._live is not None:
            state = self.log.state
            return state if self.alive or state in FINISHED else "killed"
        return store.read_outcome(self.directory)[0]

    @property
    def alive(self) -> bool:
        """Whether this kernel is working on it now."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def events(self) -> list[tuple[float, Event]]:
        """Every event with its time; grows while the run is alive."""
        return self._live if self._live is not None else store.read_events(self.directory)

    @property
    def log(self) -> History:
        """All events folded into series and latest figures."""
        return History(list(self.events))

    @property
    def outcome(self) -> Outcome | None:
        """What the method left behind; None while it works and where it left nothing."""
        return store.read_outcome(self.directory)[1]

    @property
    def metrics(self) -> dict[str, float]:
        """The final figures; while it works, the latest ones of the evaluation."""
        if self.outcome is not None and not self.alive:
            return dict(self.outcome.metrics)
        log = self.log
        return {name: points[-1][1] for (split, name), points in log.series.items() if split == "evaluation"}

    @property
    def output(self) -> str | None:
        """The model's answer, where the run was one prompt."""
        return self.outcome.output if self.outcome else None

    @property
    def answers(self) -> pd.DataFrame:
        """What was answered to each row of a table: row, input, output; where it is known, expected and correct.

        Raises:
            RunError: the run asked no table.
        """
        import pandas as pd

        outcome = self._usable_outcome()
        if "predictions" not in outcome.artifacts:
            raise RunError(f"the run {self.id} asked no table: its answer is in run.output, its figures in run.metrics")
        return pd.read_json(self.directory / outcome.artifacts["predictions"], lines=True, dtype=False)

    @property
    def mistakes(self) -> pd.DataFrame:
        """The rows of `answers` whose answer is not the expected one.

        Raises:
            RunError: the run asked no table, or one without answers to compare with.
        """
        answers = self.answers
        if "correct" not in answers.columns:
            raise RunError(f"the run {self.id} had no answers to compare with: name their column with --label")
        wrong = answers[~answers["correct"].astype(bool)].drop(columns="correct")
        return wrong.reset_index(drop=True)

    def final_prompt(self, row: int = 1) -> str:
        """Exactly what the model read for one row of the table, demonstrations and chat template with it.

        Args:
            row: its number in the table, from 1; a run of one prompt has only that one.

        Raises:
            RunError: the run asked no such row.
        """
        from nbadapt.engines import prompt_log

        return prompt_log.final(self.job(), prompt_log.read(self.directory, row))

    @property
    def sources(self) -> pd.DataFrame:
        """The passages that the model was given for each row: row, number, path, page, start, end, text.

        Raises:
            RunError: the method gave none.
        """
        import pandas as pd

        outcome = self._usable_outcome()
        if "sources" not in outcome.artifacts:
            raise RunError(f"the run {self.id} has no sources: its method, {self.method}, reads no index")
        return pd.read_json(self.directory / outcome.artifacts["sources"], lines=True, dtype=False)

    @property
    def candidates(self) -> pd.DataFrame:
        """The prompts that the run compared, best first: rank, text, the figure with its interval, rows, tokens.

        `tokens` is the mean length of the prompts of the first 20 of the rows, in the order in which they were drawn.

        Raises:
            RunError: it compared none.
        """
        import pandas as pd

        outcome = self._usable_outcome()
        if "candidates" not in outcome.artifacts:
            raise RunError(f"the run {self.id} compared no prompts: its method, {self.method}, asks one alone")
        return pd.read_json(self.directory / outcome.artifacts["candidates"], lines=True, dtype=False)

    @property
    def history(self) -> pd.DataFrame:
        """All metrics: one row a step and split ("train", "evaluation"), one column a metric."""
        return self.log.frame()

    @property
    def estimate(self) -> Estimate:
        """What the run was expected to cost, before it began."""
        record = self.request["estimate"]
        return Estimate(**{**record, "notes": tuple(record["notes"])})

    # ------------------------------------------------------------------ while it works

    def attach(self, thread: threading.Thread, events: list[tuple[float, Event]]) -> None:
        """Make it live: `thread` works on it and appends to `events`. For the runner."""
        self.control, self.error, self._adapted = Control(), None, None
        self._thread, self._live = thread, events

    def stop(self, reason: str = "stopped by the user", *, at_epoch_end: bool = False) -> None:
        """Stop at the next step; what is done so far is saved and usable.

        Args:
            reason: kept with the run.
            at_epoch_end: go on to the end of the present epoch, evaluate, and stop there.

        Raises:
            RequestError: it is not at work here, or has no epochs.
        """
        self._must_be_alive("stop")
        if not at_epoch_end:
            self.control.stop(reason)
            return
        wish = self.control.ask(EndAtEpoch())
        if wish.error is not None:
            raise wish.error

    def pause(self) -> None:
        """Hold at the next step until `resume`."""
        self._must_be_alive("pause")
        self.control.pause()

    def resume(self) -> Run:
        """Go on: after a pause, or from the last checkpoint of a stopped, failed or killed run."""
        if self.alive:
            self.control.resume()
            return self
        from nbadapt import runner

        return runner.resume(self)

    def save(self) -> Path:
        """Keep the model as it is after the step that is being done, while training goes on.

        Returns:
            The folder; `adapted(step=...)` gives the model later, and `resume` goes on from a checkpoint beside it.

        Raises:
            NbadaptError: it is not at work here, cannot do that, or the disk is full; the run goes on.
        """
        path: Path = self._wished("save", Save())
        return path

    def sample(self, prompt: str) -> str | Predictions:
        """Ask the model as it is after the step that is being done, also while the run is paused.

        Returns:
            A text; of a classifier its probabilities. The training does not notice.

        Raises:
            NbadaptError: it is not at work here, or its model answers no prompts, or not this one; the run goes on.
        """
        answer: str | Predictions = self._wished("sample", Ask(prompt))
        return answer

    def change_learning_rate(self, to: float | str) -> float:
        """Go on with another learning rate from the next step on; the rest of the schedule is scaled alike.

        Args:
            to: the rate of the next step, such as 1e-4, or a factor as text, such as "x0.5".

        Returns:
            The rate of the next step.

        Raises:
            NbadaptError: no such rate, or the run is not at work here or has no learning rate.
        """
        rate: float = self._wished("change the learning rate of", ChangeRate.parse(to))
        return rate

    def _wished(self, what: str, asked: Any) -> Any:
        """What comes of a wish, once the worker has fulfilled it."""
        from nbadapt import foreground

        self._must_be_alive(what)
        wish = self.control.ask(asked)
        foreground.wait_for(wish, self)
        if wish.error is not None:
            raise wish.error
        return wish.result

    def _must_be_alive(self, what: str) -> None:
        if not self.alive:
            raise RequestError(f"cannot {what} the run {self.id}: it is {self.state}, not at work in this kernel")

    def join(self, timeout: float | None = None) -> None:
        """Wait for the worker thread without pumping messages; at most `timeout` seconds."""
        if self._thread is not None:
            self._thread.join(timeout)

    def abandon(self) -> None:
        """Break the work off where it is, without saving: a KeyboardInterrupt is raised in the worker thread."""
        self.control.stop("interrupted")  # ends a pause, so that the thread gets to see it
        if self._thread is not None and self._thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread.ident), ctypes.py_object(KeyboardInterrupt)
            )

    def wait(self) -> Run:
        """Hold the cell until the run has ended, with live buttons; an interrupt stops the run.

        Raises:
            NbadaptError: the run failed.
        """
        from nbadapt import foreground

        if self.alive:
            foreground.wait(self)
        if self.error is not None:
            raise self.error
        return self

    # ------------------------------------------------------------------ using the result

    def _method(self) -> Method:
        from nbadapt import registry

        return registry.make(registry.load(self.method))

    def job(self, *, tables: bool = False) -> Job:
        """The run's job as it was stored, with its data where `tables` is set."""
        return store.read_job(self.directory, tables=tables)

    @property
    def saved_steps(self) -> list[int]:
        """The steps after which somebody had the model saved while it was trained; `adapted(step=...)` gives it."""
        return store.saved_steps(self.directory)

    def adapted(self, step: int | None = None) -> Adapted:
        """The adapted model, loaded from the run's artifacts on first use.

        Args:
            step: one of `saved_steps`, for the model as it was then; it is loaded anew each time.

        Raises:
            RunError: the run is still going on, or left no usable model.
            StoreError: nothing was saved at this step.
        """
        if step is not None:
            self._must_have_ended()
            outcome = store.saved_outcome(self.directory, step)
            guard.check(self.directory, outcome.artifacts.values())
            return self._loaded(outcome)
        if self._adapted is None:
            self._adapted = self._loaded(self._usable_outcome())
        return self._adapted

    def _loaded(self, outcome: Outcome) -> Adapted:
        """The model of an outcome that was looked over."""
        from safetensors import SafetensorError

        method, job = self._method(), self.job()
        try:
            with quiet_libraries(), consent.stored():
                return method.load(outcome, job)
        # Files are missing or damaged, or were made to be so.
        except (OSError, KeyError, ValueError, RecursionError, SafetensorError) as error:
            raise RunError(f"the model of the run {self.id} cannot be loaded: {first_line(error)}") from None

    def _usable_outcome(self) -> Outcome:
        self._must_have_ended()
        outcome = self.outcome
        if outcome is None or (self.verb == "finetune" and not outcome.artifacts):
            hint = "continue it with  %nbadapt resume " + self.id
            if self.saved_steps:
                hint += f", or take what was saved, with run.adapted(step={self.saved_steps[-1]})"
            raise RunError(f"the run {self.id} ({self.state}) left no model: {hint}")
        guard.check(self.directory, outcome.artifacts.values())
        return outcome

    def _must_have_ended(self) -> None:
        if self.alive:
            raise RunError(f"the run {self.id} is still going on: wait for it, or stop it")

    def forget(self) -> None:
        """Give back the memory of the adapted model; it is loaded again when it is next used."""
        self._adapted = None

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> str | list[str]:
        """Answers of the adapted model: a str for one prompt, a list for several.

        Args:
            prompts: one prompt or n of them, in the form the model was trained on.
            max_new_tokens: the longest answer, in tokens.
            temperature: 0 takes the most probable token each time.
            top_p: share of the probability that sampling keeps, 0 to 1.
            seed: decides the sampling.
        """
        many = _listed(prompts, "generate takes a prompt or a list of prompts")
        answers = self.adapted().generate(
            many, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed
        )
        return answers[0] if isinstance(prompts, str) else answers

    def predict(self, texts: str | Sequence[str], labels: Sequence[str] | None = None) -> Predictions:
        """Labels and probabilities of n texts.

        Args:
            texts: one text or n of them.
            labels: the classes to choose from; needed where the model generates text instead of classes.
        """
        many = _listed(texts, "predict takes a text or a list of texts")
        return self.adapted().predict(many, labels)

    def reward(self, prompts: str | Sequence[str], completions: str | Sequence[str]) -> np.ndarray[Any, Any]:
        """How good each completion is as an answer to the prompt beside it: shape (n,), higher is better.

        A difference of two rewards for one prompt is the log-odds that the first answer is preferred.

        Args:
            prompts: one prompt or n of them, in the form the model was trained on.
            completions: as many answers, one to each prompt.

        Raises:
            RequestError: the run is no reward model, or the numbers of prompts and completions differ.
        """
        many = _listed(prompts, "reward takes a prompt or a list of prompts, and as many completions")
        answers = _listed(completions, "reward takes a completion or a list of completions, one for each prompt")
        if len(many) != len(answers):
            raise RequestError(
                f"reward takes one completion for each prompt: there are {len(many):,} prompts and "
                f"{len(answers):,} completions"
            )
        return self.adapted().reward(many, answers)

    def export(self, kind: str, folder: str | Path | None = None) -> Path:
        """Write the result for use without nbadapt.

        Args:
            kind: "peft" (adapter folder), "merged" (a whole transformers model) or "script" (a training script).
            folder: where to; default: ``export/<kind>`` in the run's folder. It must be new or empty.

        Returns:
            The folder.

        Raises:
            RequestError: the method has no such export, or the folder holds something.
        """
        method = self._method()
        if kind not in method.exports:
            kinds = ", ".join(sorted(method.exports)) or "nothing"
            raise RequestError(f"{method.name} cannot be exported as {kind!r}; it can as: {kinds}")
        outcome = self._usable_outcome()
        target = self.directory / "export" / kind if folder is None else _expanded(folder)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise RequestError(f"{target} exists already: give another folder to export to")
        job = self.job(tables=kind == "script")
        try:
            with quiet_libraries(), consent.stored(), store.new_folder(target) as temporary:
                method.export(kind, outcome, job, temporary)
        except OSError as error:
            raise StoreError(f"the run {self.id} could not be exported to {target}: {error}") from None
        return target

    # ------------------------------------------------------------------ shown

    def __repr__(self) -> str:
        from nbadapt.widgets import report

        try:
            return str(report.bundle(self)["text/plain"])
        except StoreError as error:
            return f"<Run {self.id}: {error}>"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        from nbadapt.widgets import report

        try:
            return dict(report.bundle(self))
        except StoreError:
            return {"text/plain": repr(self)}


def _listed(given: str | Sequence[str], wanted: str) -> list[str]:
    if isinstance(given, str):
        return [given]
    if not isinstance(given, Iterable):
        raise RequestError(f"{wanted}, not {type(given).__name__}: {given!r:.40}")
    return list(given)


def _expanded(folder: str | Path) -> Path:
    """The folder with the user's home for ``~``, as far as it is known."""
    with contextlib.suppress(RuntimeError):
        return Path(folder).expanduser()
    return Path(folder)
