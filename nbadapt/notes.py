"""The user's note and tags on a run: ``notes.jsonl`` in its folder, append-only, one change a line.

::

    {"note": "the one for the talk"}        the note, whole
    {"tags": ["paper", "v2"]}               all tags, whole
    {"tag": "paper"}  {"untag": "paper"}    one tag comes, one goes

Every change is one write at the end of the file, so that kernels do not undo each other's changes, and a kill in the
midst of one costs that one alone: a line that is cut short is passed over.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbadapt import json_text
from nbadapt.errors import RequestError, StoreError
from nbadapt.redaction import holds_secret

FILE = "notes.jsonl"
MOST_NOTE, MOST_TAG, MOST_TAGS = 4_000, 40, 20  # characters, characters, tags of a run


@dataclass(frozen=True)
class Notes:
    """What the user wrote about a run."""

    note: str = ""
    tags: tuple[str, ...] = ()


def read(directory: Path) -> Notes:
    """The note and the tags of the run in this folder; none where nothing was written."""
    try:
        content = (directory / FILE).read_bytes()
    except OSError:
        return Notes()
    note, tags = "", list[str]()
    for line in content.split(b"\n"):
        match _record(line):
            case {"note": str(text)}:
                note = text
            case {"tags": list(all_tags)}:
                tags = list(dict.fromkeys(str(tag) for tag in all_tags))
            case {"tag": str(tag)}:
                tags = list(dict.fromkeys([*tags, tag]))
            case {"untag": str(tag)}:
                tags = [other for other in tags if other != tag]
    return Notes(note, tuple(tags))


def _record(line: bytes) -> Any:
    try:
        return json_text.loads(line)
    except ValueError:
        return None


def set_note(directory: Path, text: str) -> None:
    """Write a note in the place of the one there is; "" takes it away.

    Raises:
        RequestError: it is no text, too long, or holds a secret.
        StoreError: it cannot be written.
    """
    if not isinstance(text, str):
        raise RequestError(f"a note is a text, not {type(text).__name__}: {text!r:.40}")
    if len(text) > MOST_NOTE:
        raise RequestError(f"the note has {len(text):,} characters: {MOST_NOTE:,} fit; keep longer texts in a cell")
    if holds_secret(text):
        raise RequestError("the note holds a password or a key, which would be kept with the run: leave it out")
    _append(directory, [{"note": text.encode("utf-8", "replace").decode()}])


def set_tags(directory: Path, tags: Iterable[str]) -> None:
    """Put these tags in the place of those there are.

    Raises:
        RequestError: one of them is no word, or they are too many.
        StoreError: they cannot be written.
    """
    _append(directory, [{"tags": _checked(tags)}])


def change_tags(directory: Path, *, add: Iterable[str] = (), remove: Iterable[str] = ()) -> None:
    """Add some tags and remove others; what another kernel changes at the same time stays.

    Raises:
        RequestError: one of them is no word, or they become too many.
        StoreError: they cannot be written.
    """
    added, removed = _checked(add), _checked(remove)
    _checked([*(tag for tag in read(directory).tags if tag not in removed), *added])
    _append(directory, [*({"untag": tag} for tag in removed), *({"tag": tag} for tag in added)])


def _checked(tags: Iterable[str]) -> list[str]:
    """The tags, each once.

    Raises:
        RequestError: one of them is no word, or they are too many.
    """
    if isinstance(tags, str):
        tags = tags.split()
    found = list(dict.fromkeys(tags))
    for tag in found:
        if not isinstance(tag, str) or not tag or len(tag) > MOST_TAG or tag != "".join(tag.split()) or tag[0] == "-":
            fix = f"write one word of at most {MOST_TAG} characters, without a dash in front"
            raise RequestError(f"{tag!r:.60} is no tag: {fix}")
        if not tag.isprintable():
            raise RequestError(f"the tag {tag!r:.60} holds characters that cannot be shown: leave them out")
        if holds_secret(tag):
            raise RequestError("a tag holds a password or a key, which would be kept with the run: leave it out")
    if len(found) > MOST_TAGS:
        raise RequestError(f"{len(found)} tags are too many for one run: keep {MOST_TAGS}")
    return found


def _append(directory: Path, changes: list[Mapping[str, Any]]) -> None:
    """Write changes at the end, as one piece that is on the disk when this returns.

    It begins on a line of its own, whatever a kill has left before it.
    """
    if not changes:
        return
    lines = [json.dumps({**change, "at": round(time.time(), 3)}, ensure_ascii=False) for change in changes]
    piece = ("\n" + "\n".join(lines) + "\n").encode()
    try:
        if not directory.is_dir():
            raise StoreError(f"the run {directory.name} is gone: nothing was written about it")
        no_link = getattr(os, "O_NOFOLLOW", 0)  # in a folder from elsewhere it might lead anywhere
        handle = os.open(directory / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT | no_link, 0o666)
        try:
            written = os.write(handle, piece)
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise StoreError(f"{directory / FILE} cannot be written: {error.strerror or error}") from None
    if written != len(piece):
        raise StoreError(f"{directory / FILE} cannot be written: the disk is full")
