"""The static result: complete, escaped, small, and readable where styles and scripts are stripped."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from PIL import Image
from watching import HOSTILE, QuietRun, started, train

from nbadapt.errors import OutOfMemoryError
from nbadapt.events import Change, Memory, Metric, Notice, Progress, Reply, Sample, StateChange
from nbadapt.memory import gibibytes
from nbadapt.method import Outcome
from nbadapt.widgets import report, summary

# What JupyterLab 4 and GitHub let through in notebooks that nobody has trusted.
TAGS = {"div", "b", "pre", "img", "table", "tr", "td", "th", "details", "summary"}
ATTRIBUTES = {"style", "alt", "src", "open"}
STYLES = {
    "max-width", "border", "border-radius", "border-collapse", "padding", "margin", "text-align", "vertical-align",
    "opacity", "white-space", "overflow-wrap", "font-family",
}  # fmt: skip


class Page(HTMLParser):
    """Tags, attributes, styles, table cells and text of a piece of HTML; tags have to balance."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.cells: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag != "img":
            self._open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open and self._open[-1] == "td":
            self.cells[-1] += data

    @property
    def figures(self) -> dict[str, str]:
        return dict(zip(self.cells[::2], self.cells[1::2], strict=False))


def finished() -> QuietRun:
    run = started()
    train(run, 1, 375, 375)
    run.tell(StateChange("done"))
    run.outcome = Outcome({"loss": 0.27, "accuracy": 0.7945, "macro_f1": 0.781}, {"adapter": "artifacts/adapter"})
    return run


def prompted(output: str) -> QuietRun:
    run = QuietRun(title="prompt zero-shot · smollm2", verb="prompt")
    run.tell(StateChange("running"), Progress(1, 1, tokens=12), StateChange("done"))
    run.outcome = Outcome(output=output)
    return run


def test_a_finished_run_shows_its_figures() -> None:
    run = finished()
    both = report.bundle(run)
    page = Page(both["text/html"])
    wanted = {
        "Step": "375 / 375",
        "Epoch": "3.00",
        "Evaluation loss": summary.number(run.log.series["evaluation", "loss"][-1][1]),
        "Accuracy": "0.7945",
        "Macro F1": "0.7810",
        "Examples/s": "160",
        "RAM": "1.15 GiB, peak 1.40 GiB",
        "Trained parameters": "147,456 of 22,860,674 (0.645 %)",
        "Run": run.id,
    }
    assert {label: page.figures.get(label) for label in wanted} == {**wanted, "Examples/s": page.figures["Examples/s"]}
    assert "done in" in page.text
    assert "Samples at step 375" in page.text
    assert "10 % of the rows are held out" in page.text
    plain = both["text/plain"]
    for label, text in wanted.items():
        if label != "Examples/s":
            assert re.search(rf"^  {re.escape(label)} +{re.escape(text)}$", plain, re.MULTILINE)
    assert plain.startswith("finetune lora · minilm: done in ")


def test_the_picture_is_a_png_with_a_description() -> None:
    attributes = dict(Page(report.bundle(finished())["text/html"]).attributes)
    head, data = str(attributes["src"]).split(",")
    assert head == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).format == "PNG"
    assert "evaluation 0." in str(attributes["alt"])


@pytest.mark.parametrize("run", [finished(), prompted("Paris."), started()], ids=["finetune", "prompt", "running"])
def test_it_survives_sanitizers(run: QuietRun) -> None:
    for html in (report.bundle(run)["text/html"], report.running_bundle(run)["text/html"]):
        page = Page(html)
        assert page.tags <= TAGS
        assert {name for name, _ in page.attributes} <= ATTRIBUTES
        styles = {
            part.split(":")[0].strip() for name, v in page.attributes if name == "style" for part in str(v).split(";")
        }
        assert styles <= STYLES, "no colour of its own: it takes the page's"


