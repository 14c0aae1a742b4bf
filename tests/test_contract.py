"""What plugins may rely on: the public names are pinned, and nbadapt knows no method by its name.

A change of the contract is made on purpose: say why in docs/contract.md and CHANGELOG.md, then run
``python -m tests.test_contract``, which writes tests/contract.txt anew.
"""

from __future__ import annotations

import abc
import ast
import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, get_origin

import pytest

from nbadapt import method, packaged_models, provider, registry
from nbadapt.indexing import store
from nbadapt.method import Method
from nbadapt_plugins import bases

ROOT = Path(__file__).parents[1]
PINNED = Path(__file__).with_name("contract.txt")
WHOLE = ("nbadapt.method", "nbadapt.events", "nbadapt.errors", "nbadapt.provider")  # every public name
SOME = {
    "nbadapt.data": ("Examples",),
    "nbadapt.indexing.chunks": ("Chunk",),
    "nbadapt.indexing.store": ("Passage", "Ranked", "Record", "Store", "Where", "digest"),
    "nbadapt.packaged_models": ("PackagedModel",),
    "nbadapt.testing": None,  # its __all__
    "nbadapt.testing.stores": ("StoreContract",),
    "nbadapt.parts": None,
    "nbadapt_plugins.bases": None,
}
# Words that are names of methods and of other things as well: only where they stand for a method they count.
AMBIGUOUS = {"adapter", "features", "full", "majority", "reward"}


def surface() -> str:
    """Every public name with its signature, fields and values, one a line."""
    lines: list[str] = []
    for home, names in public_names().items():
        module = importlib.import_module(home)
        for name in names:
            lines += _described(f"{home}.{name}", getattr(module, name))
    return "\n".join(lines) + "\n"


def public_names() -> dict[str, Sequence[str]]:
    """Module -> what of it is public."""
    whole = {home: sorted(_own_names(importlib.import_module(home))) for home in WHOLE}
    some = {home: names or importlib.import_module(home).__all__ for home, names in SOME.items()}
    return {**whole, **some}


def _own_names(module: ModuleType) -> set[str]:
    """The public names that a module defines: functions, classes, constants and aliases of types, nothing imported."""
    found: set[str] = set()
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in found if not name.startswith("_")}


