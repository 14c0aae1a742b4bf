"""Help pages, made from the options' table and the methods' own declarations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbadapt import origins, registry
from nbadapt.method import ADVANCED
from nbadapt.options import COLUMNS, options, setting_flag
from nbadapt.settings import describe
from nbadapt.tables import Code, Page, Table

if TYPE_CHECKING:
    from nbadapt.method import Method, Verb

NO_METHODS = "No method is installed."


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
    """What one method does, its settings and an example cell.

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
    parts: list[str | Code | Table[Any]] = [facts, table, Code(example_cell(method))]
    if registry.missing_requirements(method):
        parts.insert(1, f"To use it, run:  {registry.install_command(method)}")
    return Page(f"%%{method.verb} {method.name}: {method.summary}", *parts)


def example_cell(method: type[Method]) -> str:
    """A cell that runs as it stands where the variables that it names are there."""
    settings = describe(method)
    if method.verb == "finetune":
        fields = method.Config.model_fields
        telling = [s for s in settings if s.default != "none" and fields[s.name].json_schema_extra != ADVANCED]
        body = "\n".join(f"{setting.name}: {setting.default}" for setting in telling[:3])
        return f"%%finetune {method.name} --model smollm2 --data train_df --as tuned\n{body}"
    first = settings[0] if settings else None
    value = first.default if first and first.default not in {"", "none", '""'} else "NAME"
    option = f" {setting_flag(first.name)} {value}" if first else ""
    return f"%%prompt {method.name} --model smollm2{option}\nQuestion: {{{{question}}}}\nAnswer:"


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
