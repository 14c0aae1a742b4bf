"""Parts of the README and of docstrings that pages of the site include, so that nothing is said twice."""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path

import method_costs
from sphinx.pycode import ModuleAnalyzer

from nbadapt import origins, store

ROOT = Path(__file__).parents[1]
FOLDER = "_parts"


def sections(text: str) -> dict[str, str]:
    """Heading of the second level -> what stands below it; that of the third level alike, without what is above."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    lower = [each for section in found.values() for each in re.split(r"^### (.+)$", section, flags=re.MULTILINE)[1:]]
    return {**found, **dict(zip(lower[::2], lower[1::2], strict=True))}


def rebased(text: str) -> str:
    """The text with links that hold from the folder of the site: its pages, and files beside it.

    Cells whose body is a prompt are no Python, and are not coloured as such.
    """

    def link(match: re.Match[str]) -> str:
        target = match[1]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        measured = re.fullmatch(r"benchmarks/results/(\w+)\.md", target)
        if measured:
            return f"](measured/{measured[1]}.md)"
        return f"]({target.removeprefix('docs/')})" if target.startswith("docs/") else f"](../{target})"

    text = re.sub(r"^```python\n(?=%%)", "```text\n", text, flags=re.MULTILINE)
    return re.sub(r"\]\(([^)\s]+)\)", link, text)


def write(docs: Path) -> None:
    """Write the parts below `docs`, where they changed."""
    folder = docs / FOLDER
    folder.mkdir(exist_ok=True)
    parts = {
        _slug(title): rebased(text)
        for title, text in sections((ROOT / "README.md").read_text(encoding="utf-8")).items()
    }
    parts["contributing"] = rebased((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    parts["changelog"] = rebased((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    for task in method_costs.BENCHMARKS:
        parts[f"costs-{task}"] = method_costs.costs(task, up="")
    parts["costs-prompting"] = method_costs.prompting(up="")
    _write_measured(docs / "measured", parts["measured"])
    parts["run-folder"] = _tree(store)
    parts["plugin-limit"] = _tree(origins)
    for module in ("nbadapt.parts", "nbadapt_plugins.bases"):
        parts[f"api-{module.rpartition('.')[2]}"] = _members(module)
    for name, text in parts.items():
        _write(folder / f"{name}.md", text)


def _write_measured(folder: Path, lead: str) -> None:
    """A page for each table of the benchmarks, and one that leads to them: the README's section."""
    folder.mkdir(exist_ok=True)
    names = []
    for file in sorted((ROOT / "benchmarks" / "results").glob("*.md")):
        text = re.sub(r"\]\(\.\./(\w+\.py)\)", r"](../../benchmarks/\1)", file.read_text(encoding="utf-8"))
        _write(folder / file.name, text)
        names.append(file.stem)
    for old in folder.glob("*.md"):  # of a table that is gone
        if old.stem not in {*names, "index"}:
            old.unlink()
    lead = lead.replace("](measured/", "](").replace("](../", "](../../")  # one folder further down
    toctree = "```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```\n"
    _write(folder / "index.md", f"# Measured\n\n{lead.strip()}\n\n{toctree}")


def _write(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def _slug(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def _members(module: str) -> str:
    """Directives for the public names of a module whose homes are elsewhere, which `automodule` does not see.

    They stand under headings where the module sorts its names by subject.
    """
    public = importlib.import_module(module)
    subjects: dict[str, Iterable[str]] = getattr(public, "_BY_SUBJECT", {"": public.__all__})
    blocks = []
    for subject, names in subjects.items():
        lines = [f".. py:currentmodule:: {module}\n", *(_directive(module, name) for name in sorted(names))]
        heading = f"## {subject}\n\n" if subject else ""
        blocks.append(f"{heading}```{{eval-rst}}\n" + "\n".join(lines) + "```\n")
    return "\n".join(blocks)


def _directive(module: str, name: str) -> str:
    """What describes a public name: its docstring, or what stands below the assignment at its home."""
    public = importlib.import_module(module)
    value = getattr(public, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        return f".. auto{'class' if inspect.isclass(value) else 'function'}:: {module}.{name}\n"
    home, _, attribute = public._HOMES[name].partition(":")
    said = ModuleAnalyzer.for_module(home).find_attr_docs()["", attribute]
    return f".. py:data:: {name}\n\n" + textwrap.indent("\n".join(said), "   ")


def _tree(module: object) -> str:
    """The diagram in a module's docstring."""
    found = re.search(r"::\n\n((?:[ ]{4}.*\n|\n)+)", inspect.getdoc(module) or "")
    assert found, f"{module} has no diagram in its docstring"
    return "```text\n" + inspect.cleandoc(found[1]) + "\n```\n"
