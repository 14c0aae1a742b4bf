"""Features against plain transformers and scikit-learn."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from nbadapt import metrics, model_names, models
from nbadapt.data import Examples
from nbadapt.errors import DataError, DependencyError, NbadaptError, RequestError, Stopped
from nbadapt.events import Metric, Notice, Parameters, Progress, Sample, Stage
from nbadapt.method import Job
from nbadapt_plugins import _scikit, features
from nbadapt_plugins.features import Features
from tests import tiny_models

slow = pytest.mark.slow  # training; the conformance kit has every method in the quick tests too

ENCODERS = ("bert", "distilbert", "roberta")
DECODERS = ("gpt2", "llama", "qwen2")
KINDS = ("logistic-regression", "linear-svm", "random-forest", "gradient-boosting")
HIDDEN = 32  # of the tiny models


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NBADAPT_EMBEDDINGS", str(tmp_path / "embeddings"))
    yield
    models.free()


def few_trees(settings: dict[str, object]) -> dict[str, int]:
    return {"trees": 10} if settings.get("classifier") in {"random-forest", "gradient-boosting", "xgboost"} else {}


def make_job(architecture: str, directory: Path, rows: list[dict[str, str]] | None = None, **settings: object) -> Job:
    rows = tiny_models.reviews(60) if rows is None else rows
    labels = tuple(sorted({row["label"] for row in rows}))
    directory.mkdir(parents=True, exist_ok=True)
    return Job(
        method="features",
        config=Features.Config(**{"samples": 1, **few_trees(settings), **settings}),
        model=model_names.resolve(str(tiny_models.folder(architecture))),
        task="classification",
        directory=directory,
        data=Examples("classification", tuple(rows[:-20]), labels),
        evaluation=Examples("classification", tuple(rows[-20:]), labels),
        labels=labels,
    )


def three_classes() -> list[dict[str, str]]:
    words = {"good": "great", "bad": "dull", "none": "water"}
    return [{"text": f"{i}: {words[k]}", "label": k} for i in range(30) for k in words]


def train(job: Job):
    events: list[object] = []
    return Features().run(job, events.append), events


def plain_features(architecture: str, pooling: str, texts: list[str]) -> np.ndarray:
    from transformers import AutoModel, AutoTokenizer

    folder = tiny_models.folder(architecture)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    found = []
    for text in texts:
        with torch.no_grad():
            hidden = model(tokenizer(text, return_tensors="pt")["input_ids"]).last_hidden_state[0]
        found.append({"cls": hidden[0], "last": hidden[-1], "mean": hidden.mean(0)}[pooling].numpy())
    return np.stack(found)


@slow
@pytest.mark.parametrize(
    ("architecture", "pooling"),
    [*((a, "cls") for a in ENCODERS), *((a, "last") for a in DECODERS), ("llama", "mean")],
)
def test_logistic_regression_equals_plain_scikit_learn_on_plain_features(architecture, pooling, tmp_path):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    job = make_job(architecture, tmp_path / "run", pooling=pooling, C=0.1)
    outcome, _ = train(job)
    rows = [*job.data.rows, *job.evaluation.rows]
    vectors = plain_features(architecture, pooling, [row["text"] for row in rows])
    labels = [row["label"] for row in rows]
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000)).fit(vectors[:40], labels[:40])
    assert outcome.metrics["accuracy"] == reference.score(vectors[40:], labels[40:])
    predicted = Features().load(outcome, job).predict([row["text"] for row in job.evaluation.rows])
    assert predicted.names == tuple(reference.classes_)
    np.testing.assert_allclose(predicted.probabilities, reference.predict_proba(vectors[40:]), atol=1e-3)


@slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", ["two", "three"])
def test_every_classifier_learns_stores_and_loads_the_same(kind, rows, tmp_path):
    table = three_classes() if rows == "three" else None
    job = make_job("bert", tmp_path / "run", table, classifier=kind)
    outcome, events = train(job)
    assert outcome.metrics["accuracy"] > (0.9 if kind in features.STRENGTHS else 0.6)  # boosting wants more rows
    vectors = plain_features("bert", "mean", [row["text"] for row in job.evaluation.rows])
    probabilities = _scikit.load(job.directory / outcome.artifacts["classifier"]).predict_proba(vectors)
    predicted = Features().load(outcome, job).predict([row["text"] for row in job.evaluation.rows])
    np.testing.assert_allclose(predicted.probabilities, probabilities, atol=1e-3)
    truth = [row["label"] for row in job.evaluation.rows]
    assert outcome.metrics["accuracy"] == metrics.accuracy(predicted.labels, truth)
    assert outcome.metrics["macro_f1"] == metrics.macro_f1(predicted.labels, truth)
    right = predicted.probabilities[range(len(truth)), [job.labels.index(label) for label in truth]]
    assert outcome.metrics["loss"] == pytest.approx(-np.log(right.clip(1e-12)).mean(), rel=1e-3, abs=1e-3)
    assert len([e for e in events if isinstance(e, Parameters)]) == 1


@pytest.mark.parametrize(("kind", "extra"), [("logistic-regression", 1), ("linear-svm", 3)])
@pytest.mark.parametrize(("rows", "planes"), [("two", 1), ("three", 3)])
def test_parameters_are_those_of_the_closed_form_and_of_the_fitted_classifier(kind, extra, rows, planes, tmp_path):
    job = make_job("bert", tmp_path / "run", three_classes() if rows == "three" else None, classifier=kind)
    estimate = Features().estimate(job)
    assert estimate.trainable == planes * (HIDDEN + extra)
    outcome, events = train(job)
    told = next(e for e in events if isinstance(e, Parameters))
    assert (told.trainable, told.total) == (estimate.trainable, estimate.total)
    fitted = _scikit.load(job.directory / outcome.artifacts["classifier"])
    if kind == "logistic-regression":
        assert fitted[-1].coef_.size + fitted[-1].intercept_.size == estimate.trainable
    else:
        (calibrated,) = fitted.calibrated_classifiers_
        machine = calibrated.estimator[-1]
        assert machine.coef_.size + machine.intercept_.size + 2 * len(calibrated.calibrators) == estimate.trainable
    model, _ = models.load_classifier(job.model, job.labels, "cpu", "float32", 0)
    assert estimate.total == sum(p.numel() for p in model.base_model.parameters()) + estimate.trainable


@slow
def test_the_trees_tell_their_nodes_when_they_have_grown(tmp_path):
    job = make_job("bert", tmp_path / "run", classifier="random-forest", trees=7)
    estimate = Features().estimate(job)
    assert estimate.trainable == 0
    assert any("depends on the data" in note for note in estimate.notes)
    outcome, events = train(job)
    told = next(e for e in events if isinstance(e, Parameters))
    forest = _scikit.load(job.directory / outcome.artifacts["classifier"])
    assert told.trainable == sum(tree.tree_.node_count for tree in forest.estimators_)
    assert told.total == estimate.total + told.trainable


@slow
def test_c_is_the_one_that_cross_validation_on_the_training_rows_likes_best(tmp_path):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    job = make_job("bert", tmp_path / "run", pooling="cls")
    outcome, events = train(job)
    vectors = plain_features("bert", "cls", [row["text"] for row in job.data.rows])
    labels = [row["label"] for row in job.data.rows]
    folds = StratifiedKFold(features.FOLDS, shuffle=True, random_state=0)
    scores = {
        c: cross_val_score(
            make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=5000)),
            vectors, labels, cv=folds, scoring="neg_log_loss",
        ).mean()
        for c in features.STRENGTHS["logistic-regression"][0]
    }  # fmt: skip
    best = max(scores, key=scores.__getitem__)
    chosen = _scikit.load(job.directory / outcome.artifacts["classifier"])[-1].C
    assert chosen == best
    assert any(isinstance(e, Notice) and f"C is {best:g}" in e.text for e in events)


@slow
def test_progress_counts_to_the_estimated_steps_whether_or_not_all_is_known_already(tmp_path):
    for name in ("new", "known"):
        models.free()
        job = make_job("bert", tmp_path / name, C=1.0)
        _, events = train(job)
        told = [e for e in events if isinstance(e, Progress)]
        assert [e.step for e in told] == [1, 2, 3]
        assert [e.examples for e in told] == [32, 60, 60]
        assert {e.total for e in told} == {Features().estimate(job).steps}
        assert [e for e in events if isinstance(e, Sample)]
        assert {e.split for e in events if isinstance(e, Metric)} == {"train", "evaluation"}
    assert not models._bases  # no weights were needed for what is known


@slow
def test_a_stopped_run_goes_on_with_what_is_embedded_and_ends_as_an_unbroken_one(tmp_path, monkeypatch):
    whole, _ = train(make_job("bert", tmp_path / "whole", C=1.0))
    monkeypatch.setenv("NBADAPT_EMBEDDINGS", str(tmp_path / "others"))
    job = make_job("bert", tmp_path / "broken", C=1.0)

    def stop_at_the_first_step(event: object) -> None:
        if isinstance(event, Progress):
            raise Stopped

    with pytest.raises(Stopped):
        Features().run(job, stop_at_the_first_step)
    outcome, _ = train(job)
    assert outcome.metrics == pytest.approx(whole.metrics, rel=1e-4)


@slow
def test_a_stop_between_two_fits_ends_the_search(tmp_path):
    def stop(event: object) -> None:
        if event == Stage("choosing C: 2 of 6"):
            raise Stopped

    with pytest.raises(Stopped):
        Features().run(make_job("bert", tmp_path / "run"), stop)


@slow
def test_a_stop_when_the_classifier_is_stored_loses_nothing(tmp_path):
    job = make_job("bert", tmp_path / "run", C=1.0)

    def stop(event: object) -> None:
        if isinstance(event, Progress) and event.step == event.total:
            raise Stopped

    outcome = Features().run(job, stop)
    assert len(Features().load(outcome, job).predict(["The film was great."])) == 1


@slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_artifact_is_skops_and_holds_no_pickle(kind, tmp_path):
    job = make_job("bert", tmp_path / "run", three_classes(), classifier=kind)
    outcome, _ = train(job)
    file = job.directory / outcome.artifacts["classifier"] / "classifier.skops"
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    assert "schema.json" in names
    assert all(Path(name).suffix in {".json", ".npy"} for name in names)


def test_an_artifact_of_foreign_types_is_refused(tmp_path):
    import skops.io
    from sklearn.preprocessing import FunctionTransformer

    skops.io.dump(FunctionTransformer(Path.unlink), tmp_path / "classifier.skops")
    with pytest.raises(RequestError, match="not written by this method"):
        _scikit.load(tmp_path)


@slow
def test_the_export_loads_with_skops_alone(tmp_path):
    import skops.io

    job = make_job("bert", tmp_path / "run", C=1.0)
    outcome, _ = train(job)
    target = tmp_path / "export"
    target.mkdir()
    Features().export("skops", outcome, job, target)
    assert list(skops.io.load(target / "classifier.skops").classes_) == [0, 1]


@pytest.mark.parametrize(
    ("kind", "counts", "words"),
    [
        ("logistic-regression", (30, 0), ("'positive' has 0 training rows",)),
        ("linear-svm", (30, 1), ("'positive' has 1 training rows", "second one")),
    ],
)
def test_tables_that_a_classifier_cannot_learn_from_are_refused_before_weights_load(kind, counts, words, tmp_path):
    from dataclasses import replace

    job = make_job("bert", tmp_path / "run", classifier=kind)
    rows = [*[{"text": "bad", "label": "negative"}] * counts[0], *[{"text": "good", "label": "positive"}] * counts[1]]
    job = replace(job, data=Examples("classification", tuple(rows), job.labels))
    with pytest.raises(DataError) as caught:
        Features().estimate(job)
    assert all(word in str(caught.value) for word in words)
    assert not models._bases


@slow
def test_a_label_with_one_row_needs_no_cross_validation(tmp_path):
    rows = [{"text": f"dull {i}", "label": "bad"} for i in range(30)]
    rows.insert(0, {"text": "great", "label": "good"})
    _, events = train(make_job("bert", tmp_path / "run", rows))
    assert any("not chosen by cross-validation" in e.text for e in events if isinstance(e, Notice))


@slow
def test_xgboost_missing_names_its_extra(tmp_path, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "xgboost" else found(name))
    with pytest.raises(DependencyError, match=r'pip install "nbadapt\[xgboost\]"'):
        Features().estimate(make_job("bert", tmp_path / "run", classifier="xgboost"))


@slow
def test_xgboost_works_where_it_is_installed(tmp_path):
    pytest.importorskip("xgboost")
    job = make_job("bert", tmp_path / "run", three_classes(), classifier="xgboost")
    outcome, events = train(job)
    assert outcome.metrics["accuracy"] > 0.5
    predicted = Features().load(outcome, job).predict([row["text"] for row in job.evaluation.rows])
    truth = [row["label"] for row in job.evaluation.rows]
    assert metrics.accuracy(predicted.labels, truth) == outcome.metrics["accuracy"]
    assert next(e for e in events if isinstance(e, Parameters)).trainable > 0


def test_an_encoder_decoder_is_refused_before_weights_load(tmp_path):
    from dataclasses import replace

    from transformers import T5Config

    T5Config(architectures=["T5ForSequenceClassification"]).save_pretrained(tmp_path / "t5")
    job = replace(make_job("bert", tmp_path / "run"), model=model_names.resolve(str(tmp_path / "t5")))
    with pytest.raises(NbadaptError, match="an encoder and a decoder"):
        Features().estimate(job)


@slow
def test_rows_over_the_limit_are_counted_also_when_they_are_known(tmp_path):
    for name in ("new", "known"):
        _, events = train(make_job("bert", tmp_path / name, max_length=8, C=1.0))
        notices = [e.text for e in events if isinstance(e, Notice)]
        assert any("60 of 60 rows were longer than 8 tokens" in text for text in notices)


@slow
@pytest.mark.slow
def test_movie_reviews_reach_the_accuracy_of_plain_cls_features(shared_data, tmp_path):
    """MiniLM's CLS features with scikit-learn's defaults gave 0.690 on the test rows (majority class 0.506)."""
    import pandas as pd

    try:
        model = model_names.resolve("minilm")
    except NbadaptError as error:
        pytest.skip(str(error))
    tables = {part: pd.read_csv(shared_data / f"movie_reviews_{part}.csv") for part in ("train", "test")}
    train_rows, test_rows = (tuple(table.head(2000).to_dict("records")) for table in (tables["train"], tables["test"]))
    labels = ("negative", "positive")
    job = Job(
        "features", Features.Config(pooling="cls"), model, "classification", tmp_path,
        Examples("classification", train_rows, labels), Examples("classification", test_rows, labels), labels=labels,
    )  # fmt: skip
    outcome, _ = train(job)
    assert outcome.metrics["accuracy"] > 0.69 - 2 * math.sqrt(0.69 * 0.31 / len(test_rows)) / 3
