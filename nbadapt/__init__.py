"""Adapt a pretrained language model from a notebook cell, and see which way works for your data.

In a notebook::

    %load_ext nbadapt
    %%finetune lora --model minilm --data train_df --as tuned

In a script::

    import nbadapt
    tuned = nbadapt.finetune("lora", model="minilm", data="train.csv")

Importing this is cheap: everything heavier than a few modules of the standard library waits for its first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from nbadapt.api import (
        cache,
        check,
        clear_cache,
        compare,
        compare_runs,
        delete,
        doctor,
        finetune,
        free,
        generate,
        index,
        indexes,
        methods,
        new_plugin,
        play,
        prompt,
        rank,
        resume,
        runs,
        show,
        stop,
    )
    from nbadapt.api import help as help  # noqa: A004 - read as nbadapt.help
    from nbadapt.errors import NbadaptError
    from nbadapt.run import Run

__version__ = "0.1.0"
"""The version (https://semver.org); hatch reads it from here."""

__all__ = [
    "NbadaptError",
    "Run",
    "cache",
    "check",
    "clear_cache",
    "compare",
    "compare_runs",
    "delete",
    "doctor",
    "finetune",
    "free",
    "generate",
    "index",
    "indexes",
    "methods",
    "new_plugin",
    "play",
    "prompt",
    "rank",
    "resume",
    "runs",
    "show",
    "stop",
]

_HOMES = {
    "NbadaptError": "nbadapt.errors",
    "Run": "nbadapt.run",
    **dict.fromkeys((*__all__[2:], "help"), "nbadapt.api"),
}  # help is not in __all__: `from nbadapt import *` must not replace Python's own


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'nbadapt' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Add %%finetune, %%prompt, %%compare and %nbadapt, with their completion. Called by ``%load_ext nbadapt``."""
    from nbadapt import magics

    magics.load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take them away again. Called by ``%unload_ext`` and ``%reload_ext``."""
    from nbadapt import magics

    magics.unload(shell)
