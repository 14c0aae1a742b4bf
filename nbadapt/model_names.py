"""Model names -> a local folder, a provider's endpoint, an installed package or the hub."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbadapt import consent, endpoints, hub, origins
from nbadapt.errors import ModelError, PluginError, did_you_mean, first_line
from nbadapt.method import ModelRef

if TYPE_CHECKING:
    from nbadapt.packaged_models import PackagedModel

GROUP = "nbadapt.models"


def names() -> list[str]:
    """The short names of models that installed packages may carry."""
    return sorted({point.name for point in origins.allowed(GROUP)})


def generators() -> list[str]:
    """Those of `names` that write text."""
    found = []
    for name in names():
        with contextlib.suppress(ModelError):
            if load_package(name).generates:
                found.append(name)
    return found


def load_package(name: str) -> PackagedModel:
    """The packaged model of a short name.

    Raises:
        ModelError: its package is broken, or two declare it.
    """
    from nbadapt.packaged_models import PackagedModel

    try:
        point: Any = origins.only("model", name, GROUP)
        subject = origins.subject("model", point)
        package = origins.load(point, subject)
    except PluginError as error:
        raise ModelError(str(error)) from None
    if not isinstance(package, PackagedModel):
        fault = f"{point.value} is no nbadapt.packaged_models.PackagedModel"
        raise ModelError(f"{subject} is broken: {fault}: update or uninstall it")
    for field in ("name", "distribution", "install", "inside"):
        if not isinstance(getattr(package, field), str):
            fault = f"its {field} is {getattr(package, field)!r}, no text"
            raise ModelError(f"{subject} is broken: {fault}: update or uninstall it")
    return package


def _packages_to_install() -> str:
    lines = []
    for name in names():
        with contextlib.suppress(ModelError):
            lines.append(f"{load_package(name).install} brings {name}")
    return "; ".join(lines)


def resolve(
    name: str, *, trust_remote_code: bool = False, base_url: str | None = None, key_env: str | None = None
) -> ModelRef:
    """Look a model name up: a local folder, then a provider's endpoint, an installed package, the hub.

    Args:
        name: a folder, "prefix:name" of a provider, a package's short name or a hub id.
        trust_remote_code: whether code that comes with the model may run.
        base_url: where a provider's endpoint is.
        key_env: the environment variable that holds its key.

    Raises:
        ModelError: there is no such model, or it is out of reach; the message says what would bring one.
        NbadaptError: what else `nbadapt.endpoints.find` and `nbadapt.consent.settle` raise.
    """
    found = endpoints.find(name, base_url, key_env) or _with_weights(name, trust_remote_code)
    consent.settle(found)
    return found


def _with_weights(name: str, trust_remote_code: bool) -> ModelRef:
    """A model whose weights are loaded here."""
    folder = Path(os.path.expanduser(name))  # noqa: PTH111 - leaves ~nobody as it is, where Path raises
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"the folder {name!r} has no config.json: it holds no transformers model")
        return ModelRef(name, "folder", str(folder), trust_remote_code)
    if name in names():
        package = load_package(name)
        found = package.folder()
        if found is None:
            raise ModelError(f"the model {name!r} needs the package {package.distribution}: run  {package.install}")
        return ModelRef(name, "package", str(found), trust_remote_code)
    refused = origins.explain("model", name, origins.refused(GROUP))
    if refused is not None:
        raise refused
    if folder.exists():
        raise ModelError(f"{name!r} is a file: --model takes a folder, a hub name or one of {', '.join(names())}")
    return ModelRef(name, "hub", _on_hub(name), trust_remote_code)


def _on_hub(name: str) -> str:
    """The hub id, or the folder of a cached copy where the hub is out of reach."""
    import huggingface_hub
    from huggingface_hub import errors
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # exported, if not in __all__

    unknown = f"no model {name!r} here: {did_you_mean(name, names(), kind='packaged models')}"
    try:
        validate_repo_id(name)
    except errors.HFValidationError:
        raise ModelError(unknown) from None
    cached = huggingface_hub.try_to_load_from_cache(name, "config.json")
    if huggingface_hub.constants.HF_HUB_OFFLINE or not hub.online(huggingface_hub.constants.ENDPOINT):
        if isinstance(cached, str):
            return str(Path(cached).parent)
        raise ModelError(f"{unknown}; the hub is out of reach ({_packages_to_install()})")
    try:
        huggingface_hub.hf_hub_download(name, "config.json")
    except errors.GatedRepoError:
        raise ModelError(f"the model {name!r} is gated: accept its terms on the hub, then `hf auth login`") from None
    except errors.RepositoryNotFoundError:
        raise ModelError(f"{unknown}; the hub does not know it either (private models need `hf auth login`)") from None
    except errors.LocalEntryNotFoundError as error:  # the hub could not be asked
        raise ModelError(f"the hub did not give the model {name!r}: {first_line(error)}") from None
    except errors.EntryNotFoundError:
        raise ModelError(f"{name!r} on the hub has no config.json: it is no transformers model") from None
    except (OSError, errors.HfHubHTTPError) as error:
        raise ModelError(f"the hub did not give the model {name!r}: {first_line(error)}") from None
    return name
