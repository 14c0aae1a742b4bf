"""The magics as Python functions, for scripts and for front ends without magics. They raise NbadaptError."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from nbadapt.errors import NbadaptError, RequestError
from nbadapt.options import COLUMNS
from nbadapt.request import Request

if TYPE_CHECKING:
    from nbadapt.answer_cache import Size
    from nbadapt.comparing.comparison import Comparison
    from nbadapt.diagnosis.report import Diagnosis
    from nbadapt.indexing.index import Index
    from nbadapt.indexing.update import Progress
    from nbadapt.manual import MethodInfo
    from nbadapt.method import Task, Verb
    from nbadapt.plan import Plan
    from nbadapt.playing.play import Played
    from nbadapt.preferences import Preferences
    from nbadapt.run import Run
    from nbadapt.selection.comparison import ComparisonPlan, MethodComparison
    from nbadapt.tables import Page, Table
    from nbadapt.testing.kit import Report


@overload
def finetune(
    method: str,
    *,
    model: str | os.PathLike[str],
    data: Any,
    eval: Any = ...,
    task: Task | None = ...,
    columns: Mapping[str, str] | None = ...,
    split: float = ...,
    seed: int = ...,
    device: str | None = ...,
    dtype: str | None = ...,
    trust_remote_code: bool = ...,
    dry_run: Literal[False] = ...,
    timed: bool = ...,
    background: bool = ...,
    **settings: Any,
) -> Run: ...


@overload
def finetune(
    method: str,
    *,
    model: str | os.PathLike[str],
    data: Any,
    eval: Any = ...,
    task: Task | None = ...,
    columns: Mapping[str, str] | None = ...,
    split: float = ...,
    seed: int = ...,
    device: str | None = ...,
    dtype: str | None = ...,
    trust_remote_code: bool = ...,
    dry_run: Literal[True],
    timed: bool = ...,
    background: bool = ...,
    **settings: Any,
) -> Plan: ...


def finetune(
    method: str,
    *,
    model: str | os.PathLike[str],
    data: Any,
    eval: Any = None,  # noqa: A002 - the word of the magic's option
    task: Task | None = None,
    columns: Mapping[str, str] | None = None,
    split: float = 0.1,
    seed: int = 0,
    device: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
    dry_run: bool = False,
    timed: bool = False,
    background: bool = False,
    **settings: Any,
) -> Run | Plan:
    """Finetune a model on a table, as ``%%finetune`` does.

    Args:
        method: the method's name, such as "lora"; `nbadapt.methods()` lists them.
        model: a name, a folder or a hub id.
        data: the rows: a DataFrame, a Dataset, a list of dicts, a file or a hub data set.
        eval: held-out rows, in the same forms; None: split off from the data.
        task: None to infer it from the columns.
        columns: the task's column name -> your column name, such as {"text": "review"}.
        split: share of the rows that is held out without `eval`.
        seed: decides every random choice.
        device: None for the best one there is.
        dtype: type of the base weights; None for the fastest one.
        trust_remote_code: whether code that comes with the model may run.
        dry_run: only estimate the cost.
        timed: with `dry_run`: load the model and time a few steps, for the `seconds` of the estimate.
        background: return at once, where a front end shows the dashboard.
        **settings: the method's own settings; `nbadapt.help(method)` lists them.

    Returns:
        The finished Run; for a dry run its Plan.

    Raises:
        NbadaptError: something is wrong with the request, or the run failed.
    """
    from nbadapt import runner

    request = Request(
        verb="finetune",
        method=method,
        model=_model(model),
        data=_table(data),
        evaluation=_table(eval),
        sources=_sources(model=model, data=data, evaluation=eval),
        task=task,
        columns=_copied(columns),
        split=split,
        **_settings(method, "finetune", settings),
        seed=seed,
        dry_run=dry_run,
        timed=timed,
        background=background,
        device=device,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
    )
    return runner.submit(request)


@overload
def prompt(
    method: str,
    template: str = ...,
    *,
    model: str | os.PathLike[str] | Run,
    data: Any = ...,
    examples: Any = ...,
    labels: Sequence[str] = ...,
    metric: Callable[[list[str], list[str]], Any] | None = ...,
    variables: Mapping[str, Any] | None = ...,
    columns: Mapping[str, str] | None = ...,
    seed: int = ...,
    device: str | None = ...,
    dtype: str | None = ...,
    trust_remote_code: bool = ...,
    base_url: str | None = ...,
    api_key_env: str | None = ...,
    dry_run: Literal[False] = ...,
    timed: bool = ...,
    background: bool = ...,
    **settings: Any,
) -> Run: ...


@overload
def prompt(
    method: str,
    template: str = ...,
    *,
    model: str | os.PathLike[str] | Run,
    data: Any = ...,
    examples: Any = ...,
    labels: Sequence[str] = ...,
    metric: Callable[[list[str], list[str]], Any] | None = ...,
    variables: Mapping[str, Any] | None = ...,
    columns: Mapping[str, str] | None = ...,
    seed: int = ...,
    device: str | None = ...,
    dtype: str | None = ...,
    trust_remote_code: bool = ...,
    base_url: str | None = ...,
    api_key_env: str | None = ...,
    dry_run: Literal[True],
    timed: bool = ...,
    background: bool = ...,
    **settings: Any,
) -> Plan: ...


def prompt(
    method: str,
    template: str = "",
    *,
    model: str | os.PathLike[str] | Run,
    data: Any = None,
    examples: Any = None,
    labels: Sequence[str] = (),
    metric: Callable[[list[str], list[str]], Any] | None = None,
    variables: Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
    device: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
    base_url: str | None = None,
    api_key_env: str | None = None,
    dry_run: bool = False,
    timed: bool = False,
    background: bool = False,
    **settings: Any,
) -> Run | Plan:
    """Prompt a model, once or over every row of a table, as ``%%prompt`` does.

    Args:
        method: the method's name, such as "few-shot".
        template: the prompt; ``{{name}}`` stands for a variable or a column.
        model: a name, a folder, a hub id, "prefix:name" of an endpoint, or a finetuned Run.
        data: rows to prompt over; with labels they give metrics.
        examples: demonstrations for in-context methods.
        labels: the classes to choose from; empty: those of the data.
        metric: a figure of your own: a function of the answers and of the expected ones, two lists of texts, that
            gives a number, or a list of one number a row.
        variables: values of the template's placeholders.
        columns: the task's column name -> your column name.
        seed: decides every random choice.
        device: None for the best one there is.
        dtype: type of the weights; None for the fastest one.
        trust_remote_code: whether code that comes with the model may run.
        base_url: where the endpoint is; None for its provider's own address.
        api_key_env: the environment variable that holds its key; None for the provider's usual one.
        dry_run: only estimate the cost.
        timed: with `dry_run`: load the model and time a few steps, for the `seconds` of the estimate.
        background: return at once, where a front end shows the dashboard.
        **settings: the method's own settings; `nbadapt.help(method)` lists them.

    Returns:
        The finished Run; for a dry run its Plan.

    Raises:
        NbadaptError: something is wrong with the request, or the run failed.
    """
    from nbadapt import runner

    request = Request(
        verb="prompt",
        method=method,
        model=_model(model),
        data=_table(data),
        examples=_table(examples),
        sources=_sources(model=model, data=data, examples=examples, metric=metric),
        columns=_copied(columns),
        labels=_listed(labels),
        metric=metric,
        prompt=template,
        variables=_copied(variables),
        **_settings(method, "prompt", settings),
        seed=seed,
        dry_run=dry_run,
        timed=timed,
        background=background,
        device=device,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        base_url=base_url,
        key_env=api_key_env,
    )
    return runner.submit(request)


@overload
def compare(
    candidates: str | Mapping[str, Any] | None = ...,
    *,
    model: str | os.PathLike[str],
    data: Any,
    test: Any = ...,
    task: Task | None = ...,
    columns: Mapping[str, str] | None = ...,
    budget: str | float | None = ...,
    search: int | None = ...,
    seeds: int = ...,
    metric: str | None = ...,
    seed: int = ...,
    device: str | None = ...,
    dtype: str | None = ...,
    trust_remote_code: bool = ...,
    dry_run: Literal[False] = ...,
) -> MethodComparison: ...


@overload
def compare(
    candidates: str | Mapping[str, Any] | None = ...,
    *,
    model: str | os.PathLike[str],
    data: Any,
    test: Any = ...,
    task: Task | None = ...,
    columns: Mapping[str, str] | None = ...,
    budget: str | float | None = ...,
    search: int | None = ...,
    seeds: int = ...,
    metric: str | None = ...,
    seed: int = ...,
    device: str | None = ...,
    dtype: str | None = ...,
    trust_remote_code: bool = ...,
    dry_run: Literal[True],
) -> ComparisonPlan: ...


def compare(
    candidates: str | Mapping[str, Any] | None = None,
    *,
    model: str | os.PathLike[str],
    data: Any,
    test: Any = 0.2,
    task: Task | None = None,
    columns: Mapping[str, str] | None = None,
    budget: str | float | None = None,
    search: int | None = None,
    seeds: int = 1,
    metric: str | None = None,
    seed: int = 0,
    device: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
    dry_run: bool = False,
) -> MethodComparison | ComparisonPlan:
    """Compare methods, settings and models on the same rows, as ``%%compare`` does.

    Args:
        candidates: method -> None, or its settings, in which lists span a grid, with ``model`` and ``prompt`` of its
            own; or a list of those. Also as the YAML of the cell. None for one method of each family.
        model: a name, a folder or a hub id, for those without one of their own.
        data: the rows, with the columns text and label, or prompt and completion.
        test: a share of the rows, or a table: locked up until the end, looked at once.
        task: None to infer it from the columns.
        columns: the task's column name -> your column name.
        budget: "10m", "2GB", both with a comma, or a number of seconds; None for no limit.
        search: how many candidates are drawn of the grid.
        seeds: how often the last candidates are trained; their figures are means.
        metric: "accuracy" or "macro_f1", "bits_per_byte" or "exact_match"; None for the first of the task.
        seed: decides every random choice.
        device: None for the best one there is.
        dtype: type of the base weights; None for the fastest one.
        trust_remote_code: whether code that comes with a model may run.
        dry_run: only estimate the costs.

    Returns:
        Shown, it is the answer; `best` is a Run, `frame()` the table, `report("page.html")` a page. What is done is
        kept, and the same call goes on from there. For a dry run its plan.

    Raises:
        NbadaptError: something is wrong with what was asked, or the comparison broke off.
    """
    from nbadapt.selection import asked as asking
    from nbadapt.selection import specs, working

    return working.compare(
        asking.Asked(
            blocks=specs.read(candidates),
            model=_model(model),
            data=_table(data),
            test=_table(test),
            sources=_sources(model=model, data=data, test=None if isinstance(test, float) else test),
            task=task,
            columns=_copied(columns),
            budget=asking.budget(budget),
            search=search,
            seeds=seeds,
            metric=metric,
            seed=seed,
            device=device,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            dry_run=dry_run,
        )
    )


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
        runs: finetuned runs or their ids; None is the model that they were finetuned from, as it is.
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
        models=[_model(model) for model in listed],
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


def _model(model: Any) -> Any:
    return os.fspath(model) if isinstance(model, os.PathLike) else model


def _table(table: Any) -> Any:
    return os.fspath(table) if isinstance(table, os.PathLike) else table


def _copied(given: Any) -> Any:
    """A dict of what was given; what is no mapping stays, for `Request` to refuse."""
    if given is None:
        return {}
    return dict(given) if isinstance(given, Mapping) else given


def _listed(given: Any) -> Any:
    """A tuple of what was given; a text stays one, for `Request` to refuse."""
    if given is None:
        return ()
    return tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else given


def _sources(**given: Any) -> dict[str, str]:
    """What messages call the model and each table: its name or file, a run's id, or the parameter."""
    from nbadapt.run import Run

    def called(name: str, value: Any) -> str:
        if isinstance(value, Run):
            return value.id
        if name == "metric":
            own = getattr(value, "__name__", "")
            return own if own.isidentifier() else name  # a lambda is called <lambda>
        return str(value) if isinstance(value, str | os.PathLike) else name

    return {name: called(name, value) for name, value in given.items() if value is not None}


