"""One page for each method, made from the plugin itself whenever the site is built: nothing here names a method.

::

    module docstring ──> what it is, diagram and equation, sizes, when to use it and when not
    Config           ──> settings          support.json ──> where it works
    method_costs ──> what it costs beside the others
"""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import method_costs
from method_costs import table

from nbadapt import manual, registry, settings, support
from nbadapt.method import Method

USE, NOT = "When to use it:", "When not:"


class About(NamedTuple):
    """What a plugin's module says of it.

    Attributes:
        title: its first line.
        body: what follows, in Markdown.
        use: when to use it; "" where that is not said.
        avoid: when not.
    """

    title: str
    body: str
    use: str
    avoid: str


def about(method: type[Method]) -> About:
    """The module docstring of a method, taken apart."""
    module = inspect.getmodule(method)
    text = inspect.cleandoc((module.__doc__ if module else "") or method.summary)
    title, _, rest = text.partition("\n")
    said = {USE: "", NOT: ""}
    kept = []
    for block in re.split(r"\n\s*\n", rest.strip("\n")):
        word = next((word for word in said if block.startswith(word)), None)
        if word is None:
            kept.append(block)
        else:
            said[word] = _sentence(block.removeprefix(word))
    return About(title, "\n\n".join(_markdown(kept)), said[USE], said[NOT])


def _sentence(text: str) -> str:
    line = " ".join(text.split())
    return line[:1].upper() + line[1:]


def _markdown(blocks: Sequence[str]) -> Iterator[str]:
    """Paragraphs, and indented blocks (with `::` before them or not) as code."""
    diagram: list[str] = []
    for block in [*blocks, ""]:
        if block.startswith(" "):
            diagram.append(block)
            continue
        if diagram:
            yield "```text\n" + textwrap.dedent("\n\n".join(diagram)) + "\n```"
            diagram = []
        lines = block.splitlines()
        while lines:
            plain = list(_until_indented(lines))
            if plain and plain != ["::"]:
                yield _escaped("\n".join(plain))
            lines = lines[len(plain) :]
            code = []
            while lines and lines[0].startswith(" "):
                code.append(lines.pop(0))
            if code:
                yield "```text\n" + textwrap.dedent("\n".join(code)) + "\n```"


