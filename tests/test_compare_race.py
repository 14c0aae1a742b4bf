"""Who goes on in a comparison: grown grids, what the budget has room for, changes that outlive a kernel."""

from __future__ import annotations

import dataclasses
import importlib
import time
from types import SimpleNamespace

import pytest
import tiny_models
from distributions import Site

from nbadapt import data, model_names
from nbadapt.engines import rough_time
from nbadapt.selection import contest as contests
from nbadapt.selection import rungs, specs
from nbadapt.selection.asked import Asked, Budget
from nbadapt.selection.candidates import prepare
from nbadapt.selection.comparison import ComparisonPlan
from nbadapt.selection.contest import Contest
from nbadapt.selection.entry import FINISHED, Entry
from nbadapt.selection.race import Race
from nbadapt.selection.trials import Trial
from nbadapt.selection.verdict import verdict

# A method that answers `skill` of 100 rows rightly, and says how long it takes by a clock of its own.
SKILLED = """
import dataclasses, json, zlib
import numpy as np
from nbadapt.method import Adapted, Config, Estimate, Method, Outcome, Predictions

CLOCK, SECONDS, ROUGH = [1000.0], [0.0], [None]

class Settings(Config):
    skill: int = 50
    epochs: int = 1

class Answers(Adapted):
    abilities = frozenset({"predict"})
    def __init__(self, skill, names): self.skill, self.names = skill, tuple(names)
    def predict(self, texts, labels=None):
        found = np.full((len(texts), 2), 0.1)
        for row, text in zip(found, texts):
            right = self.names.index(text.split()[0])
            row[right if zlib.crc32(text.encode()) % 100 < self.skill else 1 - right] = 0.9
        return Predictions(self.names, found)

class Skilled(Method):
    Config = Settings
    name = "skilled"
    verb = "finetune"
    summary = "knows as much as it is told"
    reference = "https://example.org"
    tasks = frozenset({"classification"})

    def estimate(self, job):
        return Estimate(1, 1, {"weights": 8}, 8, 1, ROUGH[0] and ROUGH[0] * job.config.epochs)
    def run(self, job, emit):
        CLOCK[0] += SECONDS[0] * job.config.epochs * len(job.data)
        (job.directory / "model.json").write_text("{}")
        return Outcome(artifacts={"model": "model.json"})
    def load(self, outcome, job): return Answers(job.config.skill, job.labels)
"""
ROWS = [{"text": f"{label} {i}", "label": label} for i in range(600) for label in ("yes", "no")]
FULL = 816  # training rows of them
FIRST, SECOND = 48, 164  # of the rungs of more than four: FULL / 25, but no fewer than 48, and FULL / 5


@pytest.fixture
def skilled(tmp_path, monkeypatch):
    monkeypatch.setattr(model_names, "generators", list)
    site = Site(tmp_path / "site", monkeypatch)
    site.add("skilling", "1.0", {"skilled": "skilling:Skilled"}, {"skilling": SKILLED})
    yield importlib.import_module("skilling")
    site.forget()


def prepared(skills, seconds=None, *, baselines=False, **options):
    grid = {"skill": skills} if not isinstance(skills, dict) else skills
    model = str(tiny_models.folder("bert"))
    found = prepare(Asked(blocks={"skilled": grid}, model=model, data=ROWS, budget=Budget(seconds), **options))
    kept = tuple(one for one in found.candidates if baselines or not one.baseline)
    return dataclasses.replace(found, candidates=kept)


def done(skills, seconds=None, **options):
    """A comparison that has ended."""
    found = Contest(prepared(skills, seconds, **options))
    found.start()
    found.join(240)
    assert found.state == "done", found.error
    return found


def tried(found, *, before=()):
    """Skill and rows of each run of the method that was not there before."""
    kin = [entry for entry in found.entries if not entry.candidate.baseline]
    return sorted((e.candidate.job.config.skill, t.rows) for e in kin for t in e.trials if t.run not in before)


def runs(found):
    return {trial.run for entry in found.entries for trial in entry.trials}


def states(found):
    return {e.candidate.job.config.skill: e.state for e in found.entries if not e.candidate.baseline}


# ------------------------------------------------------------------------------------------------ grown grids


