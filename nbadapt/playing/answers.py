"""One prompt, and what every player says to it; used by the widget's thread and by a run without anybody to click."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from nbadapt.capture import quiet_libraries
from nbadapt.errors import NbadaptError, RequestError, Stopped, drop_frames, first_line
from nbadapt.playing.differences import compared, words
from nbadapt.playing.occlusion import Importance, occlude

if TYPE_CHECKING:
    from nbadapt.method import Adapted, Predictions
    from nbadapt.playing.players import Player
    from nbadapt.playing.settings import Settings

State = Literal["waiting", "loading", "working", "done", "stopped", "failed"]
Tick = Callable[[], None]


@dataclass(frozen=True)
class Answer:
    """What one player said.

    Attributes:
        state: how far it is; what is there so far stays when it is stopped.
        pieces: the text it writes, a token each; where no tokens were heard, words.
        by_token: whether the pieces are tokens.
        classes: of a classifier (class, probability), the likeliest first.
        importance: what the class rests on.
        seconds: that it took, without loading.
        note: why it failed, or how far it is, in one line.
    """

    state: State = "waiting"
    pieces: tuple[str, ...] = ()
    by_token: bool = False
    classes: tuple[tuple[str, float], ...] = ()
    importance: Importance | None = None
    seconds: float = 0.0
    note: str = ""

    @property
    def text(self) -> str:
        """What it wrote."""
        return "".join(self.pieces)


@dataclass
class Round:
    """One prompt with its answers, which grow.

    Attributes:
        prompt: what was asked.
        settings: how.
        players: who was asked; the answers are in their order.
    """

    prompt: str
    settings: Settings
    players: Sequence[Player]
    answers: list[Answer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.answers = self.answers or [Answer() for _ in self.players]

    def comparable(self) -> list[int]:
        """The places of the texts that were written."""
        return [i for i, p in enumerate(self.players) if p.kind == "generate" and self.answers[i].pieces]

    def marks(self) -> dict[int, tuple[tuple[str, ...], list[bool]]]:
        """The pieces of every text by place, each with whether it is marked; see `differences.compared`.

        Where two texts are of models with different tokens, all are compared word by word.
        """
        places = self.comparable()
        shown = [self.answers[i].pieces for i in places]
        if self.by_word:
            shown = [tuple(words("".join(pieces))) for pieces in shown]
        return {i: (pieces, marks) for i, pieces, marks in zip(places, shown, compared(shown), strict=True)}

    @property
    def by_word(self) -> bool:
        """Whether the texts are compared word by word, because their tokens are not the same."""
        places = self.comparable()
        return len({self.players[i].tokens for i in places}) > 1 or not all(self.answers[i].by_token for i in places)


def ask(round_: Round, changed: Callable[[int], None], tick: Tick) -> None:
    """Let every player answer, one after the other; a failure is told in its own answer, and the next one is asked.

    Args:
        round_: takes the answers.
        changed: told the place of the answer that has grown.
        tick: called before each player, between tokens and between batches; it may wait, and end all by Stopped.
    """
    for place, player in enumerate(round_.players):

        def tell(answer: Answer, place: int = place) -> None:
            round_.answers[place] = answer
            changed(place)

        try:
            tick()
            _one(player, round_, tell, tick)
        except Stopped:
            for left in range(place, len(round_.players)):
                round_.answers[left] = replace(round_.answers[left], state="stopped")
                changed(left)
            return
        except NbadaptError as error:
            tell(replace(round_.answers[place], state="failed", note=str(error)))
            drop_frames(error)
        except Exception as error:  # noqa: BLE001 - whatever a model raises becomes one line, and the next one is asked
            line = f"{type(error).__name__}: {first_line(error)}"
            tell(replace(round_.answers[place], state="failed", note=line))
            drop_frames(error)


def _one(player: Player, round_: Round, tell: Callable[[Answer], None], tick: Tick) -> None:
    tell(Answer("loading"))
    with quiet_libraries():
        model = player.load()
    tick()
    tell(Answer("working"))
    started = time.monotonic()
    if player.kind == "classify":
        _classify(model, round_, tell, tick)
    else:
        _generate(model, round_, tell, tick)
    place = round_.players.index(player)
    tell(replace(round_.answers[place], state="done", seconds=time.monotonic() - started))


def _generate(model: Adapted, round_: Round, tell: Callable[[Answer], None], tick: Tick) -> None:
    from nbadapt.engines.streaming import listening

    if "generate" not in model.abilities:
        raise RequestError("its method writes no text")
    heard: list[str] = []

    def hear(pieces: list[str]) -> None:
        heard[:] = pieces
        tell(Answer("working", _stripped(pieces), by_token=True))

    with listening(hear):
        (text,) = model.generate([round_.prompt], **round_.settings.sampling(), tick=tick)
    pieces = _stripped(heard)
    whole = "".join(pieces) == text  # and not one of several that a method asked for, or an endpoint's
    tell(Answer("working", pieces if whole else tuple(words(text)), by_token=whole))


def _stripped(pieces: Sequence[str]) -> tuple[str, ...]:
    """The pieces without the white space at both ends of their text."""
    found = list(pieces)
    while found and not found[0].strip():
        del found[0]
    while found and not found[-1].strip():
        del found[-1]
    if found:
        found[0] = found[0].lstrip()
        found[-1] = found[-1].rstrip()
    return tuple(found)


def _classify(model: Adapted, round_: Round, tell: Callable[[Answer], None], tick: Tick) -> None:
    if "predict" not in model.abilities:
        raise RequestError("its method tells no classes")

    def predict(texts: Sequence[str]) -> Predictions:
        tick()
        return model.predict(texts)

    found = predict([round_.prompt])
    row = found.probabilities[0]
    ranked = sorted(zip(found.names, map(float, row), strict=True), key=lambda pair: -pair[1])
    answer = Answer("working", classes=tuple(ranked), note="" if row.any() else "the answer named no class")
    tell(answer)
    if not round_.settings.words or not row.any():
        return
    for done, total, importance in occlude(predict, round_.prompt, row, found.names):
        answer = replace(answer, importance=importance, note=f"{done:,} of {total:,} words" * (done < total))
        tell(answer)
    if answer.importance is None:
        tell(replace(answer, note="a single word: there is none to leave out"))
