"""The magics as Python functions, for scripts and for front ends without magics. They raise NbadaptError."""

from nbadapt.api.adapting import compare, finetune, prompt
from nbadapt.api.answers import generate, play, rank
from nbadapt.api.documents import index, indexes
from nbadapt.api.managing import (
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
