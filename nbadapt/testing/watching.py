"""What a piece of work does that it should not: writes elsewhere, changes weights, keeps memory."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import sys
import tempfile
import tracemalloc
import warnings
import weakref
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from nbadapt.testing.auditing import changes

if TYPE_CHECKING:
    import torch

    from nbadapt.method import Job, ModelRef


class Places:
    """Inside, a run works in an empty folder, with empty ones for temporary files and as its user's home.

    Nothing is embedded or answered beforehand either, so that the same job tells the same events each time.

    Args:
        room: the folder of all models and runs.
        job: what is run; its folder is below the room.

    Attributes:
        strays: afterwards, a line for each file that appeared, changed or went, beside those in the job's folder. In
            the room and in the model's folder nothing is missed; elsewhere it is what `auditing.changes` sees.
    """

    def __init__(self, room: Path, job: Job) -> None:
        self._room, self._own, self._model = room, job.directory, Path(job.model.path)
        self._base = Path(tempfile.mkdtemp(prefix="places-", dir=room))
        self._new = {name: self._base / name for name in ("work", "temporary", "home", "embeddings", "answers")}
        self._named = {
            self._new["work"]: "the working directory",
            self._new["temporary"]: "the folder of temporary files",
            self._new["home"]: "the user's home",
            self._model: "the model's folder",
            room: "the folder above the run's",
        }
        self.strays: list[str] = []

    def __enter__(self) -> Places:
        for folder in self._new.values():
            folder.mkdir()
        self._before = self._files()
        caches = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")  # of libraries: these go on as ever
        self._kept = Path.cwd(), tempfile.tempdir, dict(os.environ)
        self._set = {
            "HOME": str(self._new["home"]),
            "USERPROFILE": str(self._new["home"]),
            "XDG_CACHE_HOME": caches,
            "NBADAPT_EMBEDDINGS": str(self._new["embeddings"]),
            "NBADAPT_ANSWERS": str(self._new["answers"]),
        }
        self._elsewhere = changes((self._room, self._model))
        self._found = self._elsewhere.__enter__()  # while home is the user's own: caches are there
        os.environ.update(self._set)
        os.chdir(self._new["work"])
        tempfile.tempdir = str(self._new["temporary"])
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        home, tempfile.tempdir, environment = self._kept
        os.chdir(home)
        for name in self._set:
            os.environ.pop(name, None)
            if name in environment:
                os.environ[name] = environment[name]
        self._elsewhere.__exit__(None, None, None)
        after = self._files()
        changed = [path for path in {*self._before, *after} if self._before.get(path) != after.get(path)]
        self.strays = [*map(self._told, sorted(changed)), *self._found]

    def _files(self) -> dict[Path, tuple[int, int]]:
        """Every file of the places that are watched -> its size and the time of its last change."""
        mine = {self._own, self._new["embeddings"], self._new["answers"]}
        found: dict[Path, tuple[int, int]] = {}
        for folder in (self._room, self._model):  # this may lie elsewhere
            for place, inner, names in os.walk(folder):
                inner[:] = [name for name in inner if Path(place, name) not in mine]
                for path in (Path(place, name) for name in names):
                    with contextlib.suppress(FileNotFoundError):
                        found[path] = (path.lstat().st_size, path.lstat().st_mtime_ns)
        return found

    def _told(self, path: Path) -> str:
        folder = next(folder for folder in self._named if path.is_relative_to(folder))
        return f"{path.relative_to(folder)} in {self._named[folder]}"


# ------------------------------------------------------------------------------------------------ weights


class BaseWeights:
    """The weights of a model's shared bases, in whatever form a run loads them, as they are at one moment."""

    def __init__(self, ref: ModelRef) -> None:
        from nbadapt import models

        self._ref = ref
        self._before = {key: _digest(base.named_parameters()) for key, base in models.loaded(ref).items()}

    def changed(self) -> bool:
        """Whether they are others now; those of a base that was loaded since are compared with its files."""
        from nbadapt import models, pretrained

        for key, base in models.loaded(self._ref).items():
            if key in self._before:
                if _digest(base.named_parameters()) != self._before[key]:
                    return True
                continue
            fresh = pretrained.read_weights(self._ref, *key[1:])
            pair = (
                (base.base_model, fresh.base_model) if key[1] == "classification" else (base, fresh)
            )  # its head is new
            there, read = (dict(model.named_parameters()) for model in pair)
            if any(_digest([(name, read[name])]) != _digest([(name, there[name])]) for name in read.keys() & there):
                return True
        return False


def _digest(parameters: Iterable[tuple[str, torch.Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in parameters:
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------ memory


class Held:
    """What is in memory at one moment, told apart from what comes later: tensors, and the data of numpy's arrays.

    numpy tells `tracemalloc` of its data, whoever holds it: a list, a scikit-learn model, a class. What other libraries
    take outside of both is not seen.
    """

    def __enter__(self) -> Held:
        self._traced = tracemalloc.is_tracing()
        if not self._traced:
            tracemalloc.start()
        self.mark()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self._traced:
            tracemalloc.stop()

    def mark(self) -> None:
        """From now on, what is there counts as there."""
        self._there = [weakref.ref(tensor) for tensor in _tensors()]
        self._arrays = _array_bytes()

    def tensors(self) -> tuple[int, int]:
        """How many tensors came since and are still there, and their bytes."""
        new = _tensors()
        old = {id(tensor) for reference in self._there if (tensor := reference()) is not None}
        found = [tensor for tensor in new if id(tensor) not in old]
        return len(found), sum(tensor.numel() * tensor.element_size() for tensor in found)

    def arrays(self) -> int:
        """By how many bytes the data of all arrays grew since."""
        return _array_bytes() - self._arrays


def _array_bytes() -> int:
    """The data of numpy's arrays that were made since tracing began and are still there."""
    import numpy as np

    gc.collect()
    domain = tracemalloc.DomainFilter(inclusive=True, domain=np.lib.tracemalloc_domain)
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([domain]).traces)


def _tensors() -> list[Any]:
    """Every tensor that anything in this process holds; without those of no memory."""
    torch = sys.modules.get("torch")
    if torch is None:
        return []
    gc.collect()
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # looking at some objects of libraries warns
        for thing in gc.get_objects():
            if issubclass(type(thing), torch.Tensor) and thing.device.type != "meta":
                found.append(thing)
    return found