def test_hostile_texts_are_text() -> None:
    run = started(title=HOSTILE, id=HOSTILE)
    run.tell(Notice(HOSTILE), Sample(1, HOSTILE, HOSTILE, HOSTILE), Metric(1, "evaluation", {HOSTILE: 1.0}))
    run.tell(Metric(2, "evaluation", {HOSTILE: 1.0, "loss": 1.0}), Metric(3, "evaluation", {"loss": 1.0}))
    run.tell(StateChange("stopped", HOSTILE))
    run.outcome = Outcome({HOSTILE: 1.0}, output=HOSTILE)
    both = report.bundle(run)
    page = Page(both["text/html"])
    assert page.tags <= TAGS - {"script"}
    assert page.tags >= {"img"}, "only the figure's"
    assert both["text/html"].count("<img") == 1
    assert page.text.count("<script>window.hacked=1</script>") >= 6
    json.dumps(both, ensure_ascii=False).encode()


def test_the_notebook_grows_by_60_kb_at_most() -> None:
    run = started(title="&" * 9000)
    for step in range(1, 50_001):
        run.tell(Metric(step, "train", {"loss": (step * 7919 % 1000) / 500, "grad_norm": 1.0}), gap=0.01)
    for step in range(0, 50_001, 500):
        values = {"loss": step % 3, **{f"{'&' * 40}{i}": step % 7 for i in range(50)}}
        run.tell(Metric(step, "evaluation", values), gap=0.01)
    for k in range(200):
        run.tell(Notice(f"{k}" + "&" * 5000), Sample(50_000, "<" * 5000, '"' * 5000, "漢" * 5000))
    run.tell(*(Change(100 * k, "learning_rate", factor=1 / 3, rate=1e-9 / 3) for k in range(60)))
    run.tell(*(Reply(50_000, "&" * 9000, "<" * 9000, ("&" * 99,), (0.5,)) for _ in range(9)))
    run.tell(StateChange("stopped", "&" * 9000))
    assert sum(len(json.dumps(v, ensure_ascii=False).encode()) for v in report.bundle(run).values()) <= 60_000
    answered = report.bundle(prompted("&<é\n" * 20_000))
    assert sum(len(json.dumps(v, ensure_ascii=False).encode()) for v in answered.values()) <= 60_000
    assert "run.output has it all" in answered["text/plain"]


def test_what_was_changed_and_asked_on_the_way_is_kept() -> None:
    run = finished()
    plain = report.bundle(run)["text/html"]
    run.tell(Change(100, "learning_rate", factor=0.5, rate=1e-4), Change(120, "save", path="saves/step-120"))
    run.tell(Reply(100, HOSTILE, "positive", ("positive", "negative"), (0.75, 0.25)))
    shown = report.bundle(run)
    assert "after step 100: learning rate ×0.5, 1.00e-04 at the next step; after step 120: model saved" in (  # noqa: RUF001
        " ".join(shown["text/plain"].split())
    )
    assert "positive (75.0 %)" in shown["text/html"]
    assert "<script" not in shown["text/html"]
    picture = re.compile('base64,([^"]+)')
    assert picture.search(shown["text/html"])[1] != picture.search(plain)[1], "marks on the curve"


def test_the_answer_of_a_prompt_is_kept_as_it_is() -> None:
    answer = "Berlin <b>&\n\n    indented"
    both = report.bundle(prompted(answer))
    assert answer in both["text/plain"]
    assert answer in Page(both["text/html"]).text
    assert "<pre" in both["text/html"]
    assert "<img" not in both["text/html"]


def test_a_prompt_over_a_table_shows_metrics_and_samples() -> None:
    run = QuietRun(title="prompt few-shot · smollm2", verb="prompt")
    run.tell(StateChange("running"), Progress(10, 10, examples=80))
    run.tell(Sample(10, "Guten Tag", "Good day", "Good day"), StateChange("done"))
    run.outcome = Outcome({"accuracy": 0.75})
    page = Page(report.bundle(run)["text/html"])
    assert page.figures["Accuracy"] == "0.7500"
    assert "Guten Tag" in page.text
    assert ("open", None) in page.attributes


