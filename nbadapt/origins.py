"""Which installed distributions may bring plugins, for all groups of entry points.

::

    NBADAPT_PLUGINS not set              every installed distribution
    NBADAPT_PLUGINS=acme-methods,beta    nbadapt itself and those two; nothing of any other one is imported
    NBADAPT_PLUGINS=                     nbadapt alone

It decides what nbadapt imports, and is no sandbox: a distribution that is installed can have its code run by Python
itself, as by a ``.pth`` file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from typing import Any

from nbadapt.errors import NbadaptError, PluginError, Stopped, first_line

VARIABLE = "NBADAPT_PLUGINS"
OWN = "nbadapt"
GROUPS = ("nbadapt.methods", "nbadapt.models", "nbadapt.providers", "nbadapt.stores")

FIXES = ("update or uninstall it", "uninstall one of them")
"""How the line about a broken plugin ends, behind ": "."""

PASSING = (KeyboardInterrupt, GeneratorExit, Stopped)
"""What is never a plugin's failure. All else is, also what is no Exception: a panic in Rust (pyo3) is none."""


def limit() -> frozenset[str] | None:
    """The distributions that may bring plugins, in normal spelling; None where every one may."""
    named = os.environ.get(VARIABLE)
    if named is None:
        return None
    return frozenset({OWN, *(normal(word) for word in re.split(r"[,\s]+", named) if word)})


def allowed(group: str) -> list[EntryPoint]:
    """The entry points of a group whose distributions may bring plugins. Imports none."""
    among = limit()
    return [point for point in entry_points(group=group) if _may(point, among)]


def refused(group: str) -> list[EntryPoint]:
    """The other ones of the group, sorted by name."""
    among = limit()
    return sorted((p for p in entry_points(group=group) if not _may(p, among)), key=lambda p: (p.name, owner(p)))


def not_installed() -> list[str]:
    """The names in `VARIABLE` that no installed distribution has."""
    return sorted(name for name in limit() or () if not _installed(name))


def owner(point: EntryPoint) -> str:
    """Distribution and version, for messages."""
    return f"{point.dist.metadata['Name']} {point.dist.version}" if point.dist else "an unknown distribution"


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
    try:
        return point.load()
    except PASSING:
        raise
    except NbadaptError as error:
        raise PluginError(f"{who} cannot be imported ({error}): update or uninstall it") from None
    except BaseException as error:  # noqa: BLE001 - a plugin may fail in any way, and must not take us along
        raise PluginError(f"{who} cannot be imported ({told(error)}): update or uninstall it") from None


def told(error: BaseException) -> str:
    """The type of an error and the first line of what it says."""
    return f"{type(error).__name__}: {first_line(error)}" if str(error).strip() else type(error).__name__


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
    fix = f"add {point.dist.metadata['Name']} to it" if point.dist else "unset it"
    return PluginError(
        f"the {kind} {name!r} of {owner(point)} is not loaded: {VARIABLE} does not name its distribution; "
        f"{fix}, and restart the kernel, if you trust it"
    )


def _may(point: EntryPoint, among: frozenset[str] | None) -> bool:
    return among is None or (point.dist is not None and normal(point.dist.metadata["Name"]) in among)


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def normal(name: str) -> str:
    """A distribution's name as the package index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
