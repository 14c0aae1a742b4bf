"""What a cell with %%compare may say, and what is wrong with it, told before anything is loaded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tiny_models
from shells import Shell

import nbadapt
from nbadapt import data, model_names, pretrained
from nbadapt.errors import NbadaptError, RequestError
from nbadapt.selection import asked as asking
from nbadapt.selection import line, rungs, specs
from nbadapt.selection.candidates import prepare
from nbadapt.selection.comparison import ComparisonPlan
from nbadapt.selection.contest import Contest
from nbadapt.selection.parts import split


@pytest.fixture(scope="module")
def shell():
    found = Shell()
    found["reviews"] = tiny_models.reviews(120)
    found["bert"] = str(tiny_models.folder("bert"))
    return found


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """No generator is installed beside the models of a test, unless it puts one here."""
    found: list[str] = []
    monkeypatch.setattr(model_names, "generators", lambda: found)
    return found


def ask(body="", text="--model bert --data reviews", **namespace):
    given = {"reviews": tiny_models.reviews(120), "bert": str(tiny_models.folder("bert")), **namespace}
    return line.parse(text, body, given)


def labels(body):
    return specs.labels(specs.specs(specs.read(body), {}))


# ------------------------------------------------------------------------------------------------ what is written


def test_lists_span_a_grid_and_names_say_what_differs():
    body = "features:\nlora: {r: [4, 16], learning_rate: [2e-4, 1e-3]}\nfew-shot: {model: smollm2, shots: [4, 16]}"
    assert labels(body) == [
        "features",
        "lora r=4 learning_rate=0.0002",
        "lora r=4 learning_rate=0.001",
        "lora r=16 learning_rate=0.0002",
        "lora r=16 learning_rate=0.001",
        "few-shot shots=4 · smollm2",
        "few-shot shots=16 · smollm2",
    ]


def test_a_setting_that_may_be_a_list_takes_lists_of_lists():
    assert labels("lora: {target_modules: [query, value]}") == ["lora"]
    assert len(labels("lora: {target_modules: [[query], [query, value]]}")) == 2


def test_a_method_may_have_several_blocks():
    found = labels("zero-shot:\n  - prompt: '{{text}} Good?'\n  - prompt: 'Good? {{text}}'\n    model: smollm2")
    assert found == ["zero-shot", "zero-shot · smollm2"]


def test_a_search_draws_by_the_seed_and_keeps_each_method():
    blocks = specs.read("features:\nlora:\n  - {r: [2, 4, 8], learning_rate: [1e-4, 1e-3]}\n  - {r: [16]}")
    found = specs.specs(blocks, {})
    drawn = specs.specs(blocks, {}, search=3, seed=1)
    assert len(drawn) == 3
    assert {spec.method for spec in drawn} == {"features", "lora"}
    assert drawn == specs.specs(blocks, {}, search=3, seed=1)
    assert len({str(specs.specs(blocks, {}, search=3, seed=seed)) for seed in range(20)}) > 3
    for seed in range(20):
        few = specs.specs(blocks, {}, search=7, seed=seed)
        assert few == [spec for spec in found if spec in few]  # in their order, each once
        assert len(few) == 7


def test_a_search_in_a_large_grid_builds_what_it_draws(monkeypatch):
    built = []
    real = specs._spec
    monkeypatch.setattr(specs, "_spec", lambda *args: built.append(1) or real(*args))
    many = ", ".join(map(str, range(1, 101)))
    body = f"lora: {{r: [{many}], epochs: [{many}], alpha: [{many}], batch_size: [{many}]}}"
    found = specs.specs(specs.read(body), {}, search=30)
    assert len({spec.key for spec in found}) == 30
    assert len(built) == 30 + 1 + 4 * 99  # of a hundred million: those that are drawn, and each value once
    with pytest.raises(RequestError, match="the setting 'alpha' of lora is 0"):
        specs.specs(specs.read(body.replace("alpha: [1,", "alpha: [0,")), {}, search=1)
    with pytest.raises(RequestError, match="the lists span 100,000,000 candidates: draw some of them with  --search"):
        specs.specs(specs.read(body), {})


@pytest.mark.parametrize(
    ("text", "seconds", "memory"),
    [
        ("10m", 600, None),
        ("1h30m", 5400, None),
        ("90s", 90, None),
        ("2GB", None, 2_000_000_000),
        ("1.5GiB", None, 3 * 2**29),
        ("10m,500MB", 600, 500_000_000),
    ],
)
def test_a_budget_is_a_time_or_a_memory(text, seconds, memory):
    assert asking.budget(text) == asking.Budget(seconds, memory)


def test_eight_candidates_cost_less_than_a_third_of_eight_full_runs():
    plan = rungs.schedule(8, 1600, 2)
    assert [rung.candidates for rung in plan] == [8, 2, 1]
    assert rungs.cost(plan, 1600) < 8 / 3 * 0.9  # a third of eight full runs, with room for the evaluations
    assert rungs.schedule(1, 1600, 2) == (rungs.Rung(1, 1600),)


def test_parts_are_nested_and_keep_every_class():
    rows = data.read(tiny_models.reviews(200), name="reviews")
    found = rungs.parts(rows, [200, 60, 16], seed=3)
    texts = {size: {row["text"] for row in part.rows} for size, part in found.items()}
    assert {size: len(part) for size, part in found.items()} == {200: 200, 60: 60, 16: 16}
    assert texts[16] < texts[60] < texts[200]
    assert all(sum(row["label"] == "positive" for row in part.rows) == size // 2 for size, part in found.items())


def test_the_split_is_seeded_and_shares_no_row():
    table = tiny_models.reviews(120)
    first, again = split(ask(reviews=[*table, *table[:7]])), split(ask(reviews=table))
    assert first.key == again.key  # what repeats is left out
    assert "7 rows of reviews repeat an earlier input" in " ".join(first.notices)
    texts = [{row["text"] for row in part.rows} for part in (first.training, first.validation, first.test)]
    assert sum(map(len, texts)) == len(set.union(*texts)) == 120
    assert split(ask(text="--model bert --data reviews --seed 1")).key != again.key


def test_rows_of_a_test_table_are_not_trained_on():
    table = tiny_models.reviews(120)
    found = split(ask(text="--model bert --data reviews --test locked", locked=table[:30]))
    assert len(found.test) == 30
    assert len(found.training) + len(found.validation) == 90


def test_the_first_validation_rows_stand_for_all_of_them():
    table = [{"text": f"row {i} says {i % 7}", "label": "rare" if i % 5 == 0 else "often"} for i in range(400)]
    rows = split(ask(reviews=table)).validation.rows
    assert [row["text"] for row in rows] != sorted(row["text"] for row in rows)
    for count in (10, 20, 35):
        assert sum(row["label"] == "rare" for row in rows[:count]) == pytest.approx(count / 5, abs=1)


# ------------------------------------------------------------------------------------------------ what is wrong


@pytest.mark.parametrize(
    ("text", "body", "said"),
    [
        ("--model bert", "features:", "no data to compare on: add --data"),
        ("--data reviews", "features:", "no model given: add --model"),
        ("--model bert --data reviews", "featurs:", "unknown method 'featurs': did you mean features?"),
        ("--model bert --data reviews", "lora: {lr: 1}", "unknown setting 'lr' of lora: did you mean learning_rate?"),
        ("--model bert --data reviews", "lora: {r: [4, 0]}", "the setting 'r' of lora is 0"),
        ("--model bert --data reviews", "lora: {r: []}", "lora: the list of 'r' is empty"),
        ("--model bert --data reviews", "lora: 4", "lora has 4: write its settings as"),
        ("--model bert --data reviews", "lora: {r: [4, 4]}", "the candidate lora r=4 is there twice; keep one"),
        ("--model bert --data reviews", "dpo:", "dpo does preference; reviews is a table for classification"),
        ("--model bert --data reviews", "llama-adapter:", "llama-adapter does generation, text; reviews is a table"),
        ("--model bert --data reviews", "few-shot:", "is an encoder and does not generate text"),
        ("--model bert --data reviews", "features: {prompt: x}", "features takes no prompt"),
        ("--model bert --data reviews lora", "", "unexpected 'lora': the line of %%compare has options alone"),
        (
            "--model bert --data reviews --bugdet 1m",
            "",
            "unknown option '--bugdet' of %%compare: did you mean --budget",
        ),
        ("--model bert --data reviews --budget soon", "", "--budget 'soon' is no time and no memory"),
        ("--model bert --data reviews --search 1", "features:\nlora:", "--search 1 is too few for 2 methods"),
        ("--model bert --data reviews --search 1", "lora: {r: [4, 2, 4]}", "the candidate lora r=4 is there twice"),
        ("--model bert --data reviews --test reviews", "", "all 120 rows of reviews are also in --test reviews: give"),
        ("--model bert --data reviews --test 0.001", "", "--test 0.001 locks up 1 row of 120, on which nothing can be"),
        (
            "--model bert --data reviews --as reviews",
            "",
            "would put the comparison in the place of the table reviews",
        ),
        (
            "--model bert --data reviews --as bert",
            "",
            "would put the comparison in the place of the model bert",
        ),
        (
            "--model bert --data reviews --as x",
            "few-shot: {model: x}",
            "in the place of the model x: give another",
        ),
        ("--model bert --data reviews --seeds 0", "", "--seeds is 0: give a whole number from 1 to 20"),
        ("--model bert --data reviews --test 1.5", "", "--test is 1.5: give a share between 0 and 1"),
        ("--model bert --data reviews --metric rouge", "features:", "unknown metric 'rouge'"),
        ("--model bert --data reviews --metric exact_match", "features:", "--metric exact_match is none for"),
        ("--model bert --data revews", "features:", "--data revews: no notebook variable and no file has this name"),
        ("--model bert --data reviews --budget 1KB", "features:", "no candidate fits into memory: the smallest one,"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_loaded(text, body, said, monkeypatch):
    monkeypatch.setattr(pretrained, "read_weights", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(NbadaptError) as caught:
        prepare(ask(body, text))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


REVIEWS = tiny_models.reviews(120)
POSITIVE = [row for row in REVIEWS if row["label"] == "positive"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"metric": 3}, "metric is 3, an int: give a text"),
        ({"metric": ["accuracy"]}, "metric is ['accuracy'], a list: give a text"),
        ({"task": 3}, "task is 3, an int: give a text"),
        ({"columns": 3}, 'columns is 3: give a dict, as columns={"text": "review"}'),
        ({"columns": {"label": 3}}, "columns says 3 for 'label', an int: give the column's name as a text"),
        ({"test": REVIEWS[:3]}, "--test test holds 3 rows, on which nothing can be told: give 5 or more"),
        (
            {"test": POSITIVE},
            "leaves rows of the label 'negative' alone (60 rows of data are also among test",
        ),
        ({"data": [{**row, "text": "same"} for row in REVIEWS]}, "leaves 1 row to train on and to choose by (119 rows"),
        ({"data": REVIEWS[:22]}, "data leaves 18 rows to train on and to choose by (4 are locked up): give 20 or more"),
        ({"data": [{**row, "label": "a"} for row in REVIEWS]}, "every row of the column 'label' is 'a'"),
    ],
)
def test_a_mistake_of_a_python_call_is_one_line(given, said):
    asked = {"model": str(tiny_models.folder("bert")), "data": REVIEWS, **given}
    with pytest.raises(NbadaptError) as caught:
        nbadapt.compare({"majority": None}, dry_run=True, **asked)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_budget_of_no_time_says_what_would_be_needed(monkeypatch):
    from nbadapt.engines import rough_time

    monkeypatch.setattr(rough_time, "_rate", lambda _dtype: 1e6)  # a very slow machine
    with pytest.raises(RequestError, match="too small for even one candidate: the quickest one, features, needs about"):
        prepare(ask("features:", "--model bert --data reviews --budget 1s"))


def test_a_table_for_another_task_is_refused():
    with pytest.raises(NbadaptError, match="a table for preference, and %%compare does classification and generation"):
        prepare(ask("lora:", "--model bert --data pairs", pairs=tiny_models.preferences(40)))


# ------------------------------------------------------------------------------------------------ what nobody named


@pytest.mark.slow
def test_an_empty_body_takes_one_method_of_each_family_and_the_baselines():
    found = prepare(ask(text="--model bert --data reviews"))
    families = [type(one.method).menu_group() for one in found.candidates if not one.baseline]
    assert len(families) - len(set(families)) <= 1  # the one that trains most may be a second of its family
    assert {"full", "majority", "tf-idf"} <= {one.method.name for one in found.candidates}
    assert "one method of each family was taken" in " ".join(found.notices)


@pytest.mark.slow
def test_the_default_set_follows_model_memory_and_time(monkeypatch):
    from nbadapt.engines import rough_time

    def chosen(text, **namespace):
        return {c.method.name: c for c in prepare(ask(text=text, **namespace)).candidates if not c.baseline}

    whole = chosen("--model bert --data reviews")
    assert not any(one.prompts for one in whole.values())  # an encoder writes no text
    decoder = chosen("--model llama --data reviews", llama=str(tiny_models.folder("llama")))
    assert any(one.prompts for one in decoder.values())
    most = max(one.estimate.peak for one in whole.values())
    small = chosen(f"--model bert --data reviews --budget {most / 1000 - 1:.3f}KB")
    assert small
    assert max(one.estimate.peak for one in small.values()) < most
    monkeypatch.setattr(rough_time, "of_training", lambda job, found: 100.0 if "gradients" in found.memory else None)
    quick = chosen("--model bert --data reviews --budget 10s")
    assert quick
    assert set(quick) < set(whole)
    assert not any("gradients" in one.estimate.memory for one in quick.values())


@pytest.mark.slow
def test_without_a_budget_the_default_set_follows_the_number_of_rows(monkeypatch):
    from nbadapt.engines import rough_time

    def prepared(rows, body="", text="--model bert --data reviews"):
        found = prepare(ask(body, text, reviews=tiny_models.reviews(rows)))
        return {one.method.name: one for one in found.candidates if not one.baseline}, found

    frozen, _ = prepared(120, "features:\noutput-layers:\nmajority:\ntf-idf:")
    assert frozen["output-layers"].seconds == pytest.approx(frozen["features"].seconds, rel=0.1)  # each row read once
    total = frozen["features"].estimate.total
    monkeypatch.setattr(rough_time, "_rate", lambda _dtype: total * 500.0)  # a slow machine
    few, found = prepared(120)
    many, cut = prepared(12_000)
    assert not found.left_out
    assert {"features", "lora", "full"} <= few.keys()
    assert "features" in many
    assert not {"lora", "full"} & many.keys()
    reasons = {left.label: (left.lacks, left.reason) for left in cut.left_out}
    assert {"lora", "full"} <= reasons.keys()
    assert few.keys() <= many.keys() | reasons.keys()
    assert reasons["full"][0] == "time"
    assert re.fullmatch(
        r"takes roughly (\d+ h )?\d+ min on this machine, more than the 30 min of one that nobody named: name it in "
        r"the cell, or set --budget", reasons["full"][1],
    )  # fmt: skip
    assert "full is left out: takes roughly" in repr(ComparisonPlan(cut))
    assert "full" in prepared(12_000, "full:\nmajority:\ntf-idf:")[0]
    assert "full" in prepared(12_000, text="--model bert --data reviews --budget 9h")[0]


def test_zero_shot_asks_an_installed_generator_where_the_model_writes_no_text(installed):
    notices = " ".join(prepare(ask("tf-idf:\nmajority:")).notices)
    assert re.search(
        r"the baseline zero-shot was left out: the model .* is an encoder and does not generate text: .*; with a model "
        r"of its own it is named as  zero-shot: \{model: NAME\}", notices,
    )  # fmt: skip
    llama = str(tiny_models.folder("llama"))
    installed.append(llama)
    found = prepare(ask("tf-idf:\nmajority:"))
    baseline = next(one for one in found.candidates if one.method.name == "zero-shot")
    assert baseline.job.model.name == llama
    assert f"the baseline zero-shot asks {llama}, which is installed here" in " ".join(found.notices)


def test_a_baseline_that_the_budget_does_not_afford_is_left_out_by_name(installed, monkeypatch):
    from nbadapt.engines import rough_time

    installed.append(str(tiny_models.folder("llama")))
    body = "tf-idf:\nmajority:"
    monkeypatch.setattr(rough_time, "of_reading", lambda *_: 90.0)
    found = prepare(ask(body, "--model bert --data reviews --budget 60s"))
    assert [(left.label.split()[0], left.lacks) for left in found.left_out] == [("zero-shot", "time")]
    assert "a baseline that takes about 90 s, too much of the budget of 60 s" in found.left_out[0].reason
    named = f"{body}\nzero-shot: {{model: {tiny_models.folder('llama')}}}"
    assert not prepare(ask(named, "--model bert --data reviews --budget 60s")).left_out


def test_a_dry_run_counts_seeds_rungs_and_the_test_rows_of_prompts(monkeypatch):
    from nbadapt.engines import rough_time

    monkeypatch.setattr(rough_time, "of_reading", lambda *_: 10.0)
    llama, rows = str(tiny_models.folder("llama")), tiny_models.reviews(120)
    asked = {"model": llama, "data": rows, "seeds": 3, "task": "classification"}
    prepared = prepare(asking.Asked(blocks={"few-shot": {"shots": [1, 2]}}, **asked))
    parts = prepared.parts
    few = [one for one in prepared.candidates if one.method.name == "few-shot"]
    first = rungs.asked(rungs.schedule(2, len(parts.training), 2)[0].rows, len(parts.training), len(parts.validation))
    halving = 2 * first / len(parts.validation) + 1
    tested = 3 * len(parts.test) / len(parts.validation)
    assert ComparisonPlan(prepared)._cost(few) == pytest.approx(10.0 * (halving + 2 + tested))
    assert "All rungs and 3 seeds take roughly" in repr(ComparisonPlan(prepared))


def test_what_was_added_and_stopped_outlives_the_kernel():
    asked = ask("majority: {}\ntf-idf: {words: [1, 2]}")
    contest = Contest(prepare(asked))
    contest.add(specs.Spec("tf-idf", {"words": 3, "C": 0.00001}))
    contest.stop_candidate("tf-idf words=2")
    again = Contest(prepare(asked))  # the kernel is gone: the same cell
    assert [entry.label for entry in again.entries] == [entry.label for entry in contest.entries]
    assert again.entries[-1].candidate.spec == contest.entries[-1].candidate.spec
    assert [entry.state for entry in again.entries] == ["waiting", "waiting", "stopped", "waiting"]
    assert "stopped while it worked, and not tried again: tf-idf words=2" in " ".join(again.notices)
    again.add(again.entries[2].candidate.spec)  # and back
    assert {entry.state for entry in Contest(prepare(asked)).entries} == {"waiting"}
    assert {entry.state for entry in Contest(prepare(ask("majority:"))).entries} == {"waiting"}  # another cell


def test_a_later_candidate_is_called_as_in_the_cell():
    llama = str(tiny_models.folder("llama"))
    body = f"few-shot: {{shots: [1, 2], model: {llama}}}"
    contest = Contest(prepare(ask("majority:\ntf-idf:")))
    for spec in specs.specs(specs.read(body), {}):
        contest.add(spec)
    assert [entry.label for entry in contest.entries][-2:] == labels(body) == [
        f"few-shot shots={n} · {Path(llama).name}" for n in (1, 2)
    ]  # fmt: skip


def test_a_model_of_its_own_may_be_a_path():
    bert, llama = tiny_models.folder("bert"), tiny_models.folder("llama")
    blocks = {"few-shot": {"model": [llama]}, "features": {"model": bert}}
    plan = nbadapt.compare(blocks, model=bert, data=tiny_models.reviews(120), dry_run=True)
    named = {one.label: one.job.model.path for one in plan.candidates}
    assert str(named[f"few-shot · {llama.name}"]) == str(llama)
    assert str(named[f"features · {bert.name}"]) == str(bert)


def test_a_dry_run_tells_candidates_and_costs(shell):
    done = shell.run("%%compare --model bert --data reviews --dry-run\nfeatures:\nlora: {r: [2, 4]}")
    assert done.error is None
    text = repr(done.value)
    for word in ("lora r=2", "lora r=4", "tf-idf", "majority", "predicted peak", "nothing was trained or written"):
        assert word in text
    assert done.value.seconds is None or done.value.seconds > 0


def test_help_and_completion(shell):
    assert "--budget" in shell.run("%%compare --help").out
    assert "--seeds" in shell.tab("%%compare --model bert ")
    assert shell.tab("%%compare --data rev") == ["reviews"]
    assert "lora: " in shell.tab("%%compare --model bert --data reviews\nlo")
    assert shell.tab("%%compare --model bert\nlora: {r: 4, learning") == ["learning_rate: "]
    assert "model: " in shell.tab("%%compare --model bert\nlora: {")
    assert "balanced" in shell.tab("%%compare --model bert\nfew-shot: {shots: 4, selection: bal")
    assert shell.run("%%compare --model bert --data reviews\nlorra:").error is not None
