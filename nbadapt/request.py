"""A line and a body -> Request. Knows nothing of IPython.

::

    %%finetune METHOD [--option value ...] [--setting value ...]
    setting: value                            the body of finetune is YAML

    %%prompt METHOD [--option value ...] [--setting value ...]
    Text with {{placeholders}}                the body of prompt is the template, kept as it is

The shared options are declared in `nbadapt.options`, the settings in the method's Config.
"""

from __future__ import annotations

import keyword
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from nbadapt.cells import brief, kind
from nbadapt.errors import RequestError, did_you_mean
from nbadapt.options import Option, options, setting_flag

if TYPE_CHECKING:
    from nbadapt.method import Method, Verb

MAX_SEED = 2**32 - 1  # NumPy's limit
HELP = frozenset({"--help", "-h", "-?"})


_TABLES = ("data", "evaluation", "examples")


@dataclass(frozen=True)
class Request:
    """What a cell or a Python call asks for, before anything was looked up or loaded.

    Attributes:
        verb: "finetune" or "prompt".
        method: the word after the magic.
        model: a name, a folder, a hub id, or a Run whose adapted model is prompted.
        data: a table or the name of a file or hub data set; None where there is none.
        evaluation: held-out rows, in the same forms as `data`; None: split off from the data.
        examples: demonstrations for in-context methods, in the same forms as `data`.
        sources: "data", "evaluation", "examples" -> what the user calls it (for messages and the run's record).
        task: None to infer it from the columns.
        columns: the task's column name -> the user's column name, from --text, --label, --prompt, ...
        labels: the classes to choose from, for prompts; empty: those of the data.
        metric: a function of (answers, expected) that gives a figure of the user's own.
        prompt: the template, for prompt methods.
        variables: values for the template's placeholders that are no data columns.
        settings: the method's own settings, not yet validated.
        functions: functions of the notebook, by the setting that names them.
        split: share of the data held out where no evaluation data is given.
        name: the notebook variable that the run is bound to.
        timed: also predict the time of a dry run, from a few steps.
        device: None for the best one there is.
        dtype: None to probe.
        base_url: where a model behind an endpoint is; None for its provider's own address.
        key_env: the environment variable that holds the endpoint's key; None for the provider's.

    Raises:
        RequestError: a value that no method could use.
    """

    verb: Verb
    method: str
    model: Any = None
    data: Any = None
    evaluation: Any = None
    examples: Any = None
    sources: Mapping[str, str] = field(default_factory=dict)
    task: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    metric: Any = None
    prompt: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    functions: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    split: float = 0.1
    name: str | None = None
    dry_run: bool = False
    timed: bool = False
    background: bool = False
    device: str | None = None
    dtype: str | None = None
    trust_remote_code: bool = False
    base_url: str | None = None
    key_env: str | None = None

    def __post_init__(self) -> None:
        _check_types(self)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed <= MAX_SEED:
            raise RequestError(f"the seed is {self.seed!r}: give a whole number from 0 to {MAX_SEED}")
        _check_labels(self.labels)
        if self.timed and not self.dry_run:
            raise RequestError("--timed predicts the time of a dry run: add --dry-run")
        if self.name is not None and (not self.name.isidentifier() or keyword.iskeyword(self.name)):
            raise RequestError(f"--as {self.name!r} is no variable name: use letters, digits and _, such as tuned")
        if self.name is not None and self.name in {self.sources.get(part) for part in _TABLES}:
            raise RequestError(
                f"--as {self.name} would put the run in the place of the table {self.name}: give another name, such as "
                "tuned"
            )


