"""What one player said, as its column shows it: on the live page, in a saved notebook, as plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

from nbadapt.widgets.texts import clip

if TYPE_CHECKING:
    from nbadapt.playing.answers import Answer, Round
    from nbadapt.playing.occlusion import Importance

TEXT_BYTES = 9_000  # of one answer, or of the text whose words are marked
PART_BYTES = 16  # that a part of a text takes beside its letters
NAME_BYTES = 120
LINE_BYTES = 300
MOST_CLASSES = 12
MOST_WORDS = 8  # in the list of what matters most
LEAST = 0.001  # a weight that is told

Marks = Mapping[int, tuple[Sequence[str], Sequence[bool]]]


class Column(TypedDict):
    """One player's column.

    `segments` are (text, whether it differs), `bars` (class, probability), `words` (text, weight; none between two
    words), `top` the heaviest words, `line` the figures in words.
    """

    name: str
    about: str
    kind: str
    state: str
    line: str
    note: str
    segments: list[tuple[str, bool]]
    bars: list[tuple[str, float]]
    more: int
    words: list[tuple[str, float | None]]
    top: list[tuple[str, float]]
    about_class: str
    best: bool


def column(asked: Round, place: int, marks: Marks, chosen: str | None = None) -> Column:
    """The column of one player.

    Args:
        asked: the question.
        place: the player's.
        marks: of the pieces that are compared, by place; without those of an answer it is shown unmarked.
        chosen: the text that was found better.
    """
    player, answer = asked.players[place], asked.answers[place]
    pieces, marked = marks.get(place, (answer.pieces, [False] * len(answer.pieces)))
    known = answer.importance
    return {
        "name": clip(player.name, NAME_BYTES),
        "about": clip(player.about, NAME_BYTES),
        "kind": player.kind,
        "state": answer.state,
        "line": _line(answer, marked if place in marks and len(marks) > 1 else None),
        "note": clip(answer.note, LINE_BYTES),
        "segments": _segments(pieces, marked),
        "bars": [(clip(name, NAME_BYTES), round(p, 6)) for name, p in answer.classes[:MOST_CLASSES]],
        "more": max(0, len(answer.classes) - MOST_CLASSES),
        "words": _words(asked.prompt, known) if known is not None else [],
        "top": _top(asked.prompt, known) if known is not None else [],
        "about_class": clip(known.label, NAME_BYTES) if known is not None else "",
        "best": chosen is not None and answer.text == chosen and answer.state == "done",
    }


def _line(answer: Answer, marked: Sequence[bool] | None) -> str:
    """Such as "23 tokens, 5 differ, 1.2 s"."""
    parts = []
    if answer.pieces:
        unit = "token" if answer.by_token else "word"
        parts.append(f"{len(answer.pieces):,} {unit}{'s' * (len(answer.pieces) != 1)}")
        if marked is not None and answer.state != "working":
            parts.append(f"{sum(marked):,} marked" if any(marked) else "none marked")
    if answer.seconds:
        parts.append(f"{answer.seconds:.1f} s")
    return ", ".join(parts)


def _segments(pieces: Sequence[str], marked: Sequence[bool]) -> list[tuple[str, bool]]:
    """The text in parts, cut to `TEXT_BYTES`; neighbours of one kind together."""
    from nbadapt.playing.differences import segments

    found: list[tuple[str, bool]] = []
    room = TEXT_BYTES
    for text, mark in segments(pieces, marked):
        shown = clip(text, max(room, 1))
        found.append((shown, mark))
        room -= len(shown.encode()) + PART_BYTES
        if room <= 0 or len(shown) != len(text):
            return found if shown.endswith("…") else [*found, ("…", False)]
    return found


def _words(text: str, known: Importance) -> list[tuple[str, float | None]]:
    """The text in parts, each with its weight; what was not left out yet has none."""
    found: list[tuple[str, float | None]] = []
    at, room = 0, TEXT_BYTES
    for part in known.parts:
        between, word = text[at : part.start], text[part.start : part.end]
        found += [(clip(between, max(room, 1)), None)] * bool(between)
        found.append((clip(word, max(room, 1)), round(part.weight, 4)))
        at = part.end
        room -= len((between + word).encode()) + 2 * PART_BYTES
        if room <= 0:
            return [*found, ("…", None)]
    rest = text[at:]
    return [*found, (clip(rest, room), None)] if rest else found


def _top(text: str, known: Importance) -> list[tuple[str, float]]:
    """The heaviest words, whichever way they pull."""
    heavy = sorted(known.parts, key=lambda part: -abs(part.weight))[:MOST_WORDS]
    return [
        (clip(text[part.start : part.end], NAME_BYTES), round(part.weight, 4))
        for part in heavy
        if abs(part.weight) >= LEAST
    ]


def columns(asked: Round, chosen: str | None = None) -> list[Column]:
    """All columns, compared."""
    marks = asked.marks()
    return [column(asked, place, marks, chosen) for place in range(len(asked.players))]


def legend(asked: Round) -> str:
    """What the marks mean; "" where nothing is marked."""
    places = asked.comparable()
    if len(places) < 2:
        return ""
    first, unit = clip(asked.players[places[0]].name, NAME_BYTES), "words" if asked.by_word else "tokens"
    kept = "the other one lacks" if len(places) == 2 else "some other answer lacks"
    why = " (their tokens are not the same)" if asked.by_word else ""
    return f"Marked: {unit} that {first} lacks; in {first} those that {kept}{why}."
