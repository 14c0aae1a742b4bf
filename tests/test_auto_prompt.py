"""auto-prompt: a scripted proposer on loopback whose best instruction is known; budgets, bad input, stops."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from chat_server import Body, ChatServer, chat_server
from test_prompting import language_model, make_job, run

import nbadapt
from nbadapt import devices, models, plan, registry, runner
from nbadapt.engines import rough_time
from nbadapt.engines.answering import Query, Reply
from nbadapt.errors import NbadaptError, OutOfMemoryError, RequestError
from nbadapt.events import Notice, Progress
from nbadapt.method import ModelRef
from nbadapt.request import Request
from nbadapt.widgets import report
from nbadapt_plugins._proposing import cleaned, same_as
from nbadapt_plugins._scoring import Scoring, Steps, Tried
from nbadapt_plugins._spending import spend

REVIEWS = tiny_models.reviews(60)
WRITTEN = [
    '"Write poem"',
    "",
    "  ",
    "write POEM!",
    "Say good",
    "Instruction: Say sky",
    "Here is the instruction:\n\nSay bad",
]
MARK = "Somebody was given one instruction"
VARY = "Say this instruction in other words"


@pytest.fixture(autouse=True, scope="module")
def _forget_bases() -> Any:
    yield
    models.free()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    for name in ("OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


class Script:
    """Proposes what is written, varies an instruction by a word, and does the task as well as it is instructed.

    Every "very" in an instruction that says "good" makes it better.
    """

    def __init__(self) -> None:
        self.proposed = self.varied = self.scored = 0

    def __call__(self, body: Body) -> str:
        said = body["messages"][-1]["content"]
        if said.startswith(MARK):
            self.proposed += 1
            return WRITTEN[self.proposed % len(WRITTEN)]
        if said.startswith(VARY):
            self.varied += 1
            return f"{said.rpartition('Instruction: ')[2]}, {'very ' * (self.varied % 3)}truly {self.varied}"
        self.scored += 1
        head = said.partition("The film")[0]
        number = int(re.search(r"number (\d+)", said)[1])  # type: ignore[index]
        share = 5 + 2 * ("good" in head) + 3 * ("good" in head and "very" in head)
        right = number * 7 % 10 < share
        return "positive" if bool(number % 2) == right else "negative"


@pytest.fixture
def server() -> Any:
    with chat_server() as running:
        running.answer = Script()
        yield running


def ask(server: ChatServer, body: str = "{{text}}", **given: Any) -> Any:
    asked = {"data": REVIEWS, "budget": 300, "racing_rows": 10, "samples": 0, **given}
    return nbadapt.prompt("auto-prompt", body, model="openai:tiny", base_url=server.url, **asked)


def notices(run_: Any) -> list[str]:
    return [event.text for _, event in run_.events if isinstance(event, Notice)]


# ---------------------------------------------------------------------------------------------- the search


def test_the_best_instruction_is_found_within_the_budget(server: ChatServer) -> None:
    script: Any = server.answer
    planned = ask(server, dry_run=True)
    assert server.asked == []
    said = " ".join(planned.estimate.notes)
    (bound,) = re.findall(r"at most (\d+) answers in the search and 30 held-out ones", said)
    assert int(bound) <= 300
    assert "tokens of prompts and" in said
    assert "if an answer takes 1 s" in said
    run_ = ask(server)
    assert script.scored + script.proposed + script.varied == len(server.asked) <= int(bound) + 30
    best = run_.candidates.iloc[0]
    assert "good" in best["text"]
    assert "very" in best["text"]
    assert best["standing"] == "chosen"
    assert run_.metrics["accuracy"] == 1.0
    assert "(no instruction)" in set(run_.candidates["text"])
    texts = [same_as(text) for text in run_.candidates["text"]]
    assert len(texts) == len(set(texts))
    steps = [event for _, event in run_.events if isinstance(event, Progress)]
    assert [event.step for event in steps] == list(range(1, planned.estimate.steps + 1))
    (line,) = [text for text in notices(run_) if "proposals" in text and "not scored" in text]
    counts = {what: int(n) for n, what in re.findall(r"(\d+) (empty|the same)", line)}
    assert counts["empty"] >= 1
    assert counts["the same"] >= 1
    (line,) = [text for text in notices(run_) if "told apart" in text]
    assert "; the prompt alone " in line
    assert run_.predict("The film number 4 was dull.").labels == ["negative"]
    last = server.texts()[-1]
    assert last.startswith(best["text"] + "\n\nThe film number 4 was dull.")
    assert run_.metrics["prompt_tokens"] > 0


@pytest.mark.slow
def test_nothing_is_proposed_from_rows_that_are_scored(server: ChatServer) -> None:
    ask(server)
    texts = server.texts()
    shown = {f for text in texts if text.startswith(MARK) for f in re.findall(r"The film number \d+ was \w+", text)}
    asked = {
        f
        for text in texts
        if not text.startswith((MARK, VARY))
        for f in re.findall(r"The film number \d+ was \w+", text)
    }
    assert shown
    assert not shown & asked


@pytest.mark.slow
def test_proposer_and_target_may_differ(server: ChatServer) -> None:
    with chat_server() as other:
        other.answer = Script()
        run_ = ask(server, proposer="openai:writer", proposer_base_url=other.url)
        script, target = other.answer, server.answer
        assert (script.scored, target.proposed, target.varied) == (0, 0, 0)  # type: ignore[attr-defined]
        assert len(other.asked) == script.proposed + script.varied > 0
        assert {asked.body["model"] for asked in other.asked} == {"writer"}
        assert {asked.body["temperature"] for asked in other.asked} == {0.9}
        assert {asked.body["model"] for asked in server.asked} == {"tiny"}
        assert len({asked.body["seed"] for asked in other.asked}) > len(other.asked) // 2
        assert run_.metrics["accuracy"] == 1.0
    before = len(server.asked)
    run_ = ask(server, proposer="openai:larger", seed=1)  # another model at the same place
    assert {asked.body["model"] for asked in server.asked[before:]} == {"tiny", "larger"}


@pytest.mark.slow
def test_a_local_target_with_a_proposer_behind_an_endpoint(server: ChatServer, tmp_path: Path) -> None:
    settings = {
        "budget": 90, "rounds": 2, "racing_rows": 10, "proposer": "openai:writer", "proposer_base_url": server.url,
    }  # fmt: skip
    job = make_job("auto-prompt", tmp_path, prompt="Review: {{text}}\nMood:", data=REVIEWS, settings=settings)
    outcome, _ = run(job)
    lines = [json.loads(line) for line in (tmp_path / "artifacts/candidates.jsonl").read_text().splitlines()]
    assert len(lines) >= 2
    assert all(text.startswith((MARK, VARY)) for text in server.texts())
    stored = json.loads((tmp_path / "artifacts/prompt.json").read_text())
    adapted = registry.load("auto-prompt")().load(outcome, job)
    above = f"{stored['instruction']}\n\n" if stored["instruction"] else ""
    expected = language_model(job).predict([f"{above}Review: great\nMood:"], ["negative", "positive"])
    assert adapted.predict(["great"]).labels == expected.labels


@pytest.mark.slow
def test_a_target_behind_an_endpoint_with_a_local_proposer(server: ChatServer) -> None:
    run_ = ask(server, budget=80, rounds=1, proposer=str(tiny_models.folder("gpt2")), instruction_tokens=8)
    assert not [text for text in server.texts() if text.startswith((MARK, VARY))]
    assert len(run_.candidates) > 1
    (line,) = [text for text in notices(run_) if "proposes" in text]
    assert line.startswith(str(tiny_models.folder("gpt2")))


def test_a_local_proposer_is_in_the_estimate(tmp_path: Path) -> None:
    target = ModelRef("tiny", "folder", str(tiny_models.folder("gpt2")))
    settings = {"proposer": str(tiny_models.folder("llama", chat=True))}
    job = make_job("auto-prompt", tmp_path, prompt="{{text}}", data=REVIEWS, model=target, settings=settings)
    memory = registry.load("auto-prompt")().estimate(job).memory
    alone = make_job("auto-prompt", tmp_path, prompt="{{text}}", data=REVIEWS, model=target)
    assert "proposer" not in registry.load("auto-prompt")().estimate(alone).memory
    tensors = models.load(ModelRef("p", "folder", settings["proposer"]), "cpu", "float32")[0].parameters()
    assert memory["proposer"] == sum(t.nbytes for t in tensors)


def test_each_model_is_charged_its_own_size_and_tokens(
    server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"proposer": str(tiny_models.folder("llama", chat=True)), "instruction_tokens": 8, "max_new_tokens": 500}
    foreign = {**settings, "proposer": "openai:writer", "proposer_base_url": server.url}
    spent = spend(300, 3, 23, 10)
    count = sum(spent.proposals)
    there = ask(server, dry_run=True, **foreign).estimate
    rows = int(re.findall(r"(\d+) held-out ones", " ".join(there.notes))[0])
    assert f" and {(spent.answers - count + rows) * 500 + count * 8:,} of answers" in " ".join(there.notes)
    assert f"({count} answers are of openai:writer, for about " in " ".join(there.notes)

    charged: list[tuple[int, int]] = []
    rough = rough_time.seconds

    def seconds(parameters: int, dtype: str, width: int, prompt_tokens: int, answer_steps: int) -> float:
        charged.append((parameters, answer_steps))
        return rough(parameters, dtype, width, prompt_tokens, answer_steps)

    monkeypatch.setattr(rough_time, "seconds", seconds)
    for given in (settings, foreign, {"instruction_tokens": 8}):
        job = make_job("auto-prompt", tmp_path, prompt="{{text}}", data=REVIEWS, settings={"budget": 300, **given})
        registry.load("auto-prompt")().estimate(job)
    target, proposer = (
        models.load(ModelRef("m", "folder", path), "cpu", "float32")[0].num_parameters()
        for path in (str(tiny_models.folder("gpt2")), settings["proposer"])
    )
    assert target != proposer
    assert [parameters for parameters, _ in charged] == [target, proposer, target, target, target]
    assert [steps % 8 for _, steps in charged] == [0] * 5
    assert charged[0][1] == charged[2][1] == 0  # labels are scored, no token is written
    assert charged[1][1] == charged[4][1] > 0


def test_a_local_proposer_is_checked_on_the_device_that_it_runs_on(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = {"cpu": 10**12, "cuda": 1000}
    monkeypatch.setattr(plan, "available_bytes", free.__getitem__)
    monkeypatch.setattr(devices, "best_device", lambda: "cuda")
    monkeypatch.setattr(devices, "best_dtype", lambda _device: "float32")
    proposer = {"proposer": str(tiny_models.folder("gpt2"))}
    with pytest.raises(OutOfMemoryError) as caught:
        ask(server, dry_run=True, **proposer)
    assert re.search(r"needs about \d+ KiB for the proposer, 1 KiB is free on cuda: ", str(caught.value))
    free |= {"cpu": 1000, "cuda": 10**12}
    planned = ask(server, dry_run=True, **proposer)
    assert re.search(r"memory: proposer +\d+ KiB on cuda\n", repr(planned))
    free["cuda"] = planned.estimate.peak - 1
    with pytest.raises(OutOfMemoryError):
        ask(server, dry_run=True, **proposer)


def test_what_a_proposer_writes_is_only_quoted(server: ChatServer) -> None:
    hostile = "Say good {{label}} <img src=x onerror=alert(1)> {examples}"

    def answer(body: Body) -> str:
        said = body["messages"][-1]["content"]
        return hostile if said.startswith((MARK, VARY)) else "positive"

    server.answer = answer
    run_ = ask(server, budget=80, rounds=1)
    asked = [text for text in server.texts() if text.startswith("Say good")]
    assert all(text.startswith(f"{hostile}\n\nThe film") for text in asked)
    assert asked
    assert any(text.endswith("; no instruction did better than none (the prompt alone)") for text in notices(run_))
    shown = report.bundle(run_)["text/html"]
    assert "<img src=x" not in shown
    assert "&lt;img src=x" in shown


@pytest.mark.slow
def test_a_stop_keeps_the_best_so_far(server: ChatServer) -> None:
    settings = {"budget": 150, "racing_rows": 10, "samples": 0, "parallel": 1, "rounds": 2}
    asked = Request(
        verb="prompt", method="auto-prompt", model="openai:tiny", base_url=server.url, data=REVIEWS, prompt="{{text}}",
        settings=settings,
    )  # fmt: skip
    server.delay = 0.02
    run_ = runner.start(runner.prepare(asked))
    deadline = time.monotonic() + 30
    while len(server.asked) < 40 and time.monotonic() < deadline:
        time.sleep(0.01)
    run_.stop()
    run_.join(10)
    assert run_.state == "stopped"
    after = len(server.asked)
    assert after < 50
    assert run_.candidates["standing"][0] == "chosen"
    assert any("is the best so far, and is kept" in text for text in notices(run_))
    assert run_.predict("The film number 4 was dull.").labels[0] in {"negative", "positive"}
    server.delay = 0.0
    run_.resume()
    assert run_.state == "done"
    whole = len((run_.directory / "artifacts/answers.jsonl").read_text().splitlines())
    assert whole <= len(server.asked) <= whole + 3  # one was asked by predict, one broken off by the Stop


def test_the_verdict_names_the_prompt_without_an_instruction(tmp_path: Path) -> None:
    """Instruction 2 is worse by more than chance, the others are not."""
    job = make_job("auto-prompt", tmp_path, prompt="{{text}}", data=REVIEWS)
    scoring = Scoring(job, classes=True, answering=Any, steps_for=int, steps=Steps(lambda _: None, 1))
    queries = [Query(row, "?", "?", "yes") for row in range(1, 21)]
    shares = [16, 4, *[12] * 6]  # the last one stands behind five others
    for number, right in enumerate(shares, 1):
        name = f"instruction {number}" if number < len(shares) else "the prompt alone"
        replies = {row: Reply("yes" if row <= right else "no") for row in range(1, 21)}
        tried = Tried(number, "{{text}}", "", name, queries, [], number, replies)
        tried.title = "(no instruction)" if number == len(shares) else ""
        tried.score = scoring.score(scoring.add(tried), range(1, 21))
    scoring.tried[1].score = replace(scoring.tried[1].score, value=0.9)  # so that it stands between those alike
    line = scoring.verdict(scoring.tried[0])
    assert re.match(r"instruction 1 comes first, but cannot be told apart from the prompt alone, instruction 3, ", line)
    assert line.endswith("; the prompt alone is among these")


# ---------------------------------------------------------------------------------------------- budgets


@pytest.mark.parametrize("budget", [120, 300, 600, 5000])
@pytest.mark.parametrize("rounds", [1, 2, 4])
@pytest.mark.parametrize(("rows", "first"), [(10, 10), (37, 10), (200, 10), (50, 40)])
def test_a_plan_spends_no_more_than_the_budget(budget: int, rounds: int, rows: int, first: int) -> None:
    needed = first + 2 * rounds * (1 + first)
    if budget < needed:
        with pytest.raises(RequestError, match=f"too small to mean anything.* take {needed:,} "):
            spend(budget, rounds, rows, first)
        return
    spent = spend(budget, rounds, rows, first)
    assert len(spent.proposals) == rounds
    assert min(spent.proposals) >= 2
    assert max(spent.proposals) - min(spent.proposals) <= 1
    race, seen = 0, first
    for each in spent.race:
        race += each.candidates * (each.rows - seen)
        seen = each.rows
    assert spent.answers == first + sum(spent.proposals) * (1 + first) + race <= budget
    assert budget - spent.answers < 1 + first or rows == first  # as many instructions as it lasts for
    assert seen <= rows


def test_a_large_budget_is_spent_on_instructions() -> None:
    spent = spend(5000, 2, 40, 10)
    assert spent.race[-1].rows == 40
    assert sum(spent.proposals) * 11 > 4500


# ---------------------------------------------------------------------------------------------- bad input

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "small budget": ({"budget": 60}, "a budget of 60 answers is too small to mean anything: 3 rounds of 2"),
    "unknown proposer": ({"proposer": "smollm3x"}, "the setting proposer: no model 'smollm3x' here"),
    "unknown provider": ({"proposer": "opnai:x"}, "the setting proposer: unknown provider 'opnai'"),
    "no address": (
        {"proposer": "openai:x", "proposer_base_url": "nowhere"},
        "proposer_base_url 'nowhere' is no address",
    ),
    "an encoder": ({"proposer": "bert"}, "is an encoder and does not generate text"),
    "long examples": ({"proposal_examples": 60, "instruction_tokens": 400}, "lower proposal_examples"),
}


@pytest.mark.parametrize(("settings", "line"), BAD.values(), ids=list(BAD))
def test_bad_settings_are_one_line(
    settings: dict[str, Any], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if settings.get("proposer") == "bert":
        settings = {"proposer": str(tiny_models.folder("bert"))}
    job = make_job("auto-prompt", tmp_path, prompt="{{text}}", data=tiny_models.reviews(300), settings=settings)
    with pytest.raises(NbadaptError) as caught:
        registry.load("auto-prompt")().estimate(job)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"prompt": "Good or bad?"}, "the prompt names no column of data"),
        ({"prompt": "{{text}} {{label}}"}, "the prompt names {{label}}, the column of the answers"),
        ({"data": REVIEWS[:21]}, "too few to search on: auto-prompt needs at least 10 besides"),
        ({"data": [{"text": "a"}, {"text": "b"}] * 20}, "data has none"),
    ],
)
def test_bad_rows_and_prompts_are_one_line(given: dict[str, Any], line: str, tmp_path: Path) -> None:
    job = make_job("auto-prompt", tmp_path, **{"prompt": "{{text}}", "data": REVIEWS, **given})
    with pytest.raises(NbadaptError) as caught:
        registry.load("auto-prompt")().estimate(job)
    assert line in str(caught.value)


@pytest.mark.parametrize(
    ("written", "instruction"),
    [
        ('"Name the mood."', "Name the mood."),
        ("Instruction: Name the mood.\n\nInput: x", "Name the mood."),
        ("Here is the instruction:\n\n**Name the mood.**", "Name the mood."),
        ("The instruction was: Name\nthe mood.", "Name the mood."),
        ("Say what follows: good or bad", "Say what follows: good or bad"),
        ("  \n ", ""),
        ('""', ""),
        ("a\ud800b", "a?b"),
    ],
)
def test_an_instruction_is_found_in_what_is_written(written: str, instruction: str) -> None:
    assert cleaned(written) == instruction


def test_instructions_that_say_the_same_are_the_same() -> None:
    assert same_as("Name the  mood!") == same_as("name the mood")
    assert same_as("!?") == ""
