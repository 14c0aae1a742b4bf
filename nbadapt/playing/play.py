"""A request to play -> a widget where somebody can click; where nobody can, the answers to one prompt."""

from __future__ import annotations

import keyword
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbadapt import runner, view
from nbadapt.errors import RequestError
from nbadapt.feedback.rank import LONGEST_NAME
from nbadapt.playing.answers import Round, ask
from nbadapt.playing.choice import Choices
from nbadapt.playing.players import Player
from nbadapt.playing.session import Playground
from nbadapt.playing.settings import Settings
from nbadapt.tables import Code, Page

EXAMPLE = "%nbadapt play tuned --prompt 'Why do chains wear out?'"


@dataclass(frozen=True)
class Asked:
    """What is to be played with, and how.

    Attributes:
        players: who answers.
        settings: how they are asked, at first.
        prompt: the first prompt; "": the person writes it.
        file: where preferences are kept.
        rater: who finds an answer better.

    Raises:
        RequestError: a prompt or a name that none can be.
    """

    players: Sequence[Player]
    settings: Settings = field(default_factory=Settings)
    prompt: str = ""
    file: Path = Path("prefs.jsonl")
    rater: str = "me"

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str):
            raise RequestError(f"the prompt is of type {type(self.prompt).__name__}: give a text")
        named = isinstance(self.rater, str) and self.rater.strip() and self.rater.isprintable()
        if not named or len(self.rater) > LONGEST_NAME:
            raise RequestError(f"the rater's name is {self.rater!r:.40}: give a short text, such as ann")
        if self.file.suffix.lower() != ".jsonl":
            raise RequestError(f"--file {self.file}: preferences are JSON lines: give a name that ends in .jsonl")


class Played:
    """The answers to one prompt, side by side.

    Attributes:
        prompt: what was asked.
        answers: player -> what it said; of a classifier the likeliest class.
        probabilities: classifier -> class -> probability.
    """

    def __init__(self, asked: Round) -> None:
        self._round = asked
        self.prompt = asked.prompt
        pairs = list(zip(asked.players, asked.answers, strict=True))
        self.answers = {p.name: a.classes[0][0] if a.classes else a.text for p, a in pairs}
        self.probabilities = {p.name: dict(a.classes) for p, a in pairs if p.kind == "classify"}

    def __repr__(self) -> str:
        return self._repr_mimebundle_()["text/plain"]

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        from nbadapt.widgets.play_report import bundle

        return bundle(self._round)


def play(asked: Asked) -> tuple[Played | Page | None, Playground]:
    """Show the playground; or, where nobody could use it, answer its prompt.

    Returns:
        What is to be shown, None where a widget is; and the playground.

    Raises:
        NbadaptError: the preference file is of another form, or nothing can be asked beside a run.
    """
    playground = Playground(asked.players, Choices(asked.file.absolute(), asked.rater))
    if view.has_front_end():
        from nbadapt.widgets.playground import show

        show(playground, asked.settings, asked.prompt)
        return None, playground
    if not asked.prompt.strip():
        return _nobody(asked.players), playground
    busy = runner.current()
    if busy is not None:
        raise RequestError(f"the run {busy.id} is still going on here: wait for it, or stop it with  %nbadapt stop")
    found = Round(asked.prompt, asked.settings, asked.players)
    ask(found, lambda _place: None, lambda: None)
    return Played(found), playground


def _nobody(players: Sequence[Player]) -> Page:
    """What a notebook without anybody to click shows, before it goes on."""
    names = ", ".join(player.name for player in players)
    return Page(
        f"Nobody can type here: the playground of {names} needs a notebook that is open in a browser.",
        "With a prompt on the line it answers once, anywhere:",
        Code(EXAMPLE),
    )


def file_of(name: str | None, path: Path | None) -> Path:
    """Where preferences are kept.

    Raises:
        RequestError: a name that no variable can have.
    """
    if name is not None and (not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name)):
        raise RequestError(f"--as {name!r} is no variable name: use letters, digits and _, such as prefs")
    return path if path is not None else Path(f"{name or 'prefs'}.jsonl")
