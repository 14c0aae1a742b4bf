"""The magics as Python functions, for scripts and for front ends without magics. They raise NbadaptError."""

from nbadapt.api.adapting import compare, finetune, generate, prompt
from nbadapt.api.keeping import (
    at_work,
    cache,
    check,
    clear_cache,
    compare_runs,
    delete,
    doctor,
    free,
    help,  # noqa: A004 - nbadapt.help reads as what it does
    methods,
    new_plugin,
    resume,
    runs,
    show,
    stop,
)
from nbadapt.api.materials import index, indexes, play, rank

__all__ = [
    "at_work",
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
    "help",
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
