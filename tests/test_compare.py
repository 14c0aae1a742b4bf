"""A comparison from its cell to its answer, on tiny models and tables whose order is known."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import subprocess
import sys
import time
from html import escape
from pathlib import Path

import pandas as pd
import pytest
import tiny_models
from distributions import Site
from kernels import VERSIONS, running
from shells import Shell

import nbadapt
from nbadapt import model_names, models, pretrained, store
from nbadapt.engines import rough_time, supervised
from nbadapt.errors import RunError
from nbadapt.metrics import wilson_interval
from nbadapt.selection import bases
from nbadapt.selection.asked import Asked
from nbadapt.selection.candidates import LeftOut, prepare
from nbadapt.selection.comparison import MethodComparison
from nbadapt.selection.contest import Contest
from nbadapt.selection.entry import FINISHED
from nbadapt.selection.forgetting import masked_tokens, passages
from nbadapt.selection.trials import Said, Trial, Trials
from nbadapt.widgets.selection import ContestFeed

ROOT = Path(__file__).resolve().parents[1]
QUICK = {"max_steps": 3, "samples": 0}


@pytest.fixture(scope="module", autouse=True)
def no_packaged_generator():
    """No large model takes part as a baseline; tests/test_compare_candidates.py sees to that one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_names, "generators", list)
        yield


