"""The body of ``%%compare`` -> what is to be compared.

::

    features:                                        a method with its defaults
    lora: {r: [4, 16], learning_rate: [2e-4, 1e-3]}  lists span a grid: four candidates
    few-shot: {model: smollm2, shots: [4, 16]}       a model of its own
    zero-shot:                                       several blocks of one method, each with a grid of its own
      - prompt: "{{text}} Good or bad?"
      - prompt: "Is this praise? {{text}}"

A setting that may be a list itself takes a list of lists for a grid.
"""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbadapt.cells import brief
from nbadapt.errors import RequestError
from nbadapt.settings import resolved, schema, shown

if TYPE_CHECKING:
    from nbadapt.method import Method

OWN = ("model", "prompt")
"""What a block may say besides the method's settings."""


@dataclass(frozen=True)
class Spec:
    """One candidate as it was written.

    Attributes:
        method: its name.
        settings: as given; those that are left out have their defaults.
        model: a name, a folder or a Run; None for the line's.
        model_name: what the user calls it.
        prompt: the template of a prompting method; None for one made from the columns.
    """

    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: Any = None
    model_name: str = ""
    prompt: str | None = None


def read(given: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """Method -> what was written about it, from the body's YAML or from Python.

    Raises:
        RequestError: it is no mapping of methods.
    """
    from nbadapt import body

    if given is None:
        return {}
    blocks = body.parse(given) if isinstance(given, str) else given
    if not isinstance(blocks, Mapping):
        raise RequestError(
            f"the candidates are {brief(blocks)}: give a dict, as {{'METHOD': {{'SETTING': [VALUE, VALUE]}}}}"
        )
    return dict(blocks)


def specs(blocks: Mapping[str, Any], namespace: Mapping[str, Any]) -> list[Spec]:
    """All candidates that the blocks span, in their order.

    Args:
        blocks: from `read`.
        namespace: the notebook's variables, for models and functions that are named.

    Raises:
        NbadaptError: a method or a setting that is unknown, or a value that is not allowed.
    """
    from nbadapt import registry

    found = []
    for name, written in blocks.items():
        method = registry.load(str(name))
        for block in written if isinstance(written, list | tuple) else [written]:
            found += [_spec(method, point, namespace) for point in _points(method, block)]
    twice = next((spec for i, spec in enumerate(found) if spec in found[:i]), None)
    if twice is not None:
        raise RequestError(f"the candidate {label(twice, twice.settings)} is there twice; keep one")
    return found


def _points(method: type[Method], block: Any) -> list[dict[str, Any]]:
    """The points of one block's grid."""
    if block is None:
        block = {}
    if not isinstance(block, Mapping):
        raise RequestError(
            f"{method.name} has {brief(block)}: write its settings as  {method.name}: {{setting: value}}, or nothing"
        )
    choices = {str(key): _choices(method, str(key), value) for key, value in block.items()}
    empty = next((key for key, values in choices.items() if not values), None)
    if empty is not None:
        raise RequestError(f"{method.name}: the list of {empty!r} is empty: give at least one value")
    return [dict(zip(choices, point, strict=True)) for point in itertools.product(*choices.values())]


def _choices(method: type[Method], name: str, value: Any) -> list[Any]:
    """The values of a setting that are to be tried."""
    if not isinstance(value, list | tuple):
        return [value]
    if name not in OWN and _may_be_list(method, name) and not all(isinstance(item, list | tuple) for item in value):
        return [value]
    return list(value)


def _may_be_list(method: type[Method], name: str) -> bool:
    of_all = schema(method.Config)
    part = resolved(of_all["properties"].get(name, {}), of_all.get("$defs", {}))
    return any(branch.get("type") == "array" for branch in part.get("anyOf", [part]))


def _spec(method: type[Method], point: dict[str, Any], namespace: Mapping[str, Any]) -> Spec:
    from nbadapt import named
    from nbadapt.request import model_of
    from nbadapt.settings import validate

    prompt, model = point.pop("prompt", None), point.pop("model", None)
    if prompt is not None and method.verb != "prompt":
        raise RequestError(f"{method.name} takes no prompt: it is finetuned; leave prompt out")
    if prompt is not None and not (isinstance(prompt, str) and prompt.strip()):
        raise RequestError(f"the prompt of {method.name} is {brief(prompt)}: give a text with {{{{columns}}}}")
    settings, functions = named.resolve(method, point, namespace)
    if functions:
        raise RequestError(
            f"{method.name}: the setting {next(iter(functions))!r} names a function, which cannot be kept: "
            "a comparison must be able to go on in another kernel"
        )
    validate(method, settings)
    name = os.fspath(model) if isinstance(model, str | os.PathLike) else getattr(model, "id", "")
    if isinstance(model, str):  # a path is no variable's name
        model = model_of(model, namespace)
    elif isinstance(model, os.PathLike):
        model = name
    return Spec(method.name, settings, model, name, prompt)


def sampled(found: Sequence[Spec], count: int | None, seed: int) -> list[Spec]:
    """`count` of the candidates, drawn by the seed; each method keeps one at least. None takes all.

    Raises:
        RequestError: fewer than there are methods.
    """
    if count is None or count >= len(found):
        return list(found)
    rng = random.Random(seed)  # noqa: S311 - a reproducible choice, no secret
    methods = list(dict.fromkeys(spec.method for spec in found))
    if count < len(methods):
        raise RequestError(f"--search {count} is too few for {len(methods)} methods: give {len(methods)} or more")
    kept = [rng.choice([i for i, spec in enumerate(found) if spec.method == method]) for method in methods]
    others = [i for i in range(len(found)) if i not in kept]
    return [found[i] for i in sorted([*kept, *rng.sample(others, count - len(kept))])]


def labels(found: Sequence[Spec]) -> list[str]:
    """Short names that tell the candidates apart: the method, and what differs within it."""
    names = []
    for spec in found:
        kin = [other for other in found if other.method == spec.method]
        varied = [name for name in _names(kin) if len({shown(other.settings.get(name)) for other in kin}) > 1]
        own = {name: spec.settings[name] for name in varied if name in spec.settings}
        names.append(label(spec, own))
    for name in {name for name in names if names.count(name) > 1}:  # they differ by their prompts
        for number, place in enumerate([i for i, other in enumerate(names) if other == name], 1):
            names[place] += f" · {number}"
    return names


def _names(kin: Sequence[Spec]) -> list[str]:
    return list(dict.fromkeys(name for spec in kin for name in spec.settings))


def label(spec: Spec, settings: Mapping[str, Any]) -> str:
    """The method, some settings and a model of its own: "few-shot shots=4 · smollm2"."""
    words = [spec.method, *(f"{name}={shown(value)}" for name, value in settings.items())]
    return " ".join(words) + (f" · {Path(spec.model_name).name}" if spec.model_name else "")


def line(spec: Spec) -> str:
    """A candidate as a line of the cell."""
    parts = [f"{name}: {_yaml(value)}" for name, value in spec.settings.items()]
    parts += [f"model: {spec.model_name}"] if spec.model_name else []
    parts += [f"prompt: {json.dumps(spec.prompt, ensure_ascii=False)}"] if spec.prompt else []
    return f"{spec.method}: {{{', '.join(parts)}}}"


def _yaml(value: Any) -> str:
    """A setting as YAML within braces; JSON is YAML, but writes small rates in a form that YAML reads as text."""
    if isinstance(value, list):  # a list spans a grid: one in it is a value
        return f"[{json.dumps(value, ensure_ascii=False, default=str)}]"
    return shown(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False, default=str)
