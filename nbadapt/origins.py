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

from nbadapt.errors import PluginError

VARIABLE = "NBADAPT_PLUGINS"
OWN = "nbadapt"
GROUPS = ("nbadapt.methods", "nbadapt.models", "nbadapt.providers", "nbadapt.stores")


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
