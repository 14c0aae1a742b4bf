"""Features: a classifier of scikit-learn on the vectors of a frozen backbone (Devlin et al. 2018, section 5.3).

::

    text ──> frozen backbone ──> hidden states (T, d) ──> pooling ──> x (d,) ──> classifier ──> label
             no training, once a text: kept on disk                   ^          seconds
                                                                      standardised where the classifier wants it

    logistic-regression   p = softmax(W (x - mean) / deviation + b)      linear-svm   the same plane, by margins

Sizes: logistic regression has m (d + 1) parameters, m = 1 for two classes and k for k > 2; the support vector
machine two more for each m, which turn margins into probabilities (Platt 1999). A forest's or a boosting's size
depends on the data. Paper of the feature-based approach: https://arxiv.org/abs/1810.04805.

When to use it: as the first run on any classification task. On 2,000 film reviews with MiniLM it took 16 s beside
LoRA's 75 s, and its figure is the one to beat.

When not: where the last points count: its accuracy there was 0.734, LoRA's 0.799 and that of all layers 0.818.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from nbadapt import store
from nbadapt.errors import DataError, DependencyError, Stopped
from nbadapt.events import Notice, Parameters, Progress, Stage
from nbadapt.method import ADVANCED, Adapted, Config, Emit, Estimate, Job, Method, Outcome
from nbadapt_plugins import _scikit
from nbadapt_plugins._trained import ADAPTER, skeleton

if TYPE_CHECKING:
    import numpy as np

    from nbadapt.engines.embed import Embedder

    Array = np.ndarray[Any, Any]

Kind = Literal["logistic-regression", "linear-svm", "random-forest", "gradient-boosting", "xgboost"]

GROUP = 32  # texts in one step of progress
FOLDS = 3  # of the training rows, to choose C
# The values of C that are tried, and what decides between them; vectors are standardised.
STRENGTHS = {
    "logistic-regression": ((1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0), "neg_log_loss"),
    "linear-svm": ((1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1), "accuracy"),
}


BELONGS = {  # setting -> the classifiers that have it
    "C": ("logistic-regression", "linear-svm"),
    "trees": ("random-forest", "gradient-boosting", "xgboost"),
    "learning_rate": ("gradient-boosting", "xgboost"),
}


class FeaturesSettings(Config):
    """Settings of a classifier on frozen features."""

    classifier: Kind = Field(
        "logistic-regression", description="what is trained on the vectors (xgboost needs its own package)"
    )
    pooling: Literal["mean", "cls", "last"] = Field(
        "mean", description="a text's vector: the mean over its tokens, its first token (cls) or its last one"
    )
    C: float | None = Field(
        None, gt=0, le=1e6, description="inverse strength of the linear classifiers' penalty; none: by cross-validation"
    )
    trees: int = Field(300, ge=1, le=100_000, description="trees of a forest, or rounds of boosting")
    learning_rate: float = Field(0.1, gt=0, le=1, description="share of each tree that boosting adds")
    max_length: int | None = Field(
        None, ge=8, description="tokens kept of a row; none: the model's limit, at most 1024"
    )
    samples: int = Field(
        3, ge=0, le=20, description="held-out rows answered and shown at the end", json_schema_extra=ADVANCED
    )

    @model_validator(mode="after")
    def _belongs_to_the_classifier(self) -> FeaturesSettings:
        for name, classifiers in BELONGS.items():
            if self.classifier not in classifiers and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} belongs to {' and '.join(classifiers)}, not to {self.classifier}: drop one")
        return self


class Features(Method):
    """Trains no layer: the backbone turns each text into a vector once, and a classifier learns from those."""

    name = "features"
    verb = "finetune"
    family = "Frozen model"
    summary = "a scikit-learn classifier on a frozen model's vectors: the quickest, and the baseline to beat"
    reference = "https://arxiv.org/abs/1810.04805"
    tasks = frozenset({"classification"})
    requires = ("sklearn", "skops", "transformers")
    exports = frozenset({"skops"})
    Config = FeaturesSettings

    def estimate(self, job: Job) -> Estimate:
        """Exact parameters of a linear classifier, and the memory of the backbone without gradients."""
        from nbadapt.engines.embed import check_embeddable, memory

        model = skeleton(job)
        check_embeddable(self.name, model)
        _check_rows(job)
        _check_installed(job.config.classifier)
        trained, total = _parameters(job, model)
        tables = [table for table in (job.data, job.evaluation) if table is not None]
        notes = () if trained else (f"how large a {job.config.classifier} grows depends on the data",)
        return Estimate(trained, total, memory(model, job, tables), trained * 8, _steps(job), notes=notes)

    def run(self, job: Job, emit: Emit) -> Outcome:
        """Embed all rows, fit the classifier, store it, and say how good it is on the held-out rows."""
        from nbadapt.engines.embed import Embedder, report

        assert job.data is not None  # said by the contract
        embedder = Embedder(job, job.config.pooling)
        trained, total = _parameters(job, skeleton(job))
        if trained:
            emit(Parameters(trained, total))
        held_out = job.evaluation.rows if job.evaluation else ()
        texts = [row["text"] for row in (*job.data.rows, *held_out)]
        embedded = embedder.embed(texts, _Telling(emit, _steps(job), len(texts)))
        report(embedder, embedded.lengths, emit)
        n = len(job.data)
        labels = [job.labels.index(row["label"]) for row in job.data.rows]
        classifier = _fit(job, embedded.vectors[:n], labels, emit)
        with store.new_folder(job.directory / ADAPTER) as folder:
            _scikit.dump(classifier, folder)
        metrics: dict[str, float] = {}
        with contextlib.suppress(Stopped):  # all is done and stored
            if not trained:
                size = _nodes(classifier)
                emit(Parameters(size, total + size))
            emit(Progress(_steps(job), _steps(job), examples=len(texts)))
            for event in _scikit.findings(job, classifier, embedded.vectors, _steps(job), metrics):
                emit(event)
        return Outcome(metrics=metrics, artifacts={"classifier": ADAPTER})

    def load(self, outcome: Outcome, job: Job) -> Adapted:
        """The stored classifier; the backbone is loaded when it is first needed."""
        from nbadapt.engines.classify import FeatureClassifier
        from nbadapt.engines.embed import Embedder

        classifier = _scikit.load(job.directory / outcome.artifacts["classifier"])
        embedder: Embedder = Embedder(job, job.config.pooling)
        return FeatureClassifier(embedder, job.labels, classifier.predict_proba)

    def export(self, kind: str, outcome: Outcome, job: Job, target: Path) -> None:
        """Write "skops": the scikit-learn pipeline, for ``skops.io.load``."""
        stored = job.directory / outcome.artifacts["classifier"] / _scikit.FILE
        (target / _scikit.FILE).write_bytes(stored.read_bytes())


class _Telling:
    """Tells of texts done as steps of `GROUP` texts; the last step is left for the classifier."""

    def __init__(self, emit: Emit, steps: int, rows: int) -> None:
        self._emit, self._steps, self._rows, self._told = emit, steps, rows, 0

    def __call__(self, done: int) -> None:
        self._emit(Stage("embedding"))
        while self._told < self._steps - 1 and min((self._told + 1) * GROUP, self._rows) <= done:
            self._told += 1
            self._emit(Progress(self._told, self._steps, examples=min(self._told * GROUP, self._rows)))


def _steps(job: Job) -> int:
    rows = sum(len(table) for table in (job.data, job.evaluation) if table is not None)
    return math.ceil(rows / GROUP) + 1


def _check_rows(job: Job) -> None:
    """Every class must have what its classifier needs.

    Raises:
        DataError: it has not.
    """
    if job.data is None:
        return
    rows = Counter(row["label"] for row in job.data.rows)
    least = 2 if job.config.classifier == "linear-svm" else 1
    for label in job.labels:
        if rows[label] < least:
            what = "a second one is needed to calibrate a linear-svm" if rows[label] else "give one, or leave it out"
            raise DataError(f"the label {label!r} has {rows[label]} training rows in {job.data.source}: {what}")
    if len(job.labels) < 2:
        raise DataError(f"{job.data.source} has the label {job.labels[0]!r} only: a classifier needs two or more")


def _check_installed(classifier: str) -> None:
    import importlib.util

    if classifier == "xgboost" and importlib.util.find_spec("xgboost") is None:
        raise DependencyError(
            'the classifier xgboost needs its package: run  pip install "nbadapt[xgboost]"  or use gradient-boosting'
        )


def _parameters(job: Job, model: Any) -> tuple[int, int]:
    """Trained parameters (0: not known before) and all of them, backbone and classifier."""
    planes = 1 if len(job.labels) == 2 else len(job.labels)
    width = model.config.get_text_config().hidden_size
    by_kind = {"logistic-regression": planes * (width + 1), "linear-svm": planes * (width + 3)}
    trained = by_kind.get(job.config.classifier, 0)
    return trained, sum(p.numel() for p in model.base_model.parameters()) + trained


# ------------------------------------------------------------------------------------------------ the classifier


def _fit(job: Job, vectors: Array, labels: list[int], emit: Emit) -> Any:
    """A fitted classifier of vectors (n, d); the search for C can be stopped between two fits."""
    settings: FeaturesSettings = job.config
    strength = settings.C
    if strength is None and settings.classifier in STRENGTHS:
        strength = _chosen_strength(job, vectors, labels, emit)
    emit(Stage("fitting the classifier"))
    return _new(settings, strength, job.seed, min(Counter(labels).values())).fit(vectors, labels)


def _new(settings: FeaturesSettings, strength: float | None, seed: int, fewest: int) -> Any:
    """The classifier that the settings name, not fitted; `fewest` are the rows of the smallest class."""
    match settings.classifier:
        case "logistic-regression" | "linear-svm":
            return _linear(settings.classifier, strength, seed, fewest)
        case "random-forest":
            from sklearn.ensemble import RandomForestClassifier

            return RandomForestClassifier(n_estimators=settings.trees, random_state=seed, n_jobs=-1)
        case "gradient-boosting":
            from sklearn.ensemble import HistGradientBoostingClassifier

            return HistGradientBoostingClassifier(
                max_iter=settings.trees, learning_rate=settings.learning_rate, early_stopping=False, random_state=seed
            )
        case "xgboost":
            from xgboost import XGBClassifier

            return XGBClassifier(
                n_estimators=settings.trees, learning_rate=settings.learning_rate, tree_method="hist", random_state=seed
            )


def _linear(kind: str, strength: float | None, seed: int, fewest: int) -> Any:
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    if kind == "logistic-regression":
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=5000))
    machine = make_pipeline(StandardScaler(), LinearSVC(C=strength, random_state=seed, max_iter=20_000))
    return CalibratedClassifierCV(machine, method="sigmoid", cv=min(5, fewest), ensemble=False)


def _chosen_strength(job: Job, vectors: Array, labels: list[int], emit: Emit) -> float:
    """The C with the best mean score over folds of the training rows; the held-out rows are not looked at."""
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    settings: FeaturesSettings = job.config
    strengths, scoring = STRENGTHS[settings.classifier]
    folds = min(FOLDS, *Counter(labels).values())
    if folds < 2:
        emit(Notice("a label has a single training row: C is not chosen by cross-validation but 0.01"))
        return 1e-2
    parts = StratifiedKFold(folds, shuffle=True, random_state=job.seed)
    scores: dict[float, float] = {}
    for number, strength in enumerate(strengths, 1):
        emit(Stage(f"choosing C: {number} of {len(strengths)}"))
        classifier = _linear(settings.classifier, strength, job.seed, folds)
        if settings.classifier == "linear-svm":
            classifier = classifier.estimator  # whose choices need no probabilities
        scores[strength] = float(cross_val_score(classifier, vectors, labels, cv=parts, scoring=scoring).mean())
    best = max(scores, key=lambda strength: (scores[strength], -strength))
    score = f"accuracy {scores[best]:.3f}" if scoring == "accuracy" else f"log loss {-scores[best]:.3f}"
    emit(Notice(f"C is {best:g}, chosen by {folds}-fold cross-validation on the training rows ({score})"))
    return best


def _nodes(classifier: Any) -> int:
    """The nodes of all trees, each of which holds one learned number: a threshold or an answer."""
    if hasattr(classifier, "get_booster"):
        return len(classifier.get_booster().trees_to_dataframe())
    if hasattr(classifier, "estimators_"):
        return sum(tree.tree_.node_count for tree in classifier.estimators_)
    return sum(len(tree.nodes) for round_ in classifier._predictors for tree in round_)
