"""Method names -> plugins. Listing imports none; each is loaded on demand, and a broken one hurts no other.

A method is an entry point of the group ``nbadapt.methods``, the built-in ones too. No method is remembered
between calls: what is installed or repaired while the kernel runs is seen at the next cell.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import pkgutil
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError
from typing import TYPE_CHECKING, Any, get_args

from nbadapt import origins
from nbadapt.errors import DependencyError, PluginError, RequestError, did_you_mean
from nbadapt.redaction import hide

if TYPE_CHECKING:
    from nbadapt.method import Method, Verb

GROUP = "nbadapt.methods"

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
"""What a method may be called: it is written on a line, behind the magic."""

# Import names whose distribution is called otherwise on the package index.
_DISTRIBUTIONS = {"sklearn": "scikit-learn", "yaml": "PyYAML", "PIL": "Pillow"}


_printed: dict[str, dict[str, str]] = {}  # a module is imported once: what it said then is not to be heard again


@dataclass(frozen=True)
class Entry:
    """One declaration of a method, not yet imported.

    Attributes:
        name: the word after the magic.
        distribution: who declares it, as installed with pip.
        version: that distribution's version.
        value: "module:Class".
    """

    name: str
    distribution: str
    version: str
    value: str

    @property
    def owner(self) -> str:
        """Distribution and version, for messages."""
        return f"{self.distribution} {self.version}".strip()


@dataclass(frozen=True)
class Problem:
    """A method that cannot be used. `message` is one line and names the distributions in `owners`."""

    name: str
    owners: tuple[str, ...]
    message: str


def entries() -> dict[str, tuple[Entry, ...]]:
    """Every declared method by name, in alphabetical order; several entries where a name is taken twice.

    Those of distributions that `nbadapt.origins.VARIABLE` leaves out are not among them: see `refused`.
    """
    found: dict[str, dict[tuple[str, str], Entry]] = {}
    for entry in _entries(origins.allowed(GROUP)):
        found.setdefault(entry.name, {})[entry.distribution, entry.value] = entry
    return {name: tuple(sorted(found[name].values(), key=lambda e: e.owner)) for name in sorted(found)}


def refused() -> list[Entry]:
    """The methods of distributions that may bring none, sorted by name."""
    return _entries(origins.refused(GROUP))


def _entries(points: Iterable[EntryPoint]) -> list[Entry]:
    read: dict[int, tuple[str, str]] = {}  # a distribution's metadata is parsed anew each time it is asked for
    found = []
    for point in points:
        owner = point.dist
        if id(owner) not in read:
            read[id(owner)] = origins.identity(owner)
        name, version = read[id(owner)]
        owned = (name, version) if name else (origins.UNKNOWN, "")
        found.append(Entry(origins.plain(point.name), *owned, origins.plain(point.value)))
    return found


def load(name: str, verb: Verb | None = None) -> type[Method]:
    """Import one method.

    Args:
        name: the word after the magic.
        verb: which magic it was written after; None where that does not matter.

    Raises:
        RequestError: there is no such method, or it belongs to the other magic.
        PluginError: its plugin is broken, or two distributions declare it.
    """
    found = entries()
    if name not in found:
        not_allowed = origins.explain("method", name, origins.refused(GROUP))
        if not_allowed is not None:
            raise not_allowed
        valid = [m.name for m in methods(verb)]
        kind = f"%%{verb} methods" if verb else "methods"
        raise RequestError(f"unknown method {name!r}: {did_you_mean(name, valid, kind=kind)}")
    method = _load(found[name])
    if verb is not None and method.verb != verb:
        raise RequestError(f"{name!r} is a method of %%{method.verb}, not of %%{verb}: write %%{method.verb} {name}")
    return method


def methods(verb: Verb | None = None) -> list[type[Method]]:
    """Every method that loads, or those of one magic, in alphabetical order."""
    found = [attempt(same_name) for same_name in entries().values()]
    loaded = [method for method in found if not isinstance(method, Problem)]
    return [method for method in loaded if verb in {None, method.verb}]


def problems() -> list[Problem]:
    """What is wrong with the installed plugins; empty when all is well."""
    found = [attempt(same_name) for same_name in entries().values()]
    return [problem for problem in found if isinstance(problem, Problem)]


def attempt(same_name: tuple[Entry, ...]) -> type[Method] | Problem:
    """The method of one name's entries, or what is wrong with it; a second try may end otherwise."""
    try:
        return _load(same_name)
    except PluginError as error:
        return Problem(same_name[0].name, tuple(entry.owner for entry in same_name), str(error))


