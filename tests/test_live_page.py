"""The controls of the dashboard as a page: what is offered, refused and shown; a real Control behind it."""

from __future__ import annotations

from typing import Any

import pytest
from test_dashboard_page import Desk, browser, page, wire  # noqa: F401 - fixtures
from watching import HOSTILE, QuietRun, Wire, started, train

from nbadapt.events import Change, Controls, Progress, Reply, StateChange
from nbadapt.steering import Ask, ChangeRate, Save

pytestmark = [pytest.mark.browser, pytest.mark.alone]

OFFERED = ("save", "learning_rate", "epoch_end", "generate")


def offering(offered: tuple[str, ...] = OFFERED) -> QuietRun:
    run = started()
    run.tell(Controls(offered))
    run.control.offer(frozenset(offered))
    train(run, 1, 120, 375)
    return run


def error(page: Any, name: str) -> str:  # noqa: F811
    return str(page.locator(f'[data-wish="{name}"] .nbadapt-outcome').inner_text())


def test_what_is_asked_reaches_the_run_and_is_answered(page: Any, wire: Wire) -> None:  # noqa: F811
    desk = Desk(page, wire, offering())
    control = desk.run.control
    page.get_by_role("button", name="Save now").click()
    desk.deliver()
    wish = control.next_wish()
    assert wish.asked == Save()
    assert page.get_by_role("button", name="Save now").is_disabled()
    assert error(page, "save") == "at the end of this step …"
    wish.fulfil("x", "saved at step 120")
    desk.run.tell(Change(120, "save", path="saves/step-120"))
    desk.push()
    assert error(page, "save") == "saved at step 120"
    assert page.get_by_role("button", name="Save now").is_enabled()
    assert desk.text(".nbadapt-changes") == "after step 120: model saved"

    rate = page.get_by_label("learning rate", exact=True)
    assert rate.get_attribute("placeholder") == "1.36e-04"
    for text in ("", "0", "-1", "1e9", "much", "nan", HOSTILE[:40]):
        rate.fill(text)
        rate.press("Enter")
        desk.deliver()
        assert error(page, "learning_rate").startswith("the learning rate is"), text
        assert rate.get_attribute("aria-invalid") == "true"
        assert control.next_wish() is None, "nothing happens to the run"
    rate.fill("1e-4")
    page.get_by_role("button", name="Set the learning rate").click()
    desk.deliver()
    wish = control.next_wish()
    assert wish.asked == ChangeRate(rate=1e-4)
    desk.run.tell(Change(120, "learning_rate", factor=0.735, rate=1e-4))
    wish.fulfil(1e-4, "0.0001 from step 121 on")
    desk.push()
    assert rate.input_value() == ""
    assert rate.get_attribute("placeholder") == "1.00e-04"

    prompt = page.get_by_label("ask the model as it is now")
    prompt.press("Enter")
    desk.deliver()
    assert error(page, "sample") == "the prompt is empty: write what the model is to answer"
    prompt.fill("Why?")
    prompt.press("Shift+Enter")
    desk.deliver()
    assert control.next_wish() is None, "a line break"
    prompt.fill("Why?")
    prompt.press("Enter")
    desk.deliver()
    wish = control.next_wish()
    assert wish.asked == Ask("Why?")
    desk.run.tell(Reply(120, "Why?", "Because."))
    wish.fulfil("Because.", "answered at step 120")
    desk.push()
    assert "Because." in desk.text(".nbadapt-replies")
    assert prompt.input_value() == "Why?", "it may be asked again later"

    end = page.get_by_role("button", name="Stop at epoch end")
    end.click()
    desk.deliver()
    assert control.next_wish().asked.on
    desk.run.tell(Change(121, "epoch_end"))
    control.latest["epoch_end"].fulfil(True, "stops when this epoch ends")
    desk.push()
    assert end.get_attribute("aria-pressed") == "true"
    end.click()
    desk.deliver()
    assert not control.next_wish().asked.on


def test_only_what_is_offered_is_there_and_what_is_over_says_why(page: Any, wire: Wire) -> None:  # noqa: F811
    run = QuietRun(verb="prompt", title="prompt few-shot · smollm2")
    run.tell(StateChange("running"), Progress(3, 10))
    desk = Desk(page, wire, run)
    assert not page.locator(".nbadapt-controls").is_visible()
    page.evaluate("views[0].leave(); views[0].el.remove(); views.shift()")

    desk = Desk(page, wire, offering(("save", "learning_rate")))
    assert page.get_by_role("button", name="Save now").is_visible()
    assert not page.get_by_role("button", name="Sample now").is_visible()
    assert not page.get_by_role("button", name="Stop at epoch end").is_visible()
    desk.run.tell(Controls((), "the training is over"))
    desk.run.control.offer(frozenset(), "the training is over")
    desk.push()
    assert page.get_by_role("button", name="Save now").is_disabled()
    assert page.get_by_label("learning rate", exact=True).is_disabled()
    assert desk.text(".nbadapt-why-not") == "Not now: the training is over."
    desk.run.tell(StateChange("done"))
    desk.push()
    assert not page.locator(".nbadapt-controls").is_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_hostile_answers_are_texts_and_all_fits_480_pixels(page: Any, wire: Wire, theme: str) -> None:  # noqa: F811
    page.set_viewport_size({"width": 480, "height": 1200})
    ink, paper = ("#ddd", "#111") if theme == "dark" else ("#222", "#fff")
    page.evaluate(f"document.body.style.cssText = '--jp-ui-font-color1:{ink};background:{paper};margin:0'")
    run = offering((*OFFERED[:3], "predict"))
    run.tell(
        Reply(100, HOSTILE * 3, "x" * 900),
        Reply(110, HOSTILE, HOSTILE, (HOSTILE, "b" * 200, "c"), (0.7, 0.2, 0.1)),
        Change(100, "learning_rate", factor=1 / 3, rate=1e-5),
        Change(101, "save", path=HOSTILE),
    )
    desk = Desk(page, wire, run)
    page.wait_for_timeout(50)
    assert page.evaluate("window.hacked") is None
    assert page.locator("img:not(canvas), script").count() == 0
    assert '<img src=x onerror="window.hacked=1">' in desk.text(".nbadapt-replies")
    assert "70.0 %" in desk.text(".nbadapt-replies")
    assert page.evaluate("document.documentElement.scrollWidth") <= 480
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("input, textarea, button")]
          .filter((e) => !(e.labels?.length || e.getAttribute("aria-label") || e.textContent)).length"""
    )
    assert unnamed == 0


def test_two_pages_show_one_state_and_a_press_acts_once(page: Any, wire: Wire) -> None:  # noqa: F811
    desk = Desk(page, wire, offering())
    page.evaluate("attach()")
    desk.deliver()
    page.get_by_role("button", name="Halve the learning rate").first.click()
    desk.deliver()
    assert desk.run.control.next_wish().asked == ChangeRate(factor=0.5)
    assert desk.run.control.next_wish() is None
    waiting = page.locator('[data-wish="learning_rate"] .nbadapt-outcome')
    assert waiting.all_inner_texts() == ["at the end of this step …"] * 2


def test_marks_are_drawn_on_the_curve(page: Any, wire: Wire) -> None:  # noqa: F811
    desk = Desk(page, wire, offering())
    desk.ink()
    before = page.locator("canvas").first.screenshot()
    desk.run.tell(Change(60, "learning_rate", factor=0.5, rate=1e-4))
    desk.push()
    desk.ink()
    assert page.locator("canvas").first.screenshot() != before
