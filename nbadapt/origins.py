"""Which installed distributions may bring plugins, for all groups of entry points.

::

    NBADAPT_PLUGINS not set              every installed distribution
    NBADAPT_PLUGINS=acme-methods,beta    nbadapt itself and those two; nothing of any other one is imported
    NBADAPT_PLUGINS=                     nbadapt alone

It decides what nbadapt imports, and is no sandbox: a distribution that is installed can have its code run by Python
itself, as by a ``.pth`` file.
"""

from __future__ import annotations

import contextlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from importlib.metadata import (
    Distribution,
    EntryPoint,
    PackageNotFoundError,
    distribution,
    distributions,
    entry_points,
)
from typing import Any, TypeVar

from nbadapt.errors import NbadaptError, PluginError, Stopped, first_line

T = TypeVar("T")

VARIABLE = "NBADAPT_PLUGINS"
OWN = "nbadapt"
UNKNOWN = "an unknown distribution"

FIXES = ("update or uninstall it", "uninstall one of them")
"""How the line about a broken plugin ends, behind ": "."""

PASSING = (KeyboardInterrupt, GeneratorExit, Stopped)
"""What is no failure of a plugin at work. All else is, also what is no Exception: a panic in Rust (pyo3) is none."""


def limit() -> frozenset[str] | None:
    """The distributions that may bring plugins, in normal spelling; None where every one may."""
    named = os.environ.get(VARIABLE)
    if named is None:
        return None
    return frozenset({OWN, *(normal(word) for word in re.split(r"[,\s]+", named) if word)})


def allowed(group: str) -> list[EntryPoint]:
    """The entry points of a group whose distributions may bring plugins. Imports none."""
    among = limit()
    return [point for point in _points(group) if _may(point, among)]


def refused(group: str) -> list[EntryPoint]:
    """The other ones of the group, sorted by name."""
    among = limit()
    return sorted((p for p in _points(group) if not _may(p, among)), key=lambda p: (p.name, owner(p)))


def not_installed() -> list[str]:
    """The names in `VARIABLE` that no installed distribution has."""
    return sorted(name for name in limit() or () if not _installed(name))


def unreadable() -> list[tuple[str, str]]:
    """The distributions whose entry points cannot be read, so that no plugin of theirs is found, and why."""
    found = []
    for declaring in distributions():
        try:
            declaring.entry_points  # noqa: B018 - it is read when it is asked for
        except Exception as error:  # noqa: BLE001 - see `_points`
            who = _called(*identity(declaring))
            found.append((who if who != UNKNOWN else f"{UNKNOWN} in {declaring.locate_file('')}", told(error)))
    return found


def identity(declaring: Distribution | None) -> tuple[str, str]:
    """Name and version of a distribution; both empty where its metadata is lost, as after a broken uninstall."""
    try:
        metadata = declaring.metadata  # type: ignore[union-attr]  # None is caught as well
        return plain((metadata.get_all("Name") or [""])[0]), plain((metadata.get_all("Version") or [""])[0])
    except Exception:  # noqa: BLE001 - how a damaged file fails depends on Python's version
        return "", ""


def owner(point: EntryPoint) -> str:
    """Distribution and version, for messages."""
    return _called(*identity(point.dist))


def _called(name: str, version: str) -> str:
    return f"{name} {version}".strip() if name else UNKNOWN


def only(kind: str, name: str, group: str) -> EntryPoint | None:
    """The allowed entry point of a name, or None.

    Raises:
        PluginError: several distributions declare it; none of them wins.
    """
    found = {(point.value, owner(point)): point for point in allowed(group) if point.name == name}
    if len(found) > 1:
        owners = " and ".join(f"{declared} ({value})" for value, declared in sorted(found, key=lambda pair: pair[1]))
        raise PluginError(f"the {kind} {name!r} is declared more than once, by {owners}: uninstall one of them")
    return next(iter(found.values()), None)


def subject(kind: str, point: EntryPoint) -> str:
    """A plugin as messages call it, such as "the plugin acme 1.0 of the store 'box'"."""
    return f"the plugin {owner(point)} of the {kind} {point.name!r}"


def load(point: EntryPoint, who: str) -> Any:
    """Import what an entry point names.

    Args:
        point: the entry point.
        who: the plugin as messages call it.

    Raises:
        PluginError: that fails, in whatever way.
    """
    return contained(
        point.load, lambda reason: f"{who} cannot be imported ({reason}): update or uninstall it", passing=()
    )


def contained(
    ask: Callable[[], T],
    line: Callable[[str], str],
    *,
    passing: tuple[type[BaseException], ...] = (NbadaptError,),
) -> T:
    """What a plugin gives when it is asked; a failure of its code becomes one line that names it.

    Args:
        ask: what calls the plugin's code.
        line: makes the line of the reason; it names the plugin.
        passing: the errors that are raised as they are; an interrupt always is.

    Raises:
        PluginError: it fails, in whatever way.
    """
    through: tuple[type[BaseException], ...] = (KeyboardInterrupt, *passing)
    try:
        return ask()
    except through:
        raise
    except BaseException as error:  # noqa: BLE001 - a plugin may fail in any way, and must not take us along
        raise PluginError(line(told(error))) from None


def told(error: BaseException) -> str:
    """The type of an error and the first line of what it says; of an error of ours that line alone."""
    kind, line = type(error).__name__, first_line(error)
    return line if isinstance(error, NbadaptError) or line == kind else f"{kind}: {line}"


def explain(kind: str, name: str, points: Iterable[EntryPoint]) -> PluginError | None:
    """The error for a word that only distributions which may not have; None where none of them has it either.

    Args:
        kind: what the word names, such as "method".
        name: the word.
        points: what `refused` gave.
    """
    point = next((point for point in points if point.name == name), None)
    if point is None:
        return None
    called, _ = identity(point.dist)
    fix = f"add {called} to it" if called else "unset it"
    return PluginError(
        f"the {kind} {name!r} of {owner(point)} is not loaded: {VARIABLE} does not name its distribution; "
        f"{fix}, and restart the kernel, if you trust it"
    )


def _points(group: str) -> list[EntryPoint]:
    try:
        return list(entry_points(group=group))
    except Exception:  # noqa: BLE001 - one list that cannot be read, of any distribution, hides all others
        return _readable_points(group)


def _readable_points(group: str) -> list[EntryPoint]:
    """The entry points of a group, read from one distribution after the other: those of a name count once."""
    found: dict[str, list[EntryPoint]] = {}
    for number, declaring in enumerate(distributions()):
        points: list[EntryPoint] = []
        with contextlib.suppress(Exception):  # see `unreadable`
            points = [point for point in declaring.entry_points if point.group == group]
        if points:
            found.setdefault(normal(identity(declaring)[0]) or str(number), points)
    return [point for points in found.values() for point in points]


def _may(point: EntryPoint, among: frozenset[str] | None) -> bool:
    return among is None or normal(identity(point.dist)[0]) in among


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def normal(name: str) -> str:
    """A distribution's name as the package index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_plain(text: str) -> bool:
    """Whether a text is one line, without characters that steer a terminal."""
    return all(letter.isprintable() or unicodedata.category(letter) == "Zs" for letter in text)


def plain(text: str) -> str:
    """A text that `is_plain`: other characters are written as escapes."""
    return "".join(letter if is_plain(letter) else ascii(letter)[1:-1] for letter in text)
