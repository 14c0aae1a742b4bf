"""The better answer of a prompt, kept as a preference: the same votes and file as ``%nbadapt rank`` makes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nbadapt.errors import RequestError
from nbadapt.feedback.comparisons import Comparison, compare
from nbadapt.feedback.rank import opened

if TYPE_CHECKING:
    from nbadapt.playing.answers import Round
    from nbadapt.preferences import Preferences, Vote


class Choices:
    """What one person chose in one playground.

    Args:
        path: of the preference file, which need not be there; it is opened at the first choice.
        rater: who chooses.

    Raises:
        NbadaptError: there is such a file, of another form, or it cannot be in that place.
    """

    def __init__(self, path: Path, rater: str) -> None:
        self.preferences: Preferences = opened(path)
        self._rater = rater
        self._votes: list[Vote] = []  # made here, oldest first

    def best(self, asked: Round, place: int) -> str:
        """Keep that the answer at a place is better than all other ones, and tell it in a line.

        Raises:
            RequestError: there is nothing that it could be better than.
            StoreError: it could not be written, and is not kept.
        """
        found = comparison(asked)
        whole = place in range(len(asked.answers)) and asked.answers[place].state == "done"
        text = asked.answers[place].text if whole else ""
        if found is None or text not in found.answers:
            raise RequestError("nothing to choose from: two different answers that are complete are needed")
        vote = self.preferences.add(
            found.prompt,
            found.answers,
            verdict="best",
            place=found.answers.index(text),
            models=found.models,
            rater=self._rater,
        )
        self._votes.append(vote)
        return f"{asked.players[place].name} is better: kept. {self._count()}"

    def undo(self) -> str:
        """Take the last choice of this playground back, and tell it in a line.

        Raises:
            RequestError: there is none.
            StoreError: it could not be written, and the choice stands.
        """
        if not self._votes:
            raise RequestError("there is no choice to take back")
        self.preferences.undo(self._votes[-1])
        self._votes.pop()
        return f"Taken back. {self._count()}"

    @property
    def can_undo(self) -> bool:
        """Whether there is a choice to take back."""
        return bool(self._votes)

    def chosen(self, asked: Round) -> str | None:
        """The text that was chosen last for this prompt and these answers."""
        found = comparison(asked)
        key = found.key if found is not None else None
        return next((vote.best for vote in reversed(self._votes) if vote.pair == key), None)

    def _count(self) -> str:
        name, count = self.preferences.path.name, len(self.preferences)
        late = f" ({self.preferences.late})" if self.preferences.late else ""
        return (f"1 preference in {name}" if count == 1 else f"{count:,} preferences in {name}") + late


def comparison(asked: Round) -> Comparison | None:
    """The complete answers, to be compared; None where there are no two different ones."""
    whole = [
        (player.name, answer.text)
        for player, answer in zip(asked.players, asked.answers, strict=True)
        if player.kind == "generate" and answer.state == "done"
    ]
    return compare(asked.prompt, whole)
