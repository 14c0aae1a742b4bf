"""Models behind an endpoint: "prefix:name" -> the provider of that prefix. Listing providers imports none.

A third party adds a provider with an entry point of the group ``nbadapt.providers``; see `nbadapt.provider`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from nbadapt import origins, registry
from nbadapt.errors import ModelError, PluginError, RequestError, did_you_mean
from nbadapt.method import ModelRef

if TYPE_CHECKING:
    from nbadapt.engines.asking import EndpointLimits
    from nbadapt.engines.endpoint import Endpoint
    from nbadapt.provider import Provider, Tell

GROUP = "nbadapt.providers"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

_PREFIX = re.compile(r"([A-Za-z][\w.-]+):(.*)")  # two letters at least: C:\models is a folder
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")


def prefixes() -> list[str]:
    """The prefixes of all installed providers."""
    return sorted({point.name for point in origins.allowed(GROUP)})


def split(name: str) -> tuple[str, str] | None:
    """A model's name as (prefix, name there); None where it has no such form."""
    match = _PREFIX.fullmatch(name)
    return (match[1], match[2]) if match else None


def load(prefix: str) -> Provider:
    """Import and check the provider of a prefix, and what it requires.

    Raises:
        ModelError: there is none.
        PluginError: it is broken, or two distributions declare it.
        DependencyError: a library is missing; with the command that installs it.
    """
    from nbadapt.provider import CONTRACT, Provider

    point = origins.only("provider", prefix, GROUP)
    if point is None:
        refused = origins.explain("provider", prefix, origins.refused(GROUP))
        if refused is not None:
            raise refused
        raise ModelError(f"unknown provider {prefix!r}: {did_you_mean(prefix, prefixes(), kind='providers')}")
    subject = origins.subject("provider", point)
    provider = origins.load(point, subject)
    if not (isinstance(provider, type) and issubclass(provider, Provider)):
        fault: str | None = f"is broken: {point.value} is no subclass of nbadapt.provider.Provider"
    else:
        fault = registry.version_fault(provider.contract, CONTRACT) or registry.requires_fault(provider.requires)
    if fault:
        raise PluginError(f"{subject} {fault}: update or uninstall it")
    registry.demand(f"models of {prefix!r} need", provider.requires, origins.identity(point.dist)[0] or None)
    made: Provider = origins.contained(
        provider, lambda reason: f"{subject} fails when it is made ({reason}): update or uninstall it"
    )
    return made


# ------------------------------------------------------------------------------------------------ looking a model up


def find(name: str, base_url: str | None = None, key_env: str | None = None) -> ModelRef | None:
    """The model of a provider; None for a name that is of another kind. Asks nobody.

    Args:
        name: such as "prefix:name"; a folder of that name goes first.
        base_url: where the endpoint is; None for where the provider's own is.
        key_env: the environment variable that holds the key; None for the provider's.

    Raises:
        NbadaptError: an unknown or broken provider, a missing library or key, an address that is none.
    """
    parts = split(name)
    if parts is None or Path(name).is_dir():
        _refuse_options(name, base_url, key_env)
        return None
    prefix, model = parts
    provider = load(prefix)
    if not model.strip():
        raise ModelError(f"{name!r} names no model: write it as  --model {prefix}:NAME")
    url = base_url or os.environ.get(provider.base_url_env or "-") or provider.base_url
    if not url:
        raise ModelError(f"{name} is at no address: add --base-url, such as http://localhost:8000/v1")
    url = _checked_url(url)
    variable = provider.key_env if key_env is None else _checked_variable(key_env)
    ref = ModelRef(name, "endpoint", model.strip(), base_url=url, key_env=variable)
    if key(ref) is None and url == provider.base_url:
        raise ModelError(
            f"{name} needs a key: put it into the environment variable {variable}, or name another endpoint "
            "with --base-url"
        )
    return ref


def _refuse_options(name: str, base_url: str | None, key_env: str | None) -> None:
    """An option that only endpoints have, with a model that is none."""
    for flag, value in (("--base-url", base_url), ("--api-key-env", key_env)):
        if value is not None:
            forms = " or ".join(f"--model {prefix}:NAME" for prefix in prefixes()) or "--model PREFIX:NAME"
            raise RequestError(f"{flag} is for models behind an endpoint, and {name!r} is none: write  {forms}")


def _checked_url(url: str) -> str:
    """The address without a slash at its end.

    Raises:
        ModelError: it is none, or carries a secret, which would be kept with the run.
    """
    try:
        parts = urlsplit(url.strip())
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise ModelError("--base-url is no address: write it as http://localhost:8000/v1") from None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ModelError(
            "--base-url must hold no user, password or parameters: it is kept with the run; put the key into an "
            "environment variable"
        )
    if parts.scheme not in {"http", "https"} or not host:
        raise ModelError(f"--base-url {url!r} is no address: write it as http://localhost:8000/v1")
    return parts.geturl().rstrip("/")


def _checked_variable(name: str) -> str:
    """Raises RequestError, which does not repeat what was given: it may be the key itself."""
    if not _VARIABLE.fullmatch(name):
        raise RequestError(
            "--api-key-env takes the name of an environment variable, such as MY_API_KEY, and never the key itself"
        )
    if not os.environ.get(name, "").strip():
        raise RequestError("the environment variable that --api-key-env names is not set: put the key into it")
    return name


def key(model: ModelRef) -> str | None:
    """The key in the environment, or None.

    Raises:
        ModelError: what is there can be no key.
    """
    value = os.environ.get(model.key_env or "-", "").strip()
    if not (value.isascii() and value.isprintable()) or " " in value:
        raise ModelError(
            f"what the environment variable {model.key_env} holds is no key: it has blanks, line ends or letters "
            "outside ASCII"
        )
    return value or None


def sends_key_elsewhere(model: ModelRef) -> bool:
    """Whether a key of the environment would go to another address than that of the provider whose key it is."""
    if not os.environ.get(model.key_env or "-", "").strip():
        return False
    parts = split(model.name)
    if parts is None:
        return True
    provider = load(parts[0])
    return (model.key_env, model.base_url) != (provider.key_env, provider.base_url)


def is_loopback(url: str) -> bool:
    """Whether an address is on this machine."""
    return urlsplit(url).hostname in LOOPBACK


def open_model(
    model: ModelRef, limits: EndpointLimits | None = None, *, journal: Path | None = None, tell: Tell | None = None
) -> Endpoint:
    """The model, ready to be asked; nothing is sent yet.

    Args:
        model: of kind "endpoint".
        limits: how many questions at a time, how long, how often.
        journal: a file that keeps every answer; what it holds already is not asked again.
        tell: given lines that the user should know.

    Raises:
        NbadaptError: the provider is gone or broken, or lacks a library.
    """
    from nbadapt.engines.endpoint import Endpoint

    parts = split(model.name)
    assert parts is not None  # `find` made it
    return Endpoint(model, load(parts[0]), limits, journal=journal, tell=tell)