def test_a_full_ranking_trains_all_on_all_rows_and_reuses_what_halving_did(skilled):
    skills = [20, 40, 60, 80, 95]
    skilled.ROUGH[0] = 100.0
    halved = done(skills)
    (through,) = [skill for skill, state in states(halved).items() if state == FINISHED]
    full = done(skills, full_ranking=True)
    assert set(states(full).values()) == {FINISHED}
    assert tried(full, before=runs(halved)) == [(skill, FULL) for skill in skills if skill != through]
    ranked = [place.entry.candidate.job.config.skill for place in verdict(full).places]
    assert ranked == sorted(skills, reverse=True)
    assert states(done(skills)) == states(full)  # nobody is dropped who is through
    planned = {full_ranking: prepared(skills, full_ranking=full_ranking) for full_ranking in (False, True)}
    rough = {full_ranking: ComparisonPlan(found).seconds for full_ranking, found in planned.items()}
    assert rough[True] == pytest.approx(5 * 100)
    assert rough[False] == pytest.approx((5 * FIRST + 2 * SECOND + FULL) / FULL * 100)


@pytest.mark.parametrize(
    ("first", "then", "new"),
    [
        # held against the leader's point of few rows
        pytest.param([60], [60, 90], [(90, SECOND), (90, FULL)], marks=pytest.mark.slow),
        ([60], [60, 20], [(20, SECOND)]),
        # in the rung of the others, and dropped there
        pytest.param([60, 70, 80, 90], [60, 70, 80, 90, 20], [(20, SECOND)], marks=pytest.mark.slow),
        ([60, 70, 80, 90], [60, 70, 80, 90, 99], [(99, SECOND), (99, FULL)]),
    ],
)
def test_what_a_grown_grid_has_done_is_reused_and_stays(skilled, first, then, new):
    before = done(first)
    grown = done(then)
    assert tried(grown, before=runs(before)) == new
    through = {skill for skill, state in states(before).items() if state == FINISHED}
    assert all(states(grown)[skill] == FINISHED for skill in through)
    assert all(entry.test for entry in grown.entries if entry.state == FINISHED)
    again = done(then)
    assert runs(again) == runs(grown)
    assert states(again) == states(grown)


def entry(label, *sizes, through=False):
    found = Entry(SimpleNamespace(label=str(label), seconds=None))
    found.trials = [Trial("", str(label), rows, 0, "") for rows in sorted(sizes)]
    found.state = FINISHED if through else "waiting"
    return found


def entered(kin, rows):
    """Rung by rung: its rows, who is tried, and beside whom; always the first ones go on."""
    training = data.read(tiny_models.reviews(rows), name="rows")
    race = Race(kin, training, 0)
    found = []
    for rung in range(race.begin, -1, -1):
        here, others = race.enter(rung), race.through(rung) if rung else []
        if here:
            found.append((race.size(rung), [e.label for e in here], [e.label for e in others]))
        if rung:
            race.alive = here[: max(0, rungs.kept(len(here) + len(others), rung) - len(others))]
    return found


@pytest.mark.parametrize("rows", [40, 100, 300, 1250, 20_000])
@pytest.mark.parametrize("count", [1, 2, 4, 5, 8, 16, 17, 30, 70])
def test_a_race_without_anything_on_disk_is_the_schedule(rows, count):
    found = entered([entry(i) for i in range(count)], rows)
    assert [rungs.Rung(len(here), size) for size, here, _ in found] == list(rungs.schedule(count, rows, 2))


@pytest.mark.parametrize(
    ("kin", "expected"),
    [
        # broken off in its first rung: the others enter there too
        ([entry(0, 50), entry(1)], [(50, ["0", "1"], []), (250, ["0"], []), (1250, ["0"], [])]),
        # one is through, and was in the rungs; the same again
        ([entry(0, 250, 1250, through=True), entry(1, 250), entry(2, 250)], [(250, ["1", "2"], ["0"])]),
        # many new ones have rungs of their own before they meet the others
        (
            [entry(0, 250, 1250, through=True), *(entry(i) for i in range(1, 7))],
            [(50, [*"123456"], []), (250, ["1", "2"], ["0"])],
        ),
    ],
)
def test_candidates_enter_where_there_is_something_to_be_held_against(kin, expected):
    assert entered(kin, 1250) == expected


# ------------------------------------------------------------------------------------------------ a budget of time


def timed(skilled, monkeypatch, rough):
    """A trial on all rows takes 9,500 seconds, of a clock that the method sets."""
    skilled.SECONDS[0], skilled.ROUGH[0] = 9500 / FULL, rough
    monkeypatch.setattr(rough_time, "of_training", lambda *_: None)  # as on an accelerator
    monkeypatch.setattr(rough_time, "of_reading", lambda *_: None)
    clock = SimpleNamespace(monotonic=lambda: skilled.CLOCK[0], time=time.time)
    monkeypatch.setattr(contests, "time", clock)


