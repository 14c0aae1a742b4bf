"""A comparison of methods whose cost nobody can tell, and of methods whose code has changed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import tiny_models
from distributions import Site

from nbadapt import estimating, model_names
from nbadapt.method import Estimate
from nbadapt.selection import bases
from nbadapt.selection.asked import Asked, Budget
from nbadapt.selection.candidates import prepare
from nbadapt.selection.comparison import ComparisonPlan, MethodComparison
from nbadapt.selection.contest import Contest
from nbadapt.selection.specs import Spec

# A method whose helper says which label it answers to all.
GUESSES = """
import time
import numpy as np
from nbadapt.method import Adapted, Config, Estimate, Method, Outcome, Predictions

class Settings(Config):
    n: int = 0

class Answers(Adapted):
    abilities = frozenset({"predict"})
    def __init__(self, names, place): self.names, self.place = tuple(names), place
    def predict(self, texts, labels=None):
        return Predictions(self.names, np.eye(len(self.names))[[self.place] * len(texts)])

class Guesses(Method):
    Config = Settings
    name = "guesses"
    verb = "finetune"
    summary = "gives one answer to all"
    reference = "https://example.org"
    tasks = frozenset({"classification"})

    def estimate(self, job):
        assert job.config.n >= 0
        ESTIMATE
    def run(self, job, emit):
        from acme.helpers import PLACE
        (job.directory / "model.json").write_text(str(PLACE))
        return Outcome(artifacts={"model": "model.json"})
    def load(self, outcome, job): return Answers(job.labels, int((job.directory / "model.json").read_text()))
"""
KNOWN = 'return Estimate(1, 1, {"weights": 8}, 8, 1)'
ROWS = [{"text": f"text {i}", "label": "no" if i % 4 == 0 else "yes"} for i in range(80)]


@pytest.fixture
def site(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(model_names, "generators", list)
    found = Site(tmp_path / "site", monkeypatch)
    yield found
    found.forget()


def install(site: Site, estimate: str = KNOWN, version: str = "1.0") -> None:
    (site.folder / "acme").mkdir(exist_ok=True)
    source = GUESSES.replace("ESTIMATE", estimate)
    modules = {"acme/__init__": "", "acme/helpers": "PLACE = 0", "acme/methods": source}
    site.add("acme", version, {"guesses": "acme.methods:Guesses"}, modules)


def prepared(blocks=None, budget=None):
    model = str(tiny_models.folder("bert"))
    return prepare(Asked(blocks=blocks or {"guesses": None}, model=model, data=ROWS, budget=budget or Budget()))


def compared(blocks=None, budget=None) -> Contest:
    found = prepared(blocks, budget)
    contest = Contest(dataclasses.replace(found, candidates=tuple(o for o in found.candidates if not o.baseline)))
    contest.start()
    contest.join(120)
    assert contest.state == "done", contest.error
    return contest


# ------------------------------------------------------------------------------------------------ no estimate

NO_ESTIMATE = [
    ('return Estimate(1, 1, {"weights": float("nan")}, 1, 1)', "is left out: memory: weights is nan"),
    ("time.sleep(3)", "gave no estimate within 0.5 s: this goes on without one"),
]


@pytest.mark.parametrize(("estimate", "said"), NO_ESTIMATE)
def test_a_candidate_without_an_estimate_is_compared_and_told(site, estimate, said, monkeypatch):
    monkeypatch.setattr(estimating, "SECONDS", 0.5)
    install(site, estimate)
    found = compared({"guesses": {"n": [1, 2]}})
    (notice,) = [notice for notice in found.notices if "'guesses'" in notice]  # one for the whole grid
    assert said in notice
    assert "the plugin acme 1.0 of the method 'guesses'" in notice
    first, second = found.entries
    assert first.test or second.test
    row = MethodComparison(found).frame().iloc[0]
    assert row["accuracy"] == pytest.approx(0.25)
    assert row[["memory", "tokens"]].isna().all()  # nobody knows how much of it the base was
    assert row["seconds"] >= 0


def test_what_has_no_estimate_is_kept_within_a_budget_and_left_empty_in_the_plan(site):
    install(site, NO_ESTIMATE[0][0])
    found = prepared(budget=Budget(600.0, 10**9))
    assert "guesses" in {one.label for one in found.candidates}
    notices = " ".join(found.notices)
    assert "how long guesses will take cannot be told before" in notices
    assert "how much memory guesses will take cannot be told before: the budget of memory does not keep it" in notices
    (line,) = [line for line in repr(ComparisonPlan(found)).splitlines() if line.startswith("guesses")]
    assert "KiB" not in line
    assert ComparisonPlan(found).seconds is None
    contest = Contest(dataclasses.replace(found, candidates=found.candidates[1:], notices=()))
    contest.add(Spec("guesses", {"n": 3}))
    assert "is left out: memory: weights is nan" in " ".join(contest.notices)


def test_what_has_no_estimate_is_alone_in_memory(site):
    install(site)
    (known,) = [one for one in prepared().candidates if one.label == "guesses"]
    llama = dataclasses.replace(known.job.model, path=str(tiny_models.folder("llama")))
    large = {"weights": 10**6, "gradients": 10**9}
    other = dataclasses.replace(
        known, job=dataclasses.replace(known.job, model=llama), estimate=Estimate(1, 10**6, large)
    )
    unknown = dataclasses.replace(known, estimate=Estimate(), no_estimate="nobody knows")
    held = bases.Bases([other, unknown], limit=None)
    held.make_room(other)
    held.make_room(unknown)
    assert held.order(other)[0] == 3  # let go
    held.make_room(other)
    assert held.order(unknown)[0] == 3


# ------------------------------------------------------------------------------------------------ changed code


def runs(contest: Contest) -> set[str]:
    return {trial.run for entry in contest.entries for trial in entry.trials}


def accuracy(contest: Contest) -> float:
    return MethodComparison(contest).frame()["accuracy"].iloc[0]


@pytest.mark.parametrize(
    "what", ["methods", *(pytest.param(name, marks=pytest.mark.slow) for name in ("helpers", "version"))]
)
def test_a_method_whose_code_changed_is_tried_anew(site, what):
    install(site)
    before = compared(budget=Budget(600.0))
    assert accuracy(before) == pytest.approx(0.25)
    if what == "version":
        (site.folder / "acme-1.0.dist-info").rename(site.folder / "acme-1.1.dist-info")
        metadata = site.folder / "acme-1.1.dist-info" / "METADATA"
        metadata.write_text(metadata.read_text().replace("Version: 1.0", "Version: 1.1"))
    else:
        edited, old, new = {
            "helpers": ("acme/helpers.py", "PLACE = 0", "PLACE  = 1"),
            "methods": ("acme/methods.py", "str(PLACE)", "str(1 - PLACE)"),
        }[what]
        file = site.folder / edited
        file.write_text(file.read_text().replace(old, new))
        assert runs(compared(budget=Budget(600.0))) == runs(before)  # this kernel still runs what it was
        site.forget()  # a new kernel
    after = compared(budget=Budget(600.0))
    assert not runs(after) & runs(before)
    assert accuracy(after) == pytest.approx(0.25 if what == "version" else 0.75)
    assert after.name != before.name  # what the old code has spent is not taken from the new one's budget
    assert runs(compared(budget=Budget(600.0))) == runs(after)
