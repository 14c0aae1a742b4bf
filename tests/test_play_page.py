"""The playground as a page: playground.js in Chromium, told by a real widget, whose answers reach it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_dashboard_page import browser  # noqa: F401 - a fixture
from test_form_page import HOST, page  # noqa: F401 - a fixture
from test_play import PROMPT, bag, said
from watching import HOSTILE, make_wire

from nbadapt.method import Adapted, Predictions
from nbadapt.playing.choice import Choices
from nbadapt.playing.players import Player
from nbadapt.playing.session import Playground
from nbadapt.playing.settings import Settings
from nbadapt.widgets.playground import PlayWidget

wire = pytest.fixture(make_wire)
pytestmark = [pytest.mark.browser, pytest.mark.alone]


class Bag(Adapted):
    """Logistic regression on counts of words."""

    abilities = frozenset({"predict"})

    def predict(self, texts: Sequence[str], labels: Sequence[str] | None = None) -> Predictions:
        return bag(texts)


class Hostile(Adapted):
    """A classifier whose classes are markup."""

    abilities = frozenset({"predict"})

    def predict(self, texts: Sequence[str], labels: Sequence[str] | None = None) -> Predictions:
        return Predictions((HOSTILE, "other"), np.array([[0.6, 0.4]] * len(texts)))


BAG = Player("bag", "bag", "logistic regression", "classify", "words", Bag)


class PlayPage:
    """A page with a playground, and everything between both delivered."""

    def __init__(self, page: Any, wire: Any, players: Sequence[Player]) -> None:  # noqa: F811
        self.page, self.wire = page, wire
        self.playground = Playground(players, Choices(Path("prefs.jsonl").absolute(), "me"))
        self.widget = PlayWidget(self.playground, Settings())
        page.evaluate(HOST, [PlayWidget._esm, PlayWidget._css])
        self.deliver()

    def deliver(self, rest: int = 0) -> None:
        """Carry messages both ways until none is left."""
        self.page.wait_for_timeout(rest)
        while True:
            self.playground.wait(10)
            for message, _ in self.wire.take():
                self.page.evaluate("(m) => hear(m)", message)
            heard = self.page.evaluate("said.splice(0)")
            for content in heard:
                self.wire.say(content)
            if not heard and not self.playground.working and not self.wire.sent:
                return

    def ask(self, prompt: str = PROMPT) -> None:
        self.page.get_by_label("prompt", exact=True).fill(prompt)
        self.page.keyboard.press("Control+Enter")
        self.deliver(50)
        self.deliver(50)

    @property
    def root(self) -> Any:
        return self.page.locator(".nbadapt-play")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def play(page: Any, wire: Any) -> Iterator[PlayPage]:  # noqa: F811
    made = PlayPage(page, wire, [said("the old bridge is red"), said("the bridge is blue")])
    yield made
    made.playground.close()


def test_keys_ask_and_what_differs_is_an_insertion_and_underlined(play: PlayPage):
    play.ask()
    marked = play.page.locator("ins")
    assert [text.strip() for text in marked.all_inner_texts()] == ["old", "red", "blue"]
    line = marked.first.evaluate("e => getComputedStyle(e).textDecorationLine")
    assert line == "underline", "not by colour alone"
    assert play.page.locator(".nbadapt-text").first.inner_text() == "the old bridge is red"
    assert "Marked: words that the lacks" in play.page.locator(".nbadapt-legend").inner_text()
    play.page.get_by_role("button", name="this answer is better").first.focus()
    play.page.keyboard.press("Enter")
    play.deliver(50)
    assert "1 preference in prefs.jsonl" in play.page.locator(".nbadapt-kept").inner_text()
    assert Path("prefs.jsonl").read_text().count("\n") == 1


def test_another_page_takes_nothing_that_was_typed_in_this_one(play: PlayPage):
    play.ask("asked before")
    typed = play.page.get_by_label("prompt", exact=True).first
    typed.fill("not asked yet")
    play.page.get_by_label("longest answer", exact=True).first.fill("77")
    play.page.locator(".nbadapt-title").first.click()  # nothing has the focus
    play.page.evaluate("attach()")
    play.deliver(50)
    assert typed.input_value() == "not asked yet"
    assert play.page.get_by_label("longest answer", exact=True).first.input_value() == "77"
    assert play.page.get_by_label("prompt", exact=True).nth(1).input_value() == "asked before"
    assert play.root.nth(1).locator(".nbadapt-answer").count() == 2


def test_a_long_prompt_comes_back_whole(play: PlayPage):
    prompt = "word " * 5_000
    play.ask(prompt)
    play.page.evaluate("attach()")
    play.deliver(50)
    assert play.page.get_by_label("prompt", exact=True).nth(1).input_value() == prompt


def test_what_greedy_makes_no_use_of_is_off(play: PlayPage):
    temperature = play.page.get_by_label("temperature", exact=True)
    assert temperature.is_disabled()
    play.page.get_by_label("greedy").press("Space")
    assert temperature.is_enabled()
    temperature.fill("9")
    play.deliver(320)
    assert "less than or equal to 2" in play.page.locator('.nbadapt-field[data-name="temperature"]').inner_text()
    assert play.page.locator(".nbadapt-run").is_disabled()
    temperature.fill("0.5")
    play.deliver(320)
    assert play.page.locator(".nbadapt-run").is_enabled()


def test_every_control_has_a_name(play: PlayPage):
    play.ask()
    unnamed = play.page.evaluate(
        """() => [...document.querySelectorAll("input, select, textarea, button, [tabindex]")]
          .filter((e) => !(e.labels?.length || e.getAttribute("aria-label") || e.textContent))
          .map((e) => e.outerHTML)"""
    )
    assert unnamed == []
    twice = play.page.evaluate(
        """() => {
          const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
          return ids.length - new Set(ids).size;
        }"""
    )
    assert twice == 0
    assert play.page.get_by_role("article").count() == 2


def test_words_of_a_classifier_are_marked_both_ways_and_listed(page: Any, wire: Any):  # noqa: F811
    made = PlayPage(page, wire, [BAG])
    made.ask("A wonderful film, if dull.")
    assert page.locator(".nbadapt-words .nbadapt-for").all_inner_texts() == ["wonderful", "film"]
    assert page.locator(".nbadapt-words .nbadapt-against").all_inner_texts() == ["dull"]
    styles = [
        page.locator(f".nbadapt-words .nbadapt-{kind}").first.evaluate("e => getComputedStyle(e).borderBottomStyle")
        for kind in ("for", "against")
    ]
    assert styles == ["solid", "dashed"], "not by colour alone"
    top = page.locator(".nbadapt-top tr").all_inner_texts()
    assert top[0].startswith("wonderful\t+0.")
    assert "\u22120." in top[1]
    shares = page.locator(".nbadapt-class-share").all_inner_texts()
    assert sum(map(float, shares)) == pytest.approx(1, abs=0.002)
    assert page.get_by_label("temperature").count() == 0, "nothing is drawn"


def test_hostile_texts_execute_nothing(page: Any, wire: Any):  # noqa: F811
    name = HOSTILE.replace("\ud800", "")
    nasty = Player(name, name, name, "classify", "words", Hostile)
    made = PlayPage(page, wire, [nasty, said(HOSTILE), said(HOSTILE + " and more")])
    made.ask(name)
    made.page.get_by_role("button", name="this answer is better").last.click()
    made.deliver(50)
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, script").count() == 0
    assert made.root.inner_text().count("<script>") >= 4, "it is shown as text"
    page.set_content(made.widget._static()["text/html"])
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, script").count() == 0


def test_a_narrow_page_holds_all_of_it_and_two_pages_show_the_same(play: PlayPage):
    play.page.evaluate("attach()")
    play.deliver()
    play.page.get_by_label("prompt", exact=True).first.fill("word " * 40 + "x" * 300)
    play.page.keyboard.press("Control+Enter")
    play.deliver(50)
    play.deliver(50)
    assert play.page.locator(".nbadapt-play").nth(1).locator("ins").count() == 3
    play.page.set_viewport_size({"width": 480, "height": 900})
    assert play.root.first.evaluate("f => f.scrollWidth <= f.clientWidth + 1")
