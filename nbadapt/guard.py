"""What a run's folder may lead to, whoever wrote it: nothing outside of it, and no code.

Checked before anything of a stored run is loaded, exported or continued: its files may come from somebody else.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from nbadapt.errors import StoreError

# Files that Python objects are read from, which is to run what they say. Weights are in safetensors.
CODE = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle"})


def relative(run: str, path: Any) -> str:
    """A path of an outcome, as it may stand there: relative, and without a way up.

    Raises:
        StoreError: it may not.
    """
    if not isinstance(path, str):
        raise StoreError(f"the outcome of the run {run} is damaged: {path!r:.60} is no path")
    parts = (*PurePosixPath(path).parts, *PureWindowsPath(path).parts)
    if not path or ".." in parts or PurePosixPath(path).is_absolute() or PureWindowsPath(path).drive:
        raise StoreError(f"the run {run} names {path!r:.200}, which lies outside its folder: nbadapt wrote no such run")
    return path


def plain_text(run: str, *values: Any) -> None:
    """What a request says of a model and a device goes into exported scripts: one line, that ends no text of them.

    Raises:
        StoreError: a value is something else.
    """
    for value in values:
        if not isinstance(value, str) or not value.isprintable() or '"""' in value or "'''" in value:
            raise StoreError(f"the request of the run {run} is damaged: {value!r:.80} is no name")


def whole_number(run: str, value: Any) -> None:
    """Raises StoreError where a request holds something else than a whole number."""
    if type(value) is not int:
        raise StoreError(f"the request of the run {run} is damaged: {value!r:.80} is no whole number")


def check(directory: Path, artifacts: Iterable[str] = ()) -> None:
    """Look a run's folder over before it is used.

    Args:
        directory: the run's folder.
        artifacts: paths in it that are about to be read.

    Raises:
        StoreError: a link leads out of the folder, or an artifact holds something that could run code.
    """
    home = directory.resolve()
    for folder, folders, files in os.walk(directory):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink() and not path.resolve().is_relative_to(home):
                raise StoreError(
                    f"the run {directory.name} holds a link that leads out of its folder, "
                    f"{path.relative_to(directory)}: put what it leads to in its place if you made it"
                )
    for artifact in artifacts:
        below = directory / relative(directory.name, artifact)
        for path in (below, *below.rglob("*")):
            _check_file(directory, path)


def _check_file(directory: Path, path: Path) -> None:
    if path.suffix.lower() in CODE:
        raise StoreError(
            f"the run {directory.name} holds {path.relative_to(directory)}, and files of this kind can run code: "
            "only safetensors, JSON and skops are read"
        )
    if path.name == "adapter_config.json":
        from nbadapt.store import read_json

        _check_adapter(directory, read_json(path))


def _check_adapter(directory: Path, config: Mapping[str, Any]) -> None:
    """By these settings peft would import modules, or read other files; no method here writes them."""
    for setting in ("megatron_config", "auto_mapping", "tokenizer_kwargs", "adapters"):
        if config.get(setting):
            raise StoreError(
                f"the adapter of the run {directory.name} has the setting {setting}, by which a file can name code "
                "to be run: it was not written by nbadapt"
            )
