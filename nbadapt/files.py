"""Data files -> columns and rows: CSV, TSV, JSON, JSONL and Parquet.

CSV cells stay the text that they are: nothing is guessed to be a number, a date or missing, so that a text "NA" or
a label "007" survives. The delimiter is a comma, or the tab or semicolon where the header has no comma.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from nbadapt import json_text
from nbadapt.cells import kind
from nbadapt.errors import DataError, DependencyError, first_line, nearest


class Columns(NamedTuple):
    """A file's content: column names as they stand, repeated ones too, and the cells of each."""

    names: list[str]
    cells: list[list[Any]]


def read(path: Path, name: str) -> Columns | list[Any] | dict[str, Any]:
    """The content of a file: columns, a list of rows, or a mapping of columns, as the format has it.

    Args:
        path: an existing file.
        name: what the user calls it, for messages.

    Raises:
        DataError: unknown format, or damaged content; names the line.
        DependencyError: the library for the format is not installed.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{name}: cannot read {path.suffix or 'a file without an ending'}: use {', '.join(READERS)}")
    try:
        return reader(path, name)
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or error}") from None


def missing(path: Path, name: str) -> DataError:
    """The error for a file that is not there, with the files beside it that have a like name."""
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    close = nearest(path.name, beside)
    if close:
        return DataError(f"no file {name}: did you mean {' or '.join(close)}?")
    return DataError(f"no file {name} in {path.parent.absolute()}: check the path")


def _text(path: Path, name: str) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8: save the file as UTF-8, "
            "or read it with pandas.read_csv(..., encoding='cp1252') and give the table"
        ) from None


def _csv(path: Path, name: str) -> Columns:
    content = _text(path, name)
    header_line = content.lstrip().partition("\n")[0]
    delimiter = "," if path.suffix.lower() == ".csv" else "\t"
    if delimiter not in header_line:
        delimiter = next((other for other in ("\t", ";") if other in header_line), delimiter)
    names: list[str] = []
    cells: list[list[Any]] = []
    done = 0  # physical lines that are read; a quoted cell may hold several
    with _long_cells():
        rows = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
        try:
            for row in rows:
                done = rows.line_num
                if not row:
                    continue
                if not names:
                    names = [word.strip() or f"Unnamed: {i}" for i, word in enumerate(row)]
                    cells = [[] for _ in names]
                elif len(row) != len(names):
                    raise DataError(_ragged(name, done, len(row), len(names), delimiter))
                else:
                    for column, cell in zip(cells, row, strict=True):
                        column.append(cell)
        except csv.Error as error:
            raise DataError(f"{name}, line {done + 1}: {error}: check the quotes of this row") from None
    return Columns(names, cells)


def _ragged(name: str, line: int, found: int, wanted: int, delimiter: str) -> str:
    mark = {"\t": "tab", ";": "semicolon"}.get(delimiter, "comma")
    cells = "1 cell" if found == 1 else f"{found} cells"
    fix = f"put cells that contain a {mark} into double quotes"
    return f"{name}, line {line}: {cells}, but the header has {wanted}: {fix}"


@contextmanager
def _long_cells() -> Iterator[None]:
    """The csv module refuses cells over 128 KiB, for the whole process; a document may be longer."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {repeated!r} stands twice in one object: keep one of them")
    return found


def _jsonl(path: Path, name: str) -> list[Any]:
    rows = []
    for number, line in enumerate(_text(path, name).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json_text.loads(line, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            where = f"{name}, line {number}, column {error.colno}"
            raise DataError(f"{where}: no valid JSON ({error.msg}): each line must be one JSON object") from None
        except ValueError as error:
            raise DataError(f"{name}, line {number}: {error}") from None
        if not isinstance(row, dict):
            raise DataError(f'{name}, line {number}: {kind(row)}, not a JSON object: write {{"text": ..., ...}}')
        rows.append(row)
    return rows


def _json(path: Path, name: str) -> list[Any] | dict[str, Any]:
    content = _text(path, name)
    try:
        found = json_text.loads(content, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        where = f"{name}, line {error.lineno}, column {error.colno}"
        several = error.msg == "Extra data" and path.suffix.lower() == ".json"
        fix = "name the file .jsonl if each line is an object of its own" if several else "mend the file"
        raise DataError(f"{where}: no valid JSON ({error.msg}): {fix}") from None
    except ValueError as error:
        raise DataError(f"{name}: {error}") from None
    if not isinstance(found, list | dict):
        raise DataError(f"{name} holds {kind(found)}: write a list of objects, or an object of lists")
    return found


def _parquet(path: Path, name: str) -> Columns:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise DependencyError(f'{name} is Parquet, which needs pyarrow: run  pip install "nbadapt[parquet]"') from None
    try:
        table = parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{name} is no readable Parquet file ({first_line(error)}): write it again") from None
    return Columns(list(table.column_names), [column.to_pylist() for column in table.columns])


READERS: dict[str, Callable[[Path, str], Columns | list[Any] | dict[str, Any]]] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".json": _json,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
