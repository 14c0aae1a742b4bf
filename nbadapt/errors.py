"""What can go wrong, each with one line for the user.

::

    NbadaptError                 message: one line that names the thing and the fix
    ├── RequestError             the cell's line or body: unknown word, wrong type, bad YAML or template
    ├── PluginError              a method plugin that is broken, duplicated or of another contract version
    ├── DependencyError          a library that the method needs is missing; carries the install command
    ├── DataError                a table that cannot be read or used; names the row and the column
    ├── ModelError               an unknown or unsuitable model
    │   └── UnsuitedError        one whose kind the method does not work with; the runner adds the methods that do
    ├── OutOfMemoryError         the job does not fit
    ├── StoreError               an unknown or unreadable run
    └── RunError                 training or prompting failed on the way; the partial run is kept

    Stopped (BaseException)      the user pressed Stop: raised by emit() inside a method

Magics turn every NbadaptError into IPython's UsageError: one line, no traceback.
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from nbadapt.redaction import hide


class NbadaptError(Exception):
    """A mistake or a failure that one line explains to the user; secrets are hidden in it."""

    def __init__(self, line: object = "") -> None:
        super().__init__(hide(str(line)))


class RequestError(NbadaptError):
    """The cell's line or body cannot be understood."""


class PluginError(NbadaptError):
    """A method plugin cannot be used; the message names its distribution."""


class DependencyError(NbadaptError):
    """A library is missing; the message holds the command that installs it."""


class DataError(NbadaptError):
    """A data source cannot be read or does not fit the task."""


class ModelError(NbadaptError):
    """A model is unknown, unreadable or unsuitable for the method."""


class UnsuitedError(ModelError):
    """The method does not work with this kind of model.

    Its line ends with the reason: `nbadapt.support` adds the methods to use instead.
    """


class OutOfMemoryError(NbadaptError):
    """The job needs more memory than there is."""


class StoreError(NbadaptError):
    """A run is unknown or its files cannot be read."""


class RunError(NbadaptError):
    """The work failed on the way; what was done so far is kept."""


class Stopped(BaseException):
    """The user asked to stop. Not an Exception, so that ``except Exception`` in a library cannot eat it."""


OTHER_NAMES = {
    "lr": "learning_rate",
    "bs": "batch_size",
    "steps": "max_steps",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "rank": "r",
    "lora_r": "r",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "max_seq_length": "max_length",
    "per_device_train_batch_size": "batch_size",
}
"""What other libraries and people call some settings -> what they are called here."""

_AS_NEAR = 0.15  # how much less alike than the nearest word a second one may be


def nearest(word: str, valid: Iterable[str], *, most: int = 3) -> list[str]:
    """The valid words closest in spelling to `word`, best first; at most `most`, may be empty.

    A name that is common elsewhere, such as lr, gives the one that it has here.
    """
    words = list(valid)
    here = OTHER_NAMES.get(word)
    if here in words:
        return [here]
    close = difflib.get_close_matches(word, words, n=most, cutoff=0.5)
    alike = [difflib.SequenceMatcher(None, other, word).ratio() for other in close]
    return [other for other, ratio in zip(close, alike, strict=True) if ratio >= alike[0] - _AS_NEAR]


def did_you_mean(word: str, valid: Iterable[str], *, kind: str = "valid") -> str:
    """The end of an error line: the nearest valid words, or all of them where none is near.

    Args:
        word: what the user wrote.
        valid: every word that would have been right.
        kind: names the words in the list, as in "valid methods".
    """
    words = sorted(valid)
    close = nearest(word, words)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    if not words:
        return f"there are no {kind}"
    shown = ", ".join(words[:20]) + (", ..." if len(words) > 20 else "")
    return f"{kind}: {shown}"


def _said(error: BaseException) -> str:
    """What an error says, with secrets hidden; "" where even that fails."""
    try:
        return hide(str(error))
    except BaseException:  # noqa: BLE001 - a plugin's error may fail in any way
        return ""


def first_line(error: BaseException) -> str:
    """The first line of what an error says; the name of its type where it says nothing."""
    return next((line.strip() for line in _said(error).splitlines() if line.strip()), type(error).__name__)


def in_line(error: BaseException, function: Callable[..., Any]) -> str:
    """Where in the cell or file of a user's function an error arose, as ", in line 3: return 1 / 0"; "" if unknown."""
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    if not own:  # a builtin, or it was not even entered
        return ""
    return f", in line {own[-1].lineno}" + (f": {hide(own[-1].line)}" if own[-1].line else "")


def drop_frames(error: BaseException) -> None:
    """Let go of what the frames of an error hold (models, batches, their memory): of its causes too."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        following = link.__cause__ or link.__context__
        link.__traceback__ = link.__cause__ = link.__context__ = None
        link = following
