"""The line of ``%nbadapt rank`` -> a request, and its help."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbadapt.cells import brief
from nbadapt.errors import DataError, RequestError, did_you_mean
from nbadapt.feedback.rank import Asked, named, rank, short_names
from nbadapt.feedback.supply import Sampling
from nbadapt.line_options import Option, read, table
from nbadapt.preferences import Preferences
from nbadapt.tables import Code, Page

EXAMPLE = "%nbadapt rank --model smollm2,tuned --prompts questions --as prefs"


OPTIONS: Mapping[str, Option] = {
    "--model": Option("models", "NAME,...", "who answers: models or runs; several times, or with commas", "names"),
    "--prompts": Option("prompts", "TABLE", "a list of texts, or a table with prompt, or with prompt and answers"),
    "--as": Option("name", "VARIABLE", "the variable that gets the preferences; they are kept in VARIABLE.jsonl"),
    "--file": Option("path", "PATH", "another place for that file"),
    "--rater": Option("rater", "NAME", "who ranks (me)"),
    "--rater-function": Option(
        "function", "FUNCTION", "f(prompt, answers) -> index of the best answer, None for a tie"
    ),
    "--again": Option("again", "", "judge the same pairs once more, in another order", "switch"),
    "--report": Option(
        "", "", "show the agreement of raters, the share of left answers and what each model won", "switch"
    ),
    "--answers": Option("answers", "N", "answers of each model to each prompt (1; of a single model 2)", "whole"),
    "--temperature": Option("temperature", "T", "0 takes the most probable token each time (0.7)", "number"),
    "--top-p": Option("top_p", "P", "share of the probability that sampling keeps (1)", "number"),
    "--max-new-tokens": Option("max_new_tokens", "N", "the longest answer, in tokens (128)", "whole"),
    "--seed": Option("seed", "N", "decides the drawing of answers and every order (0)", "whole"),
    "--trust-remote-code": Option("trust_remote_code", "", "let code that comes with a model run", "switch"),
}
_SAMPLING = ("answers", "temperature", "top_p", "max_new_tokens", "seed")


def execute(words: list[str], namespace: Mapping[str, Any]) -> Any:
    """Do what the words behind ``%nbadapt rank`` say, and bind the preferences to their variable.

    Returns:
        What is to be shown; None where a widget is.

    Raises:
        NbadaptError: a word that is not understood, or what `nbadapt.feedback.rank.rank` raises.
    """
    if not words or not {"--help", "-h"}.isdisjoint(words):
        return help_page()
    given, rest = read(words, OPTIONS, "%nbadapt rank")
    if given.pop("report", False):
        return _reported(given, rest, namespace).report()
    if rest:
        raise RequestError(f"unexpected {rest[0]!r}: write  {EXAMPLE}")
    if "name" not in given:
        raise RequestError(f"no name given: add --as, as in  {EXAMPLE}")
    asked = _asked(given, namespace)
    preferences, shown = rank(asked)
    if hasattr(namespace, "__setitem__"):
        namespace[asked.name] = preferences
    return None if shown else preferences


def _asked(given: dict[str, Any], namespace: Mapping[str, Any]) -> Asked:
    """The request, with the values of notebook variables in place of their names."""
    from nbadapt.request import model_of

    fields = {name: value for name, value in given.items() if name not in _SAMPLING}
    sampling = {name: value for name, value in given.items() if name in _SAMPLING}
    names = fields.get("models", [])
    if len(names) == 1:
        sampling.setdefault("answers", 2)
    fields["models"], fields["model_names"] = [model_of(name, namespace) for name in names], short_names(names)
    if "prompts" in fields:
        fields["prompts_name"] = fields["prompts"]
        fields["prompts"], fields["prompts_named"] = _prompts(fields["prompts"], namespace)
    if "function" in fields:
        fields["function"] = _function(fields["function"], namespace)
        fields.setdefault("rater", given["function"])
    fields["path"] = named(fields.get("path"))
    return Asked(**fields, sampling=Sampling(**sampling))


def _prompts(word: str, namespace: Mapping[str, Any]) -> tuple[Any, bool]:
    """What the word names, and whether it is the name of a file or a hub data set."""
    if word.isidentifier() and word in namespace:
        return namespace[word], False
    if word.isidentifier() and not Path(word).exists():
        own = [name for name, value in namespace.items() if holds_prompts(name, value)]
        hint = did_you_mean(word, own, kind="lists and tables here")
        raise RequestError(f"--prompts {word}: no notebook variable and no file has this name; {hint}")
    return word, True


def holds_prompts(name: str, value: Any) -> bool:
    """Whether a notebook variable may be what is to be ranked."""
    from nbadapt.request import column_names

    texts = isinstance(value, list) and bool(value) and isinstance(value[0], str)
    return not name.startswith("_") and name not in {"In", "Out"} and (texts or bool(column_names(value)))


def _function(word: str, namespace: Mapping[str, Any]) -> Any:
    if callable(namespace.get(word)):
        return namespace[word]
    if word in namespace:
        raise RequestError(f"--rater-function {word}: that variable holds {brief(namespace[word])}, no function")
    own = [name for name, value in namespace.items() if callable(value) and not name.startswith("_")]
    hint = did_you_mean(word, own, kind="functions here")
    raise RequestError(f"--rater-function {word}: no variable has this name ({hint}); def {word}(prompt, answers): ...")


def _reported(given: Mapping[str, Any], rest: list[str], namespace: Mapping[str, Any]) -> Preferences:
    """The preferences that ``--report`` is about: of a variable, of --as, or of a file."""
    other = [flag for flag, option in OPTIONS.items() if option.field in given.keys() - {"path", "name"}]
    if other:
        raise RequestError(f"--report stands alone: leave out {', '.join(other)}")
    if len(rest) > 1:
        raise RequestError(f"unexpected {rest[1]!r}: write  %nbadapt rank prefs --report")
    word = rest[0] if rest else given.get("path") or given.get("name")
    if word is None:
        raise RequestError("whose report? write  %nbadapt rank prefs --report")
    if isinstance(namespace.get(word), Preferences):
        found: Preferences = namespace[word]
        return found
    path = named(word if word.lower().endswith(".jsonl") else f"{word}.jsonl")
    assert path is not None  # only None has none
    if not path.is_file() and not path.with_name(f"{path.stem}.votes.jsonl").is_file():
        raise DataError(f"no variable {word} with preferences, and no file {path}: rank first, with  {EXAMPLE}")
    return Preferences(path.absolute())


def help_page() -> Page:
    """How the command is written."""
    return Page(
        "%nbadapt rank: people choose between answers, blind",
        Code(EXAMPLE),
        table(OPTIONS),
        "Each choice is on the disk at once; the same line goes on where it was. "
        "The table is for methods that learn from preferences: --data prefs",
    )
