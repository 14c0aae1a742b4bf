"""Settings that name a run or a function of the notebook, such as one that judges answers.

A method declares such a text setting with ``Field("", json_schema_extra=RUN_OR_FUNCTION)``. Of a run the setting keeps
the id, so that it is stored like any other; of a function it keeps the name, and the function itself goes to
`nbadapt.method.Job.functions`. No function is ever stored: to resume in another kernel it must be there again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeGuard

from nbadapt.cells import brief
from nbadapt.errors import RequestError
from nbadapt.options import setting_flag

if TYPE_CHECKING:
    from nbadapt.method import Method

_KEY = "names"
RUN_OR_FUNCTION: dict[str, Any] = {_KEY: "run or function"}
"""``json_schema_extra`` of a setting that names a run or a function of the notebook."""

NO_VARIABLES: Mapping[str, Any] = MappingProxyType({})


def settings_of(method: type[Method]) -> list[str]:
    """The settings of a method that name a run or a function."""
    fields = method.Config.model_fields.items()
    return [name for name, f in fields if isinstance(f.json_schema_extra, dict) and _KEY in f.json_schema_extra]


def resolve(
    method: type[Method], settings: Mapping[str, Any], namespace: Mapping[str, Any] = NO_VARIABLES
) -> tuple[dict[str, Any], dict[str, Callable[..., Any]]]:
    """The settings with texts in the place of runs and functions, and the functions by setting.

    Args:
        method: whose settings they are.
        settings: a run or a function itself, or the name of a variable that holds one; other texts stay.
        namespace: the notebook's variables.

    Raises:
        RequestError: the variable holds something else.
    """
    from nbadapt import store
    from nbadapt.run import Run

    found, functions = dict(settings), dict[str, Callable[..., Any]]()
    for name in settings_of(method):
        given = found.get(name)
        value = namespace.get(given, given) if isinstance(given, str) else given
        if isinstance(value, Run):
            here = value.directory.parent == store.root()
            found[name] = value.id if here else str(value.directory)
        elif _is_function(value):
            functions[name] = value
            found[name] = given if isinstance(given, str) else _name_of(value, name)
        elif isinstance(value, str):
            found[name] = value
        elif isinstance(given, str):
            raise RequestError(
                f"{setting_flag(name)} {given}: that variable holds {brief(value)}: give a run or a function"
            )
    return found, functions


def again(method: type[Method], settings: Mapping[str, Any], namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The functions that stored settings name, as far as the notebook has them."""
    named = {name: settings.get(name) for name in settings_of(method)}
    return {
        name: namespace[word]
        for name, word in named.items()
        if isinstance(word, str) and _is_function(namespace.get(word))
    }


def _is_function(value: Any) -> TypeGuard[Callable[..., Any]]:
    return callable(value) and not isinstance(value, type)


def _name_of(function: Any, otherwise: str) -> str:
    own = getattr(function, "__name__", "")
    return own if isinstance(own, str) and own.isidentifier() else otherwise  # a lambda is called <lambda>
