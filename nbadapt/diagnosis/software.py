"""Versions, and what is installed: read from the distributions' metadata, so that nothing heavy is imported."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution, version
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from nbadapt import endpoints, model_names, origins, registry, settings
from nbadapt.diagnosis.report import Finding
from nbadapt.errors import DependencyError, NbadaptError, PluginError
from nbadapt.indexing import store as stores
from nbadapt.packaged_models import PackagedModel

# What a plugin that is no method is called -> its group, and what loads it.
_GROUPS = {"provider": endpoints.GROUP, "store": stores.GROUP, "model": model_names.GROUP}
_LOADERS: Mapping[str, Callable[[str], Any]] = {
    "provider": endpoints.load,
    "store": stores.kind,
    "model": model_names.load_package,
}

# Beside what nbadapt requires itself.
ALSO = ("bitsandbytes", "trl", "datasets", "jupyterlab", "notebook", "jupyterlab-widgets")


def installed(name: str) -> str | None:
    """The version of a distribution; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def versions() -> Iterator[Finding]:
    """Python, nbadapt, and every library that it requires: those that are missing or too old are problems."""
    topic = "Versions"
    yield Finding(topic, "python", f"{platform.python_version()} ({platform.python_implementation()})")
    yield Finding(topic, "system", f"{platform.system()} {platform.release()}, {platform.machine()}")
    yield Finding(topic, "nbadapt", installed("nbadapt") or "not installed: run from its source")
    for wanted in requirements():
        found = installed(wanted.name)
        fix = f'pip install "{wanted.name}{wanted.specifier}"'
        if found is None:
            yield Finding(topic, wanted.name, f"not installed; nbadapt needs {wanted.specifier}", "problem", fix)
        elif not wanted.specifier.contains(found, prereleases=True):
            yield Finding(topic, wanted.name, f"{found}; nbadapt needs {wanted.specifier}", "problem", fix)
        else:
            yield Finding(topic, wanted.name, found)
    for name in ALSO:
        yield Finding(topic, name, installed(name) or "not installed in this kernel's environment")


def requirements(extra: str = "") -> list[Requirement]:
    """What nbadapt requires, or what one of its extras adds; for this Python and system."""
    try:
        lines = distribution("nbadapt").requires or []
    except PackageNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            wanted = Requirement(line)
        except InvalidRequirement:
            continue
        here = wanted.marker is None or wanted.marker.evaluate({"extra": extra})
        if here and ("extra ==" in line) == bool(extra):
            found.append(wanted)
    return found


def extras() -> Iterator[Finding]:
    """What each extra of nbadapt lacks, and the command that brings it."""
    try:
        names = distribution("nbadapt").metadata.get_all("Provides-Extra") or []
    except PackageNotFoundError:
        return
    for extra in sorted(names):
        wanted = [one for one in requirements(extra) if one.name != "nbadapt"]
        if not wanted or extra == "all":
            continue
        found = {one: installed(_provided(one.name)) for one in wanted}
        lacking = [one.name for one, version in found.items() if version is None]
        unfit = [
            f"{one.name} is {version}, and nbadapt needs {one.specifier}"
            for one, version in found.items()
            if version is not None and not one.specifier.contains(version, prereleases=True)
        ]
        if lacking or unfit:
            value = "; ".join([*unfit, *([f"not installed: {', '.join(lacking)}"] if lacking else [])])
            yield Finding("Extras", extra, value, "problem" if unfit else "note", f'pip install "nbadapt[{extra}]"')
        else:
            yield Finding("Extras", extra, "installed: " + ", ".join(one.name for one in wanted))


def _provided(name: str) -> str:
    """The distribution that brings what a requirement names: xgboost also comes as xgboost-cpu."""
    return "xgboost-cpu" if name == "xgboost" and installed(name) is None else name


# ------------------------------------------------------------------------------------------------ plugins


def plugins() -> Iterator[Finding]:
    """Where plugins come from, which are broken and why, which lack a library, which may not be loaded."""
    yield from _limit()
    for owner, reason in origins.unreadable():
        value = f"its entry points cannot be read, so that no plugin of it is found ({reason})"
        yield Finding("Plugins", owner, value, "problem", "install it anew, or uninstall it")
    found = registry.entries()
    owners: dict[str, list[str]] = {}
    for name, same_name in found.items():
        method = registry.attempt(same_name)
        if isinstance(method, registry.Problem):
            yield _broken(method.name, method.message)
            continue
        try:
            settings.describe(method)
        except PluginError as error:
            yield _broken(name, str(error))
            continue
        owners.setdefault(same_name[0].owner, []).append(name)
        for when, line in registry.printed(name).items():
            value = f"of {same_name[0].owner}: it printed while {when}, which nobody was shown: {line}"
            yield Finding("Plugins", name, value, "note", f"tell its author; more by  %nbadapt check {name}")
        if registry.missing_requirements(method):
            missing = ", ".join(registry.missing_requirements(method))
            yield Finding("Plugins", name, f"needs {missing}", "note", registry.install_command(method))
    for owner, names in sorted(owners.items()):
        yield Finding("Plugins", f"from {owner}", f"{len(names)} method{'s' * (len(names) > 1)}: {', '.join(names)}")
    yield from _others()
    for kind, group in (("", registry.GROUP), *_GROUPS.items()):
        for point in origins.refused(group):
            name = origins.plain(point.name)
            value = f"of {origins.owner(point)}: not loaded, as {origins.VARIABLE} says"
            yield Finding("Plugins", f"{kind} {name}".strip(), value, "note")


def _limit() -> Iterator[Finding]:
    limit = origins.limit()
    if limit is None:
        return
    yield Finding("Plugins", origins.VARIABLE, f"only these may bring plugins: {', '.join(sorted(limit))}")
    for name in origins.not_installed():
        fix = f"correct the name in {origins.VARIABLE}, or install that package"
        yield Finding("Plugins", origins.VARIABLE, f"no distribution is called {name}", "problem", fix)


def _broken(name: str, message: str) -> Finding:
    """A plugin's line ends with what to do, behind its last colon; one of its own need not."""
    reason, _, fix = message.rpartition(": ")
    if fix not in origins.FIXES:
        reason, fix = message, origins.FIXES[0]
    return Finding("Plugins", name, reason, "problem", fix)


def _others() -> Iterator[Finding]:
    """Providers, stores and packaged models, each with the distribution that declares it."""
    for kind, group in _GROUPS.items():
        declared: dict[str, list[str]] = {}
        for point in origins.allowed(group):
            declared.setdefault(point.name, []).append(origins.owner(point))
        for name in sorted(declared):
            yield _other(kind, name, " and ".join(sorted(set(declared[name]))))


def _other(kind: str, name: str, owner: str) -> Finding:
    called = f"{kind} {origins.plain(name)}"
    try:
        loaded = _LOADERS[kind](name)
    except DependencyError as error:
        needs, _, command = str(error).partition(": run  ")
        return Finding("Plugins", called, f"from {owner}: {needs}", "note", command)
    except NbadaptError as error:
        return _broken(called, str(error))
    if not isinstance(loaded, PackagedModel):
        return Finding("Plugins", called, f"from {owner}: ready")
    found = installed(loaded.distribution)
    if found is None:
        value = f"from {owner}: its package {loaded.distribution} is not installed"
        return Finding("Plugins", called, value, "note", loaded.install)
    return Finding("Plugins", called, f"from {owner}, in {loaded.distribution} {found}")


def too_old(name: str, least: int) -> bool:
    """Whether a distribution is installed in a major version below `least`."""
    major = re.match(r"\d+", installed(name) or "")
    return major is not None and int(major[0]) < least
