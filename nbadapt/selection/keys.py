"""What trials and comparisons stand under on disk: hashes of all that decides their result.

::

    trial        method and its code, settings, model and its files, prompt, rows, seed, device, number type, metric
    comparison   the rows, the metric, seeds, halving or not, budget, and all of its candidates with their code

So the same cell finds what is done, and what was changed is done anew: a record of another key is not found.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbadapt
from nbadapt import data, models, origins, pretrained, registry

if TYPE_CHECKING:
    from nbadapt.data import Examples
    from nbadapt.method import Job, Method
    from nbadapt.selection.candidates import Candidate, Prepared

_read: dict[str, tuple[Any, str]] = {}  # module -> what it was imported by when its file was read, and the file's hash


def trial(job: Job, evaluated: Examples, metric: str, code: str) -> str:
    """The name of a trial: 20 hex digits.

    Args:
        job: on the rows that it is trained on.
        evaluated: the rows that it is asked.
        metric: its name.
        code: of the job's method, from `code`.
    """
    asked = {
        "method": [job.method, code],
        "settings": job.config.model_dump(mode="json"),
        "model": [asdict(job.model), _weights(job)],
        "task": job.task,
        "prompt": job.prompt,
        "labels": list(job.labels),
        "tables": [None if table is None else data.fingerprint(table) for table in (job.data, job.examples)],
        "evaluated": data.fingerprint(evaluated),
        "metric": metric,
        "seed": job.seed,
        "device": job.device,
        "dtype": job.dtype,
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:20]


def _weights(job: Job) -> Any:
    return [] if job.model.kind == "endpoint" else pretrained.weight_files(models.base_ref(job.model))


def comparison(prepared: Prepared) -> str:
    """The name of a comparison, 12 hex digits: the same for the same cell, so that its budget goes on after a kill."""
    asked = prepared.asked
    parts: list[Any] = [
        prepared.parts.key,
        prepared.metric,
        asked.seeds,
        asked.full_ranking,
        asked.budget.seconds,
        asked.budget.memory,
        *(_described(one) for one in prepared.candidates),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _described(one: Candidate) -> list[Any]:
    """All that makes a candidate another one."""
    job = one.job
    settings = job.config.model_dump(mode="json")
    return [
        one.label,
        one.method.name,
        one.code,
        job.model.name,
        str(job.model.path),
        job.prompt,
        job.device,
        job.dtype,
        settings,
    ]


# ------------------------------------------------------------------------------------------------ code


def code(method: type[Method]) -> str:
    """What a method runs, as far as its files tell: 16 hex digits.

    They stand for the versions of nbadapt and of the distribution that declares the method, and for the source of the
    modules that its class and its bases are defined in. Of a method in a package of another distribution all Python
    files of that package count, in which its helpers are. What it imports from elsewhere does not.

    A file that was edited counts from the restart on, or from when the module was imported anew: until then this kernel
    runs what it was.
    """
    declared = registry.entries().get(method.name, ())
    owner, distribution = (declared[0].owner, declared[0].distribution) if declared else ("", "")
    files = dict(filter(None, map(_file, {kin.__module__ for kin in method.__mro__})))
    if origins.normal(distribution) != origins.OWN:
        files |= _package(method.__module__)
    parts = [nbadapt.__version__, owner, *([name, _hash(name, files[name])] for name in sorted(files))]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _file(module: str) -> tuple[str, Path] | None:
    """The module with its file; None of Python's own ones."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return None if file is None or module.partition(".")[0] in sys.stdlib_module_names else (module, Path(file))


def _package(module: str) -> dict[str, Path]:
    """Module -> file, of all in the outermost package with a file that a module is in; a namespace has none."""
    names = module.split(".")
    for count in range(1, len(names) + 1):
        outer = ".".join(names[:count])
        package = sys.modules.get(outer)
        file = getattr(package, "__file__", None)
        if file and getattr(package, "__path__", None):
            folder = Path(file).parent
            inner = {path: path.relative_to(folder).with_suffix("").parts for path in folder.rglob("*.py")}
            return {".".join([outer, *parts]).removesuffix(".__init__"): path for path, parts in inner.items()}
    return {}


def _hash(module: str, path: Path) -> str:
    """The SHA-256 of a module's file as it was when the module was imported, or of one that is not imported yet."""
    spec = getattr(sys.modules.get(module), "__spec__", None)
    since, found = _read.get(module, (None, ""))
    if not found or spec is None or (since is not None and since is not spec):
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError:  # of a package that is no folder, or was taken away
            found = "none"
    _read[module] = spec, found
    return found
