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
import importlib
import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbadapt import memo, origins
from nbadapt.capture import Capture
from nbadapt.control import Control
from nbadapt.errors import NbadaptError, RequestError, Stopped, StoreError, drop_frames, first_line
from nbadapt.selection import keys, rungs
from nbadapt.selection.bases import base_of
from nbadapt.selection.candidates import Candidate, Prepared, look_up_one
from nbadapt.selection.changes import Changes
from nbadapt.selection.clock import Clock
from nbadapt.selection.entry import FINISHED, Entry
from nbadapt.selection.figures import Measure
from nbadapt.selection.race import Race
from nbadapt.selection.trials import Said, Trial, Trials, failed
from nbadapt.selection.trying import Trying, done_share

if TYPE_CHECKING:
    from nbadapt.method import Job
    from nbadapt.run import Run
    from nbadapt.selection.specs import Spec


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
        self.name = keys.comparison(prepared)
        self._trying = Trying(prepared, self.trials, self.control, lambda: self.left, self.notices.append)
        self._lock = threading.Lock()
        self._closed = False  # whether no candidate is taken in any more
        self._thread: threading.Thread | None = None
        self._clock = Clock(self.entries, self._trying, lambda: self.left, len(prepared.parts.test))
        self._put_off: dict[str, tuple[str, float]] = {}  # label -> why it was not tried in this heat, and its seconds
        self._made = 0  # trials
        self._began = self._ended = 0.0
        self._before = self.trials.spent(self.name)
        self._changes = Changes(self.trials, prepared)
        self.notices += self._changes.recall(self.entries, self._look_up)

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
                self._remember(self._changes.stop, entry.candidate.spec)

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
            if candidate is not None:
                self.entries.append(Entry(candidate))
        self._remember(self._changes.add if again is None else self._changes.take_back, spec)

    def _look_up(self, spec: Spec) -> Candidate:
        others = [entry.candidate for entry in self.entries]
        found = look_up_one(self.prepared.asked, self.prepared.parts, spec, others)
        if found.no_estimate and found.no_estimate not in self.notices:
            self.notices.append(found.no_estimate)
        return found

    def _remember(self, change: Callable[[Spec], None], spec: Spec) -> None:
        try:
            change(spec)
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
            with Capture(self.trials.folder / f"{self.name}.log"), memo.remembering(self._trying.bases.kept):
                self._compare()
            self.state = "stopped" if self.control.stopping else "done"
        except Stopped:
            self.state = "stopped"
        except NbadaptError as error:
            self.state, self.error = "failed", error
            drop_frames(error)
        except OSError as error:
            self.state, self.error = "failed", StoreError(f"{self.trials.folder} cannot be written: {error}")
        except BaseException as error:  # noqa: BLE001 - whatever goes wrong becomes one line
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
            self._heat()
            waiting = [] if self.control.stopping else [e for e in self.entries if e.state == "waiting"]
        self._train_again(rows)
        self._look_back()
        if not self.control.stopping:
            self._look_at_the_test()

    def _train_again(self, rows: int) -> None:
        """Train the last ones with further seeds, as far as the budget goes."""
        asked = self.prepared.asked
        for seed in range(asked.seed + 1, asked.seed + asked.seeds):
            last = self._ranked(self._finalists(), rows)
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

    def _heat(self) -> None:
        """Run the groups of all that wait through their rungs.

        What a budget of time had no room for is put off to the next heat, which knows better how long a trial takes; it
        is out when a heat had no room for anything.
        """
        made, self._put_off = self._made, {}
        entries = list(self.entries)
        if self.left is not None:  # the quick ones first
            entries.sort(key=lambda entry: entry.candidate.seconds or 0.0)
        names = dict.fromkeys(entry.candidate.group for entry in entries if entry.state == "waiting")
        kin = {name: [entry for entry in entries if entry.candidate.group == name] for name in names}
        training = self.prepared.parts.training
        self._trying.prepare_parts(rungs.sizes(len(training), len(training.labels)))
        self._take_up([entry for group in kin.values() for entry in group])
        asked = self.prepared.asked
        races = [Race(group, training, asked.seed, halving=not asked.full_ranking) for group in kin.values()]
        for race, rung in self._turns(races):
            self._rung(races, race, rung)
        for entry in entries:
            if self._made == made and entry.state == "waiting" and entry.label in self._put_off:
                entry.out_of_time(*self._put_off[entry.label])

    def _take_up(self, entries: Sequence[Entry]) -> None:
        """Find the trials of the rungs that are on disk; who was trained on all rows is through."""
        training, seed = self.prepared.parts.training, self.prepared.asked.seed
        sizes = rungs.sizes(len(training), len(training.labels))
        known = self.trials.any()
        for entry in entries:
            if entry.begun is not None:
                continue
            found = {rows: self._find(entry, rows, seed)[-1] for rows in sizes} if known else {}
            entry.begun = {rows for rows, trial in found.items() if trial is not None}
            for trial in (found[rows] for rows in sorted(found)):
                if trial is not None and trial.state == "done":
                    self._take(entry, trial)
        for entry in entries:
            if len(sizes) > 1 and entry.state == "waiting" and entry.trial(len(training), seed) is not None:
                entry.state = FINISHED

    def _turns(self, races: Sequence[Race]) -> Iterator[tuple[Race, int]]:
        """Whose turn it is in which rung: rungs in step; where time may run out, after those of the baselines."""
        first = [race for race in races if self.left is not None and race.racers and race.racers[0].candidate.baseline]
        for race in sorted(first, key=lambda race: self._order(first, race)):
            yield from ((race, rung) for rung in range(race.begin, -1, -1) if race.at(rung))
        others = [race for race in races if race not in first]
        for rung in range(max((race.begin for race in others), default=0), -1, -1):
            ready = [race for race in others if race.at(rung)]
            yield from ((race, rung) for race in sorted(ready, key=lambda race: self._order(others, race)))

    def _order(self, races: Sequence[Race], race: Race) -> tuple[Any, ...]:
        """What a group's turn is decided by: one base model after the other, so that each is read once.

        Where time may run out, the baselines and the quick ones come first, so that as many as possible are through.
        """
        one = race.racers[0].candidate
        if self.prepared.asked.budget.seconds is None:
            return (*self._trying.bases.order(one), not one.baseline)
        quickest: dict[str, float] = {}  # by base model
        for kin in filter(None, (other.racers for other in races)):
            path = base_of(kin[0].candidate)
            quickest[path] = min(quickest.get(path, math.inf), _rough(kin))
        path = base_of(one)
        return not one.baseline, quickest[path], path, _rough(race.racers)

    def _rung(self, races: Sequence[Race], race: Race, rung: int) -> None:
        """Try the candidates of a group that are still in, and drop the weaker ones."""
        rows, seed = race.size(rung), self.prepared.asked.seed
        tried: list[Entry] = []
        late: list[Entry] = []
        for entry in race.enter(rung):
            known = rung == 0 or entry.trial(rows, seed) is not None
            if not known and self._clock.lacks_for_all(race, races, rung, tried, entry):
                late.append(entry)
                self._put_off[entry.label] = self._too_late(entry, rows, tried)
            elif self._try(entry, rows, seed):
                tried.append(entry)
        if self.control.stopping:
            return
        tried = [entry for entry in tried if entry.state != "stopped"]
        if rung == 0:
            race.alive = []
            for entry in tried:
                entry.state = FINISHED
        elif tried or not late:
            race.alive = self._best(race, rung, tried)
        else:  # one of them goes straight to all rows
            race.alive = late[:1]
            del self._put_off[late[0].label]

    def _too_late(self, entry: Entry, rows: int, tried: Sequence[Entry]) -> tuple[str, float]:
        """Why there is no time for a rung, in words, and what all rows need."""
        total, kin = len(self.prepared.parts.training), [*tried, entry]
        needed = self._clock.needed(rows, kin)
        reason = (
            f"the budget leaves no time for {rows:,} rows and all {total:,} after them: they need about {needed:,.0f} s"
        )
        return reason, self._clock.seconds(entry, total) or 0.0

    def _best(self, race: Race, rung: int, tried: Sequence[Entry]) -> list[Entry]:
        """Those who go on from a rung, best first; the others are dropped, unless they are through already."""
        rows = race.size(rung)
        ranked = self._ranked([*tried, *race.through(rung)], rows)
        ranked = [ranked[i] for i in self.measure.early_order([self._said(entry, rows) for entry in ranked])]
        keep = rungs.kept(len(ranked), rung)
        for entry in ranked[keep:]:
            if entry.state != FINISHED:
                entry.state, entry.reason = "dropped", self._behind(entry, ranked[0], rows)
        on = [entry for entry in ranked[:keep] if entry.state != FINISHED]
        for entry in on:
            entry.state, entry.reason = "waiting", ""
        return on

    def _behind(self, entry: Entry, best: Entry, rows: int) -> str:
        """Why a candidate is dropped, in words."""
        reason = f"behind {best.label} {self._seen(entry, rows)}"
        values = [self.measure.better(self.measure.figure([self._said(each, rows)])) for each in (entry, best)]
        if values[0] < values[1] or self._said(best, rows).log_loss is None:
            return reason
        return f"{reason} in log loss: in {self.measure.label} they cannot be told apart"

    def _seen(self, entry: Entry, rows: int) -> str:
        """What a figure rests on, in words."""
        if not entry.candidate.prompts:
            return f"after {rows:,} rows"
        return f"on {len(self._trying.asked(entry.candidate, rows)):,} validation rows"

    def _ranked(self, entries: Sequence[Entry], rows: int) -> list[Entry]:
        """Best first on the validation rows, when trained on so many rows; among equals the cheaper one."""

        def value(entry: Entry) -> tuple[float, float]:
            return -self.measure.better(self.measure.figure([self._said(entry, rows)])), entry.candidate.seconds or 0.0

        return sorted(entries, key=value)

    def _said(self, entry: Entry, rows: int) -> Said:
        """What a candidate that was trained on so many rows said to the validation rows."""
        trial = entry.trial(rows, self.prepared.asked.seed)
        assert trial is not None and trial.said is not None  # noqa: PT018 - it was tried
        return trial.said

    def _finalists(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.state == FINISHED]

    def _look_back(self) -> None:
        """One point more of the leader's curve, where its group had one rung: would more rows help?"""
        rows = len(self.prepared.parts.training)
        fewer = math.ceil(rows / rungs.GROWTH)  # as a rung has
        found = self._ranked([entry for entry in self._finalists() if not entry.candidate.prompts], rows)
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
            return True  # it was on disk, or made for those that came before a candidate that was added
        job, name, trial = self._find(entry, rows, seed)
        if trial is None or trial.state != "done":
            if self._is_out_of_time(entry, rows, seed):
                return False
            trial = self._tried(entry, job, name, rows, seed, trial)
        if trial is None or trial.state != "done":
            return False
        self._take(entry, trial)
        return True

    def _find(self, entry: Entry, rows: int, seed: int) -> tuple[Job, str, Trial | None]:
        """The job of a trial, its name on disk, and what is there; what asks no other rows stands under the most."""
        candidate = entry.candidate
        job = self._trying.job(candidate, rows, seed, self._trying.asked(candidate, rows))
        name = self._trying.name(candidate, job, rows)
        trial = self.trials.find(name)
        if trial is not None and trial.rows < rows:
            trial = None
        return job, name, None if trial is None else dataclasses.replace(trial, rows=rows)

    def _take(self, entry: Entry, trial: Trial) -> None:
        """Take in a trial that is done."""
        entry.trials.append(trial)
        assert trial.said is not None  # it is done
        self._say(f"{entry.label}: {self.measure.text(trial.said)} {self._seen(entry, trial.rows)}")

    def _is_out_of_time(self, entry: Entry, rows: int, seed: int) -> bool:
        """Whether the budget has no time for a trial: then its candidate is out, or without a further seed."""
        if not self._clock.lacks(entry, rows):
            return False
        needed = self._clock.seconds(entry, rows)
        told = "" if needed is None else f": they need about {needed:,.0f} s"
        self._out_of_time(entry, seed, f"the budget leaves no time for {rows:,} rows{told}", needed)
        return True

    def _out_of_time(self, entry: Entry, seed: int, reason: str, needed: float | None) -> None:
        """Take a candidate out; one that is through goes without this seed, or without a point more of its curve."""
        if entry.state != FINISHED:
            entry.out_of_time(reason, needed)
        elif seed != self.prepared.asked.seed:
            entry.seeds_left_out += 1

    def _tried(self, entry: Entry, job: Job, name: str, rows: int, seed: int, before: Trial | None) -> Trial | None:
        """Run a trial, or go on with one that was broken off; None where it was stopped."""
        before_state, self.current, entry.state = entry.state, entry, "running"
        self._made += 1
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
        except origins.PASSING:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a plugin raises: the others go on
            line = NbadaptError(origins.told(error))
            drop_frames(error)
            return self._failed(entry, trial, line, before_state)
        finally:
            self.current = self._trying.run = None
            self.trials.keep_spent(self.name, self.elapsed)
        entry.state = before_state if entry.state == "running" else entry.state
        self._clock.learn(entry, rows, trial.costs["wall"])
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

    def _budget_ended(self, entry: Entry, run: Run, trial: Trial) -> None:
        """The budget broke a trial off."""
        share = done_share(run)
        needed = run.log.elapsed / share if share else None
        told = "" if needed is None else f": {100 * share:.0f} % were done, all need about {needed:,.0f} s"
        reason = f"the budget ended while it worked on {trial.rows:,} rows{told}"
        self._out_of_time(entry, trial.seed, reason, needed)

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
            except origins.PASSING:
                raise
            except BaseException as error:  # noqa: BLE001 - whatever a plugin raises: the others go on
                entry.state, entry.reason = "failed", f"on the test rows: {origins.told(error)}"
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
