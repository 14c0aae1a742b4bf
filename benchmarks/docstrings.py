"""The standard library's documentation strings, read from its source files: nothing is imported or run."""

from __future__ import annotations

import ast
import inspect
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "__pycache__"}
LEAST = 200  # characters of a documentation string that is worth a document

_SENTENCE = re.compile(r".+?[.!?](?=\s+[^\sa-z]|\s*\Z)", re.DOTALL)  # not behind "e.g."
_PARAGRAPH = re.compile(r"\n[ \t]*\n")


class Held(NamedTuple):
    """A documentation string without its first sentence, and that sentence."""

    question: str
    rest: str


def documents() -> dict[str, str]:
    """Documentation strings of at least `LEAST` characters by dotted name; of equal ones the first."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, str] = {}
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(folder).with_suffix("").parts
        if LEFT_OUT.isdisjoint(parts):
            names = parts[:-1] if parts[-1] == "__init__" else parts
            for name, text in _strings(file, ".".join(names)):
                found.setdefault(name, text)
    first = {text: name for name, text in reversed(found.items()) if len(text) >= LEAST}
    return {name: text for text, name in sorted(first.items(), key=lambda item: item[1])}


def _strings(file: Path, module: str) -> Iterator[tuple[str, str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old code: what it says is no concern here
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            return
    waiting: list[tuple[str, ast.AST]] = [(module, tree)]
    while waiting:
        name, node = waiting.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text is not None:
                yield name, inspect.cleandoc(text)
        for child in ast.iter_child_nodes(node):
            own = getattr(child, "name", None)
            waiting.append((f"{name}.{own}" if isinstance(own, str) else name, child))


def held_out(texts: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """What is indexed, and the questions: each the first sentence of a document, which has lost it.

    Every document loses its first sentence, so that those with a question look like the others. A sentence that
    stands in any indexed text, or begins two documents, makes no question; nor does one of fewer than 5 or more than
    40 words, or one whose document keeps less than `LEAST` characters.

    Returns:
        (indexed texts by name, questions by the name of the document that each is about).
    """
    parts = {name: split(text) for name, text in texts.items()}
    indexed = {name: part.rest for name, part in parts.items() if len(part.rest) >= LEAST}
    everything = "\n".join(_plain(text) for text in indexed.values())
    begun = Counter(_plain(part.question) for part in parts.values())
    questions = {
        name: parts[name].question
        for name in indexed
        if 5 <= len(parts[name].question.split()) <= 40
        and begun[_plain(parts[name].question)] == 1
        and _plain(parts[name].question) not in everything
    }
    return indexed, questions


def split(text: str) -> Held:
    """The first sentence, or the first paragraph where that ends before; and what follows."""
    sentence, paragraph = _SENTENCE.match(text), _PARAGRAPH.search(text)
    end = min(sentence.end() if sentence else len(text), paragraph.start() if paragraph else len(text))
    return Held(" ".join(text[:end].split()), text[end:].strip())


def _plain(text: str) -> str:
    """Words in small letters with one space between them: neither lines nor punctuation hide a sentence."""
    return " ".join(re.findall(r"\w+", text.lower()))
