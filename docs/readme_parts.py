"""Parts of the README and of docstrings that pages of the site include, so that nothing is said twice."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import method_pages

from nbadapt import origins, store

ROOT = Path(__file__).parents[1]
FOLDER = "_parts"


def sections(text: str) -> dict[str, str]:
    """Heading of the second level -> what stands below it."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rebased(text: str) -> str:
    """The text with links that hold from the folder of the parts: pages of the site, and files beside it."""

    def link(match: re.Match[str]) -> str:
        target = match[1]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        inside = target.removeprefix("docs/")
        return f"](../{inside})" if inside != target else f"](../../{target})"

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
    for task in method_pages.BENCHMARKS:
        parts[f"costs-{task}"] = method_pages.costs(task)
    parts["run-folder"] = _tree(store)
    parts["plugin-limit"] = _tree(origins)
    for name, text in parts.items():
        path = folder / f"{name}.md"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _slug(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def _tree(module: object) -> str:
    """The diagram in a module's docstring."""
    found = re.search(r"::\n\n((?:[ ]{4}.*\n|\n)+)", inspect.getdoc(module) or "")
    assert found, f"{module} has no diagram in its docstring"
    return "```text\n" + inspect.cleandoc(found[1]) + "\n```\n"
