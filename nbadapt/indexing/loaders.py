"""Files -> Documents. What cannot be read raises DataError with the reason, and hurts no other file.

Markup is taken out, never rendered: whatever a document holds is text from here on.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import re
import sys
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path

from nbadapt.errors import DataError, first_line
from nbadapt.indexing.documents import Document

_DROPPED = {"script", "style", "nav", "footer", "aside", "noscript", "template", "svg", "button"}
_BLOCKS = {
    *("address", "article", "blockquote", "br", "dd", "div", "dl", "dt", "figcaption", "figure", "hr", "li", "main"),
    *("ol", "p", "pre", "section", "table", "tbody", "tfoot", "thead", "tr", "ul", "caption", "details", "summary"),
}
_HEADINGS = {f"h{level}": level for level in range(1, 7)}


def load(path: Path) -> Document:
    """The document in a file.

    Raises:
        DataError: it cannot be read; one line without the file's name.
    """
    loader = LOADERS.get(path.suffix.lower())
    if loader is None:
        raise DataError(f"files of the kind {path.suffix or 'without a suffix'!r} are not known")
    try:
        document = loader(path)
    except DataError:
        raise
    except OSError as error:
        raise DataError(error.strerror or first_line(error)) from None
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a file, the others are indexed
        raise DataError(f"it is damaged ({first_line(error)})") from None
    if not document.text.strip():
        raise DataError("there is no text in it")
    return document


def decode(raw: bytes) -> str:
    """The text of a file: UTF-16 by its mark, UTF-8, else Windows' Latin; lines end with a line feed.

    Raises:
        DataError: the bytes are no text.
    """
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = raw.decode("utf-16")
    elif b"\0" in raw:
        raise DataError("it is no text")
    else:
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = raw.decode("cp1252", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _text(path: Path) -> Document:
    return Document(decode(path.read_bytes()), "text")


def _markdown(path: Path) -> Document:
    text = decode(path.read_bytes())
    title = re.search(r"^#[ \t]+(.+)$", text, re.MULTILINE)
    return Document(text, "markdown", title=title[1].strip() if title else "")


def _python(path: Path) -> Document:
    return Document(decode(path.read_bytes()), "py")


def _csv(path: Path) -> Document:
    """Each row as a paragraph of ``column: value`` lines, so that a chunk says what its numbers are."""
    text = decode(path.read_bytes())
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    head = text.partition("\n")[0]
    separator = max("\t" if path.suffix.lower() == ".tsv" else ",", *",;\t", key=head.count)
    rows = csv.reader(io.StringIO(text), delimiter=separator)
    names = [name.strip() for name in next(rows, [])]
    told = ("\n".join(f"{n}: {v.strip()}" for n, v in zip(names, row, strict=False) if v.strip()) for row in rows)
    return Document("\n\n".join(row for row in told if row), "csv")


def _notebook(path: Path) -> Document:
    """The cells' sources; outputs are left out."""
    found = json.loads(decode(path.read_bytes()))
    sources = [cell["source"] for cell in found["cells"] if cell["cell_type"] in {"markdown", "code"}]
    texts = [source if isinstance(source, str) else "".join(source) for source in sources]
    return Document("\n\n".join(text.strip("\n") for text in texts if text.strip()), "notebook")


def _pdf(path: Path) -> Document:
    try:
        import pypdf
    except ImportError:
        raise DataError('PDF files need pypdf: run  pip install "nbadapt[pdf]"') from None
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it tells of every small fault of a file
    pages, parts, length = [], [], 0
    with pypdf.PdfReader(path) as reader:
        if reader.is_encrypted and not reader.decrypt(""):
            raise DataError("it is locked by a password")
        for page in reader.pages:
            pages.append(length)
            parts.append(page.extract_text().strip("\n") + "\n\n")
            length += len(parts[-1])
        title = str((reader.metadata and reader.metadata.title) or "")
    return Document("".join(parts), "pdf", tuple(pages), title)


def _html(path: Path) -> Document:
    return html_document(decode(path.read_bytes()))


def html_document(text: str) -> Document:
    """The text of a page: navigation, scripts and styles out, headings as lines that begin with ``#``."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    return Document(reader.text(), "html", title=" ".join("".join(reader.title).split()))


class _Reader(HTMLParser):
    """Collects what a person reads of a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title: list[str] = []
        self._parts: list[str] = []
        self._dropped: list[str] = []  # open elements whose content is left out
        self._in_title = self._verbatim = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _DROPPED:
            self._dropped.append(tag)
        self._in_title = tag == "title"
        self._verbatim = self._verbatim or tag == "pre"
        if tag in _HEADINGS:
            self._parts.append(f"\n\n{'#' * _HEADINGS[tag]} ")
        elif tag in _BLOCKS:
            self._parts.append("\n" if tag in {"br", "li", "tr", "dt", "dd"} else "\n\n")
        elif tag in {"td", "th"}:
            self._parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._dropped:  # what was opened inside and never closed ends with it
            del self._dropped[self._dropped.index(tag) :]
        self._in_title = False
        self._verbatim = self._verbatim and tag != "pre"
        if tag in _HEADINGS or (tag in _BLOCKS and tag not in {"li", "tr", "dt", "dd"}):
            self._parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title.append(data)
        elif not self._dropped:
            self._parts.append(data if self._verbatim else re.sub(r"\s+", " ", data))

    def text(self) -> str:
        lines = (line.strip(" ") for line in "".join(self._parts).split("\n"))
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


LOADERS: Mapping[str, Callable[[Path], Document]] = {
    **dict.fromkeys((".txt", ".text", ".rst"), _text),
    **dict.fromkeys((".md", ".markdown"), _markdown),
    **dict.fromkeys((".html", ".htm", ".xhtml"), _html),
    **dict.fromkeys((".csv", ".tsv"), _csv),
    ".pdf": _pdf,
    ".ipynb": _notebook,
    ".py": _python,
}
"""The suffixes that can be read."""
