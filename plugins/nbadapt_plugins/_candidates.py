"""What the methods that compare prompts share: a search on rows of its own, and the winner once on the held-out rows.

::

    rows to search on ──> prompts, scored and raced ──> the best one ──> held-out rows, once ──> figures
                                    │                       └──> run.generate, run.predict
                                    └──> table: rank, figure, 95 % interval, rows, tokens

The winner's figure on the rows that it won on is too good by chance; the held-out one is not.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from nbadapt.errors import Stopped
from nbadapt.events import Notice, Stage
from nbadapt.method import ADVANCED, Adapted, Emit, Estimate, Job, ModelRef, Outcome
from nbadapt.options import DTYPES
from nbadapt_plugins._prompting import (
    PROMPT,
    PromptConfig,
    PromptMethod,
    cache_bytes,
    check_metric,
    choice_note,
    free_labels_note,
    open_model,
)
from nbadapt_plugins._scoring import CANDIDATES, Scoring, Steps, Tried
from nbadapt_plugins._search_rows import FEWEST

if TYPE_CHECKING:
    from nbadapt.engines.fitting import Questions
    from nbadapt_plugins._ground import Ground

ANSWER_SECONDS = 1.0  # of an endpoint, where nothing is known of it


class CandidateConfig(PromptConfig):
    """Settings of a method that compares prompts."""

    search_rows: int = Field(
        200, ge=FEWEST, le=10_000, description="most rows that prompts are compared on, drawn by the seed"
    )
    racing_rows: int = Field(
        40,
        ge=FEWEST,
        le=10_000,
        description="fewest rows that every prompt is scored on before the weaker half of them is dropped",
        json_schema_extra=ADVANCED,
    )
    better: Literal["higher", "lower"] = Field(
        "higher",
        description="which figure of --metric is the better one: the higher or the lower",
        json_schema_extra=ADVANCED,
    )
    separator: str = Field(
        "\n\n",
        min_length=1,
        max_length=100,
        description="text between demonstrations, for models without chat",
        json_schema_extra=ADVANCED,
    )


@dataclass(frozen=True)
class Load:
    """What one model is asked for.

    Attributes:
        model: which one.
        answers: how many.
        prompt_tokens: of all their prompts, about.
        longest: tokens that an answer takes at most; 0 where labels are scored.
        steps: batches.
        parameters: of the model; 0 behind an endpoint.
        device: where it is loaded.
        dtype: of its weights.
    """

    model: ModelRef
    answers: int
    prompt_tokens: int
    longest: int
    steps: int
    parameters: int
    device: str
    dtype: str

    @property
    def at_endpoint(self) -> bool:
        """Whether it is paid for in tokens, and not computed here."""
        return self.model.kind == "endpoint"

    def seconds(self, parallel: int) -> float | None:
        """Very roughly; None on an accelerator, where only a measurement tells."""
        if self.at_endpoint:
            return self.answers / parallel * ANSWER_SECONDS
        if self.device != "cpu":
            return None
        from nbadapt.engines import rough_time

        written = self.steps * self.longest
        return rough_time.seconds(self.parameters, self.dtype, DTYPES[self.dtype], self.prompt_tokens, written)


@dataclass(frozen=True)
class Search:
    """What a search comes to, known before it starts.

    Attributes:
        steps: batches of prompts.
        answers: that the model is asked for, for rows to search on.
        prompt_tokens: of those, about.
        rows: on which prompts are compared, the first and the last of the rounds.
        line: what is done, for people.
        proposals: what a model is asked for besides, for prompts to search among.
        memory: predicted bytes by item, besides those of the model.
        elsewhere: those of them that are on another device than the job's -> that device.
    """

    steps: int
    answers: int
    prompt_tokens: int
    rows: tuple[int, int]
    line: str
    proposals: Load | None = None
    memory: Mapping[str, int] = field(default_factory=dict)
    elsewhere: Mapping[str, str] = field(default_factory=dict)


class CandidateMethod(PromptMethod):
    """A method that compares prompts on rows with answers, and keeps the best one."""

    @abstractmethod
    def ground(self, job: Job) -> Ground:
        """The rows and templates; raises what is wrong with them."""

    @abstractmethod
    def planned(self, job: Job, ground: Ground) -> tuple[Search, Sequence[Questions]]:
        """What the search comes to, and questions as long as the longest that it will ask.

        Raises:
            RequestError, DataError, ModelError: what cannot be asked.
        """

    @abstractmethod
    def search(self, job: Job, ground: Ground, model: Adapted, scoring: Scoring, steps: Steps) -> Tried:
        """Compare prompts; the best one. Lets Stopped and errors through: what was scored is in `scoring`."""

    # ------------------------------------------------------------------ the contract

    def estimate(self, job: Job) -> Estimate:
        """Parameters, memory, steps; answers, tokens and time of the search in its notes."""
        ground = self.ground(job)
        search, questions = self.planned(job, ground)
        check_metric(job, questions[0])
        steps = search.steps + ground.steps_for(len(ground.division.held_out))
        notes = _notes(job, ground, search, questions)
        if ground.at_endpoint:
            return Estimate(memory=search.memory, elsewhere=search.elsewhere, steps=steps, notes=notes)
        width = DTYPES[job.dtype]
        longest = max(each.longest for each in questions)
        cache = cache_bytes(ground.config, job.config.batch_size * longest, width)
        return Estimate(
            total=ground.total,
            memory={"weights": ground.total * width, "activations": cache, **search.memory},
            elsewhere=search.elsewhere,
            steps=steps,
            notes=notes,
        )

    def run(self, job: Job, emit: Emit) -> Outcome:
        """Search, then ask the best prompt the held-out rows. After a Stop the best so far is kept."""
        from nbadapt.engines import evaluation
        from nbadapt.engines.answering import Answering

        emit(Stage("reading the rows"))
        ground = self.ground(job)
        search, questions = self.planned(job, ground)
        check_metric(job, questions[0])
        steps = Steps(emit, search.steps + ground.steps_for(len(ground.division.held_out)))
        for note in _notes(job, ground, search, questions):
            emit(Notice(note))
        emit(Stage("reaching the endpoint" if ground.at_endpoint else "loading the model"))
        model = open_model(job, emit)
        steps.models.append(model)
        asked = replace(job, data=ground.division.search.table)  # for errors, which name it
        with Answering(model, ground.labels, asked, steps, None) as answering:
            scoring = Scoring(
                job, classes=bool(ground.labels), answering=answering, steps_for=ground.steps_for, steps=steps
            )
            try:
                best = self.search(job, ground, model, scoring, steps)
            except Stopped:
                return self._stopped(job, ground, scoring, steps, emit)
            except Exception:  # an endpoint that is gone, memory: what was scored is not lost with it
                self._keep_best(job, ground, scoring, steps)
                raise
            try:
                scoring.choose(best)
                emit(Notice(scoring.verdict(best)))
                evaluation.tell_reused(steps.models[1:], emit)  # a proposer; of the asked model it is told at the end
            except Stopped:  # the search is over, the held-out rows are not asked
                scoring.choose(best, tell=False)
                return _with_usage(self._kept(job, ground, scoring, best), steps)
            fault = answering.fault
        if fault:
            _unless_stopped(emit, Notice(fault, "warning"))
        return self._hold_out(job, ground, model, scoring, best, steps)

    def load(self, outcome: Outcome, job: Job) -> Adapted:
        """The model with the chosen prompt around every input, and its labels to choose from."""
        from nbadapt.engines.prompted import Prompted
        from nbadapt.engines.prompts import Shot
        from nbadapt.engines.templated import Templated

        stored = json.loads((job.directory / outcome.artifacts["prompt"]).read_text(encoding="utf-8"))
        pool = [Shot(**shot) for shot in stored["shots"]]
        prompted = Prompted(
            open_model(job), stored["labels"], lambda prompts: [pool for _ in prompts], stored["separator"]
        )
        return Templated(prompted, stored["template"], job.variables, stored["instruction"])

    # ------------------------------------------------------------------ how it ends

    def _hold_out(
        self, job: Job, ground: Ground, model: Adapted, scoring: Scoring, best: Tried, steps: Steps
    ) -> Outcome:
        """Ask the best prompt the held-out rows."""
        from nbadapt.engines import evaluation, prompt_log

        found = self._kept(job, ground, scoring, best)
        plan = ground.held_out(best.template, best.instruction)
        prompt_log.write(job.directory, plan.queries)
        held_out = replace(job, data=ground.division.held_out.table)
        kept = []

        def keep(outcome: Outcome) -> None:
            kept.append(outcome)
            _keep(job, found, steps, outcome)

        try:
            outcome = evaluation.evaluate(model, plan.queries, ground.labels, held_out, steps, keep)
        except Stopped:  # before the first answer
            return _with_usage(found, steps)
        except Exception:
            if not kept:
                keep(Outcome())
            raise
        return _joined(found, outcome, steps)

    def _kept(self, job: Job, ground: Ground, scoring: Scoring, best: Tried) -> Outcome:
        """Write the chosen prompt and the table; the outcome of the search alone."""
        from nbadapt import store

        path = job.directory / PROMPT
        path.parent.mkdir(parents=True, exist_ok=True)
        store.write_json(
            path,
            {
                "labels": ground.labels,
                "template": best.template,
                "instruction": best.instruction,
                "shots": [asdict(shot) for shot in best.shots],
                "separator": job.config.separator,
            },
        )
        scoring.write(job.directory)
        score = best.score
        assert score is not None  # it was asked
        name = f"search_{scoring.figure}"
        figures = {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high, "search_rows": score.rows}
        return Outcome(figures, {"prompt": PROMPT, "candidates": CANDIDATES})

    def _stopped(self, job: Job, ground: Ground, scoring: Scoring, steps: Steps, emit: Emit) -> Outcome:
        """The best so far; lets the Stop through where nothing was scored."""
        from nbadapt.engines import evaluation

        best = scoring.safest()
        if best is None:
            raise Stopped
        scoring.choose(best)
        evaluation.tell_reused(steps.models, emit)
        emit(Notice(f"stopped before the end of the search: {best.name} is the best so far, and is kept"))
        return _with_usage(self._kept(job, ground, scoring, best), steps)

    def _keep_best(self, job: Job, ground: Ground, scoring: Scoring, steps: Steps) -> None:
        """Store the best so far; the run ends as failed, with this outcome."""
        from nbadapt import store

        best = scoring.safest()
        if best is not None:
            scoring.choose(best, tell=False)  # a Stop must not hide the error
            found = _with_usage(self._kept(job, ground, scoring, best), steps)
            store.write_outcome(job.directory, "failed", found, "")


def _joined(found: Outcome, outcome: Outcome, steps: Steps) -> Outcome:
    """The held-out figures before those of the search, with what all of it cost."""
    joined = Outcome({**outcome.metrics, **found.metrics}, {**outcome.artifacts, **found.artifacts})
    return _with_usage(joined, steps)


def _with_usage(outcome: Outcome, steps: Steps) -> Outcome:
    usage: dict[str, float] = {}
    for model in steps.models:
        for name, tokens in model.usage.items():
            usage[name] = usage.get(name, 0) + tokens
    return replace(outcome, metrics={**outcome.metrics, **usage})


def _keep(job: Job, found: Outcome, steps: Steps, outcome: Outcome) -> None:
    """Store what was answered before an error; the run ends as failed, with this outcome."""
    from nbadapt import store

    store.write_outcome(job.directory, "failed", _joined(found, outcome, steps), "")


def _unless_stopped(emit: Emit, event: Notice) -> None:
    """Tell something at a point where a Stop has nothing to stop."""
    try:
        emit(event)
    except Stopped:
        return


# ------------------------------------------------------------------------------------------------ what it will cost


def _notes(job: Job, ground: Ground, search: Search, questions: Sequence[Questions]) -> tuple[str, ...]:
    """What the user should know before it starts: rows, cost, what cannot be seen on so few rows."""
    told = dict.fromkeys(note for plan in questions for note in plan.notes)
    widths = [f"±{_half_width(rows):.0f} points on {rows:,} rows" for rows in dict.fromkeys(search.rows)]
    power = f"a share's 95 % interval is up to {', '.join(widths)}: smaller differences may be chance"
    return (
        ground.division.note,
        f"{search.line}; {power}",
        _cost(job, ground, search),
        *choice_note(job, ground.labels),
        *free_labels_note(job, ground.labels),
        *told,
    )


def _half_width(rows: int) -> float:
    """Half of the widest interval of a share, in percentage points."""
    from nbadapt.metrics import wilson_interval

    low, high = wilson_interval(0.5, rows)
    return 50 * (high - low)


def _cost(job: Job, ground: Ground, search: Search) -> str:
    """Answers, tokens and time, the held-out rows with them; each model at its own size and its own tokens."""
    held_out = len(ground.division.held_out)
    mean = search.prompt_tokens / max(1, search.answers)
    asked = Load(
        job.model, search.answers + held_out, search.prompt_tokens + round(held_out * mean), ground.longest_answer,
        search.steps + ground.steps_for(held_out), ground.total, job.device, job.dtype,
    )  # fmt: skip
    proposals = search.proposals
    loads = [asked] if proposals is None else [asked, proposals]
    said = (
        f"at most {sum(load.answers for load in loads) - held_out:,} answers in the search and {held_out:,} held-out "
        f"ones, about {sum(load.prompt_tokens for load in loads):,} tokens of prompts"
    )
    if paid := sum(load.answers * load.longest for load in loads if load.at_endpoint):
        said += f" and {paid:,} of answers"
    if proposals is not None and proposals.model != job.model:
        said += (
            f" ({proposals.answers:,} answers are of {proposals.model.name}, for about {proposals.prompt_tokens:,} "
            f"tokens of prompts and at most {proposals.answers * proposals.longest:,} of answers)"
        )
    seconds = [load.seconds(job.config.parallel) for load in loads]
    known = _duration(sum(each for each in seconds if each is not None))
    if ground.at_endpoint:
        return f"{said}; about {known} if an answer takes {ANSWER_SECONDS:g} s"
    if None in seconds:
        return f"{said}; --timed measures the time"
    return f"{said}, very roughly {known} (--timed measures it)"


def _duration(seconds: float) -> str:
    minute, hour = 60, 3600
    if seconds < minute:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / minute:.0f} min" if seconds < hour else f"{seconds / hour:.1f} h"