def _check_types(asked: Request) -> None:
    """Refuse what only a Python call can give: a value of another type."""
    share: Any = asked.split
    if isinstance(share, bool) or not isinstance(share, Real):
        raise RequestError(f"split is {share!r}: give a number between 0 and 1, such as 0.1")
    if not isinstance(asked.labels, tuple):
        raise RequestError(f'labels is {brief(asked.labels)}: give a list of texts, as labels=["good", "bad"]')
    for label in asked.labels:
        if not isinstance(label, str):
            raise RequestError(f"labels holds {brief(label)}, {kind(label)}: write it as a text, {str(label)!r:.40}")
    check_columns(asked.columns)
    if not isinstance(asked.variables, Mapping):
        raise RequestError(f'variables is {brief(asked.variables)}: give a dict, as variables={{"name": value}}')
    if asked.metric is not None and not callable(asked.metric):
        raise RequestError(f"metric is {brief(asked.metric)}: give a function of two lists, (answers, expected)")
    for name in ("prompt", "task", "device", "dtype", "base_url", "key_env"):
        value = getattr(asked, name)
        if not isinstance(value, str | None):
            called = "the template" if name == "prompt" else name
            raise RequestError(f"{called} is {brief(value)}, {kind(value)}: give a text")


def check_columns(columns: Any) -> None:
    """Refuse what only a Python call can give: renamed columns that are no dict of texts.

    Raises:
        RequestError: they are not.
    """
    if not isinstance(columns, Mapping):
        raise RequestError(f'columns is {brief(columns)}: give a dict, as columns={{"text": "review"}}')
    for part, column in columns.items():
        if not isinstance(column, str):
            raise RequestError(
                f"columns says {brief(column)} for {part!r}, {kind(column)}: give the column's name as a text, "
                f"{str(column)!r:.40}"
            )


def _check_labels(labels: tuple[str, ...]) -> None:
    if not all(label.strip() for label in labels):
        raise RequestError("--labels holds an empty label: write them as  --labels good,bad")
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        raise RequestError(f"--labels holds {twice[0]!r} twice; keep one")
    if len(labels) == 1:
        raise RequestError(f"--labels holds only {labels[0]!r}: give at least two, as  --labels good,bad")


# ------------------------------------------------------------------------------------------------ words


def words(line: str) -> list[str]:
    """The words of a line; quotes keep spaces together, and a backslash is a backslash (of a Windows path).

    Raises:
        RequestError: a quote is left open.
    """
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters, lexer.escape = True, "", ""
    try:
        return list(lexer)
    except ValueError:
        opened = next((part for part in line.split() if part.count('"') % 2 or part.count("'") % 2), line)
        raise RequestError(f"the quote in {opened} is not closed: add the same quote at its end") from None


def asks_for_help(line: str) -> bool:
    """Whether --help or -h is among the words of a line.

    Raises:
        RequestError: a quote is left open.
    """
    return not HELP.isdisjoint(words(line))


def asks_for_form(line: str) -> bool:
    """Whether a line says no more than a method, if that: then a form asks for the rest.

    Raises:
        RequestError: a quote is left open.
    """
    found = words(line)
    return not found or (len(found) == 1 and not found[0].startswith("-"))


def example(verb: str) -> str:
    """The shortest line that is complete."""
    return f"%%{verb} METHOD --model " + ("minilm --data train_df" if verb == "finetune" else "smollm2")


# ------------------------------------------------------------------------------------------------ parsing


def parse(verb: Verb, line: str, body: str, namespace: Mapping[str, Any]) -> Request:
    """What a cell asks for.

    Args:
        verb: the magic, "finetune" or "prompt".
        line: what follows the magic on its line.
        body: the rest of the cell.
        namespace: the notebook's variables.

    Raises:
        RequestError: a word that is not understood; the message names it, the nearest valid ones and the fix.
        PluginError: the method's plugin is broken.
    """
    from nbadapt import named, registry

    first, *rest = words(line) or [""]
    if not first or first.startswith("-"):
        raise RequestError(f"no method given: it comes first, as in  {example(verb)}  (list: %nbadapt methods)")
    method = registry.load(first, verb)
    parsed = _Line(verb, method, rest)
    fields = parsed.fields
    settings = parsed.settings
    if verb == "finetune":
        settings = _merge(settings, body)
    fields.update(tables(fields, namespace))
    if verb == "prompt":
        fields["prompt"] = body
        fields["variables"] = _variables(body, namespace, has_rows=bool({"data", "examples"} & fields.keys()))
    _check_complete(verb, method, fields)
    settings, functions = named.resolve(method, settings, namespace)
    return Request(
        verb=verb, method=method.name, settings=settings, functions=functions, columns=parsed.columns, **fields
    )


