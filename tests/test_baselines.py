"""majority and tf-idf: the baselines without a language model, next to plain scikit-learn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_models
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from nbadapt import model_names, registry
from nbadapt.data import Examples
from nbadapt.errors import DataError
from nbadapt.events import Parameters
from nbadapt.method import Job
from nbadapt_plugins.majority import Majority
from nbadapt_plugins.tf_idf import TERM, TfIdf

LABELS = ("negative", "positive")


def job_of(method, directory, rows=None, **settings) -> Job:
    rows = rows or tiny_models.reviews(40)
    return Job(
        method=method.name,
        config=method.Config(**settings),
        model=model_names.resolve(str(tiny_models.folder("bert"))),
        task="classification",
        directory=directory,
        data=Examples("classification", tuple(rows[:-8]), LABELS),
        evaluation=Examples("classification", tuple(rows[-8:]), LABELS),
        labels=LABELS,
    )


def test_tf_idf_equals_plain_scikit_learn(tmp_path):
    job = job_of(TfIdf, tmp_path, C=1.0)
    outcome = TfIdf().run(job, lambda _: None)
    said = TfIdf().load(outcome, job).predict([row["text"] for row in job.evaluation.rows])
    plain = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=TERM)
    vectors = plain.fit_transform([row["text"] for row in job.data.rows])
    fitted = LogisticRegression(C=1.0, max_iter=5000).fit(vectors, [row["label"] for row in job.data.rows])
    wanted = fitted.predict_proba(plain.transform([row["text"] for row in job.evaluation.rows]))
    assert said.probabilities == pytest.approx(wanted)
    assert outcome.metrics["accuracy"] == 1.0  # three good words and three bad ones


def test_tf_idf_knows_its_size_before_it_starts(tmp_path):
    events = []
    job = job_of(TfIdf, tmp_path)
    estimate = TfIdf().estimate(job)
    TfIdf().run(job, events.append)
    told = next(event for event in events if isinstance(event, Parameters))
    assert (told.trainable, told.total) == (estimate.trainable, estimate.total)


def test_the_majority_is_the_share_of_the_most_frequent_label(tmp_path):
    rows = [{"text": f"Text {i}.", "label": "negative" if i % 4 else "positive"} for i in range(48)]
    job = job_of(Majority, tmp_path, rows)
    outcome = Majority().run(job, lambda _: None)
    said = Majority().load(outcome, job).predict(["Anything.", "else"])
    assert said.labels == ["negative", "negative"]
    assert said.probabilities[0] == pytest.approx([0.75, 0.25])
    assert outcome.metrics["accuracy"] == 0.75


@pytest.mark.parametrize("method", [Majority, TfIdf])
def test_a_label_without_rows_is_one_line(method, tmp_path):
    job = replace(job_of(method, tmp_path), labels=("missing", *LABELS))
    with pytest.raises(DataError, match="the label 'missing' has no training row in data: give one, or leave it out"):
        method().estimate(job)


def test_the_baselines_are_found_by_what_they_declare():
    assert [method.name for method in registry.methods() if method.baseline] == ["majority", "tf-idf", "zero-shot"]
