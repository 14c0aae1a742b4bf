"""What the baselines share that need no language model: a scikit-learn pipeline from texts to labels."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import Field

from nbadapt import store
from nbadapt.errors import DataError, RequestError, Stopped
from nbadapt.events import Parameters, Progress, Stage
from nbadapt.method import ADVANCED, Adapted, Config, Emit, Estimate, Job, Method, Outcome, Predictions
from nbadapt_plugins import _scikit
from nbadapt_plugins._trained import ADAPTER

NUMBER = 8  # bytes


class BaselineConfig(Config):
    """Settings of a baseline."""

    samples: int = Field(
        3, ge=0, le=20, description="held-out rows answered and shown at the end", json_schema_extra=ADVANCED
    )


class TextBaseline(Method):
    """Learns labels from texts without the language model that the line names."""

    verb = "finetune"
    family = "Baselines"
    tasks = frozenset({"classification"})
    requires = ("sklearn", "skops")
    exports = frozenset({"skops"})
    baseline = True
    Config = BaselineConfig

    @abstractmethod
    def parameters(self, job: Job) -> int:
        """How many numbers are learned; 0 where that is known only afterwards."""

    @abstractmethod
    def steps(self, job: Job) -> int:
        """How many fits the work has."""

    @abstractmethod
    def fit(self, job: Job, texts: list[str], labels: list[int], tick: Callable[[str], None]) -> Any:
        """A fitted pipeline; `tick` is called after each fit but the last one, with what follows."""

    @abstractmethod
    def learned(self, classifier: Any) -> int:
        """How many numbers a fitted pipeline holds."""

    def estimate(self, job: Job) -> Estimate:
        """The exact parameters, as far as the rows are few enough to count their words.

        Raises:
            DataError: a label without a training row.
        """
        _check_rows(job)
        known = self.parameters(job)
        notes = () if known else ("how many words there are, and with them parameters, is known after the first fit",)
        letters = sum(len(row["text"]) for row in job.data.rows) if job.data else 0
        memory = {"weights": max(known, 1) * NUMBER, "word counts": 4 * NUMBER * letters // 5}
        return Estimate(known, max(known, 1), memory, known * NUMBER, self.steps(job), notes=notes)

    def run(self, job: Job, emit: Emit) -> Outcome:
        """Fit, store, and say how good it is on the held-out rows."""
        assert job.data is not None  # said by the contract
        total = self.steps(job)
        known = self.parameters(job)
        if known:
            emit(Parameters(known, known))
        done = 0

        def tick(following: str) -> None:
            nonlocal done
            done += 1
            emit(Progress(done, total))
            emit(Stage(following))

        texts = [row["text"] for row in (*job.data.rows, *(job.evaluation.rows if job.evaluation else ()))]
        labels = [job.labels.index(row["label"]) for row in job.data.rows]
        emit(Stage("fitting"))
        classifier = self.fit(job, texts[: len(labels)], labels, tick)
        with store.new_folder(job.directory / ADAPTER) as folder:
            _scikit.dump(classifier, folder)
        metrics: dict[str, float] = {}
        with contextlib.suppress(Stopped):  # all is done and stored
            if not known:
                emit(Parameters(self.learned(classifier), self.learned(classifier)))
            emit(Progress(total, total, examples=len(texts)))
            for event in _scikit.findings(job, classifier, texts, total, metrics):
                emit(event)
        return Outcome(metrics=metrics, artifacts={"classifier": ADAPTER})

    def load(self, outcome: Outcome, job: Job) -> Adapted:
        """The stored pipeline."""
        return TextClassifier(_scikit.load(job.directory / outcome.artifacts["classifier"]), job.labels)

    def export(self, kind: str, outcome: Outcome, job: Job, target: Any) -> None:
        """Write "skops": the scikit-learn pipeline, for ``skops.io.load``."""
        stored = job.directory / outcome.artifacts["classifier"] / _scikit.FILE
        (target / _scikit.FILE).write_bytes(stored.read_bytes())


class TextClassifier(Adapted):
    """A fitted pipeline from texts to probabilities.

    Args:
        classifier: its classes are places among `names`.
        names: the k labels.
    """

    abilities = frozenset({"predict"})

    def __init__(self, classifier: Any, names: Sequence[str]) -> None:
        self.classifier, self.names = classifier, tuple(names)

    def predict(self, texts: Sequence[str], labels: Sequence[str] | None = None) -> Predictions:
        """Class probabilities of n texts.

        Raises:
            RequestError: other labels than those that it learned, or a text that is no str.
        """
        import numpy as np

        if labels is not None and set(labels) != set(self.names):
            raise RequestError(f"this classifier was trained for the labels {', '.join(self.names)}: leave labels out")
        wrong = next((text for text in texts if not isinstance(text, str)), None)
        if wrong is not None:
            raise RequestError(f"predict takes texts, not {type(wrong).__name__}: {wrong!r:.40}")
        if not texts:
            return Predictions(self.names, np.zeros((0, len(self.names))))
        return Predictions(self.names, self.classifier.predict_proba(list(texts)))


def _check_rows(job: Job) -> None:
    there = {row["label"] for row in job.data.rows} if job.data else set(job.labels)
    for label in job.labels:
        if label not in there:
            source = job.data.source if job.data else "the data"
            raise DataError(f"the label {label!r} has no training row in {source}: give one, or leave it out")
