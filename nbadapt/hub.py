"""Data sets by their hub name: ``org/name``, with a configuration ``org/name/config`` and a split ``:train``.

What follows the colon is what `datasets.load_dataset` takes as its split, such as ``test`` or ``train[:1000]``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nbadapt.errors import DataError, DependencyError

NAME = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:/(?P<config>[\w.-]+))?(?::(?P<split>[\w\[\]:%.+-]+))?")


def load(name: str) -> Any:
    """A `datasets.Dataset` or, where the name has no split, a `datasets.DatasetDict`.

    Raises:
        DataError: the hub is out of reach or does not give the data set.
        DependencyError: datasets is not installed.
    """
    parts = NAME.fullmatch(name)
    if parts is None:
        raise DataError(f"{name!r} is no hub name: write org/name, org/name:split or org/name/config:split")
    try:
        import datasets
    except ImportError:
        needs = f"the hub data set {name!r} needs the datasets library"
        raise DependencyError(f'{needs}: run  pip install "nbadapt[hub]"') from None
    with _no_retries():
        try:
            return datasets.load_dataset(parts["repository"], parts["config"], split=parts["split"])
        except datasets.exceptions.DatasetNotFoundError:
            raise DataError(f"the hub has no data set {name!r} (a private one needs `hf auth login`)") from None
        except ConnectionError:
            raise DataError(
                f"{name!r} is no file here, and the hub is out of reach: go online once to fetch it, "
                "or name a CSV, JSONL or Parquet file"
            ) from None
        except Exception as error:  # noqa: BLE001  # a data set can fail in any way: its own words, in one line
            reason = " ".join(str(error).split())[:300]
            raise DataError(f"the data set {name!r} cannot be loaded: {reason}") from None


@contextmanager
def _no_retries() -> Iterator[None]:
    """Where the hub does not answer, read the cache alone at once: the client would retry for half a minute."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not online(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def online(address: str) -> bool:
    """Whether the hub answers at all; asked first because its own client retries for half a minute."""
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]  # exported, if not in __all__

    try:
        get_session().head(address, timeout=5.0)
    except Exception:  # noqa: BLE001  # the session's library, and so its errors, differ between versions
        return False
    return True
