"""Choosing between labels in words, for models that cannot score them.

::

    prompt + "Answer with one of these labels and nothing else:" + labels ──> answer ──> label, or none

An answer is matched by three rules, in turn: it is a label; it is one but for upper and lower case; it begins with
one, and the label ends where a word ends. Of several labels that an answer begins with the longest one counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from nbadapt.engines.tokens import Prompt

WRAPPING = " \t\r\n\"'`*_.:,;!()[]{}<>\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}«»"
"""What models put around a label: white space, quotes, Markdown, a full stop."""


def request(labels: Sequence[str]) -> str:
    """The lines that ask for one of the labels."""
    return "\n".join(["Answer with one of these labels and nothing else:", *labels])


def with_choice(prompt: Prompt, labels: Sequence[str]) -> Prompt:
    """The prompt with the request for a label at its end; in a conversation at the end of the last turn."""
    if isinstance(prompt, str):
        return f"{prompt}\n\n{request(labels)}"
    *before, last = prompt
    return [*before, {**last, "content": f"{last['content']}\n\n{request(labels)}"}]


def match(answer: str, labels: Sequence[str]) -> str | None:
    """The label that an answer names, or None."""
    said = answer.strip()
    bare = said.strip(WRAPPING)
    for same in (str.__str__, str.casefold):
        wanted = {same(said), same(bare)}
        found = [label for label in labels if same(label) in wanted or same(label.strip(WRAPPING) or label) in wanted]
        if len(found) == 1:  # labels that differ in case alone stay apart
            return found[0]
    start = said.lstrip(WRAPPING).casefold()
    beginning = [label for label in labels if _begins(start, label.strip(WRAPPING).casefold())]
    longest = max(map(len, beginning), default=0)
    found = [label for label in beginning if len(label) == longest]
    return found[0] if len(found) == 1 else None


def _begins(text: str, label: str) -> bool:
    following = text[len(label) : len(label) + 1]
    return bool(label) and text.startswith(label) and not (following.isalnum() or following in {"_", "-"})
