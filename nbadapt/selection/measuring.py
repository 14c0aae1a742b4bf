"""How good a finished run is on rows, and what it costs to use."""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbadapt.errors import NbadaptError, RunError
from nbadapt.selection.trials import Said

if TYPE_CHECKING:
    from nbadapt.data import Examples
    from nbadapt.method import Adapted
    from nbadapt.run import Run
    from nbadapt.selection.candidates import Candidate

TIMED = 64  # rows
COUNTED = 20  # rows whose tokens are counted
LONGEST_ANSWER = 512  # tokens


def said(candidate: Candidate, run: Run, rows: Examples, metric: str) -> Said:
    """What a finished run says to rows, and how good that is.

    A prompting run has answered the rows already, unless the metric is about likelihoods.

    Raises:
        NbadaptError: it cannot do what the metric needs.
    """
    if metric == "bits_per_byte":
        return _likelihoods(candidate, run, rows)
    if not candidate.prompts:
        return answered(run.adapted(), rows)
    table = run.answers
    if len(table) != len(rows):
        raise RunError(f"the run {run.id} answered {len(table):,} of {len(rows):,} rows")
    rate = _examples_a_second(run)
    return Said(tuple(map(str, table["output"])), tuple(map(float, table["correct"])), 1000 / rate if rate else None)


def answered(adapted: Adapted, rows: Examples) -> Said:
    """What an adapted model answers to rows: labels, or texts for the metric exact_match."""
    from nbadapt.engines.evaluation import same

    if rows.task == "classification":
        texts = [row["text"] for row in rows.rows]
        labels = adapted.predict(texts).labels
        return Said(tuple(labels), tuple(float(a == row["label"]) for a, row in zip(labels, rows.rows, strict=True)))
    expected = [row["completion"] for row in rows.rows]
    most = min(LONGEST_ANSWER, 4 + max(len(text.encode("utf-8", "replace")) for text in expected))  # a token a byte
    start = time.perf_counter()
    given = adapted.generate([row["prompt"] for row in rows.rows], max_new_tokens=most)
    seconds = 1000 * (time.perf_counter() - start) / len(expected)
    return Said(tuple(given), tuple(float(same(a, e)) for a, e in zip(given, expected, strict=True)), seconds)


def _likelihoods(candidate: Candidate, run: Run, rows: Examples) -> Said:
    """Bits for each byte of the expected answers: the same for every tokenizer."""
    adapted = run.adapted()
    if "score" not in adapted.abilities:
        raise RunError(f"{candidate.method.name} gives no likelihoods: use --metric exact_match")
    values = []
    start = time.perf_counter()
    for prompt, row in zip(_inputs(candidate, rows), rows.rows, strict=True):
        answer = row["completion"]
        nats = -float(adapted.score([prompt], [answer])[0, 0])
        values.append(nats / math.log(2) / len(answer.encode("utf-8", "replace")))
    seconds = time.perf_counter() - start
    return Said(("",) * len(values), tuple(values), 1000 * seconds / len(values))


def _inputs(candidate: Candidate, rows: Examples) -> list[Any]:
    """What the model is asked for each row: of a prompting method the filled template."""
    if not candidate.prompts:
        return [row["prompt"] for row in rows.rows]
    from nbadapt.engines import prompts

    job = candidate.job
    template = job.prompt or prompts.default_template(rows.rows[0], rows.task, choosing=False, source=rows.source)
    return [prompts.fill(template, prompts.values(row, job.variables)) for row in rows.rows]


# ------------------------------------------------------------------------------------------------ what it costs


