"""Finetuning, prompting and comparing methods."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from nbadapt.cells import brief, kind
from nbadapt.errors import RequestError
from nbadapt.options import COLUMNS
from nbadapt.request import Request

if TYPE_CHECKING:
    from nbadapt.method import Task, Verb
    from nbadapt.plan import Plan
    from nbadapt.run import Run
    from nbadapt.selection.comparison import ComparisonPlan, MethodComparison


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
        model=path_as_text(model),
        data=path_as_text(data),
        evaluation=path_as_text(eval),
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
        model=path_as_text(model),
        data=path_as_text(data),
        examples=path_as_text(examples),
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
    full_ranking: bool = ...,
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
    full_ranking: bool = ...,
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
    full_ranking: bool = False,
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
        full_ranking: train every candidate on all rows, so that all are ranked; else the weaker ones of a method are
            dropped on fewer, by successive halving.
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

    if not isinstance(full_ranking, bool):
        raise RequestError(f"full_ranking is {brief(full_ranking)}, {kind(full_ranking)}: give True or False")
    return working.compare(
        asking.Asked(
            blocks=specs.read(candidates),
            model=path_as_text(model),
            data=path_as_text(data),
            test=path_as_text(test),
            sources=_sources(model=model, data=data, test=None if isinstance(test, float) else test),
            task=task,
            columns=_copied(columns),
            budget=asking.budget(budget),
            search=search,
            seeds=seeds,
            full_ranking=full_ranking,
            metric=metric,
            seed=seed,
            device=device,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            dry_run=dry_run,
        )
    )


def path_as_text(given: Any) -> Any:
    """A path as a text; whatever else stays."""
    return os.fspath(given) if isinstance(given, os.PathLike) else given


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
