"""Ranking: who is asked what, in which order; answers that are generated ahead and kept; the widget's messages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
import tiny_models
from kernels import running
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from shells import Shell
from watching import make_wire

import nbadapt
from nbadapt import data
from nbadapt.errors import DataError, ModelError, NbadaptError, RequestError, RunError
from nbadapt.feedback import comparisons, supply
from nbadapt.feedback.session import Session
from nbadapt.feedback.supply import Fixed
from nbadapt.preferences import Preferences

wire = pytest.fixture(make_wire)
TABLE = [{"prompt": f"prompt {i}", "answer_a": f"good {i}", "answer_b": f"bad {i}"} for i in range(10)]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def good(_prompt: str, answers: list[str]) -> int:
    return next(i for i, answer in enumerate(answers) if answer.startswith("good"))


def session(table: Any = TABLE, *, seed: int = 0, **who: Any) -> Session:
    material = comparisons.read(table, "table")
    assert material.answers is not None
    found = [comparisons.compare(p, a) for p, a in zip(material.prompts, material.answers, strict=True)]
    prefs = Preferences(Path("prefs.jsonl"))
    made = Session(prefs, Fixed(found, str(seed)), **{"rater": "me", "turn": 1, "seed": seed, **who})
    made.start(lambda: None)
    return made


# ------------------------------------------------------------------------------------------------ a function ranks


def test_a_function_ranks_a_table_of_answers():
    prefs = nbadapt.rank(prompts=TABLE, rater=good)
    rows = [json.loads(line) for line in Path("prefs.jsonl").read_text().splitlines()]
    assert {(r["prompt"], r["chosen"], r["rejected"], r["rater"]) for r in rows} == {
        (f"prompt {i}", f"good {i}", f"bad {i}", "good") for i in range(10)
    }
    assert rows[0]["models"] == ["answer_a", "answer_b"]
    assert {vote.place for vote in prefs.votes} == {0, 1}, "the good one is now left, now right"
    assert data.read(prefs, name="prefs").task == "preference"


@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame(TABLE),
        {"prompt": ["p"], "answers": [["good 1", "bad 1", "bad 2"]]},
        [{"prompt": "p", "chosen": "good 1", "rejected": "bad 1"}],
        [{"text": "p", "answer1": "good 1", "answer2": "bad 1", "answer3": None}],
    ],
    ids=["pandas", "lists", "preferences", "text"],
)
def test_forms_of_tables(table: Any):
    assert {row["chosen"][:4] for row in nbadapt.rank(prompts=table, rater=good)} == {"good"}


def test_what_is_judged_is_not_asked_again_and_new_rows_are():
    asked: list[str] = []

    def counting(prompt: str, answers: list[str]) -> int:
        asked.append(prompt)
        return good(prompt, answers)

    nbadapt.rank(prompts=TABLE[:4], rater=counting)
    nbadapt.rank(prompts=TABLE[:4], rater=counting)
    assert len(asked) == 4
    nbadapt.rank(prompts=TABLE, rater=counting)
    assert sorted(asked) == [row["prompt"] for row in TABLE]
    nbadapt.rank(prompts=TABLE, rater=counting, rater_name="another")
    assert len(asked) == 20


def test_the_order_is_random_and_the_seed_decides():
    def order(seed: int) -> list[tuple[str, ...]]:
        made, found = session(seed=seed), []
        while made.current is not None:
            found.append((made.current.prompt, *made.current.answers))
            made.choose(made.current.key, "tie")
        for file in Path().glob("*prefs*"):
            file.unlink()
        return found

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert [prompt for prompt, *_ in order(0)] != [row["prompt"] for row in TABLE]
    assert sorted(order(0))[0][0] == "prompt 0"


def test_a_second_pass_is_over_the_same_pairs_in_another_order_and_agreement_is_told():
    nbadapt.rank(prompts=TABLE, rater=good, rater_name="ann")
    first = [vote.prompt for vote in Preferences(Path("prefs.jsonl")).votes]
    seen: list[str] = []

    def unsure(prompt: str, answers: list[str]) -> int | None:
        seen.append(prompt)
        return None if len(seen) > 8 else good(prompt, answers)

    prefs = nbadapt.rank(rater=unsure, rater_name="ann", again=True)
    assert sorted(seen) == sorted(first)
    assert seen != first
    assert "ann and ann, pass 2: 8 of 10 alike (80 %)" in repr(prefs)
    assert len(prefs) == 8, "ties of the second pass are the last word"
    nbadapt.rank(rater=good, rater_name="bob")  # the pairs of the file, for another rater
    assert "ann and bob: 10 of 10 alike (100 %)" in repr(prefs)


def test_a_further_pass_that_was_begun_goes_on():
    nbadapt.rank(prompts=TABLE, rater=good, rater_name="ann")

    def broken(prompt: str, answers: list[str]) -> int:
        if len(Preferences(Path("prefs.jsonl")).votes) == 13:
            raise ValueError("enough")
        return good(prompt, answers)

    line = (
        r"failed on comparison 4: ValueError: enough, in line \d+: raise ValueError\(\"enough\"\); 3 choices are kept"
    )
    with pytest.raises(RunError, match=line):
        nbadapt.rank(rater=broken, rater_name="ann", again=True)
    prefs = nbadapt.rank(rater=good, rater_name="ann", again=True)
    assert [vote.turn for vote in prefs.votes] == [1] * 10 + [2] * 10
    assert {vote.turn for vote in nbadapt.rank(rater=good, rater_name="ann", again=True).votes} == {1, 2, 3}


@pytest.mark.parametrize("given", [2, -1, 1.0, "left", True, [0]])
def test_nonsense_of_a_rater_is_one_line_and_keeps_what_was_chosen(given: Any):
    calls: list[int] = []

    def odd(prompt: str, answers: list[str]) -> Any:
        calls.append(1)
        return given if len(calls) == 3 else good(prompt, answers)

    with pytest.raises(RequestError, match=r"odd gave .* for comparison 3: give the index .* 0 to 1, .* 2 choices are"):
        nbadapt.rank(prompts=TABLE, rater=odd)
    assert len(Preferences(Path("prefs.jsonl"))) == 2


def test_alike_and_blank_answers_are_left_out_and_told():
    rows = [
        {"prompt": "same", "answers": ["good", "good"]},
        {"prompt": "three", "answers": ["good", "bad", "good"]},
    ]
    made = session(rows)
    assert made.supply.total == 1
    assert made.supply.notes == ("1 prompt is left out: fewer than two different answers",)
    (only,) = made.supply.ready
    assert sorted(zip(only.answers, only.models, strict=True)) == [("bad", "answer 2"), ("good", "answer 1, answer 3")]
    assert comparisons.compare("p", [("a", "text"), ("b", "  ")]) is None
    assert comparisons.compare("p", [("a", "text"), ("b", " text\n")]) is None
    with pytest.raises(DataError, match="table has nothing to compare: 1 prompt is left out"):
        nbadapt_rank_line("rank --prompts table --as prefs --rater-function good", table=rows[:1])


def test_what_is_left_out_is_told_in_a_script_too(capsys: pytest.CaptureFixture[str]):
    rows = [*TABLE[:1], {"prompt": "same", "answer_a": "good", "answer_b": "good"}]
    nbadapt.rank(prompts=rows, rater=good)
    assert capsys.readouterr().err == "1 prompt is left out: fewer than two different answers\n"


def nbadapt_rank_line(line: str, **variables: Any) -> tuple[Any, dict[str, Any]]:
    from nbadapt import commands

    namespace: dict[str, Any] = {"good": good, **variables}
    return commands.execute(line, namespace), namespace


# ------------------------------------------------------------------------------------------------ undo and two sessions


def test_undo_brings_the_same_card_back():
    made = session()
    first = made.current
    assert first is not None
    assert not made.can_undo
    assert made.choose(first.key, "best", 0)
    assert made.current != first
    assert made.undo()
    assert made.current == first
    assert (made.done, len(made.preferences)) == (0, 0)
    assert not made.undo()


def test_undo_reaches_back_over_a_restart():
    made = session()
    for _ in range(3):
        assert made.current is not None
        made.choose(made.current.key, "best", 1)
    last = made.preferences.votes[-1]
    again = session()
    assert again.done == 3
    assert again.undo()
    assert again.current is not None
    assert again.current.answers == last.answers
    assert [vote.id for vote in again.preferences.votes] == [v.id for v in made.preferences.votes[:2]]


def test_a_late_click_on_a_card_that_is_gone_keeps_nothing():
    made = session()
    first = made.current
    assert first is not None
    made.choose(first.key, "best", 0)
    assert not made.choose(first.key, "best", 1)
    assert made.current is not None
    assert not made.choose(made.current.key, "best", 2)
    assert len(made.preferences) == 1


KILLED = """
    import nbadapt
    rows = [{"prompt": f"p {i}", "answers": [f"good {i}", f"bad {i}", f"worse {i}"]} for i in range(1000)]
    def rater(prompt, answers):
        print(prompt, flush=True)  # all before this one are told to be kept
        return min(range(3), key=lambda i: answers[i] != "good " + prompt[2:])
    nbadapt.rank(prompts=rows, rater=rater)
