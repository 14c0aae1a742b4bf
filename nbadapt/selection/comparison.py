"""A comparison for Python: `best` is a run, `frame()` the table, `figure()` the drawing, `report()` a page."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbadapt.cells import brief
from nbadapt.errors import RequestError, RunError, StoreError
from nbadapt.redaction import hide
from nbadapt.selection.advice import sentences
from nbadapt.selection.candidates import Candidate
from nbadapt.selection.contest import Contest
from nbadapt.selection.entry import Entry
from nbadapt.selection.verdict import Verdict, verdict

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from nbadapt.run import Run
    from nbadapt.selection.trials import Trial

VALIDATION = ("validation", "validation_low", "validation_high")
COSTS = ("seconds", "inference", "memory", "trainable", "artifact", "tokens", "forgotten")


class MethodComparison:
    """What `nbadapt.compare` gives back; shown, it is the answer: three sentences, a figure and a table."""

    def __init__(self, contest: Contest) -> None:
        self._contest = contest
        self._verdict: Verdict | None = None

    @property
    def state(self) -> str:
        """One of "done", "stopped" and "failed"."""
        return self._contest.state

    @property
    def notices(self) -> tuple[str, ...]:
        """What one should know: how the rows were parted, what was left out."""
        return tuple(self._contest.notices)

    @property
    def verdict(self) -> Verdict:
        """Figures on the test rows, paired tests and the Pareto front."""
        if self._verdict is None:
            self._verdict = verdict(self._contest)
        return self._verdict

    @property
    def advice(self) -> tuple[str, ...]:
        """What to use, why, and what would change that."""
        return sentences(self._contest, self.verdict)

    @property
    def best(self) -> Run:
        """The run to use: the best on the validation rows, trained on all training rows.

        Raises:
            RunError: no candidate came through.
        """
        chosen = self.verdict.best
        if chosen is None:
            raise RunError(f"the comparison has no best run: {self.advice[0]}")
        return self.runs[chosen.label]

    @property
    def runs(self) -> dict[str, Run]:
        """The run of each candidate on the most rows that it came to, by the candidate's name."""
        found = {entry.label: entry.last for entry in self._contest.entries}
        return {label: self._contest.trials.run(trial) for label, trial in found.items() if trial is not None}

    def frame(self) -> pd.DataFrame:
        """One row a candidate: those with figures on the test rows first, best first, then how far others came.

        =============================== =========================================================================
        column                          what it holds; nothing where it is unknown
        =============================== =========================================================================
        accuracy (the metric's name)    the figure on the test rows
        low, high                       the ends of its 95 % interval, for other rows of this kind
        lowest_seed, highest_seed       the lowest and the highest one of several seeds
        validation                      the figure on the validation rows, of the trial on the most training rows
        validation_low, validation_high the ends of its 95 % interval
        rows                            training rows of that trial
        seeds                           how often it was trained on all of them
        seconds, inference              seconds of work up to the first answer, and for 1,000 answers
        memory, artifact                bytes: the peak of that trial with its base model, and on disk
        trainable, tokens               trained parameters, and tokens of a call
        forgotten, forgotten_as         the change of the base's loss on a general text, or its drift
        front                           whether no other one is both better and cheaper
        baseline                        whether it is one of those that all are held against
        does_not_beat                   the baselines that it does not beat on the test rows
        prompt                          where prompts differ: its own, empty where the columns make it
        state, reason                   "done", "dropped", "failed", "left out", ... and why
        =============================== =========================================================================
        """
        import pandas as pd

        return pd.DataFrame(table(self._contest, self.verdict)).set_index("candidate")

    def differences(self) -> pd.DataFrame:
        """Every two candidates with figures on the test rows, one row a pair: see `Pair`.

        The columns are first, second, difference, p and differs.
        """
        import pandas as pd

        pairs = [(p.first, p.second, p.difference, p.chance, p.differs) for p in self.verdict.pairs]
        return pd.DataFrame(pairs, columns=["first", "second", "difference", "p", "differs"])

    def figure(self, cost: str = "time") -> Figure:
        """Quality against cost with the Pareto front, and the curves over the training rows.

        Args:
            cost: "time" (seconds to make it and for a thousand answers), "inference", "memory" or "trainable".

        Raises:
            RequestError: there is no such cost.
        """
        from nbadapt.widgets.selection_figure import figure

        return figure(self._contest, self.verdict, cost)

    def report(self, path: str | Path) -> Path:
        """Write a page that needs nothing else: the answer, the figure, all tables, and how it was done.

        Raises:
            StoreError: the file cannot be written.
            RequestError: its name ends otherwise than in .html.
        """
        from nbadapt.widgets.selection_report import page

        if not isinstance(path, str | os.PathLike):
            raise RequestError(f"the report is a page: give the name of a file that ends in .html, not {brief(path)}")
        target = Path(path).expanduser()
        if target.suffix.lower() not in {".html", ".htm"}:
            raise RequestError(f"the report is a page: give a name that ends in .html, not {target.name!r}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(page(self._contest, self.verdict), encoding="utf-8", errors="replace")
        except OSError as error:
            raise StoreError(f"the report could not be written to {target}: {error.strerror or error}") from None
        return target

    def __repr__(self) -> str:
        from nbadapt.widgets.selection_report import bundle

        return str(bundle(self._contest, self.verdict)["text/plain"])

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        from nbadapt.widgets.selection_report import bundle

        return bundle(self._contest, self.verdict)


def table(contest: Contest, found: Verdict) -> list[dict[str, Any]]:
    """A record for each candidate; see `MethodComparison.frame`. What is unknown is None."""
    placed = {place.label: place for place in found.places}
    ranked = [place.entry for place in found.places]
    others = [entry for entry in contest.entries if entry.label not in placed]
    others.sort(key=lambda entry: _standing(contest, entry), reverse=True)
    prompts = _prompts(contest)
    records = []
    for entry in [*ranked, *others]:
        place, last = placed.get(entry.label), entry.last
        costs: Mapping[str, float] = last.costs if last is not None else {}
        unbeaten = found.unbeaten(entry.label)
        records.append(
            {
                "candidate": entry.label,
                contest.measure.name: None if place is None else place.value,
                "low": None if place is None else place.low,
                "high": None if place is None else place.high,
                "lowest_seed": None if place is None or place.seeds is None else place.seeds[0],
                "highest_seed": None if place is None or place.seeds is None else place.seeds[1],
                **dict(zip(VALIDATION, validation(contest, last) if last is not None else [None] * 3, strict=True)),
                "rows": last.rows if last is not None else None,
                "seeds": len(entry.test) or None,
                **{name: costs.get(name) for name in COSTS},
                "forgotten_as": last.forgotten if last is not None else "",
                "front": place is not None and place.front,
                "baseline": entry.candidate.baseline,
                "does_not_beat": None if unbeaten is None else ", ".join(unbeaten),
                **({"prompt": prompts[entry.label]} if prompts else {}),
                "state": "done" if place is not None else entry.state,
                "reason": entry.reason,
            }
        )
    for left in contest.prepared.left_out:
        empty = dict.fromkeys(records[0]) if records else {}
        records.append({**empty, "candidate": left.label, "state": "left out", "reason": left.reason})
    return records


def _prompts(contest: Contest) -> dict[str, str | None]:
    """The candidates' own prompts, "" of one that is made from the columns, None of one that asks nothing.

    Empty where they do not differ.
    """
    prompts = {entry.label: entry.candidate.job.prompt for entry in contest.entries}
    if len({text for text in prompts.values() if text is not None}) < 2:
        return {}
    return {label: None if text is None else hide(text) for label, text in prompts.items()}


def validation(contest: Contest, trial: Trial) -> tuple[float | None, float | None, float | None]:
    """A trial's figure on the validation rows that it was asked, with its 95 % interval; None without answers."""
    if trial.said is None:
        return None, None, None
    return contest.measure.figure([trial.said]), *contest.measure.interval([trial.said])


def _standing(contest: Contest, entry: Entry) -> tuple[float, float]:
    """How far a candidate came, and how good it was there: a sort key, the larger the better."""
    last = entry.last
    if last is None or last.said is None:
        return 0.0, 0.0
    return last.rows, contest.measure.better(contest.measure.figure([last.said]))


class ComparisonPlan:
    """A dry run: what would be compared, and what it would cost."""

    def __init__(self, prepared: Any) -> None:
        self.prepared = prepared

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """What would be compared."""
        found: tuple[Candidate, ...] = self.prepared.candidates
        return found

    @property
    def seconds(self) -> float | None:
        """A rough time for all rungs, further seeds and the test rows; None where a candidate's is not known."""
        groups: dict[str, list[Candidate]] = {}
        for one in self.candidates:
            groups.setdefault(one.group, []).append(one)
        costs = [self._cost(kin) for kin in groups.values()]
        return None if None in costs else sum(cost or 0.0 for cost in costs)

    def _cost(self, kin: Sequence[Candidate]) -> float | None:
        """Seconds for the candidates of one group; None where one is not known."""
        from nbadapt.selection import rungs

        parts = self.prepared.parts
        if any(one.seconds is None for one in kin):
            return None
        rows, asked = len(parts.training), len(parts.validation)
        each = sum(one.seconds or 0.0 for one in kin) / len(kin)
        plan: Sequence[rungs.Rung] = rungs.schedule(len(kin), rows, len(parts.training.labels))
        if self.prepared.asked.full_ranking:
            plan = [rungs.Rung(len(kin), rows)]
        seeds, last, test = self.prepared.asked.seeds, plan[-1].candidates, 0.0
        runs = rungs.cost(plan, rows)
        if kin[0].prompts:
            runs, test = rungs.asking_cost(plan, rows, asked), len(parts.test) / asked
        return float(each * (runs + last * (seeds - 1 + test * seeds)))

    def _page(self) -> Any:
        from nbadapt.memory import gibibytes
        from nbadapt.tables import Page, Table
        from nbadapt.widgets.summary import duration

        rows = Table(
            self.candidates,
            {
                "candidate": lambda one: one.label,
                "model": lambda one: Path(one.job.model.name).name,
                "trained parameters": lambda one: (
                    "" if one.prompts or one.no_estimate else f"{one.estimate.trainable:,}"
                ),
                "predicted peak": lambda one: "" if one.no_estimate else gibibytes(one.estimate.peak),
                "on disk": lambda one: gibibytes(one.estimate.artifact) if one.estimate.artifact else "",
                "rough time on all rows": lambda one: "" if one.seconds is None else duration(round(one.seconds)),
            },
            empty="",
            notes=[f"{left.label} is left out: {left.reason}" for left in self.prepared.left_out],
        )
        seconds = self.seconds
        seeds = f" and {self.prepared.asked.seeds} seeds" if self.prepared.asked.seeds > 1 else ""
        told = f"All rungs{seeds} take roughly {duration(round(seconds or 0))} (to a factor of three). "
        told = "" if seconds is None else told
        title = f"Dry run: {len(self.candidates)} candidates; nothing was trained or written"
        return Page(title, rows, told + "; ".join(self.prepared.notices))

    def __repr__(self) -> str:
        return repr(self._page())

    def _repr_html_(self) -> str:
        return str(self._page()._repr_html_())