def _load(same_name: tuple[Entry, ...]) -> type[Method]:
    """Import and check the one entry of a name.

    Raises:
        PluginError: there are several, or the one is broken.
    """
    entry = same_name[0]
    if len(same_name) > 1:
        owners = " and ".join(f"{e.owner} ({e.value})" for e in same_name)
        raise PluginError(f"the method {entry.name!r} is declared more than once, by {owners}: uninstall one of them")
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):  # this may be at a press of Tab
        loaded = origins.load(EntryPoint(entry.name, entry.value, GROUP), subject(entry))
    note_printed(entry.name, "imported", said.getvalue())
    # A class can fail at being looked at as well, and nothing of that may pass: all methods are listed by this.
    fault = origins.contained(
        lambda: _fault(entry, loaded),
        lambda reason: f"{subject(entry)} is broken ({reason}): update or uninstall it",
        passing=(),
    )
    if fault:
        raise PluginError(f"{subject(entry)} {fault}: update or uninstall it")
    method: type[Method] = loaded
    return method


def make(method: type[Method]) -> Method:
    """An instance of a method, to be asked and run.

    Raises:
        PluginError: it cannot be made.
        NbadaptError: what the method raises of these.
    """

    def line(reason: str) -> str:
        declared = entries().get(method.name)
        who = subject(declared[0]) if declared else f"the method {method.name!r}"
        return f"{who} fails when it is made ({reason}): update or uninstall it"

    return origins.contained(method, line)


def note_printed(name: str, when: str, text: str) -> None:
    """Remember that a method printed something that nobody saw; nothing is noted of an empty text.

    Args:
        name: the method.
        when: "imported", "estimating".
        text: all that it printed.
    """
    line = next((line.strip() for line in hide(text).splitlines() if line.strip()), "")
    if line:
        _printed.setdefault(name, {})[when] = line


def printed(name: str) -> dict[str, str]:
    """When a method printed something -> its first line."""
    return dict(_printed.get(name, {}))


def subject(entry: Entry) -> str:
    """A method's plugin as messages call it."""
    return f"the plugin {entry.owner} of the method {entry.name!r}"


def _fault(entry: Entry, loaded: Any) -> str | None:
    """What breaks the contract, or None. Says so in words that follow "the plugin ..."."""
    from nbadapt.method import CONTRACT, Config, Method

    if not NAME.fullmatch(entry.name):
        return f"is broken: its name is {entry.name!r}, not lower-case words with hyphens between them"
    if not (isinstance(loaded, type) and issubclass(loaded, Method)):
        return f"is broken: {entry.value} is no subclass of nbadapt.method.Method"
    fault = version_fault(loaded.contract, CONTRACT)
    if fault:
        return fault
    wanted = ("name", "verb", "summary", "reference", "tasks")
    lacking = [attribute for attribute in wanted if not hasattr(loaded, attribute)]
    if lacking:
        return f"is broken: {entry.value} does not declare {', '.join(lacking)}"
    if not isinstance(loaded.name, str) or loaded.name != entry.name:
        return f"is broken: {entry.value} calls itself {loaded.name!r}"
    if not isinstance(loaded.verb, str) or loaded.verb not in {"finetune", "prompt"}:
        return f"is broken: its verb is {loaded.verb!r}, neither 'finetune' nor 'prompt'"
    if inspect.isabstract(loaded):
        missing = ", ".join(sorted(loaded.__abstractmethods__))
        return f"is broken: {entry.value} does not implement {missing}"
    if not (isinstance(loaded.Config, type) and issubclass(loaded.Config, Config)):
        return f"is broken: {entry.value}.Config is no subclass of nbadapt.method.Config"
    return _declaration_fault(loaded) or requires_fault(loaded.requires)


def _declaration_fault(method: type[Method]) -> str | None:
    """What would break every menu and table that shows the method, or None; in words that follow "the plugin ..."."""
    for attribute in ("summary", "reference", "family"):
        said = getattr(method, attribute)
        if not isinstance(said, str):
            return f"is broken: its {attribute} is {said!r}, no text"
        if not origins.is_plain(said):
            return f"is broken: its {attribute} is {said!r:.60}, not one line of letters that can be printed"
    for attribute in ("tasks", "exports"):
        said = getattr(method, attribute)
        if not isinstance(said, frozenset | set) or not all(isinstance(word, str) for word in said):
            return f"is broken: its {attribute} is {said!r}, no frozenset of words"
    if not isinstance(group := method.menu_group(), str):
        return f"is broken: its menu_group gives {group!r}, no text"
    return _tasks_fault(method.tasks) or example_fault(method.example)


def _tasks_fault(tasks: frozenset[str]) -> str | None:
    from nbadapt.method import Task

    known = get_args(Task)
    if not tasks:
        return f"is broken: it declares no tasks, of {', '.join(known)}"
    unknown = sorted(tasks.difference(known))
    return f"is broken: its task {unknown[0]!r} is none of {', '.join(known)}" if unknown else None


def example_fault(example: Any) -> str | None:
    """What is wrong with a method's example, or None; in words that follow "the plugin ..."."""
    from nbadapt.method import Example

    if example is None or (
        isinstance(example, Example) and isinstance(example.cell, str) and isinstance(example.before, str)
    ):
        return None
    return f"is broken: its example is {example!r:.60}, no nbadapt.method.Example of texts"


