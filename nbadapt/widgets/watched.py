"""What a dashboard or a report needs of a run: `nbadapt.run.Run` has it, and so can a small object in a test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from nbadapt.control import Control
    from nbadapt.events import Event
    from nbadapt.history import History
    from nbadapt.method import Outcome


class Watched(Protocol):
    """A run as the dashboard sees it while it works."""

    @property
    def title(self) -> str:
        """One line that names the run: "finetune lora · minilm"."""

    @property
    def verb(self) -> str:
        """Either "finetune" or "prompt"."""

    @property
    def events(self) -> Sequence[tuple[float, Event]]:
        """Every event with its time (seconds since the epoch); grows at its end, from another thread."""

    @property
    def control(self) -> Control:
        """The run's switches: read and turned."""


class Reported(Protocol):
    """A run as the static result sees it, while it works or long after."""

    @property
    def id(self) -> str:
        """The name of the run's folder."""

    @property
    def title(self) -> str:
        """One line that names the run."""

    @property
    def events(self) -> Sequence[tuple[float, Event]]:
        """Every event with its time (seconds since the epoch)."""

    @property
    def state(self) -> str:
        """One of `nbadapt.events.State`; "killed" is known from the disk alone."""

    @property
    def verb(self) -> str:
        """Either "finetune" or "prompt"."""

    @property
    def log(self) -> History:
        """All events, folded."""

    @property
    def outcome(self) -> Outcome | None:
        """What the run left behind; None while it works or where it failed."""

    @property
    def error(self) -> BaseException | None:
        """Why the run failed."""
