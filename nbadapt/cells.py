"""One cell of a user's table -> the text, label or conversation that a task needs.

Every function takes any value and raises `UnfitError`, whose text says what is wrong and what to do; the caller
knows the row and the column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

ROLES = ("system", "user", "assistant")
EMPTY = "the cell is empty: fill it or drop the row"

Message = dict[str, str]
"""One turn of a conversation: ``role`` and ``content``."""


class UnfitError(ValueError):
    """A cell that a task cannot use; the text says why, and what to do."""


def plain(value: Any) -> Any:
    """A value in Python's own types: scalars and arrays of numpy, pandas and torch unpacked, NaN and NA None."""
    if value is None or type(value) in (str, bool, int):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else float(value)
    if isinstance(value, str):
        return str.__str__(value)
    if type(value).__name__ in ("NAType", "NaTType"):  # pandas' missing values, without importing pandas
        return None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    unpack = getattr(value, "tolist", None) or getattr(value, "to_list", None)
    return plain(unpack()) if unpack is not None else value


def text(value: Any) -> str:
    """A text that is more than white space, unchanged."""
    if value is None or (isinstance(value, str) and not value.strip()):
        raise UnfitError(EMPTY)
    if not isinstance(value, str):
        raise UnfitError(
            f"{kind(value)} ({brief(value)}) where a text is needed: convert the column to text, or name another column"
        )
    if not value.isascii():
        _check_unicode(value)
    return value


def optional_text(value: Any) -> str:
    """A text, or "" for an empty cell."""
    return "" if value is None or value == "" else text(value)


def label(value: Any) -> str:
    """A class name: text without the white space around it; 1, 1.0 and True become "1", "1" and "True"."""
    if isinstance(value, float) and not value.is_integer():
        raise UnfitError(f"{value:g} is a measure, not a class: a label is a text or a whole number")
    return answer(value).strip()


def answer(value: Any) -> str:
    """A completion: text unchanged, a number as text, or the content of a list of one assistant message."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, list):
        turns = messages(value)
        if [turn["role"] for turn in turns] != ["assistant"]:
            raise UnfitError("more than one assistant message: put the others into the prompt")
        return turns[0]["content"]
    return text(value)


def prompt(value: Any) -> str | list[Message]:
    """A text, or a conversation that the model is to continue."""
    if not isinstance(value, list):
        return text(value)
    turns = messages(value)
    if turns[-1]["role"] == "assistant":
        raise UnfitError("the prompt ends with an assistant message: end it with the user's")
    return turns


def conversation(value: Any) -> tuple[list[Message], str]:
    """The messages before the last one, and the last one's content, which is the assistant's."""
    turns = messages(value)
    if turns[-1]["role"] != "assistant":
        raise UnfitError(
            f"the last message is the {turns[-1]['role']}'s: the assistant's answer must end the conversation"
        )
    if not any(turn["role"] == "user" for turn in turns[:-1]):
        raise UnfitError("no user message comes before the assistant's answer: add the question")
    return turns[:-1], turns[-1]["content"]


def messages(value: Any) -> list[Message]:
    """A conversation of one message or more, each with only its role and its content."""
    if value is None or value in ("", []):
        raise UnfitError("the conversation is empty: give at least a user and an assistant message, or drop the row")
    if isinstance(value, str):
        raise UnfitError(
            "a text where a list of messages is needed: keep conversations in JSONL or Parquet, not in CSV"
        )
    if not isinstance(value, list):
        raise UnfitError(f"{kind(value)} ({brief(value)}) where a list of messages is needed")
    turns = [_message(number, turn) for number, turn in enumerate(value, 1)]
    if any(turn["role"] == "system" for turn in turns[1:]):
        raise UnfitError("a system message that is not the first: move it to the start of the conversation")
    return turns


def _message(number: int, turn: Any) -> Message:
    if not isinstance(turn, Mapping) or not {"role", "content"} <= set(turn):
        raise UnfitError(f'message {number} is not of the form {{"role": ..., "content": ...}}')
    role, content = turn["role"], turn["content"]
    if role not in ROLES:
        raise UnfitError(f"message {number} has the role {brief(role)}: use {', '.join(ROLES)}")
    if not isinstance(content, str) or not content.strip():
        raise UnfitError(f"message {number} ({role}) has no text in its content: fill it or drop the row")
    _check_unicode(content)
    return {"role": role, "content": content}


def _check_unicode(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UnfitError(f"character {error.start + 1} is half of a pair (broken Unicode): clean the text") from None


def kind(value: Any) -> str:
    """The type of a value with its article, for messages: "an int"."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def brief(value: Any, most: int = 40) -> str:
    """A value in one short line, for messages."""
    line = " ".join(repr(value).split())
    return line if len(line) <= most else line[: most - 3] + "..."


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names in one line, for messages; the number of those left out at the end."""
    shown = ", ".join(" ".join(name.split())[:40] or "''" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