RAISES = """
from nbadapt.method import Config, Estimate, Method

class Settings(Config):
    n: int = 0

class Raises(Method):
    Config = Settings
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
    table = found.frame().query("not baseline and state == 'done'")
    assert list(table["does_not_beat"]) == ["tf-idf, majority"]
    pairs = found.differences()
    told = pairs[(pairs["first"] == "tf-idf") & (pairs["second"] == table.index[0])]
    assert bool(told["differs"].iloc[0])


def came_through(blocks, right, left_out=(), **options):
    """A comparison whose candidates are said to have answered this share of the test rows rightly, in their order."""
    asked = Asked(blocks=blocks, model=str(tiny_models.folder("bert")), data=words(200), **options)
    contest = Contest(dataclasses.replace(prepare(asked), left_out=left_out))
    parts = contest.prepared.parts
    for entry, share in zip(contest.entries, right, strict=True):
        said = [
            Said((label,) * len(rows), tuple(float(i < share * len(rows)) for i in range(len(rows))))
            for rows, label in ((parts.validation, "a"), (parts.test, "a"))
        ]
        rows, costs = len(parts.training), {"seconds": 1.0, "inference": 1.0}
        entry.trials = [Trial(entry.label, entry.label, rows, 0, "", "done", said=said[0], costs=costs)]
        entry.test, entry.state = said[1:], FINISHED
    contest.state = "done"
    return MethodComparison(contest)


GRID = {"output-layers": {"weight_decay": [i / 10 for i in range(7)]}, "tf-idf": None, "majority": None}


def test_every_row_says_which_baselines_it_does_not_beat(tmp_path: Path):
    found = came_through(GRID, [0.95] * 6 + [0.1, 1.0, 0.4])
    told = found.frame()["does_not_beat"].to_dict()
    tuned = [f"output-layers weight_decay={i / 10:g}" for i in range(7)]
    assert {told[label] for label in tuned[:6]} == {"tf-idf"}
    assert told[tuned[6]] == "tf-idf, majority"
    assert pd.isna([told["tf-idf"], told["majority"]]).all()
    page = found.report(tmp_path / "page.html").read_text(encoding="utf-8")
    for html in (found._repr_mimebundle_()["text/html"], page):
        assert html.count("does not beat tf-idf<") == 6
        assert html.count("does not beat tf-idf and majority<") == 1
    head, *lines = repr(found).splitlines()[6:]
    place = head.index("does not beat")
    words = [line[place:].split("  ")[0] for line in lines[:9]]
    assert [words.count(said) for said in ("tf-idf", "tf-idf and majority", "")] == [6, 1, 2]


@pytest.mark.parametrize(
    ("right", "said"),
    [
        ([0.95] * 7 + [1.0, 0.4], ("Use tf-idf", "it is a baseline, and no other candidate did better")),
        ([0.95] * 6 + [0.1, 0.7, 0.4], ("Use output-layers weight_decay=0:", "It beats tf-idf, majority and")),
    ],
)
def test_the_advice_is_three_sentences(right, said):
    left_out = (LeftOut("full", "too large", "memory"), LeftOut("zero-shot · llama", "too slow", "time"))
    found = came_through(GRID, right, left_out)
    assert [len(re.split(r"[.!?](?=\s|$)", line)) for line in found.advice] == [2, 2, 2]  # a sentence and its end
    for line, part in zip(found.advice, (*said, "with more memory full could be tried; "), strict=True):
        assert part in line
    assert "with more time zero-shot · llama could be tried; " in found.advice[2]


def test_candidates_that_differ_by_prompt_show_theirs(monkeypatch, tmp_path: Path):
    prompts = ["{{text}} Good?", "Is <b>this</b> praise? abcd-1234-efgh {{text}}"]
    llama, rows = str(tiny_models.folder("llama")), words(60)
    blocks = {"zero-shot": [{"prompt": text} for text in prompts], "few-shot": None}
    found = MethodComparison(Contest(prepare(Asked(blocks=blocks, model=llama, data=rows))))
    monkeypatch.setenv("MY_TOKEN", "abcd-1234-efgh")  # a prompt that holds it already would be refused
    hidden = prompts[1].replace("abcd-1234-efgh", "***")
    told = found.frame()["prompt"].to_dict()
    assert [told[label] for label in ("zero-shot · 1", "zero-shot · 2", "few-shot")] == [prompts[0], hidden, ""]
    assert pd.isna(told["tf-idf"])
    page = found.report(tmp_path / "page.html").read_text(encoding="utf-8")
    assert all(f"its prompt: {escape(text)}</p>" in page for text in (prompts[0], hidden))
    html = found._repr_mimebundle_()["text/html"]
    assert all(f"prompt: {escape(text)}; waiting<" in html for text in (prompts[0], hidden))
    assert "abcd-1234-efgh" not in page + html + repr(found)
    alike = MethodComparison(Contest(prepare(Asked(blocks={"few-shot": None}, model=llama, data=rows))))
    assert "prompt" not in alike.frame().columns


def test_the_weaker_one_of_a_grid_is_dropped_and_says_so(found):
    dropped = found.frame().query("state == 'dropped'")
    assert len(dropped) == 1
    assert "behind output-layers learning_rate=" in dropped["reason"].iloc[0]
    assert dropped["rows"].iloc[0] < found.frame().loc["tf-idf", "rows"]


def test_every_figure_has_its_interval(found):
    table = found.frame()
    assert (table["validation_low"] <= table["validation"]).all()
    assert (table["validation"] <= table["validation_high"]).all()
    count = len(found._contest.prepared.parts.validation)
    for _, row in table.iterrows():
        assert (row["validation_low"], row["validation_high"]) == wilson_interval(row["validation"], count)
    dropped = table.query("state == 'dropped'").iloc[0]
    shown = f"{dropped['validation_low']:.3f} to {dropped['validation_high']:.3f}"
    assert shown in repr(found)
    points = ContestFeed(found._contest).state()["candidates"][0]["points"]
    assert all(len(point) == 4 and point[2] <= point[1] <= point[3] for point in points)


def test_the_front_of_a_cost_is_that_of_this_cost(found):
    from matplotlib.colors import to_hex

    for cost in ("time", "memory", "trainable"):
        axes = found.figure(cost).axes[0]
        marks = {line.get_marker(): to_hex(line.get_color()) for line in axes.lines if line.get_marker() in {"D", "s"}}
        assert marks["D"] == "#0072b2", cost  # nothing is better than the one that is advised


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


def adapted_weights(run):
    """The adapted model's tensors that a run has stored, by name."""
    from safetensors.torch import load_file

    return {
        k: v for file in sorted(run.directory.glob("artifacts/**/*.safetensors")) for k, v in load_file(file).items()
    }


@pytest.mark.slow
def test_what_all_layers_forget_is_the_drift_that_plain_transformers_shows():
    import torch
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    found = compare({"full": {**QUICK, "learning_rate": 1e-2}}, words(120), dtype="float32")
    row = found.frame().loc["full"]
    assert row["forgotten_as"] == "drift"
    assert row["tokens"] > 3  # it reads the model's tokens, though every weight of it is trained
    folder = tiny_models.folder("bert")
    tokenizer, base = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, dtype=torch.float32)
    tuned = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    wrong = tuned.load_state_dict(adapted_weights(found.runs["full"]), strict=False)
    assert not [name for name in wrong.missing_keys if "pooler" not in name]
    drifts = []
    with torch.no_grad():
        for passage in passages():
            ids = torch.tensor([tokenizer(passage)["input_ids"][:128]])
            pair = [model.eval()(input_ids=ids).last_hidden_state[0] for model in (tuned.base_model, base)]
            drifts.append(1 - torch.nn.functional.cosine_similarity(*pair, dim=-1).mean())
    assert row["forgotten"] == pytest.approx(float(torch.stack(drifts).mean()), rel=1e-3)
    assert row["forgotten"] > 1e-3


