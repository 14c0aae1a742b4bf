"""Who answers in the playground: runs and models -> `Player`. Looked up and checked at once, loaded when asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nbadapt import store
from nbadapt.cells import brief, listed
from nbadapt.errors import RequestError
from nbadapt.feedback.authors import load
from nbadapt.run import Run

if TYPE_CHECKING:
    from nbadapt.method import Adapted, ModelRef

Kind = Literal["generate", "classify"]
MOST_PLAYERS = 6  # side by side
MOST_NAMED = 12  # runs in a line


@dataclass(frozen=True)
class Player:
    """One column of the playground.

    Attributes:
        key: tells it from all others.
        name: what the user calls it.
        about: what it is, in a few words.
        kind: whether it writes text or tells classes.
        tokens: players of the same one read and write the same tokens.
        load: gives the model; the weights of a base are loaded once a kernel and shared.
    """

    key: str
    name: str
    about: str
    kind: Kind
    tokens: str
    load: Callable[[], Adapted]


def of_line(words: Iterable[str], namespace: Mapping[str, Any]) -> list[tuple[str, Run]]:
    """The runs that words name: variables, ids or beginnings of them, names that --as gave.

    Raises:
        RequestError: a variable that holds something else.
        StoreError: no such run.
    """
    found = []
    for word in words:
        value = namespace.get(word) if word.isidentifier() else None
        if value is not None and not isinstance(value, Run | str):
            raise RequestError(f"{word} is of type {type(value).__name__}, not a run: %nbadapt runs lists them")
        found.append((word, value if isinstance(value, Run) else store.open(value or word)))
    return found


def of_call(given: Any) -> list[tuple[str, Run]]:
    """The runs of a Python call, each with the name of its variable in the notebook where it had one.

    Raises:
        RequestError: something that is no run.
        StoreError: no such run.
    """
    several = [given] if isinstance(given, str | Run) else given
    if not isinstance(several, Iterable):
        raise RequestError(f"runs is {brief(several)}: give a run, its id, or a list of them")
    found = []
    for run in several:
        if not isinstance(run, str | Run):
            raise RequestError(f"a run is {brief(run)}: give a run or its id")
        opened = store.open(run) if isinstance(run, str) else run
        found.append((run if isinstance(run, str) else opened.name or opened.id, opened))
    return found


def players(
    runs: Sequence[tuple[str, Run]], models: Sequence[str] = (), *, trust_remote_code: bool = False
) -> list[Player]:
    """The columns: models by themselves, and each run after the model that it was made from.

    Args:
        runs: what the user calls each, and the run.
        models: names, folders or hub ids.
        trust_remote_code: whether code that comes with a model may run.

    Raises:
        NbadaptError: nothing to play with, too much of it, or something that can neither write nor classify.
    """
    if not runs and not models:
        raise RequestError(_nothing())
    found = [_of_model(name, trust_remote_code) for name in models]
    found += [player for name, run in runs for player in _of_run(name, run)]
    distinct = _told_apart([*{player.key: player for player in found}.values()])
    if len(distinct) > MOST_PLAYERS:
        raise RequestError(
            f"{len(distinct)} answers, with those of the models as they are, do not fit side by side: at most "
            f"{MOST_PLAYERS}; name fewer runs"
        )
    return sorted(distinct, key=lambda player: player.kind)  # classifiers together


def _told_apart(found: Sequence[Player]) -> list[Player]:
    """The same with a name of its own for each."""
    names = Counter(player.name for player in found)
    return [replace(p, name=f"{p.name} ({p.key})") if names[p.name] > 1 else p for p in found]


def _nothing() -> str:
    """What there is to play with, in one line."""
    able = [run for run in store.runs() if run.outcome is not None]
    if not able:
        return f"no run given, and none is here yet in {store.root()}: write  %nbadapt play --model smollm2"
    names = [f"{run.name} ({run.id})" if run.name else run.id for run in able]
    return f"no run given: write  %nbadapt play RUN...  with one of {listed(names, MOST_NAMED)}; or --model smollm2"


def _of_model(name: str, trust_remote_code: bool) -> Player:
    from nbadapt import heads, model_names, pretrained

    ref = model_names.resolve(name, trust_remote_code=trust_remote_code)
    if ref.kind != "endpoint":
        heads.check(ref, pretrained.read_config(ref), "causal")
    return _bare(name, ref, lambda: load(ref))


def _bare(name: str, ref: ModelRef, open_model: Callable[[], Adapted]) -> Player:
    return Player(f"model {ref.path}", _short(name), "the model as it is", "generate", ref.path, open_model)


def _short(name: str) -> str:
    """A model's name, of a folder its last part."""
    return Path(name).name if Path(name).is_dir() else name


def _of_run(name: str, run: Run) -> list[Player]:
    """The model that a run was made from, and the run; of a classifier, which its base is not, the run alone.

    Raises:
        RequestError: the run has no model yet, or one that neither writes text nor tells classes.
    """
    from nbadapt import models, registry

    if run.alive or run.outcome is None or (run.verb == "finetune" and not run.outcome.artifacts):
        raise RequestError(f"the run {name} ({run.id}) is {run.state} and has no model yet: wait for it or resume it")
    job = run.job()
    base = models.base_ref(job.model)
    about = f"{job.method} on {_short(base.name)}"
    classifies = job.task == "classification"
    if run.verb == "finetune" and not classifies and registry.load(run.method).head(job.task) != "causal":
        raise RequestError(
            f"the run {name} ({run.id}) neither writes text nor tells classes, as {job.method} does not: "
            "play with a language model or a classifier"
        )
    player = Player(run.id, name, about, "classify" if classifies else "generate", base.path, run.adapted)
    if classifies:
        return [player]
    return [_bare(base.name, base, lambda: _base_of(run, base)), player]


def _base_of(run: Run, base: ModelRef) -> Adapted:
    """The model that a run was made from, which reads prompts as the run's does."""
    from nbadapt import models
    from nbadapt.capture import quiet_libraries
    from nbadapt.engines.generate import LanguageModel

    if base.kind == "endpoint":
        return load(base)
    job, adapted = run.job(), run.adapted()
    with quiet_libraries():
        model, tokenizer = models.load(base, job.device, job.dtype)
    if isinstance(adapted, LanguageModel):
        tokenizer = adapted.tokenizer  # one that was finetuned on openings makes no messages of them
    return LanguageModel(model, tokenizer)