def test_a_failed_run_names_the_error_once() -> None:
    run = started()
    train(run, 1, 40, 375)
    run.error = OutOfMemoryError("lora ran out of memory on cpu: lower batch_size")
    run.tell(Notice(str(run.error), "error"), StateChange("failed", str(run.error)))
    both = report.bundle(run)
    assert both["text/plain"].startswith("finetune lora · minilm: failed at step 40 of 375: lora ran out of memory")
    assert both["text/plain"].count("ran out of memory") == 1
    assert Page(both["text/html"]).text.count("ran out of memory") == 1


def test_a_killed_run_is_not_shown_as_running() -> None:
    @dataclasses.dataclass
    class KilledRun(QuietRun):
        state: str = "killed"  # as the store knows it: the events end in the middle

    run = KilledRun(events=started().events)
    train(run, 1, 40, 375)
    assert report.bundle(run)["text/plain"].startswith("finetune lora · minilm: killed at step 40 of 375")
    assert "Time left" not in report.bundle(run)["text/plain"]


def test_average_rates_leave_out_pauses_and_evaluations() -> None:
    run = QuietRun()
    run.tell(StateChange("running"), *(Progress(s, 10, examples=8 * s, tokens=80 * s) for s in range(1, 6)), gap=0.5)
    run.tell(StateChange("paused"), gap=100)
    run.tell(StateChange("running"), gap=100)
    run.tell(*(Progress(s, 10, examples=8 * s, tokens=80 * s) for s in range(6, 11)), gap=0.5)
    assert summary.average_rates(run.events) == pytest.approx({"examples": 16, "tokens": 160})


def test_a_progress_line_is_one_line() -> None:
    run = started()
    assert summary.progress_line(run.log, run.title) == "finetune lora · minilm: training"
    train(run, 1, 150, 375)
    line = summary.progress_line(run.log, "finetune\nlora")
    assert re.fullmatch(
        r"finetune lora: 40 % · step 150/375 · loss 0\.\d{4} · evaluation loss 0\.\d{4} "
        r"· accuracy 0\.\d{4} · \d+ s left",
        line,
    )


def test_words_of_a_later_version_are_shown_as_far_as_they_are_known() -> None:
    run = started()
    run.tell(Notice("the moon is full", "advice"))  # type: ignore[arg-type]  # what is tested
    both = report.bundle(run)
    assert "Note: the moon is full" in both["text/plain"]
    assert "<b>Note:</b> the moon is full" in both["text/html"]


def test_a_step_that_is_no_number_is_text() -> None:
    run = started()
    run.tell(Sample(HOSTILE, "in", "out"))  # type: ignore[arg-type]  # what is tested
    assert report.bundle(run)["text/html"].count("<img") == 0


def test_an_accelerators_memory_is_shown_with_what_it_has() -> None:
    run = started()
    run.tell(Memory(2**30, 2**30, 3 * 2**30, 4 * 2**30, 80 * 2**30))
    assert Page(report.bundle(run)["text/html"]).figures["VRAM"] == "3.00 GiB of 80.00 GiB, peak 4.00 GiB"
    run.tell(Memory(2**30, 2**30, 3 * 2**30))
    assert Page(report.bundle(run)["text/html"]).figures["VRAM"] == "3.00 GiB"


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (summary.number(0.0), "0"),
        (summary.number(2e-5), "2.00e-05"),
        (summary.number(0.81724), "0.8172"),
        (summary.number(-12.3456), "-12.35"),
        (summary.number(12345.6), "12346"),
        (summary.number(float("nan")), "nan"),
        (summary.amount(1240), "1,240"),
        (summary.amount(22.7e6), "22.7 M"),
        (gibibytes(3 * 2**20), "3 MiB"),
        (gibibytes(5 * 2**30), "5.00 GiB"),
        (summary.duration(3.25), "3.2 s"),
        (summary.duration(59.7), "1 min 00 s"),
        (summary.duration(185), "3 min 05 s"),
        (summary.duration(7620), "2 h 07 min"),
        (summary.duration(float("inf")), "unknown"),
    ],
)
def test_formats(shown: str, wanted: str) -> None:
    assert shown == wanted
