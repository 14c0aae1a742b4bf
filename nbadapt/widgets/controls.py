"""What a person asks of a run while it works: read from the page, and told to it, with what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from nbadapt.errors import RequestError
from nbadapt.steering import Ask, ChangeRate, EndAtEpoch, Save
from nbadapt.widgets.summary import number
from nbadapt.widgets.texts import clip

if TYPE_CHECKING:
    from nbadapt.control import Control
    from nbadapt.events import Change, Reply
    from nbadapt.history import History

MOST_REPLIES = 3
PROMPT_BYTES, ANSWER_BYTES = 160, 420
MOST_CLASSES, CLASS_BYTES = 5, 30
MOST_MARKS, MOST_LINES = 12, 4
ERROR_BYTES = 160

ASKED: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "save": lambda _: Save(),
    "rate": lambda message: ChangeRate.parse(str(message.get("text", ""))),
    "sample": lambda message: Ask(str(message.get("text", ""))),
    "epoch_end": lambda message: EndAtEpoch(bool(message.get("on"))),
}
"""The type of a page's message -> what it asks for."""
KINDS = {"save": Save, "rate": ChangeRate, "sample": Ask, "epoch_end": EndAtEpoch}


def wish(control: Control, message: Mapping[str, Any]) -> None:
    """Do what a page asks for, as far as it makes sense; what does not is remembered as refused."""
    kind = message.get("type")
    if kind not in ASKED:
        return
    try:
        asked = ASKED[kind](message)
    except RequestError as error:
        control.refuse(KINDS[kind], error)
        return
    control.ask(asked)


def controls(history: History, control: Control) -> dict[str, Any]:
    """What the page offers, and what came of the last wish of each kind."""
    told = history.controls
    latest = dict(control.latest)
    rate = history.latest("learning_rate")
    changed = next((c for c in reversed(history.changes) if c.what == "learning_rate"), None)
    points = history.series.get(("train", "learning_rate"), [(0, 0.0)])
    if changed is not None and changed.step >= points[-1][0]:
        rate = changed.rate  # which the next step will tell
    return {
        "offered": list(told.offered) if told is not None else [],
        "reason": clip("the run is stopping" if control.stopping else told.reason if told is not None else "", 80),
        "rate": "" if rate is None else number(rate),
        "ending": history.ending,
        "waiting": [name for name, made in latest.items() if not made.done],
        "said": {name: clip(made.said, 60) for name, made in latest.items() if made.done and made.said},
        "errors": {name: clip(str(made.error), ERROR_BYTES) for name, made in latest.items() if made.error is not None},
    }


def replies(history: History) -> dict[str, Any]:
    """The latest answers to the user."""
    return {"items": [_reply(reply) for reply in history.replies[: -MOST_REPLIES - 1 : -1]]}


def _reply(reply: Reply) -> list[Any]:
    shares = sorted(zip(reply.names, reply.probabilities, strict=False), key=lambda share: -share[1])[:MOST_CLASSES]
    return [
        reply.step,
        clip(reply.prompt, PROMPT_BYTES),
        clip(reply.output, ANSWER_BYTES),
        [[clip(name, CLASS_BYTES), round(share, 4)] for name, share in shares],
    ]


def changes(history: History) -> dict[str, Any]:
    """What was changed on the way: marks for the chart, and lines to read."""
    return {
        "marks": [[change.step, mark(change)] for change in marked(history)[-MOST_MARKS:]],
        "lines": [line(change) for change in history.changes[-MOST_LINES:]],
    }


def marked(history: History) -> list[Change]:
    """The changes that have a mark on the curve."""
    return [change for change in history.changes if change.what in {"learning_rate", "save"}]


def mark(change: Change) -> str:
    """A change in as few letters as a chart has room for."""
    return "saved" if change.what == "save" else f"rate ×{change.factor:.3g}"  # noqa: RUF001 - the sign of a factor


def line(change: Change) -> str:
    """A change in a few words."""
    said = {
        "learning_rate": f"learning rate ×{change.factor:.3g}, {number(change.rate)} at the next step",  # noqa: RUF001
        "epoch_end": "to stop at the end of the epoch",
        "no_epoch_end": "not to stop at the end of the epoch after all",
        "save": "model saved",
    }
    return f"after step {change.step:,}: {said.get(change.what, change.what)}"
