"""The YAML of a cell's body or of a line's values -> plain Python values.

The scalars are those of YAML 1.2, so that ``2e-4`` is a number and ``no`` and ``12:30`` are text, which is
what people mean in a cell. Errors name the line of the cell; the magic's own line is line 1.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from nbadapt.errors import RequestError, first_line

_FIRST_LINE = 2  # of the body, in the cell

_SCALARS = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's scalars and without repeated keys."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own class attribute, filled below

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise RequestError(f"line {_line(key.start_mark)}: {key.value!r} is given twice; keep one")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, 16) if "x" in text else int(text, 10)  # PyYAML's own would read 010 as octal


for _tag, _pattern, _starts in _SCALARS:
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), _starts)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def _line(mark: Any) -> int:
    return int(mark.line) + _FIRST_LINE


def parse(text: str) -> dict[str, Any]:
    """The settings that a cell's body gives; empty where it is empty or all comments.

    Raises:
        RequestError: it is no YAML mapping from names to values, or gives a setting twice.
    """
    try:
        value = yaml.load(text, _Loader)  # noqa: S506 - a subclass of SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {_line(mark)}: " if mark else ""
        raise RequestError(f"{where}this is no YAML ({error.problem}); write settings as  name: value") from None
    except (yaml.YAMLError, ValueError) as error:
        raise RequestError(f"the body is no YAML ({first_line(error)}); write settings as  name: value") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        given = "a list" if isinstance(value, list) else f"{value!r}"
        raise RequestError(f"the body holds {given}, not settings: write  name: value  on each line")
    for key in value:
        if not isinstance(key, str):
            raise RequestError(f"the body's {key!r} is no setting: write  name: value  on each line")
    return value


def parse_value(text: str) -> Any:
    """The value that follows ``--set key=`` or ``--shots``; text that is no YAML stays text."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a subclass of SafeLoader
    except (yaml.YAMLError, ValueError, RequestError):
        return text
