"""Which methods work on which architectures, as `python -m nbadapt.testing.matrix` found by trying.

A package that has methods carries what was found beside their modules, in `support.json`; nothing is imported for it::

    {"methods": {"lora": {"bert": {"works": ["classification"]},
                          "gpt2": {"works": ["classification", "generation", "text"]}},
                 "mine": {"bert": {"refuses": {"classification": "mine does not work with bert, ..."}}}}}

`refuses`: the method says so itself, in `estimate`, and may do otherwise for another model of the architecture.
`fails`: it does not know, and goes wrong on the way; so it is refused here, before any weight is loaded.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from nbadapt import estimating, registry
from nbadapt.errors import UnsuitedError

if TYPE_CHECKING:
    from nbadapt.method import Estimate, Job, Method, ModelRef
    from nbadapt.registry import Entry

FILE = "support.json"
MOST = 3  # methods in an advice


class Found(BaseModel):
    """What came of one method on one architecture.

    Attributes:
        works: tasks.
        refuses: task -> what the method says in `estimate`.
        fails: task -> what goes wrong in training, storing or loading.
    """

    works: tuple[str, ...] = ()
    refuses: Mapping[str, str] = {}
    fails: Mapping[str, str] = {}


Records = dict[str, dict[str, Found]]
"""Method name -> architecture (transformers' model_type) -> what was found."""


class _File(BaseModel):
    methods: Records


def file(entry: Entry) -> Path | None:
    """Where the package that declares a method keeps what was found; None: it has no folder."""
    module = entry.value.partition(":")[0]
    try:
        spec = importlib.util.find_spec(module.rpartition(".")[0] or module)
    except Exception:  # noqa: BLE001 - a package that holds another one is imported, and may fail in any way
        return None
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(folders[0]) / FILE if folders else None


def read(path: Path) -> Records:
    """What a file says; nothing where it is missing or damaged: it is there to help, not to stand in the way."""
    try:
        return _File.model_validate_json(path.read_text(encoding="utf-8")).methods
    except (OSError, ValueError, ValidationError):
        return {}


def write(path: Path, records: Records) -> None:
    """Write what `read` reads, a line for each method and architecture."""
    methods = []
    for name, found in records.items():
        lines = [f"      {json.dumps(kind)}: {json.dumps(_short(cell))}" for kind, cell in found.items()]
        methods.append(f"    {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n    }")
    path.write_text('{\n  "methods": {\n' + ",\n".join(methods) + "\n  }\n}\n", encoding="utf-8")


def _short(found: Found) -> dict[str, object]:
    return {name: value for name, value in found.model_dump(mode="json").items() if value}


def records() -> Records:
    """What all installed packages say of the methods that they declare themselves; in the order of their files."""
    declared: dict[Path, set[str]] = {}
    for name, entries in registry.entries().items():
        path = file(entries[0])
        if path is not None:
            declared.setdefault(path, set()).add(name)
    return {name: found for path, names in declared.items() for name, found in read(path).items() if name in names}


# ------------------------------------------------------------------------------------------------ advice


def instead(method: type[Method], kind: str, task: str) -> list[str]:
    """The methods that can take the place of `method` on an architecture, the nearest kin first.

    For an architecture that nobody tried: those that work on every one that they were tried on. Kin are classes
    that share ancestors; among equals the order of `support.json` decides.
    """
    known = records()
    tried = any(kind in found for found in known.values())
    names = [name for name, found in known.items() if name != method.name and _works(found, kind, task, tried)]
    classes = {other.name: other for other in registry.methods(method.verb) if task in other.tasks}
    able = [classes[name] for name in names if name in classes and not registry.missing_requirements(classes[name])]
    able.sort(key=lambda other: -len({*other.__mro__} & {*method.__mro__}))
    chosen: list[type[Method]] = []
    for other in able:
        if not any(issubclass(other, one) for one in chosen):  # a variant of what is named already
            chosen.append(other)
    return [other.name for other in chosen[:MOST]]


def _works(found: Mapping[str, Found], kind: str, task: str, tried: bool) -> bool:
    if tried:
        return kind in found and task in found[kind].works
    return not any(cell.refuses or cell.fails for cell in found.values())


def advice(method: type[Method], kind: str, task: str) -> str:
    """The end of an error line, such as "use prompt-tuning, lora or adapter"; empty where no method is known."""
    names = instead(method, kind, task)
    if not names:
        return ""
    return "use " + (", ".join(names[:-1]) + " or " if names[1:] else "") + names[-1]


def kind_of(ref: ModelRef) -> str:
    """The architecture of a model, or of the base model behind a run; "" where it is behind an endpoint."""
    from nbadapt import models, pretrained

    if ref.kind == "endpoint":
        return ""

    kind: str = pretrained.read_config(models.base_ref(ref)).model_type
    return kind


def estimate(method: Method, job: Job, seconds: float | None = None) -> Estimate:
    """What the method estimates for a job that it is known to do; `seconds` as in `nbadapt.estimating`.

    Raises:
        UnsuitedError: it does not work with the model; the line ends with the methods that do.
        NbadaptError: whatever else `nbadapt.estimating.estimate` raises.
    """
    found = records().get(method.name, {})
    fails = {kind: cell.fails[job.task] for kind, cell in found.items() if job.task in cell.fails}
    if fails and (kind := kind_of(job.model)) in fails:
        raise _with_advice(f"{method.name} does not work with {kind} ({fails[kind]})", method, job)
    try:
        return estimating.estimate(method, job, seconds)
    except UnsuitedError as error:
        raise _with_advice(str(error), method, job) from None


def _with_advice(line: str, method: Method, job: Job) -> UnsuitedError:
    end = advice(type(method), kind_of(job.model), job.task)
    return UnsuitedError(f"{line}: {end}" if end else line)
