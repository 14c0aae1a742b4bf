"""What plugins may rely on: the public names are pinned, and nbadapt knows no method by its name.

A change of the contract is made on purpose: say why in docs/contract.md and CHANGELOG.md, then run
``python -m tests.test_contract``, which writes tests/contract.txt anew.
"""

from __future__ import annotations

import abc
import ast
import dataclasses
import importlib
import importlib.util
import inspect
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, get_origin

import pytest

from nbadapt import method, packaged_models, parts, provider, registry
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
# What the built-in plugins take from nbadapt that is promised to nobody, and why no other plugin needs it. The list can
# only shrink: what a method of another package would need as well is opened in nbadapt.parts instead.
NOT_PROMISED = {
    "nbadapt.lazy.names": "how nbadapt_plugins.bases looks its names up, as nbadapt.parts does; no part of a method",
    "nbadapt.widgets.controls.line": "a person's change in words, for comments in the scripts that the bases export",
    "nbadapt.widgets.summary.duration": "the length of a pause in words, for the same comments",
    "nbadapt.widgets.texts.clip": "cuts a person's prompt for the same comments",
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
    assert _imported_for_types(public) == public._HOMES
    for name in public.__all__:
        value, (home, _, attribute) = getattr(public, name), public._HOMES[name].partition(":")
        own = inspect.isclass(value) or inspect.isfunction(value)
        said = value.__doc__ if own else _below(importlib.import_module(home), attribute)
        assert (said or "").strip(), name
        assert not inspect.isclass(value) or value.__name__ == name, f"{name}: a class is shown by its own name"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        public.nothing  # noqa: B018


def _imported_for_types(module: ModuleType) -> dict[str, str]:
    """Name -> home, as type checkers see it."""
    body = next(node.body for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.If))
    imports = [node for node in body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: f"{node.module}:{alias.name}" for node in imports for alias in node.names}


def _below(module: ModuleType, name: str) -> str:
    """The text below the assignment of a name; "" where there is none."""
    body = ast.parse(inspect.getsource(module)).body
    for node, following in pairwise(body):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if name in {target.id for target in targets if isinstance(target, ast.Name)}:
            value = following.value if isinstance(following, ast.Expr) else None
            return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""
    return ""


def test_names_of_one_subject_stand_together_once() -> None:
    listed = [name for names in parts._BY_SUBJECT.values() for name in names]
    assert sorted(listed) == sorted(parts.__all__)


# --------------------------------------------------------------------------------------- what plugins take from nbadapt


def test_the_built_in_plugins_take_from_nbadapt_what_others_may() -> None:
    """Public names, wherever they are imported from, and the few of `NOT_PROMISED`."""
    contract = {f"{home}.{name}" for home, names in public_names().items() for name in names}
    homes = {home.replace(":", ".") for home in parts._HOMES.values()}
    taken: dict[str, set[str]] = {}
    for path in sorted((ROOT / "plugins" / "nbadapt_plugins").rglob("*.py")):
        for name in _taken(ast.parse(path.read_text(encoding="utf-8")), "nbadapt"):
            if name not in contract | homes:
                taken.setdefault(name, set()).add(path.name)
    assert {name: files for name, files in taken.items() if name not in NOT_PROMISED} == {}, (
        "open it in nbadapt.parts, or do without it"
    )
    assert sorted(NOT_PROMISED.keys() - taken.keys()) == [], "no longer used: take it off the list"


def test_the_example_plugin_imports_public_modules_only() -> None:
    """It is what others copy: no home of a part, and nothing of the built-in methods but their bases."""
    contract = {f"{home}.{name}" for home, names in public_names().items() for name in names}
    files = sorted((ROOT / "plugins" / "nbadapt-example").rglob("*.py"))
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files]
    taken = {name for tree in trees for package in ("nbadapt", "nbadapt_plugins") for name in _taken(tree, package)}
    assert any(name.startswith("nbadapt_plugins.bases.") for name in taken)
    assert sorted(taken - contract) == []


@pytest.mark.parametrize(
    ("code", "taken"),
    [
        ("from nbadapt.store import open, read_json as read", {"nbadapt.store.open", "nbadapt.store.read_json"}),
        ("from nbadapt import store\nstore.open(store.root())", {"nbadapt.store.open", "nbadapt.store.root"}),
        ("import nbadapt.store\nnbadapt.store.open(1)", {"nbadapt.store.open"}),
        ("import nbadapt.store as kept\nkept.open(1)", {"nbadapt.store.open"}),
        ("import nbadapt.store\nf(nbadapt.store)", {"nbadapt.store"}),
        ("def f():\n    from nbadapt.engines import racing as r\n    return r.race", {"nbadapt.engines.racing.race"}),
        ("from nbadapt import store\nf(store)", {"nbadapt.store"}),
        ("from nbadapt.store import *", {"nbadapt.store.*"}),
        ("from nbadapt import load", {"nbadapt.load"}),
        ("from nbadapt_plugins import bases\nbases.PeftMethod", set()),
    ],
)
def test_what_a_plugin_takes_is_read_from_its_code(code: str, taken: set[str]) -> None:
    assert _taken(ast.parse(code), "nbadapt") == taken


def _taken(tree: ast.Module, package: str) -> set[str]:
    """What code takes from a package, "module.name"; of a whole module the attributes that are used, or itself."""
    found, modules = set(), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and _within(node.module or "", package):
            for alias in node.names:
                path = f"{node.module}.{alias.name}"
                if _is_module(path):
                    modules[alias.asname or alias.name] = path
                else:
                    found.add(path)
        elif isinstance(node, ast.Import):
            modules |= {
                a.asname or package: a.name if a.asname else package for a in node.names if _within(a.name, package)
            }
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assigned = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    assigned |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in assigned:
            continue  # a variable, in another function than the module of this name
        if isinstance(node, ast.Name | ast.Attribute) and id(node) not in inner:
            found |= _resolved(node, modules)
    return found


def _resolved(node: ast.expr, modules: Mapping[str, str]) -> set[str]:
    """The name of a package that `a.b.c` is, without the attributes of what is no module; none where `a` is none."""
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.insert(0, node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in modules:
        return set()
    path = modules[node.id]
    for attribute in attributes:
        path, parent = f"{path}.{attribute}", path
        if not _is_module(path):
            return {f"{parent}.{attribute}"}
    return {path}


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _is_module(path: str) -> bool:
    try:
        return importlib.util.find_spec(path) is not None
    except ModuleNotFoundError:  # its parent is none, or no package
        return False


# ------------------------------------------------------------------------------------------------ what nbadapt knows


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
            if (word.search(text) and not _is_engine(text, names)) or magic.search(text):
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
                if not match or (path.parent.name == "engines" and path.stem.startswith(match[0])):
                    continue
                if path.stem != "parts" or not _is_engine(parts._HOMES.get(name, name), {match[0]}):
                    found.add(f"{path.relative_to(ROOT)}: {name}")
    assert found == set()


def _is_engine(path: str, names: Collection[str]) -> bool:
    """Whether "module:name" is, or is in, the engine of an algorithm: its file begins with one of these names."""
    folder, _, stem = path.partition(":")[0].rpartition(".")
    return folder == "nbadapt.engines" and stem.startswith(tuple(names))


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
