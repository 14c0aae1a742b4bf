"""A comparison from its cell to its answer, on tiny models and tables whose order is known."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_models
from distributions import Site
from shells import Shell

import nbadapt
from nbadapt import models, store
from nbadapt.errors import RunError
from nbadapt.selection.trials import Trials

ROOT = Path(__file__).resolve().parents[1]
QUICK = {"max_steps": 3, "samples": 0}

RAISES = """
from nbadapt.method import Config, Estimate, Method

class Raises(Method):
    name = "raises"
    verb = "finetune"
    summary = "goes wrong on the way"
    reference = "https://example.org"
    tasks = frozenset({"classification"})

    def estimate(self, job): return Estimate(1, 1, {"weights": 8}, 8, 1)
    def run(self, job, emit): raise ValueError("a <b>bad</b> day")
    def load(self, outcome, job): ...
"""


@pytest.fixture
def raises(tmp_path, monkeypatch):
    site = Site(tmp_path / "site", monkeypatch)
    site.add("raising", "1.0", {"raises": "raising:Raises"}, {"raising": RAISES})
    yield
    site.forget()


def compare(candidates, rows=None, **options):
    found = {"model": str(tiny_models.folder("bert")), "data": rows or tiny_models.reviews(200), **options}
    return nbadapt.compare(candidates, **found)


def words(n=240):
    """Rows that TF-IDF solves wholly: a word decides."""
    return tiny_models.reviews(n)


def orders(n=240):
    """Rows in which every text has the same words: only their order decides."""
    return [
        {"text": f"{'dog bites man' if i % 2 else 'man bites dog'} , {' '.join(map(str, sorted({i % 7, i % 5})))} {i}",
         "label": "odd" if i % 2 else "even"}
        for i in range(n)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    """A comparison of output layers that learn next to nothing, on a table that TF-IDF solves wholly."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("solved") / "runs"
        patch.setenv("NBADAPT_RUNS", str(folder))
        found = compare({"output-layers": {**QUICK, "learning_rate": [1e-6, 1e-5]}}, MARKED)
        patch.undo()
    return found, folder


MARKED = [{**row, "text": row["text"] + " <script>alert(1)</script>"} for row in tiny_models.reviews(120)]


@pytest.fixture
def found(solved, monkeypatch):
    monkeypatch.setenv("NBADAPT_RUNS", str(solved[1]))
    return solved[0]


def test_the_answer_names_the_candidate_that_solves_the_table(found):
    table = found.frame()
    assert list(table.index[:1]) == ["tf-idf"]
    assert table.loc["tf-idf", "accuracy"] == 1.0
    assert table.loc["tf-idf", "low"] > table.loc["majority", "high"]
    assert found.state == "done"
    use, why, what_if = found.advice
    assert use.startswith("Use tf-idf: accuracy 1.000")
    assert "It beats" in why
    assert what_if.endswith(".")
    assert found.best.method == "tf-idf"
    assert found.best.predict(["The film number 3 was wonderful."]).labels == ["positive"]
    assert "compare" in found.best.tags


def test_a_finetune_that_does_not_beat_tf_idf_says_so(found):
    tuned = next(
        label for label in found.runs if label.startswith("output-layers") and label in found.frame().index[:4]
    )
    assert "does not beat tf-idf and majority" in found.advice[1]
    pairs = found.differences()
    trained = [place.label for place in found.verdict.places if not place.entry.candidate.baseline]
    told = pairs[(pairs["first"] == "tf-idf") & (pairs["second"] == trained[0])]
    assert bool(told["differs"].iloc[0])
    assert tuned


def test_the_weaker_one_of_a_grid_is_dropped_and_says_so(found):
    dropped = found.frame().query("state == 'dropped'")
    assert len(dropped) == 1
    assert "behind output-layers learning_rate=" in dropped["reason"].iloc[0]
    assert dropped["rows"].iloc[0] < found.frame().loc["tf-idf", "rows"]


def test_costs_stand_beside_quality(found):
    row = next(record for _, record in found.frame().iterrows() if record["trainable"] == 66)
    assert min(row["artifact"], row["memory"], row["seconds"], row["inference"]) > 0
    assert row["tokens"] > 3
    assert row["forgotten"] == 0  # the body is frozen
    assert row["forgotten_as"] == "no weight changes"


def test_all_are_trained_on_the_same_rows(found):
    full = [run for label, run in found.runs.items() if found.frame().loc[label, "state"] == "done"]
    assert len({run.request["data"]["fingerprint"] for run in full}) == 1
    assert all(run.request["evaluation"] is None for run in full)


def test_the_answer_in_a_terminal_a_notebook_and_a_page(found, tmp_path: Path):
    text = repr(found)
    assert "Use tf-idf" in text
    assert "output-layers learning_rate=" in text
    html = found._repr_mimebundle_()["text/html"]
    assert "data:image/png;base64," in html
    assert len(html) < 80_000
    page = found.report(tmp_path / "report.html").read_text(encoding="utf-8")
    for shown in (html, page):
        assert "<script" not in shown
        assert 'src="http' not in shown
    assert "Who beats whom" in page
    assert len(found.figure("inference").axes) == 2