def _settings(method: str, verb: Verb, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, after a look for column names among them, and the functions that are among them.

    Raises:
        RequestError: a column is renamed as in the magic's options, or the method is no name.
    """
    from nbadapt import named, registry

    if not isinstance(method, str):
        raise RequestError(f"the method is {method!r:.40}: give its name, which nbadapt.methods() lists")
    loaded = registry.load(method, verb)
    known = loaded.Config.model_fields
    if "prompt" in settings and verb == "prompt" and "prompt" not in known:
        raise RequestError(f'the prompt comes after the method: nbadapt.prompt("{method}", {settings["prompt"]!r:.40})')
    for name, value in settings.items():
        if name in COLUMNS and name not in known:
            raise RequestError(f"{name}={value!r} is no setting of {method}: write columns={{{name!r}: {value!r}}}")
    texts, functions = named.resolve(loaded, settings)
    return {"settings": texts, "functions": functions}


# ------------------------------------------------------------------------------------------------ looking things up


def methods() -> Table[MethodInfo]:
    """Every installed method: what it does, its tasks, where it comes from, whether it is ready."""
    from nbadapt import manual

    return manual.method_table()


def help(method: str) -> Page:  # noqa: A001 - nbadapt.help reads as what it does
    """What one method does, its settings and an example cell.

    Raises:
        NbadaptError: there is no such method, or its plugin is broken.
    """
    from nbadapt import manual

    return manual.method_page(method)


def check(name: str) -> Report:
    """Whether what is installed under a name keeps the contract of plugins: every rule, on tiny models.

    Args:
        name: of a method, a store of indexes, a provider or a packaged model.

    Raises:
        NbadaptError: there is no such thing, it is broken, or a run is at work here.
    """
    from nbadapt.testing import command

    return command.run(name)


def new_plugin(name: str, parent: str | Path | None = None) -> Page:
    """Write a plugin to begin with: the folder ``nbadapt-NAME``, which installs and works as it is.

    Args:
        name: the word that is to come after the magic.
        parent: the folder to write it into; None for the current one.

    Raises:
        RequestError: the name cannot be used, or the folder is there.
    """
    from nbadapt import scaffold

    return scaffold.create(name, None if parent is None else Path(parent))


def runs(search: str = "", sort: str = "") -> Table[Run]:
    """All runs, newest first; index the table to get a Run. In a notebook it sorts, filters and compares.

    Args:
        search: words that a run's id, name, method, model, data, state, note or tags must hold, in any order; with a
            dash in front, must not hold.
        sort: a column of the table, or a metric, the best first; with a dash in front the other way round.

    Raises:
        RequestError: there is no such column.
    """
    from nbadapt.comparing.table import RunsTable

    return RunsTable(search, sort)


def compare_runs(runs: Sequence[str | Run], *, everything: bool = False) -> Comparison:
    """Runs beside each other: what differs, their curves in one figure, quality against cost.

    Args:
        runs: 2 to 12 runs or their ids.
        everything: also what all of them share.

    Returns:
        Shown, it is the figure and the table; `frame()` is the table, `figure()` the drawing.

    Raises:
        NbadaptError: a run is unknown, or they are too few or too many.
    """
    from nbadapt.comparing.comparison import Comparison

    named = [runs] if isinstance(runs, str) or not isinstance(runs, Iterable) else runs
    return Comparison([show(run) for run in named], everything=everything)


def delete(runs: str | Run | Sequence[str | Run], *, yes: bool = False) -> Page:
    """Remove runs from the disk, for good; without `yes` only say what would go.

    The rows of their data stay: other runs may use the same.

    Args:
        runs: a run or several, or their ids.
        yes: really remove them.

    Raises:
        NbadaptError: a run is unknown, or at work; then none is removed.
    """
    from nbadapt.comparing import deletion
    from nbadapt.run import Run
    from nbadapt.tables import Code, Page

    chosen = [show(run) for run in ([runs] if isinstance(runs, str | Run) else runs)]
    chosen = list(dict.fromkeys(chosen))
    if not chosen:
        raise RequestError("no run given to delete: name one or more")
    question = deletion.delete(chosen) if yes else deletion.ask(chosen)
    title = "Deleted." if yes else "Nothing was deleted yet."
    again = () if yes else (f"To delete: %nbadapt delete {' '.join(run.id for run in chosen)} --yes",)
    return Page(title, Code(str(question)), *again)


def show(run: str | Run) -> Run:
    """A stored run, by its id or the beginning of its id.

    Raises:
        StoreError: no such run, or several.
    """
    from nbadapt import store

    return store.open(run) if isinstance(run, str) else run


def resume(run: str | Run, functions: Mapping[str, Callable[..., Any]] | None = None) -> Run:
    """Go on with a run that was paused, or that was stopped or killed: from its last checkpoint.

    Args:
        run: the run or its id.
        functions: the functions that its settings name, by setting; needed in a kernel that did not start the run.

    Raises:
        NbadaptError: there is nothing to go on with, or it fails again.
    """
    found = show(run)
    if functions:
        found.functions = {**found.functions, **functions}
    return found.resume()


def stop(run: str | Run | None = None, *, at_epoch_end: bool = False) -> Run:
    """Stop a run that works in the background after its next step; what it did so far is kept.

    Args:
        run: the run; None for the one that this kernel works on.
        at_epoch_end: stop it when its epoch ends.

    Raises:
        NbadaptError: it is not at work in this kernel.
    """
    chosen = at_work(run)
    chosen.stop(at_epoch_end=at_epoch_end)
    return chosen


def at_work(run: str | Run | None = None) -> Run:
    """A run, or the one that this kernel works on.

    Raises:
        NbadaptError: there is none.
    """
    from nbadapt import runner

    chosen = runner.current() if run is None else show(run)
    if chosen is None:
        raise RequestError("no run is at work in this kernel: %nbadapt runs lists what there is")
    return chosen


def doctor(*, full: bool = False) -> Diagnosis:
    """What is installed and set up here, what is wrong with it, and how each thing is mended.

    Args:
        full: import torch, where it is not imported yet, to look at the GPU and the fastest type of weights.

    Returns:
        The report: shown as a table, ``print`` gives text for a bug report; it holds no secrets.
    """
    from nbadapt.diagnosis.examine import examine

    return examine(full=full)


def free() -> int:
    """Forget the loaded models, and return how many bytes they held.

    Runs stay usable: their models are loaded again when they are next asked for something.

    Raises:
        RequestError: a run is at work with them.
    """
    from nbadapt import models, runner
    from nbadapt.run import Run

    busy = runner.current()
    if busy is not None:
        raise RequestError(f"the run {busy.id} is at work: stop it first, with  %nbadapt stop")
    for run in Run.known():
        run.forget()
    if "nbadapt.indexing.index" in sys.modules:
        sys.modules["nbadapt.indexing.index"].close_all()
    gc.collect()
    return models.free()


def cache() -> Size:
    """How many answers to prompts are kept on disk, so that the same is not asked twice; where, and how large it is.

    Raises:
        StoreError: the file cannot be read.
    """
    from nbadapt import answer_cache

    return answer_cache.size()


def clear_cache() -> int:
    """Forget all answers that are kept, and return how many there were.

    Raises:
        StoreError: the file cannot be written.
    """
    from nbadapt import answer_cache

    return answer_cache.clear()
