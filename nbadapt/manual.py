"""Help pages, made from the options' table and the methods' own declarations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbadapt import origins, registry
from nbadapt.method import ADVANCED, Example
from nbadapt.options import COLUMNS, options, setting_flag
from nbadapt.settings import describe
from nbadapt.tables import Code, Page, Table

if TYPE_CHECKING:
    from nbadapt.method import Method, Verb

NO_METHODS = "No method is installed."

_NOTHING = {"", "none", '""'}
_ASKED = ("Are you open on Sunday?", "Can I rent a tandem?", "My chain snapped. What now?", "Do you buy old bikes?")
_ANSWERS = ("Yes, from 11 to 16.", "Yes, we have two of them.", "Bring it in, we mend it today.", "No, we only sell.")
_PAIRS = tuple(
    {"prompt": a, "chosen": b, "rejected": "Ask somebody else."} for a, b in zip(_ASKED, _ANSWERS, strict=True)
)
_ROWS = tuple({"prompt": a, "completion": b} for a, b in zip(_ASKED, _ANSWERS, strict=True))


def _listed(name: str, rows: Iterable[Mapping[str, str]]) -> str:
    """Python that binds a list of rows to a variable."""
    return "\n".join([f"{name} = [", *(f"    {json.dumps(row)}," for row in rows), "]"])


_TABLES = {
    "classification": (
        "minilm",
        "messages",
        'from nbadapt import datasets\n\nmessages = datasets.load("bicycle_shop")  # columns text and label',
    ),
    "preference": ("smollm2", "pairs", _listed("pairs", _PAIRS)),
    "generation": ("smollm2", "answered", _listed("answered", _ROWS)),
    "text": ("smollm2", "texts", _listed("texts", ({"text": text} for text in _ANSWERS))),
}
"""Task -> a packaged model for it, the variable with its rows, and a cell that makes them."""


@dataclass(frozen=True)
class MethodInfo:
    """One line of the table of methods.

    Attributes:
        name: the word after the magic.
        verb: the magic, "finetune" or "prompt"; "" for a broken plugin.
        summary: what it does.
        tasks: the tasks it can do.
        source: the distribution that brings it, with its version.
        status: "ready", what to install, what is wrong, or that its package may bring no plugins.
    """

    name: str
    verb: str
    summary: str
    tasks: tuple[str, ...]
    source: str
    status: str


def method_table() -> Table[MethodInfo]:
    """All declared methods: the broken ones with what is wrong with them, those that may not be loaded too."""
    found = [_info(same_name) for same_name in registry.entries().values()]
    found += [_refused(entry) for entry in registry.refused()]
    columns = {
        "method": lambda info: info.name,
        "magic": lambda info: f"%%{info.verb}" if info.verb else "",
        "what it does": lambda info: info.summary,
        "tasks": lambda info: ", ".join(info.tasks),
        "from": lambda info: info.source,
        "status": lambda info: info.status,
    }
    return Table(found, columns, empty=NO_METHODS)


def _info(same_name: tuple[registry.Entry, ...]) -> MethodInfo:
    found = registry.attempt(same_name)
    source = " and ".join(entry.owner for entry in same_name)
    if isinstance(found, registry.Problem):
        return MethodInfo(found.name, "", "", (), source, f"broken: {found.message}")
    return MethodInfo(found.name, found.verb, found.summary, tuple(sorted(found.tasks)), source, _status(found))


def _refused(entry: registry.Entry) -> MethodInfo:
    return MethodInfo(entry.name, "", "", (), entry.owner, f"not loaded: {origins.VARIABLE} leaves its package out")


def _status(method: type[Method]) -> str:
    return registry.install_command(method) if registry.missing_requirements(method) else "ready"


def method_page(name: str) -> Page:
    """What one method does, its settings and an example.

    Raises:
        RequestError: there is no such method.
        PluginError: its plugin is broken.
    """
    method = registry.load(name)
    settings = describe(method)
    table = Table(
        settings,
        {
            "setting": lambda s: s.name,
            "default": lambda s: s.default,
            "allowed": lambda s: s.allowed,
            "meaning": lambda s: s.description,
        },
        empty="It has no settings.",
    )
    facts = f"Tasks: {', '.join(sorted(method.tasks))}. Reference: {method.reference}"
    shown = example(method)
    parts: list[str | Code | Table[Any]] = [facts, table, *(Code(cell) for cell in (shown.before, shown.cell) if cell)]
    if registry.missing_requirements(method):
        parts.insert(1, f"To use it, run:  {registry.install_command(method)}")
    return Page(f"%%{method.verb} {method.name}: {method.summary}", *parts)


def example(method: type[Method]) -> Example:
    """The cell that a method declares, or one made of its settings for the first of its tasks in `_TABLES`."""
    if method.example is not None:
        return method.example
    settings = describe(method)
    if method.verb == "finetune":
        model, name, before = next(_TABLES[task] for task in _TABLES if task in method.tasks)
        fields = method.Config.model_fields
        telling = [s for s in settings if s.default not in _NOTHING and fields[s.name].json_schema_extra != ADVANCED]
        body = "".join(f"\n{setting.name}: {setting.default}" for setting in telling[:3])
        return Example(f"%%finetune {method.name} --model {model} --data {name} --as tuned{body}", before)
    first = next((setting for setting in settings if setting.default not in _NOTHING), None)
    option = f" {setting_flag(first.name)} {first.default}" if first else ""
    cell = f"%%prompt {method.name} --model smollm2{option}\nQuestion: {{{{question}}}}\nAnswer:"
    return Example(cell, 'question = "Why do bicycle chains wear out?"')


def magic_page(verb: Verb) -> Page:
    """How a magic is written: its options and the methods that it knows."""
    lines = {
        "finetune": "%%finetune METHOD --model NAME --data TABLE [options]\nsetting: value",
        "prompt": "%%prompt METHOD --model NAME [options]\nThe prompt, with {{variable}} where a value goes",
    }
    shared = [(f"{o.flag} {o.metavar}".strip(), o.help) for o in options(verb).values() if o.field != "columns"]
    renames = (f"--{', --'.join(COLUMNS)} COLUMN", "which of the table's columns plays this part")
    table = Table([*shared, renames], {"option": lambda row: row[0], "meaning": lambda row: row[1]}, empty="")
    chosen: Table[MethodInfo] = Table(
        [info for info in method_table() if info.verb == verb],
        {"method": lambda i: i.name, "what it does": lambda i: i.summary, "status": lambda i: i.status},
        empty=NO_METHODS,
    )
    own = "as --name value on the line" + (", or in the body, one a line" if verb == "finetune" else "")
    hint = f"A method's own settings are written {own}. %nbadapt help METHOD lists them."
    return Page(f"%%{verb}", Code(lines[verb]), table, hint, chosen)
