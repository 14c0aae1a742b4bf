"""A comparison at work: rung after rung in a thread of its own, each run in the worker thread that runs have.

::

    heats: groups x rungs ──> further seeds of the last ones ──> a point more of the leader's curve ──> test, once
              ^ candidates that are added while it works

Whatever is asked of it from outside is asked through `stop`, `stop_candidate` and `add`; it obeys between two looks at
the run that is at work.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import gc
import hashlib
import importlib
import json
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbadapt import models, runner, store
from nbadapt.capture import Capture
from nbadapt.control import Control
from nbadapt.errors import NbadaptError, RequestError, Stopped, StoreError, drop_frames, first_line
from nbadapt.plan import Plan
from nbadapt.selection import measuring, rungs
from nbadapt.selection.candidates import Candidate, Prepared, look_up_one
from nbadapt.selection.figures import Measure
from nbadapt.selection.forgetting import forgotten
from nbadapt.selection.trials import Said, Trial, Trials, failed, key

if TYPE_CHECKING:
    from nbadapt.data import Examples
    from nbadapt.method import Job
    from nbadapt.run import Run
    from nbadapt.selection.specs import Spec

POLL_SECONDS = 0.1
TELLING = 1.0  # seconds of a rough time, from which on the measured one says how rough it is
UNMEASURED = 0.3  # of a rough time, which may be three times too long, before anything was timed
TOO_LATE = "out of time"
FINISHED = "in the last rung"


@dataclass
class Entry:
    """A candidate in a contest.

    Attributes:
        state: "waiting", "running", "dropped", `FINISHED`, "failed", "stopped" or "out of time".
        reason: why it is no longer in.
        trials: what is done, in the order of its rungs; further seeds at the end.
        test: what it said to the test rows, one for each of its trials on all rows.
    """

    candidate: Candidate
    state: str = "waiting"
    reason: str = ""
    trials: list[Trial] = field(default_factory=list)
    test: list[Said] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Its short name."""
        return self.candidate.label

    @property
    def last(self) -> Trial | None:
        """The trial on the most rows, of the first seed."""
        first = [trial for trial in self.trials if trial.seed == self.trials[0].seed]
        return max(first, key=lambda trial: trial.rows, default=None)

    def full(self, rows: int) -> list[Trial]:
        """The trials on all rows, one a seed."""
        return [trial for trial in self.trials if trial.rows == rows]