def test_a_page_that_cannot_be_written_is_one_line(found, tmp_path: Path):
    with pytest.raises(nbadapt.NbadaptError, match=r"give a name that ends in \.html, not 'report\.pdf'"):
        found.report(tmp_path / "report.pdf")
    (tmp_path / "file").write_text("")
    with pytest.raises(nbadapt.NbadaptError, match="the report could not be written to"):
        found.report(tmp_path / "file" / "report.html")


@pytest.mark.slow
def test_the_same_again_does_nothing_and_a_later_candidate_reuses_all(found, solved):
    before = sorted(run.id for run in store.runs())
    again = compare({"output-layers": {**QUICK, "learning_rate": [1e-6, 1e-5]}}, MARKED)
    assert sorted(run.id for run in store.runs()) == before
    assert list(again.frame()["accuracy"])[:3] == list(found.frame()["accuracy"])[:3]
    assert len(_looks(solved[1])) == 1
    later = compare({"output-layers": {**QUICK, "learning_rate": [1e-6, 1e-5]}, "bitfit": QUICK}, MARKED)
    new = {run.id for run in store.runs()} - set(before)
    assert {store.open(run).method for run in new} == {"bitfit"}
    assert [look["candidates"] for look in _looks(solved[1])][1:] == [1]
    assert "the test rows were looked at 2 times" in " ".join(later.notices)


def _looks(runs: Path):
    (folder,) = (runs / "comparisons").iterdir()
    return Trials(folder.name).looks()


@pytest.mark.slow
def test_pairs_of_words_beat_words_where_the_order_decides():
    found = compare({"tf-idf": {"words": [1, 2]}}, orders())
    trials = {label: run.request["settings"]["words"] for label, run in found.runs.items() if run.method == "tf-idf"}
    assert found.best.request["settings"]["words"] == 2
    assert set(trials.values()) == {1, 2}
    dropped = found.frame().loc["tf-idf words=1"]
    assert dropped["state"] == "dropped"
    assert "behind tf-idf words=2 after" in dropped["reason"]


@pytest.mark.slow
def test_what_all_layers_forget_is_more_than_nothing():
    row = compare({"full": {**QUICK, "learning_rate": 1e-2}}, words(120)).frame().loc["full"]
    assert row["forgotten"] > 1e-3
    assert row["forgotten_as"] == "drift"


@pytest.mark.slow
def test_a_decoder_forgets_nats_and_prompts_forget_nothing():
    llama = str(tiny_models.folder("llama"))
    blocks = {"lora": {**QUICK, "learning_rate": 5e-2}, "few-shot": {"shots": 2}}
    found = compare(blocks, words(100), model=llama)
    table = found.frame()
    assert table.loc["lora", "forgotten_as"] == "nats a token"
    assert abs(table.loc["lora", "forgotten"]) > 1e-4
    assert table.loc["few-shot", "forgotten"] == 0
    assert table.loc["zero-shot", "tokens"] < table.loc["few-shot", "tokens"]
    assert table.loc["zero-shot", "trainable"] == 0
    assert table.loc["few-shot", "inference"] > 0


@pytest.mark.slow
def test_a_table_of_answers_is_compared_by_bits_a_byte():
    llama = str(tiny_models.folder("llama"))
    blocks = {"lora": {"max_steps": 12, "learning_rate": 5e-2, "samples": 0}}
    found = compare(blocks, tiny_models.translations(120), model=llama)
    table = found.frame()
    assert found.best.method == "lora"
    assert table.loc["lora", "bits_per_byte"] < table.loc["zero-shot", "bits_per_byte"]
    assert "majority" not in table.index


@pytest.mark.slow
def test_the_base_is_read_once(monkeypatch):
    read = []
    real = models._read_weights
    monkeypatch.setattr(models, "_read_weights", lambda *args: read.append(args[0].name) or real(*args))
    models.free()
    compare({"output-layers": {**QUICK, "learning_rate": [1e-3, 1e-2]}, "bitfit": QUICK}, words(100))
    assert len(read) == 1


@pytest.mark.slow
def test_one_that_fails_is_a_row_and_the_others_go_on(raises):
    found = compare({"raises": None, "output-layers": QUICK}, words(100))
    row = found.frame().loc["raises"]
    assert row["state"] == "failed"
    assert "raises failed: ValueError: a <b>bad</b> day" in row["reason"]
    assert found.state == "done"
    assert "output-layers" in set(found.frame().index[:3])
    html = found._repr_mimebundle_()["text/html"]
    assert "<b>bad</b>" not in html
    assert "&lt;b&gt;bad" in html


# ------------------------------------------------------------------------------------------------ one split, one look