def costs(candidate: Candidate, run: Run, rows: Examples, measured: Said) -> dict[str, float]:
    """Figures of a finished run; what cannot be measured is left out.

    "seconds" of work before answers, "memory" (peak of the process, or of the accelerator, in bytes), "trainable" and
    "total" parameters, "artifact" (bytes on disk), "inference" (seconds for a thousand rows), "tokens" a call.
    """
    history = run.log
    found: dict[str, float] = {"seconds": _seconds(candidate, run), "artifact": _bytes(run.directory)}
    if history.parameters is not None:
        found |= {"trainable": history.parameters.trainable, "total": history.parameters.total}
    elif candidate.prompts:
        found |= {"trainable": 0, "total": candidate.estimate.total}
    if history.memory is not None:
        found["memory"] = history.memory.vram_peak or history.memory.ram_peak
    inference = measured.seconds if measured.seconds is not None else _inference(candidate, run, rows)
    tokens = _tokens(candidate, run, rows)
    return {**found, **{k: v for k, v in (("inference", inference), ("tokens", tokens)) if v is not None}}


def _seconds(candidate: Candidate, run: Run) -> float:
    """The work up to the first answer: of a finetuning all of it."""
    from nbadapt.events import Stage

    began = [t for t, event in run.events if isinstance(event, Stage) and event.text == "answering"]
    if not candidate.prompts or not began:
        return run.log.elapsed
    return max(0.0, began[-1] - run.events[0][0])


def _bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in (directory / "artifacts").rglob("*") if path.is_file())


def _examples_a_second(run: Run) -> float | None:
    """Rows that a prompting run answered in a second; None where all its answers were known.

    Between its batches, or where there was one alone, from the moment on at which it began to answer.
    """
    from nbadapt.events import Notice, Progress, Stage
    from nbadapt.widgets.summary import average_rates

    rate = average_rates(run.events).get("examples")
    if rate is not None or any(isinstance(e, Notice) and "asked before" in e.text for _, e in run.events):
        return rate
    began = [t for t, event in run.events if isinstance(event, Stage) and event.text == "answering"]
    done = [(t, event.examples) for t, event in run.events if isinstance(event, Progress)]
    if not began or not done or done[-1][0] <= began[-1]:
        return None
    return done[-1][1] / (done[-1][0] - began[-1])


def _inference(candidate: Candidate, run: Run, rows: Examples) -> float | None:
    """Seconds for a thousand rows, from a few validation rows; nothing is taken from what was computed before."""
    from nbadapt.timing import embeddings_in

    if candidate.prompts or rows.task != "classification":
        return None
    texts = [row["text"] for row in rows.rows[:TIMED]]
    adapted = run.adapted()
    with tempfile.TemporaryDirectory(prefix="nbadapt-timing-") as folder, embeddings_in(folder):
        adapted.predict([f"{text} " for text in texts[:4]])  # what is made once
        start = time.perf_counter()
        adapted.predict(texts)
        return 1000 * (time.perf_counter() - start) / len(texts)


def _tokens(candidate: Candidate, run: Run, rows: Examples) -> float | None:
    """Tokens that the model reads for a row, the mean of a few; None where it reads none, or elsewhere."""
    from nbadapt import models

    job = candidate.job
    if job.model.kind == "endpoint":
        paid = _metrics(run).get("prompt_tokens")
        return None if paid is None else paid / len(rows)
    if candidate.estimate.total <= candidate.estimate.trainable and not candidate.prompts:
        return None  # it does without the language model
    with contextlib.suppress(NbadaptError):
        count = min(COUNTED, len(rows))
        texts = _read(candidate, run, rows, count)
        tokenizer = models.load_tokenizer(models.base_ref(job.model))
        most = getattr(job.config, "max_length", None) or math.inf
        return float(sum(min(len(tokenizer(text)["input_ids"]), most) for text in texts) / count)
    return None


def _read(candidate: Candidate, run: Run, rows: Examples, count: int) -> Sequence[str]:
    from nbadapt.engines.tokens import as_text

    if candidate.prompts:
        kept = len(run.answers) if rows.task == "classification" else 1
        return [run.final_prompt(row) for row in range(1, min(count, kept) + 1)] or [""]
    return [as_text(row.get("text", row.get("prompt"))) for row in rows.rows[:count]]


def _metrics(run: Run) -> Mapping[str, float]:
    return run.outcome.metrics if run.outcome is not None else {}
