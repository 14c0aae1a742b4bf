"""The rule about what a training's gradients reach."""

from __future__ import annotations

from collections.abc import Iterator

from nbadapt.testing.subject import Subject


def gradients(subject: Subject) -> Iterator[str]:
    """A gradient reaches all that a torch optimizer trains."""
    for task, trial in subject.trials():
        for notice in trial.unreached:
            yield f"{task}: {notice.text}"


RULES = (gradients,)
