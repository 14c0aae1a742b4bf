"""Writes a new plugin: a copy of ``nbadapt-example`` with other names, which installs and works as it is."""

from __future__ import annotations

import importlib.util
import keyword
import re
from collections.abc import Mapping
from pathlib import Path

from nbadapt import registry, store
from nbadapt.errors import RequestError
from nbadapt.tables import Code, Page

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST = 40  # characters
LEFT_OUT = frozenset({"__pycache__", ".pytest_cache", ".ruff_cache", ".mypy_cache", "build", "dist"})


def template() -> Path:
    """The folder of the example: beside the built-in methods, in a checkout as in an installed nbadapt."""
    spec = importlib.util.find_spec("nbadapt_plugins")
    assert spec is not None  # it is part of this distribution
    assert spec.origin is not None
    return Path(spec.origin).parents[1] / "nbadapt-example"


def create(name: str, parent: Path | None = None) -> Page:
    """Write the folder ``nbadapt-NAME``.

    Args:
        name: the word that is to come after the magic.
        parent: where; None for the current folder.

    Returns:
        What to do next.

    Raises:
        RequestError: the name cannot be used, or the folder is there.
    """
    _check(name)
    distribution = f"nbadapt-{name}"
    target = (parent or Path.cwd()) / distribution
    if target.exists() or target.is_symlink():
        raise RequestError(f"{target} is there already: choose another name, or remove it")
    source = template()
    every = (path for path in source.rglob("*") if path.is_file())
    files = sorted(path for path in every if not LEFT_OUT & {*path.relative_to(source).parts})
    texts = {path.relative_to(source): path.read_text(encoding="utf-8") for path in files}
    names = _names(name, "\n".join(texts.values()))
    try:
        with store.new_folder(target) as room:
            for path, text in texts.items():
                written = room / _renamed(path.as_posix(), names)
                written.parent.mkdir(parents=True, exist_ok=True)
                written.write_text(_renamed(text, names), encoding="utf-8")
    except OSError as error:
        raise RequestError(f"{target} cannot be written: {error.strerror or error}") from None
    return Page(
        f"{target} is a plugin with the method {name}, which works as it is.",
        Code(f'pip install --editable "./{distribution}[test]"\npytest {distribution}\n%nbadapt check {name}'),
        "Restart the kernel after installing it. "
        f"Then write your own method in its place, in {names['nbadapt_example']}/method.py.",
    )


def _check(name: str) -> None:
    """Raises RequestError for a name that cannot be used."""
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        raise RequestError(
            f"{name!r:.60} can be no method's name: use lower-case letters, digits and single hyphens, begun with a "
            f"letter, {LONGEST} characters at most, such as my-method"
        )
    if keyword.iskeyword(_class(name)) or keyword.iskeyword(name):
        raise RequestError(f"{name!r} is a word of Python: choose another name")
    taken = registry.entries().get(name)
    if taken:
        owners = " and ".join(entry.owner for entry in taken)
        raise RequestError(f"there is a method {name!r} already, of {owners}: choose another name")
    package = f"nbadapt_{name.replace('-', '_')}"
    if importlib.util.find_spec(package) is not None:
        raise RequestError(f"there is a package {package} already: choose another name")


def _names(name: str, source: str) -> Mapping[str, str]:
    """The words of the example -> those of the copy."""
    kind = _class(name)
    if re.search(rf"\b{kind}(Settings)?\b", source):  # the example's module has something of this name already
        kind += "Method"
    return {
        "nbadapt-example": f"nbadapt-{name}",
        "nbadapt_example": f"nbadapt_{name.replace('-', '_')}",
        "VeraSettings": f"{kind}Settings",
        "Vera": kind,
        "vera": name,
    }


def _class(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("-"))


def _renamed(text: str, names: Mapping[str, str]) -> str:
    pattern = "|".join(rf"\b{re.escape(word)}\b" for word in names)
    return re.sub(pattern, lambda match: names[match[0]], text)
