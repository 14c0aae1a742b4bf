"""A method's settings: checked against its Config, and described for messages, help and completion."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from nbadapt import origins, registry
from nbadapt.errors import NbadaptError, PluginError, RequestError, did_you_mean

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from nbadapt.method import Config, Method

MOST_ERRORS = 3  # in one line

_TYPES = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text"}
_BOUNDS = (
    ("minimum", "at least {}"),
    ("exclusiveMinimum", "above {}"),
    ("maximum", "at most {}"),
    ("exclusiveMaximum", "below {}"),
    ("minLength", "of length {} or more"),
    ("minItems", "of length {} or more"),
)

_ESCAPED = {"n": "\n", "t": "\t", "\\": "\\"}
_ESCAPE = re.compile(r"\\([nt\\])")


@dataclass(frozen=True)
class Setting:
    """One setting as a person is told about it.

    Attributes:
        name: the field's name.
        allowed: its type, bounds and choices in words.
        words: values that can be written as they stand: all choices, or examples where it is open.
        default: as written in YAML.
        description: what it does, with its unit.
    """

    name: str
    allowed: str
    words: tuple[str, ...]
    default: str
    description: str


@functools.lru_cache(maxsize=256)  # pydantic works it out anew each time: milliseconds, at every key in a form
def schema(config: type[Config]) -> dict[str, Any]:
    """The JSON schema of a Config, which forms, help and completion are made of. Not to be changed.

    Raises:
        PluginError: it has none, or one of other names, so that its settings could not be stored either.
    """
    try:
        found = config.model_json_schema()
    except Exception as error:  # noqa: BLE001 - a plugin's own types may fail in any way
        name = next((name for name, field in config.model_fields.items() if not _is_json(field.annotation)), None)
        which = "its settings" if name is None else f"its setting {name!r}"
        raise PluginError(
            f"{_owner(config)} is broken: {which} cannot be written as JSON ({origins.told(error)}): "
            "update or uninstall it"
        ) from None
    other = next((name for name in config.model_fields if name not in found.get("properties", {})), None)
    if other is not None:
        raise PluginError(
            f"{_owner(config)} is broken: its setting {other!r} has an alias, by which no run would find it again: "
            "update or uninstall it"
        )
    return found


def _is_json(annotation: Any) -> bool:
    try:
        TypeAdapter(annotation).json_schema()
    except Exception:  # noqa: BLE001 - see `schema`
        return False
    return True


def _owner(config: type[Config]) -> str:
    """The plugin whose settings they are, for messages."""
    for same_name in registry.entries().values():
        method = registry.attempt(same_name)
        if not isinstance(method, registry.Problem) and method.Config is config:
            return registry.subject(same_name[0])
    return f"{config.__module__}.{config.__qualname__}"


def validate(method: type[Method], given: Mapping[str, Any]) -> Config:
    """The method's Config with the given settings; defaults for the others.

    Raises:
        RequestError: an unknown setting or a value that is not allowed: what was given, and what is allowed.
        PluginError: the settings are of a kind that cannot be stored, or checking them fails.
    """
    schema(method.Config)
    try:
        return read(method.Config, {name: _none_if_meant(method, name, value) for name, value in given.items()})
    except ValidationError as error:
        known = {setting.name: setting for setting in describe(method)}
        lines: dict[str, str] = {}  # several errors of one setting are the branches of one union
        for detail in error.errors(include_url=False):
            name = str(detail["loc"][0]) if detail["loc"] else ""
            lines.setdefault(name, _line(method, name, detail, given, known))
        shown = list(lines.values())[:MOST_ERRORS]
        more = len(lines) - len(shown)
        raise RequestError("; ".join(shown) + (f"; and {more} more" if more else "")) from None


def read(config: type[Config], given: Mapping[str, Any]) -> Config:
    """The settings as a Config has them, checked.

    Raises:
        ValidationError: it refuses them.
        PluginError: it fails in another way.
    """
    return origins.contained(
        lambda: config.model_validate(given),
        lambda reason: f"{_owner(config)} fails when it checks its settings ({reason}): update or uninstall it",
        passing=(ValidationError, NbadaptError),
    )


def from_text(method: type[Method], name: str, text: str) -> Any:
    r"""The value of a setting that was written on the line, read as YAML unless the setting is text anyway.

    In a text, ``\n``, ``\t`` and ``\\`` are a line break, a tab and a backslash, so that a line can hold what help
    prints; other backslashes are themselves, and so are all of them in a path.
    """
    from nbadapt import body

    of_all = schema(method.Config)
    part = resolved(of_all["properties"].get(name, {}), of_all.get("$defs", {}))
    if part.get("type") != "string":
        return body.parse_value(text)
    return text if "format" in part else unescaped(text)


def unescaped(text: str) -> str:
    r"""A text with ``\n``, ``\t`` and ``\\`` read as a line break, a tab and a backslash."""
    return _ESCAPE.sub(lambda match: _ESCAPED[match[1]], text)


def escaped(text: str) -> str:
    """A text in one line, which `unescaped` reads."""
    for letter, sign in (("\\", "\\"), ("n", "\n"), ("t", "\t")):
        text = text.replace(sign, "\\" + letter)
    return text


def _none_if_meant(method: type[Method], name: str, value: Any) -> Any:
    """None for the word "none" where the setting may be left open and has no choice of that name."""
    if not (isinstance(value, str) and value.lower() == "none" and name in method.Config.model_fields):
        return value
    part = schema(method.Config)["properties"][name]
    branches = part.get("anyOf", [])
    named = any(value in branch.get("enum", [branch.get("const")]) for branch in branches)
    return None if {"type": "null"} in branches and not named else value


def _line(
    method: type[Method],
    name: str,
    detail: ErrorDetails,
    given: Mapping[str, Any],
    known: Mapping[str, Setting],
) -> str:
    reason = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if not name:
        return f"the settings of {method.name} do not fit together: {reason}"
    if name not in known:
        return f"unknown setting {name!r} of {method.name}: {_hint(name, known)} (%nbadapt help {method.name})"
    value = shown(given[name]) if name in given else "nothing"
    if detail["type"] in {"value_error", "assertion_error"}:
        return f"the setting {name!r} of {method.name} is {value}: {reason}"
    return f"the setting {name!r} of {method.name} is {value}, and must be {known[name].allowed}"


def _hint(word: str, known: Mapping[str, Setting]) -> str:
    """What an unknown setting may have meant: one whose description begins with the word, or the nearest name."""
    meant = [s.name for s in known.values() if re.match(rf"{re.escape(word)}\b", s.description, re.IGNORECASE)]
    return f"did you mean {meant[0]}?" if meant else did_you_mean(word, known, kind="settings")


def shown(value: Any) -> str:
    """A value as the user would write it in YAML, shortened."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, list | tuple):
        text = "[" + ", ".join(shown(item) for item in value) + "]"
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value) if isinstance(value, int) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def describe(method: type[Method]) -> list[Setting]:
    """Every setting of a method; see `describe_config`."""
    return describe_config(method.Config)


