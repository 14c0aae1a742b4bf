"""How good a finished run is on rows, and what it costs to use."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbadapt import answer_cache, models, pretrained
from nbadapt.errors import NbadaptError, RunError
from nbadapt.events import Event, Progress, Stage
from nbadapt.memory import measure
from nbadapt.selection.trials import Said
from nbadapt.timing import embeddings_in

if TYPE_CHECKING:
    from nbadapt.data import Examples
    from nbadapt.method import Adapted, Predictions
    from nbadapt.run import Run
    from nbadapt.selection.candidates import Candidate

TIMED = 64  # rows that a classifier is timed on
WRITTEN = 16  # rows that are timed where each is answered by a text, or by a prompt
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
    return Said(tuple(map(str, table["output"])), tuple(map(float, table["correct"])))


def answered(adapted: Adapted, rows: Examples) -> Said:
    """What an adapted model answers to rows: labels, or texts for the metric exact_match."""
    from nbadapt.engines.evaluation import same

    if rows.task == "classification":
        texts = [row["text"] for row in rows.rows]
        expected = [row["label"] for row in rows.rows]
        predicted = adapted.predict(texts)
        labels = predicted.labels
        right = tuple(float(a == e) for a, e in zip(labels, expected, strict=True))
        return Said(tuple(labels), right, log_loss(predicted, expected))
    expected = [row["completion"] for row in rows.rows]
    given = adapted.generate([row["prompt"] for row in rows.rows], max_new_tokens=_longest(expected))
    return Said(tuple(given), tuple(float(same(a, e)) for a, e in zip(given, expected, strict=True)))


def log_loss(predicted: Predictions, expected: Sequence[str]) -> float | None:
    """The mean of -ln p of the right label; None where a label is none of the classes, or found impossible."""
    places = {name: i for i, name in enumerate(predicted.names)}
    if not places.keys() >= {*expected}:
        return None
    right = [float(row[places[label]]) for row, label in zip(predicted.probabilities, expected, strict=True)]
    return -sum(map(math.log, right)) / len(right) if right and min(right) > 0 else None


def _longest(answers: Sequence[str]) -> int:
    """Tokens that are enough for any of these answers: a token a byte."""
    return min(LONGEST_ANSWER, 4 + max(len(text.encode("utf-8", "replace")) for text in answers))


def _likelihoods(candidate: Candidate, run: Run, rows: Examples) -> Said:
    """Bits for each byte of the expected answers: the same for every tokenizer."""
    adapted = run.adapted()
    if "score" not in adapted.abilities:
        raise RunError(f"{candidate.method.name} gives no likelihoods: use --metric exact_match")
    values = []
    for prompt, row in zip(_inputs(candidate, rows), rows.rows, strict=True):
        answer = row["completion"]
        nats = -float(adapted.score([prompt], [answer])[0, 0])
        values.append(nats / math.log(2) / len(answer.encode("utf-8", "replace")))
    return Said(("",) * len(values), tuple(values))


def _inputs(candidate: Candidate, rows: Examples) -> list[Any]:
    """What the model is asked for each row: of a prompting method the filled template."""
    if not candidate.prompts:
        return [row["prompt"] for row in rows.rows]
    from nbadapt.engines import prompts

    job = candidate.job
    template = job.prompt or prompts.default_template(rows.rows[0], rows.task, choosing=False, source=rows.source)
    return [prompts.fill(template, prompts.values(row, job.variables)) for row in rows.rows]


# ------------------------------------------------------------------------------------------------ what it costs


class Peak:
    """The most memory that a trial takes: what the process, or the accelerator, grows by, and its base's weights.

    The weights are counted also where the base was in memory before, for another candidate, and where it was not read
    at all, because the vectors of all rows were kept: so that the figure does not depend on what was done before. Other
    bases and what earlier trials left behind are not counted.
    """

    def __init__(self, candidate: Candidate) -> None:
        job = candidate.job
        self._device = job.device
        self._weights = candidate.estimate.memory.get("weights", 0) if candidate.reads_model else 0
        self._held = self._weights if self._weights and models.is_loaded(job.model, job.device, job.dtype) else 0
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(self._device)
        self._start = self._most = self._now()

    def _now(self) -> int:
        memory = measure(self._device)
        return memory.ram if memory.vram is None else memory.vram

    def look(self) -> None:
        """Measure again; called while the trial works."""
        self._most = max(self._most, self._now())

    def bytes(self, run: Run) -> int:
        """The peak, with what the run itself has measured."""
        told = run.log.memory
        peaks = [] if told is None else [told.ram_peak if told.vram_peak is None else told.vram_peak]
        grown = max(self._most, *peaks, self._start) - self._start
        return max(grown + self._held, self._weights)


def costs(candidate: Candidate, run: Run, rows: Examples, peak: Peak | None) -> dict[str, float]:
    """Figures of a finished run; what cannot be measured is left out.

    "seconds" of work before answers, "memory" (bytes, see `Peak`), "trainable" and "total" parameters, "artifact"
    (bytes on disk), "inference" (seconds for a thousand answers), "tokens" a call. What earlier runs computed of these
    rows makes neither seconds nor inference smaller.
    """
    history = run.log
    found: dict[str, float] = {"artifact": _bytes(run.directory)}
    if history.parameters is not None:
        found |= {"trainable": history.parameters.trainable, "total": history.parameters.total}
    elif candidate.prompts:
        found |= {"trainable": 0} | ({} if candidate.no_estimate else {"total": candidate.estimate.total})
    if peak is not None and not candidate.no_estimate:  # without one nobody knows what is left to count: see `Peak`
        found["memory"] = peak.bytes(run)
    inference = _inference(candidate, run, rows)
    tokens = _tokens(candidate, run, rows)
    found["seconds"] = _seconds(candidate, run, inference)
    return {**found, **{k: v for k, v in (("inference", inference), ("tokens", tokens)) if v is not None}}


def _seconds(candidate: Candidate, run: Run, inference: float | None) -> float:
    """The work up to the first answer: of a finetuning all of it.

    A classifier on a frozen model's vectors reads every training row once: rows whose vectors an earlier run has kept
    are charged at the rate at which it reads new ones.
    """
    from nbadapt.engines.classify import FeatureClassifier

    stages = [(t, event.text) for t, event in run.events if isinstance(event, Stage)]
    began = [t for t, text in stages if text == "answering"]
    if candidate.prompts:
        return max(0.0, began[-1] - run.events[0][0]) if began else run.log.elapsed
    if not stages:  # a method need not tell any
        return run.log.elapsed
    ends = [t for t, _ in stages[1:]] + [run.events[-1][0]]
    reading = [end - t for (t, text), end in zip(stages, ends, strict=True) if text.startswith("embedding")]
    if inference is None or not reading or not isinstance(run.adapted(), FeatureClassifier):
        return run.log.elapsed
    assert candidate.job.data is not None  # it was trained
    return run.log.elapsed + max(0.0, len(candidate.job.data) * inference / 1000 - sum(reading))


def _bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in (directory / "artifacts").rglob("*") if path.is_file())


def _inference(candidate: Candidate, run: Run, rows: Examples) -> float | None:
    """Seconds for a thousand answers, from those to a few validation rows; nothing is taken from what was kept."""
    if candidate.prompts:
        known = _answering(run.events) if len(run.answers) == len(rows) else None
        return known if known is not None else _asked_anew(candidate, run, rows)
    adapted = run.adapted()
    with tempfile.TemporaryDirectory(prefix="nbadapt-timing-") as folder, embeddings_in(folder):
        if rows.task == "classification":
            texts = [row["text"] for row in rows.rows[:TIMED]]
            adapted.predict([f"{text} " for text in texts[:4]])  # what is made once
            start = time.perf_counter()
            adapted.predict(texts)
            return 1000 * (time.perf_counter() - start) / len(texts)
        few = rows.rows[:WRITTEN]
        if "generate" not in adapted.abilities:
            return None
        start = time.perf_counter()
        adapted.generate([r["prompt"] for r in few], max_new_tokens=_longest([r["completion"] for r in few]))
        return 1000 * (time.perf_counter() - start) / len(few)


def _answering(events: Sequence[tuple[float, Event]]) -> float | None:
    """Seconds for a thousand answers, from what a prompting run told; None where all of them were kept ones."""
    began = [t for t, event in events if isinstance(event, Stage) and event.text == "answering"]
    done = [(t, event.examples or 0) for t, event in events if isinstance(event, Progress)]
    if not began:
        return None
    kept = max((count for t, count in done if t < began[0]), default=0)
    end, count = max(((t, count) for t, count in done if t > began[0]), default=(0.0, 0))
    return 1000 * (end - began[0]) / (count - kept) if count > kept else None


def _asked_anew(candidate: Candidate, run: Run, rows: Examples) -> float | None:
    """The same where all answers were kept ones, or none was asked for: a few rows are asked now.

    None of an endpoint, which is paid.
    """
    if candidate.job.model.kind == "endpoint":
        return None
    events: list[tuple[float, Event]] = []
    with tempfile.TemporaryDirectory(prefix="nbadapt-timing-") as folder, embeddings_in(folder), answer_cache.unused():
        few = dataclasses.replace(rows, rows=rows.rows[:WRITTEN])
        job = dataclasses.replace(run.job(tables=True), data=few, directory=Path(folder))
        candidate.method.run(job, lambda event: events.append((time.time(), event)))
    return _answering(events)


def _tokens(candidate: Candidate, run: Run, rows: Examples) -> float | None:
    """Tokens that the model reads for a row, the mean of a few; None where it reads none, or elsewhere."""
    job = candidate.job
    if job.model.kind == "endpoint":
        paid = _metrics(run).get("prompt_tokens")
        return None if paid is None else paid / len(rows)
    if not candidate.reads_model or (candidate.no_estimate and not candidate.prompts):
        return None
    with contextlib.suppress(NbadaptError):
        count = min(COUNTED, len(rows))
        texts = _read(candidate, run, rows, count)
        tokenizer = pretrained.load_tokenizer(models.base_ref(job.model))
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
