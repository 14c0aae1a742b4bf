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

import bisect
import itertools
import json
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbadapt.cells import brief
from nbadapt.errors import RequestError
from nbadapt.selection.grids import Grid, drawn
from nbadapt.settings import resolved, schema, shown

if TYPE_CHECKING:
    from nbadapt.method import Method

OWN = ("model", "prompt")
"""What a block may say besides the method's settings."""
MOST = 100_000  # candidates of a grid that is tried whole


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

    @property
    def key(self) -> Hashable:
        """The same for what is equal."""
        return _frozen([self.method, self.settings, self.model, self.model_name, self.prompt])


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


def specs(
    blocks: Mapping[str, Any], namespace: Mapping[str, Any], search: int | None = None, seed: int = 0
) -> list[Spec]:
    """All candidates that the blocks span, in their order, or some of them.

    Of a grid that is drawn from, each value is checked, whether it is drawn or not, and no more points are built.

    Args:
        blocks: from `read`.
        namespace: the notebook's variables, for models and functions that are named.
        search: how many are drawn, of each method one at least; None takes all.
        seed: which ones.

    Raises:
        NbadaptError: a method or a setting that is unknown, a value that is not allowed, a candidate that is there
            twice, too many of them, or fewer to be drawn than there are methods.
    """
    from nbadapt import registry

    grids = []
    for name, written in blocks.items():
        method = registry.load(str(name))
        for block in written if isinstance(written, list | tuple) else [written]:
            grids.append(Grid(method, _spanned(method, block)))
    *starts, total = itertools.accumulate((grid.size for grid in grids), initial=0)
    places: Iterable[int] = range(total)
    if search is not None and search < total:
        for grid in grids:
            _check_once([_spec(grid.method, grid.point(place), namespace) for place in grid.star()])
        places = drawn(grids, search, seed)
    elif total > MOST:
        raise RequestError(f"the lists span {total:,} candidates: draw some of them with  --search 100")
    found = []
    for place in places:
        number = bisect.bisect(starts, place) - 1
        found.append(_spec(grids[number].method, grids[number].point(place - starts[number]), namespace))
    return _check_once(found)


def _check_once(found: list[Spec]) -> list[Spec]:
    """The candidates, none of which is there twice."""
    seen = set()
    for spec in found:
        if spec.key in seen:
            raise RequestError(f"the candidate {label(spec, spec.settings)} is there twice; keep one")
        seen.add(spec.key)
    return found


def _frozen(value: Any) -> Hashable:
    """A value that can be in a set; equal ones stay equal."""
    if isinstance(value, Mapping):
        return frozenset((name, _frozen(part)) for name, part in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    return value if isinstance(value, Hashable) else repr(value)


def _spanned(method: type[Method], block: Any) -> dict[str, list[Any]]:
    """The values of each setting of one block."""
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
    return choices


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


def labels(found: Sequence[Spec]) -> list[str]:
    """Short names that tell the candidates apart: the method, and what differs within it."""
    kin: dict[str, list[Spec]] = {}
    for spec in found:
        kin.setdefault(spec.method, []).append(spec)
    varied = {method: _varied(alike) for method, alike in kin.items()}
    names = [
        label(spec, {name: spec.settings[name] for name in varied[spec.method] if name in spec.settings})
        for spec in found
    ]
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    for alike in filter(lambda alike: len(alike) > 1, places.values()):  # they differ by their prompts
        for number, place in enumerate(alike, 1):
            names[place] += f" · {number}"
    return names


def _varied(kin: Sequence[Spec]) -> list[str]:
    """The settings in which candidates of one method differ."""
    names = dict.fromkeys(name for spec in kin for name in spec.settings)
    return [name for name in names if len({shown(spec.settings.get(name)) for spec in kin}) > 1]


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
