"""The preference file: rows follow from votes, kills and other processes lose nothing, agreement is Cohen's."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from sklearn.metrics import cohen_kappa_score

import nbadapt
from nbadapt import agreement, data, journal
from nbadapt.errors import DataError, StoreError
from nbadapt.preferences import Preferences, pair_key


@pytest.fixture
def prefs(tmp_path: Path) -> Preferences:
    return Preferences(tmp_path / "prefs.jsonl")


def lines(path: Path) -> list[dict]:
    """Every line of a file, each of which must be whole."""
    content = path.read_bytes()
    assert content.endswith(b"\n") or not content
    return [json.loads(line) for line in content.splitlines()]


def triples(path: Path) -> list[tuple[str, str, str]]:
    return [(row["prompt"], row["chosen"], row["rejected"]) for row in lines(path)]


def test_a_choice_is_a_row_of_trls_form_at_once(prefs: Preferences):
    vote = prefs.add("Why?", ["Because.", "Don't know."], place=1, models=["base", "tuned"], rater="ann")
    (row,) = lines(prefs.path)
    assert {name: row[name] for name in ("prompt", "chosen", "rejected")} == {
        "prompt": "Why?",
        "chosen": "Don't know.",
        "rejected": "Because.",
    }
    assert (row["rater"], row["pass"], row["models"]) == ("ann", 1, ["tuned", "base"])
    (kept,) = lines(prefs.beside("votes"))
    assert (kept["vote"], kept["choice"], kept["answers"]) == (vote.id, "right", ["Because.", "Don't know."])


def test_ties_and_skips_are_votes_without_rows(prefs: Preferences):
    prefs.add("a", ["1", "2"], verdict="tie")
    prefs.add("b", ["1", "2"], verdict="skip")
    assert len(prefs) == 0
    assert [vote["choice"] for vote in lines(prefs.beside("votes"))] == ["tie", "skip"]
    assert [vote.verdict for vote in Preferences(prefs.path).votes] == ["tie", "skip"]


def test_the_best_of_three_is_preferred_to_both_others(prefs: Preferences):
    prefs.add("a", ["x", "y", "z"], place=2)
    assert triples(prefs.path) == [("a", "z", "x"), ("a", "z", "y")]
    assert lines(prefs.beside("votes"))[0]["choice"] == "3"
    assert Preferences(prefs.path).votes == prefs.votes


def test_undo_takes_the_rows_back_and_the_record_keeps_both(prefs: Preferences):
    prefs.add("a", ["1", "2"], place=0)
    vote = prefs.add("b", ["1", "2", "3"], place=0)
    prefs.undo(vote)
    assert triples(prefs.path) == [("a", "1", "2")]
    assert lines(prefs.beside("votes"))[-1]["undo"] == vote.id
    assert [vote.prompt for vote in Preferences(prefs.path).votes] == ["a"]


def test_the_last_word_of_a_rater_counts(prefs: Preferences):
    prefs.add("a", ["1", "2"], place=0, rater="ann")
    prefs.add("a", ["2", "1"], place=0, rater="bob")
    prefs.add("a", ["1", "2"], place=1, rater="ann", turn=2)
    assert triples(prefs.path) == [("a", "2", "1"), ("a", "2", "1")]
    prefs.add("a", ["1", "2"], verdict="skip", rater="ann", turn=3)  # says nothing
    assert len(prefs) == 2
    prefs.add("a", ["1", "2"], verdict="tie", rater="ann", turn=4)
    assert [row["rater"] for row in prefs.rows] == ["bob"]


def test_the_file_is_made_anew_from_the_votes(prefs: Preferences):
    prefs.add("a", ["1", "2"], place=0)
    prefs.add("b", ["1", "2"], place=1)
    before = prefs.path.read_bytes()
    prefs.path.unlink()
    again = Preferences(prefs.path)
    assert len(again) == 2
    again.publish()
    assert prefs.path.read_bytes() == before


def test_rows_from_elsewhere_stay_byte_for_byte(tmp_path: Path):
    other = '{"rejected":"no",  "prompt": "p", "chosen": "ja \\u00fc", "score": 1}'
    path = tmp_path / "prefs.jsonl"
    path.write_text(other, encoding="utf-8")  # without a line's end
    prefs = Preferences(path)
    prefs.publish()
    assert path.read_text(encoding="utf-8") == other, "nothing was ranked, so nothing is written"
    vote = prefs.add("a", ["1", "2"], place=0)
    assert path.read_text(encoding="utf-8").splitlines()[0] == other
    assert [row["prompt"] for row in prefs] == ["p", "a"]
    prefs.undo(vote)
    assert path.read_text(encoding="utf-8") == other + "\n"


@pytest.mark.parametrize("content", ['{"text": "a", "label": "b"}', "no json", '["list"]', '{"prompt": 1}'])
def test_a_file_of_another_form_is_one_line_and_stays(tmp_path: Path, content: str):
    path = tmp_path / "prefs.jsonl"
    path.write_text(content + "\n")
    with pytest.raises(DataError, match=r"prefs\.jsonl, line 1: .* choose another name with --as"):
        Preferences(path)
    assert path.read_text() == content + "\n"
    path.unlink()
    votes = path.with_name("prefs.votes.jsonl")
    votes.write_text(content + "\n")
    with pytest.raises(DataError, match=r"prefs\.votes\.jsonl"):
        Preferences(path)


def test_a_file_that_was_spoilt_later_is_still_shown_in_one_line(prefs: Preferences):
    prefs.add("a", ["1", "2"], place=0)
    prefs.path.write_text("spoilt\n")
    assert "another form" in repr(prefs)
    assert "another form" in prefs._repr_mimebundle_()["text/plain"]
    with pytest.raises(DataError, match="another form"):
        data.read(prefs, name="prefs")


def test_it_is_a_table_for_the_data_layer(prefs: Preferences, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DataError, match="prefs holds no preferences yet"):
        data.read(prefs, name="prefs")
    prefs.add("a", ["1", "2"], place=0)
    from_variable, from_file = data.read(prefs, name="prefs"), data.read(prefs.path, name="prefs.jsonl")
    assert from_variable.task == from_file.task == "preference"
    assert from_variable.rows == from_file.rows == ({"prompt": "a", "chosen": "1", "rejected": "2"},)
    assert list(prefs.frame().columns[:3]) == ["prompt", "chosen", "rejected"]
    assert prefs[0]["chosen"] == "1"
    assert len(prefs[:5]) == 1


def test_the_file_is_one_that_datasets_reads(prefs: Preferences):
    import datasets

    prefs.path.write_text('{"prompt": "p", "chosen": "c", "rejected": "r"}\n')
    prefs.path.chmod(0o600)
    prefs.add("a", ["1", "2"], place=0)
    assert prefs.path.stat().st_mode & 0o777 == 0o600
    table = datasets.Dataset.from_json(str(prefs.path), cache_dir=str(prefs.path.parent / "cache"))
    assert set(table.column_names) >= {"prompt", "chosen", "rejected"}
    assert table["chosen"][:] == ["c", "1"]
    assert data.read(table, name="table").rows == data.read(prefs, name="prefs").rows


def test_another_process_is_seen_and_not_overwritten(prefs: Preferences):
    other = Preferences(prefs.path)
    prefs.add("a", ["1", "2"], place=0)
    other.add("b", ["1", "2"], place=0)
    prefs.add("c", ["1", "2"], place=0)
    assert [prompt for prompt, *_ in triples(prefs.path)] == ["a", "b", "c"]
    assert len(other) == len(prefs) == 3
    other.undo(prefs.votes[0])
    assert [row["prompt"] for row in prefs] == ["b", "c"]


def test_files_that_were_removed_are_begun_anew(prefs: Preferences):
    prefs.add("a", ["1", "2"], place=0)
    prefs.path.unlink()
    prefs.beside("votes").unlink()
    assert len(prefs) == 0
    prefs.add("b", ["1", "2"], place=0)
    assert triples(prefs.path) == [("b", "1", "2")]


@pytest.mark.parametrize("content", [None, ""], ids=["deleted", "emptied"])
def test_votes_that_were_removed_take_no_rows_with_them(prefs: Preferences, content: str | None):
    for i in range(3):
        prefs.add(str(i), ["1", "2"], place=0)
    votes = prefs.beside("votes")
    votes.unlink() if content is None else votes.write_text(content)
    prefs.add("new", ["1", "2"], place=1)
    assert [prompt for prompt, *_ in triples(prefs.path)] == ["0", "1", "2", "new"]
    assert [row["prompt"] for row in prefs] == ["0", "1", "2", "new"]


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("longer", [False, True])
def test_votes_that_were_replaced_are_read_from_their_beginning(prefs: Preferences, longer: bool, in_place: bool):
    other = Preferences(prefs.path.with_name("other.jsonl"))
    prefs.add("a", ["1", "2"], place=0)
    other.add("b", ["1", "2"], place=0)
    if longer:
        other.add("c", ["1", "2"], place=0)
    votes, new = prefs.beside("votes"), other.beside("votes")
    votes.write_bytes(new.read_bytes()) if in_place else new.replace(votes)
    assert [row["prompt"] for row in prefs] == ["a", "b", "c"][: 2 + longer]
    assert [vote.prompt for vote in prefs.votes] == ["b", "c"][: 1 + longer]
    votes.write_text("spoilt\n")
    for _ in range(2):
        with pytest.raises(DataError, match=r"votes\.jsonl, line 1:"):
            len(prefs)


# ------------------------------------------------------------------------------------------------ kills


def test_a_line_that_a_kill_cut_short_does_not_count(prefs: Preferences):
    prefs.add("a", ["1", "2"], place=0)
    votes = prefs.beside("votes")
    whole = votes.read_bytes()
    for cut in (1, len(whole) // 2, len(whole) - 2):
        votes.write_bytes(whole + whole[:cut])
        again = Preferences(prefs.path)
        assert len(again) == 1
        vote = again.add("b", ["x" * 200_000, "y"], place=0)  # longer than what the end is looked for in at once
        assert [line.get("prompt") for line in lines(votes)] == ["a", "b"]
        again.undo(vote)
        votes.write_bytes(whole)


def test_a_last_vote_that_lost_only_its_newline_counts(prefs: Preferences):
    for prompt in "ab":
        prefs.add(prompt, ["1", "2"], place=0)
    votes = prefs.beside("votes")
    votes.write_bytes(votes.read_bytes().removesuffix(b"\n"))  # as some editors do
    again = Preferences(prefs.path)
    assert [vote.prompt for vote in again.votes] == ["a", "b"]
    again.add("c", ["1", "2"], place=0)
    for told in (prefs, again, Preferences(prefs.path)):
        assert [row["prompt"] for row in told] == ["a", "b", "c"]
    assert [line["prompt"] for line in lines(votes)] == ["a", "b", "c"]
    with votes.open("a") as file:
        file.write("spoilt\n")
    with pytest.raises(DataError, match=r"votes\.jsonl, line 4:"):
        len(again)


def test_a_kill_between_vote_and_rows_is_mended(prefs: Preferences):
    prefs.add("a", ["1", "2"], place=0)
    rows = prefs.path.read_bytes()
    undone = prefs.add("b", ["1", "2"], place=0)
    prefs.path.write_bytes(rows)  # the vote is there, its row not
    again = Preferences(prefs.path)
    assert len(again) == 2
    again.publish()
    both = prefs.path.read_bytes()
    assert [prompt for prompt, *_ in triples(prefs.path)] == ["a", "b"]
    again.undo(undone)
    prefs.path.write_bytes(both)  # the undo is there, the row still too
    Preferences(prefs.path).publish()
    assert [prompt for prompt, *_ in triples(prefs.path)] == ["a"]


WRITER = """
    import pathlib, sys, time
    from nbadapt.preferences import Preferences
    name, prefs = sys.argv[1], Preferences(pathlib.Path("prefs.jsonl"))
    for i in range(100_000):
        vote = prefs.add(f"{name} {i}", ["good " * 2000, "bad", "worse"], place=0, rater=name)
        if i % 5 == 4:
            prefs.undo(vote)
        print(i, flush=True)  # this is the acknowledgement
        time.sleep(0.01)  # or the other one would hardly get a turn
