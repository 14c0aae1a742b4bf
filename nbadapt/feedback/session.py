"""One rater's way through the comparisons: which is next, in which order its answers stand, what was chosen."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from nbadapt.cells import brief
from nbadapt.errors import NbadaptError, RequestError, RunError, drop_frames, first_line, in_line

if TYPE_CHECKING:
    from nbadapt.feedback.comparisons import Comparison
    from nbadapt.feedback.supply import Supply
    from nbadapt.preferences import Preferences, Verdict, Vote

Rater = Callable[[str, list[str]], Any]
State = Literal["asking", "waiting", "done", "failed"]
POLL = 0.1  # seconds between two looks for an interrupt


class Session:
    """What a widget or a function ranks. Choices are on the disk when `choose` and `undo` return.

    Args:
        preferences: takes the choices.
        supply: gives the comparisons; `start` starts it.
        rater: who chooses.
        turn: which pass over the pairs it is, from 1.
        seed: decides the order in which answers are shown.
    """

    def __init__(
        self,
        preferences: Preferences,
        supply: Supply,
        *,
        rater: str,
        turn: int,
        seed: int,
    ) -> None:
        self.preferences, self.supply, self.rater, self.turn = preferences, supply, rater, turn
        self._order = f"{seed} {rater} {turn}"
        self._lock = threading.RLock()
        self._at = 0  # no comparison before this one is open
        self._take_in()

    def start(self, changed: Callable[[], None]) -> None:
        """Begin to supply comparisons; `changed` is called when new ones are there, perhaps in another thread."""
        with self._lock:
            self.supply.need(self.done)
        self.supply.start(changed)

    def _take_in(self) -> None:
        """The choices of this rater in this pass, of earlier sessions and other processes too."""
        self.preferences.refresh()
        self._own = [v for v in self.preferences.votes if (v.rater, v.turn) == (self.rater, self.turn)]
        self._judged = {vote.pair for vote in self._own}

    @property
    def current(self) -> Comparison | None:
        """The comparison that is to be judged now, its answers in the order to show; None where none is there."""
        with self._lock:
            ready = self.supply.ready
            while self._at < len(ready) and ready[self._at].key in self._judged:
                self._at += 1
            return ready[self._at].shuffled(self._order) if self._at < len(ready) else None

    @property
    def state(self) -> State:
        """Whether there is something to judge, or will be."""
        finished = self.supply.finished  # asked first: what comes between is then not missed
        if self.current is not None:
            return "asking"
        if not finished:
            return "waiting"
        return "failed" if self.supply.failure else "done"

    @property
    def done(self) -> int:
        """How many of the comparisons that are there have been judged."""
        with self._lock:
            return sum(comparison.key in self._judged for comparison in self.supply.ready)

    @property
    def can_undo(self) -> bool:
        """Whether there is a choice to take back."""
        return self._last() is not None

    def _last(self) -> Vote | None:
        with self._lock:
            here = {comparison.key for comparison in self.supply.ready}
            return next((vote for vote in reversed(self._own) if vote.pair in here), None)

    def choose(self, key: str, verdict: Verdict, place: int | None = None) -> bool:
        """Keep a choice about the current comparison, and go on to the next.

        Args:
            key: of the comparison that was judged; where that is not the current one, nothing is kept.
            verdict: "best", "tie" or "skip".
            place: of the best answer as shown, from 0.

        Returns:
            Whether it was kept.

        Raises:
            StoreError: it could not be written, and is not kept.
        """
        with self._lock:
            shown = self.current
            if shown is None or shown.key != key:
                return False
            if verdict == "best" and (place is None or not 0 <= place < len(shown.answers)):
                return False
            vote = self.preferences.add(
                shown.prompt,
                shown.answers,
                verdict=verdict,
                place=place,
                models=shown.models,
                rater=self.rater,
                turn=self.turn,
            )
            self._own.append(vote)
            self._judged.add(vote.pair)
            self.supply.need(self.done)
            return True

    def undo(self) -> bool:
        """Take this rater's last choice back; its comparison is the current one again. Whether there was one.

        Raises:
            StoreError: it could not be written, and the choice stands.
        """
        with self._lock:
            vote = self._last()
            if vote is None:
                return False
            self.preferences.undo(vote)
            self._own.remove(vote)
            self._judged = {own.pair for own in self._own}
            keys = [comparison.key for comparison in self.supply.ready]
            if vote.pair not in self._judged:
                self._at = min(self._at, keys.index(vote.pair))
            return True

    def close(self) -> None:
        """End the supply; nothing is lost."""
        self.supply.close()


def judge(session: Session, rater: Rater, name: str) -> None:
    """Let a function judge all comparisons, each as it comes.

    Args:
        session: where they come from and go to.
        rater: gives the index of the best answer, or None for a tie.
        name: what messages call it.

    Raises:
        RequestError: it gave something else, or the user interrupted; earlier choices are kept.
        RunError: it raised an error; earlier choices are kept.
        NbadaptError: the answers could not be generated.
    """
    session.start(lambda: None)
    try:
        while session.state in {"asking", "waiting"}:
            shown = session.current
            if shown is None:
                session.supply.wait(POLL)
                continue
            place = _asked(rater, name, shown.prompt, shown.answers, session.done)
            session.choose(shown.key, "tie" if place is None else "best", place)
    except KeyboardInterrupt:
        raise RequestError(f"ranking was interrupted: {_kept(session.done)}; the same line goes on") from None
    finally:
        session.close()
    if session.state == "failed":
        raise RunError(f"{session.supply.failure} ({_kept(session.done)})")


def _asked(rater: Rater, name: str, prompt: str, answers: Sequence[str], done: int) -> int | None:
    try:
        given = rater(prompt, list(answers))
    except NbadaptError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the user's function raises becomes one line
        reason = f"{type(error).__name__}: {first_line(error)}{in_line(error, rater)}"
        line = f"{name} failed on comparison {done + 1}: {reason}; {_kept(done)}"
        drop_frames(error)
        raise RunError(line) from None
    if given is None:
        return None
    try:
        place = -1 if isinstance(given, bool) else operator.index(given)
    except TypeError:
        place = -1
    if not 0 <= place < len(answers):
        raise RequestError(
            f"{name} gave {brief(given)} for comparison {done + 1}: give the index of the best of the "
            f"{len(answers)} answers, 0 to {len(answers) - 1}, or None for a tie; {_kept(done)}"
        )
    return place


def _kept(done: int) -> str:
    return "1 choice is kept" if done == 1 else f"{done:,} choices are kept"
