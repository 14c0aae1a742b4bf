"""The form as a page: form.js in Chromium, told by a real session, whose answers reach it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
import tiny_models
from shells import Shell
from test_dashboard_page import browser  # noqa: F401 - a fixture
from test_form import Desk
from watching import HOSTILE, make_wire

from nbadapt.widgets.form import FormWidget

wire = pytest.fixture(make_wire)
pytestmark = [pytest.mark.browser, pytest.mark.alone]

ADDRESS = "http://form.test/"

# The part of the anywidget host that the module uses.
HOST = """async ([esm, css]) => {
  const style = document.createElement("style");
  style.textContent = css;
  document.head.append(style);
  const module = await import(URL.createObjectURL(new Blob([esm], { type: "text/javascript" })));
  window.said = [];
  window.views = [];
  window.attach = () => {
    const el = document.body.appendChild(document.createElement("div"));
    const view = { el, handlers: new Set() };
    const model = {
      on: (name, f) => view.handlers.add(f),
      off: (name, f) => view.handlers.delete(f),
      send: (content) => window.said.push(content),
    };
    view.leave = module.default.render({ model, el });
    window.views.push(view);
  };
  window.hear = (content) => window.views.forEach((view) => view.handlers.forEach((handle) => handle(content)));
  window.attach();
}"""


class FormPage:
    """A page with a form, and everything between it and the session delivered."""

    def __init__(self, page: Any, desk: Desk) -> None:
        self.page, self.desk = page, desk
        page.evaluate(HOST, [FormWidget._esm, FormWidget._css])
        self.deliver()

    def deliver(self, rest: int = 320) -> None:
        """Carry messages both ways until none is left; `rest`: milliseconds that the page waits after a key."""
        self.page.wait_for_timeout(rest)
        while True:
            for message, _ in self.desk.wire.take():
                self.page.evaluate("(m) => hear(m)", message)
            said = self.page.evaluate("said.splice(0)")
            for content in said:
                data = {"method": "custom", "content": content}
                self.desk.session.widget.comm.handle_msg({"content": {"data": data}, "buffers": []})
            if not said and not self.desk.wire.sent:
                return

    def field(self, name: str, view: int = 0) -> Any:
        return self.page.locator(".nbadapt-form").nth(view).locator(f'.nbadapt-field[data-name="{name}"]')


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:  # noqa: F811
    page = browser.new_page(viewport={"width": 900, "height": 900})
    body = "<!doctype html><meta charset=utf-8>"
    page.route(ADDRESS, lambda route: route.fulfill(content_type="text/html", body=body))
    page.goto(ADDRESS)
    page.set_default_timeout(20_000)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    page.close()
    assert not problems


@pytest.fixture
def form(page: Any, wire: Any) -> Iterator[FormPage]:
    made = FormPage(page, Desk(wire))
    yield made
    made.desk.session._cancel()


def test_keys_move_a_slider_and_the_cell_follows(form: FormPage):
    slider = form.field("r").get_by_label("r, slider")
    slider.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "16"
    form.deliver()
    assert "r: 16" in form.page.locator(".nbadapt-cell").inner_text()
    assert form.page.locator(".nbadapt-hint").inner_text().startswith("r: rank")
    form.field("r").get_by_label("r", exact=True).fill("20")
    form.deliver()
    assert slider.input_value() == "4", "the nearest stop"
    assert form.desk.session.form.raw["r"] == "20"


def test_every_control_has_a_name_and_its_help(form: FormPage):
    unnamed = form.page.evaluate(
        """() => [...document.querySelectorAll("input, select, textarea, button")]
          .filter((e) => !(e.labels?.length || e.getAttribute("aria-label") || e.textContent))
          .map((e) => e.outerHTML)"""
    )
    assert unnamed == []
    dangling = form.page.evaluate(
        """() => [...document.querySelectorAll("[aria-describedby]")]
          .filter((e) => !e.getAttribute("aria-describedby").split(" ").every((id) => document.getElementById(id)))
          .map((e) => e.outerHTML)"""
    )
    assert dangling == []


def test_two_pages_show_the_same(form: FormPage):
    form.page.evaluate("attach()")
    form.deliver()
    form.field("r").get_by_label("r", exact=True).fill("5")
    form.deliver()
    assert form.field("r", 1).get_by_label("r", exact=True).input_value() == "5"


def test_what_is_typed_while_the_kernel_works_is_not_lost(form: FormPage):
    number = form.field("r").get_by_label("r", exact=True)
    number.fill("5")
    form.page.wait_for_timeout(320)  # it is on its way, and not answered yet
    number.fill("6")
    form.page.wait_for_timeout(320)
    assert len(form.page.evaluate("said")) == 1, "one question at a time"
    form.deliver()
    assert form.desk.session.form.raw["r"] == "6"
    assert number.input_value() == "6"


def test_hostile_texts_execute_nothing(page: Any, wire: Any):
    name = HOSTILE.replace("\ud800", "")
    rows = pd.DataFrame({"text": ["a", "b"], "label": ["x", "y"], name: ["c", "d"]})
    made = FormPage(page, Desk(wire, namespace={"rows": rows}))
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    made.field("--text").locator("select").select_option(name)
    made.deliver()
    made.field("--label").locator("select").select_option(label="other …")
    made.field("--label").locator("input").fill(name)
    made.field("target_modules").locator("select").select_option(label="other …")
    made.field("target_modules").locator("input").fill(name)
    made.field("r").get_by_label("r", exact=True).fill(name)
    made.deliver()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, script").count() == 0
    assert "<script>" in page.locator(".nbadapt-form").inner_text(), "it is shown as text"


def test_the_form_of_a_prompt_has_room_for_it(page: Any, wire: Any):
    made = FormPage(page, Desk(wire, "zero-shot"))
    made.field("prompt-text").locator("textarea").fill("Is this good? {{text}}")
    made.field("--data").locator("select").select_option("rows")
    made.deliver()
    assert "Is this good? {{text}}" in page.locator(".nbadapt-cell").inner_text()
    assert page.locator(".nbadapt-run").is_enabled(), page.locator(".nbadapt-said").inner_text()


def test_tables_that_came_later_are_offered(form: FormPage):
    form.desk.shell["more_rows"] = tiny_models.reviews(8)
    form.page.mouse.move(850, 850)
    form.page.locator(".nbadapt-form").hover()
    form.deliver()
    assert "more_rows" in form.field("--data").locator("option").all_inner_texts()


def test_a_narrow_page_holds_all_of_it(form: FormPage):
    form.page.set_viewport_size({"width": 480, "height": 900})
    assert form.page.locator(".nbadapt-form").evaluate("f => f.scrollWidth <= f.clientWidth + 1")
    assert isinstance(form.desk.shell, Shell)
