"""Words such as ``manuals/``, ``notes/**/*.md`` or ``faq.pdf`` -> the files that they name."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nbadapt.errors import RequestError
from nbadapt.indexing.loaders import LOADERS
from nbadapt.indexing.web import is_url
from nbadapt.redaction import hide


@dataclass(frozen=True)
class Found:
    """What words name.

    Attributes:
        files: absolute paths, each once.
        urls: web pages.
        unreadable: (path, reason) of what was named and cannot be taken.
        covered: what the words name, as patterns of absolute paths: a document of the index that one of them
            matches and that is not among the files was deleted.
    """

    files: tuple[Path, ...]
    urls: tuple[str, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()
    covered: tuple[re.Pattern[str], ...] = field(default=(), repr=False)

    def covers(self, path: str) -> bool:
        """Whether the words would name this file, if it were there."""
        return any(pattern.fullmatch(path) for pattern in self.covered)


def find(words: Sequence[str]) -> Found:
    """What words name: URLs, files, folders with all below them, and patterns with ``*``, ``**`` and ``?``.

    Of a folder and of a pattern those are taken whose kind is known; hidden ones are passed over.

    Raises:
        RequestError: no word at all, or a URL that holds a secret.
    """
    if not words:
        raise RequestError("nothing to index: give files, folders or patterns, as  %nbadapt index manuals --as manuals")
    files: dict[Path, None] = {}
    unreadable: list[tuple[str, str]] = []
    covered = []
    for word in words:
        if is_url(word):
            if hide(word) != word:
                raise RequestError(
                    f"{word} holds a password or a key, which would be kept in the index: give the address without it"
                )
            continue
        path = Path(os.path.abspath(os.path.expanduser(word)))  # noqa: PTH100, PTH111 - Path raises at ~nobody
        if path.is_dir():
            files |= dict.fromkeys(_below(path, unreadable))
            covered.append(re.compile(re.escape(str(path)) + re.escape(os.sep) + r".*", re.DOTALL))
        elif path.exists() or not glob.has_magic(word):
            covered.append(re.compile(re.escape(str(path))))
            if not path.is_file():
                unreadable.append((str(path), "there is no such file"))
            elif path.suffix.lower() not in LOADERS:
                unreadable.append((str(path), f"its kind is not known; known are {', '.join(sorted(LOADERS))}"))
            else:
                files[path] = None
        else:
            covered.append(_pattern(str(path)))
            named = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207 - absolute
            chosen = [name for name in named if name.is_file() and name.suffix.lower() in LOADERS]
            files |= dict.fromkeys(chosen)
            if not chosen:
                unreadable.append((str(path), "no file of a known kind matches"))
    urls = tuple(dict.fromkeys(word for word in words if is_url(word)))
    return Found(tuple(files), urls, tuple(unreadable), tuple(covered))


def _below(folder: Path, unreadable: list[tuple[str, str]]) -> list[Path]:
    """All files of known kinds in a folder and below, in alphabetical order; links to folders are not followed."""

    def failed(error: OSError) -> None:
        unreadable.append((str(error.filename), error.strerror or "it cannot be read"))

    found = []
    for root, folders, names in os.walk(folder, onerror=failed):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        for name in sorted(names):
            path = Path(root, name)
            if not name.startswith(".") and path.suffix.lower() in LOADERS and path.is_file():
                found.append(path)
    return found


def _pattern(text: str) -> re.Pattern[str]:
    """A glob pattern as a regular expression."""
    separator = re.escape(os.sep)
    parts = re.split(r"(\*\*" + separator + r"|\*\*|\*|\?|\[!?[^\]]+\])", text)
    meaning = {f"**{os.sep}": f"(?:.*{separator})?", "**": ".*", "*": f"[^{separator}]*", "?": f"[^{separator}]"}
    written = [
        meaning.get(part) or (f"[{part[1:-1].replace('!', '^', 1)}]" if part[:1] == "[" else re.escape(part))
        for part in parts
    ]
    return re.compile("".join(written), re.DOTALL)
