"""Figures and tests of a comparison, next to scipy and to what can be counted by hand."""

from __future__ import annotations

import dataclasses
import itertools
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.metrics
from scipy import stats

from nbadapt.data import Examples
from nbadapt.events import Progress, Stage
from nbadapt.method import Estimate, Predictions
from nbadapt.metrics import macro_f1, wilson_interval
from nbadapt.selection import measuring, rungs
from nbadapt.selection.entry import FINISHED, Entry
from nbadapt.selection.figures import Measure
from nbadapt.selection.trials import Said, Trial, Trials
from nbadapt.selection.verdict import Place, front, verdict
from nbadapt.widgets.selection_figure import spread

ROOT = Path(__file__).resolve().parents[1]


def rows(labels):
    table = tuple({"text": f"{i}", "label": label} for i, label in enumerate(labels))
    return Examples("classification", table, tuple(sorted(set(labels))))


def said(answers, expected):
    return Said(tuple(answers), tuple(float(a == e) for a, e in zip(answers, expected, strict=True)))


def test_right_and_wrong_are_compared_by_the_exact_mcnemar_test():
    generator = np.random.default_rng(0)
    expected = generator.choice(["a", "b"], 120).tolist()
    first = [e if generator.random() < 0.9 else "c" for e in expected]
    second = [e if generator.random() < 0.75 else "c" for e in expected]
    one, other = said(first, expected), said(second, expected)
    only_one = sum(a > b for a, b in zip(one.values, other.values, strict=True))
    only_other = sum(a < b for a, b in zip(one.values, other.values, strict=True))
    wanted = stats.binomtest(only_one, only_one + only_other, 0.5).pvalue
    measure = Measure("accuracy", rows(expected))
    assert measure.chance([one], [other]) == pytest.approx(wanted)
    assert measure.interval([one]) == wilson_interval(measure.figure([one]), 120)


def test_bits_a_byte_are_compared_by_sign_flips():
    generator = np.random.default_rng(1)
    first = generator.gamma(2.0, 1.0, 60)
    second = first + generator.normal(0.15, 0.5, 60)
    table = Examples("generation", tuple({"prompt": str(i), "completion": "x"} for i in range(60)))
    measure = Measure("bits_per_byte", table)
    one, other = (Said(("",) * 60, tuple(values)) for values in (first, second))
    wanted = stats.permutation_test(
        (first, second), lambda a, b: (a - b).mean(), permutation_type="samples", n_resamples=20_000, rng=2
    ).pvalue
    assert measure.chance([one], [other]) == pytest.approx(wanted, abs=0.03)
    assert not measure.larger
    assert measure.better(0.3) > measure.better(0.4)


def test_macro_f1_is_compared_by_all_swaps_of_answers():
    expected = ["a", "a", "a", "b", "b", "c", "c", "c"]
    first, second = ["a", "a", "b", "b", "b", "c", "c", "a"], ["b", "a", "b", "c", "b", "a", "c", "c"]
    differences = []
    for swaps in itertools.product([False, True], repeat=8):
        ours = [b if swap else a for a, b, swap in zip(first, second, swaps, strict=True)]
        theirs = [a if swap else b for a, b, swap in zip(first, second, swaps, strict=True)]
        differences.append(macro_f1(ours, expected) - macro_f1(theirs, expected))
    wanted = np.mean(np.abs(differences) >= abs(differences[0]) - 1e-12)
    measure = Measure("macro_f1", rows(expected))
    assert measure.chance([said(first, expected)], [said(second, expected)]) == pytest.approx(wanted, abs=0.03)
    assert measure.figure([said(first, expected)]) == macro_f1(first, expected)


def test_several_seeds_are_a_mean_with_an_interval_of_its_own():
    expected = ["a", "b"] * 50
    seeds = [said(["a"] * 100, expected), said(expected, expected)]
    measure = Measure("accuracy", rows(expected))
    assert measure.figure(seeds) == 0.75
    low, high = measure.interval(seeds)
    assert low < 0.75 < high
    assert measure.chance(seeds, [seeds[1], seeds[1]]) < 0.001  # half of the rows lose half a point


