"""prompt-search: templates against asking each by hand, on rows of their own; races, leaks, stops, bad input."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from chat_server import Body, ChatServer, Trouble, chat_server
from test_prompting import language_model, make_job, predictions, run

import nbadapt
from nbadapt import models, registry, store
from nbadapt.engines.templated import instructed
from nbadapt.engines.tokens import encode_prompt
from nbadapt.errors import DataError, ModelError, NbadaptError, RequestError, Stopped, UnsuitedError
from nbadapt.events import Candidate, Event, Notice, Progress
from nbadapt.method import ModelRef
from nbadapt.metrics import wilson_interval
from nbadapt.widgets import report

REVIEWS = tiny_models.reviews(40)
LABELS = ["negative", "positive"]
TEXTS = ["Review: {{text}}\nMood:", "{{text}} That is", "Good or bad? {{text}}"]
BODY = "\n---\n".join(TEXTS)
WORDS = ["one {{text}}", "two {{text}}", "three {{text}}", "four {{text}}"]


@pytest.fixture(autouse=True, scope="module")
def _forget_bases() -> Any:
    yield
    models.free()


def notices(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def table(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "artifacts/candidates.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------------------------------------- by hand


def test_every_template_scores_as_it_does_by_hand(tmp_path: Path) -> None:
    settings = {"batch_size": 7, "samples": 1}
    job = make_job("prompt-search", tmp_path, prompt=BODY, data=REVIEWS[:18], examples=REVIEWS[18:], settings=settings)
    outcome, events = run(job)
    model = language_model(job)
    search, truth = REVIEWS[18:], [row["label"] for row in REVIEWS[18:]]
    shares = []
    for text in TEXTS:
        said = model.predict([text.replace("{{text}}", row["text"]) for row in search], LABELS).labels
        shares.append(sum(a == b for a, b in zip(said, truth, strict=True)) / 22)
    lines = {line["number"]: line for line in table(tmp_path)}
    for number, (text, share) in enumerate(zip(TEXTS, shares, strict=True), 1):
        low, high = wilson_interval(share, 22)
        line = lines[number]
        assert (line["text"], line["rows"]) == (text, 22)
        found = [line[name] for name in ("accuracy", "accuracy_low", "accuracy_high")]
        assert found == pytest.approx([share, low, high])
    chosen = next(line for line in lines.values() if line["standing"] == "chosen")
    assert (chosen["rank"], chosen["accuracy"]) == (1, max(shares))

    held_out = [chosen["text"].replace("{{text}}", row["text"]) for row in REVIEWS[:18]]
    expected = model.predict(held_out, LABELS).labels
    assert [row["output"] for row in predictions(job)] == expected
    right = sum(a == row["label"] for a, row in zip(expected, REVIEWS[:18], strict=True)) / 18
    assert (outcome.metrics["accuracy"], outcome.metrics["rows"]) == (right, 18)
    assert (outcome.metrics["search_accuracy"], outcome.metrics["search_rows"]) == (max(shares), 22)
    steps = [event.step for event in events if isinstance(event, Progress)]
    assert steps == list(range(1, 3 * 4 + 3 + 1))
    assert registry.load("prompt-search")().estimate(job).steps == steps[-1]
    assert {event.number for event in events if isinstance(event, Candidate)} == {1, 2, 3}


def test_the_run_fills_the_chosen_template(tmp_path: Path) -> None:
    rows = [{"a": row["text"], "b": "film", "label": row["label"]} for row in REVIEWS]
    body = "{{what}} {{a}} of {{b}}\n---\n{{a}}: {{b}}, {{what}}"
    job = make_job("prompt-search", tmp_path, prompt=body, data=rows, variables={"what": "kind {{x}}"})
    outcome, _ = run(job)
    adapted = registry.load("prompt-search")().load(outcome, job)
    text = next(line for line in table(tmp_path) if line["standing"] == "chosen")["text"]
    filled = text.replace("{{a}}", "great").replace("{{b}}", "book").replace("{{what}}", "kind {{x}}")
    model = language_model(job)
    given: Any = [{"a": "great", "b": "book"}]
    assert adapted.generate(given, max_new_tokens=5) == model.generate([filled], max_new_tokens=5)
    assert adapted.predict(given).labels == model.predict([filled], LABELS).labels
    with pytest.raises(RequestError, match="2 placeholders"):
        adapted.generate(["great"])


@pytest.mark.slow
def test_free_answers_and_a_metric_of_ones_own(tmp_path: Path) -> None:
    def short(answers: list[str], _expected: list[str]) -> list[float]:
        return [float(len(answer)) for answer in answers]

    rows = [{**row, "completion": f"{row['completion']} {i}"} for i, row in enumerate(tiny_models.translations(40))]
    model = str(tiny_models.folder("gpt2"))
    asked: dict[str, Any] = {"model": model, "data": rows, "max_new_tokens": 4, "metric": short}
    body = "{{prompt}}\n---\nSay: {{prompt}}"
    longest = nbadapt.prompt("prompt-search", body, **asked)
    shortest = nbadapt.prompt("prompt-search", body, better="lower", **asked)
    a, b = longest.candidates["short"], shortest.candidates["short"]
    assert list(a) == sorted(a, reverse=True)
    assert list(b) == sorted(b) == sorted(a)
    assert {"short", "exact_match", "search_short"} <= longest.metrics.keys()


# ---------------------------------------------------------------------------------------------- rows


def test_shown_searched_and_held_out_rows_are_apart(tmp_path: Path) -> None:
    doubled = [*REVIEWS, *REVIEWS[:10]]  # the same row twice is one row
    job = make_job("prompt-search", tmp_path, prompt=BODY, data=doubled, settings={"shots": 4})
    _, events = run(job)
    method: Any = registry.load("prompt-search")()
    division = method.ground(job).division
    texts = [{row["text"] for row in part.rows} for part in (division.shown, division.search, division.held_out)]
    assert [len(division.shown), len(division.search)] == [4, 16]
    assert not texts[0] & texts[1]
    assert not texts[2] & (texts[0] | texts[1])
    assert [row["label"] for row in division.shown.rows].count("positive") == 2
    positive = [row["label"] for row in division.search.rows].count("positive")
    assert positive == 8
    assert [row["row"] for row in predictions(job)] == list(division.held_out.numbers)  # the table's own numbers
    assert all(doubled[row["row"] - 1]["text"] in row["input"] for row in predictions(job))
    stored = json.loads((tmp_path / "artifacts/prompt.json").read_text())
    assert len(stored["shots"]) == 4
    assert any("16 rows of data" in text and "4 more are shown" in text for text in notices(events))


def test_a_row_of_both_tables_is_refused(tmp_path: Path) -> None:
    twice = [{**REVIEWS[3], "text": "  " + REVIEWS[3]["text"] + " "}, *REVIEWS[20:]]
    job = make_job("prompt-search", tmp_path, prompt=BODY, data=REVIEWS[:20], examples=twice)
    with pytest.raises(DataError, match="row 4 of data is also row 1 of examples"):
        registry.load("prompt-search")().estimate(job)
    job = make_job("prompt-search", tmp_path, prompt=BODY, data=REVIEWS, examples=REVIEWS)
    with pytest.raises(DataError, match="the same rows"):
        registry.load("prompt-search")().estimate(job)


TITLES = "{{title}}: good or bad?\n---\nGood or bad? {{text}} ({{title}})"


def test_rows_that_one_template_reads_alike_are_not_on_both_sides(tmp_path: Path) -> None:
    """Rows 1 and 2 differ in their texts, which the first template does not show."""
    rows = [{**row, "title": f"film {i // 2}"} for i, row in enumerate(REVIEWS * 2)]
    rows = [{**row, "text": f"{row['text']} {i}"} for i, row in enumerate(rows)]
    method: Any = registry.load("prompt-search")()
    for seed in range(3):
        division = method.ground(make_job("prompt-search", tmp_path, prompt=TITLES, data=rows, seed=seed)).division
        search, held_out = ({row["title"] for row in part.rows} for part in (division.search, division.held_out))
        assert len(search) == len(division.search) == 20
        assert not search & held_out
        assert len(division.held_out) == 40
    examples = [{**row, "title": f"film {i + 30}"} for i, row in enumerate(REVIEWS)]
    job = make_job("prompt-search", tmp_path, prompt=TITLES, data=rows, examples=examples)
    with pytest.raises(
        DataError, match=r"row 61 of data is also row 1 of examples \(and 19 more\), for one of the prompts"
    ):
        method.ground(job)


def test_rows_are_the_same_through_a_third_one(tmp_path: Path) -> None:
    """Rows 1 and 2 have one title, rows 2 and 3 one text: all three are one row."""
    rows = [{"title": f"t{i}", "text": f"x{i}", "label": LABELS[i % 2]} for i in range(24)]
    rows = [{**rows[0], "title": "t"}, {**rows[1], "title": "t", "text": "x"}, {**rows[2], "text": "x"}, *rows[3:]]
    body = "{{title}}?\n---\n{{text}}?"
    method: Any = registry.load("prompt-search")()
    sides = set()
    for seed in range(8):
        division = method.ground(make_job("prompt-search", tmp_path, prompt=body, data=rows, seed=seed)).division
        held_out = {1, 2, 3} & set(division.held_out.numbers)
        assert held_out in (set(), {1, 2, 3})
        assert (1 in division.search.numbers) is not bool(held_out)
        assert not {2, 3} & set(division.search.numbers)
        sides.add(bool(held_out))
    assert sides == {True, False}


# ---------------------------------------------------------------------------------------------- bad input

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "one template": ({"prompt": TEXTS[0]}, "the body holds one: write two or more, with a line --- between"),
    "none": ({"prompt": ""}, "the body holds none"),
    "an empty one": ({"prompt": f"{TEXTS[0]}\n---\n \n---\n{TEXTS[1]}"}, "template 2 is empty"),
    "an empty end": ({"prompt": f"{BODY}\n---\n"}, "template 4 is empty"),
    "two the same": ({"prompt": f"{BODY}\n---\nReview:  {{{{text}}}}\nMood: "}, "templates 1 and 4 are the same"),
    "no placeholder": ({"prompt": f"{TEXTS[0]}\n---\nGood?"}, "template 2 names no column of data"),
    "open braces": ({"prompt": f"{TEXTS[0]}\n---\nGood? {{{{text"}, "template 2: line 1 of the prompt"),
    "unknown column": (
        {"prompt": f"{TEXTS[0]}\n---\n{{{{text}}}} {{{{txt}}}}"},
        "no value: did you mean text",
    ),
    "the answers": (
        {"prompt": f"{TEXTS[0]}\n---\n{{{{text}}}} {{{{label}}}}"},
        "names {{label}}, the column",
    ),
    "few rows": ({"data": REVIEWS[:19]}, "19 different rows, too few to search on: prompt-search needs at least 10, "),
    "few for shots": (
        {"settings": {"shots": 15}},
        "besides 15 to show, and as many to hold out, so 50 rows",
    ),
    "few examples": ({"examples": REVIEWS[:5], "data": REVIEWS[5:]}, "examples has 5 different rows"),
    "no answers": ({"data": [{"text": f"{i}"} for i in range(40)]}, "data has none: name their column"),
    "no data": ({"data": None, "variables": {"text": "x"}}, "add --data"),
    "no room": ({"prompt": f"{TEXTS[0]}\n---\n{'the film ' * 300}{{{{text}}}}"}, "more than fit the context"),
}


@pytest.mark.parametrize(("given", "line"), BAD.values(), ids=list(BAD))
def test_bad_input_is_one_line(given: dict[str, Any], line: str, tmp_path: Path) -> None:
    asked = {"prompt": BODY, "data": REVIEWS, **given}
    if asked["data"] is None:
        del asked["data"]
    with pytest.raises(NbadaptError) as caught:
        registry.load("prompt-search")().estimate(make_job("prompt-search", tmp_path, **asked))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_classifier_and_a_bad_metric_are_refused(tmp_path: Path) -> None:
    run_ = nbadapt.finetune("output-layers", model=str(tiny_models.folder("bert")), data=REVIEWS, max_steps=1)
    ref = ModelRef("tuned", "run", str(run_.directory))
    with pytest.raises(UnsuitedError, match="needs a language model, and tuned is a classifier"):
        registry.load("prompt-search")().estimate(
            make_job("prompt-search", tmp_path, prompt=BODY, data=REVIEWS, model=ref)
        )
    with pytest.raises(RequestError, match="gave 'good'"):
        nbadapt.prompt(
            "prompt-search", BODY, model=str(tiny_models.folder("gpt2")), data=REVIEWS, metric=lambda a, e: "good"
        )
    assert issubclass(UnsuitedError, ModelError)


# ---------------------------------------------------------------------------------------------- at an endpoint


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    for name in ("OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with chat_server() as running:
        running.answer = knowing
        yield running


def knowing(body: Body) -> str:
    """Always right below `two`, in four of five rows below `three`, in half of them below the others."""
    said = body["messages"][-1]["content"]
    number = int(re.search(r"number (\d+)", said)[1])  # type: ignore[index]
    share = {"two": 10, "three": 8}.get(said.split()[0], 5)
    right = number * 7 % 10 < share
    return "positive" if bool(number % 2) == right else "negative"


def ask(server: ChatServer, body: str, **given: Any) -> Any:
    return nbadapt.prompt("prompt-search", body, model="openai:tiny", base_url=server.url, samples=0, **given)


def test_the_weaker_half_is_dropped_early(server: ChatServer) -> None:
    rows = tiny_models.reviews(160)
    plan = ask(server, "\n---\n".join(WORDS), data=rows, racing_rows=20, dry_run=True)
    assert server.asked == []
    said = " ".join(plan.estimate.notes)
    assert "templates race, 4 on 40 rows, 2 on 80 rows, in place of 320 answers" in said
    assert "at most 240 answers in the search and 80 held-out ones" in said
    assert "up to ±15 points on 40 rows, ±11 points on 80 rows: smaller differences may be chance" in said
    assert plan.estimate.steps == 320
    run_ = ask(server, "\n---\n".join(WORDS), data=rows, racing_rows=20)
    assert len(server.asked) == 320
    found = run_.candidates
    assert list(found["text"])[:2] == ["two {{text}}", "three {{text}}"]
    assert list(found["rows"]) == [80, 80, 40, 40]
    assert list(found["standing"]) == ["chosen", "", "dropped", "dropped"]
    assert found["accuracy"][0] == run_.metrics["accuracy"] == 1.0
    assert any("better than all others on these rows by more than chance" in text for text in notices_of(run_))
    held_out = server.texts()[240:]
    assert all(text.startswith("two ") for text in held_out)  # the winner alone, once
    assert not {t.split(" ", 1)[1] for t in held_out} & {t.split(" ", 1)[1] for t in server.texts()[:240]}
    assert run_.predict("The film number 3 was good.").labels == ["positive"]


def notices_of(run_: Any) -> list[str]:
    return [event.text for _, event in run_.events if isinstance(event, Notice)]


def test_what_cannot_be_told_apart_is_said(server: ChatServer) -> None:
    run_ = ask(server, "one {{text}}\n---\nfour and more {{text}}", data=tiny_models.reviews(40))
    (line,) = [text for text in notices_of(run_) if "told apart" in text]
    assert line.startswith(
        "the first two cannot be told apart on 20 rows: template 1 and template 2 have the same rows"
    )
    assert run_.candidates["text"][0] == "one {{text}}"  # as good, and shorter


def test_the_tokens_of_a_prompt_are_the_mean_over_the_rows_that_were_drawn_first(tmp_path: Path) -> None:
    rows = [{**row, "text": f"{row['text']} {'very ' * (i % 9)}"} for i, row in enumerate(tiny_models.reviews(60))]
    job = make_job("prompt-search", tmp_path, prompt=BODY, data=rows)
    method: Any = registry.load("prompt-search")()
    ground = method.ground(job)
    tried, _ = ground.tried(1, TEXTS[0], "template 1")
    lengths = [len(encode_prompt(ground.tokenizer, query.prompt)) for query in tried.queries]
    assert [query.row for query in tried.queries] == list(ground.division.search.numbers)
    assert tried.tokens == round(sum(lengths[:20]) / 20)
    assert len(lengths) == 30


@pytest.mark.slow
def test_a_failing_endpoint_loses_nothing_and_the_run_is_resumed(server: ChatServer) -> None:
    server.trouble = lambda number, _: Trouble(400) if number > 30 else None
    with pytest.raises(NbadaptError):
        ask(server, "\n---\n".join(WORDS[:3]), data=tiny_models.reviews(40), parallel=1)
    (run_,) = nbadapt.runs()
    assert run_.state == "failed"
    assert set(run_.candidates["number"]) == {1, 2}
    server.trouble = lambda _number, _: None
    assert run_.generate("The film number 2 was good.") in LABELS
    before = len(server.asked)
    run_.resume()
    assert run_.state == "done"
    assert len(server.asked) - before <= 80 - 30 + 1
    assert run_.candidates["text"][0] == "two {{text}}"


class StopAt:
    """Stops, once, at the nth step."""

    def __init__(self, step: int) -> None:
        self.step, self.events = step, list[Event]()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Progress) and event.step == self.step:
            self.step = 0
            raise Stopped


@pytest.mark.parametrize(("step", "answered"), [(1, 1), (3, 2), (9, 3)])
def test_a_stop_keeps_the_best_so_far(step: int, answered: int, tmp_path: Path) -> None:
    job = make_job("prompt-search", tmp_path, prompt=BODY, data=REVIEWS, settings={"batch_size": 10, "samples": 0})
    stop = StopAt(step)
    outcome = registry.load("prompt-search")().run(job, stop)
    lines = table(tmp_path)
    assert len(lines) == answered
    assert max(event.step for event in stop.events if isinstance(event, Progress)) <= step + 1
    assert lines[0]["standing"] == "chosen"
    adapted = registry.load("prompt-search")().load(outcome, job)
    filled = lines[0]["text"].replace("{{text}}", "great")
    assert adapted.generate(["great"], max_new_tokens=4) == language_model(job).generate([filled], max_new_tokens=4)
    if step < 7:
        assert any("is the best so far, and is kept" in text for text in notices(stop.events))
        assert "accuracy" not in outcome.metrics
    else:
        assert outcome.metrics["rows"] > 0


def test_a_stop_after_the_search_keeps_its_winner(tmp_path: Path) -> None:
    given = {"prompt": BODY, "data": REVIEWS, "settings": {"batch_size": 10, "samples": 0}}
    whole = registry.load("prompt-search")().run(make_job("prompt-search", tmp_path / "whole", **given), lambda _: None)
    told = []

    def stop_at_the_verdict(event: Event) -> None:
        if not told and isinstance(event, Notice) and "template" in event.text and "alone" in event.text:
            told.append(event)
            raise Stopped

    job = make_job("prompt-search", tmp_path / "stopped", **given)
    outcome = registry.load("prompt-search")().run(job, stop_at_the_verdict)
    assert told, "the verdict was told"
    assert [line["standing"] for line in table(job.directory)].count("chosen") == 1
    assert outcome.metrics["search_accuracy"] == whole.metrics["search_accuracy"]
    assert "accuracy" not in outcome.metrics


@pytest.mark.slow
def test_answers_are_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBADAPT_ANSWERS", str(tmp_path / "answers"))
    model = str(tiny_models.folder("gpt2"))
    first = nbadapt.prompt("prompt-search", BODY, model=model, data=REVIEWS)
    size = store_size(tmp_path)
    again = nbadapt.prompt("prompt-search", BODY, model=model, data=REVIEWS)
    assert again.metrics == first.metrics
    assert store_size(tmp_path) == size == 3 * 20 + (20 if size == 80 else 0)
    nbadapt.prompt("prompt-search", f"{BODY}\n---\nNew {{{{text}}}}", model=model, data=REVIEWS)
    assert size + 20 <= store_size(tmp_path) <= size + 40


def store_size(tmp_path: Path) -> int:
    from nbadapt import answer_cache

    assert answer_cache.file().parent == tmp_path / "answers"
    return answer_cache.size().answers


def test_hostile_templates_are_shown_as_text() -> None:
    hostile = "<script>alert(1)</script>"
    model = str(tiny_models.folder("gpt2"))
    run_ = nbadapt.prompt("prompt-search", f"{hostile} {{{{text}}}}\n---\n{{{{text}}}}", model=model, data=REVIEWS)
    shown = report.bundle(run_)
    assert "Prompts compared" in shown["text/html"]
    assert "<script" not in shown["text/html"]
    assert "&lt;script&gt;" in shown["text/html"]
    assert "Prompts compared: rank" in shown["text/plain"]
    again = store.open(run_.id)
    assert list(again.candidates["rank"]) == [1, 2]
    zero = nbadapt.prompt("zero-shot", "a", model=model, max_new_tokens=1)
    with pytest.raises(NbadaptError, match="compared no prompts"):
        _ = zero.candidates


def test_an_instruction_stands_above_a_text_and_is_the_system_turn_of_a_conversation() -> None:
    assert instructed("", "x") == "x"
    assert instructed("do {{this}}", "x") == "do {{this}}\n\nx"
    user = {"role": "user", "content": "x"}
    assert instructed("do", [user]) == [{"role": "system", "content": "do"}, user]
    first = {"role": "system", "content": "be kind"}
    assert instructed("do", [first, user]) == [{"role": "system", "content": "do\n\nbe kind"}, user]
