"""``{{name}}`` in a prompt, filled from notebook variables or data columns.

Single braces are the user's own text, so JSON and code need no escaping. A name is whatever stands between two
pairs of braces on one line, without braces; white space around it does not count. In a run of three or more
opening braces the last two belong to the name: ``{{{x}}}`` is the value in single braces. Values go in as they
are, and braces inside them stay; so a prompt that needs ``{{`` itself gets it from a variable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nbadapt.errors import RequestError, did_you_mean, nearest

PLACEHOLDER = re.compile(r"\{\{([^{}\n]*)\}\}")


def placeholders(text: str) -> tuple[str, ...]:
    """The distinct names in a template, in order of first appearance.

    Raises:
        RequestError: a ``{{`` without its ``}}``, or nothing between them; names the line.
    """
    for start, piece in _between(text):
        opening = piece.find("{{")
        if opening >= 0:
            line = text.count("\n", 0, start + opening) + 1
            shown = " ".join(piece[opening : opening + 30].split())
            raise RequestError(
                f"line {line} of the prompt: {shown!r} opens a placeholder that is not closed on its line: "
                "write {{name}}, or { { with a space for braces of your own"
            )
    names = []
    for match in PLACEHOLDER.finditer(text):
        name = match[1].strip()
        if not name:
            line = text.count("\n", 0, match.start()) + 1
            raise RequestError(f"line {line} of the prompt: {match[0]!r} names nothing: write {{{{name}}}}")
        names.append(name)
    return tuple(dict.fromkeys(names))


def _between(text: str) -> list[tuple[int, str]]:
    """The pieces outside all placeholders, each with its position."""
    ends = [0, *(match.end() for match in PLACEHOLDER.finditer(text))]
    starts = [*(match.start() for match in PLACEHOLDER.finditer(text)), len(text)]
    return [(a, text[a:b]) for a, b in zip(ends, starts, strict=True)]


def fill(text: str, values: Mapping[str, Any]) -> str:
    """The template with every placeholder replaced by its value, as text and unchanged.

    Raises:
        RequestError: a placeholder that has no value; see also `placeholders`.
    """
    for name in placeholders(text):
        if name not in values:
            hint = did_you_mean(name, values, kind="values here")
            if nearest(name, values):
                hint += f" available: {', '.join(sorted(values)[:20])}"
            raise RequestError(f"the prompt names {{{{{name}}}}}, which has no value: {hint}")
        if values[name] is None:
            raise RequestError(f"the prompt names {{{{{name}}}}}, whose value is None: give it a text")
    return PLACEHOLDER.sub(lambda match: str(values[match[1].strip()]), text)