class _Line:
    """The options of a line, read word by word.

    Attributes:
        fields: values of the Request's attributes, as text or converted.
        columns: --text, --label, ...
        settings: --set and the settings written as options.
    """

    def __init__(self, verb: Verb, method: type[Method], rest: list[str]) -> None:
        self.verb, self.method = verb, method
        self.fields: dict[str, Any] = {}
        self.columns: dict[str, str] = {}
        self.settings: dict[str, Any] = {}
        self._known = options(verb)
        self._flags = {setting_flag(name): name for name in method.Config.model_fields}
        self._words = rest
        while self._words:
            self._take(self._words.pop(0))

    def _take(self, word: str) -> None:
        if not word.startswith("--"):
            raise RequestError(f"unexpected {word!r}: what follows the method are options, such as  --data {word}")
        flag, has_value, value = word.partition("=")
        option = self._known.get(flag)
        setting = self._flags.get(flag.replace("_", "-"))
        if option is None and setting is None:
            raise RequestError(self._unknown(flag))
        if option is not None and not option.metavar:
            if has_value:
                raise RequestError(f"{flag} takes no value: write it alone")
            self._put(self.fields, option.field, True, flag)
            return
        if not has_value:
            value = self._value_of(flag, option)
        if option is None:
            assert setting is not None  # else it was unknown
            self._set(setting, value)
        else:
            self._convert(option, value)

    def _value_of(self, flag: str, option: Option | None) -> str:
        metavar = option.metavar if option else "VALUE"
        if not self._words or (self._words[0].startswith("--") and len(self._words[0]) > 2):
            raise RequestError(f"{flag} needs a value: write  {flag} {metavar}")
        return self._words.pop(0)

    def _unknown(self, flag: str) -> str:
        if any(flag in options(other) for other in ("finetune", "prompt")):
            other = "prompt" if self.verb == "finetune" else "finetune"
            return f"{flag} is an option of %%{other}, not of %%{self.verb}: leave it out"
        valid = [*self._known, *self._flags]
        return f"unknown option {flag!r} of {self.method.name}: {did_you_mean(flag, valid, kind='options')}"

    def _convert(self, option: Option, value: str) -> None:
        flag, fields = option.flag, self.fields
        match option.field:
            case "columns":
                self._put(self.columns, flag.removeprefix("--"), value, flag)
            case "settings":
                name, equals, text = value.partition("=")
                if not (name and equals):
                    raise RequestError(f"--set {value!r} has no value: write it as  --set r=16")
                self._set(name.strip().replace("-", "_"), text.strip())
            case "seed":
                self._put(fields, "seed", _number(int, value, flag, f"a whole number from 0 to {MAX_SEED}"), flag)
            case "split":
                self._put(fields, "split", _number(float, value, flag, "a share between 0 and 1, such as 0.1"), flag)
            case "labels":
                self._put(fields, "labels", tuple(part.strip() for part in value.split(",")), flag)
            case other:
                self._put(fields, other, value, flag)

    def _set(self, name: str, text: str) -> None:
        from nbadapt.settings import from_text

        self._put(self.settings, name, from_text(self.method, name, text), f"the setting {name!r}")

    @staticmethod
    def _put(target: dict[str, Any], key: str, value: Any, called: str) -> None:
        if key in target:
            raise RequestError(f"{called} is given twice; keep one")
        target[key] = value


def _number(kind: type[int] | type[float], text: str, flag: str, wanted: str) -> float:
    try:
        return kind(text)
    except ValueError:
        raise RequestError(f"{flag} is {text!r}: give {wanted}") from None


def _merge(settings: Mapping[str, Any], text: str) -> dict[str, Any]:
    """The settings of the line and those of the body."""
    from nbadapt import body

    given = body.parse(text)
    for name in given:
        if name in settings:
            raise RequestError(f"the setting {name!r} is given twice, on the line and in the body; keep one")
    return {**settings, **given}


# ------------------------------------------------------------------------------------------------ variables