@pytest.mark.slow
def test_further_seeds_make_the_figure_a_mean():
    found = compare({"output-layers": QUICK}, words(100), seeds=2)
    row = found.frame().loc["output-layers"]
    assert row["seeds"] == 2
    place = next(p for p in found.verdict.places if p.label == "output-layers")
    assert place.seeds[0] <= place.value <= place.seeds[1]
    seeds = {run.request["seed"] for run in store.runs() if run.method == "output-layers"}
    assert seeds == {0, 1}


KILLED = """
import json, sys
import nbadapt
rows = json.load(open(sys.argv[1]))
blocks = {"output-layers": {"max_steps": 3, "samples": 0}, "lora": {"epochs": 60, "samples": 0, "save_steps": 5}}
found = nbadapt.compare(blocks, model=sys.argv[2], data=rows, seed=0)
print(json.dumps({"state": found.state, "best": found.best.method, "runs": {k: r.id for k, r in found.runs.items()}}))
"""


@pytest.mark.slow
def test_a_killed_comparison_goes_on_where_it_was(runs: Path, tmp_path: Path):
    table = tmp_path / "rows.json"
    table.write_text(json.dumps(words(100)), encoding="utf-8")
    command = [sys.executable, "-c", KILLED, str(table), str(tiny_models.folder("bert"))]
    worker = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(lambda: any(runs.glob("*-lora-*/checkpoints/*/complete")), worker)
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    before = {path.name for path in runs.iterdir() if (path / "request.json").is_file()}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    result = json.loads(done.stdout)
    assert result["state"] == "done"
    assert result["runs"]["output-layers"] in before
    assert result["runs"]["lora"] in before  # the run itself went on, from its checkpoint
    after = {path.name for path in runs.iterdir() if (path / "request.json").is_file()}
    assert not [name for name in after - before if "output-layers" in name or "lora" in name]


def _wait(ready, worker):
    deadline = time.monotonic() + 120
    while not ready():
        assert worker.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)


# ------------------------------------------------------------------------------------------------ budget


@pytest.mark.slow
def test_what_the_memory_does_not_hold_is_a_row():
    found = compare({"features": None, "full": QUICK}, words(100), budget="700KB")
    table = found.frame()
    if table.loc["full", "state"] == "left out":
        assert "more than the budget of" in table.loc["full", "reason"]
        assert "with more memory full" in found.advice[2]


@pytest.mark.slow
def test_a_budget_of_time_ends_what_takes_too_long():
    start = time.monotonic()
    slow = {"epochs": 10_000, "samples": 0}
    found = compare({"output-layers": QUICK, "lora": slow}, words(100), budget="12s")
    assert time.monotonic() - start < 30
    row = found.frame().loc["lora"]
    assert row["state"] == "out of time"
    assert "budget" in row["reason"]
    assert found.frame().loc["output-layers", "accuracy"] is not None
    assert "with more time lora" in found.advice[2]


# ------------------------------------------------------------------------------------------------ shown


@pytest.mark.slow
def test_a_cell_binds_the_comparison():
    shell = Shell()
    shell["reviews"] = words(100)
    shell["bert"] = str(tiny_models.folder("bert"))
    done = shell.run("%%compare --model bert --data reviews --as found\noutput-layers: {max_steps: 3, samples: 0}")
    assert done.error is None, done.err
    assert "Use tf-idf" in done.err  # outside of a kernel the answer is text
    assert shell["found"].best.method == "tf-idf"
    assert "output-layers: accuracy" in done.err


@pytest.mark.slow
def test_without_an_answer_best_is_one_line(raises):
    found = compare({"raises": None}, words(100))
    assert found.best.method in {"tf-idf", "majority"}
    contest = found._contest
    for entry in contest.entries:
        entry.test = []
    found._verdict = None
    with pytest.raises(RunError, match="the comparison has no best run: There is no answer"):
        _ = found.best


@pytest.mark.slow
def test_candidates_come_and_go_while_it_works():
    from nbadapt.selection import asked, specs
    from nbadapt.selection.candidates import prepare
    from nbadapt.selection.contest import Contest

    blocks = {"lora": {"epochs": 500, "samples": 0}}
    contest = Contest(
        prepare(asked.Asked(blocks=blocks, model=str(tiny_models.folder("bert")), data=words(100), test=0.2))
    )
    contest.start()
    deadline = time.monotonic() + 120
    while contest.current is None or contest.current.label != "lora":
        assert contest.alive
        assert time.monotonic() < deadline
        time.sleep(0.02)
    contest.add(specs.Spec("output-layers", QUICK))
    contest.stop_candidate("lora")
    contest.join(120)
    assert contest.state == "done"
    states = {entry.label: entry.state for entry in contest.entries}
    assert states["lora"] == "stopped"
    assert states["output-layers max_steps=3 samples=0"] == "in the last rung"
    with pytest.raises(nbadapt.NbadaptError, match="is there already"):
        contest.add(specs.Spec("output-layers", QUICK))
    with pytest.raises(nbadapt.NbadaptError, match="the comparison has ended: add the candidate to its cell"):
        contest.add(specs.Spec("bitfit", QUICK))
