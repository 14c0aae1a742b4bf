"""What adapting works with: indexes of documents, preferences of people, answers side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbadapt.api.adapting import path_as_text
from nbadapt.errors import NbadaptError, RequestError

if TYPE_CHECKING:
    from nbadapt.indexing.index import Index
    from nbadapt.indexing.update import Progress
    from nbadapt.playing.play import Played
    from nbadapt.preferences import Preferences
    from nbadapt.run import Run
    from nbadapt.tables import Table


def index(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    *,
    name: str,
    model: str | None = None,
    size: int | None = None,
    overlap: int | None = None,
    metadata: Mapping[str, str] | None = None,
    depth: int = 0,
    pages: int = 100,
    allow_hosts: Sequence[str] = (),
    store: str = "",
    dsn: str = "",
    progress: Callable[[Progress], None] | None = None,
) -> Index:
    """Build an index of documents or bring it up to date, as ``%nbadapt index`` does; without paths, open it.

    Args:
        paths: files, folders, patterns such as ``notes/**/*.md``, and URLs.
        name: what the index is called; it lies beside the runs.
        model: the embedding model; None for that of the index, or minilm.
        size: most tokens of a chunk; None for that of the index, or 200.
        overlap: most tokens that two chunks share; None for that of the index, or 40.
        metadata: kept with each of these documents, for filters.
        depth: how many links are followed from a URL on, within its host; 0 takes its page alone.
        pages: most pages from a URL on.
        allow_hosts: hosts of URLs whose address may be on this machine or the local network.
        store: the kind of store of a new index; empty for the default one, a file of SQLite.
        dsn: the server of a new index, for a store that has one; without a password.
        progress: told of every file.

    Returns:
        The index: `search` asks it, `report` says what was done. An interrupt ends the work with ``report.stopped``.

    Raises:
        NbadaptError: a name, a model or a setting is wrong, or the index cannot be written.
    """
    from nbadapt import runner
    from nbadapt.indexing.index import Index
    from nbadapt.indexing.web import Reach

    if not isinstance(name, str):
        raise RequestError(f"the name of the index is {name!r:.40}: give a text, such as 'manuals'")
    named = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    for path in named:
        if not isinstance(path, str | os.PathLike):
            raise RequestError(f"{path!r:.40} is no path: give files, folders, patterns or URLs as texts")
    for what, count, least in (("depth", depth, 0), ("pages", pages, 1)):
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise RequestError(f"{what} is {count!r}: give a whole number from {least} on")
    if not named:
        return Index.open(name)
    busy = runner.current()
    if busy is not None:
        raise RequestError(f"the run {busy.id} is at work: wait for it, or stop it with  %nbadapt stop")
    for key, value in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise RequestError(f"metadata holds {key!r}: {value!r:.40}: give texts, as metadata={{'language': 'en'}}")
    found = Index.make(name, model=model, size=size, overlap=overlap, kind=store, dsn=dsn)
    found.update(
        [os.fspath(path) for path in named],
        metadata=metadata,
        reach=Reach(depth, pages, [allow_hosts] if isinstance(allow_hosts, str) else tuple(allow_hosts)),
        progress=progress or (lambda _: None),
    )
    return found


def indexes() -> Table[Index]:
    """All indexes beside the runs."""
    from nbadapt.indexing import index
    from nbadapt.tables import Table

    opened: list[Index] = []
    counts: dict[str, tuple[int, int]] = {}
    notes = []
    for name in index.names():
        try:
            one = index.Index.open(name)
            counts[name] = len(one.store.documents()), len(one)
        except NbadaptError as error:  # a damaged one, or one whose server is down, hides no other
            notes.append(str(error))
        else:
            opened.append(one)
    columns: Mapping[str, Callable[[Index], str]] = {
        "index": lambda one: one.name,
        "documents": lambda one: f"{counts[one.name][0]:,}",
        "chunks": lambda one: f"{counts[one.name][1]:,}",
        "model": lambda one: one.model,
        "path": lambda one: str(one.path),
    }
    return Table(opened, columns, empty=f"There are no indexes in {index.folder()}.", notes=notes)


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