def tables(fields: Mapping[str, Any], namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The values of notebook variables in place of their names, and what the user calls them.

    Raises:
        RequestError: a name that stands for nothing.
    """
    found: dict[str, Any] = {}
    named = ("data", "evaluation", "examples", "model", "metric")
    sources = {name: fields[name] for name in named if name in fields}
    for name, word in sources.items():
        if name == "metric":
            found[name] = _function(word, namespace)
        elif name == "model":
            found[name] = model_of(word, namespace)
        elif word.isidentifier() and word in namespace:
            found[name] = namespace[word]
        elif word.isidentifier() and not Path(word).exists():  # a file has a dot, a hub name a slash
            flag = "--eval" if name == "evaluation" else f"--{name}"
            own = [variable for variable, value in namespace.items() if column_names(value)]
            hint = did_you_mean(word, own, kind="tables here")
            raise RequestError(f"{flag} {word}: no notebook variable and no file has this name; {hint}")
    found["sources"] = sources
    return found


def _function(word: str, namespace: Mapping[str, Any]) -> Any:
    """The function that the variable `word` holds."""
    if word in namespace and callable(namespace[word]):
        return namespace[word]
    if word in namespace:
        raise RequestError(f"--metric {word}: that variable holds {brief(namespace[word])}, no function")
    own = [name for name, value in namespace.items() if callable(value) and not name.startswith("_")]
    hint = did_you_mean(word, own, kind="functions here")
    raise RequestError(f"--metric {word}: no variable has this name ({hint}); def {word}(answers, expected): ...")


def column_names(value: Any) -> list[str]:
    """The columns of a value that looks like a table; empty for anything else. Imports no table library."""
    if isinstance(value, type):
        return []
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return [str(name) for name in value[0]]
    if isinstance(value, Mapping):
        return [str(name) for name in value] if all(isinstance(column, list) for column in value.values()) else []
    names = getattr(value, "column_names", getattr(value, "columns", None))  # of datasets; of pandas and polars
    return [str(name) for name in names] if names is not None and hasattr(value, "__len__") else []


def model_of(word: str, namespace: Mapping[str, Any]) -> Any:
    """A Run or the text of the variable `word`; the word itself where there is no such variable."""
    from nbadapt import model_names
    from nbadapt.run import Run

    if not word.isidentifier() or word not in namespace:
        return word
    value = namespace[word]
    if isinstance(value, Run):
        return value
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    if word in model_names.names() or Path(word).is_dir():
        return word  # a variable of another kind that happens to have a model's name
    raise RequestError(
        f"--model {word}: that variable is of type {type(value).__name__}; "
        f"give a run, or a model's name such as {', '.join(model_names.names())}"
    )


def holds_a_value(name: str, value: Any) -> bool:
    """Whether a notebook variable is one that the user made to hold something: no function, module or history."""
    return not (name.startswith("_") or name in {"In", "Out"} or callable(value) or isinstance(value, ModuleType))


def _variables(text: str, namespace: Mapping[str, Any], *, has_rows: bool) -> dict[str, Any]:
    """The notebook variables that the template's placeholders name.

    Raises:
        RequestError: a placeholder names no variable, and there are no rows whose columns it could mean.
    """
    from nbadapt import template

    wanted = template.placeholders(text)
    own = {name: value for name, value in namespace.items() if holds_a_value(name, value)}
    for name in wanted:
        if name not in own and not has_rows:
            close = did_you_mean(name, own, kind="variables") if own else "there are no variables yet"
            raise RequestError(f"{{{{{name}}}}} names no notebook variable ({close}): set it, or give --data")
    return {name: own[name] for name in wanted if name in own}


def _check_complete(verb: Verb, method: type[Method], fields: Mapping[str, Any]) -> None:
    from nbadapt import model_names

    if "model" not in fields:
        known = ", ".join(model_names.names())
        raise RequestError(f"no model given: add --model with a name ({known}), a folder or a hub id")
    if verb == "finetune" and "data" not in fields:
        raise RequestError(
            f"no data for {method.name} to train on: add --data with a notebook variable, a file or a hub data set"
        )
