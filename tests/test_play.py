"""The playground without a page: what is streamed, what differs, which words matter, what is kept, who is refused."""

from __future__ import annotations

import itertools
import json
import math
import random
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import steps_method
import tiny_models
from shells import Shell
from test_mixing import ARCHITECTURES, Workshop, bare, tuned  # noqa: F401 - a fixture
from watching import HOSTILE, make_wire, weight

import nbadapt
from nbadapt import data
from nbadapt.engines.streaming import listening
from nbadapt.errors import NbadaptError, RequestError
from nbadapt.method import Adapted, Predictions
from nbadapt.playing import settings as asking
from nbadapt.playing.answers import Answer, Round, ask
from nbadapt.playing.choice import Choices
from nbadapt.playing.differences import compared, lacking, segments, words
from nbadapt.playing.occlusion import MOST_PARTS, occlude, parts, without
from nbadapt.playing.players import Player, of_call, players
from nbadapt.playing.session import Playground
from nbadapt.playing.settings import Settings
from nbadapt.preferences import Preferences
from nbadapt.run import Run
from nbadapt.widgets.play_report import bundle

wire = pytest.fixture(make_wire)
PROMPT = "What is the capital of France?"
SHORT = Settings(max_new_tokens=12)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def classifier(tuned: Workshop) -> Run:  # noqa: F811
    return tuned("bert", task="classification")


def asked(found: Sequence[Player], prompt: str = PROMPT, settings: Settings = SHORT) -> Round:
    round_ = Round(prompt, settings, found)
    ask(round_, lambda _place: None, lambda: None)
    return round_


def said(text: str) -> Player:
    """A player that says one thing."""

    class Said(Adapted):
        abilities = frozenset({"generate"})

        def generate(self, prompts: Sequence[str], **_: Any) -> list[str]:
            return [text for _ in prompts]

    return Player(text, text[:3], "says one thing", "generate", "words", Said)


# ------------------------------------------------------------------------------------------------ what is streamed


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_pieces_that_are_heard_are_the_answer(architecture: str):
    model = bare(architecture)
    for seed in range(3):
        heard: list[list[str]] = []
        with listening(heard.append):
            (answer,) = model.generate([PROMPT], max_new_tokens=30, temperature=1.5, seed=seed)
        assert "".join(heard[-1]).strip() == answer
        assert all(len(after) == len(before) + 1 for before, after in itertools.pairwise(heard))
        assert len(heard) > 5, "token by token"
        assert model.generate([PROMPT], max_new_tokens=30, temperature=1.5, seed=seed) == [answer], "the same unheard"


def test_several_prompts_at_once_are_not_heard():
    heard: list[list[str]] = []
    with listening(heard.append):
        bare("llama").generate([PROMPT, PROMPT], max_new_tokens=4)
    assert heard == []


# ------------------------------------------------------------------------------------------------ what differs


def test_marks_are_the_tokens_that_the_other_text_lacks():
    one, two = ["The", " red", " fox", " runs"], ["The", " fox", " runs", " away"]
    assert compared([one, two]) == [[False, True, False, False], [False, False, False, True]]
    assert segments(two, [False, False, False, True]) == [("The fox runs", False), (" away", True)]
    assert compared([one]) == [[False] * 4]
    assert compared([one, one, two])[0] == [False, True, False, False], "what some other answer lacks"


def test_unmarked_tokens_are_the_same_in_the_same_order():
    drawn = random.Random(0)
    for _ in range(200):
        one, two = ([drawn.choice("abcd") for _ in range(drawn.randint(0, 12))] for _ in range(2))
        kept = [
            [p for p, lacks in zip(own, lacking(own, other), strict=True) if not lacks]
            for own, other in ((one, two), (two, one))
        ]
        assert len(kept[0]) <= min(len(one), len(two))
        assert _within(kept[0], two)
        assert _within(kept[1], one)


def _within(part: Sequence[str], whole: Sequence[str]) -> bool:
    rest = iter(whole)
    return all(piece in rest for piece in part)


