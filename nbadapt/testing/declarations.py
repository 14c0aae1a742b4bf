"""Rules about what a method declares. Each function yields a line for everything that breaks its rule."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from nbadapt import registry
from nbadapt.errors import first_line
from nbadapt.method import CONTRACT, Config, Method, Task, Verb
from nbadapt.origins import is_plain
from nbadapt.testing.kit import UnusableError
from nbadapt.testing.subject import Subject

LONGEST_SUMMARY = 100  # characters
LONGEST_FAMILY = 30
LONGEST_DESCRIPTION = 200
HEAVY = (  # import names: each takes a tenth of a second at least
    *("torch", "torchvision", "transformers", "tokenizers", "peft", "trl", "accelerate", "bitsandbytes", "datasets"),
    *("tensorflow", "keras", "jax", "flax", "sentence_transformers", "huggingface_hub", "vllm", "openai"),
    *(
        "sklearn",
        "skops",
        "scipy",
        "pandas",
        "polars",
        "pyarrow",
        "xgboost",
        "lightgbm",
        "catboost",
        "numba",
        "lancedb",
    ),
    *("matplotlib", "plotly", "ipywidgets", "anywidget"),
)


def name(subject: Subject) -> Iterator[str]:
    """The name is one lower-case word with hyphens."""
    if not registry.NAME.fullmatch(str(getattr(subject.method, "name", ""))):
        yield f"name is {getattr(subject.method, 'name', None)!r}"


def verb(subject: Subject) -> Iterator[str]:
    """The verb is finetune or prompt."""
    if getattr(subject.method, "verb", None) not in get_args(Verb):
        yield f"verb is {getattr(subject.method, 'verb', None)!r}"


def summary(subject: Subject) -> Iterator[str]:
    """The summary is one line of at most 100 characters, and the family, where there is one, a few words."""
    if not isinstance(subject.method.family, str) or len(subject.method.family) > LONGEST_FAMILY:
        yield f"family is {subject.method.family!r}"
    text = getattr(subject.method, "summary", "")
    if not isinstance(text, str) or not text.strip():
        yield "there is none"
        return
    if "\n" in text:
        yield "it has several lines"
    elif not is_plain(text) or not is_plain(str(subject.method.family)):
        yield "it or the family has a character that cannot be printed"
    if len(text) > LONGEST_SUMMARY:
        yield f"it has {len(text)} characters"


def reference(subject: Subject) -> Iterator[str]:
    """The reference is a URL."""
    if not re.fullmatch(r"https?://[^\s/]+\.\S+", str(getattr(subject.method, "reference", ""))):
        yield f"reference is {getattr(subject.method, 'reference', None)!r}"


def declared_tasks(subject: Subject) -> Iterator[str]:
    """The tasks are a frozenset of known ones, not empty."""
    tasks = getattr(subject.method, "tasks", None)
    if not isinstance(tasks, frozenset) or not tasks:
        yield f"tasks is {tasks!r}"
        return
    known = get_args(Task)
    yield from (f"{task!r} is none of {', '.join(known)}" for task in sorted(tasks) if task not in known)


def contract(subject: Subject) -> Iterator[str]:
    """The contract is the version that this nbadapt speaks."""
    if subject.method.contract != CONTRACT:
        yield f"contract is {subject.method.contract!r}, and this nbadapt speaks {CONTRACT}"


def requires(subject: Subject) -> Iterator[str]:
    """The requirements are a tuple of import names."""
    names = subject.method.requires
    if not isinstance(names, tuple):
        yield f"requires is {names!r}"
        return
    for wanted in names:
        if not isinstance(wanted, str) or not all(part.isidentifier() for part in wanted.split(".")):
            yield f"{wanted!r} is no name that can be imported"


def config_fields(subject: Subject) -> Iterator[str]:
    """Every setting has a default, a description, and bounds where it is a number."""
    from nbadapt.settings import schema

    config = subject.method.Config
    for setting, described in schema(config).get("properties", {}).items():
        field = config.model_fields[setting]
        if field.is_required():
            yield f"{setting} has no default"
        if not (field.description or "").strip():
            yield f"{setting} has no description"
        for branch in described.get("anyOf", [described]):
            if branch.get("type") in {"integer", "number"} and not _bounded(branch):
                yield f"{setting} is a number without bounds"


def _bounded(schema: dict[str, Any]) -> bool:
    return any(bound in schema for bound in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "enum"))


def config_strict(subject: Subject) -> Iterator[str]:
    """The settings derive from nbadapt's Config, cannot be changed, and refuse unknown names."""
    config = subject.method.Config
    if not issubclass(config, Config):
        yield f"{config.__name__} does not derive from nbadapt.method.Config"
    if not config.model_config.get("frozen"):
        yield "they can be changed after they were checked"
    if config.model_config.get("extra") != "forbid":
        yield "unknown names are not refused"