"""


def test_kill_9_while_ranking_and_on_it_goes():
    asked: list[str] = []
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(KILLED)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        found = [process.stdout.readline().strip() for _ in range(6)]
        os.kill(process.pid, signal.SIGKILL)
        found += [line.strip() for line in process.communicate()[0].split("\n")[:-1]]
        if asked and asked[-1] != found[0]:
            assert len({*asked, found[0]}) == len(asked) + 1, "none is asked twice but the one that was open"
        asked = list(dict.fromkeys([*asked, *found]))
        rows = data.read("prefs.jsonl", name="prefs.jsonl").rows
        per_prompt = pd.Series([row["prompt"] for row in rows]).value_counts()
        assert set(per_prompt) == {2}, "both rows of a choice, or none"
        assert set(asked[:-1]) <= set(per_prompt.index) <= set(asked)
        assert all(row["chosen"] == "good " + row["prompt"][2:] for row in rows)


# ------------------------------------------------------------------------------------------------ generated answers


PROMPTS = [f"Question {i}?" for i in range(7)]


def longest(_prompt: str, answers: list[str]) -> int | None:
    return max(range(len(answers)), key=lambda i: len(answers[i]))


def test_samples_of_one_model_are_generated_once(monkeypatch: pytest.MonkeyPatch):
    model = str(tiny_models.folder("llama"))
    prefs = nbadapt.rank(model, PROMPTS, rater=longest, answers=3, max_new_tokens=6)
    kept = [json.loads(line) for line in Path("prefs.answers.jsonl").read_text().splitlines()]
    assert len(kept) == 21
    assert sum(len(vote.answers) == 3 for vote in prefs.votes) >= 5
    assert {vote.prompt for vote in prefs.votes} == set(PROMPTS)

    def no_model(*_: Any) -> None:
        raise AssertionError("the answers are on disk")

    monkeypatch.setattr("nbadapt.models.load", no_model)
    before = len(prefs.votes)
    prefs = nbadapt.rank(model, PROMPTS, rater=longest, answers=3, max_new_tokens=6)
    assert len(prefs.votes) == before
    nbadapt.rank(model, PROMPTS, rater=longest, rater_name="bob", answers=3, max_new_tokens=6)


def test_base_against_adapted():
    base = str(tiny_models.folder("gpt2"))
    run = nbadapt.finetune(
        "lora", model=base, data=tiny_models.translations(), max_steps=2, samples=0, learning_rate=0.5, epochs=1
    )
    shell = Shell()
    shell["tuned"], shell["questions"], shell["pick"] = run, PROMPTS, longest
    line = f"%nbadapt rank --model {base} --model tuned --prompts questions --as prefs --rater-function pick"
    result = shell.run(f"{line} --max-new-tokens 6 --temperature 0")
    assert result.error is None, result.err
    assert {model for vote in shell["prefs"].votes for model in vote.models} == {"gpt2", "tuned"}
    assert "won" in repr(shell["prefs"].report())
    assert "tuned" not in repr(shell["prefs"]), "blind"


def test_generation_runs_ahead_but_not_without_end(monkeypatch: pytest.MonkeyPatch):
    from nbadapt.feedback.authors import authors
    from nbadapt.journal import Journal

    monkeypatch.setattr(supply, "AHEAD", 3)
    model = str(tiny_models.folder("llama"))
    who = authors([model], ["llama"])
    many = [f"Question {i}?" for i in range(40)]
    made = supply.Generated(
        many, who, supply.Sampling(answers=2, max_new_tokens=2), Journal(Path("a.jsonl").absolute())
    )
    made.start(lambda: None)
    deadline = time.monotonic() + 30
    while len(made.ready) < 3:
        assert time.monotonic() < deadline
        made.wait(0.1)
    time.sleep(0.5)
    assert len(made.ready) <= 7
    assert not made.finished
    made.need(len(made.ready))
    before = len(made.ready)
    while len(made.ready) == before:
        assert time.monotonic() < deadline
        made.wait(0.1)
    made.close()
    assert made.finished
    assert len(made.ready) < 40


# ------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--model nonesuch,smollm2 --prompts questions --as prefs", "no model 'nonesuch' here"),
        ("--model smollm2 --prompts nothing --as prefs", "--prompts nothing: no notebook variable and no file"),
        ("--model smollm2 --prompts empty --as prefs", "empty is empty: give at least one prompt"),
        ("--model smollm2 --as prefs", "no prompts given: add --prompts"),
        ("--model smollm2 --prompts questions", "no name given: add --as"),
        ("--model smollm2 --prompts questions --as 1x", "--as '1x' is no variable name"),
        (
            "--model smollm2 --answers 1 --prompts questions --as prefs",
            "one answer of smollm2 alone cannot be compared",
        ),
        ("--model smollm2 --temperature 0 --prompts questions --as prefs", "2 answers at temperature 0 are all alike"),
        ("--model smollm2,smollm2 --prompts questions --as prefs", "the model smollm2 is given twice"),
        ("--model smollm2 --prompts numbers --as prefs", r"numbers\[1\]: an int \(3\) where a text is needed"),
        ("--model smollm2 --prompts broken --as prefs", "half of a pair"),
        ("--prompts questions --as prefs", "no model given, and questions holds no answers"),
        ("--as prefs", "prefs.jsonl holds no pairs yet: add --model"),
        ("--again --as prefs", "me has judged no pairs in prefs.jsonl yet"),
        ("--prompts one --as prefs", "one has one column of answers, 'answer'"),
        ("--prompts wide --as prefs", "wide has no column 'prompt': its columns are a, b"),
        ("--prompts table --as prefs --rater-function nothing", "--rater-function nothing: no variable has this name"),
        ("--prompts table --as prefs --rater-function table", "--rater-function table: that variable holds"),
        ("--prompts table --as prefs --top-p 2", "top_p is 2: give a share"),
        ("--prompts table --as prefs --seed x", "--seed is 'x': give a whole number"),
        ("--prompts table --as prefs --ratr me", "unknown option '--ratr' of %nbadapt rank: did you mean --rater"),
        ("--prompts table --as prefs --file x.csv", "--file x.csv: preferences are JSON lines"),
        ("--prompts table --as prefs more", "unexpected 'more'"),
        ("--prompts table --as prefs --rater", "--rater needs a value: write  --rater NAME"),
        ("--prompts table --as prefs", "nobody can rank here, without a notebook's front end: .*--rater-function NAME"),
        ("prefs --report --rater ann --again", "--report stands alone: leave out --rater, --again"),
        ("nothing --report", "no variable nothing with preferences, and no file nothing.jsonl"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(line: str, message: str):
    given = {
        "questions": PROMPTS,
        "empty": [],
        "numbers": ["a", 3],
        "broken": ["\ud800"],
        "one": [{"prompt": "a", "answer": "b"}],
        "wide": pd.DataFrame({"a": [1], "b": [2]}),
        "table": TABLE,
    }
    with pytest.raises(NbadaptError, match=message) as error:
        nbadapt_rank_line(f"rank {line}", **given)
    assert "\n" not in str(error.value)
    assert not [path for path in Path().iterdir() if not path.name.startswith(".")]


def test_a_classifier_and_an_encoder_are_refused():
    with pytest.raises(ModelError, match="encoder"):
        nbadapt.rank([str(tiny_models.folder("bert"))], PROMPTS, rater=longest)
    run = nbadapt.finetune(
        "lora", model=str(tiny_models.folder("bert")), data=tiny_models.reviews(), max_steps=1, samples=0
    )
    with pytest.raises(RequestError, match="is a classifier and generates no text"):
        nbadapt.rank([run, str(tiny_models.folder("gpt2"))], PROMPTS, rater=longest)


def test_help_and_completion():
    from nbadapt.completion import complete
    from nbadapt.feedback.line import OPTIONS

    pages = [repr(nbadapt_rank_line(line)[0]) for line in ("rank", "rank --help", "help rank")]
    assert len(set(pages)) == 1
    assert all(flag in pages[0] for flag in OPTIONS)
    spaces = {"questions": PROMPTS, "table": TABLE, "good": good, "number": 3}
    assert complete(["%nbadapt rank --prompts "], spaces) == ("", ["questions", "table"])
    assert complete(["%nbadapt rank --rater-function g"], spaces) == ("g", ["good"])
    found = complete(["%nbadapt rank --as prefs --mod"], spaces)
    assert found is not None
    assert "--model" in found[1]
    assert "--as" not in found[1]


# ------------------------------------------------------------------------------------------------ the widget's messages


HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"


@pytest.fixture
def ranker(wire: Any) -> Any:
    from nbadapt.widgets.ranker import Ranker

    made = Ranker(session([{"prompt": HOSTILE, "answer_a": f"good {HOSTILE}", "answer_b": "x" * 100_000}, *TABLE]))
    made._session.start(made.push)
    return made


def hear(ranker: Any, wire: Any, **message: Any) -> dict[str, Any]:
    wire.take()
    ranker._answer_front_end(ranker, message, [])
    return wire.take()[-1][0]


def test_messages_are_small_blind_and_acknowledge_what_is_on_disk(ranker: Any, wire: Any):
    state = hear(ranker, wire, type="hello")
    assert (state["state"], state["done"], state["total"]) == ("asking", 0, 11)
    while state["state"] == "asking":
        card = state["card"]
        text = json.dumps(state)
        assert len(text) < 20_000
        assert "answer_a" not in text, "blind"
        state = hear(ranker, wire, type="vote", card=card["key"], choice=0)
        on_disk = [json.loads(line) for line in Path("prefs.jsonl").read_text().splitlines()]
        assert state["saved"] == state["done"] == len(on_disk)
        assert on_disk[-1]["prompt"] == card["prompt"]
    assert state["state"] == "done"
    state = hear(ranker, wire, type="undo")
    assert (state["state"], state["done"], state["saved"]) == ("asking", 10, 10)


@pytest.mark.parametrize("choice", [7, -1, None, "best", True, {"a": 1}, 0.0])
def test_messages_of_no_form_change_nothing(ranker: Any, wire: Any, choice: Any):
    key = hear(ranker, wire, type="hello")["card"]["key"]
    state = hear(ranker, wire, type="vote", card=key, choice=choice)
    assert (state["done"], state["card"]["key"]) == (0, key)
    assert hear(ranker, wire, type="nonsense")["done"] == 0


def test_a_spoilt_preference_file_is_told_and_the_widget_goes_on_and_closes(ranker: Any, wire: Any):
    key = hear(ranker, wire, type="hello")["card"]["key"]
    Path("prefs.jsonl").write_text("spoilt\n")
    state = hear(ranker, wire, type="vote", card=key, choice=0)
    assert state["problem"].startswith("the choice is kept, but prefs.jsonl is not up to date")
    assert state["done"] == 1
    assert state["card"]["key"] != key
    state = hear(ranker, wire, type="hello")
    assert "another form" in state["problem"]
    ended: list[bool] = []
    ranker._session.supply.close = lambda: ended.append(True)
    ranker._place = ranker._picture = Place()
    assert hear(ranker, wire, type="close")["state"] == "closed"
    assert ended == [True]


class Place:
    """A display that takes what it is given."""

    def update(self, *_: Any, **__: Any) -> None:
        pass


def test_a_choice_that_cannot_be_written_is_told_and_the_card_stays(ranker: Any, wire: Any, monkeypatch):
    from nbadapt import journal

    key = hear(ranker, wire, type="hello")["card"]["key"]

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "fsync", full)
        state = hear(ranker, wire, type="vote", card=key, choice=0)
    assert "not saved" in state["problem"]
    assert "No space left" in state["problem"]
    assert state["card"]["key"] == key
    state = hear(ranker, wire, type="vote", card=key, choice=1)
    assert (state["done"], state["saved"], state["problem"]) == (1, 1, "")
    assert len(Path("prefs.votes.jsonl").read_text().splitlines()) == 1


# ------------------------------------------------------------------------------------------------ real kernels

HELD = """
import time
from nbadapt.pump import MessagePump
end = time.monotonic() + 20
with MessagePump() as pump:
    print("held", flush=True)
    while "1 tie" not in repr(prefs) and time.monotonic() < end:
        pump.poll(0.05)