@pytest.mark.parametrize("text", ["", " ", "It's 3.14, isn't it?  Yes!\n", "中文 words 漢字かな", "a", " leading"])
def test_words_joined_are_the_text(text: str):
    assert "".join(words(text)) == text


def test_words_are_what_a_person_takes_for_them():
    assert [word.strip() for word in words("It's 3.14, well-known!")] == ["It's", "3.14", ",", "well-known", "!"]
    assert words("漢字 ok") == ["漢", "字 ", "ok"]


# ------------------------------------------------------------------------------------------------ which words matter

WEIGHTS = {"wonderful": 2.0, "dull": -1.5, "film": 0.25}


def bag(texts: Sequence[str]) -> Predictions:
    """Logistic regression on counts of words."""
    logits = [0.1 + sum(WEIGHTS.get(word.strip(".,!"), 0.0) for word in text.lower().split()) for text in texts]
    good = [1 / (1 + math.exp(-logit)) for logit in logits]
    return Predictions(("bad", "good"), np.array([[1 - p, p] for p in good]))


def test_the_weight_of_a_word_is_its_part_of_the_logistic_function():
    text = "A wonderful film, if a little dull."
    (row,) = bag([text]).probabilities
    *_, (_, _, found) = occlude(bag, text, row, ("bad", "good"))
    logit = 0.1 + sum(WEIGHTS.values())
    for part in found.parts:
        own = WEIGHTS.get(text[part.start : part.end], 0.0)
        exact = 1 / (1 + math.exp(-logit)) - 1 / (1 + math.exp(own - logit))
        assert part.weight == pytest.approx(exact, abs=1e-12)
    assert found.label == "good"
    assert [text[part.start : part.end] for part in found.parts][:4] == ["A", "wonderful", "film", ","]


def test_a_word_goes_with_its_gap():
    assert without("A red fox.", 2, 5) == "A fox."
    assert without("red fox", 0, 3) == "fox"
    assert without("fox, red", 3, 4) == "fox red"


def test_the_words_of_a_trained_classifier_are_those_asked_one_by_one(classifier: Run):
    text = "The film number 3 was terrible, dull and boring."
    (player,) = players(of_call(classifier))
    (answer,) = asked([player], text).answers
    reference = classifier.predict(text)
    assert dict(answer.classes) == pytest.approx(dict(zip(reference.names, reference.probabilities[0], strict=True)))
    assert answer.importance is not None
    best = int(reference.probabilities[0].argmax())
    for part in answer.importance.parts:
        alone = classifier.predict(without(text, part.start, part.end)).probabilities[0][best]
        assert part.weight == pytest.approx(reference.probabilities[0][best] - alone, abs=2e-6)
    assert len(answer.importance.parts) == 11


def test_long_texts_are_left_out_in_groups_and_short_ones_not_at_all():
    places, size = parts(" ".join(f"w{i}" for i in range(450)))
    assert (len(places), size) == (150, 3)
    assert len(parts(" ".join(["word"] * MOST_PARTS))[0]) == MOST_PARTS
    assert list(occlude(bag, "dull", bag(["dull"]).probabilities[0], ("bad", "good"))) == []


# ------------------------------------------------------------------------------------------------ who answers


def test_answers_are_those_of_the_base_and_of_each_run_by_itself(tuned: Workshop):  # noqa: F811
    runs = [tuned("llama"), tuned("llama", seed=2, r=4)]
    found = players([("one", runs[0]), ("two", runs[1])])
    assert [player.name for player in found] == ["llama", "one", "two"]
    for settings in (SHORT, Settings(greedy=False, temperature=1.2, top_p=0.9, seed=3, max_new_tokens=12)):
        round_ = asked(found, settings=settings)
        sampling = settings.sampling()
        alone = [*bare("llama").generate([PROMPT], **sampling), *(run.generate(PROMPT, **sampling) for run in runs)]
        assert [answer.text for answer in round_.answers] == alone
        assert all(answer.by_token and answer.state == "done" for answer in round_.answers)
        assert not round_.by_word
    text = bundle(round_)["text/plain"]
    assert "[" in text
    assert "Marked: tokens that llama lacks; in llama those that some other answer lacks." in text


