"""A method form: what was typed into it, what is wrong with that, the cell that it stands for, and what it would cost.

::

    raw values ──> settings, each validated ──> cell text ──> request (parsed from that very text) ──> estimate
                        │ message at the field     │ Insert, Copy          │ Run

Knows nothing of IPython or widgets. What Run does is what the cell does, because the request is read from the cell.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from nbadapt import model_names, origins, registry, request
from nbadapt.errors import DataError, ModelError, NbadaptError, PluginError, RequestError
from nbadapt.forms import cell
from nbadapt.forms.estimator import Estimator, Figures
from nbadapt.forms.fields import FormField, option_fields, setting_fields, value_of
from nbadapt.settings import read

if TYPE_CHECKING:
    from nbadapt.method import Method, Verb
    from nbadapt.request import Request

METHOD, PROMPT, WHOLE = "method", "prompt-text", ""
"""Names of what is no option and no setting: the method, the template, and the form as a whole (for errors)."""

PLACEHOLDERS = {"--model": "MODEL", "--data": "TABLE"}
NAMES = {"finetune": "tuned", "prompt": "answered"}
FIRST_PROMPT = "Write one sentence about bicycles."
_FLAG = re.compile(r"--[a-z][a-z-]*")


@dataclass(frozen=True)
class State:
    """What a form comes to.

    Attributes:
        cell: the equivalent cell; placeholders stand where something is missing. "" while a value is not allowed.
        errors: name of a field -> what is wrong with it; the key "" is what is wrong with the form as a whole.
        figures: None where it cannot be estimated; beside an error where it would not fit into memory.
    """

    cell: str
    errors: Mapping[str, str] = field(default_factory=dict)
    figures: Figures | None = None

    @property
    def ready(self) -> bool:
        """Whether it can run."""
        return not self.errors


class Form:
    """One form.

    Args:
        verb: "finetune" or "prompt".
        method: the method to begin with; None for the first one that is ready.
        namespace: the notebook's variables; looked at again whenever needed.
        before: raw values of an earlier form, to begin with.

    Raises:
        NbadaptError: there is no such method, or none at all.
    """

    def __init__(
        self, verb: Verb, method: str | None, namespace: Mapping[str, Any], before: Mapping[str, str] | None = None
    ) -> None:
        self.verb = verb
        self.namespace = namespace
        self.estimator = Estimator()
        self._last_key: tuple[Any, ...] = ()
        self._last: Request | None = None
        self.raw: MutableMapping[str, str] = dict(before or {})
        self.raw[METHOD] = method or self.raw.get(METHOD) or _first_method(verb)
        self.method: type[Method] = registry.load(self.raw[METHOD], verb)
        self.options = option_fields(verb)
        self.settings: list[FormField] = []
        self._take_method()
        for name, value in self._beginnings().items():
            self.raw.setdefault(name, value)

    def _take_method(self) -> None:
        self.method = registry.load(self.raw[METHOD], self.verb)
        self.settings = setting_fields(self.method)

    def _beginnings(self) -> dict[str, str]:
        """Values that a new form begins with: the newest table, and a model that can do what its columns ask for."""
        from nbadapt.request import column_names

        tables = self.offers("--data", files=False)
        newest = [name for name in self.namespace if name in tables]
        found = {"--as": NAMES[self.verb]}
        columns: list[str] = []
        if newest and self.verb == "finetune":
            found["--data"] = newest[-1]
            columns = column_names(self.namespace[newest[-1]])
        writes = self.verb == "prompt" or (bool(columns) and "label" not in columns)
        known = model_names.generators() if writes else model_names.names()
        if known:
            found["--model"] = known[0]
        if self.verb == "prompt":
            found[PROMPT] = FIRST_PROMPT
        return found

    # ------------------------------------------------------------------ what it shows

    @property
    def fields(self) -> list[FormField]:
        """All fields but the method and the prompt: options first."""
        return [*self.options, *self.settings]

    def value(self, shown: FormField) -> str:
        """The raw value of a field."""
        return self.raw.get(shown.name, shown.default)

    def offers(self, name: str, *, files: bool = True) -> list[str]:
        """The words that a menu offers now: as Tab does after the option."""
        from nbadapt.completion import complete

        before = [f"%{self.verb} {self.raw.get(METHOD, '-')}"]
        before += [
            f"{flag} {self.raw[flag]}" for flag in ("--data", "--examples") if self.raw.get(flag) and flag != name
        ]
        found = complete([" ".join([*before, name, ""])], self.namespace)
        return [word for word in (found[1] if found else []) if files or word in self.namespace]

    # ------------------------------------------------------------------ what is typed

    def set(self, changes: Mapping[str, str]) -> None:
        """Take raw values in; names that no field has are left alone.

        Raises:
            NbadaptError: the method cannot be loaded; everything stays as it was.
        """
        wanted = changes.get(METHOD, self.raw[METHOD])
        if wanted != self.raw[METHOD]:
            registry.load(wanted, self.verb)
            self.raw[METHOD] = wanted
            self._take_method()
        known = {METHOD, PROMPT, *(shown.name for shown in self.fields)}
        for name, value in changes.items():
            if name in known and name != METHOD:
                self.raw[name] = str(value)

    def glance(self) -> State:
        """What can be told without looking anything up or importing anything heavy: no figures."""
        settings, errors = self._validated()
        missing = {flag: words for flag, words in self._missing().items() if not self.raw.get(flag)}
        errors = {**errors, **missing}
        try:
            whole = all(name in missing for name in errors)  # a cell without what was typed would mislead
            return State(self._cell(settings) if whole else "", errors)
        except RequestError as error:
            return State("", {**errors, self._place(error): str(error)})

    def state(self) -> State:
        """What all of it comes to, with what can be estimated at once."""
        self._let_go()
        seen = self.glance()
        if not seen.ready:
            return seen
        text, settings = seen.cell, self._validated()[0]
        try:
            return self.costing(text, self.estimator.quick(self._asked(settings, text)))
        except NbadaptError as error:
            return State(text, {self._place(error): str(error)})
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises is told, and the form stays
            return State(text, {WHOLE: f"{self.method.name} could not be estimated: {origins.told(error)}"})

    @staticmethod
    def costing(text: str, figures: Figures) -> State:
        """A cell and what it costs; what does not fit into memory is an error beside its figures."""
        return State(text, {WHOLE: figures.problem} if figures.problem else {}, figures)

    def _let_go(self) -> None:
        """Keep no table that is not the notebook's any more."""
        there = [self.namespace[word] for word in self._words() if word in self.namespace]
        if any(all(table is not other for other in there) for table in self.estimator.tables):
            self.estimator.forget()
            self._last_key, self._last = (), None

    def _words(self) -> list[str]:
        """The values of the options; some name a variable."""
        return [self.raw.get(shown.name, "") for shown in self.options]

    def request(self, text: str) -> Request:
        """What a cell asks for.

        Raises:
            NbadaptError: whatever is wrong with it.
        """
        head, _, rest = text.partition("\n")
        line = head.removeprefix(f"%%{self.verb}").strip()
        return request.parse(self.verb, line, rest.removesuffix("\n"), self.namespace)

    def _asked(self, settings: Mapping[str, Any], text: str) -> Request:
        """The request of `text`; where nothing but settings changed since the last one, without reading it all."""
        key = (self._cell({}), *(id(self.namespace[word]) for word in self._words() if word in self.namespace))
        if self.verb == "prompt" or key != self._last_key:  # a prompt's variables may be others by now
            self._last_key, self._last = key, self.request(text)
        assert self._last is not None  # set with its key
        return dataclasses.replace(self._last, settings=dict(settings))

    def _missing(self) -> dict[str, str]:
        words = {"--model": "choose a model"}
        if self.verb == "finetune":
            words["--data"] = "choose the rows to train on: a variable that holds a table, or a file"
        return words

    def _cell(self, settings: Mapping[str, Any]) -> str:
        given = {shown.name: self.raw.get(shown.name, "").strip() for shown in self.options}
        for flag in self._missing():
            given[flag] = given[flag] or PLACEHOLDERS[flag]
        return cell.write(self.method, given, settings, self.raw.get(PROMPT, "").rstrip("\n"))

    def _validated(self) -> tuple[dict[str, Any], dict[str, str]]:
        """The settings that differ from their defaults, as JSON has them, and what is wrong with others."""
        given: dict[str, Any] = {}
        errors: dict[str, str] = {}
        for shown in self.settings:
            raw = self.value(shown)
            if raw == shown.default:
                continue
            try:
                given[shown.name] = value_of(shown, raw)
            except RequestError as error:
                errors[shown.name] = str(error)
        try:
            config = read(self.method.Config, given)
        except PluginError as error:
            return given, {**errors, WHOLE: str(error)}
        except ValidationError as failed:
            for detail in failed.errors(include_url=False):
                name = str(detail["loc"][0]) if detail["loc"] else WHOLE
                errors.setdefault(name, _words(detail["msg"]))
            return {name: value for name, value in given.items() if name not in errors}, errors
        dumped = config.model_dump(mode="json")
        fields = self.method.Config.model_fields
        defaults = {name: fields[name].get_default(call_default_factory=True) for name in given}
        return {name: dumped[name] for name in given if getattr(config, name) != defaults[name]}, errors

    def _place(self, error: NbadaptError) -> str:
        """The field that an error is about."""
        flags = {shown.name for shown in self.options}
        if isinstance(error, ModelError):
            return "--model"
        named: str | None = next((flag for flag in _FLAG.findall(str(error).partition(":")[0]) if flag in flags), None)
        if named:
            return named
        for shown in self.settings:
            if f"the setting {shown.name!r}" in str(error):
                return shown.name
        if isinstance(error, DataError):
            return "--data"
        head = str(error).partition(":")[0]
        if self.verb == "prompt" and ("prompt" in head or "{{" in head):
            return PROMPT
        advised = flags.intersection(_FLAG.findall(str(error)))
        if len(advised) == 1:  # such as "few-shot needs demonstrations: add --examples"
            return advised.pop()
        return WHOLE


def _words(message: str) -> str:
    """Pydantic's message without what it says of how it was raised."""
    return message.removeprefix("Value error, ").removeprefix("Assertion failed, ")


def _first_method(verb: Verb) -> str:
    """The first method that is ready to run.

    Raises:
        RequestError: no method of this magic is installed.
    """
    found = registry.methods(verb)
    ready = [method for method in found if not registry.missing_requirements(method)]
    if not found:
        raise RequestError(f"no %%{verb} method is installed")
    return (ready or found)[0].name


def groups(verb: Verb) -> list[tuple[str, list[type[Method]]]]:
    """The methods of a magic by family; families and methods in the order of their names."""
    families: dict[str, list[type[Method]]] = {}
    for method in registry.methods(verb):
        families.setdefault(method.menu_group(), []).append(method)
    return sorted(families.items())
