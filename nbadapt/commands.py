"""The sub-commands of %nbadapt, declared once: parsing, help and completion all read this table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nbadapt import api
from nbadapt.errors import RequestError, did_you_mean
from nbadapt.manual import magic_page
from nbadapt.request import words
from nbadapt.run import Run
from nbadapt.tables import Page, Table

Argument = Literal["", "METHOD", "RUN", "[RUN]", "[clear]", "PATH... --as NAME"]


@dataclass(frozen=True)
class Command:
    """One sub-command.

    Attributes:
        name: the word after %nbadapt.
        argument: what follows it; in brackets where it may be left out.
        help: one line.
        do: takes the argument ("" where there is none) and the notebook's variables; returns what is shown.
        parse: for a command with options of its own: takes all words behind its name in the place of `do`.
    """

    name: str
    argument: Argument
    help: str
    do: Callable[[str, Mapping[str, Any]], Any] = lambda *_: None
    parse: Callable[[list[str]], Any] | None = None


def _run(word: str, namespace: Mapping[str, Any]) -> Run:
    """The run that a variable holds, or the stored one of this id.

    Raises:
        RequestError: the variable holds something else.
        StoreError: no such run.
    """
    if not word.isidentifier() or word not in namespace:
        return api.show(word)
    value = namespace[word]
    if not isinstance(value, Run):
        raise RequestError(f"{word} is of type {type(value).__name__}, not a run: %nbadapt runs lists them")
    return value


def _help(word: str, _: Mapping[str, Any]) -> Page:
    pages = {"finetune": magic_page, "prompt": magic_page}
    verb = word.removeprefix("%%")
    return pages[verb](verb) if verb in pages else api.help(word)  # type: ignore[arg-type]  # a Verb, by the table


def _resume(word: str, namespace: Mapping[str, Any]) -> Run:
    from nbadapt import named, registry

    run = _run(word, namespace)
    return api.resume(run, named.again(registry.load(run.method), run.request["settings"], namespace))


def _stop(word: str, namespace: Mapping[str, Any]) -> Page:
    run = api.stop(_run(word, namespace) if word else None)
    return Page(f"{run.id} stops after this step.")


def _free(_word: str, _namespace: Mapping[str, Any]) -> Page:
    from nbadapt.memory import gibibytes

    return Page(f"Gave back {gibibytes(api.free())}.")


def _cache(word: str, _namespace: Mapping[str, Any]) -> Page:
    if word not in {"", "clear"}:
        raise RequestError(f"unexpected {word!r}: write  %nbadapt cache  or  %nbadapt cache clear")
    if word:
        return Page(f"Forgot {api.clear_cache():,} answers.")
    kept = api.cache()
    return Page(
        f"{kept.answers:,} answers, {kept.bytes / 2**20:,.1f} MiB in {kept.file}; %nbadapt cache clear forgets them."
    )


_INDEX_NUMBERS = {name: name.removeprefix("--") for name in ("--size", "--overlap", "--depth", "--pages")}
_INDEX_TEXTS = {
    "--as": "name",
    "--model": "model",
    "--store": "store",
    "--dsn": "dsn",
    "--allow-host": "allow_hosts",
}
INDEX_OPTIONS = {**_INDEX_TEXTS, **_INDEX_NUMBERS}


def _index(given: list[str]) -> Any:
    """Build an index or bring it up to date: paths, and `INDEX_OPTIONS`."""
    from nbadapt.widgets.indexing import IndexingLine

    paths: list[str] = []
    options: dict[str, Any] = {}
    rest = iter(given)
    for word in rest:
        flag, equals, value = word.partition("=")
        if not word.startswith("--"):
            paths.append(word)
            continue
        if flag not in INDEX_OPTIONS:
            hint = did_you_mean(flag, INDEX_OPTIONS, kind="options")
            raise RequestError(f"unknown option {flag!r} of %nbadapt index: {hint}")
        value = value if equals else next(rest, "")
        if not value or value.startswith("--"):
            raise RequestError(f"{flag} needs a value: write  %nbadapt index manuals --as manuals")
        if INDEX_OPTIONS[flag] in options:
            raise RequestError(f"{flag} is given twice; keep one")
        if flag in _INDEX_NUMBERS:
            if not value.isdecimal():
                raise RequestError(f"{flag} is {value!r}: give a whole number")
            options[INDEX_OPTIONS[flag]] = int(value)
        else:
            options[INDEX_OPTIONS[flag]] = value
    if not paths or "name" not in options:
        lacking = "no paths" if not paths else "no name"
        raise RequestError(f"{lacking} given: write  %nbadapt index PATH... --as NAME")
    return api.index(paths, progress=IndexingLine(options["name"]), **options)


COMMANDS: Mapping[str, Command] = {
    command.name: command
    for command in (
        Command("methods", "", "what is installed: each method, its magic, its tasks", lambda *_: api.methods()),
        Command("help", "METHOD", "one method: what it does, its settings, an example", _help),
        Command("runs", "", "all runs, newest first", lambda *_: api.runs()),
        Command("show", "RUN", "the result of a run; RUN is an id, its beginning or a variable", _run),
        Command("resume", "RUN", "go on with a run that was paused, stopped or killed", _resume),
        Command("stop", "[RUN]", "stop the run that works in the background", _stop),
        Command(
            "index",
            "PATH... --as NAME",
            "make documents searchable, or bring their index up to date: files, folders, patterns, URLs",
            parse=_index,
        ),
        Command("indexes", "", "all indexes of documents", lambda *_: api.indexes()),
        Command("cache", "[clear]", "how many answers to prompts are kept on disk; clear forgets them", _cache),
        Command("free", "", "forget the loaded models and give their memory back", _free),
    )
}


def execute(line: str, namespace: Mapping[str, Any]) -> Any:
    """Do what the line of %nbadapt says, and return what is to be shown.

    Raises:
        NbadaptError: the command or its argument is unknown, or it failed.
    """
    name, *arguments = words(line) or [""]
    if name in {"", "--help", "-h"}:
        return overview()
    command = COMMANDS.get(name)
    if command is None:
        raise RequestError(f"unknown command {name!r} of %nbadapt: {did_you_mean(name, COMMANDS, kind='commands')}")
    if command.parse is not None:
        return command.parse(arguments)
    usage = f"%nbadapt {name} {command.argument}".rstrip()
    needed = 1 if command.argument and not command.argument.startswith("[") else 0
    if len(arguments) < needed:
        raise RequestError(f"%nbadapt {name} needs a {command.argument}: write  {usage}")
    if len(arguments) > (1 if command.argument else 0):
        raise RequestError(f"unexpected {arguments[-1]!r}: write  {usage}")
    return command.do(arguments[0] if arguments else "", namespace)


def overview() -> Page:
    """All sub-commands."""
    columns: Mapping[str, Callable[[Command], str]] = {
        "command": lambda command: f"%nbadapt {command.name} {command.argument}".rstrip(),
        "what it does": lambda command: command.help,
    }
    return Page(
        "%nbadapt",
        Table(COMMANDS.values(), columns, empty=""),
        "%%finetune --help and %%prompt --help show how to finetune and how to prompt.",
    )