"""


@pytest.mark.parametrize("lives", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_no_acknowledged_choice_is_lost_to_kill_9_by_two_writers(tmp_path: Path, lives: int):
    chance = random.Random(0)
    told: dict[str, int] = {}
    for life in range(lives):
        names = [f"{who}{life}" for who in "ab"]
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(WRITER), name], cwd=tmp_path, stdout=subprocess.PIPE, text=True
            )
            for name in names
        ]
        for name, writer in zip(names, writers, strict=True):
            assert writer.stdout is not None
            told[name] = [int(writer.stdout.readline()) for _ in range(chance.randrange(3, 12))][-1]
        for name, writer in zip(names, writers, strict=True):
            os.kill(writer.pid, signal.SIGKILL)
            rest = writer.communicate()[0].split("\n")[:-1]
            told[name] = int(rest[-1]) if rest else told[name]
        for row in lines(tmp_path / "prefs.jsonl"):  # whole right after the kill, with nothing opened since
            assert set(row) >= {"prompt", "chosen", "rejected"}
        data.read(tmp_path / "prefs.jsonl", name="prefs.jsonl")
    prefs = Preferences(tmp_path / "prefs.jsonl")
    prefs.publish()
    rows = lines(prefs.path)
    assert all(sum(row["prompt"] == other["prompt"] for other in rows) == 2 for row in rows), "both rows or none"
    kept = {row["prompt"] for row in rows}
    for name, last in told.items():
        asked = {f"{name} {i}" for i in range(last + 1) if i % 5 != 4}
        assert asked <= kept
        extra = {prompt for prompt in kept if prompt.startswith(f"{name} ")} - asked
        assert extra <= {f"{name} {last + 1}"}, "at most the one that was under way"


def test_what_cannot_be_written_is_one_line_and_not_kept(prefs: Preferences, monkeypatch: pytest.MonkeyPatch):
    prefs.add("a", ["1", "2"], place=0)
    before = prefs.path.read_bytes()

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal.os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        prefs.add("b", ["1", "2"], place=0)
    assert prefs.path.read_bytes() == before
    assert not list(prefs.path.parent.glob(".prefs.jsonl*")), "no temporary file stays"


def test_a_choice_is_kept_where_only_the_preference_file_cannot_be_written(prefs: Preferences):
    first = prefs.add("a", ["1", "2"], place=0)
    prefs.path.unlink()
    prefs.path.mkdir()  # in the way
    vote = prefs.add("b", ["1", "2"], place=0)
    prefs.undo(first)
    assert "is kept, but" in prefs.late
    assert "follows with the next choice" in prefs.late
    assert [line.get("prompt", "undo") for line in lines(prefs.beside("votes"))] == ["a", "b", "undo"]
    assert prefs.votes == [vote]
    prefs.path.rmdir()
    prefs.add("c", ["1", "2"], place=0)
    assert prefs.late == ""
    assert [prompt for prompt, *_ in triples(prefs.path)] == ["b", "c"]


# ------------------------------------------------------------------------------------------------ agreement


def test_kappa_is_that_of_scikit_learn():
    chance = random.Random(1)
    for _ in range(50):
        n = chance.randrange(2, 40)
        first = [chance.choice([agreement.TIE, 0, 1]) for _ in range(n)]
        second = [a if chance.random() < 0.5 else chance.choice([agreement.TIE, 0, 1, 2]) for a in first]
        if len({*first, *second}) > 1:
            assert agreement.cohen_kappa(first, second) == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
    assert agreement.cohen_kappa([1, 1], [1, 1]) is None


def test_agreement_is_over_the_pairs_that_both_judged_in_whatever_order(prefs: Preferences):
    chosen = {"ann": [0, 0, 1, 1, None, 0], "bob": [0, 1, 1, 1, None, "skip"]}  # of the answers "1" and "2"
    for rater, places in chosen.items():
        for i, place in enumerate(places):
            shown = ["1", "2"] if i % 2 else ["2", "1"]
            if place is None or place == "skip":
                prefs.add(str(i), shown, verdict=place or "tie", rater=rater)
            else:
                prefs.add(str(i), shown, place=shown.index(str(place + 1)), rater=rater)
    prefs.add("only ann", ["1", "2"], place=0, rater="ann")
    (found,) = agreement.agreements(prefs.votes)
    assert (found.pairs, found.same) == (5, 4)
    ann, bob = [0, 0, 1, 1, -1], [0, 1, 1, 1, -1]
    assert found.kappa == pytest.approx(cohen_kappa_score(ann, bob))
    text = repr(prefs.report())
    assert "ann and bob" in text
    assert f"{found.kappa:.2f}" in text
    assert "80 %" in text


def test_left_share_and_wins(prefs: Preferences):
    for i in range(8):
        prefs.add(str(i), ["1", "2"], place=int(i > 5), models=["base", "tuned"])
    prefs.add("tie", ["1", "2"], verdict="tie", models=["base", "tuned"])
    prefs.add("three", ["1", "2", "3"], place=0, models=["base", "tuned", "other"])
    (judged,) = agreement.passes(prefs.votes)
    assert judged.left == (6, 8)
    assert agreement.wins(prefs.counting()) == [("base", 7, 10), ("tuned", 2, 10), ("other", 0, 1)]


def test_a_pair_is_known_in_any_order():
    assert pair_key("a", ["1", "2"]) == pair_key("a", ["2", "1"])
    assert len({pair_key("a", ["1", "2"]), pair_key("a1", ["", "2"]), pair_key("a", ["12", ""])}) == 3


def test_texts_are_never_html(prefs: Preferences):
    hostile = "<img src=x onerror=alert(1)>"
    prefs.add(hostile, [f"{hostile}1", f"{hostile}2"], place=0, rater="<b>ann</b>", models=["<i>", "<u>"])
    for html in (prefs._repr_mimebundle_()["text/html"], prefs.report()._repr_html_()):
        assert "<img" not in html
        assert "<b>ann" not in html
        assert "<i>" not in html
    assert "&lt;img" in prefs._repr_mimebundle_()["text/html"]


def test_the_saved_picture_is_small_and_names_no_model(prefs: Preferences):
    for i in range(20):
        prefs.add(
            f"{i} " + "long " * 5000, ["a" * 50_000, "b" * 50_000], place=0, models=["secret-base", "secret-tuned"]
        )
    shown = prefs._repr_mimebundle_()
    assert sum(map(len, shown.values())) < 10_000
    assert "secret" not in str(shown), "ranking is blind"


def test_the_error_of_ours_is_public(tmp_path: Path):
    with pytest.raises(nbadapt.NbadaptError, match="no folder"):
        nbadapt.rank(file=tmp_path / "nowhere" / "prefs.jsonl")