def test_models_of_other_bases_stand_beside_it_and_are_compared_by_words(tuned: Workshop):  # noqa: F811
    found = players([("one", tuned("llama"))], [str(tiny_models.folder("gpt2"))])
    round_ = asked(found)
    assert [player.name for player in found] == ["gpt2", "llama", "one"]
    assert round_.by_word
    for place, (pieces, _) in round_.marks().items():
        assert "".join(pieces) == round_.answers[place].text


def test_a_base_is_loaded_once(tuned: Workshop, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    from nbadapt import pretrained

    nbadapt.free()
    tuned("llama").forget()
    read: list[Any] = []
    before = pretrained.read_weights
    monkeypatch.setattr(pretrained, "read_weights", lambda *given: read.append(given) or before(*given))
    found = players([("one", tuned("llama")), ("two", tuned("llama", seed=2, r=4))])
    asked(found)
    asked(found, "Why?")
    assert len(read) == 1


def test_a_classifier_has_no_base_beside_it(classifier: Run):
    (player,) = players(of_call([classifier, classifier]))
    assert (player.kind, player.about) == ("classify", "lora on bert")


def test_runs_of_one_name_are_told_apart(tuned: Workshop):  # noqa: F811
    runs = [tuned("llama"), tuned("llama", seed=2, r=4)]
    names = [player.name for player in players([("tuned", run) for run in runs])]
    assert names == ["llama", *(f"tuned ({run.id})" for run in runs)]


def test_a_failure_is_told_in_its_own_column():
    def broken() -> Adapted:
        raise RequestError("no such model any more")

    round_ = asked([Player("b", "b", "", "generate", "words", broken), said("fine words")])
    assert [answer.state for answer in round_.answers] == ["failed", "done"]
    assert round_.answers[0].note == "no such model any more"
    assert "failed, no such model any more" in bundle(round_)["text/plain"]


def line(text: str, monkeypatch: pytest.MonkeyPatch, **variables: Any) -> Any:
    shell = Shell()
    shell.ip.user_ns.update(variables)
    result = shell.run(f"%nbadapt {text}")
    if result.error is not None:
        assert len(str(result.error).splitlines()) == 1
        raise RequestError(str(result.error))
    return result.value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("play", "no run given, and none is here yet in .*: write  %nbadapt play --model smollm2"),
        ("play nothing", "no run 'nothing'"),
        ("play number", "number is of type int, not a run"),
        ("play --model bert", "is an encoder and does not generate text"),
        ("play --model gpt2 --temperature 3", "temperature is 3.0: Input should be less than or equal to 2"),
        ("play --model gpt2 --seed x", "--seed is 'x': give a whole number"),
        ("play --model gpt2 --promt hi", r"unknown option '--promt' of %nbadapt play: did you mean --prompt\?"),
        ("play --model gpt2 --as 3x", "--as '3x' is no variable name"),
        ("play --model gpt2 --file prefs.csv", r"preferences are JSON lines: give a name that ends in .jsonl"),
        ("play --model gpt2,a,b,c,d,e,f", "no model 'a'"),
    ],
)
def test_each_mistake_is_one_line(text: str, message: str, monkeypatch: pytest.MonkeyPatch):
    for name in ("bert", "gpt2"):
        text = text.replace(f"--model {name}", f"--model {tiny_models.folder(name)}")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=message):
        line(text, monkeypatch, number=3)


