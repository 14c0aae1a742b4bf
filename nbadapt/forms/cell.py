"""A method, options and settings -> the cell that says the same, as a person would write it.

Every value is written in the plainest way that is read back as the same value, which is tried.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from nbadapt import body
from nbadapt.errors import RequestError
from nbadapt.options import options, setting_flag
from nbadapt.request import words
from nbadapt.settings import escaped, from_text, shown

if TYPE_CHECKING:
    from nbadapt.method import Method


def write(method: type[Method], given: Mapping[str, str], settings: Mapping[str, Any], prompt: str = "") -> str:
    """The text of a ``%%finetune`` or ``%%prompt`` cell.

    Args:
        method: its verb is the magic.
        given: flag -> value of the options; "" leaves an option out, "true" is a flag without a value.
        settings: those that differ from their defaults.
        prompt: the template, for prompt methods.

    Raises:
        RequestError: a text that cannot be written on the line, because it holds both kinds of quotes or a line break.
    """
    known = options(method.verb)
    line = [f"%%{method.verb}", method.name]
    for flag, value in given.items():
        if not known[flag].metavar:
            line += [flag] if value == "true" else []
        elif value != "":
            line += _option(flag, value, flag)
    if method.verb == "finetune":
        rest = [_yaml_line(name, value) for name, value in settings.items()]
        return "\n".join([" ".join(line), *rest])
    for name, value in settings.items():
        line += _setting_option(method, name, value)
    return " ".join(line) + "\n" + prompt


def _option(flag: str, value: str, called: str) -> list[str]:
    word = quoted(value, called)
    return [f"{flag}={word}"] if value.startswith("--") else [flag, word]


def quoted(value: str, what: str) -> str:
    """A value as one word of a line.

    Raises:
        RequestError: no quotes can hold it.
    """
    for word in (value, f'"{value}"', f"'{value}'"):
        if "\n" not in value and "\r" not in value and _reads_as(word, value):
            return word
    raise RequestError(f"{what} cannot be written on one line: it holds both kinds of quotes, or a line break")


def _reads_as(word: str, value: str) -> bool:
    try:
        return words(word) == [value]
    except RequestError:
        return False


def _yaml_line(name: str, value: Any) -> str:
    """One line of a body."""
    for text in _yaml_texts(value):
        line = f"{name}: {text}"
        try:
            if "\n" not in text and _same(body.parse(line).get(name), value):
                return line
        except RequestError:
            continue
    raise RequestError(f"the setting {name!r} is {shown(value)}, which no cell can hold: change it")


def _yaml_texts(value: Any) -> Iterator[str]:
    """Ways to write a value in YAML, the plainest first."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, float):
        yield f"{value:g}"
        yield repr(value)
    elif value is None or isinstance(value, bool | int):
        yield "null" if value is None else str(value).lower()
    yield json.dumps(value, ensure_ascii=False)
    yield json.dumps(value)


def _setting_option(method: type[Method], name: str, value: Any) -> list[str]:
    """A setting as words of the line."""
    texts = [*([escaped(value), value] if isinstance(value, str) else []), *_yaml_texts(value)]
    for text in texts:
        if text and "\n" not in text and _same(from_text(method, name, text), value):
            try:
                return _option(setting_flag(name), text, f"the setting {name!r}")
            except RequestError:
                continue
    if value == "" and _same(from_text(method, name, ""), ""):
        return [f'{setting_flag(name)}=""']
    raise RequestError(f"the setting {name!r} cannot be written on the line: it holds both kinds of quotes")


def _same(read: Any, value: Any) -> bool:
    """Whether a value was read as it is: True is not 1, and a number may come back as the whole number it equals."""
    if isinstance(read, bool) != isinstance(value, bool):
        return False
    return bool(read == value) and isinstance(read, str) == isinstance(value, str)
