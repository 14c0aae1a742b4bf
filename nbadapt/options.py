"""The options that every method shares, declared once: parsing, help and completion all read this table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from nbadapt import layouts

Source = Literal["", "model", "table", "column", "task", "device", "dtype", "setting", "function"]
"""Where an option's values come from, for completion."""

TASKS = tuple(sorted({form.task for form in layouts.FORMS}))
COLUMNS = layouts.COLUMNS
DTYPES: Mapping[str, int] = {"bfloat16": 2, "float32": 4, "float16": 2}
"""The types that base weights may have, with the bytes of one weight."""

DEVICES = ("cpu", "cuda", "mps")


@dataclass(frozen=True)
class Option:
    """One option of the line.

    Attributes:
        flag: as written, such as "--model".
        metavar: what its value is called in help; "" for a switch without a value.
        help: one line.
        verbs: the magics that take it.
        values: where its values come from, for completion.
        field: the attribute of `Request` that it sets.
    """

    flag: str
    metavar: str
    help: str
    field: str
    verbs: tuple[str, ...] = ("finetune", "prompt")
    values: Source = ""


OPTIONS: tuple[Option, ...] = (
    Option("--model", "NAME", "the base model: a name, a folder, a hub id or a Run", "model", values="model"),
    Option("--base-url", "URL", "where the endpoint of a --model PREFIX:NAME is", "base_url", ("prompt",)),
    Option("--api-key-env", "VARIABLE", "the environment variable that holds its key", "key_env", ("prompt",)),
    Option("--data", "TABLE", "the rows: a variable, a file or a hub data set", "data", values="table"),
    Option("--eval", "TABLE", "held-out rows", "evaluation", ("finetune",), values="table"),
    Option("--split", "SHARE", "share of the rows held out without --eval (0.1)", "split", ("finetune",)),
    Option("--examples", "TABLE", "demonstrations shown to the model", "examples", ("prompt",), values="table"),
    Option("--labels", "A,B,...", "the classes to choose from", "labels", ("prompt",)),
    Option(
        "--metric",
        "FUNCTION",
        "a figure of your own: a variable with a function of (answers, expected)",
        "metric",
        ("prompt",),
        values="function",
    ),
    Option("--task", "TASK", "the task, where the columns do not tell", "task", ("finetune",), values="task"),
    *(
        Option(f"--{name}", "COLUMN", f"the column that holds the {name}", "columns", values="column")
        for name in COLUMNS
    ),
    Option("--seed", "N", "decides every random choice (0)", "seed"),
    Option("--set", "KEY=VALUE", "one of the method's settings; may be repeated", "settings", values="setting"),
    Option("--as", "VARIABLE", "the notebook variable that gets the run", "name"),
    Option("--device", "DEVICE", "where to compute (the best one there is)", "device", values="device"),
    Option("--dtype", "TYPE", "type of the base weights (the fastest one)", "dtype", values="dtype"),
    Option("--dry-run", "", "show the estimate and stop", "dry_run"),
    Option("--timed", "", "with --dry-run: load the model and time a few steps", "timed"),
    Option("--background", "", "return at once and go on working", "background"),
    Option("--trust-remote-code", "", "let code that comes with the model run", "trust_remote_code"),
    Option("--help", "", "show this help", "help"),
)


def options(verb: str) -> dict[str, Option]:
    """The options of one magic by flag, in the order of help."""
    return {option.flag: option for option in OPTIONS if verb in option.verbs}


def setting_flag(name: str) -> str:
    """How a method's setting is written as an option: ``max_new_tokens`` as ``--max-new-tokens``."""
    return "--" + name.replace("_", "-")
