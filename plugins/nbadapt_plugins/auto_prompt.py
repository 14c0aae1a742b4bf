"""Automatic prompt engineering: a model writes the instruction (Zhou et al. 2022, https://arxiv.org/abs/2211.01910).

::

    examples ──> proposer ──> m instructions ──> scored on the first rows ──> the best so far
                    ^                                                            │
                    └──── the same in other words  <──── rounds 2 ... T  ────────┤
                                                                                 └──> a race on more rows ──> winner

    rho* = argmax_rho  1/n sum_i [ y(rho, x_i) = y_i ]     y(rho, x): the answer to x below the instruction rho

    answers = m T (1 + n_1) + n_1 + race,  at most the budget       1: its proposal, n_1 rows; n_1: no instruction

Nothing is trained. The body is the prompt of a row, above which the instruction stands; it is also tried without one.
The paper keeps a share of the candidates and may score by likelihood: here a fixed number are varied, and the race
is successive halving.

When to use it: where labelled rows are at hand and no good wording is: a model writes instructions within a budget
that is told beforehand.

When not: with a proposer that does not follow instructions well, as the smallest models, or where each answer is
dear.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from nbadapt.method import ADVANCED
from nbadapt.options import DTYPES
from nbadapt_plugins import _proposing
from nbadapt_plugins._candidates import CandidateConfig, CandidateMethod, Load, Search
from nbadapt_plugins._ground import Ground
from nbadapt_plugins._prompting import sorting_example
from nbadapt_plugins._proposing import Proposer, Written
from nbadapt_plugins._search_rows import FEWEST
from nbadapt_plugins._spending import Spending, spend, steps_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from nbadapt.engines.fitting import Questions
    from nbadapt.method import Adapted, Job
    from nbadapt_plugins._scoring import Scoring, Steps, Tried

PARENTS = 3  # instructions that are varied in a round
MEANINGFUL = 4  # instructions in a round, below which the user is warned


class AutoPromptSettings(CandidateConfig):
    """Settings of automatic prompt engineering."""

    budget: int = Field(
        600, ge=1, le=1_000_000, description="most answers of the search, proposals and scorings; held-out rows not"
    )
    rounds: int = Field(
        3, ge=1, le=50, description="rounds of proposals: the first from examples, the others vary the best so far"
    )
    proposer: str = Field(
        "", max_length=500, description="model that writes the instructions, as --model takes it; empty: the same one"
    )
    proposer_base_url: str = Field(
        "",
        max_length=2000,
        description="where the proposer's endpoint is; empty: as for --model, if they share it",
        json_schema_extra=ADVANCED,
    )
    proposer_key_env: str = Field(
        "",
        max_length=200,
        description="environment variable that holds the key of the proposer's endpoint",
        json_schema_extra=ADVANCED,
    )
    proposal_examples: int = Field(
        5, ge=1, le=100, description="answered examples that an instruction is written from", json_schema_extra=ADVANCED
    )
    proposal_temperature: float = Field(
        0.9,
        gt=0,
        le=10,
        description="how freely instructions are drawn; flatter when higher",
        json_schema_extra=ADVANCED,
    )
    instruction_tokens: int = Field(
        64, ge=4, le=2048, description="longest instruction, in tokens", json_schema_extra=ADVANCED
    )
    racing_rows: int = Field(
        20,
        ge=FEWEST,
        le=10_000,
        description="rows that every instruction is scored on before the race of the best",
        json_schema_extra=ADVANCED,
    )


class AutoPrompt(CandidateMethod):
    """Lets a model write the instruction, and keeps the one that does best."""

    name = "auto-prompt"
    verb = "prompt"
    family = "Search for a prompt"
    summary = "let a model propose instructions from examples; the best one on rows with answers is kept"
    reference = "https://arxiv.org/abs/2211.01910"
    tasks = frozenset({"classification", "generation"})
    example = sorting_example("auto-prompt --budget 60 --rounds 1")
    Config = AutoPromptSettings

    @classmethod
    def trial(cls, folder: Path) -> Mapping[str, Any]:  # noqa: ARG003 - of the contract
        """A small budget."""
        return {"budget": 70, "rounds": 2, "instruction_tokens": 8, "racing_rows": FEWEST, "proposal_examples": 2}

    def ground(self, job: Job) -> Ground:
        """The rows, and the body as the template of all prompts."""
        shown = min(2 * job.config.proposal_examples, _rows(job) // 4)
        return Ground(job, [self._prompt(job)], max(1, shown), in_prompts=False)

    def _prompt(self, job: Job) -> str:
        from nbadapt_plugins._prompting import labels_of

        return self._template(job, labels_of(job))

    def planned(self, job: Job, ground: Ground) -> tuple[Search, Sequence[Questions]]:
        """How the budget is spent, with a stand-in for the longest instruction."""
        text = self._prompt(job)
        plan = spend(job.config.budget, job.config.rounds, len(ground.division.search), job.config.racing_rows)
        stand_in = " ".join(["the"] * job.config.instruction_tokens)  # most tokenizers read a word as one token
        alone, questions = ground.tried(1, text, "the prompt alone")
        longest, more = ground.tried(2, text, "an instruction", stand_in)
        proposer = _proposer(job, ground, text)
        parameters, meta = proposer.check()
        count = sum(plan.proposals)
        scored = plan.answers - count
        proposals = Load(
            proposer.ref, count, count * meta, job.config.instruction_tokens, _batches(plan, job.config.batch_size),
            ground.total if proposer.own else parameters, proposer.device, proposer.width,
        )  # fmt: skip
        search = Search(
            steps=steps_of(plan, ground),
            answers=scored,
            prompt_tokens=scored * max(alone.tokens, longest.tokens),
            rows=(plan.first, plan.race[-1].rows if plan.race else plan.first),
            line=_line(plan, proposer, len(ground.division.search)),
            proposals=proposals,
            memory={"proposer": parameters * DTYPES[proposer.width]} if parameters else {},
            elsewhere={"proposer": proposer.device} if parameters and proposer.device != job.device else {},
        )
        return search, [questions, more, ground.held_out(text, stand_in)]

    def search(self, job: Job, ground: Ground, model: Adapted, scoring: Scoring, steps: Steps) -> Tried:
        """Propose, score, vary the best, and race at the end."""
        text = self._prompt(job)
        plan = spend(job.config.budget, job.config.rounds, len(ground.division.search), job.config.racing_rows)
        proposer = _proposer(job, ground, text)
        opened = proposer.open(model, steps)
        if opened is not model:
            steps.models.append(opened)
        alone = scoring.add(ground.tried(1, text, "the prompt alone")[0])
        alone.title = "(no instruction)"
        scoring.ask([alone], 0, plan.first)
        written = Written(ground, scoring, text)
        for round_, count in enumerate(plan.proposals):
            when = f", round {round_ + 1} of {len(plan.proposals)}"
            steps.stage = f"proposing instructions{when}"
            parents = [tried.instruction for tried in scoring.ranked(scoring.tried) if tried.instruction][:PARENTS]
            proposals = (
                proposer.vary(parents, count, round_, steps) if parents else proposer.propose(count, round_, steps)
            )
            steps.answers += len(proposals)
            fresh = [tried for tried in map(written.take, proposals) if tried is not None]
            steps.skip((count - len(fresh)) * scoring.steps_for(plan.first))
            scoring.ask(fresh, 0, plan.first, when)
            scoring.settle()
        written.tell(steps)
        return self._race(scoring, plan, steps)

    def _race(self, scoring: Scoring, plan: Spending, steps: Steps) -> Tried:
        """The best ones on more rows; fewer than planned where proposals were alike."""
        from nbadapt.engines import racing

        ordered = scoring.ranked(scoring.tried)
        if not plan.race:
            return ordered[0]
        finalists = ordered[: plan.race[0].candidates]
        scoring.settle(finalists)
        planned = iter(plan.race)
        seen = plan.first

        def ranked(left: Sequence[Tried]) -> list[Tried]:
            nonlocal seen
            this = next(planned)
            steps.skip((this.candidates - len(left)) * scoring.steps_for(this.rows - seen))
            seen = this.rows
            best = scoring.ranked(left)
            following = next((one.candidates for one in plan.race if one.rows > seen), len(best))
            scoring.settle(best[:following])
            return best

        def ask(left: Sequence[Tried], start: int, stop: int) -> None:
            scoring.ask(left, start, stop, f" on {stop:,} rows")

        found = racing.race(finalists, plan.race, ask, ranked, plan.first)
        return found[0]


def _rows(job: Job) -> int:
    """How many rows examples for the proposer are taken from."""
    if job.examples is not None:
        return len(job.examples)
    return len(job.data) // 2 if job.data is not None else 0


def _batches(plan: Spending, size: int) -> int:
    """Batches of proposals: examples differ from prompt to prompt, variations have but a few prompts, each often."""
    first, *others = plan.proposals
    return -(-first // size) + sum(-(-count // min(PARENTS, size)) for count in others)


def _line(plan: Spending, proposer: Proposer, rows: int) -> str:
    """What is done, for people."""
    count, rounds = sum(plan.proposals), len(plan.proposals)
    most = max(plan.proposals)
    line = (
        f"{proposer.ref.name} proposes {count} instructions in {rounds} round{'s' * (rounds > 1)}, each scored on "
        f"{plan.first:,} of {rows:,} rows"
    )
    if plan.race:
        line += f", and the best {plan.race[0].candidates} race to {plan.race[-1].rows:,}"
    if most < MEANINGFUL:
        line += f"; {most} a round are few to choose from: a larger budget finds more"
    return line


def _proposer(job: Job, ground: Ground, text: str) -> Proposer:
    """The model that proposes, with the rows that it is shown."""
    from nbadapt.engines.prompts import shots_of

    shots = shots_of(ground.division.shown.alone(), text, job.variables)
    return Proposer(job, _proposing.find(job), shots, ground.labels)