def masked_bert(folder: Path) -> Path:
    """A tiny BERT as it is pretrained: with the head for masked tokens, whose weights are among its own."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, BertForMaskedLM

    torch.manual_seed(0)
    BertForMaskedLM(AutoConfig.from_pretrained(tiny_models.folder("bert"))).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_models.folder("bert")).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_what_an_encoder_with_its_head_forgets_is_the_loss_that_plain_transformers_shows(tmp_path):
    import torch
    from transformers import AutoTokenizer, BertForMaskedLM

    folder = masked_bert(tmp_path / "masked-bert")
    blocks = {"full": {**QUICK, "learning_rate": 1e-2}}
    found = compare(blocks, words(100), model=str(folder), dtype="float32")
    row, tokenizer = found.frame().loc["full"], AutoTokenizer.from_pretrained(folder)
    assert row["forgotten_as"] == "nats a masked token"
    base, tuned = BertForMaskedLM.from_pretrained(folder), BertForMaskedLM.from_pretrained(folder)
    tuned.cls.predictions.decoder.weight = torch.nn.Parameter(base.bert.embeddings.word_embeddings.weight.clone())
    tuned.load_state_dict(adapted_weights(found.runs["full"]), strict=False)
    changes = []
    for place, passage in enumerate(passages()):
        ids = torch.tensor([tokenizer(passage)["input_ids"][:128]])
        masked, labels = masked_tokens(ids, tokenizer, place)
        places = labels[0] >= 0
        assert (masked[0, places] == tokenizer.mask_token_id).all()
        assert (labels[0, places] == ids[0, places]).all()
        assert (masked[0, ~places] == ids[0, ~places]).all()
        assert int(places.sum()) == round(0.15 * (ids.shape[1] - 2))  # but for [CLS] and [SEP]
        with torch.no_grad():
            a, b = (float(one.eval()(input_ids=masked, labels=labels).loss) for one in (tuned, base))
        changes.append(a - b)
    assert row["forgotten"] == pytest.approx(sum(changes) / len(changes), rel=1e-3)
    assert abs(row["forgotten"]) > 1e-3


@pytest.mark.slow
def test_what_a_decoder_forgets_is_the_loss_that_plain_transformers_shows():
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_models.folder("llama")
    blocks = {"lora": {"max_steps": 6, "learning_rate": 5e-2, "samples": 0}}
    found = compare(blocks, tiny_models.translations(100), model=str(folder), dtype="float32")
    row = found.frame().loc["lora"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [torch.tensor([tokenizer(passage)["input_ids"][:128]]) for passage in passages()]

    def loss(model):
        with torch.no_grad():
            return float(torch.stack([model.eval()(input_ids=ids, labels=ids).loss for ids in texts]).mean())

    base = loss(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    adapter = next(found.runs["lora"].directory.glob("artifacts/**/adapter_config.json")).parent
    tuned = loss(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), adapter))
    assert row["forgotten_as"] == "nats a token"
    assert row["forgotten"] == pytest.approx(tuned - base, rel=1e-3)
    assert abs(row["forgotten"]) > 1e-3


@pytest.mark.slow
def test_what_cannot_be_measured_of_forgetting_is_told(monkeypatch):
    from nbadapt.selection import forgetting

    monkeypatch.setattr(forgetting, "passages", list)  # nothing to measure on
    found = compare({"lora": QUICK}, words(60))
    assert "what lora forgot could not be measured: " in " ".join(found.notices)
    assert found.frame().loc["lora", "state"] == "done"


@pytest.mark.slow
def test_a_decoder_classifier_forgets_nats_and_prompts_forget_nothing():
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
    real = pretrained.read_weights
    monkeypatch.setattr(pretrained, "read_weights", lambda *args: read.append(args[0].name) or real(*args))
    models.free()
    compare({"output-layers": {**QUICK, "learning_rate": [1e-3, 1e-2]}, "bitfit": QUICK}, words(100))
    assert len(read) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("room", "reads"), [(2.0, 2), (0.0, 4)])
def test_two_bases_are_read_once_where_there_is_room_and_else_once_a_phase(room, reads, monkeypatch):
    read = []
    real = pretrained.read_weights
    monkeypatch.setattr(pretrained, "read_weights", lambda *args: read.append(Path(args[0].path).name) or real(*args))
    monkeypatch.setattr(bases, "ROOM", room)
    models.free()
    bert, llama = (str(tiny_models.folder(name)) for name in ("bert", "llama"))
    blocks = {
        "output-layers": {**QUICK, "learning_rate": [1e-3, 1e-2]},
        "bitfit": QUICK,
        "full": {**QUICK, "batch_size": 64},  # the largest
        "few-shot": {"model": llama, "shots": [1, 2]},
        "zero-shot": {"model": llama},
    }
    found = compare(blocks, words(100), model=bert)
    assert found.state == "done"
    assert len(found.verdict.places) == 7
    # without room: the first rungs and the last ones, in turns; the phases meet at the model that is in memory
    assert len(read) <= reads
    assert set(read) == {Path(bert).name, Path(llama).name}


def test_a_larger_candidate_on_a_base_in_memory_drives_the_other_bases_out():
    rows, bert, llama = words(60), str(tiny_models.folder("bert")), str(tiny_models.folder("llama"))
    blocks = {"output-layers": QUICK, "full": QUICK, "few-shot": {"model": llama, "shots": 1}}
    found = {one.method.name: one for one in prepare(Asked(blocks=blocks, model=bert, data=rows)).candidates}

    def sized(name, weights, rest):
        one = found[name]
        memory = {"weights": weights, "gradients": rest}
        return dataclasses.replace(one, estimate=dataclasses.replace(one.estimate, memory=memory))

    small, large, other = sized("output-layers", 50, 50), sized("full", 50, 450), sized("few-shot", 60, 390)
    models.free()
    held = bases.Bases([small, large, other], limit=None)
    held.make_room(small)
    models.load_classifier(small.job.model, small.job.labels, small.job.device, small.job.dtype, 0)
    held.make_room(other)
    models.load(other.job.model, other.job.device, other.job.dtype)
    held.make_room(small)  # 100 and 60 of the other base: within 500
    assert models.is_loaded(small.job.model, small.job.device, small.job.dtype)
    assert models.is_loaded(other.job.model, other.job.device, other.job.dtype)
    held.make_room(large)  # 500 and 60
    assert models.is_loaded(large.job.model, large.job.device, large.job.dtype)
    assert not models.is_loaded(other.job.model, other.job.device, other.job.dtype)


@pytest.mark.slow
def test_rows_are_encoded_once_for_all_trials_on_them(monkeypatch):
    encoded = []
    real = supervised.encode
    monkeypatch.setattr(supervised, "encode", lambda rows, *rest: encoded.append(len(rows)) or real(rows, *rest))
    compare({"lora": {**QUICK, "r": [2, 4]}, "bitfit": QUICK}, words(100))
    assert sorted(encoded) == [48, 68]  # a rung each: of four trials


@pytest.mark.slow
def test_eight_prompts_ask_far_fewer_rows_than_eight_passes():
    found = compare(
        {"few-shot": {"shots": [1, 2, 3, 4, 5, 6, 7, 8]}}, words(400), model=str(tiny_models.folder("llama"))
    )
    contest = found._contest
    few = [entry for entry in contest.entries if entry.candidate.method.name == "few-shot"]
    asked = sum(len(trial.said.values) for entry in few for trial in entry.trials)
    whole = len(contest.prepared.parts.validation)
    assert asked < 0.45 * 11 * whole
    (last,) = [entry for entry in few if entry.test]
    assert len(last.last.said.values) == whole
    dropped = next(entry for entry in few if entry.state == "dropped")
    assert f"on {len(dropped.last.said.values)} validation rows" in dropped.reason


@pytest.mark.slow
def test_answers_that_are_kept_cost_what_new_ones_do(tmp_path, monkeypatch):
    llama = str(tiny_models.folder("llama"))
    first = compare({"few-shot": {"shots": 2}}, words(100), model=llama).frame().loc["few-shot"]
    monkeypatch.setenv("NBADAPT_RUNS", str(tmp_path / "other"))  # all is done anew, and every answer is there
    again = compare({"few-shot": {"shots": 2}}, words(100), model=llama).frame().loc["few-shot"]
    assert again["accuracy"] == first["accuracy"]
    assert again["inference"] > first["inference"] / 5


@pytest.mark.slow
def test_memory_is_what_a_trial_adds_and_its_base():
    found = compare({"output-layers": QUICK}, words(100))
    table, one = found.frame(), found._contest.entries[0].candidate
    assert one.estimate.memory["weights"] <= table.loc["output-layers", "memory"] < 200 * 2**20
    assert table.loc["majority", "memory"] < 100 * 2**20  # not the hundreds of the process with torch


@pytest.mark.slow
def test_one_that_fails_is_a_row_and_the_others_go_on(raises):
    found = compare({"raises": {"n": [1, 2]}, "output-layers": QUICK}, words(100), budget="10m")
    row = found.frame().loc["raises n=1"]
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
    assert (row["lowest_seed"], row["highest_seed"]) == place.seeds
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
    prepared = prepare(
        Asked(blocks={"features": None, "full": QUICK}, model=str(tiny_models.folder("bert")), data=words(100))
    )
    peaks = {one.label: one.estimate.peak for one in prepared.candidates}
    assert peaks["features"] < peaks["full"]
    budget = f"{(peaks['features'] + peaks['full']) / 2000:.3f}KB"
    found = compare({"features": None, "full": QUICK}, words(100), budget=budget)
    table = found.frame()
    assert table.loc["full", "state"] == "left out"
    assert "more than the budget of" in table.loc["full", "reason"]
    assert "with more memory full could be tried" in found.advice[2]
    assert table.loc["features", "state"] == "done"


@pytest.mark.slow
def test_a_time_that_nobody_could_tell_before_is_told_when_the_budget_ends(monkeypatch):
    monkeypatch.setattr(rough_time, "of_training", lambda *_: None)  # as on an accelerator
    monkeypatch.setattr(rough_time, "of_reading", lambda *_: None)
    found = compare(
        {"lora": {"epochs": 10_000, "samples": 0}, "tf-idf": None, "majority": None}, words(100), budget="25s"
    )
    assert "how long lora" in " ".join(found.notices)
    row = found.frame().loc["lora"]
    assert row["state"] == "out of time"
    assert re.search(
        r"the budget ended while it worked on 68 rows: \d+ % were done, all need about [\d,]+ s", row["reason"]
    )
    for entry in found._contest.entries:
        entry.test = []
    found._verdict = None
    assert "the quickest of them needs about" in found.advice[0]


@pytest.mark.slow
def test_seeds_that_the_budget_has_no_time_for_are_named(monkeypatch, tmp_path):
    done = Contest.left.fget
    monkeypatch.setattr(Contest, "left", property(lambda self: 0.0 if len(self._finalists()) == 3 else done(self)))
    found = compare({"output-layers": QUICK, "tf-idf": None, "majority": None}, words(60), seeds=3)
    assert "the budget left no time for all 3 seeds of" in " ".join(found.notices)
    assert found.frame().loc["output-layers", "seeds"] == 1
    page = found.report(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Seeds of the last candidates: 3 (only 1 of " in page


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
    assert "with more time lora could be tried" in found.advice[2]


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


CELL = """%%compare --model bert --data rows --as found
lora: {epochs: 2000, samples: 0}
tf-idf:
majority:"""


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_a_page_adds_and_stops_while_a_kernel_compares(version, runs, tmp_path):
    table = tmp_path / "rows.json"
    table.write_text(json.dumps(words(100)), encoding="utf-8")
    with running(version, tmp_path) as kernel:
        assert kernel.run("%load_ext nbadapt").status == "ok"
        rows, bert = f"json.load(open({str(table)!r}))", str(tiny_models.folder("bert"))
        opened = "import json\nfrom nbadapt import model_names\nmodel_names.generators = list"
        kernel.run(f"{opened}\nrows, bert = {rows}, {bert!r}")
        cell = kernel.send(CELL)
        page = kernel.model(cell, 120)

        def candidates():
            messages = kernel.messages(page)
            return {c["label"]: c for c in messages[-1]["candidates"]} if messages else {}

        kernel.click(page, {"type": "hello"})
        kernel.until(lambda: candidates().get("lora", {}).get("state") == "running", 120)
        kernel.click(page, {"type": "add", "text": "output-layers: {max_steps: 3, samples: 0}"})
        kernel.until(lambda: any("1 added" in message["said"] for message in kernel.messages(page)), 60)
        kernel.click(page, {"type": "hello"})  # a page that was reloaded
        kernel.click(page, {"type": "drop", "place": candidates()["lora"]["place"]})
        done = kernel.finish(cell, 180)
        assert done.status == "ok", done.error
        states = dict(kernel.value("list(found.frame()['state'].items())"))
        assert states["lora"] == "stopped"
        assert states["output-layers max_steps=3 samples=0"] == "done"
        again = kernel.run(CELL, 180)  # the same cell, which knows of both
        assert again.status == "ok", again.error
        assert dict(kernel.value("list(found.frame()['state'].items())")) == states
