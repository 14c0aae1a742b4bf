"""What a method gives back and tells, looked over: keys are hidden, what is no figure is left out and told of."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import Any

from nbadapt.errors import RunError
from nbadapt.events import Event, Metric, Notice
from nbadapt.method import Method, Outcome
from nbadapt.redaction import hide_keys


def checked(found: Any, method: Method, tell: Callable[[Event], None]) -> Outcome:
    """The outcome that a method gave back, without keys in its answer and without figures that are none.

    Args:
        found: what came back.
        method: whose it is.
        tell: given a notice for all that is left out.

    Raises:
        RunError: it is no outcome.
    """
    if not isinstance(found, Outcome):
        raise RunError(
            f"{method.name} gave back {type(found).__name__} and no Outcome: its plugin is broken, update it"
        )
    outcome: Outcome = found
    if isinstance(outcome.output, str):  # a plugin may give back what a server told it
        outcome = dataclasses.replace(outcome, output=hide_keys(outcome.output))
    bad = {name: value for name, value in outcome.metrics.items() if not _is_figure(value)}
    if not bad:
        return outcome
    said = ", ".join(f"{name} is {value!r:.40}" for name, value in bad.items())
    tell(Notice(f"{method.name} ended with figures that are none, which are left out: {said}", "warning"))
    kept = {name: value for name, value in outcome.metrics.items() if name not in bad}
    return dataclasses.replace(outcome, metrics=kept)


def _is_figure(value: Any) -> bool:
    return isinstance(value, numbers.Real) and math.isfinite(value)


class Figures:
    """Looks at the figures that a method tells while it works, and says once that some are none.

    Args:
        method: its name.
    """

    def __init__(self, method: str) -> None:
        self._method, self._said = method, False

    def remark(self, event: Event) -> Notice | None:
        """What the user should know of an event, the first time that there is something."""
        if self._said or not isinstance(event, Metric):
            return None
        bad = [f"{name} is {value!r:.40}" for name, value in event.values.items() if not _is_figure(value)]
        if not bad:
            return None
        self._said = True
        return Notice(f"{self._method} tells at step {event.step} what is no figure: {', '.join(bad)}", "warning")
