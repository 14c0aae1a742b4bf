"""Tab completion of the magics: methods, options, settings, values, from the same declarations as everything else."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from nbadapt.method import Method, Verb

IDENTIFIER = "nbadapt.completion"

_MAGIC = re.compile(r"(?:^|=)\s*%{1,2}(finetune|prompt|compare|nbadapt)[ \t](.*)$")
_BODY_NAME = re.compile(r"^(\w*)$")
_BODY_VALUE = re.compile(r"^(\w+):\s*([^\s\[,]*)$")
_BLOCK_START = re.compile(r"^([\w-]*)$")  # the name of a method
_BLOCK_NAME = re.compile(r"^([\w-]+):\s*\{(?:.*,)?\s*(\w*)$")  # lora: {r: 4, lear
_BLOCK_VALUE = re.compile(
    r"^([\w-]+):\s*\{.*?(\w+):\s*(?:\[(?:[^\]]*,)?\s*)?([^\s\[\]{},:]*)$"
)  # few-shot: {model: smo


def add(shell: InteractiveShell) -> None:
    """Let the shell complete our magics; once, however often it is called."""
    remove(shell)
    if shell.Completer is None:
        return

    @context_matcher(identifier=IDENTIFIER)  # type: ignore[untyped-decorator]  # IPython's is a partial
    def matcher(context: CompletionContext) -> SimpleMatcherResult:
        before = context.full_text.split("\n")[: context.cursor_line]
        try:
            found = complete([*before, context.text_until_cursor], shell.user_ns)
        except Exception:  # noqa: BLE001 - such as a broken plugin: Tab has nothing to say about it
            found = None
        if found is None:
            return SimpleMatcherResult(completions=[], suppress=False)
        fragment, words = found
        matches = [SimpleCompletion(text=word, type="nbadapt") for word in words if word.startswith(fragment)]
        return SimpleMatcherResult(completions=matches, suppress=True, matched_fragment=fragment, ordered=True)

    shell.Completer.custom_matchers.append(matcher)


def remove(shell: InteractiveShell) -> None:
    """Take our matcher away, also one of an earlier version of this module."""
    if shell.Completer is not None:
        matchers = shell.Completer.custom_matchers
        matchers[:] = [m for m in matchers if getattr(m, "matcher_identifier", None) != IDENTIFIER]


def complete(lines: list[str], namespace: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """What may be written at the cursor.

    Args:
        lines: the cell up to the cursor.
        namespace: the notebook's variables.

    Returns:
        The fragment before the cursor that is to be replaced, and the words that may stand there (whatever
        they begin with); None where the cursor is not in a magic of ours.
    """
    while len(lines) > 1 and not lines[0].strip():
        lines = lines[1:]
    magic = _MAGIC.search(lines[-1])
    if magic:
        return _in_line(magic[1], magic[2], namespace)
    if lines[0].startswith("%%compare"):
        return _in_blocks(lines[1:], namespace)
    cell = _MAGIC.search(lines[0]) if lines[0].startswith("%%finetune") else None
    return _in_body(cell[2], lines[1:], namespace) if cell else None


def _in_line(magic: str, text: str, namespace: Mapping[str, Any]) -> tuple[str, list[str]]:
    *before, fragment = re.split(r"\s+", text.lstrip())
    if magic == "nbadapt":
        return fragment, _command(before, fragment, namespace)
    if magic == "compare":
        return _comparing(before, fragment, namespace)
    verb: Verb = "finetune" if magic == "finetune" else "prompt"
    if not before:
        return fragment, [m.name for m in _methods(verb)]
    method = next((m for m in _methods(verb) if m.name == before[0]), None)
    flag, equals, value = fragment.partition("=")
    if equals and flag.startswith("--"):
        return value, _values(flag, "", verb, method, before, namespace)
    if before[-1] == "--set" and equals:
        return value, _setting_words(method, flag, namespace)
    return fragment, _values(before[-1], fragment, verb, method, before, namespace)


def _values(
    flag: str, fragment: str, verb: Verb, method: type[Method] | None, before: list[str], namespace: Mapping[str, Any]
) -> list[str]:
    """What may follow `flag`: its values, or further options where it takes none."""
    from nbadapt.files import READERS
    from nbadapt.options import DEVICES, DTYPES, TASKS, options, setting_flag

    known = options(verb)
    option = known.get(flag)
    if option is None and method is not None:
        name = next((name for name in method.Config.model_fields if setting_flag(name) == flag), None)
        if name is not None:
            return _setting_words(method, name, namespace)
    if option is None or not option.metavar:
        settings = [setting_flag(name) for name in _setting_names(method)]
        used = {word.partition("=")[0] for word in before} - {"--set"}
        return [flag for flag in [*known, *settings] if flag not in used]
    match option.values:
        case "model":
            return [*_model_names(verb), *_run_variables(namespace)]
        case "table":
            return [*_table_variables(namespace), *_files(fragment, READERS)]
        case "function":
            return _function_variables(namespace)
        case "column":
            return _columns(before, namespace)
        case "setting":
            return [f"{name}=" for name in _setting_names(method)]
        case "task":
            return list(TASKS)
        case "device":
            return list(DEVICES)
        case "dtype":
            return list(DTYPES)
    return []


def _in_body(line: str, body: list[str], namespace: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """Setting names at the beginning of a line of YAML, values after the colon."""
    name = next(iter(line.split()), "")
    method = next((m for m in _methods("finetune") if m.name == name), None)
    if method is None:
        return None
    *above, current = body
    at_value = _BODY_VALUE.match(current)
    if at_value:
        return at_value[2], _setting_words(method, at_value[1], namespace)
    at_name = _BODY_NAME.match(current)
    if not at_name:
        return None
    used = {line.partition(":")[0].strip() for line in above}
    return at_name[1], [f"{name}: " for name in _setting_names(method) if name not in used]


def _comparing(before: list[str], fragment: str, namespace: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The options of %%compare, and their values."""
    from nbadapt.files import READERS
    from nbadapt.options import DEVICES, DTYPES
    from nbadapt.selection.asked import MEASURES
    from nbadapt.selection.line import OPTIONS
    from nbadapt.selection.parts import TASKS

    flag, equals, value = fragment.partition("=")
    word, fragment = (flag, value) if equals else (before[-1] if before else "", fragment)
    option = OPTIONS.get(word)
    if option is None or not option.metavar:
        return fragment, [flag for flag in OPTIONS if flag not in {used.partition("=")[0] for used in before}]
    found: list[str] = list(
        {"metric": MEASURES, "task": TASKS, "device": DEVICES, "dtype": DTYPES}.get(option.field, ())
    )
    if option.values == "model":
        found = _model_names("finetune")
    elif option.values == "table":
        found = [*_table_variables(namespace), *_files(fragment, READERS)]
    elif option.values == "column":
        found = _columns(before, namespace)
    return fragment, found


