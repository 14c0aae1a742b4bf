"""What the methods share whose result is a scikit-learn classifier: its file, and how good it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZIP_DEFLATED

from nbadapt.errors import RequestError
from nbadapt.events import Metric, Sample
from nbadapt.metrics import accuracy, macro_f1

if TYPE_CHECKING:
    from nbadapt.method import Job

FILE = "classifier.skops"
# What skops wants to be told to read: arrays and numbers of scikit-learn and xgboost, without code. (A tree made up by
# somebody with bad intent can crash the process, as it can in any file that scikit-learn reads.)
TRUSTED = (
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
    "xgboost.core.Booster",
    "xgboost.sklearn.XGBClassifier",
)


def dump(classifier: Any, folder: Path) -> None:
    """Write the classifier without pickle: a compressed zip of JSON and numpy arrays."""
    import skops.io

    skops.io.dump(classifier, folder / FILE, compression=ZIP_DEFLATED, compresslevel=6)


def load(folder: Path) -> Any:
    """Read a classifier; types that could run code are refused.

    Raises:
        RequestError: the file holds such a type.
    """
    import skops.io

    file = folder / FILE
    unknown = sorted(set(skops.io.get_untrusted_types(file=file)) - set(TRUSTED))
    if unknown:
        raise RequestError(f"{file} holds {unknown[0]}, which no classifier needs: it was not written by this method")
    return skops.io.load(file, trusted=list(TRUSTED))


def findings(job: Job, classifier: Any, inputs: Any, step: int, metrics: dict[str, float]) -> Iterator[Metric | Sample]:
    """Events about training and held-out rows; `metrics` gets the figures before each event.

    Args:
        job: its config has `samples`.
        classifier: fitted; its classes are places among the job's labels.
        inputs: what it classifies, a list or an array: of the training rows and then of the held-out ones.
        step: the last one.
        metrics: filled.
    """
    assert job.data is not None  # there was something to fit
    n = len(job.data)
    truth = [row["label"] for row in job.data.rows]
    measured, _ = figures(job, classifier, inputs[:n], truth)
    metrics["train_loss"] = measured["loss"]
    yield Metric(step, "train", {"loss": measured["loss"], "accuracy": measured["accuracy"]})
    if job.evaluation is None or not job.evaluation.rows:
        return
    truth = [row["label"] for row in job.evaluation.rows]
    measured, said = figures(job, classifier, inputs[n:], truth)
    metrics.update(measured)
    yield Metric(step, "evaluation", measured)
    for row, answer in list(zip(job.evaluation.rows, said, strict=True))[: job.config.samples]:
        yield Sample(step, row["text"], answer, row["label"])


def figures(job: Job, classifier: Any, inputs: Any, truth: Sequence[str]) -> tuple[dict[str, float], list[str]]:
    """Loss, accuracy and macro F1 on rows, and the labels that were said."""
    probabilities = classifier.predict_proba(inputs)  # (n, k)
    right = [max(float(row[job.labels.index(label)]), 1e-12) for row, label in zip(probabilities, truth, strict=True)]
    said = [job.labels[i] for i in probabilities.argmax(axis=1)]
    loss = -sum(map(math.log, right)) / len(right)
    return {"loss": loss, "accuracy": accuracy(said, truth), "macro_f1": macro_f1(said, truth)}, said