class Contest:
    """A comparison that works; `start` it once."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.measure = Measure(prepared.metric, prepared.parts.validation)
        self.trials = Trials(prepared.parts.key)
        self.entries = [Entry(candidate) for candidate in prepared.candidates]
        self.notices = list(prepared.notices)
        self.control = Control()
        self.state = "starting"
        self.error: NbadaptError | None = None
        self.run: Run | None = None
        self.current: Entry | None = None
        self.log: list[str] = []  # a line for each thing that was done
        self.name = _name(prepared)
        self._lock = threading.Lock()
        self._closed = False  # whether no candidate is taken in any more
        self._thread: threading.Thread | None = None
        self._base: Any = None
        self._parts: dict[int, Examples] = {}
        self._rates: list[float] = []  # measured seconds for each rough one
        self._began = self._ended = 0.0
        self._before = self.trials.spent(self.name)

    # ------------------------------------------------------------------ from outside

    def start(self) -> None:
        """Begin to work, in a thread."""
        self._began = time.monotonic()
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._work,), name=f"nbadapt-compare-{self.name}", daemon=True
        )
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it is at work."""
        return self._thread is not None and self._thread.is_alive()

    def join(self, timeout: float | None = None) -> None:
        """Wait for its thread."""
        if self._thread is not None:
            self._thread.join(timeout)

    def stop(self, reason: str = "stopped by the user") -> None:
        """End after the step that is at work; what is done is kept, and the same cell goes on from there."""
        self.control.stop(reason)

    def stop_candidate(self, label: str) -> None:
        """Take one candidate out; the others go on."""
        for entry in self.entries:
            if entry.label == label and entry.state in {"waiting", "running"}:
                entry.state, entry.reason = "stopped", "stopped by the user"

    def add(self, spec: Spec) -> None:
        """Take a candidate in; it is tried when those that are there are through.

        Raises:
            NbadaptError: it cannot be tried.
        """
        others = [entry.candidate for entry in self.entries]
        candidate = look_up_one(self.prepared.asked, self.prepared.parts, spec, others)
        with self._lock:
            if self._closed:
                raise RequestError("the comparison has ended: add the candidate to its cell, and run that again")
            self.entries.append(Entry(candidate))

    @property
    def elapsed(self) -> float:
        """Seconds of work, those of earlier kernels included."""
        return self._before + ((self._ended or time.monotonic()) - self._began if self._began else 0.0)

    @property
    def left(self) -> float | None:
        """Seconds that the budget leaves; None where there is no limit."""
        most = self.prepared.asked.budget.seconds
        return None if most is None else most - self.elapsed

    # ------------------------------------------------------------------ the work

    def _work(self) -> None:
        try:
            self.trials.folder.mkdir(parents=True, exist_ok=True)
            with Capture(self.trials.folder / f"{self.name}.log"):
                self._compare()
            self.state = "stopped" if self.control.stopping else "done"
        except Stopped:
            self.state = "stopped"
        except NbadaptError as error:
            self.state, self.error = "failed", error
            drop_frames(error)
        except OSError as error:
            self.state, self.error = "failed", StoreError(f"{self.trials.folder} cannot be written: {error}")
        except Exception as error:  # noqa: BLE001 - whatever goes wrong becomes one line
            self.state, self.error = "failed", NbadaptError(f"the comparison broke off: {first_line(error)}")
            drop_frames(error)
        finally:
            self._ended = time.monotonic()
            self.run = self.current = None
            self._closed = True
            self._let_go()

    def _compare(self) -> None:
        self.state = "comparing"
        self._warm_up()
        while waiting := self._waiting():
            self._through(waiting)

    def _warm_up(self) -> None:
        """Import what is imported at first use, in the time of nobody: else the first candidate would pay for it."""
        for name in {name for entry in self.entries for name in entry.candidate.method.requires}:
            with contextlib.suppress(ImportError):  # one that is missing was told before
                importlib.import_module(name)
        cheap = [entry.candidate for entry in self.entries if entry.candidate.baseline and not entry.candidate.prompts]
        if cheap:
            fewest = min(len(self.prepared.parts.training), rungs.FEWEST_ROWS)
            self._prepare_parts([fewest])
            with tempfile.TemporaryDirectory(prefix="nbadapt-warm-") as folder, contextlib.suppress(Exception):
                job = dataclasses.replace(cheap[-1].job, data=self._parts[fewest], directory=Path(folder))
                cheap[-1].method.load(cheap[-1].method.run(job, lambda _: None), job)

    def _through(self, waiting: Sequence[Entry]) -> None:
        """Bring candidates from their first rung to the test rows, with those that were added meanwhile."""
        rows = len(self.prepared.parts.training)
        while waiting:
            self._heat(waiting)
            waiting = [] if self.control.stopping else [e for e in self.entries if e.state == "waiting"]
        for seed in range(1, self.prepared.asked.seeds):
            for entry in self._ranked(self._finalists()):
                self._try(entry, rows, self.prepared.asked.seed + seed)
        self._look_back()
        if not self.control.stopping:
            self._look_at_the_test()

    def _waiting(self) -> list[Entry]:
        """The candidates that were not tried yet; where there are none, no further one is taken in."""
        with self._lock:
            found = [] if self.control.stopping else [entry for entry in self.entries if entry.state == "waiting"]
            self._closed = not found
            return found

    def _heat(self, entries: Sequence[Entry]) -> None:
        """Run some candidates through all rungs: each group by itself, and its rungs in step with the others'."""
        parts = self.prepared.parts
        total = len(parts.training)
        groups: dict[str, list[Entry]] = {}
        for entry in entries:
            groups.setdefault(entry.candidate.group, []).append(entry)
        plans = {name: rungs.schedule(len(kin), total, len(parts.training.labels)) for name, kin in groups.items()}
        levels = max(len(plan) for plan in plans.values())
        self._prepare_parts([rung.rows for plan in plans.values() for rung in plan])
        for level in range(levels):
            ready = [name for name in groups if level >= levels - len(plans[name])]
            for name in sorted(ready, key=lambda name: self._order(groups[name])):
                plan = plans[name]
                rung = plan[level - levels + len(plan)]
                self._rung(groups, name, rung, last=level == levels - 1)

    def _prepare_parts(self, sizes: Sequence[int]) -> None:
        parts = self.prepared.parts
        missing = [size for size in sizes if size not in self._parts]
        if missing:
            self._parts |= rungs.parts(parts.training, [*self._parts, *missing], self.prepared.asked.seed)

    def _order(self, kin: Sequence[Entry]) -> tuple[bool, float, str]:
        """Baselines first, then what is quick: where time runs out, as many as possible are through."""
        seconds = [entry.candidate.seconds or 0.0 for entry in kin]
        model = kin[0].candidate.job.model.path if kin else ""
        limited = self.prepared.asked.budget.seconds is not None
        return not (kin and kin[0].candidate.baseline), min(seconds, default=0.0) if limited else 0.0, model

    def _rung(self, groups: dict[str, list[Entry]], name: str, rung: rungs.Rung, *, last: bool) -> None:
        """Try the candidates of a group that are still in, and drop the weaker ones."""
        tried = []
        for entry in groups[name]:
            if entry.state not in {"stopped", "failed", TOO_LATE} and self._try(
                entry, rung.rows, self.prepared.asked.seed
            ):
                tried.append(entry)
        if self.control.stopping:
            return
        ranked = self._ranked([entry for entry in tried if entry.state != "stopped"])
        keep = 1 if last else max(1, -(-len(ranked) // rungs.KEEP))
        for entry in ranked[keep:]:
            best = ranked[0].label
            entry.state, entry.reason = "dropped", f"behind {best} after {rung.rows:,} rows"
        groups[name] = ranked[:keep]
        for entry in groups[name]:
            entry.state = FINISHED if last else "waiting"

    def _ranked(self, entries: Sequence[Entry]) -> list[Entry]:
        """Best first on the validation rows; among equals the cheaper one."""

        def value(entry: Entry) -> tuple[float, float]:
            trial = entry.last
            assert trial is not None and trial.said is not None  # noqa: PT018 - it was tried
            return -self.measure.better(self.measure.figure([trial.said])), entry.candidate.seconds or 0.0

        return sorted((entry for entry in entries if entry.last is not None), key=value)

    def _finalists(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.state == FINISHED]

    def _look_back(self) -> None:
        """One point more of the leader's curve, where its group had one rung: would more rows help?"""
        found = self._ranked([entry for entry in self._finalists() if not entry.candidate.prompts])
        rows = len(self.prepared.parts.training)
        fewer = round(rows / rungs.GROWTH)
        if not found or found[0].candidate.baseline or len({t.rows for t in found[0].trials}) > 1:
            return
        if fewer >= rungs.FEWEST_ROWS:
            self._prepare_parts([fewer])
            self._try(found[0], fewer, self.prepared.asked.seed)

    # ------------------------------------------------------------------ one trial

    def _try(self, entry: Entry, rows: int, seed: int) -> bool:
        """Train a candidate on so many rows and measure it; whether there is a figure now."""
        if self.control.stopping:
            return False
        if entry.candidate.prompts and entry.candidate.job.examples is None:
            rows = len(self.prepared.parts.training)  # it is shown none of them: every rung is the same trial
        if any((trial.rows, trial.seed) == (rows, seed) for trial in entry.trials):
            return True  # for those that came before a candidate that was added
        job = self._job(entry.candidate, rows, seed, self.prepared.parts.validation)
        name = key(job, self.prepared.parts.validation, self.prepared.metric)
        trial = self.trials.find(name)
        if trial is None or trial.state != "done" or trial.rows != rows:
            if not self._affords(entry, rows):
                if entry.state != FINISHED:
                    entry.state, entry.reason = TOO_LATE, f"the budget leaves no time for {rows:,} rows"
                return False
            trial = self._tried(entry, job, name, rows, seed, trial)
        if trial is None or trial.state != "done":
            return False
        entry.trials.append(trial)
        assert trial.said is not None  # it is done
        self._say(f"{entry.label}: {self.measure.text(trial.said)} after {rows:,} rows")
        return True

    def _job(self, candidate: Candidate, rows: int, seed: int, asked: Examples) -> Job:
        """The candidate's job on so many of the training rows."""
        parts, training = self.prepared.parts, self._parts[rows]
        if not candidate.prompts:
            return dataclasses.replace(candidate.job, data=training, seed=seed)
        if candidate.own_prompt:
            asked, training = parts.with_columns(asked), parts.with_columns(training)
        if self.prepared.metric == "bits_per_byte":  # one answer, and then likelihoods
            asked = dataclasses.replace(asked, rows=asked.rows[:1])
        shown = training if candidate.job.examples is not None else None
        return dataclasses.replace(candidate.job, data=asked, examples=shown, seed=seed)

    def _affords(self, entry: Entry, rows: int) -> bool:
        """Whether the budget has time for a trial, and for the test of what is through by then."""
        left = self.left
        if left is None:
            return True
        test, total = len(self.prepared.parts.test) / 1000, len(self.prepared.parts.training)
        reserved = sum(t.costs.get("inference", 0.0) * test for e in self._finalists() for t in e.full(total))
        return (self._predicted(entry, rows) or 0.0) <= left - reserved

    def _predicted(self, entry: Entry, rows: int) -> float | None:
        """Seconds for a trial: from those of the same group on other rows, else by rule of thumb."""
        kin = [t for e in self.entries if e.candidate.group == entry.candidate.group for t in e.trials]
        share = self._share(entry.candidate, rows)
        known = [t.costs["wall"] * share / self._share(entry.candidate, t.rows) for t in kin if t.costs.get("wall")]
        if known:
            return min(known)
        rough = entry.candidate.seconds
        if rough is None:
            return None
        rate = sorted(self._rates)[len(self._rates) // 2] if self._rates else UNMEASURED
        return rough * share * rate

    def _share(self, candidate: Candidate, rows: int) -> float:
        """The part of its rough time that a trial takes: what prompts asks the same rows at every rung."""
        return 1.0 if candidate.prompts else rows / len(self.prepared.parts.training)

    def _tried(self, entry: Entry, job: Job, name: str, rows: int, seed: int, before: Trial | None) -> Trial | None:
        """Run a trial, or go on with one that was broken off; None where it was stopped."""
        before_state, self.current, entry.state = entry.state, entry, "running"
        start = time.monotonic()
        trial = Trial(name, entry.label, rows, seed, "")
        try:
            self._make_room(entry.candidate)
            run = self._run(entry, job, lambda run_id: self.trials.keep(dataclasses.replace(trial, run=run_id)), before)
            trial = dataclasses.replace(trial, run=run.id)
            if run.state != "done":
                return self._broken_off(entry, run, trial, before_state)
            seconds = max(time.monotonic() - start, run.log.elapsed)  # of one that went on: all of its work
            trial = self._measured(entry.candidate, run, trial, seconds)
        except NbadaptError as error:
            return self._failed(entry, trial, error, before_state)
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises: the others go on
            line = NbadaptError(f"{type(error).__name__}: {first_line(error)}")
            drop_frames(error)
            return self._failed(entry, trial, line, before_state)
        finally:
            self.current = self.run = None
            self.trials.keep_spent(self.name, self.elapsed)
        entry.state = before_state if entry.state == "running" else entry.state
        rough = (entry.candidate.seconds or 0.0) * self._share(entry.candidate, rows)
        if rough >= TELLING:
            self._rates.append(trial.costs["wall"] / rough)
        return self.trials.keep(trial)

    def _failed(self, entry: Entry, trial: Trial, error: NbadaptError, before: str) -> Trial:
        """A trial that failed: of a candidate that is through already, a further seed alone is lost."""
        line = str(error)
        drop_frames(error)
        if before == FINISHED:
            entry.state = FINISHED
            self.notices.append(f"{entry.label} with seed {trial.seed} on {trial.rows:,} rows failed: {line}")
        else:
            entry.state, entry.reason = "failed", line
        self._say(f"{entry.label} failed: {line}")
        return self.trials.keep(failed(trial, line))

    def _broken_off(self, entry: Entry, run: Run, trial: Trial, before: str) -> Trial | None:
        if run.error is not None:
            return self._failed(entry, trial, run.error, before)
        if entry.state == "running":
            entry.state = before
            if before != FINISHED and self.left is not None and self.left <= 0:
                entry.state, entry.reason = TOO_LATE, f"the budget ended while it worked on {trial.rows:,} rows"
        return None

    def _run(
        self, entry: Entry, job: Job, keep: Callable[[str], object], before: Trial | None, *, limited: bool = True
    ) -> Run:
        """The run of a job, ended; `limited` where the budget may end it."""
        run = self._unfinished(before)
        if run is not None:
            self.run = run
            if run.state != "done":
                runner.go_on(run)
        else:
            estimate = entry.candidate.estimate
            run = self.run = runner.start(Plan(job, entry.candidate.method, estimate, (), ""))
            run.tags = ["compare"]
        keep(run.id)
        while run.alive:
            run.join(POLL_SECONDS)
            if run.control.stopping:
                continue
            if self.control.stopping:
                run.control.stop(self.control.reason)
            elif entry.state == "stopped":
                run.control.stop("stopped by the user")
            elif limited and self.left is not None and self.left <= 0:
                run.control.stop("the budget ended")
        return run

    def _unfinished(self, before: Trial | None) -> Run | None:
        """The run of a trial that was broken off, where there is something to go on from."""
        if before is None or before.state != "running" or not before.run:
            return None
        run = self.trials.run(before)
        resumable = run.state in {"killed", "stopped"} and store.last_checkpoint(run.directory) is not None
        return run if resumable or run.state == "done" else None  # done: it was killed while it was measured

    def _measured(self, candidate: Candidate, run: Run, trial: Trial, seconds: float) -> Trial:
        """The trial with what the run says to the validation rows, and what it costs."""
        rows = self.prepared.parts.validation
        said = measuring.said(candidate, run, self._written(candidate, rows), self.prepared.metric)
        costs, what = {"wall": seconds}, ""
        if trial.rows == len(self.prepared.parts.training):
            costs |= measuring.costs(candidate, run, rows, said)
            change = None if trial.seed != self.prepared.asked.seed else self._forgotten(candidate, run)
            if change is not None:
                costs["forgotten"], what = change
        run.forget()
        return dataclasses.replace(trial, state="done", said=said, costs=costs, forgotten=what)

    @staticmethod
    def _forgotten(candidate: Candidate, run: Run) -> tuple[float, str] | None:
        return forgotten(candidate, run.adapted()) if not candidate.prompts else forgotten(candidate, None)

    def _make_room(self, candidate: Candidate) -> None:
        """Let go of a base model that this candidate has no use for, so that no two are in memory."""
        base = models.base_ref(candidate.job.model) if candidate.job.model.kind != "endpoint" else None
        if self._base is not None and base != self._base:
            self._let_go()
        self._base = base
        if candidate.job.device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(candidate.job.device)

    @staticmethod
    def _let_go() -> None:
        gc.collect()
        models.free()

    # ------------------------------------------------------------------ the end

    def _look_at_the_test(self) -> None:
        """Ask the test rows of all that is through, once; what was asked before is not asked again."""
        self.state = "looking at the test rows"
        total = len(self.prepared.parts.training)
        todo = {e.label: [t for t in e.full(total) if self.trials.test(t.key) is None] for e in self._finalists()}
        new = sum(1 for trials in todo.values() if trials)
        if new:
            self.trials.add_look(time.time(), new)
        for entry in self._finalists():
            try:
                entry.test = [self._test(entry.candidate, trial) for trial in entry.full(total)]
            except NbadaptError as error:
                entry.state, entry.reason = "failed", f"on the test rows: {error}"
                drop_frames(error)
            except Exception as error:  # noqa: BLE001 - whatever a plugin raises: the others go on
                entry.state, entry.reason = "failed", f"on the test rows: {type(error).__name__}: {first_line(error)}"
                drop_frames(error)
        looks = len(self.trials.looks())
        if looks > 1:
            self.notices.append(
                f"the test rows were looked at {looks} times, for candidates that came later: the more often, the less "
                "their figures are worth"
            )

    def _test(self, candidate: Candidate, trial: Trial) -> Said:
        """What a trial's model says to the test rows.

        Raises:
            NbadaptError: it cannot answer them.
        """
        known = self.trials.test(trial.key)
        if known is not None:
            return known
        self._make_room(candidate)
        rows = self.prepared.parts.test
        run = self.trials.run(trial)
        if candidate.prompts and self.prepared.metric != "bits_per_byte":
            job = self._job(candidate, trial.rows, trial.seed, rows)
            run = self._run(Entry(candidate), job, lambda _: None, None, limited=False)
            if run.state != "done":
                raise run.error or Stopped(self.control.reason)
        said = measuring.said(candidate, run, self._written(candidate, rows), self.prepared.metric)
        run.forget()
        return self.trials.keep_test(trial.key, said)

    def _written(self, candidate: Candidate, rows: Examples) -> Examples:
        """The rows with all columns, where the candidate's own prompt may name them."""
        return self.prepared.parts.with_columns(rows) if candidate.own_prompt else rows

    def _say(self, line: str) -> None:
        self.log.append(line)


def _name(prepared: Prepared) -> str:
    """What a comparison is called on disk: the same for the same cell, so that its budget goes on after a kill."""
    asked = prepared.asked
    parts: list[Any] = [
        prepared.parts.key,
        prepared.metric,
        asked.seeds,
        asked.budget.seconds,
        asked.budget.memory,
        *(_described(one) for one in prepared.candidates),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _described(one: Candidate) -> list[Any]:
    """All that makes a candidate another one."""
    job = one.job
    settings = job.config.model_dump(mode="json")
    return [
        one.label,
        one.method.name,
        job.model.name,
        str(job.model.path),
        job.prompt,
        job.device,
        job.dtype,
        settings,
    ]