@pytest.mark.parametrize("right", [0, 15, 20])
def test_seeds_that_repeat_each_other_change_no_interval(right):
    expected = ["a"] * 20
    one = said(["a"] * right + ["b"] * (20 - right), expected)
    measure = Measure("accuracy", rows(expected))
    low, high = measure.interval([one] * 3)
    assert (low, high) == measure.interval([one]) == wilson_interval(right / 20, 20)
    assert high - low > 0.1  # no point where all are right, or all wrong


def place(label, value, cost):
    return Place(SimpleNamespace(label=label), value, value, value, None, cost)


def test_the_pareto_front_is_what_none_beats_in_both():
    places = [place("dear", 0.9, 9.0), place("cheap", 0.7, 1.0), place("worse", 0.6, 5.0), place("open", 0.95, None)]
    measure = Measure("accuracy", rows(["a", "b"]))
    assert [p.label for p in front(places, measure) if p.front] == ["dear", "cheap"]
    loss = Measure("bits_per_byte", Examples("generation", ()))
    assert [p.label for p in front(places, loss) if p.front] == ["cheap", "worse"]


@pytest.mark.parametrize(
    ("places", "wanted"),
    [([0.1, 0.5, 0.9], [0.1, 0.5, 0.9]), ([0.5, 0.5, 0.5], [0.4, 0.5, 0.6]), ([0.2, 0.24, 0.9], [0.17, 0.27, 0.9])],
)
def test_numbers_beside_curves_are_moved_apart(places, wanted):
    assert spread(places, 0.1) == pytest.approx(wanted)


# ------------------------------------------------------------------------------------------------ who is chosen


def finished(label, right_on_validation, right_on_test, seconds, trainable):
    """A candidate that came through, with so many of 10 rows right on both parts."""
    entry = Entry(SimpleNamespace(label=label, prompts=True, baseline=False), FINISHED)
    costs = {"seconds": seconds, "trainable": trainable, "inference": 1.0}
    for_choice = said(["a"] * right_on_validation + ["c"] * (10 - right_on_validation), ["a"] * 10)
    entry.trials = [Trial(label, label, 100, 0, "", "done", said=for_choice, costs=costs)]
    entry.test = [said(["a"] * right_on_test + ["c"] * (10 - right_on_test), ["a"] * 10)]
    return entry


def chosen(*entries):
    part = rows(["a"] * 10)
    parts = SimpleNamespace(training=range(100), validation=part, test=part)
    prepared = SimpleNamespace(parts=parts, metric="accuracy")
    return verdict(SimpleNamespace(prepared=prepared, measure=Measure("accuracy", part), entries=list(entries)))


def test_the_best_is_chosen_on_the_validation_rows_alone():
    found = chosen(finished("tested", 6, 10, 1, 1), finished("chosen", 7, 5, 9, 9))
    assert [place.label for place in found.places] == ["tested", "chosen"]
    assert found.best.label == "chosen"


def test_a_tie_on_the_validation_rows_is_broken_by_cost_and_never_by_the_test_rows():
    dear, cheap = finished("dear", 7, 10, 9.0, 1), finished("cheap", 7, 5, 2.0, 50)
    assert chosen(dear, cheap).best.label == chosen(cheap, dear).best.label == "cheap"
    smaller = finished("smaller", 7, 4, 2.0, 10)
    assert chosen(dear, cheap, smaller).best.label == "smaller"