def test_without_a_run_it_says_which_there_are(tuned: Workshop, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    run = tuned("llama")
    monkeypatch.setenv("NBADAPT_RUNS", str(run.directory.parent))
    with pytest.raises(RequestError, match=rf"no run given: write  %nbadapt play RUN\.\.\.  with one of .*{run.id}"):
        line("play", monkeypatch)
    shown = line(f"play {run.id} --prompt 'A film' --max-new-tokens 3", monkeypatch)
    assert shown.answers.keys() == {"llama", run.id}


@pytest.mark.slow  # trl is imported
def test_a_reward_run_is_refused(tuned: Workshop, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    pytest.importorskip("trl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBADAPT_UI", "text")
        run = nbadapt.finetune(
            "reward", model=tiny_models.folder("llama"), data=tiny_models.preferences(8), max_steps=1, batch_size=4
        )
    with pytest.raises(RequestError, match=r"the run judge .* neither writes text nor tells classes, as reward does"):
        line("play judge", monkeypatch, judge=run)


def test_a_terminal_gets_the_answers_of_one_prompt_and_goes_on_without(tuned: Workshop, monkeypatch):  # noqa: F811
    shown = line(f"play one --prompt '{PROMPT}' --max-new-tokens 6", monkeypatch, one=tuned("llama"))
    assert f"> {PROMPT}" in repr(shown)
    assert shown.answers["one"] == tuned("llama").generate(PROMPT, max_new_tokens=6)
    page = line("play one", monkeypatch, one=tuned("llama"))
    assert "Nobody can type here" in repr(page)
    assert "--prompt" in repr(page)
    assert nbadapt.play(tuned("llama")) is None
    played = nbadapt.play(tuned("llama"), prompt=PROMPT, max_new_tokens=6)
    assert played is not None
    assert list(played.answers.values()) == list(shown.answers.values())
    with pytest.raises(NbadaptError, match=r"unknown setting 'temprature': did you mean temperature\?"):
        nbadapt.play(tuned("llama"), prompt=PROMPT, temprature=1)


def test_help_and_completion(tuned: Workshop):  # noqa: F811
    from nbadapt.playing.line import OPTIONS

    shell = Shell()
    pages = [repr(shell.run(f"%nbadapt {text}").value) for text in ("play --help", "help play")]
    assert len(set(pages)) == 1
    assert all(flag in pages[0] for flag in OPTIONS)
    shell["one"] = tuned("llama")
    assert "one" in shell.tab("%nbadapt play ")
    assert "smollm2" in shell.tab("%nbadapt play one --model ")
    assert "--prompt" in shell.tab("%nbadapt play one --pro")


def test_who_says_how_to_draw_gets_drawn_answers():
    assert asking.settings({}).sampling()["temperature"] == 0
    assert asking.settings({"seed": 3}).sampling() == {
        "max_new_tokens": 128,
        "temperature": 0.7,
        "top_p": 1.0,
        "seed": 3,
    }
    assert asking.settings({"temperature": 0}).greedy
    found, errors = asking.read({"temperature": "hot", "seed": "1", "top_p": "0"})
    assert found is None
    assert errors.keys() == {"temperature", "top_p"}


# ------------------------------------------------------------------------------------------------ the session


@pytest.fixture
def long(tuned: Workshop) -> Iterator[Playground]:  # noqa: F811
    """A playground whose answers take some time."""
    made = Playground(players([("one", tuned("llama"))]), Choices(Path("prefs.jsonl").absolute(), "me"))
    yield made
    made.close()


LONG = Settings(max_new_tokens=400)


def until(condition: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_stop_ends_it_at_a_token_and_keeps_what_is_written(long: Playground):
    long.ask(PROMPT, LONG)
    assert long.round is not None
    until(lambda: len(long.round.answers[0].pieces) > 3)
    with pytest.raises(RequestError, match="still being answered: stop it first"):
        long.ask("Another one?", LONG)
    long.stop()
    until(lambda: not long.working)
    first, second = long.round.answers
    assert (first.state, second.state) == ("stopped", "stopped")
    assert 3 < len(first.pieces) < 400
    (whole,) = bare("llama").generate([PROMPT], max_new_tokens=400)
    assert whole.startswith(first.text)
    assert second.pieces == ()
    long.ask(PROMPT, SHORT)
    long.wait(20)
    assert [answer.state for answer in long.round.answers] == ["done", "done"]


def test_a_run_has_the_machine_to_itself(long: Playground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(steps_method.install(tmp_path))
    told: list[int | None] = []
    long.listen(told.append)
    long.ask(PROMPT, LONG)
    assert long.round is not None
    until(lambda: len(long.round.answers[0].pieces) > 3)
    run = steps_method.begin(steps=10_000, seconds=0.005)
    try:
        until(lambda: long.held_by == run.id)
        written = len(long.round.answers[0].pieces)
        time.sleep(0.3)
        assert len(long.round.answers[0].pieces) == written
    finally:
        run.stop()
        run.join(20)
    until(lambda: len(long.round.answers[0].pieces) > written)
    assert long.held_by == ""
    assert None in told


def test_nothing_is_asked_without_a_prompt(long: Playground):
    with pytest.raises(RequestError, match="the prompt is empty"):
        long.ask("  \n", SHORT)


# ------------------------------------------------------------------------------------------------ the better answer


def test_a_good_answer_becomes_a_preference_of_the_same_form_as_ranking_makes():
    choices = Choices(Path("prefs.jsonl").absolute(), "ann")
    round_ = asked([said("good answer"), said("bad answer"), said("bad answer")])
    assert choices.best(round_, 0) == "goo is better: kept. 1 preference in prefs.jsonl"
    assert choices.chosen(round_) == "good answer"
    (row,) = [json.loads(text) for text in Path("prefs.jsonl").read_text().splitlines()]
    assert (row["prompt"], row["chosen"], row["rejected"], row["rater"]) == (PROMPT, "good answer", "bad answer", "ann")
    assert row["models"] == ["goo", "bad"]
    ranked = nbadapt.rank(prompts=[{"prompt": "p", "answer_a": "x", "answer_b": "y"}], rater=lambda *_: 0)
    assert [row.keys() for row in ranked.rows] == [row.keys()] * 2, "one file, one form"
    assert data.read(Preferences(Path("prefs.jsonl")), name="prefs").task == "preference"
    choices.best(round_, 1)
    assert [row["chosen"] for row in choices.preferences.rows][-1] == "bad answer", "the last choice counts"
    choices.undo()
    choices.undo()
    assert [row["prompt"] for row in choices.preferences.rows] == ["p"]
    assert not choices.can_undo


@pytest.mark.parametrize("answers", [("same", "same"), ("only",), ("", "other")])
def test_there_is_nothing_to_choose_between_like_answers(answers: tuple[str, ...]):
    choices = Choices(Path("prefs.jsonl").absolute(), "me")
    with pytest.raises(RequestError, match="two different answers that are complete"):
        choices.best(asked([said(text) for text in answers]), 0)


def test_an_answer_that_was_stopped_is_no_choice():
    round_ = Round(PROMPT, SHORT, [said("good answer"), said("bad answer")])
    round_.answers = [Answer("done", ("good answer",)), Answer("stopped", ("bad",))]
    with pytest.raises(RequestError):
        Choices(Path("prefs.jsonl").absolute(), "me").best(round_, 0)


# ------------------------------------------------------------------------------------------------ the widget's messages


class Place:
    """A display that keeps what it is given."""

    def __init__(self) -> None:
        self.content: dict[str, str] = {}

    def update(self, content: dict[str, str], **_: Any) -> None:
        self.content = content


class Table:
    """A widget, and a page that says what playground.js would."""

    def __init__(self, wire: Any, found: Sequence[Player]) -> None:
        from nbadapt.widgets.playground import PlayWidget

        self.wire = wire
        self.playground = Playground(found, Choices(Path("prefs.jsonl").absolute(), "me"))
        self.widget = PlayWidget(self.playground, SHORT)
        self.widget._place, self.widget._picture = Place(), Place()
        self.heard: list[tuple[dict, list]] = []

    def say(self, **message: Any) -> dict[str, Any]:
        """The last state after a message, and after what it set to work."""
        self.wire.say(message)
        self.playground.wait(20)
        until(lambda: not self.playground.working)
        time.sleep(0.02)
        self.heard = self.wire.take()
        return [content for content, _ in self.heard if content["type"] == "state"][-1]

    def columns(self) -> list[dict[str, Any]]:
        found = {content["place"]: content for content, _ in self.heard if content["type"] == "column"}
        return [found[place] for place in sorted(found)]


def test_messages_are_small_numbered_and_hold_the_whole_answer(wire: Any):
    long_text = "wörd " * 20_000
    table = Table(wire, [said("short"), said(long_text), said(HOSTILE)])
    table.say(type="hello")
    assert [content["type"] for content, _ in table.heard] == ["page", "state"]
    state = table.say(type="ask", prompt=HOSTILE, values={"max_new_tokens": "5", "greedy": "true"})
    assert all(weight(message) <= 20_000 for message in table.heard)
    assert [c["seq"] for c, _ in table.heard] == sorted(c["seq"] for c, _ in table.heard)
    short, cut, hostile = table.columns()
    assert "".join(text for text, _ in short["segments"]) == "short"
    assert cut["segments"][-1][0].endswith("…")
    assert "<script>" in "".join(text for text, _ in hostile["segments"])
    assert state["choosable"]
    picture = table.widget._picture.content
    assert "<script" not in picture["text/html"]
    assert "<img" not in picture["text/html"]
    assert len(picture["text/html"]) < 60_000


def test_a_choice_is_told_and_taken_back(wire: Any):
    table = Table(wire, [said("good answer"), said("bad answer")])
    table.say(type="ask", prompt=PROMPT, values={})
    state = table.say(type="best", place=1)
    assert state["kept"] == "bad is better: kept. 1 preference in prefs.jsonl"
    assert [column["best"] for column in table.columns()] == [False, True]
    assert "✓ better" in table.widget._picture.content["text/html"]
    state = table.say(type="undo")
    assert (state["kept"], state["undo"]) == ("Taken back. 0 preferences in prefs.jsonl", False)


def test_a_page_that_comes_later_sees_the_last_question(wire: Any):
    table = Table(wire, [said("good answer")])
    table.say(type="ask", prompt="Which?", values={"max_new_tokens": "7"})
    table.say(type="hello")
    page = table.heard[0][0]
    assert (page["prompt"], page["values"]["max_new_tokens"]) == ("Which?", "7")
    assert table.columns()[0]["segments"] == [["good answer", False]]


@pytest.mark.parametrize(
    "message",
    [
        {"type": "nonsense"},
        {"type": "best", "place": "0"},
        {"type": "best", "place": 99},
        {"type": "ask", "prompt": 3, "values": {}},
        {"type": "ask", "prompt": "x", "values": {"max_new_tokens": "many"}},
        {"type": "ask", "prompt": "", "values": {}},
        {},
    ],
)
def test_messages_of_no_form_change_nothing(wire: Any, message: dict[str, Any]):
    table = Table(wire, [said("good answer"), said("bad answer")])
    state = table.say(**message)
    assert "errors" in state
    assert not table.widget.closed
    assert table.playground.round is None
    assert not Path("prefs.jsonl").exists()


def test_closing_leaves_the_picture_alone(wire: Any):
    table = Table(wire, [said("good answer")])
    table.say(type="ask", prompt=PROMPT, values={})
    place, picture = table.widget._place, table.widget._picture
    wire.say({"type": "close"})
    assert table.widget.closed
    assert wire.take()[-1][0]["type"] == "gone"
    assert place.content == {"text/plain": "", "text/html": ""}
    assert "good answer" in picture.content["text/plain"]
    assert not [thread for thread in threading.enumerate() if thread.name == "nbadapt-play"]


def test_classes_and_words_reach_the_page(wire: Any, classifier: Run):
    table = Table(wire, players(of_call(classifier)))
    table.say(type="hello")
    assert [field["name"] for field in table.heard[0][0]["fields"]] == ["words"]
    table.say(type="ask", prompt="The film was <b>dull</b>.", values={"words": "true"})
    (column,) = table.columns()
    assert sum(p for _, p in column["bars"]) == pytest.approx(1, abs=1e-5)
    assert "".join(text for text, _ in column["words"]) == "The film was <b>dull</b>."
    html = table.widget._picture.content["text/html"]
    assert "&lt;" in html
    assert "<b>dull" not in html
    table.say(type="ask", prompt="The film was dull.", values={"words": "false"})
    assert table.columns()[0]["words"] == []
