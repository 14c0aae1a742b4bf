"""Models that answer the prompts: names and runs -> `Author`. Looked up and checked at once, loaded when needed."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbadapt.errors import RequestError
from nbadapt.feedback.supply import Author
from nbadapt.run import Run

if TYPE_CHECKING:
    from nbadapt.method import Adapted, ModelRef


def authors(models: Sequence[Any], names: Sequence[str], *, trust_remote_code: bool = False) -> list[Author]:
    """The models, ready to be loaded.

    Args:
        models: names, folders, hub ids, "prefix:name" of an endpoint, or runs.
        names: what the user calls each.
        trust_remote_code: whether code that comes with a model may run.

    Raises:
        NbadaptError: a model that is unknown, that writes no text, or that stands there twice.
    """
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise RequestError(f"the model {twice} is given twice: for several answers of one model say --answers 2")
    return [_author(model, name, trust_remote_code) for model, name in zip(models, names, strict=True)]


def _author(model: Any, name: str, trust_remote_code: bool) -> Author:
    if isinstance(model, Run):
        _check_run(model, name)
        return Author(name, model.adapted, functools.cache(lambda: _identity_of_run(model)))
    if not isinstance(model, str):
        raise RequestError(f"a model is {model!r:.40}: give a name, a folder or a run")
    from nbadapt import heads, model_names, pretrained

    ref = model_names.resolve(model, trust_remote_code=trust_remote_code)
    if ref.kind != "endpoint":
        heads.check(ref, pretrained.read_config(ref), "causal")
    return Author(name, lambda: load(ref), functools.cache(lambda: _identity(ref)))


def _check_run(run: Run, name: str) -> None:
    if run.alive or run.outcome is None or (run.verb == "finetune" and not run.outcome.artifacts):
        raise RequestError(f"the run {name} ({run.id}) is {run.state} and has no model yet: wait for it or resume it")
    if run.job().task == "classification":
        raise RequestError(f"the run {name} ({run.id}) is a classifier and generates no text: rank language models")


def load(ref: ModelRef) -> Adapted:
    """A model by itself, on the best device there is; its base weights are shared."""
    if ref.kind == "endpoint":
        from nbadapt import endpoints

        return endpoints.open_model(ref)
    from nbadapt import devices, models
    from nbadapt.capture import quiet_libraries
    from nbadapt.engines.generate import LanguageModel

    device = devices.best_device()
    with quiet_libraries():
        return LanguageModel(*models.load(ref, device, devices.best_dtype(device)))


def _identity(ref: ModelRef) -> str:
    if ref.kind == "endpoint":
        return f"{ref.path} at {ref.base_url}"
    from nbadapt.engines.embed import fingerprint

    return fingerprint(ref)


def _identity_of_run(run: Run) -> str:
    from nbadapt.method import ModelRef

    return _identity(ModelRef(run.id, "run", str(Path(run.directory))))
