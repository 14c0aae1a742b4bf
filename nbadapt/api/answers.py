"""Answers of several models: asked for at once, ranked by a person, side by side in the playground."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from nbadapt.api.adapting import path_as_text
from nbadapt.errors import RequestError

if TYPE_CHECKING:
    from nbadapt.playing.play import Played
    from nbadapt.preferences import Preferences
    from nbadapt.run import Run


def generate(
    prompts: str | Sequence[str],
    runs: Sequence[Run | str | None],
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> list[str]:
    """Ask several runs at once; where their methods can, one batch holds prompts for all of them.

    The answers are those of ``run.generate`` with each run's own prompts, to within rounding: where two tokens are
    as good as equally probable, bfloat16 weights may choose the other one in another batch.

    Args:
        prompts: one for each of the runs, or one that all of them are asked.
        runs: finetuned runs or their ids; None is the model that they were finetuned from, as it is:
            in its own type also beside runs of QLoRA.
        max_new_tokens: the longest answer, in tokens.
        temperature: 0 takes the most probable token each time.
        top_p: share of the probability that sampling keeps, 0 to 1.
        seed: decides the sampling.

    Returns:
        One answer for each prompt, in their order.

    Raises:
        NbadaptError: a run that is unknown, unfinished or no generator, or a setting out of its bounds.
    """
    from nbadapt import mixing

    return mixing.generate(
        prompts, runs, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed
    )


def rank(
    models: str | os.PathLike[str] | Run | Sequence[str | os.PathLike[str] | Run] = (),
    prompts: Any = None,
    *,
    name: str = "prefs",
    file: str | os.PathLike[str] | None = None,
    rater: str | Callable[[str, list[str]], int | None] = "me",
    rater_name: str | None = None,
    again: bool = False,
    answers: int | None = None,
    temperature: float = 0.7,
    top_p: float = 1.0,
    max_new_tokens: int = 128,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> Preferences:
    """Have a person or a function choose between answers, blind, as ``%nbadapt rank`` does.

    A person gets a widget below the cell, and this returns at once; a function is asked at once about all pairs.
    Every choice is on the disk at once, and the same call goes on where it was.

    Args:
        models: who answers the prompts: names, folders or runs; none where the answers are there already.
        prompts: a text, a list of texts, or a table with the column prompt; with answers in the columns that begin with
            "answer", in a column "answers" of lists, or in chosen and rejected. None for the pairs in the file.
        name: of the preferences; they are kept in ``<name>.jsonl`` in the working directory.
        file: another place for that file.
        rater: the name of the person; or a function of a prompt and its answers that gives the index of the best one,
            None for a tie.
        rater_name: what a function is called among the raters; None for its own name.
        again: judge the pairs once more that this rater has judged, in another order, to see how far both agree.
        answers: of each model to each prompt; None for 1, and for 2 of a single model.
        temperature: 0 takes the most probable token each time.
        top_p: share of the probability that sampling keeps, 0 to 1.
        max_new_tokens: the longest answer, in tokens.
        seed: decides the drawing of answers and every order.
        trust_remote_code: whether code that comes with a model may run.

    Returns:
        The preferences: rows of prompt, chosen and rejected, for ``data=``; `report()` tells how far raters agree.

    Raises:
        NbadaptError: something is wrong with what was asked, or there is nobody who could choose.
    """
    from nbadapt.feedback import rank as ranking
    from nbadapt.feedback.supply import Sampling
    from nbadapt.run import Run

    listed = [models] if isinstance(models, str | os.PathLike | Run) else list(models)
    count = (2 if len(listed) == 1 else 1) if answers is None else answers
    own = getattr(rater, "__name__", "function")
    asked = ranking.Asked(
        models=[path_as_text(model) for model in listed],
        model_names=ranking.short_names([model.id if isinstance(model, Run) else str(model) for model in listed]),
        prompts=prompts,
        name=name,
        path=ranking.named(file),
        rater=rater if isinstance(rater, str) else rater_name or (own if own.isidentifier() else "function"),
        function=None if isinstance(rater, str) else rater,
        again=again,
        sampling=Sampling(count, temperature, top_p, max_new_tokens, seed),
        trust_remote_code=trust_remote_code,
    )
    return ranking.rank(asked)[0]


def play(
    runs: str | Run | Sequence[str | Run] = (),
    *,
    model: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    prompt: str = "",
    name: str | None = None,
    file: str | os.PathLike[str] | None = None,
    rater: str = "me",
    trust_remote_code: bool = False,
    **settings: Any,
) -> Played | None:
    """Ask models and what was made of them side by side, as ``%nbadapt play`` does.

    A person gets a widget below the cell, and this returns at once. Without a front end the prompt alone is answered.

    Args:
        runs: runs or their ids; before them stands the model that they were made from.
        model: models as they are: names, folders or hub ids.
        prompt: what is asked at first; "": the person writes it.
        name: preferences are kept in ``<name>.jsonl`` in the working directory; None for prefs.jsonl.
        file: another place for that file.
        rater: who finds an answer better.
        trust_remote_code: whether code that comes with a model may run.
        **settings: greedy, temperature, top_p, seed, max_new_tokens; words: whether classifiers are asked without each
            word in turn.

    Returns:
        The answers; None where a widget shows them, or where there is neither a front end nor a prompt.

    Raises:
        NbadaptError: something is wrong with what was asked, or a run cannot answer.
    """
    from nbadapt.feedback.rank import named
    from nbadapt.playing import players
    from nbadapt.playing import settings as asking
    from nbadapt.playing.play import Asked, Played, file_of
    from nbadapt.playing.play import play as start

    given: Any = model
    several = isinstance(given, Iterable) and not isinstance(given, str | os.PathLike)
    models: list[Any] = list(given) if several else [given]
    for one in models:
        if not isinstance(one, str | os.PathLike):
            kind = type(one).__name__
            raise RequestError(
                f"a model is of type {kind}: give a name, a folder or a hub id; a run goes first, play(run)"
            )
    found = players.players(
        players.of_call(runs), [os.fspath(one) for one in models], trust_remote_code=trust_remote_code
    )
    asked = Asked(found, asking.settings(settings), prompt, file_of(name, named(file)), rater)
    shown, _ = start(asked)
    return shown if isinstance(shown, Played) else None
