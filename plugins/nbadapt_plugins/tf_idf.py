"""TF-IDF and logistic regression: weighted words and pairs of words, without a language model (Salton, Buckley 1988).

::

    tf(t, x) = 1 + ln(count of t in x)          idf(t) = ln((1 + n) / (1 + texts with t)) + 1
    x_t = tf(t, x) idf(t), scaled to length 1   p(label | x) = softmax(W x + b)

Sizes: for v terms m (v + 1) parameters, m = 1 for two labels and k for k > 2, and v frequencies. A finetuned model
that does not beat this has learned no more than which words go with which label.
Paper: https://doi.org/10.1016/0306-4573(88)90021-0

When to use it: before any language model: it takes seconds, and where words decide, as with topics, little is left to
gain.

When not: where order and meaning decide (irony, negation, rare words), or where a few rows a label are all there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import Field

from nbadapt_plugins._text_baseline import BaselineConfig, TextBaseline

if TYPE_CHECKING:
    from nbadapt.method import Job

STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # the values of C that are tried
FOLDS = 3
TERM = r"(?u)\w+|[^\w\s]"  # each run of letters, each sign: the usual pattern finds nothing in "A!", and fails
COUNTED = 20_000  # training rows whose words are counted before anything starts


class TfIdfSettings(BaselineConfig):
    """Settings of TF-IDF and logistic regression."""

    words: int = Field(2, ge=1, le=5, description="longest run of words that counts as a term")
    C: float | None = Field(
        None, gt=0, le=1e6, description="inverse strength of the penalty; none: by cross-validation"
    )


class TfIdf(TextBaseline):
    """Logistic regression on weighted words: seconds on a CPU, and often hard to beat."""

    name = "tf-idf"
    summary = "logistic regression on weighted words and pairs of words, without a language model"
    reference = "https://doi.org/10.1016/0306-4573(88)90021-0"
    Config = TfIdfSettings

    def parameters(self, job: Job) -> int:
        """Of every term a frequency and a weight for each plane, and the intercepts."""
        if job.data is None or len(job.data) > COUNTED:
            return 0
        terms = len(self._vectorizer(job).fit([row["text"] for row in job.data.rows]).vocabulary_)
        return _count(terms, len(job.labels))

    def steps(self, job: Job) -> int:
        """One for each value of C, and the last fit."""
        return 1 if job.config.C is not None else len(STRENGTHS) + 1

    def fit(self, job: Job, texts: list[str], labels: list[int], tick: Callable[[str], None]) -> Any:
        """Choose C by cross-validation on the training rows where none is given, and fit on all of them."""
        from sklearn.model_selection import StratifiedKFold, cross_val_score

        if job.config.C is not None:
            return self._pipeline(job, job.config.C).fit(texts, labels)
        folds = min(FOLDS, *Counter(labels).values())
        scores: dict[float, float] = {}
        for strength in STRENGTHS:
            if folds > 1:
                parts = StratifiedKFold(folds, shuffle=True, random_state=job.seed)
                pipeline = self._pipeline(job, strength)
                scores[strength] = float(cross_val_score(pipeline, texts, labels, cv=parts).mean())
            tick("choosing C")
        best = max(scores, key=lambda strength: (scores[strength], -strength)) if scores else 1.0
        return self._pipeline(job, best).fit(texts, labels)

    def learned(self, classifier: Any) -> int:
        """Frequencies, weights and intercepts."""
        return _count(len(classifier[0].vocabulary_), len(classifier.classes_))

    def _vectorizer(self, job: Job) -> Any:
        from sklearn.feature_extraction.text import TfidfVectorizer

        return TfidfVectorizer(ngram_range=(1, job.config.words), sublinear_tf=True, token_pattern=TERM)

    def _pipeline(self, job: Job, strength: float) -> Any:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        return make_pipeline(self._vectorizer(job), LogisticRegression(C=strength, max_iter=5000))


def _count(terms: int, labels: int) -> int:
    planes = 1 if labels == 2 else labels
    return planes * (terms + 1) + terms
