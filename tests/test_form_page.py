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
from test_lab import picture
from watching import HOSTILE, make_wire

from nbadapt import plan
from nbadapt.forms import figures
from nbadapt.forms.fields import FormField
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


def test_a_mouse_drags_a_slider(form: FormPage):
    slider = form.field("r").get_by_label("r, slider")
    box = slider.bounding_box()
    last = int(slider.get_attribute("max"))
    middle = box["y"] + box["height"] / 2
    form.page.mouse.move(box["x"] + box["width"] * int(slider.input_value()) / last, middle)
    form.page.mouse.down()
    for share in (0.5, 0.7, 0.9, 1.0):
        form.page.mouse.move(box["x"] + box["width"] * share, middle, steps=4)
        form.page.wait_for_timeout(40)
    assert form.page.evaluate("said.filter((m) => m.type === 'set').length") == 1, (
        "one question at a time, while it is dragged"
    )
    form.page.mouse.up()
    form.deliver()
    assert slider.input_value() == str(last)
    number = form.field("r").get_by_label("r", exact=True).input_value()
    assert int(number) == setting(form, "r").stops[-1]
    assert f"r: {number}" in form.page.locator(".nbadapt-cell").inner_text()
    assert form.desk.session.form.raw["r"] == number


def setting(form: FormPage, name: str) -> FormField:
    return next(field for field in form.desk.session.form.settings if field.name == name)


def test_help_appears_where_the_mouse_rests(form: FormPage):
    form.page.mouse.move(1, 1)
    tip = form.field("r").locator(".nbadapt-help")
    assert not tip.is_visible()
    form.field("r").locator("label").hover()
    form.page.wait_for_timeout(700)
    assert tip.is_visible()
    assert float(tip.evaluate("e => getComputedStyle(e).opacity")) == 1
    assert tip.inner_text().startswith("rank")
    assert tip.get_attribute("role") == "tooltip"
    tip_box, page_box = tip.bounding_box(), form.page.locator(".nbadapt-form").bounding_box()
    assert tip_box["x"] + tip_box["width"] <= page_box["x"] + page_box["width"] + 1
    form.page.mouse.move(1, 1)
    form.page.wait_for_timeout(200)
    assert not tip.is_visible()


@pytest.mark.parametrize("seen", [{"contrast": "more"}, {"forced_colors": "active"}])
def test_the_form_can_be_read_in_high_contrast_and_forced_colours(form: FormPage, seen: dict[str, str]):
    form.page.emulate_media(**seen)
    form.field("r").get_by_label("r", exact=True).fill("0")
    form.field("dropout").get_by_label("dropout", exact=True).fill("0.2")
    form.deliver()
    picture(form.page, f"form-{'-'.join(seen)}-{'-'.join(seen.values())}")
    number = form.field("r").get_by_label("r", exact=True)
    wrong, right = (
        element.evaluate("e => { const s = getComputedStyle(e); return [s.borderTopWidth, s.borderTopColor]; }")
        for element in (number, form.field("dropout").get_by_label("dropout", exact=True))
    )
    assert wrong[0] == "2px"
    assert wrong != right, "what is wrong is marked by more than a colour"
    assert form.field("r").locator(".nbadapt-error").inner_text().startswith("Input should be")
    edges = form.page.locator(".nbadapt-form select").first.evaluate("e => getComputedStyle(e).borderTopStyle")
    assert edges == "solid"
    faint = form.page.evaluate(FAINT_TEXTS)
    assert faint == [], "every text stands out from its ground"


# Texts of the form whose contrast to the nearest painted ground is below 4.5 to 1 (WCAG 2.2, AA).
FAINT_TEXTS = """() => {
  const parse = (colour) => (colour.match(/[\\d.]+/g) ?? [0, 0, 0]).map(Number);
  const over = ([r, g, b, a = 1], ground) => [r, g, b].map((v, i) => a * v + (1 - a) * ground[i]);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const groundOf = (element) => {
    const grounds = [];
    for (let e = element; e; e = e.parentElement) grounds.push(parse(getComputedStyle(e).backgroundColor));
    return grounds.reverse().reduce((under, [r, g, b, a = 1]) => over([r, g, b, a], under), [255, 255, 255]);
  };
  const parts = "label, summary, dt, dd, pre, button:not(:disabled), .nbadapt-error, .nbadapt-said";
  return [...document.querySelector(".nbadapt-form").querySelectorAll(parts)]
    .filter((e) => e.textContent && e.checkVisibility())
    .map((e) => {
      const ground = groundOf(e);
      const [a, b] = [light(over(parse(getComputedStyle(e).color), ground)), light(ground)].sort((x, y) => y - x);
      return [e.textContent.slice(0, 40), Math.round((100 * (a + 0.05)) / (b + 0.05)) / 100];
    })
    .filter(([, ratio]) => ratio < 4.5);
}"""


def test_another_page_takes_nothing_that_is_being_typed(form: FormPage):
    number = form.field("r").get_by_label("r", exact=True)
    number.fill("5")
    number.evaluate("e => { window.kept = e; }")
    form.page.evaluate("attach()")
    form.deliver()
    assert number.evaluate("e => e === window.kept"), "the fields are not drawn anew"
    assert form.field("r", 1).get_by_label("r", exact=True).input_value() == "5"


def test_what_does_not_fit_into_memory_has_figures_and_a_red_bar(form: FormPage, monkeypatch: pytest.MonkeyPatch):
    for module in (plan, figures):
        monkeypatch.setattr(module, "available_bytes", lambda _device: 1_000)
    form.field("r").get_by_label("r", exact=True).fill("16")
    form.deliver()
    form.desk.session._thread.join(60)  # the exact memory
    form.deliver()
    page = form.page
    bar = page.locator(".nbadapt-costs .nbadapt-bar")
    assert bar.get_attribute("data-over") == "true"
    assert "free on cpu" in page.locator(".nbadapt-costs").inner_text()
    assert page.locator(".nbadapt-costs").get_attribute("data-stale") == "false"
    assert "needs about" in page.locator(".nbadapt-said").inner_text()
    assert page.locator(".nbadapt-run").is_disabled()
    red = bar.locator("div").evaluate("e => getComputedStyle(e).backgroundColor")
    assert red == page.locator(".nbadapt-form").evaluate(
        "f => { const e = f.appendChild(document.createElement('i')); e.style.color = 'var(--bad)';"
        " const c = getComputedStyle(e).color; e.remove(); return c; }"
    )
    picture(page, "form-over")


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
