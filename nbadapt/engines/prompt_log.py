"""The exact prompt of every row, kept with its run.

::

    artifacts/prompts.jsonl    {"row": 1, "kept": 0, "prompt": ...}    whole
                               {"row": 2, "kept": 830, "prompt": ...}  what follows the first 830 characters (turns of
                                                                       a conversation) of the line before

Rows that share their demonstrations so share them on disk.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import takewhile
from os.path import commonprefix
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbadapt import json_text
from nbadapt.engines.tokens import Prompt, as_text, rendered
from nbadapt.errors import RunError

if TYPE_CHECKING:
    from nbadapt.engines.answering import Query
    from nbadapt.method import Job, ModelRef

PROMPTS = "artifacts/prompts.jsonl"


def write(directory: Path, queries: Sequence[Query]) -> None:
    """Write the prompts of a run, for ``run.final_prompt``.

    Args:
        directory: the run's folder.
        queries: what its rows were asked, in the table's order.
    """
    path = directory / PROMPTS
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    before: Prompt = ""
    with temporary.open("w", encoding="utf-8", errors="surrogatepass") as file:
        for query in queries:
            kept = _common(before, query.prompt)
            rest: Any = query.prompt[kept:]
            line = {"row": query.row, "kept": kept, "prompt": rest if isinstance(rest, str) else list(map(dict, rest))}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            before = query.prompt
    temporary.replace(path)


def _common(a: Prompt, b: Prompt) -> int:
    """How many characters, or turns, two prompts begin with; none where they are of different kinds."""
    if isinstance(a, str) and isinstance(b, str):
        return len(commonprefix([a, b]))  # noqa: RUF071 - texts, no paths
    if isinstance(a, str) or isinstance(b, str):
        return 0
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))))


def read(directory: Path, row: int) -> Prompt:
    """What a run asked for one row of its table, counted from 1.

    Raises:
        RunError: the run asked no such row, or kept no prompts, or they are damaged.
    """
    path = directory / PROMPTS
    if not path.exists():
        raise RunError(f"the run {directory.name} kept no prompts: it was not started, or by another version")
    prompt: Any = ""
    count = 0
    try:
        with path.open(encoding="utf-8", errors="surrogatepass") as file:
            for line in file:
                record = json_text.loads(line)
                prompt = prompt[: record["kept"]] + record["prompt"] if record["kept"] else record["prompt"]
                count += 1
                if record["row"] == row:
                    found: Prompt = prompt
                    return found
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"the prompts of the run {directory.name} are damaged in line {count + 1:,}: {error}") from None
    raise RunError(f"the run {directory.name} asked no row {row!r}: its rows are 1 to {count:,}")


def final(job: Job, prompt: Prompt) -> str:
    """A prompt as the model of a job reads it: in its chat template, where it has one."""
    from nbadapt import models, pretrained

    if not _reads_tokens(job.model):
        return as_text(prompt)
    return rendered(pretrained.load_tokenizer(models.base_ref(job.model)), prompt)


def _reads_tokens(ref: ModelRef) -> bool:
    """Whether the prompt is rendered here: not for a classifier, nor for a model that is asked over a network."""
    from nbadapt import store

    if ref.kind == "run":
        return store.read_job(Path(ref.path), tables=False).task != "classification"
    return ref.kind in {"folder", "package", "hub"}