def test_what_cannot_be_told_apart_early_is_ordered_by_log_loss():
    expected = ["a"] * 40
    measure = Measure("accuracy", rows(expected))

    def one(right: int, log_loss: float | None) -> Said:
        return dataclasses.replace(said(["a"] * right + ["b"] * (40 - right), expected), log_loss=log_loss)

    close = [one(24, 0.69), one(22, 0.66), one(5, 0.1), one(23, 0.68)]
    assert measure.early_order(close) == [1, 3, 0, 2], "the third is worse, whatever its loss"
    assert measure.early_order([*close[:3], one(23, None)]) == [0, 3, 1, 2]


def test_the_log_loss_is_sklearns_and_none_where_there_is_none():
    shares = np.array([[0.2, 0.8], [0.6, 0.4], [0.9, 0.1]])
    expected = ["b", "b", "a"]
    found = measuring.log_loss(Predictions(("a", "b"), shares), expected)
    assert found == pytest.approx(sklearn.metrics.log_loss(expected, shares, labels=["a", "b"]))
    assert measuring.log_loss(Predictions(("a", "b"), shares), ["b", "c", "a"]) is None
    assert measuring.log_loss(Predictions(("a", "b"), np.array([[0.0, 0.0]])), ["a"]) is None


# ------------------------------------------------------------------------------------------------ rungs and memory


def test_eight_prompts_ask_well_under_half_of_all_rows():
    for training, validation in ((1600, 240), (272, 48), (20_000, 1000)):
        plan = rungs.schedule(8, training, 2)
        assert [rung.candidates for rung in plan] == [8, 2, 1]
        asked = sum(r.candidates * rungs.asked(r.rows, training, validation) for r in plan)
        assert asked == pytest.approx(rungs.asking_cost(plan, training, validation) * validation)
        assert asked < 0.45 * (8 + 2 + 1) * validation
        assert rungs.asked(training, training, validation) == validation


def test_who_was_asked_fewer_rows_is_measured_on_the_first_ones():
    expected = ["a", "b", "b", "a", "a", "b"]
    few = said(["a", "b", "a"], expected[:3])
    measure = Measure("macro_f1", rows(expected))
    assert measure.figure([few]) == macro_f1(["a", "b", "a"], expected[:3])
    low, high = measure.interval([few])
    assert low < measure.figure([few]) <= high


def test_swaps_of_many_rows_go_through_in_parts():
    generator = np.random.default_rng(3)
    expected = generator.choice(["a", "b"], 20_000)
    one, other = (np.where(generator.random(20_000) < share, expected, "b").tolist() for share in (0.6, 0.59))
    measure = Measure("macro_f1", rows(expected.tolist()))
    tracemalloc.start()
    try:
        chance = measure.chance([said(one, expected.tolist())], [said(other, expected.tolist())])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0 < chance < 1
    assert peak < 150 * 2**20  # all swaps at once are 320 MB


# ------------------------------------------------------------------------------------------------ costs


@pytest.mark.parametrize(
    ("reads", "loaded", "grown", "told"),
    [(True, False, 0, 40), (True, False, 65, 65), (True, True, 10, 50), (False, False, 10, 10)],
)
def test_memory_is_never_less_than_the_base_however_much_was_kept(reads, loaded, grown, told, monkeypatch):
    """The vectors of all rows may be kept, so that the base is not read; or it may be in memory before."""
    used = iter([100, 100 + grown])
    monkeypatch.setattr(measuring, "measure", lambda _device: SimpleNamespace(ram=next(used), vram=None))
    monkeypatch.setattr(measuring.models, "is_loaded", lambda *_: loaded)
    job = SimpleNamespace(device="cpu", dtype="float32", model=None)
    peak = measuring.Peak(SimpleNamespace(job=job, reads_model=reads, estimate=Estimate(memory={"weights": 40})))
    peak.look()
    assert peak.bytes(SimpleNamespace(log=SimpleNamespace(memory=None))) == told


def run_of(*events):
    return SimpleNamespace(
        events=list(events), log=SimpleNamespace(elapsed=events[-1][0] - events[0][0]), adapted=lambda: None
    )