@pytest.mark.parametrize(
    "rough", [9500.0, None, *(pytest.param(seconds, marks=pytest.mark.slow) for seconds in (19_000.0, 3200.0))]
)
def test_a_budget_for_one_full_run_gives_one(skilled, monkeypatch, rough):
    timed(skilled, monkeypatch, rough)
    found = done([60, 65, 70, 75, 80, 85, 90, 95], 11_000)
    assert list(states(found).values()).count(FINISHED) == 1
    late = [entry for entry in found.entries if entry.state == "out of time"]
    assert len(late) + sum(state == "dropped" for state in states(found).values()) == 7
    for each in late:
        assert "the budget leaves no time for" in each.reason
        assert each.needs == pytest.approx(9500, rel=0.05)
    assert found.elapsed <= 11_000


def test_a_budget_with_room_is_the_halving_and_baselines_come_first(skilled, monkeypatch):
    timed(skilled, monkeypatch, 9500.0)
    found = done([60, 65, 70, 75, 80, 85, 90, 95], 40_000, baselines=True)
    assert len(tried(found)) == 8 + 2 + 1
    assert states(found)[95] == FINISHED
    assert [line.split()[0].rstrip(":") for line in found.log[:3]] == ["majority", "tf-idf", "skilled"]


def test_what_was_put_off_is_tried_when_there_turns_out_to_be_time(skilled, monkeypatch):
    timed(skilled, monkeypatch, 40_000.0)  # by the rule of thumb none could be trained on all rows
    found = done([60, 90], 25_000)
    assert states(found)[90] == FINISHED
    assert "out of time" not in states(found).values()


def test_a_candidate_whose_full_run_does_not_fit_is_left_out_at_once(skilled, monkeypatch):
    timed(skilled, monkeypatch, 9500.0)
    found = done({"skill": [90], "epochs": [1, 20]}, 30_000)
    long = next(entry for entry in found.entries if not entry.candidate.baseline and entry.state != FINISHED)
    assert (long.state, long.candidate.job.config.epochs, long.trials) == ("out of time", 20, [])
    assert long.needs == pytest.approx(190_000, rel=0.05)


# ------------------------------------------------------------------------------------------------ one point more


def test_the_leader_of_a_group_with_one_rung_is_looked_back_at(skilled):
    found = done([90])
    assert tried(found) == [(90, SECOND), (90, FULL)]
    assert found.entries[0].last.rows == FULL
    assert runs(done([90])) == runs(found)


def test_a_look_back_without_time_is_no_seed_left_out(skilled, monkeypatch):
    timed(skilled, monkeypatch, 9500.0)
    found = done([90], 10_000)
    assert tried(found) == [(90, FULL)]
    assert found.entries[0].seeds_left_out == 0
    short = done([90], 9000, seeds=2)  # the first one is on disk: the second has no time
    assert "no time for all 2 seeds of skilled" in " ".join(short.notices)


# ------------------------------------------------------------------------------------------------ changes


def test_changes_outlive_a_raised_budget_and_a_grown_cell(skilled):
    first = Contest(prepared([60, 70], 100))
    first.add(specs.Spec("skilled", {"skill": 80}))
    first.stop_candidate("skilled skill=70")
    raised = Contest(prepared([60, 70], 200))
    assert states(raised) == {60: "waiting", 70: "stopped", 80: "waiting"}
    shrunk = Contest(prepared([60], 200))
    assert states(shrunk) == {60: "waiting", 80: "waiting"}
    assert "stopped while it worked, and not in this cell: skilled: {skill: 70}" in " ".join(shrunk.notices)
    shrunk.add(specs.Spec("skilled", {"skill": 70}))  # wanted after all
    grown = Contest(prepared([60, 70, 80, 90], 200))
    assert states(grown) == dict.fromkeys((60, 70, 80, 90), "waiting")
    assert "which was added" not in " ".join(grown.notices)  # what was added stands in the cell
    assert states(Contest(prepared([60], 200))) == {60: "waiting"}  # and is gone with its line there
    strange = Contest(prepared({"skill": [60, 70], "epochs": [1]}, 200))
    assert states(strange) == {60: "waiting", 70: "waiting"}  # another cell
    assert not any("worked" in notice for notice in strange.notices)
    other = Contest(prepared([60, 70], 100, metric="macro_f1"))
    assert states(other) == {60: "waiting", 70: "waiting"}
