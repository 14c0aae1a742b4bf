"""Small data sets that come with nbadapt, each a CSV file and a description of the same name.

>>> from nbadapt import datasets
>>> datasets.names()
['bicycle_shop']
>>> messages = datasets.load("bicycle_shop")  # a pandas DataFrame with the columns text, label
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nbadapt.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The names that `load` takes, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.csv"))


def load(name: str) -> pd.DataFrame:
    """A shipped data set as a table; every cell is text.

    Raises:
        DataError: there is no data set of this name.
    """
    import pandas as pd

    return pd.read_csv(_file(name, ".csv"), dtype=str, keep_default_na=False)


def describe(name: str) -> str:
    """What a shipped data set is, how it was made, and its limits, in Markdown.

    Raises:
        DataError: there is no data set of this name.
    """
    return _file(name, ".md").read_text(encoding="utf-8")


def _file(name: str, ending: str) -> Path:
    if name not in names():
        raise DataError(f"no data set {name!r} comes with nbadapt: {did_you_mean(name, names(), kind='data sets')}")
    return FOLDER / (name + ending)