def _in_blocks(body: list[str], namespace: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """In the body of %%compare: methods, their settings within braces, and values."""
    from nbadapt.selection.specs import OWN

    *above, current = body
    started = _BLOCK_START.match(current)
    if started:
        used = {line.partition(":")[0].strip() for line in above}
        return started[1], [f"{m.name}: " for m in _methods(None) if m.name not in used]
    named, valued = _BLOCK_NAME.match(current), _BLOCK_VALUE.match(current)
    found = named or valued
    method = next((m for m in _methods(None) if found and m.name == found[1]), None)
    if method is None:
        return None
    if valued and not named:
        words = _model_names(method.verb) if valued[2] == "model" else _setting_words(method, valued[2], namespace)
        return valued[3], words
    assert named is not None  # one of the two was found
    own = [name for name in OWN if name != "prompt" or method.verb == "prompt"]
    return named[2], [f"{name}: " for name in [*_setting_names(method), *own]]


def _command(before: list[str], fragment: str, namespace: Mapping[str, Any]) -> list[str]:
    from nbadapt.commands import AT_EPOCH_END, COMMANDS, INDEX_OPTIONS, RUNS_OPTIONS
    from nbadapt.indexing import store as stores
    from nbadapt.indexing.loaders import LOADERS

    if not before:
        return list(COMMANDS)
    if before[0] == "index" and before[-1] == "--store":
        return stores.names()
    if before[0] == "index":
        return list(INDEX_OPTIONS) if fragment[:1] == "-" else _files(fragment, LOADERS)
    if before[0] == "rank":
        return _ranking(before, fragment, namespace)
    if before[0] == "play":
        return _playing(before, fragment, namespace)
    if before[0] == "runs":
        from nbadapt.comparing.columns import COLUMNS

        return list(COLUMNS) if before[-1] == "--sort" else [flag for flag in RUNS_OPTIONS if flag not in before]
    several = before[0] in {"compare", "delete"}
    if before[0] not in COMMANDS or (len(before) > 1 and not several):
        return []
    if COMMANDS[before[0]].argument.startswith(("RUN ", "RUN...")):
        options = ["--yes"] if fragment[:1] == "-" and before[0] == "delete" else _run_words(namespace)
        return [word for word in options if word not in before]
    if before[0] == "stop" and fragment[:1] == "-":
        return [AT_EPOCH_END]
    if before[0] == "rate":
        return _run_words(namespace) if len(before) == 2 else []
    match COMMANDS[before[0]].argument.split()[0].strip("[]") if COMMANDS[before[0]].argument else "":
        case "METHOD":
            return [m.name for m in _methods(None)]
        case "--full":
            return ["--full"]
        case "NAME":
            from nbadapt.testing import command

            return command.names()
        case "clear":
            return ["clear"]
        case "RUN":
            return _run_words(namespace)
    return []


def _run_words(namespace: Mapping[str, Any]) -> list[str]:
    from nbadapt import store

    return [*_run_variables(namespace), *(run.id for run in store.runs())]


def _ranking(before: list[str], fragment: str, namespace: Mapping[str, Any]) -> list[str]:
    from nbadapt.feedback.line import OPTIONS, holds_prompts
    from nbadapt.files import READERS
    from nbadapt.preferences import Preferences

    match before[-1]:
        case "--model":
            return [*_model_names("prompt"), *_run_variables(namespace)]
        case "--prompts":
            own = _variables(name for name, value in namespace.items() if holds_prompts(name, value))
            return [*own, *_files(fragment, READERS)]
        case "--rater-function":
            return _function_variables(namespace)
        case "--file":
            return _files(fragment, {".jsonl"})
        case "--as" | "rank" if fragment[:1] != "-":
            own = _variables(name for name, value in namespace.items() if isinstance(value, Preferences))
            return own if before[-1] == "--as" else [*OPTIONS, *own]
    option = OPTIONS.get(before[-1])
    if option is not None and option.metavar:
        return []
    return [flag for flag in OPTIONS if flag == "--model" or flag not in before]


def _playing(before: list[str], fragment: str, namespace: Mapping[str, Any]) -> list[str]:
    from nbadapt.playing.line import OPTIONS
    from nbadapt.preferences import Preferences

    match before[-1]:
        case "--model":
            return _model_names("prompt")
        case "--file":
            return _files(fragment, {".jsonl"})
        case "--as":
            return _variables(name for name, value in namespace.items() if isinstance(value, Preferences))
    option = OPTIONS.get(before[-1])
    if option is not None and option.metavar:
        return []
    found = [flag for flag in OPTIONS if flag == "--model" or flag not in before]
    return found if fragment[:1] == "-" else [word for word in _run_words(namespace) if word not in before] + found


# ------------------------------------------------------------------------------------------------ words


def _methods(verb: Verb | None) -> list[type[Method]]:
    from nbadapt import registry

    return registry.methods(verb)


def _setting_names(method: type[Method] | None) -> list[str]:
    from nbadapt.settings import describe

    return [setting.name for setting in describe(method)] if method else []


def _setting_words(method: type[Method] | None, name: str, namespace: Mapping[str, Any]) -> list[str]:
    from nbadapt import named
    from nbadapt.settings import describe

    if method is None:
        return []
    if name in named.settings_of(method):
        return [*_run_variables(namespace), *_function_variables(namespace)]
    return [word for setting in describe(method) if setting.name == name for word in setting.words]


def _model_names(verb: Verb) -> list[str]:
    from nbadapt import endpoints, model_names

    behind = endpoints.prefixes() if verb == "prompt" else []
    return [*model_names.names(), *(f"{prefix}:" for prefix in behind)]


def _run_variables(namespace: Mapping[str, Any]) -> list[str]:
    from nbadapt.run import Run

    return _variables(name for name, value in namespace.items() if isinstance(value, Run))


def _function_variables(namespace: Mapping[str, Any]) -> list[str]:
    return _variables(name for name, value in namespace.items() if inspect.isfunction(value))


def _table_variables(namespace: Mapping[str, Any]) -> list[str]:
    from nbadapt.request import column_names

    return _variables(name for name, value in namespace.items() if column_names(value))


def _variables(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if not name.startswith("_"))


def _columns(before: list[str], namespace: Mapping[str, Any]) -> list[str]:
    """The columns of the table that the line gives with --data or --examples."""
    from nbadapt.request import column_names

    for flag, word in itertools.pairwise(before):
        if flag in {"--data", "--examples"} and word in namespace:
            return column_names(namespace[word])
    return []


def _files(fragment: str, suffixes: Container[str]) -> list[str]:
    """Files of these kinds, and folders that may hold some, below the folder that the fragment names."""
    head, slash, _ = fragment.rpartition("/")
    try:
        found = sorted(Path(head + slash or ".").expanduser().iterdir())
    except (OSError, RuntimeError):  # RuntimeError: there is no user of that name behind the ~
        return []
    names = [p.name + "/" * p.is_dir() for p in found if p.is_dir() or p.suffix.lower() in suffixes]
    return [head + slash + name for name in names if not name.startswith(".")]
