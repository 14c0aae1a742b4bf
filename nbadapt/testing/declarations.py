"""Rules about what a method declares; nothing is trained for them. A rule raises AssertionError."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import get_args

from annotated_types import Ge, Gt, Interval, Le, Lt

from nbadapt.method import CONTRACT, Task, Verb
from nbadapt.testing.subject import Subject

HEAVY = ("torch", "transformers", "matplotlib", "ipywidgets")
LONGEST_SUMMARY = 100


def declares_who_it_is(subject: Subject) -> None:
    """Name (lower case, dashes), verb, one-line summary, https reference and known tasks are declared."""
    method = subject.method
    for field in ("name", "verb", "summary", "reference", "tasks"):
        assert hasattr(method, field), f"{field} is not declared"
    assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", method.name), f"name {method.name!r}: lower case and dashes"
    assert method.verb in get_args(Verb), f"verb {method.verb!r}: one of {get_args(Verb)}"
    assert method.summary.strip(), "summary is empty"
    assert "\n" not in method.summary, "summary is longer than one line"
    assert len(method.summary) <= LONGEST_SUMMARY, f"summary has more than {LONGEST_SUMMARY} characters"
    assert method.reference.startswith("https://"), f"reference {method.reference!r} is no https URL"
    assert method.tasks, "tasks is empty"
    unknown = set(method.tasks) - set(get_args(Task))
    assert not unknown, f"unknown tasks {sorted(unknown)}"


def is_written_for_this_contract(subject: Subject) -> None:
    """The contract version is the one that this nbadapt has."""
    assert subject.method.contract == CONTRACT, f"contract {subject.method.contract}, here it is {CONTRACT}"


def requires_import_names(subject: Subject) -> None:
    """`requires` holds import names, such as sklearn, not names of distributions."""
    for name in subject.method.requires:
        parts = name.split(".")
        assert all(part.isidentifier() for part in parts), f"{name!r} cannot be imported: give the import name"


def describes_every_setting(subject: Subject) -> None:
    """Every setting has a default, a description, and bounds where it is a number."""
    for name, field in subject.method.Config.model_fields.items():
        assert not field.is_required(), f"{name} has no default"
        assert (field.description or "").strip(), f"{name} has no description"
        kinds = {field.annotation, *get_args(field.annotation)}
        bounded = any(isinstance(m, (Ge, Gt, Le, Lt, Interval)) for m in field.metadata)
        assert bounded or not {int, float} & kinds, f"{name} is a number without bounds"


def refuses_unknown_settings_and_changes(subject: Subject) -> None:
    """The Config is frozen and forbids extra fields."""
    config = subject.method.Config.model_config
    assert config.get("frozen"), "Config is not frozen"
    assert config.get("extra") == "forbid", 'Config does not forbid extra fields (extra="forbid")'


def keeps_settings_in_json(subject: Subject) -> None:
    """Settings come back from their JSON as they were."""
    config = subject.config()
    again = subject.method.Config.model_validate(json.loads(json.dumps(config.model_dump(mode="json"))))
    assert again == config, f"{config} came back from JSON as {again}"


def shadows_no_option(subject: Subject) -> None:
    """No setting has the name of an option that all methods share, such as --seed."""
    from nbadapt.options import options

    shared = {flag.removeprefix("--").replace("-", "_") for flag in options(subject.method.verb)}
    taken = shared & set(subject.method.Config.model_fields)
    assert not taken, f"settings with the names of shared options: {sorted(taken)}"


def imports_lightly(subject: Subject) -> None:
    """Importing the method's module brings neither torch nor transformers, matplotlib or ipywidgets."""
    code = f"import sys; sys.path[:0] = {sys.path!r}; import {subject.method.__module__}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"the module cannot be imported: {done.stderr.strip().splitlines()[-1:]}"
    heavy = set(HEAVY) & set(done.stdout.split())
    assert not heavy, f"importing {subject.method.__module__} imports {', '.join(sorted(heavy))}"


RULES = (
    declares_who_it_is,
    is_written_for_this_contract,
    requires_import_names,
    describes_every_setting,
    refuses_unknown_settings_and_changes,
    keeps_settings_in_json,
    shadows_no_option,
    imports_lightly,
)