def _described(path: str, value: Any) -> Iterator[str]:
    if get_origin(value) is not None:  # an alias of types; how a forward reference is shown depends on Python
        written = re.sub(r"ForwardRef\('(\w+)'[^)]*\)", r"\1", repr(value))
        yield f"{path} = {written}"
        return
    if not inspect.isclass(value):
        yield f"{path}{_signature(value)}" if callable(value) else f"{path} = {_value(value)}"
        return
    parents = [c.__name__ for c in value.__bases__ if c not in {object, abc.ABC}]
    yield f"class {path}({', '.join(parents)})"
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            default = field.default if field.default is not dataclasses.MISSING else field.default_factory
            yield f"{path}.{field.name}: {field.type}" + (
                "" if default is dataclasses.MISSING else f" = {_value(default)}"
            )
    if hasattr(value, "model_fields"):
        yield from (
            f"{path}.{name}: {field.annotation}" for name, field in value.model_fields.items() if _new(value, name)
        )
    fields = {field.name for field in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else set()
    for name in inspect.get_annotations(value):
        if not (name.startswith("_") or name in fields or name in vars(value) or hasattr(value, "model_fields")):
            yield f"{path}.{name}, which a subclass declares"
    for name, member in sorted(vars(value).items()):
        if (name.startswith("_") and name != "__init__") or name.startswith("test_"):
            continue  # the rules of a kit are no names that anybody uses
        if isinstance(member, property):
            yield f"{path}.{name}: property"
        elif isinstance(member, classmethod | staticmethod) or inspect.isfunction(member):
            abstract = "abstract " if getattr(member, "__isabstractmethod__", False) else ""
            if name != "__init__" or not dataclasses.is_dataclass(value):
                yield f"{abstract}{path}.{name}{_signature(getattr(value, name))}"
        elif name in inspect.get_annotations(value) and not dataclasses.is_dataclass(value):
            yield f"{path}.{name} = {_value(member)}"


def _new(value: Any, name: str) -> bool:
    return name in inspect.get_annotations(value)


def _signature(value: Any) -> str:
    try:
        return _without_addresses(str(inspect.signature(value)))
    except ValueError:
        return "(...)"


def _value(value: Any) -> str:
    if inspect.isclass(value):
        return value.__name__
    if isinstance(value, Mapping):
        return "{" + ", ".join(sorted(map(repr, value))) + "}"
    if isinstance(value, frozenset):
        return f"frozenset({sorted(value)})"
    return _without_addresses(repr(value))


def _without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def test_the_public_names_are_those_of_contract_version_1() -> None:
    known, now = PINNED.read_text(encoding="utf-8").splitlines(), surface().splitlines()
    gone, new = sorted({*known} - {*now}), sorted({*now} - {*known})
    assert (gone, new) == ([], []), (
        "changed on purpose? docs/contract.md says what may change; see the top of this file"
    )
    assert len(known) == len({*known})
    assert [home.CONTRACT for home in (method, provider, store, packaged_models)] == [1, 1, 1, 1]


def test_the_page_of_the_contract_names_every_module_that_is_pinned() -> None:
    page = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
    assert [home for home in public_names() if f"`{home}" not in page] == []


def test_a_plugin_that_states_no_version_is_of_the_first() -> None:
    """Not of today's: it would then never be told that it is too old."""
    for contract in (method.Method, provider.Provider, store.Store, packaged_models.PackagedModel):
        assert contract.contract == 1
        source = inspect.getsource(contract)
        assert re.search(r"^    contract: (ClassVar\[int\]|int) = 1\b", source, re.MULTILINE)


@pytest.mark.parametrize("module", ["nbadapt.parts", "nbadapt_plugins.bases"])
def test_public_names_are_all_there_and_described(module: str) -> None:
    public = importlib.import_module(module)
    assert sorted(public.__all__) == sorted(public._HOMES)
    assert len(set(public.__all__)) == len(public.__all__)
    for name in public.__all__:
        value = getattr(public, name)
        assert not callable(value) or (value.__doc__ or "").strip(), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        public.nothing  # noqa: B018


def test_every_built_in_method_is_made_of_what_others_may_use() -> None:
    """Its nearest ancestor that is no method itself is public."""
    public = {Method, *(value for name in bases.__all__ if inspect.isclass(value := getattr(bases, name)))}
    kinds = registry.methods()
    private = {}
    for kind in kinds:
        ancestor = next(c for c in kind.__mro__[1:] if c not in kinds)
        if kind.__module__.startswith("nbadapt_plugins.") and ancestor not in public and not _is_helper(ancestor):
            private[kind.name] = ancestor
    assert private == {}


def _is_helper(kind: type) -> bool:
    """A class between a public base and its methods that adds nothing to override."""
    return not any(getattr(member, "__isabstractmethod__", False) for member in vars(kind).values())


def test_nothing_in_nbadapt_names_a_method() -> None:
    names = {name for name, (entry, *_) in registry.entries().items() if entry.distribution == "nbadapt"}
    clear = "|".join(sorted(map(re.escape, names - AMBIGUOUS), key=len, reverse=True))
    word = re.compile(rf"(?<![\w-])(?:{clear})(?![\w-])", re.IGNORECASE)
    magic = re.compile(rf"%%?(?:finetune|prompt) +(?:{'|'.join(map(re.escape, sorted(names)))})\b", re.IGNORECASE)
    found = []
    for path in sorted((ROOT / "nbadapt").rglob("*.py")):
        for line, text in _strings(path):
            if word.search(text) or magic.search(text):
                found.append(f"{path.relative_to(ROOT)}:{line}: {text!r:.80}")
    assert found == []
    for path in sorted((ROOT / "nbadapt").rglob("*.js")):
        code = re.sub(r"/\*.*?\*/|//[^\n]*", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not word.search(code), path


def test_no_variable_function_or_module_of_nbadapt_is_called_by_a_method() -> None:
    """But for an engine of one algorithm, whose files begin with its name: docs/contract.md says why."""
    names = {name for name, (entry, *_) in registry.entries().items() if entry.distribution == "nbadapt"} - AMBIGUOUS
    clear = "|".join(sorted({way for name in names for way in (name.replace("-", ""), name.replace("-", "_"))}))
    word = re.compile(rf"(?<![a-z])(?:{clear})(?![a-z])")
    found = set()
    for path in sorted((ROOT / "nbadapt").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = (getattr(node, key, None) for key in ("id", "name", "attr", "arg", "module"))
            for name in (path.stem, *(each for each in called if isinstance(each, str))):
                match = word.search(re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower())
                if match and not (path.parent.name == "engines" and path.stem.startswith(match[0])):
                    found.add(f"{path.relative_to(ROOT)}: {name}")
    assert found == set()


def _strings(path: Path) -> Iterator[tuple[int, str]]:
    """The texts in a module's code; docstrings and what stands alone show examples, and decide nothing."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.lineno, node.value


def test_nothing_in_nbadapt_imports_a_method() -> None:
    for path in sorted((ROOT / "nbadapt").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            imported = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.startswith("nbadapt_plugins") for name in imported), path


if __name__ == "__main__":
    PINNED.write_text(surface(), encoding="utf-8")
