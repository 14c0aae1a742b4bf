"""Prompts for several runs at once: what can share a batch does, the rest is asked one run after the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from nbadapt import store
from nbadapt.capture import quiet_libraries
from nbadapt.errors import RequestError
from nbadapt.run import Run

if TYPE_CHECKING:
    from nbadapt.method import Adapted


def generate(prompts: str | Sequence[str], runs: Sequence[Run | str | None], **sampling: Any) -> list[str]:
    """See `nbadapt.generate`."""
    chosen = _chosen(runs)
    texts = _texts(prompts, len(chosen))
    loaded = _loaded(chosen)
    answers: dict[int, str] = {}
    for group in _groups(loaded):
        rows = [i for i, run in enumerate(chosen) if run in group]
        model, own = loaded[group[0]], [texts[i] for i in rows]
        if len(group) > 1:
            said = model.generate_mixed(own, [loaded[chosen[i]] for i in rows], **sampling)
        else:
            said = model.generate(own, **sampling)
        answers.update(zip(rows, said, strict=True))
    return [answers[i] for i in range(len(texts))]


def _chosen(runs: Any) -> list[Run | None]:
    """The runs, looked up.

    Raises:
        RequestError: something else than runs, or a run that finetuned nothing.
        StoreError: an unknown id.
    """
    if isinstance(runs, str | Run) or not isinstance(runs, Iterable):
        raise RequestError("runs is a list with a run, or None for the model as it is, for each prompt")
    return [_run(i, given) for i, given in enumerate(runs)]


def _run(place: int, given: Any) -> Run | None:
    if given is None:
        return None
    if not isinstance(given, str | Run):
        raise RequestError(f"runs[{place}] is {given!r:.40}: give a run, its id, or None for the model as it is")
    run = store.open(given) if isinstance(given, str) else given
    if run.verb != "finetune":
        raise RequestError(f"runs[{place}], {run.id}, finetuned no model: ask it by itself, with run.generate(prompts)")
    return run


def _texts(prompts: Any, count: int) -> list[Any]:
    if isinstance(prompts, str):
        return [prompts] * count
    if not isinstance(prompts, Iterable):
        raise RequestError(f"prompts is a text or a list of texts, not {type(prompts).__name__}: {prompts!r:.40}")
    texts = list(prompts)
    for i, text in enumerate(texts):
        if not isinstance(text, str | list):
            raise RequestError(f"prompts[{i}] is no text but {type(text).__name__}: {text!r:.40}")
    if len(texts) != count:
        raise RequestError(f"{len(texts)} prompts and {count} runs: give one run, or None, for each prompt")
    return texts


def _loaded(chosen: Sequence[Run | None]) -> dict[Run | None, Adapted]:
    """The model of every run, loaded where it is not yet; all of them generate text."""
    runs = dict.fromkeys(run for run in chosen if run is not None)
    loaded: dict[Run | None, Adapted] = {}
    for run in runs:
        loaded[run] = run.adapted()
        if "generate" not in loaded[run].abilities:
            raise RequestError(f"the run {run.id} generates no text: ask it by itself, with run.predict(texts)")
    if None in chosen:
        loaded[None] = _bare(list(runs))
    return loaded


def _bare(runs: Sequence[Run]) -> Adapted:
    """The model that the runs were finetuned from."""
    from nbadapt import models
    from nbadapt.engines.generate import LanguageModel

    jobs = [run.job() for run in runs]
    bases = {(ref := models.base_ref(job.model)).path: ref for job in jobs}
    if not bases:
        raise RequestError("None is the model that the runs were finetuned from: name at least one run")
    if len(bases) > 1:
        names = ", ".join(sorted(ref.name for ref in bases.values()))
        raise RequestError(f"None is the model that the runs were finetuned from, and these have several: {names}")
    (base,) = bases.values()
    with quiet_libraries():
        return LanguageModel(*models.load(base, jobs[0].device, jobs[0].dtype))


def _groups(loaded: dict[Run | None, Adapted]) -> list[list[Run | None]]:
    """Runs whose rows may stand in one batch; the model of the first of each group can do it."""
    groups: list[list[Run | None]] = []
    for run, model in loaded.items():
        for group in groups:
            first = loaded[group[0]]
            if first.mixes_with(model):
                group.append(run)
                break
            if model.mixes_with(first):
                group.insert(0, run)
                break
        else:
            groups.append([run])
    return groups