def test_answers_that_were_kept_do_not_make_a_prompt_quick():
    told = [(0.0, Stage("loading the model")), (1.0, Progress(1, 4, examples=30)), (1.5, Stage("answering"))]
    partly = [*told, (2.5, Progress(3, 4, examples=40)), (3.5, Progress(4, 4, examples=50))]
    assert measuring._answering(partly) == pytest.approx(1000 * 2.0 / 20)
    assert measuring._answering(told) is None


def test_vectors_that_were_kept_do_not_make_a_frozen_model_quick(monkeypatch):
    from nbadapt.engines.classify import FeatureClassifier

    run = run_of((0.0, Stage("embedding")), (0.2, Stage("fitting the classifier")), (0.7, Progress(1, 1)))
    monkeypatch.setattr(run, "adapted", lambda: FeatureClassifier(None, ["a", "b"], None))
    candidate = SimpleNamespace(prompts=False, job=SimpleNamespace(data=range(400)))
    assert measuring._seconds(candidate, run, 5.0) == pytest.approx(400 * 0.005 + 0.5)
    assert measuring._seconds(candidate, run, 0.1) == pytest.approx(0.7)  # all of it was read in this run


def test_a_look_that_was_broken_off_and_gone_on_with_is_one_look():
    trials = Trials("split")
    trials.add_look(1.0, ["a", "b"], 2)
    trials.add_look(2.0, ["b"], 1)
    assert len(trials.looks()) == 1
    trials.add_look(3.0, ["c"], 1)
    assert [look["candidates"] for look in trials.looks()] == [2, 1]


COUNTS = {"best": 60, "middling": 40, "weak": 10}  # right answers of 60


def test_the_benchmark_counts_what_a_comparison_says_of_pairs(monkeypatch):
    """The middling one was dropped behind the best: that it is better than the weak one is left open."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import compare_ranking

    alone = {name: {"right": [1.0] * count + [0.0] * (60 - count), "peak": 100} for name, count in COUNTS.items()}
    compared = {"candidates": ["best", "weak", "middling"], "behind": {"middling": "behind best after 48 rows"}}
    compared["places"] = {name: alone[name]["right"] for name in ("best", "weak")}
    every = {
        "candidates": list(COUNTS),
        "behind": {},
        "places": {name: entry["right"] for name, entry in alone.items()},
    }
    part = {"seed": 3, "compare": compared, "compare --full-ranking": every, "alone": alone}
    told = compare_ranking.agreement([part])
    assert told.startswith(
        "Among separate full runs 3 pairs differ significantly. With --full-ranking %%compare ranks 3, 3 "
    )
    assert "and ranks 2, 2 of them as the separate runs do. In the other 1 one was dropped" in told
    assert told.endswith("1 of these 1 would stand in the same order.")

    swapped = compared | {"behind": {"middling": "behind weak after 48 rows"}}
    told = compare_ranking.agreement([part | {"compare": swapped}])
    assert "and ranks 3, 2 of them as the separate runs do (not so: seed 3: middling over weak). " in told
    for peak, ending in ((110, "1.10, holds |"), (111, "1.11, does not hold |")):
        compared |= {"peak": peak, "seconds": 1.0}
        assert compare_ranking.memory([part | {"compare --full-ranking": compared}]).endswith(ending)


def test_a_kept_line_counts_for_the_code_that_it_measured(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import report

    kept, key = tmp_path / "kept.jsonl", {"seed": 0, "code": "new"}
    report.keep(kept, {"seed": 0, "code": "old", "found": 1})
    assert report.kept(kept, key) is None
    report.keep(kept, {"seed": 0, "found": 2})
    with pytest.raises(SystemExit, match=r"line 2, does not say which code it measured: .* add --adopt once"):
        report.kept(kept, key)
    assert report.kept(kept, key, adopt=True) == report.kept(kept, key) == {"seed": 0, "found": 2, "code": "new"}
    assert report.kept(kept, {"seed": 0, "code": "old"})["found"] == 1
