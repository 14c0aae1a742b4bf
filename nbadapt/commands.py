"""The sub-commands of %nbadapt, declared once: parsing, help and completion all read this table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nbadapt import api, notes
from nbadapt.errors import RequestError, did_you_mean
from nbadapt.manual import magic_page
from nbadapt.request import words
from nbadapt.run import Run
from nbadapt.tables import Page, Table

Argument = Literal[
    "",
    "METHOD",
    "NAME",
    "NEW-NAME",
    "RUN",
    "[RUN]",
    "[clear]",
    "PATH... --as NAME",
    "--model M --prompts P --as NAME",
    "[--filter WORDS] [--sort COLUMN]",
    "RUN RUN...",
    "RUN... [--prompt TEXT]",
    "RUN [TEXT]",
    "RUN [TAG...] [-TAG...]",
    "RUN... [--yes]",
    "[--full]",
    "[RUN] [--at-epoch-end]",
    "RATE [RUN]",
    "TEXT",
]


@dataclass(frozen=True)
class Command:
    """One sub-command.

    Attributes:
        name: the word after %nbadapt.
        argument: what follows it; in brackets where it may be left out.
        help: one line.
        do: takes the argument ("" where there is none) and the notebook's variables; returns what is shown.
        parse: for a command with options of its own: takes all words behind its name, and the notebook's variables, in
            the place of `do`.
        prose: whether what follows is the user's text: it is one word then, with its apostrophes.
    """

    name: str
    argument: Argument
    help: str
    do: Callable[[str, Mapping[str, Any]], Any] = lambda *_: None
    parse: Callable[[list[str], Mapping[str, Any]], Any] | None = None
    prose: bool = False


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
    if word in COMMAND_PAGES:
        return COMMAND_PAGES[word]()
    if verb == "compare":
        from nbadapt.selection import line as comparing

        return comparing.help_page()
    return pages[verb](verb) if verb in pages else api.help(word)  # type: ignore[arg-type]  # a Verb, by the table


def _resume(word: str, namespace: Mapping[str, Any]) -> Run:
    from nbadapt import named, registry

    run = _run(word, namespace)
    return api.resume(run, named.again(registry.load(run.method), run.request["settings"], namespace))


AT_EPOCH_END = "--at-epoch-end"


def _stop(given: list[str], namespace: Mapping[str, Any]) -> Page:
    late = AT_EPOCH_END in given
    run = api.stop(_working([word for word in given if word != AT_EPOCH_END], namespace, "stop"), at_epoch_end=late)
    return Page(f"{run.id} stops {'when this epoch ends' if late else 'after this step'}.")


def _working(given: list[str], namespace: Mapping[str, Any], command: str) -> Run:
    """The run that is named, or the one at work."""
    if len(given) > 1 or any(word.startswith("-") for word in given):
        raise RequestError(f"unexpected {given[-1]!r}: write  %nbadapt {command} {COMMANDS[command].argument}")
    return api.at_work(_run(given[0], namespace) if given else None)


def _pause(given: list[str], namespace: Mapping[str, Any]) -> Page:
    run = _working(given, namespace, "pause")
    run.pause()
    return Page(f"{run.id} pauses after this step; %nbadapt resume {run.id} lets it go on.")


def _save(given: list[str], namespace: Mapping[str, Any]) -> Page:
    run = _working(given, namespace, "save")
    return Page(f"Saved in {run.save()}.")


def _rate(given: list[str], namespace: Mapping[str, Any]) -> Page:
    if not given:
        raise RequestError("%nbadapt rate needs a RATE: write  %nbadapt rate 1e-4  or  %nbadapt rate x0.5")
    run = _working(given[1:], namespace, "rate")
    return Page(f"{run.id} goes on with a learning rate of {run.change_learning_rate(given[0]):.3g}.")


def _sample(given: list[str], _namespace: Mapping[str, Any]) -> Any:
    answer = api.at_work().sample(given[0])
    return Page(answer) if isinstance(answer, str) else answer.frame()


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


RUNS_OPTIONS = {"--filter": "search", "--sort": "sort"}


def _runs(given: list[str], _namespace: Mapping[str, Any]) -> Any:
    """The table of runs: `RUNS_OPTIONS`."""
    options: dict[str, str] = {}
    rest = iter(given)
    for word in rest:
        flag, equals, value = word.partition("=")
        if flag not in RUNS_OPTIONS:
            hint = did_you_mean(flag, RUNS_OPTIONS, kind="options")
            raise RequestError(f"unexpected {word!r} after %nbadapt runs: {hint}")
        value = value if equals else next(rest, "")
        if not value:
            raise RequestError(f"{flag} needs a value: write  %nbadapt runs --filter WORDS --sort accuracy")
        options[RUNS_OPTIONS[flag]] = value
    return api.runs(**options)


def _some_runs(given: list[str], namespace: Mapping[str, Any], least: int, usage: str) -> list[Run]:
    if len(given) < least:
        raise RequestError(f"{'two runs' if least > 1 else 'a run'} or more needed: write  {usage}")
    return [_run(word, namespace) for word in given]


def _compare(given: list[str], namespace: Mapping[str, Any]) -> Any:
    return api.compare_runs(_some_runs(given, namespace, 2, "%nbadapt compare RUN RUN..."))


def _note(given: list[str], namespace: Mapping[str, Any]) -> Page:
    name, texts = given[0].split(maxsplit=1)[:1], given[0].split(maxsplit=1)[1:]
    (run,) = _some_runs(name, namespace, 1, "%nbadapt note RUN TEXT")
    for text in texts:
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
        run.note = text[1:-1] if quoted else text
    return Page(f"{run.id}: {run.note}" if run.note else f"{run.id} has no note.")


def _tag(given: list[str], namespace: Mapping[str, Any]) -> Page:
    (run,) = _some_runs(given[:1], namespace, 1, "%nbadapt tag RUN TAG...")
    remove = [word[1:] for word in given[1:] if word.startswith("-")]
    notes.change_tags(run.directory, add=[word for word in given[1:] if not word.startswith("-")], remove=remove)
    return Page(f"{run.id}: {' '.join(run.tags)}" if run.tags else f"{run.id} has no tags.")


def _delete(given: list[str], namespace: Mapping[str, Any]) -> Page:
    unknown = [word for word in given if word.startswith("-") and word != "--yes"]
    if unknown:
        raise RequestError(f"unknown option {unknown[0]!r} of %nbadapt delete: there is only --yes")
    named = [word for word in given if word != "--yes"]
    return api.delete(_some_runs(named, namespace, 1, "%nbadapt delete RUN"), yes="--yes" in given)


_INDEX_NUMBERS = {name: name.removeprefix("--") for name in ("--size", "--overlap", "--depth", "--pages")}
_INDEX_TEXTS = {
    "--as": "name",
    "--model": "model",
    "--store": "store",
    "--dsn": "dsn",
    "--allow-host": "allow_hosts",
}
INDEX_OPTIONS = {**_INDEX_TEXTS, **_INDEX_NUMBERS}


def _index(given: list[str], _namespace: Mapping[str, Any]) -> Any:
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


def _doctor(given: list[str], _namespace: Mapping[str, Any]) -> Any:
    unknown = [word for word in given if word != "--full"]
    if unknown:
        raise RequestError(f"unexpected {unknown[0]!r}: write  %nbadapt doctor  or  %nbadapt doctor --full")
    return api.doctor(full="--full" in given)


def _check(word: str, _namespace: Mapping[str, Any]) -> Any:
    return api.check(word)


def _new_plugin(word: str, _namespace: Mapping[str, Any]) -> Page:
    return api.new_plugin(word)


def _rank(given: list[str], namespace: Mapping[str, Any]) -> Any:
    from nbadapt.feedback import line

    return line.execute(given, namespace)


def _play(given: list[str], namespace: Mapping[str, Any]) -> Any:
    from nbadapt.playing import line

    return line.execute(given, namespace)


def _rank_page() -> Page:
    from nbadapt.feedback import line

    return line.help_page()


def _play_page() -> Page:
    from nbadapt.playing import line

    return line.help_page()


COMMAND_PAGES: Mapping[str, Callable[[], Page]] = {"rank": _rank_page, "play": _play_page}
"""Commands with a help page of their own."""

COMMANDS: Mapping[str, Command] = {
    command.name: command
    for command in (
        Command("methods", "", "what is installed: each method, its magic, its tasks", lambda *_: api.methods()),
        Command("help", "METHOD", "one method: what it does, its settings, an example", _help),
        Command(
            "runs",
            "[--filter WORDS] [--sort COLUMN]",
            "all runs, newest first: a table to sort, to filter, and to tick runs that are then compared",
            parse=_runs,
        ),
        Command(
            "compare", "RUN RUN...", "what differs between runs, their curves, quality against cost", parse=_compare
        ),
        Command("note", "RUN [TEXT]", 'write a note on a run, or show it; "" takes it away', parse=_note, prose=True),
        Command("tag", "RUN [TAG...] [-TAG...]", "tag a run, take tags away, or show them", parse=_tag),
        Command("delete", "RUN... [--yes]", "say what would go with runs; with --yes remove them", parse=_delete),
        Command("show", "RUN", "the result of a run; RUN is an id, its beginning or a variable", _run),
        Command("resume", "RUN", "go on with a run that was paused, stopped or killed", _resume),
        Command("stop", "[RUN] [--at-epoch-end]", "stop the run that works in the background", parse=_stop),
        Command("pause", "[RUN]", "hold it after its step; resume lets it go on", parse=_pause),
        Command("save", "[RUN]", "keep its model as it is now, while it goes on", parse=_save),
        Command("rate", "RATE [RUN]", "go on with another learning rate, such as 1e-4 or x0.5", parse=_rate),
        Command("sample", "TEXT", "what its model says to a prompt as it is now", parse=_sample, prose=True),
        Command(
            "index",
            "PATH... --as NAME",
            "make documents searchable, or bring their index up to date: files, folders, patterns, URLs",
            parse=_index,
        ),
        Command("indexes", "", "all indexes of documents", lambda *_: api.indexes()),
        Command(
            "rank",
            "--model M --prompts P --as NAME",
            "choose between answers of models, blind: preferences that others are trained on",
            parse=_rank,
        ),
        Command("check", "NAME", "whether a method, store, provider or model keeps the contract: every rule", _check),
        Command("new-plugin", "NEW-NAME", "write a plugin to begin with, which works as it is", _new_plugin),
        Command(
            "play",
            "RUN... [--prompt TEXT]",
            "ask a model and what was made of it side by side: what differs, class probabilities, which words matter",
            parse=_play,
        ),
        Command("cache", "[clear]", "how many answers to prompts are kept on disk; clear forgets them", _cache),
        Command(
            "doctor",
            "[--full]",
            "what is here, what is wrong and how it is mended; --full imports torch for the GPU",
            parse=_doctor,
        ),
        Command("free", "", "forget the loaded models and give their memory back", _free),
    )
}


def execute(line: str, namespace: Mapping[str, Any]) -> Any:
    """Do what the line of %nbadapt says, and return what is to be shown.

    Raises:
        NbadaptError: the command or its argument is unknown, or it failed.
    """
    first, _, text = line.strip().partition(" ")
    prose = first in COMMANDS and COMMANDS[first].prose
    name, *arguments = [first, text.strip()] if prose else words(line) or [""]
    if name in {"", "--help", "-h"}:
        return overview()
    command = COMMANDS.get(name)
    if command is None:
        raise RequestError(f"unknown command {name!r} of %nbadapt: {did_you_mean(name, COMMANDS, kind='commands')}")
    if command.parse is not None:
        return command.parse(arguments, namespace)
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
        "%%finetune --help, %%prompt --help and %%compare --help show how to finetune, to prompt and to compare.",
    )