def version_fault(stated: Any, spoken: int) -> str | None:
    """Whether a plugin was written for another version of its contract; in words that follow "the plugin ..."."""
    if stated == spoken:
        return None
    return f"was written for contract version {stated}, and this nbadapt speaks version {spoken}"


def requires_fault(requires: Any) -> str | None:
    """What is wrong with a plugin's `requires`, or None; in words that follow "the plugin ..."."""
    if not isinstance(requires, tuple | list):
        return f"is broken: its requires is {requires!r}, no tuple of import names"
    for name in requires:
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
            return f"is broken: its requires names {name!r}, which is no import name"
    return None


# -------------------------------------------------------------------------------------------- requirements


def missing_requirements(method: type[Method]) -> list[str]:
    """The import names that `method` requires and that are not installed. Imports none of them."""
    return [name for name in method.requires if not installed(name)]


def demand_requirements(method: type[Method]) -> None:
    """Refuse a method that lacks a library.

    Raises:
        DependencyError: it does; the message holds the command that installs it.
    """
    declared = entries().get(method.name, ())
    demand(f"{method.name} needs", method.requires, declared[0].distribution if declared else None)


def demand(who: str, modules: Sequence[str], distribution: str | None) -> None:
    """Refuse what lacks a library.

    Args:
        who: the beginning of the line, such as "lora needs".
        modules: import names that must be installed.
        distribution: whose extras may bring them.

    Raises:
        DependencyError: one is missing; the message holds the command that installs it.
    """
    missing = [name for name in modules if not installed(name)]
    if missing:
        raise DependencyError(f"{who} {', '.join(missing)}: run  {install_of(missing, distribution)}")


def installed(module: str) -> bool:
    """Whether a module can be found. Imports nothing, the packages that hold it neither."""
    first, *others = module.split(".")
    try:
        if module in sys.modules:
            return importlib.util.find_spec(module) is not None
        found = importlib.util.find_spec(first)
        for part in others:
            found = _inside(found, part)
    except Exception:  # noqa: BLE001 - it is half imported, or what looks for it is broken
        return False
    return found is not None


def _inside(package: ModuleSpec | None, name: str) -> ModuleSpec | None:
    """A module of a package, found in its folders: an import, and `importlib.util.find_spec`, would run the package."""
    folders: list[str] = []  # of a package without a file of its own
    for folder in (package.submodule_search_locations or ()) if package is not None else ():
        finder: Any = pkgutil.get_importer(folder)
        found: ModuleSpec | None = finder.find_spec(name) if finder is not None else None
        if found is not None and found.loader is not None:
            return found
        folders += (found.submodule_search_locations or ()) if found is not None else ()
    if not folders:
        return None
    portions = ModuleSpec(name, None, is_package=True)
    portions.submodule_search_locations = folders
    return portions


def install_command(method: type[Method]) -> str:
    """The command that installs what `missing_requirements` found.

    Where the method's distribution has an extra that brings everything, it is the command for that extra.
    """
    declared = entries().get(method.name, ())
    return install_of(missing_requirements(method), declared[0].distribution if declared else None)


def extra_of(method: type[Method]) -> str | None:
    """The extra that brings what the method requires beyond its distribution's own requirements; None: there is none.

    Such as ``"nbadapt[feedback]"``, with its quotes.
    """
    declared = entries().get(method.name, ())
    if not declared:
        return None
    own = declared[0].distribution
    wanted = [_DISTRIBUTIONS.get(name, name.partition(".")[0].replace("_", "-")) for name in method.requires]
    found = [_extra(own, [name]) for name in wanted]
    return next((extra for extra in found if extra), None)


def install_of(modules: Sequence[str], distribution: str | None) -> str:
    """The command that installs these import names: an extra of `distribution`, where it has one for all of them."""
    wanted = [_DISTRIBUTIONS.get(name, name.partition(".")[0].replace("_", "-")) for name in modules]
    extra = _extra(distribution, wanted) if distribution else None
    return f"pip install {extra}" if extra else f"pip install {' '.join(dict.fromkeys(wanted))}"


def _extra(distribution: str, wanted: Iterable[str]) -> str | None:
    """`"distribution[extra]"` for the smallest extra that brings all of `wanted`, or None."""
    try:
        requirements = Distribution.from_name(distribution).requires or []
    except PackageNotFoundError:
        return None
    brings: dict[str, set[str]] = {}
    for requirement in requirements:
        match = re.match(r"([\w.-]+).*;.*extra\s*==\s*['\"]([\w.-]+)['\"]", requirement)
        if match:
            brings.setdefault(match[2], set()).add(origins.normal(match[1]))
    needed = {origins.normal(name) for name in wanted}
    fitting = [extra for extra, names in brings.items() if needed <= names]
    smallest = min(fitting, key=lambda extra: (len(brings[extra]), extra), default=None)
    return f'"{distribution}[{smallest}]"' if smallest else None
