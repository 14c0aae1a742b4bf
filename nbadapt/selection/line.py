"""The line of ``%%compare`` -> what is asked for, and its help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nbadapt import request
from nbadapt.errors import RequestError, did_you_mean
from nbadapt.options import COLUMNS, Option
from nbadapt.selection import asked, specs
from nbadapt.tables import Code, Page, Table

EXAMPLE = """%%compare --model minilm --data train_df --budget 10m --as found
METHOD:
METHOD: {SETTING: [VALUE, VALUE], SETTING: VALUE}
METHOD: {model: smollm2}"""

OPTIONS: Mapping[str, Option] = {
    option.flag: option
    for option in (
        Option("--model", "NAME", "the base model of candidates without one of their own", "model", values="model"),
        Option("--data", "TABLE", "the rows: a variable, a file or a hub data set", "data", values="table"),
        Option("--test", "SHARE", "a share of the rows (0.2), or a table: locked up until the end", "test",
               values="table"),
        Option("--budget", "LIMIT", "a time as 10m, a memory as 2GB, or both as 10m,2GB (no limit)", "budget"),
        Option("--search", "N", "draw N candidates of the grid (all)", "search"),
        Option("--seeds", "N", "how often the last candidates are trained (1)", "seeds"),
        Option("--full-ranking", "", "train every candidate on all rows, so that all are ranked (the weaker ones of a "
               "method are dropped on fewer)", "full_ranking"),
        Option("--metric", "NAME", "accuracy or macro_f1; bits_per_byte or exact_match", "metric"),
        Option("--task", "TASK", "the task, where the columns do not tell", "task", values="task"),
        *(Option(f"--{name}", "COLUMN", f"the column that holds the {name}", "columns", values="column")
          for name in COLUMNS),
        Option("--seed", "N", "decides every random choice (0)", "seed"),
        Option("--as", "VARIABLE", "the notebook variable that gets the comparison", "name"),
        Option("--device", "DEVICE", "where to compute (the best one there is)", "device", values="device"),
        Option("--dtype", "TYPE", "type of the base weights (the fastest one)", "dtype", values="dtype"),
        Option("--dry-run", "", "show the candidates and their estimated costs, and stop", "dry_run"),
        Option("--trust-remote-code", "", "let code that comes with a model run", "trust_remote_code"),
        Option("--help", "", "show this help", "help"),
    )
}  # fmt: skip
_WHOLE = ("search", "seeds", "seed")


def parse(line: str, body: str, namespace: Mapping[str, Any]) -> asked.Asked:
    """What a cell asks for.

    Args:
        line: what follows the magic on its line.
        body: the rest of the cell.
        namespace: the notebook's variables.

    Raises:
        RequestError: a word that is not understood; the message names it and the fix.
    """
    fields, columns = _options(request.words(line))
    named = request.tables({name: fields[name] for name in ("model", "data") if name in fields}, namespace)
    sources = dict(named.pop("sources"))
    fields |= named
    if "test" in fields:
        fields["test"], called = _test(fields["test"], namespace)
        sources |= {"test": called} if called else {}
    if "budget" in fields:
        fields["budget"] = asked.budget(fields["budget"])
    return asked.Asked(blocks=specs.read(body), sources=sources, columns=columns, namespace=namespace, **fields)


def _options(words: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of the line by field, and the columns that it renames."""
    fields: dict[str, Any] = {}
    columns: dict[str, str] = {}
    rest = list(words)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        option = OPTIONS.get(flag)
        if option is None:
            raise RequestError(_unknown(flag))
        if not option.metavar:
            if equals:
                raise RequestError(f"{flag} takes no value: write it alone")
            fields[option.field] = True
            continue
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise RequestError(f"{flag} needs a value: write  {flag} {option.metavar}")
            value = rest.pop(0)
        target: dict[str, Any] = columns if option.field == "columns" else fields
        name = flag[2:] if option.field == "columns" else option.field
        if name in target:
            raise RequestError(f"{flag} is given twice; keep one")
        target[name] = _whole(flag, value) if option.field in _WHOLE else value
    return fields, columns


def _unknown(flag: str) -> str:
    if not flag.startswith("--"):
        return (
            f"unexpected {flag!r}: the line of %%compare has options alone, such as  --data {flag}; the methods stand "
            "below it, one a line"
        )
    return f"unknown option {flag!r} of %%compare: {did_you_mean(flag, OPTIONS, kind='options')}"


def _whole(flag: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise RequestError(f"{flag} is {text!r}: give a whole number") from None


def _test(word: str, namespace: Mapping[str, Any]) -> tuple[Any, str]:
    """A share, or the table that the word names and what it is called."""
    try:
        return float(word), ""
    except ValueError:
        return request.tables({"data": word}, namespace)["data"] if word in namespace else word, word


def help_page() -> Page:
    """How the magic is written."""
    shown = [(f"{o.flag} {o.metavar}".strip(), o.help) for o in OPTIONS.values() if o.field != "columns"]
    renames = (f"--{', --'.join(COLUMNS)} COLUMN", "which of the table's columns plays this part")
    table = Table([*shown, renames], {"option": lambda row: row[0], "meaning": lambda row: row[1]}, empty="")
    return Page(
        "%%compare: which way is best for these rows",
        Code(EXAMPLE),
        table,
        "The body names methods, each with settings, and model and prompt where they are its own; lists span a grid. "
        "An empty body takes one method of each family. Cheap baselines take part always. What is done is kept: the "
        "same cell goes on where it was broken off, and a candidate that is added later reuses all that is there.",
    )
