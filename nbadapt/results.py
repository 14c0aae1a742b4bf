"""What a method gives back and tells, looked over before it is kept.

Keys are hidden, numpy's numbers become Python's; what is no figure or no event is left out and told of.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from nbadapt import events, guard
from nbadapt.errors import RunError, StoreError, first_line
from nbadapt.events import Event, Metric, Notice, plain_number
from nbadapt.method import Method, Outcome
from nbadapt.redaction import hide_keys

FIX = "a figure is a finite number, as float(value) gives it"


def checked(found: Any, method: Method, tell: Callable[[Event], None]) -> Outcome:
    """The outcome that a method gave back, as it can be stored: without keys, and without figures that are none.

    Args:
        found: what came back.
        method: whose it is.
        tell: given a notice for all that is left out.

    Raises:
        RunError: it is no outcome, or one that cannot be stored.
    """
    if not isinstance(found, Outcome):
        raise RunError(
            f"{method.name} gave back {type(found).__name__} and no Outcome: its plugin is broken, update it"
        )
    fault = _fault(found)
    if fault:
        raise RunError(f"{method.name} gave back an Outcome that cannot be kept: {fault}")
    metrics, bad = _figures(found.metrics)
    if bad:
        tell(Notice(f"{method.name} ended with figures that are none, which are left out: {bad}; {FIX}", "warning"))
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    output = None if found.output is None else hide_keys(found.output)  # it may be what a server told
    return Outcome(finite, dict(found.artifacts), output)


def _fault(outcome: Outcome) -> str | None:
    """Why an outcome cannot be stored, with the fix; None where it can."""
    for what, parts in (("metrics", outcome.metrics), ("artifacts", outcome.artifacts)):
        if not isinstance(parts, Mapping) or not all(isinstance(name, str) for name in parts):
            return f"its {what} are {parts!r:.60}: give a dict whose keys are texts"
    for name, path in outcome.artifacts.items():
        try:
            guard.relative("", path)
        except StoreError:
            return (
                f"its artifact {name!r} is {path!r:.100}: give its path relative to the run's folder as text, such as "
                "'artifacts/adapter'"
            )
    if not isinstance(outcome.output, str | None):
        return f"its output is {outcome.output!r:.60}: give a text, or None"
    return None


def _figures(values: Mapping[str, Any]) -> tuple[dict[str, float], str]:
    """The numbers among some figures, and what is to be said of those that are no figures."""
    found = {name: plain_number(value) for name, value in values.items()}
    kept = {name: number for name, number in found.items() if number is not None}
    bad = [name for name in values if name not in kept or not math.isfinite(kept[name])]
    return kept, ", ".join(f"{name} is {values[name]!r:.40}" for name in bad)


class Told:
    """Looks over what a method tells while it works, and says once of each kind of event that some are wrong.

    Args:
        method: its name.
    """

    def __init__(self, method: str) -> None:
        self._method = method
        self._said: set[type] = set()

    def checked(self, event: Any) -> tuple[Event | None, Notice | None]:
        """The event to keep, None where it is none, and what the user should know of it.

        Nan stays among the figures of a step, where it says something; a loop may go on behind it.
        """
        said = ""
        try:
            if isinstance(event, Metric) and isinstance(event.values, Mapping):
                values, bad = _figures(event.values)
                event = dataclasses.replace(event, values=values)
                said = bad and f"tells at step {event.step} what is no figure: {bad}; {FIX}"
            return events.checked(event), self._once(type(event), said)
        except Exception as error:  # noqa: BLE001 - a plugin's object may fail at being looked at
            return None, self._once(type(event), f"tells what is no event, which is left out: {first_line(error)}")

    def _once(self, kind: type, said: str) -> Notice | None:
        if not said or kind in self._said:
            return None
        self._said.add(kind)
        return Notice(f"{self._method} {said}", "warning")
