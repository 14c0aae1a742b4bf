"""An estimate as a person reads it in a form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbadapt import plan
from nbadapt.memory import available_bytes, gibibytes
from nbadapt.widgets.summary import duration

if TYPE_CHECKING:
    from nbadapt.forms.estimator import Figures

RULE_OF_THUMB = "rule of thumb"


def rows(figures: Figures) -> list[tuple[str, str]]:
    """What it costs, as (item, figure) pairs."""
    job, estimate = figures.job, figures.estimate
    found: list[tuple[str, str]] = [("task", job.task)]
    for name in ("data", "evaluation", "examples"):
        table = getattr(job, name)
        if table is not None:
            found.append(({"evaluation": "held-out rows"}.get(name, f"{name} rows"), f"{len(table):,}"))
    if estimate.total:
        share = f"{estimate.trainable:,} of {estimate.total:,} ({100 * estimate.trainable / estimate.total:.2f} %)"
        found.append(
            ("trainable parameters", share) if job.prompt is None else ("parameters", f"{estimate.total:,}"),
        )
    if job.model.kind != "endpoint" and estimate.memory:
        found.append(("predicted peak memory", peak(figures)))
    if estimate.artifact:
        found.append(("size on disk", gibibytes(estimate.artifact)))
    if estimate.steps:
        found.append(("steps", f"{estimate.steps:,}"))
    if figures.seconds is not None:
        rule = "" if estimate.seconds is not None else f" ({RULE_OF_THUMB})"
        about = f"about {duration(figures.seconds)}" if figures.seconds >= 1 else "under 1 s"
        found.append(("time", f"{about}{rule}"))
    return found


def peak(figures: Figures) -> str:
    """The predicted peak beside what is free."""
    device, free = figures.job.device, available_bytes(figures.job.device)
    beside = f"{gibibytes(free)} free on {device}" if free is not None else f"on {device}"
    if figures.unmeasured:
        return f"is being worked out; {beside}"
    about = "≈ " if figures.approximate else ""
    loaded = plan.loaded_bytes(figures.estimate, figures.job)
    held = f", {gibibytes(loaded)} of it loaded already" if loaded else ""
    others = figures.estimate.elsewhere
    more = "".join(f"; {gibibytes(figures.estimate.memory[item])} for {item} on {others[item]}" for item in others)
    return f"{about}{gibibytes(_here(figures))}{held}; {beside}{more}"


def _here(figures: Figures) -> int:
    """The predicted peak on the job's own device, in bytes."""
    estimate = figures.estimate
    return sum(size for item, size in estimate.memory.items() if item not in estimate.elsewhere)


def bar(figures: Figures) -> tuple[int, int] | None:
    """What is needed beside what is loaded already, and free memory, in bytes; None where either is not known."""
    free = available_bytes(figures.job.device)
    if free is None or figures.unmeasured or figures.job.model.kind == "endpoint" or not figures.estimate.memory:
        return None
    return max(0, _here(figures) - plan.loaded_bytes(figures.estimate, figures.job)), free


def remarks(figures: Figures) -> list[str]:
    """What the user should know before starting."""
    return [*figures.estimate.notes, *figures.notices]
