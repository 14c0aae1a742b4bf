"""Rules for a packaged model (entry-point group ``nbadapt.models``). Each yields a line for all that breaks it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import TracebackType
from typing import Any

from nbadapt.errors import NbadaptError, first_line
from nbadapt.guard import CODE
from nbadapt.method import ModelRef
from nbadapt.packaged_models import PackagedModel
from nbadapt.testing.auditing import connections
from nbadapt.testing.kit import UntriedError, UnusableError
from nbadapt.testing.printing import Printed


class ModelSubject:
    """A packaged model, and what came of unpacking it."""

    def __init__(self, model: PackagedModel, settings: Mapping[str, Any] | None = None) -> None:
        self.model = model
        self.printed, self.connections = "", list[str]()

    def __enter__(self) -> ModelSubject:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return

    @cached_property
    def folder(self) -> Path:
        """Where the model is.

        Raises:
            UntriedError: its package is not installed.
            UnusableError: its package does not hold it; the rule `found` tells.
        """
        with Printed() as output, connections() as tried:
            try:
                found = self.model.folder()
            except NbadaptError as error:
                raise UnusableError(first_line(error)) from None
        self.printed, self.connections = output.text, tried
        if found is None:
            raise UntriedError(f"not installed; check again after  {self.model.install}")
        return Path(found)

    @property
    def ref(self) -> ModelRef:
        """The model as a job has it."""
        return ModelRef(self.model.name, "package", str(self.folder))


def name(subject: ModelSubject) -> Iterator[str]:
    """The name is one lower-case word, and its package is named as pip does."""
    if not re.fullmatch(r"[a-z][a-z0-9]*([-.][a-z0-9]+)*", str(subject.model.name)):
        yield f"name is {subject.model.name!r}"
    if not re.fullmatch(r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?", str(subject.model.distribution)):
        yield f"distribution is {subject.model.distribution!r}"


def install(subject: ModelSubject) -> Iterator[str]:
    """The command that installs it is one line of pip or of conda that names the package."""
    command = str(subject.model.install)
    if "\n" in command or not re.match(r"(pip|conda|mamba|uv pip) install ", command):
        yield f"install is {command!r}"
    if subject.model.distribution not in command:
        yield f"{command!r} does not name {subject.model.distribution}"


def inside(subject: ModelSubject) -> Iterator[str]:
    """The model lies in its package, at a relative path without a way up."""
    for kind in (PurePosixPath, PureWindowsPath):
        path = kind(subject.model.inside)
        if path.is_absolute() or path.anchor or ".." in path.parts or not path.parts:
            yield f"inside is {subject.model.inside!r}"
            return


def found(subject: ModelSubject) -> Iterator[str]:
    """Its package holds it, and looking it up twice gives the same folder."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        distribution(subject.model.distribution)
    except PackageNotFoundError:
        raise UntriedError(f"not installed; check again after  {subject.model.install}") from None
    try:
        first, again = subject.model.folder(), subject.model.folder()
    except NbadaptError as error:
        yield first_line(error)
        return
    if first is None or not Path(first).is_dir():
        yield f"folder() gives {first!r}, which is no folder"
    elif first != again:
        yield f"folder() gives {first} and then {again}"


def quiet(subject: ModelSubject) -> Iterator[str]:
    """Unpacking it prints nothing and reaches for no other machine."""
    _ = subject.folder
    if subject.printed.strip():
        yield f"it prints {subject.printed.strip()!r:.80}"
    if subject.connections:
        yield f"it reaches for {', '.join(sorted(set(subject.connections)))}"


def safe(subject: ModelSubject) -> Iterator[str]:
    """The weights are safetensors, and neither they nor the configuration bring code."""
    files = [path for path in subject.folder.rglob("*") if path.is_file()]
    yield from (f"{path.name} may run code when it is read" for path in files if path.suffix.lower() in CODE)
    yield from (f"{path.name} is code" for path in files if path.suffix.lower() == ".py")
    if not any(path.suffix == ".safetensors" for path in files):
        yield "there are no weights in safetensors"


def loads(subject: ModelSubject) -> Iterator[str]:
    """The tokenizer and the model load, and give finite figures for a text."""
    from nbadapt import models

    ref = subject.ref
    try:
        if subject.model.generates:
            model, tokenizer = models.load(ref, "cpu", "float32")
        else:
            model, tokenizer = models.load_classifier(ref, ("no", "yes"), "cpu", "float32", 0)
    except (NbadaptError, OSError, ValueError) as error:
        yield first_line(error)
        return
    logits = model(**tokenizer(["A film."], return_tensors="pt")).logits
    if not logits.isfinite().all():
        yield "the figures for a text are not finite"


def generates(subject: ModelSubject) -> Iterator[str]:
    """`generates` says whether the model writes text."""
    from nbadapt import pretrained

    able = pretrained.has_head(subject.ref, "causal")
    if able != subject.model.generates:
        yield f"generates is {subject.model.generates}, and the model {'can' if able else 'cannot'} write text"


RULES = (name, install, inside, found, quiet, safe, loads, generates)
