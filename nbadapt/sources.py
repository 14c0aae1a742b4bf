"""Whatever a user hands over -> one `Sheet`: the only part that knows the kinds of tables.

pandas, polars and datasets are recognised through `sys.modules`: an object of theirs cannot exist before they
are imported, so nothing is imported here to find out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbadapt import files, hub
from nbadapt.cells import brief, kind, listed, plain
from nbadapt.errors import DataError

KINDS = (
    "a pandas or polars DataFrame, a datasets.Dataset, a list of dicts, a dict of lists, "
    "a CSV, TSV, JSON, JSONL or Parquet file, or a hub name such as org/name:train"
)


@dataclass(frozen=True)
class Sheet:
    """Named columns of one length; cells are fetched a column at a time.

    Attributes:
        source: what the user calls it.
        columns: distinct names.
        fetch: a column's cells as the source holds them; see `column`.
    """

    source: str
    columns: tuple[str, ...]
    length: int
    fetch: Callable[[str], Sequence[Any]]

    def column(self, name: str) -> list[Any]:
        """The cells of a column in Python's own types, None where there is no value."""
        return [plain(cell) for cell in self.fetch(name)]


def load(source: Any, name: str) -> Sheet:
    """The table that `source` is or names.

    Args:
        source: see `KINDS`.
        name: what the user calls it, for messages; for a file or a hub data set its own name is used.

    Raises:
        DataError: not a table, not there, unreadable, empty, or with a column name used twice.
        DependencyError: the library that reads it is not installed.
    """
    if isinstance(source, str | Path):
        return _named(source)
    if _is(source, "pandas", "DataFrame"):
        # by position: two columns may have the same name until `_sheet` has looked
        return _sheet(name, source.columns, len(source), [source.iloc[:, i].tolist for i in range(source.shape[1])])
    if _is(source, "polars", "DataFrame"):
        return _sheet(name, source.columns, source.height, [series.to_list for series in source.get_columns()])
    if _is(source, "datasets", "Dataset"):
        return _dataset(source, name)
    if _is(source, "datasets", "DatasetDict"):
        raise DataError(f"{name} is a DatasetDict: {_which_split(name, source)}")
    if _is(source, "polars", "LazyFrame"):
        raise DataError(f"{name} is a LazyFrame: give {name}.collect()")
    if _is(source, "datasets", "IterableDataset"):
        raise DataError(f"{name} is a streamed data set: give datasets.Dataset.from_list(list({name}.take(1000)))")
    if isinstance(source, Mapping):
        return _from_lists(source, name)
    if _is(source, "nbadapt.preferences", "Preferences"):
        if not len(source):
            raise DataError(f"{name} holds no preferences yet: rank some pairs first, with  %nbadapt rank")
        return _from_rows(source.rows, name)
    if isinstance(source, list | tuple):
        return _from_rows(source, name)
    raise DataError(f"{name} is {kind(source)}, not a table: give {KINDS}")


def _is(source: Any, module: str, class_name: str) -> bool:
    found = getattr(sys.modules.get(module), class_name, None)
    return found is not None and isinstance(source, found)


def _sheet(source: str, names: Sequence[Any], length: int, fetchers: Sequence[Callable[[], Sequence[Any]]]) -> Sheet:
    columns = [str(name) for name in names]
    repeated = next((name for i, name in enumerate(columns) if name in columns[:i]), None)
    if repeated is not None:
        raise DataError(f"{source} has two columns named {repeated!r}: rename or drop one")
    if not length or not columns:
        raise DataError(f"{source} is empty: it has {len(columns)} columns and no rows; give at least one row")
    by_name = dict(zip(columns, fetchers, strict=True))
    return Sheet(source, tuple(columns), length, lambda name: by_name[name]())


def _named(source: str | Path) -> Sheet:
    name = str(source)
    try:
        path = Path(source).expanduser()  # of "" it is the current folder
    except RuntimeError:
        raise DataError(f"{name}: this machine has no user of that name: correct what follows the ~") from None
    if path.is_file():
        content = files.read(path, name)
        if isinstance(content, files.Columns):
            length = len(content.cells[0]) if content.cells else 0
            return _sheet(name, content.names, length, [column.copy for column in content.cells])
        return _from_rows(content, name) if isinstance(content, list) else _from_lists(content, name)
    if path.is_dir() and name:
        inside = sorted(p.name for p in path.iterdir() if p.suffix.lower() in files.READERS)
        hint = f"name one of its files: {listed(inside)}" if inside else f"it holds no {', '.join(files.READERS)} file"
        raise DataError(f"{name} is a folder: {hint}")
    if isinstance(source, Path) or path.suffix.lower() in files.READERS:
        raise files.missing(path, name)
    if hub.NAME.fullmatch(name):
        return _from_hub(hub.load(name), name)
    raise DataError(f"{brief(name)} is no file here and no hub name (org/name): give {KINDS}")


def _from_hub(found: Any, name: str) -> Sheet:
    if not _is(found, "datasets", "DatasetDict"):
        return _dataset(found, name)
    if len(found) == 1:
        return _dataset(next(iter(found.values())), name)
    splits = list(found)
    raise DataError(f"{name} has the splits {listed(splits)}: say which, as in {name}:{splits[0]}")


def _which_split(name: str, found: Mapping[str, Any]) -> str:
    splits = list(found)
    if not splits:
        return "it has no splits, give a Dataset"
    return f"say which split, as in {name}[{splits[0]!r}] (splits: {listed(splits)})"


def _dataset(source: Any, name: str) -> Sheet:
    """A datasets.Dataset; class numbers become class names, -1 (unlabelled) becomes None."""
    raw = source.with_format(None)

    def fetcher(column: str) -> Callable[[], Sequence[Any]]:
        names = getattr(source.features[column], "names", None)
        if names is None:
            return lambda: list(raw[column])
        return lambda: [names[i] if i is not None and i >= 0 else None for i in raw[column]]

    columns = source.column_names
    return _sheet(name, columns, len(source), [fetcher(column) for column in columns])


def _from_lists(source: Mapping[Any, Any], name: str) -> Sheet:
    cells: dict[str, list[Any]] = {}
    for key, column in source.items():
        unpack = getattr(column, "tolist", None) or getattr(column, "to_list", None)
        values = unpack() if unpack is not None else column
        if not isinstance(values, list | tuple):
            raise DataError(
                f"{name}, column {str(key)!r}: {kind(column)}, not a list of cells: give a list for each column"
            )
        cells[str(key)] = list(values)
    lengths = {column: len(values) for column, values in cells.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{column}: {length}" for column, length in lengths.items())
        raise DataError(f"{name}: the columns differ in length ({shown}): give each the same number of cells")
    length = next(iter(lengths.values()), 0)
    return _sheet(name, list(source), length, [values.copy for values in cells.values()])


def _from_rows(source: Sequence[Any], name: str) -> Sheet:
    columns: dict[str, None] = {}  # keeps the order of first appearance
    rows: list[dict[str, Any]] = []
    for number, row in enumerate(source, 1):
        if not isinstance(row, Mapping):
            raise DataError(
                f"{name}, row {number} (counted from 1): {kind(row)} ({brief(row)}), not a dict: "
                'give rows such as {"text": ..., "label": ...}'
            )
        rows.append({str(key): value for key, value in row.items()})
        columns.update(dict.fromkeys(rows[-1]))

    def fetcher(column: str) -> Callable[[], Sequence[Any]]:
        return lambda: [row.get(column) for row in rows]

    return _sheet(name, list(columns), len(rows), [fetcher(column) for column in columns])
