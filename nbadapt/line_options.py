"""Options of a sub-command's line, declared in a table: read, and listed in its help."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nbadapt.errors import RequestError, did_you_mean
from nbadapt.tables import Table


@dataclass(frozen=True)
class Option:
    """One option of the line.

    Attributes:
        field: what its value is called in the request; "": as the flag.
        metavar: what its value is called in help; "" for a switch.
        kind: how its value is read; names stand with commas between them, and several times.
    """

    field: str
    metavar: str
    help: str
    kind: Literal["text", "names", "whole", "number", "switch"] = "text"


def read(words: Iterable[str], options: Mapping[str, Option], command: str) -> tuple[dict[str, Any], list[str]]:
    """The options by field, their values read; and the words that are none.

    Raises:
        RequestError: an option that `command` does not have, or a value that it cannot have.
    """
    given: dict[str, Any] = {}
    others = []
    rest = iter(words)
    for word in rest:
        flag, equals, value = word.partition("=")
        if not word.startswith("--"):
            others.append(word)
            continue
        option = options.get(flag)
        if option is None:
            raise RequestError(f"unknown option {flag!r} of {command}: {did_you_mean(flag, options, kind='options')}")
        field = option.field or flag.removeprefix("--")
        if option.kind == "switch":
            if equals:
                raise RequestError(f"{flag} takes no value: write it alone")
            given[field] = True
            continue
        value = value if equals else next(rest, "")
        if not value or value.startswith("--"):
            raise RequestError(f"{flag} needs a value: write  {flag} {option.metavar}")
        if option.kind == "names":
            given.setdefault(field, []).extend(part.strip() for part in value.split(",") if part.strip())
        elif field in given:
            raise RequestError(f"{flag} is given twice; keep one")
        else:
            given[field] = _value(flag, option, value)
    return given, others


def _value(flag: str, option: Option, text: str) -> Any:
    if option.kind == "text":
        return text
    try:
        return int(text) if option.kind == "whole" else float(text)
    except ValueError:
        wanted = "a whole number" if option.kind == "whole" else "a number"
        raise RequestError(f"{flag} is {text!r}: give {wanted}") from None


def table(options: Mapping[str, Option]) -> Table[tuple[str, Option]]:
    """The options with their meaning, for a help page."""
    return Table(
        options.items(),
        {"option": lambda item: f"{item[0]} {item[1].metavar}".strip(), "meaning": lambda item: item[1].help},
        empty="",
    )
