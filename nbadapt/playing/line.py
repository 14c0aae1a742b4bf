"""The line of ``%nbadapt play`` -> a request, and its help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nbadapt.errors import RequestError
from nbadapt.feedback.rank import named
from nbadapt.line_options import Option, read, table
from nbadapt.playing import settings
from nbadapt.playing.play import EXAMPLE, Asked, file_of, play
from nbadapt.playing.players import of_line, players
from nbadapt.tables import Code, Page

OPTIONS: Mapping[str, Option] = {
    "--model": Option("models", "NAME,...", "a model as it is; several times, or with commas", "names"),
    "--prompt": Option("prompt", "TEXT", "ask this at once; where nobody can type, it is all that is asked"),
    "--temperature": Option("temperature", "T", "draw tokens; 0 takes the most probable one each time (0)", "number"),
    "--top-p": Option("top_p", "P", "draw from the likeliest tokens that share this probability (1)", "number"),
    "--seed": Option("seed", "N", "decides the drawing (0)", "whole"),
    "--max-new-tokens": Option("max_new_tokens", "N", "the longest answer, in tokens (128)", "whole"),
    "--as": Option("name", "VARIABLE", "the variable that gets the preferences; they are kept in VARIABLE.jsonl"),
    "--file": Option("path", "PATH", "another place for that file (prefs.jsonl)"),
    "--rater": Option("rater", "NAME", "who finds an answer better (me)"),
    "--trust-remote-code": Option("trust_remote_code", "", "let code that comes with a model run", "switch"),
}
_SETTINGS = ("temperature", "top_p", "seed", "max_new_tokens")


def execute(words: list[str], namespace: Mapping[str, Any]) -> Any:
    """Do what the words behind ``%nbadapt play`` say.

    Returns:
        What is to be shown; None where a widget is.

    Raises:
        NbadaptError: a word that is not understood, a run that cannot play, or what `nbadapt.playing.play.play` raises.
    """
    if not {"--help", "-h"}.isdisjoint(words):
        return help_page()
    given, rest = read(words, OPTIONS, "%nbadapt play")
    found = players(
        of_line(rest, namespace),
        [_model(name, namespace) for name in given.get("models", [])],
        trust_remote_code=given.get("trust_remote_code", False),
    )
    name = given.get("name")
    shown, playground = play(
        Asked(
            found,
            settings.settings({key: given[key] for key in _SETTINGS if key in given}),
            given.get("prompt", ""),
            file_of(name, named(given.get("path"))),
            given.get("rater", "me"),
        )
    )
    if name is not None and hasattr(namespace, "__setitem__"):
        namespace[name] = playground.choices.preferences
    return shown


def _model(word: str, namespace: Mapping[str, Any]) -> str:
    """A model's name; a variable that holds one stands for it, and a run is named without --model."""
    from nbadapt.request import model_of

    found = model_of(word, namespace)
    if not isinstance(found, str):
        raise RequestError(f"--model {word}: that variable holds a run: write  %nbadapt play {word}")
    return found


def help_page() -> Page:
    """How the command is written."""
    return Page(
        "%nbadapt play RUN...: ask models and what was made of them side by side",
        Code(EXAMPLE),
        table(OPTIONS),
        "RUN is a run's id, its beginning, the name that --as gave it, or a variable. Before the runs stands the model "
        "that they were made from. Classifiers show their probabilities, and which words these rest on.",
    )
