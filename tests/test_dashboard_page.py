"""The dashboard as a page: dashboard.js in Chromium, fed by a real Dashboard, whose clicks reach it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import pytest
from watching import HOSTILE, QuietRun, Wire, make_wire, portable, started, train, weight

from nbadapt.events import Candidate, Metric, Notice, Panel, Progress, Sample, Source, StateChange
from nbadapt.widgets.dashboard import Dashboard
from nbadapt.widgets.thin import smooth, thin

wire = pytest.fixture(make_wire)
pytestmark = [pytest.mark.browser, pytest.mark.alone]

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ADDRESS = "http://dashboard.test/"

# The part of the anywidget host that the module uses. Each view has its own model object, as there.
HOST = """async ([esm, css]) => {
  const style = document.createElement("style");
  style.textContent = css;
  document.head.append(style);
  const url = URL.createObjectURL(new Blob([esm + "\\nexport { Series, Chart };"], { type: "text/javascript" }));
  window.module = await import(url);
  window.said = [];
  window.views = [];
  window.attach = () => {
    const el = document.body.appendChild(document.createElement("div"));
    const view = { el, handlers: new Set() };
    const model = {
      on: (name, f) => name === "msg:custom" && view.handlers.add(f),
      off: (name, f) => view.handlers.delete(f),
      send: (content) => window.said.push(content),
    };
    view.leave = module.default.render({ model, el });
    window.views.push(view);
  };
  window.hear = ([content, buffers]) => {
    for (const view of window.views) for (const handle of view.handlers) {
      const views = buffers.map((b) => {
        const bytes = Uint8Array.from("x" + atob(b), (c) => c.charCodeAt(0)); // an unaligned view, as on the wire
        return new DataView(bytes.buffer, 1);
      });
      handle(content, views);
    }
  };
  window.attach();
}"""


class Desk:
    """One page and one Dashboard with everything between them delivered, unless a test drops it."""

    def __init__(self, page: Any, wire: Wire, run: QuietRun) -> None:
        self.page, self.wire, self.run = page, wire, run
        self.dashboard = Dashboard(run)
        page.evaluate(HOST, [Dashboard._esm, Dashboard._css])
        self.deliver()

    def push(self) -> None:
        self.dashboard.push()
        self.deliver()

    def deliver(self) -> None:
        """Carry messages both ways until none is left."""
        while True:
            for message in self.wire.take():
                self.page.evaluate("(m) => hear(m)", portable(message))
            said = self.page.evaluate("said.splice(0)")
            for content in said:
                self.wire.say(content)
            if not said and not self.wire.sent:
                return

    def text(self, selector: str) -> str:
        return self.page.locator(selector).first.inner_text()

    def ink(self) -> int:
        """Pixels of the canvas that are strongly coloured: lines, not axes."""
        self.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return self.page.evaluate(
            """() => {
              const c = document.querySelector("canvas");
              const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
              let n = 0;
              for (let i = 0; i < d.length; i += 4)
                if (d[i + 3] > 60 && Math.max(d[i], d[i + 1], d[i + 2]) - Math.min(d[i], d[i + 1], d[i + 2]) > 90) n++;
              return n;
            }"""
        )


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 900, "height": 900})
    page.route(
        ADDRESS, lambda route: route.fulfill(content_type="text/html", body="<!doctype html><meta charset=utf-8>")
    )
    page.goto(ADDRESS)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    yield page
    assert errors == []
    page.close()


def test_it_shows_the_run_and_the_chart_moves(page: Any, wire: Wire) -> None:
    desk = Desk(page, wire, started())
    assert desk.dashboard.hello == 1
    assert desk.text(".nbadapt-title") == "finetune lora · minilm"
    assert desk.ink() == 0
    train(desk.run, 1, 100, 375)
    desk.push()
    before = desk.ink()
    assert before > 300
    picture = page.locator("canvas").screenshot()
    train(desk.run, 101, 200, 375)
    desk.push()
    assert desk.ink() != before
    assert page.locator("canvas").screenshot() != picture
    figures = desk.text(".nbadapt-figures")
    for label in ("Step", "200 / 375", "Epoch", "Elapsed", "Time left", "Training loss", "Evaluation loss", "Accuracy"):
        assert label in figures
    for label in ("Learning rate", "Gradient norm", "Examples/s", "Tokens/s", "RAM", "147,456 of 22,860,674 (0.645 %)"):
        assert label in figures
    assert "VRAM" not in figures
    bar = page.get_by_role("progressbar")
    assert bar.get_attribute("aria-valuenow") == "200"
    assert "training loss" in page.get_by_role("img").get_attribute("aria-label")
    assert "A slow film" in desk.text(".nbadapt-samples")
    page.locator(".nbadapt-samples summary").click()
    assert not page.get_by_text("A slow film").first.is_visible()
    train(desk.run, 201, 225, 375)
    desk.push()
    assert not page.get_by_text("A slow film").first.is_visible(), "what was folded stays folded"
    assert desk.text(".nbadapt-samples summary") == "Samples at step 225"


def test_buttons_reach_the_run(page: Any, wire: Wire) -> None:
    desk = Desk(page, wire, started())
    page.get_by_role("button", name="Pause").click()
    desk.deliver()
    assert desk.run.control.paused
    assert desk.text(".nbadapt-state") == "pausing"
    desk.run.tell(StateChange("paused"))
    desk.push()
    page.get_by_role("button", name="Resume").press("Enter")
    desk.deliver()
    assert not desk.run.control.paused
    desk.run.tell(StateChange("running"))
    desk.push()
    page.get_by_role("button", name="Stop").click()
    desk.deliver()
    assert desk.run.control.stopping
    assert desk.text(".nbadapt-state") == "stopping"
    assert page.get_by_role("button", name="Stop").is_disabled()
    desk.run.tell(StateChange("stopped", "stopped by the user"))
    desk.push()
    assert page.get_by_role("button").count() == 0
    assert "stopped by the user" in desk.text(".nbadapt-head")


def test_hostile_texts_are_shown_and_do_nothing(page: Any, wire: Wire) -> None:
    run = started(title=HOSTILE)
    run.tell(Notice(HOSTILE, "warning"), Sample(1, HOSTILE, HOSTILE, HOSTILE), StateChange("paused", HOSTILE))
    run.tell(Metric(1, "evaluation", {HOSTILE[:30]: 1.0}))
    desk = Desk(page, wire, run)
    page.wait_for_timeout(50)
    assert page.evaluate("window.hacked") is None
    assert page.locator("img:not(canvas), script").count() == 0
    for selector in (".nbadapt-title", ".nbadapt-output", ".nbadapt-notices"):
        assert '<img src=x onerror="window.hacked=1">' in desk.text(selector)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_480_pixels(page: Any, wire: Wire, theme: str) -> None:
    page.set_viewport_size({"width": 480, "height": 900})
    ink, paper = ("#ddd", "#111") if theme == "dark" else ("#222", "#fff")
    page.evaluate(f"document.body.style.cssText = '--jp-ui-font-color1:{ink};background:{paper};margin:0'")
    run = started(title="finetune lora · a-model-with-a-very-long-name/" + "x" * 200)
    train(run, 1, 200, 375)
    run.tell(Notice("y" * 300), Sample(200, "z" * 300, "z" * 300))
    desk = Desk(page, wire, run)
    assert desk.ink() > 300
    assert page.evaluate("document.documentElement.scrollWidth") <= 480
    assert page.locator(".nbadapt").get_attribute("data-theme") == theme


def test_a_change_of_theme_is_followed(page: Any, wire: Wire) -> None:
    run = started()
    train(run, 1, 50, 375)
    Desk(page, wire, run)
    assert page.locator(".nbadapt").get_attribute("data-theme") == "light"
    page.evaluate("document.body.style.setProperty('--jp-ui-font-color1', '#eee')")
    page.wait_for_selector(".nbadapt[data-theme=dark]", timeout=2000)


# JupyterLab's own rules for lists in an output, which come after the widget's.
LAB = """.jp-OutputArea-output dl, .jp-OutputArea-output dt, .jp-OutputArea-output dd { display: block; }
.jp-OutputArea-output dl { width: 100%; overflow: hidden; padding: 0; margin: 0; }
.jp-OutputArea-output dt { font-weight: bold; float: left; width: 20%; padding: 0; margin: 0; }
.jp-OutputArea-output dd { float: left; width: 80%; padding: 0; margin: 0; }"""


def test_figures_stand_side_by_side_in_jupyterlab_too(page: Any, wire: Wire) -> None:
    page.evaluate("document.body.className = 'jp-OutputArea-output'")
    run = started()
    train(run, 1, 50, 375)
    Desk(page, wire, run)
    page.add_style_tag(content=LAB)
    labels = page.locator(".nbadapt-figures dt").all()[:3]
    values = page.locator(".nbadapt-figures dd").all()[:3]
    tops = {round(label.bounding_box()["y"]) for label in labels}
    assert len(tops) == 1
    for label, value in zip(labels, values, strict=True):
        above, below = label.bounding_box(), value.bounding_box()
        assert above["x"] == below["x"]
        assert above["y"] + above["height"] <= below["y"] + 1
    name, text = page.locator(".nbadapt-sample dt").first, page.locator(".nbadapt-sample dd").first
    assert abs(name.bounding_box()["y"] - text.bounding_box()["y"]) < 2


def test_a_gap_asks_for_everything(page: Any, wire: Wire) -> None:
    desk = Desk(page, wire, started())
    train(desk.run, 1, 100, 375)
    desk.dashboard.push()
    assert len(wire.take()) == 1  # dropped on the way
    train(desk.run, 101, 110, 375)
    desk.push()
    assert desk.dashboard.hello == 2
    page.locator("canvas").focus()
    page.keyboard.press("ArrowRight")
    assert desk.text(".nbadapt-readout").startswith("step 110 · training")
    for _ in range(60):
        page.keyboard.press("ArrowLeft")
    readout = desk.text(".nbadapt-readout")
    loss = dict(desk.run.log.series["train", "loss"])[50]
    assert f"step 50 · training {loss:.4f}" in readout
    assert "evaluation" in readout


def test_a_second_view_and_a_closed_one(page: Any, wire: Wire) -> None:
    desk = Desk(page, wire, started())
    train(desk.run, 1, 100, 375)
    desk.push()
    page.evaluate("attach()")
    desk.deliver()
    assert desk.dashboard.hello == 2
    train(desk.run, 101, 120, 375)
    desk.push()
    assert desk.dashboard.hello == 2, "both views follow the same numbers"
    assert page.locator(".nbadapt-figures dd", has_text="120 / 375").count() == 2
    page.evaluate("views[0].leave()")
    assert page.evaluate("views.map((v) => v.handlers.size)") == [0, 1]


def test_a_prompt_run_has_no_empty_chart(page: Any, wire: Wire) -> None:
    run = QuietRun(verb="prompt", title="prompt few-shot · smollm2")
    run.tell(StateChange("running"), Progress(3, 10), Sample(3, "Two plus two?", "Four", "4"))
    desk = Desk(page, wire, run)
    assert not page.locator("canvas").is_visible()
    assert page.get_by_role("progressbar").is_visible()
    assert "Four" in desk.text(".nbadapt-samples")


def test_sources_and_reasonings_open_at_a_click(page: Any, wire: Wire) -> None:
    run = QuietRun(verb="prompt", title="prompt rag · smollm2")
    run.tell(
        StateChange("running"), Source(1, f"a.md {HOSTILE}", f"The chain.\n{HOSTILE}"), Source(2, "b.md", "The bell.")
    )
    desk = Desk(page, wire, run)
    assert page.locator(".nbadapt-sources details").count() == 2
    run.tell(Sample(1, "Why?", "Because.", None, f"Let me think.\n{HOSTILE}"))
    desk.push()
    for place, text in ((".nbadapt-sources", "The chain."), (".nbadapt-sample", "Let me think.")):
        folded = page.locator(f"{place} details").first
        assert not folded.locator("div").is_visible()
        folded.locator("summary").click()
        assert folded.locator("div").is_visible()
        assert folded.locator("div").inner_text().startswith(text)
        assert "<script>" in folded.locator("div").inner_text()
    assert page.locator(".nbadapt-sources summary").first.inner_text().startswith("[1] a.md <img")
    assert page.evaluate("window.hacked") is None
    assert page.locator(".nbadapt img").count() == 0


def test_prompts_that_are_compared_stand_in_a_table(page: Any, wire: Wire) -> None:
    run = QuietRun(verb="prompt", title="prompt prompt-search · smollm2")
    run.tell(StateChange("running"), Progress(3, 10))
    desk = Desk(page, wire, run)
    assert not page.locator(".nbadapt-ranking").is_visible()
    run.tell(Candidate(1, 1, HOSTILE, "accuracy", 0.5, 0.25, 0.75, 20, 31))
    run.tell(Candidate(2, 2, "Label: {{text}}", "accuracy", 0.25, 0.1, 0.4, 20, 30, "dropped"))
    desk.push()
    assert page.locator(".nbadapt-ranking tr").count() == 3
    assert "<img src=x" in desk.text(".nbadapt-ranking tr:nth-child(2)")  # as text
    assert page.evaluate("window.hacked") is None
    run.tell(Candidate(2, 1, "Label: {{text}}", "accuracy", 0.9, 0.8, 1.0, 40, 30, "chosen"))
    run.tell(Candidate(1, 2, "worse", "accuracy", 0.5, 0.25, 0.75, 40, 31))
    desk.push()
    assert "40, chosen" in desk.text(".nbadapt-ranking tr:nth-child(2)")


def test_the_smoothing_can_be_changed_by_key(page: Any, wire: Wire) -> None:
    run = started()
    train(run, 1, 300, 375)
    desk = Desk(page, wire, run)
    assert desk.text(".nbadapt-smoothing output") == "15 steps"
    before = page.locator("canvas").screenshot()
    page.get_by_role("slider").press("End")
    assert desk.text(".nbadapt-smoothing output") == "75 steps"
    desk.ink()
    assert page.locator("canvas").screenshot() != before
    page.get_by_role("slider").press("Home")
    assert desk.text(".nbadapt-smoothing output") == "off"
    assert page.get_by_text("training, smoothed").is_hidden()


def test_the_smoothing_never_claims_more_steps_than_are_done(page: Any, wire: Wire) -> None:
    desk = Desk(page, wire, started())
    train(desk.run, 1, 5, 20_000)
    desk.push()
    assert desk.text(".nbadapt-smoothing output") == "all steps so far"
    train(desk.run, 6, 800, 20_000)
    desk.push()
    assert desk.text(".nbadapt-smoothing output") == "800 steps"


def test_the_page_smooths_as_the_static_figure_does(page: Any, wire: Wire) -> None:
    run = started()
    train(run, 1, 400, 400)
    points = run.log.series["train", "loss"]
    points[20] = (21, float("nan"))
    buckets = thin(points, 150)
    Desk(page, wire, run)
    line = page.evaluate(
        """([step, mean]) => {
          const s = new module.Series();
          Object.assign(s, { step, mean: mean.map((v) => v ?? NaN), low: mean, high: mean });
          return Array.from(s.smooth(16), (v) => (Number.isNaN(v) ? null : v));
        }""",
        [[b.step for b in buckets], [None if b.mean != b.mean else b.mean for b in buckets]],
    )
    wanted = [None if v != v else pytest.approx(v, rel=1e-9) for v in smooth(buckets, 16)]
    assert line == wanted


def test_merged_neighbours_keep_extremes_and_means(page: Any, wire: Wire) -> None:
    Desk(page, wire, started())
    merged = page.evaluate(
        """() => {
          const s = new module.Series();
          Object.assign(s, { step: [1, 2, 3, 4, 9], low: [5, 1, NaN, 2, 7] });
          Object.assign(s, { mean: [5, 2, NaN, 4, 7], high: [5, 3, NaN, 6, 7] });
          s.halve();
          return [s.step, s.low, s.mean, s.high];
        }"""
    )
    assert merged == [[2, 4, 9], [1, 2, 7], [3.5, 4, 7], [5, 6, 7]]


def test_twenty_thousand_points_draw_fast(page: Any, wire: Wire) -> None:
    desk = Desk(page, wire, started())
    for first in range(1, 30_000, 500):  # each of these messages is sent unthinned
        train(desk.run, first, first + 499, 30_000, evaluate_every=1000)
        desk.push()
    assert desk.ink() > 300
    milliseconds = page.evaluate(
        """() => {
          const chart = new module.Chart(document.querySelector("canvas"), document.querySelector(".nbadapt"));
          for (let i = 1; i <= 20000; i++) {
            chart.train.step.push(i);
            for (const name of ["low", "mean", "high"]) chart.train[name].push(Math.sin(i) + 2);
          }
          const times = [];
          for (let k = 0; k < 9; k++) {
            const start = performance.now();
            chart.draw();
            times.push(performance.now() - start);
          }
          return times.sort((a, b) => a - b)[4];
        }"""
    )
    assert milliseconds < 60  # 14 with software rendering on two slow cores; five a second are drawn


# From a message that reaches the page until the frame after the one that draws it.
DRAWN = """async (message) => {
  const start = performance.now();
  hear(message);
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  return performance.now() - start;
}"""


@pytest.mark.slow
@pytest.mark.parametrize("panels", [(), ("reward", "kl", "entropy", "clipped")])
def test_a_reloaded_page_draws_a_history_of_200_000_steps_at_once(
    page: Any, wire: Wire, panels: tuple[str, ...]
) -> None:
    run = started()
    run.tell(*(Panel(name, name, spread=f"{name}_spread") for name in panels))
    train(run, 1, 200_000, 200_000, evaluate_every=500)
    for step in range(1, 200_001) if panels else ():
        values = {name: math.sin(step / 999) for name in panels}
        run.tell(Metric(step, "train", values | {f"{name}_spread": 0.1 for name in panels}), gap=0.0)
    desk = Desk(page, wire, run)
    kernel, drawn, sizes = [], [], []
    for _ in range(7):
        page.evaluate("views[0].leave(); views[0].el.remove(); views.shift(); attach()")
        (hello,) = page.evaluate("said.splice(0)")
        start = time.perf_counter()
        wire.say(hello)
        kernel.append(1000 * (time.perf_counter() - start))
        (message,) = wire.take()
        drawn.append(page.evaluate(DRAWN, portable(message)))
        assert desk.ink() > 300
        assert message[0]["full"]
        sizes.append(weight(message))
        train(run, 200_001, 200_020, 200_020)  # and it goes on
        desk.dashboard.push()
        sizes += [weight(one) for one in wire.take()]
    together = median(a + b for a, b in zip(kernel, drawn, strict=True))
    print(f"{median(kernel):.0f} ms in the kernel, {median(drawn):.0f} ms on the page, at most {max(sizes)} bytes")
    assert together < 300
    assert max(sizes) <= 19_000  # 20 KB with the envelope that Jupyter puts around it


def test_a_kernel_that_does_not_answer_is_told(page: Any) -> None:
    started_at = time.monotonic()
    page.evaluate(HOST, [Dashboard._esm, Dashboard._css])
    assert page.locator(".nbadapt-state").inner_text() == "connecting"
    page.get_by_text("The kernel does not answer").wait_for(timeout=8000)
    assert time.monotonic() - started_at > 3


def test_panels_beside_the_loss_are_drawn_and_kept_through_a_reload(page: Any, wire: Wire) -> None:
    desk = Desk(page, wire, started())
    run = desk.run
    run.tell(Panel("reward", "Reward", spread="reward_spread"), Panel("kl", "KL"))
    for step in range(1, 9):
        run.tell(Metric(step, "train", {"loss": 0.1, "reward": step / 8, "reward_spread": 0.1, "kl": step / 4}))
    run.tell(Sample(8, "Say", "now", before="earlier"))
    desk.push()
    for _ in range(2):
        captions = desk.page.locator(".nbadapt-panel figcaption").all_inner_texts()
        assert captions[-2:] == ["Reward: 1.000 ± 0.1000", "KL: 2.000"]
        assert desk.page.evaluate("document.querySelectorAll('.nbadapt-panel canvas')[0].clientHeight") > 50
        assert "earlier" in desk.text(".nbadapt-samples")
        desk.page.evaluate("views[0].leave(); views[0].el.remove(); views.shift(); attach()")
        desk.deliver()
