"""A method's settings and a magic's options -> the fields of a form, generically: no method is named here.

::

    pydantic field ──JSON schema──> FormField     bool: switch      Literal: choice      bounded number: with stops
    Option         ──its table────> FormField     number: no stops  text: text           all else: YAML in one line

A form holds *raw* values: texts, as a person types them. An empty text is what the field says when nothing is typed:
none where it may be none, else its default.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from nbadapt.errors import RequestError
from nbadapt.settings import describe_config, escaped, resolved, schema, unescaped

if TYPE_CHECKING:
    from nbadapt.method import Config, Method

Kind = Literal["switch", "choice", "integer", "number", "text", "path", "yaml", "menu"]
"""A path is a text without escapes, a menu one with offers that depend on the notebook: models, tables, columns."""

LONG_RANGE = 200  # a range of more than so many whole numbers, or so wide, is on a logarithmic scale
SMALL = 0.1  # a default up to here is a rate or a share of something: three decades are of interest on each side
MOST_STOPS = 100


@dataclass(frozen=True)
class FormField:
    """One field of a form.

    Attributes:
        name: a setting's name, or an option's flag.
        kind: how it is drawn.
        help: what it does, with its unit.
        allowed: what it may be, in words.
        default: the raw value that it begins with.
        optional: whether it may be left empty for none.
        choices: of a kind "choice": all of them; of others: suggestions.
        stops: the values that a slider goes through, rising; empty where there is no slider.
        advanced: whether it is folded away.
        label: what stands before it; "": its name.
    """

    name: str
    kind: Kind
    help: str
    allowed: str = ""
    default: str = ""
    optional: bool = False
    choices: tuple[str, ...] = ()
    stops: tuple[float, ...] = ()
    advanced: bool = False
    label: str = ""


def described(field: FormField) -> dict[str, Any]:
    """A field as fields.js draws it."""
    return {
        "name": field.name,
        "label": field.label or field.name,
        "kind": field.kind,
        "help": field.help,
        "allowed": field.allowed,
        "default": field.default,
        "optional": field.optional,
        "choices": field.choices,
        "stops": [f"{stop:g}" if float(f"{stop:g}") == stop else repr(stop) for stop in field.stops],
        "advanced": field.advanced,
        "option": field.name.startswith("--"),
    }


def setting_fields(method: type[Method]) -> list[FormField]:
    """A field for every setting of a method; its own ones first."""
    return config_fields(method.Config)


def config_fields(config: type[Config]) -> list[FormField]:
    """A field for every setting of a Config; its own ones first."""
    of_all = schema(config)
    definitions = of_all.get("$defs", {})
    fields = config.model_fields
    found = []
    for setting in describe_config(config):
        part = of_all["properties"][setting.name]
        branches = [resolved(branch, definitions) for branch in resolved(part, definitions).get("anyOf", [part])]
        solid = [branch for branch in branches if branch.get("type") != "null"]
        optional = len(solid) < len(branches)
        only = resolved(solid[0], definitions) if len(solid) == 1 else {}
        kind = _kind(only)
        found.append(
            FormField(
                name=setting.name,
                kind=kind,
                help=setting.description,
                allowed=setting.allowed,
                default=raw_of(fields[setting.name].get_default(call_default_factory=True), kind),
                optional=optional,
                choices=tuple(word for word in setting.words if word not in {"true", "false"} and word != "none")
                if kind != "switch"
                else (),
                stops=_stops(only, part, fields[setting.name].default) if kind in {"integer", "number"} else (),
                advanced=bool(part.get("advanced")),
            )
        )
    return found


def _kind(part: Mapping[str, Any]) -> Kind:
    if "enum" in part or "const" in part:
        return "choice"
    kinds: dict[str, Kind] = {
        "boolean": "switch",
        "integer": "integer",
        "number": "number",
        "string": "path" if "format" in part else "text",
    }
    return kinds.get(str(part.get("type")), "yaml")


# ------------------------------------------------------------------------------------------------ raw values


def raw_of(value: Any, kind: Kind) -> str:
    """A value as it stands in a field of this kind."""
    value = getattr(value, "value", value)  # of an Enum
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return escaped(value) if kind == "text" else value
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value) if isinstance(value, int) else json.dumps(value, ensure_ascii=False, default=str)


def value_of(field: FormField, raw: str) -> Any:
    """What a raw value means; it may still be one that the method's Config refuses.

    Raises:
        RequestError: it is empty, and a value is needed.
    """
    from nbadapt import body

    if field.kind in {"text", "path"}:
        if raw == "" and field.optional:
            return None
        return unescaped(raw) if field.kind == "text" else raw
    if raw.strip() == "":
        if field.optional:
            return None
        raise RequestError(f"{field.name} is empty: give {field.allowed}")
    return raw if field.kind == "choice" and raw in field.choices else body.parse_value(raw)


# ------------------------------------------------------------------------------------------------ sliders


def _stops(part: Mapping[str, Any], outer: Mapping[str, Any], default: Any) -> tuple[float, ...]:
    """The values of a slider for a number with two bounds; its default is among them."""
    low = part.get("minimum", part.get("exclusiveMinimum"))
    high = part.get("maximum", part.get("exclusiveMaximum"))
    if low is None or high is None or not high > low:
        return ()
    whole = part.get("type") == "integer"
    middle = default if isinstance(default, int | float) and not isinstance(default, bool) else None
    scale = outer.get("scale") or part.get("scale") or _scale(low, high, middle, whole=whole)
    if scale == "log" and high > 0:
        stops = _logarithmic(max(low, 0), high, middle, whole=whole)
    else:
        stops = _linear(low, high, whole=whole)
    within = [s for s in stops if low <= s <= high]
    if "exclusiveMinimum" in part:
        within = [s for s in within if s > part["exclusiveMinimum"]]
    if "exclusiveMaximum" in part:
        within = [s for s in within if s < part["exclusiveMaximum"]]
    within = sorted({*within, *([] if middle is None else [middle])})
    return tuple(within) if len(within) > 1 else ()


def _scale(low: float, high: float, middle: float | None, *, whole: bool) -> str:
    """Logarithmic for long ranges, and for a rate: its lower bound is 0, its upper one far above its default."""
    if low < 0:
        return "linear"
    if whole:
        return "log" if high - low > LONG_RANGE else "linear"
    return "log" if (low == 0 and middle and high / middle >= 50) or high - low > LONG_RANGE else "linear"


def _logarithmic(low: float, high: float, middle: float | None, *, whole: bool) -> list[float]:
    """Powers of two for whole numbers, else 1, 2 and 5 in every decade; around the default, if there is one."""
    if whole:
        most = min(high, max(64 * (middle or 1), 64))
        return [*([low] if low == 0 else []), *(2**i for i in range(int(math.log2(most)) + 1)), low]
    base = middle or max(low, 1.0)
    reach = 1000 if base <= SMALL else 32
    first, last = max(low, base / reach), min(high, base * reach)
    decades = range(math.floor(math.log10(first)), math.ceil(math.log10(last)) + 1)
    found = [float(f"{mantissa}e{decade}") for decade in decades for mantissa in (1, 2, 5)]
    return [value for value in found if first <= value <= last]


def _linear(low: float, high: float, *, whole: bool) -> list[float]:
    """Equal steps of 1, 2 or 5 times a power of ten, `MOST_STOPS` of them at most."""
    rough = (high - low) / MOST_STOPS
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    step = max(1.0, step) if whole else step
    count = int((high - low) / step + 1e-9)
    values = [float(f"{low + i * step:.10g}") for i in range(count + 1)]
    return [int(v) for v in values] if whole else values


# ------------------------------------------------------------------------------------------------ options


MAIN = frozenset({"model", "data", "evaluation", "examples", "labels", "name"})
LEFT_OUT = frozenset({"settings", "help", "dry_run", "timed", "background"})  # what the form itself does
LABELS = {"--as": "variable for the run", "--eval": "held-out rows", "--label": "label column"}


def option_fields(verb: str) -> list[FormField]:
    """A field for every option of a magic that says what is done; those most people need are not folded."""
    from nbadapt.options import options

    found = []
    for flag, option in options(verb).items():
        if option.field in LEFT_OUT:
            continue
        kind: Kind = "switch" if not option.metavar else "menu" if option.values else "text"
        main = option.field in MAIN or (flag == "--label" and verb == "prompt")
        default = "false" if kind == "switch" else ""
        label = LABELS.get(flag, flag.removeprefix("--").replace("-", " "))
        found.append(FormField(flag, kind, option.help, default=default, optional=True, advanced=not main, label=label))
    return found