print("1 tie" if "1 tie" in repr(prefs) else "none")
"""


@pytest.mark.parametrize("version", ["new", pytest.param("old", marks=pytest.mark.slow)])
def test_a_kernel_is_killed_and_its_choices_are_there(tmp_path: Path, version: str):
    start = f"%load_ext nbadapt\ntable = {TABLE!r}"
    line = "%nbadapt rank --prompts table --as prefs"
    with running(version, tmp_path) as kernel:
        assert kernel.run(start).status == "ok"
        cell = kernel.send(line)
        assert kernel.finish(cell).status == "ok"
        widget = kernel.model(cell)

        def states() -> list[dict[str, Any]]:
            return kernel.messages(widget)

        kernel.click(widget, {"type": "hello"})
        kernel.until(states)
        for done in range(1, 4):
            kernel.click(widget, {"type": "vote", "card": states()[-1]["card"]["key"], "choice": 0})
            kernel.until(lambda done=done: states()[-1]["done"] == done)
        assert kernel.value("len(prefs)") == 3
        os.kill(kernel.value("__import__('os').getpid()"), signal.SIGKILL)
    assert len(data.read(tmp_path / "prefs.jsonl", name="prefs.jsonl")) == 3
    with running(version, tmp_path) as kernel:
        kernel.run(start)
        cell = kernel.send(line)
        assert kernel.finish(cell).status == "ok"
        widget = kernel.model(cell)
        kernel.click(widget, {"type": "hello"})
        state = kernel.until(lambda: kernel.messages(widget))[-1]
        assert (state["done"], state["total"], state["saved"]) == (3, 10, 3)
        assert kernel.value("prefs[0]['prompt']")
        busy = kernel.send(HELD)  # a run of nbadapt holds a cell so
        kernel.until(lambda: kernel.cells[busy].text)
        kernel.click(widget, {"type": "vote", "card": state["card"]["key"], "choice": "tie"})
        assert kernel.finish(busy).text == "held\n1 tie\n"
        kernel.click(widget, {"type": "close"})
        kernel.until(lambda: any(m["msg_type"] == "comm_close" for _, m in kernel.comm))
        pictures = [data for name, data in kernel.displays.items() if kernel.shown_in[name] == cell]
        assert any("3 preferences" in picture["text/plain"] for picture in pictures)
        assert not any("widget-view" in mime for picture in pictures for mime in picture)


@pytest.mark.slow  # the kernel imports torch
def test_answers_come_to_the_widget_from_their_thread(tmp_path: Path):
    model = tiny_models.folder("llama")
    start = f"%load_ext nbadapt\nquestions = {PROMPTS!r}"
    line = f"%nbadapt rank --model {model} --prompts questions --as prefs --max-new-tokens 4"
    with running("new", tmp_path) as kernel:
        assert kernel.run(start).status == "ok"
        cell = kernel.send(line)
        assert kernel.finish(cell).status == "ok"
        widget = kernel.model(cell)
        kernel.click(widget, {"type": "hello"})
        state = kernel.until(lambda: next((m for m in kernel.messages(widget) if m["state"] == "asking"), None))
        kernel.click(widget, {"type": "vote", "card": state["card"]["key"], "choice": 1})
        kernel.until(lambda: kernel.messages(widget)[-1]["done"] == 1)
        kernel.until(lambda: kernel.messages(widget)[-1]["ready"] == len(PROMPTS))
        other = kernel.send(line)  # the first widget gives way
        assert kernel.finish(other).status == "ok"
        kernel.until(lambda: any(m["msg_type"] == "comm_close" for _, m in kernel.comm))
        widget = kernel.model(other)
        kernel.click(widget, {"type": "hello"})
        state = kernel.until(lambda: kernel.messages(widget))[-1]
        assert state["saved"] == 1
        assert all(not it.text for it in kernel.cells.values()), "nothing is printed"


def notebook(folder: Path, *sources: str) -> Any:
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    client = NotebookClient(made, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    return made


def test_without_a_front_end_it_says_what_to_do_and_does_not_wait(tmp_path: Path):
    start = f"%load_ext nbadapt\ntable = {TABLE!r}"
    line = "%nbadapt rank --prompts table --as prefs"
    with pytest.raises(CellExecutionError, match=r"UsageError: nobody can rank here.*--rater-function NAME"):
        notebook(tmp_path, start, line)
    nbadapt.rank(prompts=TABLE[:3], rater=good)  # recorded choices
    made = notebook(tmp_path, start, line, "print(len(prefs))")
    assert "Nobody can rank here: prefs.jsonl stays as it is" in made.cells[1].outputs[0].data["text/plain"]
    assert made.cells[2].outputs[0].text == "3\n"