def config_json(subject: Subject) -> Iterator[str]:
    """The settings come back from JSON as they were, and the defaults keep their own bounds."""
    config = _defaults(subject.method)
    stored = json.loads(json.dumps(config.model_dump(mode="json")))
    try:
        restored = subject.method.Config.model_validate(stored)
    except ValueError as error:
        yield f"they are refused when read again: {first_line(error)}"
        return
    if restored != config:
        yield f"{restored!r} came back instead of {config!r}"


def _defaults(method: type[Method]) -> Config:
    try:
        return method.Config()
    except ValueError:
        raise UnusableError("a setting has no default") from None


def help_texts(subject: Subject) -> Iterator[str]:
    """The class and its settings say what they are in a few words, of which help can be made."""
    from nbadapt.settings import describe

    if inspect.getdoc(subject.method) in {None, "", inspect.getdoc(Method)}:
        yield f"{subject.method.__name__} has no docstring"
    if fault := registry.example_fault(subject.method.example):
        yield fault.removeprefix("is broken: ")
    for setting, field in subject.method.Config.model_fields.items():
        text = field.description or ""
        if len(text) > LONGEST_DESCRIPTION:
            yield f"the description of {setting} has {len(text)} characters"
        if len(text.splitlines()) > 1 or not is_plain(text) or "<" in re.sub(r"<=|< |<$", "", text):
            yield f"the description of {setting} is no plain line of text"
    if any(field.is_required() for field in subject.method.Config.model_fields.values()):
        return  # the rule config_fields tells
    try:
        describe(subject.method)
    except Exception as error:  # noqa: BLE001 - any failure is the finding
        yield f"no help can be made of its settings: {type(error).__name__}: {first_line(error)}"


def config_names(subject: Subject) -> Iterator[str]:
    """No setting is named like an option of the line."""
    from nbadapt.options import options, setting_flag

    shared = options(subject.method.verb)
    for setting in subject.method.Config.model_fields:
        if setting_flag(setting) in shared:
            yield f"{setting_flag(setting)} is an option that every method has"


def light_import(subject: Subject) -> Iterator[str]:
    """Importing the method brings no heavy library, none that it requires, and prints nothing, also past Python."""
    yield from import_faults(subject.method, subject.method.requires)


def import_faults(kind: type, requires: Sequence[str]) -> Iterator[str]:
    """What is wrong with importing a class in a process of its own; what nbadapt itself needs does no harm."""
    named = requires if isinstance(requires, tuple | list) else ()  # otherwise: the rule requires
    heavy = list(dict.fromkeys((*HEAVY, *map(str, named))))
    code = (
        "import importlib, json, pathlib, sys\n"
        "import nbadapt.method, nbadapt.provider, nbadapt.indexing.store\n"
        "from nbadapt.testing.printing import Printed\n"
        "there = set(sys.modules)\n"
        "with Printed() as said:\n"
        f"    found = importlib.import_module({kind.__module__!r})\n"
        f"for name in {kind.__qualname__!r}.split('.'): found = getattr(found, name)\n"
        f"brought = [name for name in {heavy!r} if name in sys.modules and name not in there]\n"
        "pathlib.Path(sys.argv[1]).write_text(json.dumps([brought, said.text]), encoding='utf-8')"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    with tempfile.TemporaryDirectory(prefix="nbadapt-kit-") as room:
        answer = Path(room) / "answer.json"  # what it prints is what is judged
        done = subprocess.run(  # noqa: S603 - this interpreter, and a class that is already imported here
            [sys.executable, "-c", code, str(answer)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": path},
        )
        if done.returncode or not answer.exists():
            last = (done.stderr.strip().splitlines() or ["it ends the process"])[-1]
            yield f"{kind.__module__}:{kind.__qualname__} cannot be imported in a process of its own: {last}"
            return
        brought, said = json.loads(answer.read_text(encoding="utf-8"))
    if brought:
        yield f"{kind.__module__} imports {', '.join(brought)}: import inside the functions"
    if said.strip():
        yield f"importing {kind.__module__} prints {said.strip().splitlines()[0]!r:.80}"


RULES = (
    name,
    verb,
    summary,
    reference,
    declared_tasks,
    contract,
    requires,
    config_fields,
    config_strict,
    config_json,
    config_names,
    help_texts,
    light_import,
)