def describe_config(config: type[Config]) -> list[Setting]:
    """Every setting of a Config: its own ones first, then those that it inherits, the nearest first.

    Raises:
        PluginError: they cannot be stored or told of.
    """
    return origins.contained(
        lambda: _described(config),
        lambda reason: f"{_owner(config)} fails when it tells its settings ({reason}): update or uninstall it",
    )


def _described(config: type[Config]) -> list[Setting]:
    of_all = schema(config)
    definitions = of_all.get("$defs", {})
    found = []
    fields = config.model_fields
    own = [name for base in config.__mro__ for name in vars(base).get("__annotations__", ()) if name in fields]
    for name in dict.fromkeys([*own, *fields]):
        field = fields[name]
        part = of_all["properties"][name]
        examples = [word for word in part.get("examples", []) if isinstance(word, str)]
        words = tuple(dict.fromkeys([*_choices(part, definitions), *examples]))
        default = field.get_default(call_default_factory=True)
        plain = getattr(default, "value", default)  # of an Enum
        found.append(Setting(name, _allowed(part, definitions), words, _as_yaml(plain), field.description or ""))
    return found


def _as_yaml(value: Any) -> str:
    """A default as it would be written in the cell's body."""
    from nbadapt import body

    if not isinstance(value, str):
        return shown(value)
    return value if body.parse_value(value) == value else json.dumps(value, ensure_ascii=False)


def resolved(part: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """A part of a JSON schema, or the definition that it refers to."""
    reference = part.get("$ref")
    return definitions[reference.rpartition("/")[2]] if reference else part


def _choices(part: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[str]:
    """The words that a setting with this JSON schema may be."""
    part = resolved(part, definitions)
    if "anyOf" in part:
        return [word for branch in part["anyOf"] for word in _choices(branch, definitions)]
    if "enum" in part:
        return [word if isinstance(word, str) else shown(word) for word in part["enum"]]
    if "const" in part:
        return [part["const"] if isinstance(part["const"], str) else shown(part["const"])]
    return {"boolean": ["true", "false"], "null": ["none"]}.get(part.get("type", ""), [])


def _allowed(part: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """A JSON schema in words: "a whole number of at least 1"."""
    part = resolved(part, definitions)
    if "anyOf" in part:
        words = [_allowed(branch, definitions) for branch in part["anyOf"]]
        return ", or ".join(dict.fromkeys(words))
    if "enum" in part:
        return "one of " + ", ".join(_choices(part, definitions))
    if "const" in part:
        return str(_choices(part, definitions)[0])
    kind = part.get("type")
    if kind == "null":
        return "none"
    if kind == "array":
        items = part.get("items", {})
        text = "a list" + (f", each item {_allowed(items, definitions)}" if items else "")
    else:
        text = _TYPES.get(str(kind), "a mapping" if kind == "object" else "any value")
    bounds = [words.format(f"{part[key]:g}") for key, words in _BOUNDS if key in part]
    if not bounds:
        return text
    joined = " and ".join(bounds)
    return f"{text} {joined}" if joined.startswith("of ") else f"{text}, {joined}"
