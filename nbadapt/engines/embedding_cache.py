"""Embeddings on disk, so that a text is embedded once: by one run, in one kernel, for all that follow.

::

    ~/.cache/nbadapt/embeddings/        or $NBADAPT_EMBEDDINGS
      <key>/                            one model, way of pooling, length and number type
        <random>.safetensors            "texts" (n, 16) digests, "vectors" (n, d), "lengths" (n,)

A file is written whole or not at all and never changed, so any number of processes read and write side by side:
two that embed the same text write it twice, which costs space and no truth. A file that is damaged is removed,
and its texts are embedded again. Beyond `MOST_BYTES` the files that were not used for the longest time go.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

MOST_BYTES = 4 * 2**30  # of all embeddings together
ABANDONED = 3600.0  # seconds after which an unfinished file is that of a process that was killed


class Entry(NamedTuple):
    """What is known of one text: its vector (d,), and its length in tokens before it was cut."""

    vector: np.ndarray[Any, Any]
    length: int


def root() -> Path:
    """The folder of all embeddings: $NBADAPT_EMBEDDINGS, or a folder in the user's cache."""
    named = os.environ.get("NBADAPT_EMBEDDINGS")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "nbadapt" / "embeddings"


def digest(text: str) -> bytes:
    """The name of a text in the cache: 16 bytes."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class EmbeddingCache:
    """The embeddings under one key. Reading never fails; writing raises OSError where the folder cannot be written."""

    def __init__(self, key: str) -> None:
        self.folder = root() / key

    def find(self, wanted: Collection[bytes]) -> dict[bytes, Entry]:
        """Those of the wanted texts that are there."""
        found: dict[bytes, Entry] = {}
        missing = set(wanted)
        for file in self.folder.glob("*.safetensors"):
            if not missing:
                break
            try:
                entries = _read(file, missing)
            except Exception:  # noqa: BLE001 - whatever is wrong with a file, its texts are embedded again
                with contextlib.suppress(OSError):
                    file.unlink()
                continue
            if entries:
                with contextlib.suppress(OSError):
                    os.utime(file)  # used just now
                found |= entries
                missing -= entries.keys()
        return found

    def add(self, entries: Mapping[bytes, Entry]) -> None:
        """Keep these, whole or not at all.

        Raises:
            OSError: the folder cannot be written.
        """
        if not entries:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        name = secrets.token_hex(8)
        temporary = self.folder / f".{name}"
        try:
            with temporary.open("wb") as file:
                file.write(_packed(entries))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.folder / f"{name}.safetensors")
        finally:
            temporary.unlink(missing_ok=True)
        _make_room()


def _packed(entries: Mapping[bytes, Entry]) -> bytes:
    """The content of a file."""
    import numpy as np
    from safetensors.numpy import save

    tensors: dict[str, np.ndarray[Any, Any]] = {
        "texts": np.frombuffer(b"".join(entries), np.uint8).reshape(len(entries), -1),  # (n, 16)
        "vectors": np.stack([entry.vector for entry in entries.values()]).astype(np.float32),  # (n, d)
        "lengths": np.array([entry.length for entry in entries.values()], np.int32),  # (n,)
    }
    packed: bytes = save(tensors, {"sum": str(_sum(tensors))})
    return packed


def _sum(tensors: Mapping[str, np.ndarray[Any, Any]]) -> int:
    """A checksum over all that a file holds."""
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].tobytes(), total)
    return total


def _read(file: Path, wanted: Collection[bytes]) -> dict[bytes, Entry]:
    """Those of the wanted texts that a file holds; raises where it is damaged."""
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as opened:
        names = [row.tobytes() for row in opened.get_tensor("texts")]
        chosen = [i for i, name in enumerate(names) if name in wanted]
        if not chosen:
            return {}
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
        if opened.metadata()["sum"] != str(_sum(tensors)):
            raise ValueError("damaged")
    return {names[i]: Entry(tensors["vectors"][i], int(tensors["lengths"][i])) for i in chosen}


def _make_room() -> None:
    """Remove what killed processes left, and the files not used for the longest time where there are too many."""
    files: list[tuple[float, int, Path]] = []
    for path in root().glob("*/*"):
        with contextlib.suppress(OSError):  # another process was quicker
            state = path.stat()
            if path.name.startswith("."):
                if time.time() - state.st_mtime > ABANDONED:
                    path.unlink()
                continue
            files.append((state.st_mtime, state.st_size, path))
    excess = sum(size for _, size, _ in files) - MOST_BYTES
    for _, size, path in sorted(files):
        if excess <= 0:
            return
        with contextlib.suppress(OSError):
            path.unlink()
        excess -= size
