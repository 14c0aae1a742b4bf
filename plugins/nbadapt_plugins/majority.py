"""The majority class: what everything else must beat.

::

    p(label) = (training rows with the label) / (training rows)        the same for every text

Sizes: k numbers for k labels. It is scikit-learn's DummyClassifier, https://scikit-learn.org.

When to use it: beside every classifier, to see what its accuracy is worth: where nine of ten rows have one label, 0.9
is nothing.

When not: as an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nbadapt_plugins._text_baseline import TextBaseline

if TYPE_CHECKING:
    from nbadapt.method import Job


class Majority(TextBaseline):
    """Answers every text with the most frequent label."""

    name = "majority"
    summary = "every text gets the most frequent label: the share that nothing may fall below"
    reference = "https://scikit-learn.org/stable/modules/generated/sklearn.dummy.DummyClassifier.html"

    def parameters(self, job: Job) -> int:
        """A share for each label."""
        return len(job.labels)

    def steps(self, job: Job) -> int:
        """One."""
        return 1

    def fit(self, job: Job, texts: list[str], labels: list[int], tick: Callable[[str], None]) -> Any:
        """Counts."""
        from sklearn.dummy import DummyClassifier

        return DummyClassifier(strategy="prior").fit(texts, labels)

    def learned(self, classifier: Any) -> int:
        """A share for each label."""
        return len(classifier.classes_)
