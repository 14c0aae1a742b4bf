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
import hashlib
import importlib
import json
import math
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbadapt import models
from nbadapt.capture import Capture
from nbadapt.control import Control
from nbadapt.errors import NbadaptError, RequestError, Stopped, StoreError, drop_frames, first_line
from nbadapt.selection import rungs, specs
from nbadapt.selection.bases import base_of
from nbadapt.selection.candidates import Candidate, Prepared, look_up_one
from nbadapt.selection.entry import FINISHED, TOO_LATE, Entry
from nbadapt.selection.figures import Measure
from nbadapt.selection.trials import Said, Trial, Trials, failed
from nbadapt.selection.trying import Trying, done_share

if TYPE_CHECKING:
    from nbadapt.method import Job
    from nbadapt.run import Run
    from nbadapt.selection.specs import Spec

TELLING = 1.0  # seconds of a rough time, from which on the measured one says how rough it is
UNMEASURED = 0.3  # of a rough time, which may be three times too long, before anything was timed


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
        self.current: Entry | None = None
        self.log: list[str] = []  # a line for each thing that was done
        self.name = _name(prepared)
        self._trying = Trying(prepared, self.trials, self.control, lambda: self.left, self.notices.append)
        self._lock = threading.Lock()
        self._closed = False  # whether no candidate is taken in any more
        self._thread: threading.Thread | None = None
        self._rates: list[float] = []  # measured seconds for each rough one
        self._began = self._ended = 0.0
        self._before = self.trials.spent(self.name)
        self._stopped: list[str] = []  # labels
        self._added: list[str] = []  # lines of the cell
        self._recall()

    def _recall(self) -> None:
        """Take up what was added and stopped in a kernel that is gone."""
        changes = self.trials.changes(self.name)
        for text in changes["added"]:
            try:
                for spec in specs.specs(specs.read(text), self.prepared.asked.namespace):
                    self.entries.append(Entry(self._look_up(spec)))
            except NbadaptError as error:
                self.notices.append(f"{text}, which was added while it worked, is left out: {error}")
            else:
                self._added.append(text)
        for entry in self.entries:
            if entry.label in changes["stopped"]:
                entry.state, entry.reason = "stopped", "stopped by the user"
                self._stopped.append(entry.label)
        if self._added:
            self.notices.append(f"added while it worked: {'; '.join(self._added)}")
        if self._stopped:
            self.notices.append(
                f"stopped while it worked, and not tried again: {', '.join(self._stopped)}; add one in the dashboard, "
                "and it is tried after all"
            )

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

    @property
    def run(self) -> Run | None:
        """The run at work."""
        return self._trying.run

    def stop_candidate(self, label: str) -> None:
        """Take one candidate out; the others go on."""
        for entry in self.entries:
            if entry.label == label and entry.state in {"waiting", "running"}:
                entry.state, entry.reason = "stopped", "stopped by the user"
                self._stopped.append(label)
                self._keep_changes()

    def add(self, spec: Spec) -> None:
        """Take a candidate in, or one that was stopped; it is tried when those that are there are through.

        Raises:
            NbadaptError: it cannot be tried.
        """
        again = next((e for e in self.entries if e.state == "stopped" and e.candidate.spec == spec), None)
        candidate = None if again is not None else self._look_up(spec)
        with self._lock:
            if self._closed:
                raise RequestError("the comparison has ended: add the candidate to its cell, and run that again")
            if again is not None:
                again.state, again.reason = "waiting", ""
                self._stopped.remove(again.label)
            if candidate is not None:
                self.entries.append(Entry(candidate))
                self._added.append(specs.line(spec))
        self._keep_changes()

    def _look_up(self, spec: Spec) -> Candidate:
        others = [entry.candidate for entry in self.entries]
        return look_up_one(self.prepared.asked, self.prepared.parts, spec, others)

    def _keep_changes(self) -> None:
        try:
            self.trials.keep_changes(self.name, self._added, self._stopped)
        except StoreError as error:  # what was asked for is done all the same
            self.notices.append(f"what was added and stopped is lost with this kernel: {error}")

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
            with Capture(self.trials.folder / f"{self.name}.log"), models.remembering(self._trying.kept):
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
            self.current = None
            self._closed = True
            self._trying.let_go()

    def _compare(self) -> None:
        self.state = "comparing"
        self._warm_up()
        with self._trying.bases.garbage_of_trials():
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
            self._trying.prepare_parts([fewest])
            with tempfile.TemporaryDirectory(prefix="nbadapt-warm-") as folder, contextlib.suppress(Exception):
                job = dataclasses.replace(cheap[-1].job, data=self._trying.part(fewest), directory=Path(folder))
                cheap[-1].method.load(cheap[-1].method.run(job, lambda _: None), job)

    def _through(self, waiting: Sequence[Entry]) -> None:
        """Bring candidates from their first rung to the test rows, with those that were added meanwhile."""
        rows = len(self.prepared.parts.training)
        while waiting:
            self._heat(waiting)
            waiting = [] if self.control.stopping else [e for e in self.entries if e.state == "waiting"]
        self._train_again(rows)
        self._look_back()
        if not self.control.stopping:
            self._look_at_the_test()

    def _train_again(self, rows: int) -> None:
        """Train the last ones with further seeds, as far as the budget goes."""
        asked = self.prepared.asked
        for seed in range(asked.seed + 1, asked.seed + asked.seeds):
            last = self._ranked(self._finalists())
            for entry in sorted(last, key=lambda entry: self._trying.bases.order(entry.candidate)):
                self._try(entry, rows, seed)
        short = [entry.label for entry in self.entries if entry.seeds_left_out]
        if short:
            self.notices.append(f"the budget left no time for all {asked.seeds} seeds of {', '.join(short)}")

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
        self._trying.prepare_parts([rung.rows for plan in plans.values() for rung in plan])
        for level in range(levels):
            ready = [name for name, kin in groups.items() if kin and level >= levels - len(plans[name])]
            for name in sorted(ready, key=lambda name: self._order(groups, name)):
                plan = plans[name]
                rung = plan[level - levels + len(plan)]
                self._rung(groups, name, rung, last=level == levels - 1)

    def _order(self, groups: dict[str, list[Entry]], name: str) -> tuple[Any, ...]:
        """What a group's turn is decided by: one base model after the other, so that each is read once.

        Where time may run out, the baselines and the quick ones come first, so that as many as possible are through.
        """
        one = groups[name][0].candidate
        place = self._trying.bases.order(one)
        if self.prepared.asked.budget.seconds is None:
            return (*place, not one.baseline)
        quickest: dict[str, float] = {}  # by base model
        for kin in filter(None, groups.values()):
            path = base_of(kin[0].candidate)
            quickest[path] = min(quickest.get(path, math.inf), _rough(kin))
        path = base_of(one)
        return not one.baseline, quickest[path], path, _rough(groups[name])

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
        if not last:
            said = [self._said(entry) for entry in ranked]
            ranked = [ranked[i] for i in self.measure.early_order(said)]
        keep = 1 if last else max(1, -(-len(ranked) // rungs.KEEP))
        for entry in ranked[keep:]:
            entry.state, entry.reason = "dropped", self._behind(entry, ranked[0], rung.rows)
        groups[name] = ranked[:keep]
        for entry in groups[name]:
            entry.state = FINISHED if last else "waiting"

    def _behind(self, entry: Entry, best: Entry, rows: int) -> str:
        """Why a candidate is dropped, in words."""
        reason = f"behind {best.label} {self._seen(entry, rows)}"
        values = [self.measure.better(self.measure.figure([self._said(each)])) for each in (entry, best)]
        if values[0] < values[1] or self._said(best).log_loss is None:
            return reason
        return f"{reason} in log loss: in {self.measure.label} they cannot be told apart"

    def _seen(self, entry: Entry, rows: int) -> str:
        """What a figure rests on, in words."""
        if not entry.candidate.prompts:
            return f"after {rows:,} rows"
        return f"on {len(self._trying.asked(entry.candidate, rows)):,} validation rows"

    def _ranked(self, entries: Sequence[Entry]) -> list[Entry]:
        """Best first on the validation rows; among equals the cheaper one."""

        def value(entry: Entry) -> tuple[float, float]:
            return -self.measure.better(self.measure.figure([self._said(entry)])), entry.candidate.seconds or 0.0

        return sorted((entry for entry in entries if entry.last is not None), key=value)

    @staticmethod
    def _said(entry: Entry) -> Said:
        """What a candidate said last to the validation rows."""
        trial = entry.last
        assert trial is not None and trial.said is not None  # noqa: PT018 - it was tried
        return trial.said

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
            self._trying.prepare_parts([fewer])
            self._try(found[0], fewer, self.prepared.asked.seed)

    # ------------------------------------------------------------------ one trial

    def _try(self, entry: Entry, rows: int, seed: int) -> bool:
        """Train a candidate on so many rows and measure it; whether there is a figure now."""
        if self.control.stopping:
            return False
        if entry.trial(rows, seed) is not None:
            return True  # for those that came before a candidate that was added
        candidate = entry.candidate
        job = self._trying.job(candidate, rows, seed, self._trying.asked(candidate, rows))
        name = self._trying.name(candidate, job, rows)
        trial = self.trials.find(name)
        if trial is None or trial.state != "done" or trial.rows != rows:
            if not self._affords(entry, rows):
                return False
            trial = self._tried(entry, job, name, rows, seed, trial)
        if trial is None or trial.state != "done":
            return False
        entry.trials.append(trial)
        assert trial.said is not None  # it is done
        self._say(f"{entry.label}: {self.measure.text(trial.said)} {self._seen(entry, rows)}")
        return True

    def _affords(self, entry: Entry, rows: int) -> bool:
        """Whether the budget has time for a trial, and for the test of what is through by then; else it is out."""
        left, needed = self.left, self._predicted(entry, rows)
        if left is None:
            return True
        test, total = len(self.prepared.parts.test) / 1000, len(self.prepared.parts.training)
        reserved = sum(t.costs.get("inference", 0.0) * test for e in self._finalists() for t in e.full(total))
        if (needed or 0.0) <= left - reserved:
            return True
        if entry.state == FINISHED:
            entry.seeds_left_out += 1
        else:
            told = "" if needed is None else f": they need about {needed:,.0f} s"
            entry.out_of_time(f"the budget leaves no time for {rows:,} rows{told}", needed)
        return False

    def _predicted(self, entry: Entry, rows: int) -> float | None:
        """Seconds for a trial: from those of the same group on other rows, else by rule of thumb."""
        kin = [t for e in self.entries if e.candidate.group == entry.candidate.group for t in e.trials]
        share = self._trying.share(entry.candidate, rows)
        known = [
            t.costs["wall"] * share / self._trying.share(entry.candidate, t.rows) for t in kin if t.costs.get("wall")
        ]
        if known:
            return min(known)
        rough = entry.candidate.seconds
        if rough is None:
            return None
        rate = sorted(self._rates)[len(self._rates) // 2] if self._rates else UNMEASURED
        return rough * share * rate

    def _tried(self, entry: Entry, job: Job, name: str, rows: int, seed: int, before: Trial | None) -> Trial | None:
        """Run a trial, or go on with one that was broken off; None where it was stopped."""
        before_state, self.current, entry.state = entry.state, entry, "running"
        start = time.monotonic()
        trial = Trial(name, entry.label, rows, seed, "")
        try:
            keep = self.trials.keep
            run = self._trying.work(entry, job, lambda run_id: keep(dataclasses.replace(trial, run=run_id)), before)
            trial = dataclasses.replace(trial, run=run.id)
            if run.state != "done":
                return self._broken_off(entry, run, trial, before_state)
            seconds = max(time.monotonic() - start, run.log.elapsed)  # of one that went on: all of its work
            trial = self._trying.measured(entry.candidate, run, trial, seconds)
        except NbadaptError as error:
            return self._failed(entry, trial, error, before_state)
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises: the others go on
            line = NbadaptError(f"{type(error).__name__}: {first_line(error)}")
            drop_frames(error)
            return self._failed(entry, trial, line, before_state)
        finally:
            self.current = self._trying.run = None
            self.trials.keep_spent(self.name, self.elapsed)
        entry.state = before_state if entry.state == "running" else entry.state
        rough = (entry.candidate.seconds or 0.0) * self._trying.share(entry.candidate, rows)
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
            if self.left is not None and self.left <= 0:
                self._budget_ended(entry, run, trial)
        return None

    @staticmethod
    def _budget_ended(entry: Entry, run: Run, trial: Trial) -> None:
        """The budget broke a trial off: of one that is through already, a further seed."""
        if entry.state == FINISHED:
            entry.seeds_left_out += 1
            return
        share = done_share(run)
        needed = run.log.elapsed / share if share else None
        told = "" if needed is None else f": {100 * share:.0f} % were done, all need about {needed:,.0f} s"
        entry.out_of_time(f"the budget ended while it worked on {trial.rows:,} rows{told}", needed)

    # ------------------------------------------------------------------ the end

    def _look_at_the_test(self) -> None:
        """Ask the test rows of all that is through, once; what was asked before is not asked again."""
        self.state = "looking at the test rows"
        total = len(self.prepared.parts.training)
        todo = {e.label: [t for t in e.full(total) if self.trials.test(t.key) is None] for e in self._finalists()}
        new = [trial.key for trials in todo.values() for trial in trials]
        if new:
            self.trials.add_look(time.time(), new, sum(1 for trials in todo.values() if trials))
        for entry in sorted(self._finalists(), key=lambda entry: self._trying.bases.order(entry.candidate)):
            self.current = entry
            try:
                entry.test = [self._trying.test(entry.candidate, trial) for trial in entry.full(total)]
            except NbadaptError as error:
                entry.state, entry.reason = "failed", f"on the test rows: {error}"
                drop_frames(error)
            except Exception as error:  # noqa: BLE001 - whatever a plugin raises: the others go on
                entry.state, entry.reason = "failed", f"on the test rows: {type(error).__name__}: {first_line(error)}"
                drop_frames(error)
            finally:
                self.current = self._trying.run = None
        looks = len(self.trials.looks())
        if looks > 1:
            self.notices.append(
                f"the test rows were looked at {looks} times, for candidates that came later: the more often, the less "
                "their figures are worth"
            )

    def _say(self, line: str) -> None:
        self.log.append(line)


def _rough(kin: Sequence[Entry]) -> float:
    """The rough seconds of the quickest of some candidates."""
    return min((entry.candidate.seconds or 0.0 for entry in kin), default=0.0)


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