def _until_indented(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        if line.startswith(" "):
            return
        yield line


def _escaped(text: str) -> str:
    """Text of a docstring as Markdown: its code stays code, all else is plain; addresses become links."""
    parts = re.split(r"(``[^`]+``|`[^`]+`|https?://[^\s,)]+[^\s,).;:]|arXiv:\d{4}\.\d{4,5})", text)
    return "".join(_part(part) for part in parts)


def _part(part: str) -> str:
    if part.startswith("`"):
        return f"`{part.strip('`')}`"
    if part.startswith("http"):
        return f"<{part}>"
    if part.startswith("arXiv:"):
        return f"[{part}](https://arxiv.org/abs/{part.removeprefix('arXiv:')})"
    return re.sub(r"([\\*_\[\]<>#|{}$~])", r"\\\1", part)


# ------------------------------------------------------------------------------------------------ a page


def page(method: type[Method]) -> str:
    """The page of one method, in Markdown."""
    found = about(method)
    parts = [
        f"# {method.name}",
        f"`%%{method.verb} {method.name}`: {_escaped(method.summary)}.",
        f"**{_escaped(found.title)}**",
        found.body,
        "## When to use it",
        f"**Use it** {_lower(found.use)}" if found.use else "",
        f"**Not** {_lower(found.avoid)}" if found.avoid else "",
        "## An example",
        *_example(method),
        *_needs(method),
        "## Settings",
        _settings(method),
        "## Where it works",
        _support(method),
        "## What it costs",
        method_costs.of_method(method.name),
        "## Reference",
        f"<{method.reference}>",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _example(method: type[Method]) -> Iterator[str]:
    shown = manual.example(method)
    if shown.before:
        yield f"```python\n{shown.before}\n```"
    yield f"```text\n{shown.cell}\n```"


def _lower(sentence: str) -> str:
    return _escaped(sentence[:1].lower() + sentence[1:])


def _needs(method: type[Method]) -> list[str]:
    """What must be installed besides nbadapt itself."""
    entry = registry.entries()[method.name][0]
    extra = registry.extra_of(method)
    lines = [f"It does {', '.join(sorted(method.tasks))}; see [Data](../data.md) for the columns of each task."]
    if method.exports:
        kinds = ", ".join(f'`run.export("{kind}")`' for kind in sorted(method.exports))
        lines.append(f"Its results leave nbadapt by {kinds}.")
    if extra:
        lines.append(f"It needs more than nbadapt brings: `pip install {extra}`.")
    if entry.distribution != "nbadapt":
        lines.append(f"It comes with {entry.distribution}.")
    return [" ".join(lines)]


def _settings(method: type[Method]) -> str:
    described = settings.describe(method)
    if not described:
        return "It has none of its own."
    fields = method.Config.model_fields
    advanced = {name for name, f in fields.items() if (f.json_schema_extra or {}) == {"advanced": True}}
    rows = [
        (
            f"`{one.name}`",
            _code(one.default),
            _cell(one.allowed),
            _cell(one.description) + (" *(advanced)*" if one.name in advanced else ""),
        )
        for one in described
    ]
    where = "in the cell's body, or on its line" if method.verb == "finetune" else "on the cell's line"
    lead = f"Written {where} as `--name value`. A form folds the advanced ones away."
    return lead + "\n\n" + table(("setting", "default", "allowed", "meaning"), rows)


def _support(method: type[Method]) -> str:
    found = support.records().get(method.name, {})
    rows = []
    for kind, cell in found.items():
        works = ", ".join(cell.works) or "no"
        rows.append((f"`{kind}`", works, _cell("; ".join({*cell.refuses.values(), *cell.fails.values()}))))
    if not rows:
        return "Not tried yet."
    lead = "As found by trying it on a tiny model of each architecture; [all methods](../methods.md) side by side."
    return lead + "\n\n" + table(("architecture", "works for", "otherwise"), rows)


def _code(text: str) -> str:
    """A value in a table's cell; a bar would end the cell, and a backtick the code."""
    if not text.strip():
        return ""
    ticks = "``" if "`" in text else "`"
    return f"{ticks}{text}{ticks}".replace("|", r"\|")


def _cell(text: str) -> str:
    return _escaped(" ".join(text.split()))


# ------------------------------------------------------------------------------------------------ all pages


def index(methods: Sequence[type[Method]]) -> str:
    """The list of all pages, by family."""
    parts = [
        "# Methods",
        "Each page is made from the plugin itself. [Choosing a method](../choosing.md) helps to begin.",
    ]
    for verb in ("finetune", "prompt"):
        chosen = [method for method in methods if method.verb == verb]
        parts.append(f"## %%{verb}")
        rows = [
            (f"[{method.name}]({method.name}.md)", _cell(method.menu_group()), _cell(method.summary))
            for method in sorted(chosen, key=lambda method: (method.menu_group(), method.name))
        ]
        parts.append(table(("method", "family", "what it does"), rows))
        names = "\n".join(method.name for method in chosen)
        parts.append(f"```{{toctree}}\n:hidden:\n\n{names}\n```")
    return "\n\n".join(parts) + "\n"


def built_in() -> list[type[Method]]:
    """The methods that nbadapt's own distribution brings."""
    entries = registry.entries()
    return [m for m in registry.methods() if {e.distribution for e in entries[m.name]} == {"nbadapt"}]


def write(docs: Path) -> None:
    """Write the pages of all methods below `docs`, where they changed; pages of methods that are gone go too."""
    folder = docs / "methods"
    pages = {f"{method.name}.md": page(method) for method in built_in()}
    pages["index.md"] = index(built_in())
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        if old.name not in pages:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
