"""Models behind an endpoint, against real servers on loopback."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from chat_server import Body, ChatServer, Trouble, chat_server
from sklearn.metrics import f1_score

import nbadapt
from nbadapt import answer_cache, endpoints, model_names, models, request, runner
from nbadapt.engines import choice
from nbadapt.engines.generate import LanguageModel
from nbadapt.errors import DependencyError, ModelError, NbadaptError, PluginError, RequestError, RunError
from nbadapt.events import Metric, Notice, Progress, Sample
from nbadapt.method import ModelRef
from nbadapt.openai_endpoint import _retry_after
from nbadapt.plan import prepare
from nbadapt.request import Request
from nbadapt.run import Run

KEY = "sk-7Qe1rZ0secretPm4"
REVIEWS = tiny_models.reviews(11)
LABELS = ("negative", "positive")


@pytest.fixture(autouse=True, scope="module")
def _old_objects_are_left_alone() -> Iterator[None]:
    """Every run collects garbage at its end: with torch in memory that takes longer than the rest of these runs."""
    nbadapt.prompt  # noqa: B018 - imports what the runs import
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OPENAI_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nobody is there: servers of this machine need none
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as running:
        yield running


def ask(server: ChatServer, prompt: str = "", method: str = "zero-shot", **given: Any) -> Any:
    return nbadapt.prompt(method, prompt, model="openai:tiny", base_url=server.url, **given)


def failed(server: ChatServer, *args: Any, **given: Any) -> tuple[Run, str]:
    """A run that fails, and its line."""
    with pytest.raises(NbadaptError) as caught:
        ask(server, *args, **given)
    run = nbadapt.runs()[0]
    assert run.state == "failed"
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(("openai:tiny at ", "row "))
    return run, line


def numbered(n: int) -> list[dict[str, str]]:
    return [{"prompt": f"word {i}", "completion": f"WORD {i}"} for i in range(n)]


# ---------------------------------------------------------------------------------------------- answers


def test_a_prompt_is_asked_with_its_settings_and_paid_in_tokens(server: ChatServer) -> None:
    run = ask(server, "say {x} {{word}}", variables={"word": "tree"}, max_new_tokens=7, temperature=0.5, top_p=0.25)
    assert run.output == "SAY {X} TREE"
    (asked,) = server.asked
    seed = asked.body.pop("seed")
    assert asked.body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "say {x} tree"}],
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.25,
    }
    assert 0 <= seed < 2**31
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert run.metrics == {"prompt_tokens": 3, "completion_tokens": 3}
    assert "Prompt tokens" in repr(run)
    for _ in range(2):
        ask(server, "say {x} tree", seed=1, cache=False)
    assert seed != server.asked[1].body["seed"] == server.asked[2].body["seed"]


def test_a_table_is_answered_some_rows_at_a_time(server: ChatServer) -> None:
    server.delay = 0.1
    rows = [*numbered(11), {"prompt": "word", "completion": "other"}]
    run = ask(server, data=rows, parallel=3, samples=2)
    assert server.most == 3
    assert {name: run.metrics[name] for name in ("exact_match", "rows")} == {"exact_match": 11 / 12, "rows": 12}
    assert list(run.answers["output"]) == [row["prompt"].upper() for row in rows]
    assert list(run.answers["correct"]) == [True] * 11 + [False]
    assert (run.metrics["prompt_tokens"], run.metrics["completion_tokens"]) == (23, 23)
    progress = [event for _, event in run.events if isinstance(event, Progress)]
    assert [(e.step, e.total) for e in progress] == [(step, 12) for step in range(1, 13)]
    assert progress[-1].tokens == 46
    assert len({asked.body["seed"] for asked in server.asked}) == 12
    assert len([event for _, event in run.events if isinstance(event, Sample)]) == 2


def test_labels_are_chosen_in_words_and_what_names_none_is_counted(server: ChatServer) -> None:
    said = ["Negative.", "**positive**", "negative", "Positive, I think", "who knows", "positive", "NEGATIVE"]

    def answer(body: Body) -> str:
        number = int(re.search(r"number (\d+)", body["messages"][-1]["content"])[1])  # type: ignore[index]
        return said[number % len(said)]

    server.answer = answer
    run = ask(server, data=REVIEWS, parallel=2)
    request_line = choice.request(LABELS)
    assert sorted(server.texts()) == sorted(f"Text: {row['text']}\nLabel:\n\n{request_line}" for row in REVIEWS)
    named = ["negative", "positive", "negative", "positive", "who knows", "positive", "negative"]
    expected = [row["label"] for row in REVIEWS]
    outputs = [named[i % 7] for i in range(11)]
    assert list(run.answers["output"]) == outputs
    assert list(run.answers["matched"]) == [text in LABELS for text in outputs]
    assert run.metrics["unmatched"] == 1 + (4 + 7 < 11)
    assert run.metrics["accuracy"] == np.mean([a == b for a, b in zip(outputs, expected, strict=True)])
    reference = f1_score(expected, outputs, labels=LABELS, average="macro", zero_division=0)
    assert run.metrics["macro_f1"] == pytest.approx(reference)
    assert "Unmatched" in repr(run)
    samples = [event.output for _, event in run.events if isinstance(event, Sample)]
    assert samples == [*outputs[:4], "(none of the labels) who knows"]
    assert [e.values for _, e in run.events if isinstance(e, Metric)][-1] == {"accuracy": run.metrics["accuracy"]}


def test_one_prompt_with_labels(server: ChatServer) -> None:
    server.answer = lambda _: "Good!"
    run = ask(server, "The film was", labels=["good", "bad"])
    assert run.output == "good"
    assert run.metrics.keys() == {"prompt_tokens", "completion_tokens"}  # no probabilities are made up
    server.answer = lambda _: "I cannot say"
    run = ask(server, "The film was", labels=["good", "bad"], cache=False)
    assert (run.output, run.metrics["unmatched"]) == ("I cannot say", 1)


def test_examples_are_turns_of_a_conversation(server: ChatServer) -> None:
    examples = [{"german": "Haus", "output": "house"}, {"german": "Hund", "output": "dog"}]
    settings = {"selection": "fixed", "shots": 2}
    run = ask(server, "German: {{german}}", "few-shot", data=[{"german": "Baum"}], examples=examples, **settings)
    turns = [
        {"role": "user", "content": "German: Haus"},
        {"role": "assistant", "content": "house"},
        {"role": "user", "content": "German: Hund"},
        {"role": "assistant", "content": "dog"},
    ]
    assert server.asked[0].body["messages"] == [*turns, {"role": "user", "content": "German: Baum"}]

    async def in_a_running_loop() -> Any:  # as a notebook's main thread has one
        return run.generate("Tier")

    assert asyncio.run(in_a_running_loop()) == "TIER"  # behind the same demonstrations
    assert server.asked[1].body["messages"] == [*turns, {"role": "user", "content": "Tier"}]
    run = ask(server, "The soup was cold.", "few-shot", examples=REVIEWS, **settings)
    assert server.asked[2].body["messages"][-1]["content"].startswith("Text: The soup was cold.\nLabel:\n\nAnswer with")
    server.answer = lambda body: body["messages"][-1]["content"].split()[0]
    predicted = run.predict(["negative it is", "nothing"])
    assert predicted.labels == ["negative", ""]
    np.testing.assert_array_equal(predicted.probabilities, [[1, 0], [0, 0]])
    kept = (run.directory / "artifacts/answers.jsonl").read_text().splitlines()
    assert len(kept) == 1  # what is asked afterwards is no part of the run


def test_reasonings_of_an_endpoint_vote(server: ChatServer) -> None:
    def answer(body: Body) -> str:
        said = "positive" if body["seed"] % 2 else "negative"
        return f"Well. The answer is {said}."

    server.answer = answer
    settings = {"reasoning_paths": 3, "temperature": 0.7, "parallel": 4}
    plan = ask(server, "{{text}}", "chain-of-thought", data=REVIEWS, dry_run=True, **settings)
    assert "33 requests" in repr(plan)
    run = ask(server, "{{text}}", "chain-of-thought", data=REVIEWS, **settings)
    assert len(server.asked) == 33
    assert (
        run.final_prompt(2)
        == f"{REVIEWS[1]['text']}\n\n" + server.asked[0].body["messages"][0]["content"].split("\n\n")[1]
    )
    by_text: dict[str, list[str]] = {}
    for asked in server.asked:
        said = by_text.setdefault(asked.body["messages"][0]["content"].split("\n")[0], [])
        said.append("positive" if asked.body["seed"] % 2 else "negative")
    expected = [max(set(by_text[row["text"]]), key=by_text[row["text"]].count) for row in REVIEWS]
    assert list(run.answers["output"]) == expected
    assert [sum(votes.values()) for votes in run.answers["votes"]] == [3] * 11
    assert run.metrics["completion_tokens"] == 33 * 5
    zero = ask(server, data=REVIEWS)
    assert zero.final_prompt(1).endswith(choice.request(LABELS))


def test_a_conversation_is_sent_as_it_is(server: ChatServer) -> None:
    talk = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]
    ask(server, data=[{"prompt": talk, "completion": "HI"}])
    assert server.asked[0].body["messages"] == talk


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("good", "good"),
        (" Good \n", "good"),
        ('"GOOD".', "good"),
        ("**good**: it was fine", "good"),
        ("not good at all", "not good"),
        ("goods", None),
        ("good-ish", None),
        ("It is good", None),
        ("", None),
        ("10", "10"),
        ("1", "1"),
        ("1.", "1"),
        ("100", None),
        ("A", "A"),
        ("a", "a"),
        ("C++", "C++"),
        ("c", None),
    ],
)
def test_an_answer_is_matched_exactly_then_without_case_then_at_its_beginning(answer: str, label: str | None) -> None:
    assert choice.match(answer, ["good", "not good", "1", "10", "A", "a", "C++"]) == label


# ---------------------------------------------------------------------------------------------- trouble


def test_requests_are_tried_again_with_longer_and_longer_waits(server: ChatServer) -> None:
    server.trouble = lambda number, _: Trouble(500) if number <= 2 else None
    assert ask(server, "a").output == "A"
    first, second, third = (asked.time for asked in server.asked)
    assert 0.375 <= second - first < 0.9  # 0.5 s, less up to a quarter
    assert 0.75 <= third - second < 1.4


def test_too_many_requests_make_all_wait_as_asked(server: ChatServer) -> None:
    server.trouble = lambda number, _: Trouble(429, {"Retry-After": "1"}) if number == 3 else None
    run = ask(server, data=numbered(6), parallel=1)
    times = [asked.time for asked in server.asked]
    assert len(times) == 7
    assert 1.0 <= times[3] - times[2] < 1.6
    assert times[-1] - times[3] < 0.7
    assert run.metrics["exact_match"] == 1
    (notice,) = [e.text for _, e in run.events if isinstance(e, Notice) and e.level == "warning"]
    assert "429" in notice


def test_a_cut_connection_and_silence_are_tried_again(server: ChatServer) -> None:
    troubles = {2: Trouble(), 3: Trouble(silent=30)}
    server.trouble = lambda number, _: troubles.get(number)
    run = ask(server, data=numbered(4), parallel=2, timeout=0.6)
    assert run.metrics["exact_match"] == 1
    assert len(server.asked) == 6


def test_a_wait_that_nobody_would_sit_out_ends_the_run(server: ChatServer) -> None:
    server.trouble = lambda number, _: Trouble(429, {"Retry-After": "86400"}) if number == 3 else None
    run, line = failed(server, data=numbered(6), parallel=1)
    assert "86,400 s" in line
    assert "resume" in line
    assert len(run.answers) == 2


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "3"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({}, None),
    ],
)
def test_what_a_server_asks_to_wait_is_understood(given: dict[str, str], seconds: float | None) -> None:
    assert _retry_after(given) == seconds


def test_a_date_to_wait_for_is_understood() -> None:
    date = formatdate(time.time() + 3600, usegmt=True)  # now, not when the tests were collected; whole seconds
    assert 3580 < _retry_after({"retry-after": date}) <= 3600


ECHO = {"error": {"message": f"Incorrect API key provided: {KEY}.", "code": "invalid_api_key"}}
QUOTA = {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}
NO_MODEL = {"error": {"message": "The model `tiny` does not exist", "code": "model_not_found"}}


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (Trouble(401, body=ECHO), ("refuses the key in the environment variable OPENAI_API_KEY", "401")),
        (Trouble(403, body=ECHO), ("refuses the key", "403")),
        (Trouble(404, body=NO_MODEL), ("knows no such model", "did you mean tini?")),
        (Trouble(404, body={"detail": "Not Found"}), ("no chat completions", "/v1")),
        (Trouble(200, body="<html>Welcome</html>"), ("no chat completion", "/v1")),
        (Trouble(200, body={"error": "sorry"}), ("no chat completion", "/v1")),
        (Trouble(402, body={"error": {"message": "pay first"}}), ("no credit", "pay first")),
        (Trouble(429, body=QUOTA), ("quota is used up",)),
        (Trouble(400, body={"error": {"message": f"context too long for {KEY}"}}), ("row 1 of data", "too long")),
    ],
)
def test_what_is_wrong_shows_at_the_first_row(server: ChatServer, trouble: Trouble, words: tuple[str, ...]) -> None:
    server.trouble = lambda _number, _body: trouble
    server.models = ["tini", "larger"]
    run, line = failed(server, data=numbered(9))
    assert len(server.asked) == 1
    for word in words:
        assert word in line
    assert_secret(run)


def test_what_was_wrong_is_set_right_and_the_run_resumed(server: ChatServer) -> None:
    server.trouble = lambda _number, _body: Trouble(401, body=ECHO)
    run, _ = failed(server, data=numbered(9))
    server.trouble = lambda _number, _body: None
    assert run.resume().metrics["exact_match"] == 1
    assert run.error is None


def test_an_endpoint_without_its_key_is_told(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    server.trouble = lambda _number, _body: Trouble(401)
    assert "put it into the environment variable OPENAI_API_KEY" in failed(server, "a")[1]
    server.trouble = lambda _number, _body: None
    assert ask(server, "a").output == "A"  # one that needs none


def test_an_endpoint_that_is_down_is_told_quickly() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"  # bound, and nobody listens
        begun = time.monotonic()
        with pytest.raises(RunError, match="nobody answers there") as caught:
            nbadapt.prompt("zero-shot", "a", model="openai:tiny", base_url=url)
    assert time.monotonic() - begun < 3
    assert url in str(caught.value)


def test_settings_that_an_endpoint_refuses_are_left_out(server: ChatServer) -> None:
    def trouble(_number: int, body: Body) -> Trouble | None:
        if "max_tokens" in body:
            return Trouble(400, body={"error": {"message": "Use 'max_completion_tokens' instead of 'max_tokens'."}})
        for name in ("seed", "temperature"):
            if name in body:
                return Trouble(422, body={"detail": f"Unexpected fields in the request: {{'{name}'}}"})
        return None

    server.trouble = trouble
    run = ask(server, data=numbered(5))
    assert run.metrics["exact_match"] == 1
    assert len(server.asked) == 3 + 5
    assert server.asked[-1].body.keys() == {"model", "messages", "max_completion_tokens", "top_p"}
    told = [e.text for _, e in run.events if isinstance(e, Notice) and e.level == "warning"]
    assert told == [f"the endpoint takes no {name}: its own default is used" for name in ("seed", "temperature")]


# ---------------------------------------------------------------------------------------------- nothing is lost


def test_a_failed_run_keeps_its_answers_and_asks_only_for_the_others(server: ChatServer) -> None:
    server.delay = 0.02
    server.trouble = lambda number, _: Trouble(400, body={"error": {"message": "bad words"}}) if number == 8 else None
    run, line = failed(server, data=numbered(20), parallel=3)
    assert re.match(r"row \d+ of data: openai:tiny at .*bad words", line)
    answered = len(server.asked) - 1  # those under way were waited for
    assert 7 <= answered <= 10
    assert len(run.answers) == answered
    assert run.answers["correct"].all()
    server.trouble = lambda _number, _body: None
    assert run.resume().state == "done"
    assert len(server.asked) == 21
    assert run.metrics["exact_match"] == 1
    assert list(run.answers["row"]) == list(range(1, 21))
    assert run.metrics["prompt_tokens"] == 40  # of both parts


def reused(run: Run) -> list[str]:
    return [e.text for _, e in run.events if isinstance(e, Notice) and "cost nothing" in e.text]


def test_what_was_answered_is_not_asked_again_by_another_run(server: ChatServer) -> None:
    first = ask(server, data=numbered(3))
    again = ask(server, data=numbered(5))
    assert len(server.asked) == 5
    assert list(again.answers["output"]) == [f"WORD {i}" for i in range(5)]
    assert [run.metrics["prompt_tokens"] for run in (first, again)] == [6, 4]  # of the new ones alone
    assert reused(first) == []
    assert reused(again) == ["3 answers were given before, and cost nothing: see  %nbadapt cache"]
    assert answer_cache.size().answers == 5
    free = ask(server, data=numbered(5))
    assert len(server.asked) == 5
    assert not {"prompt_tokens", "completion_tokens"} & free.metrics.keys()
    assert [e.step for _, e in free.events if isinstance(e, Progress)] == list(range(1, 6))
    assert ask(server, "word 3").output == "WORD 3"
    assert len(server.asked) == 5
    ask(server, data=numbered(5), cache=False)
    assert len(server.asked) == 10
    nbadapt.clear_cache()
    ask(server, data=numbered(5))
    assert len(server.asked) == 15
    for path in answer_cache.file().parent.iterdir():
        assert KEY.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    "changed",
    [{"max_new_tokens": 9}, {"model": "openai:larger"}, {"base_url": "/other/v1"}, {"temperature": 0.5}, {"body": "b"}],
    ids=str,
)
def test_what_decides_an_answer_is_in_its_key(server: ChatServer, changed: dict[str, Any]) -> None:
    given: dict[str, Any] = {"model": "openai:tiny", "base_url": server.url}
    if "base_url" in changed:
        changed = {"base_url": server.url.replace("127.0.0.1", "localhost")}
    other = {**given, **changed}
    nbadapt.prompt("zero-shot", "a", **given)
    nbadapt.prompt("zero-shot", other.pop("body", "a"), **other)
    assert len(server.asked) == 2


def test_each_sample_of_a_prompt_is_an_answer_of_its_own(server: ChatServer) -> None:
    server.answer = lambda body: f"The answer is {body['seed']}."
    rows = [*numbered(2), *numbered(1)]  # row 3 is row 1 again
    found = {}
    for paths, asked in ((2, 6), (3, 3), (3, 0)):
        before = len(server.asked)
        settings = {"reasoning_paths": paths, "temperature": 0.7}
        run = ask(server, "{{prompt}}", "chain-of-thought", data=rows, **settings)
        assert len(server.asked) - before == asked
        found[paths, asked] = [text for texts in run.answers["reasoning"] for text in texts]
        assert len(set(found[paths, asked])) == 3 * paths
    assert sorted(found[3, 3]) == sorted(found[3, 0])
    assert set(found[2, 6]) < set(found[3, 3])
    ask(server, "{{prompt}}", "chain-of-thought", data=rows, seed=1, reasoning_paths=2, temperature=0.7)
    assert len(server.asked) == 9 + 6


def test_an_empty_answer_is_not_kept_for_others(server: ChatServer) -> None:
    server.answer = lambda _: ""
    ask(server, "a")
    server.answer = lambda _: "b"
    assert ask(server, "a").output == "b"


def test_a_stopped_run_leaves_its_answers_to_others_and_keeps_what_it_took(server: ChatServer) -> None:
    asked = Request(
        verb="prompt", method="zero-shot", model="openai:tiny", base_url=server.url, data=numbered(10), prompt=""
    )

    def stopped(answered: int) -> Run:
        run = runner.start(prepare(asked))
        deadline = time.monotonic() + 20
        while len([e for _, e in run.events if isinstance(e, Progress)]) < answered and time.monotonic() < deadline:
            time.sleep(0.02)
        run.stop()
        run.join(10)
        assert (run.state, len(run.answers)) == ("stopped", answered)
        return run

    server.trouble = lambda number, _: Trouble(silent=60) if number > 4 else None
    first = stopped(4)
    quiet = len(server.asked) + 2
    server.trouble = lambda number, _: Trouble(silent=60) if number > quiet else None
    second = stopped(6)  # four of the first run, two of its own
    assert second.metrics["prompt_tokens"] == 4
    assert len(reused(second)) == 1
    nbadapt.clear_cache()
    server.trouble = lambda _number, _body: None
    before = len(server.asked)
    assert second.resume().metrics["exact_match"] == 1
    assert len(server.asked) == before + 4
    assert second.metrics["prompt_tokens"] == 12  # its own six
    assert first.resume().metrics["prompt_tokens"] == 2 * 4  # the others have been answered by now
    assert len(server.asked) == before + 4
    assert first.metrics["exact_match"] == 1


def test_an_endpoint_that_goes_down_costs_no_answer(server: ChatServer) -> None:
    server.trouble = lambda number, _: Trouble() if number > 5 else None
    run, line = failed(server, data=numbered(9), parallel=2, retries=1)
    assert "nobody answers there" in line
    assert isinstance(run.error, RunError)
    assert list(run.answers["row"]) == [1, 2, 3, 4, 5]
    assert run.metrics["completion_tokens"] == 10
    server.trouble = lambda _number, _body: None
    before = len(server.asked)
    assert run.resume().metrics["exact_match"] == 1
    assert len(server.asked) == before + 4


def test_stop_breaks_requests_off_within_a_second(server: ChatServer) -> None:
    server.trouble = lambda number, _: Trouble(silent=60) if number > 4 else None
    asked = Request(
        verb="prompt", method="zero-shot", model="openai:tiny", base_url=server.url, data=numbered(10), prompt=""
    )
    run = runner.start(prepare(asked))
    deadline = time.monotonic() + 20
    while len([e for _, e in run.events if isinstance(e, Progress)]) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    begun = time.monotonic()
    run.stop()
    run.join(10)
    assert time.monotonic() - begun < 1
    assert run.state == "stopped"
    assert len(run.answers) == 4
    server.trouble = lambda _number, _body: None
    before = len(server.asked)
    assert run.resume().metrics["exact_match"] == 1
    assert len(server.asked) == before + 6


SCRIPT = """
import sys, nbadapt
rows = [{"prompt": f"word {i}", "completion": f"WORD {i}"} for i in range(12)]
nbadapt.prompt("zero-shot", model="openai:tiny", base_url=sys.argv[1], data=rows, parallel=2)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(server: ChatServer) -> None:
    server.trouble = lambda number, _: Trouble(silent=60) if number > 5 else None
    with subprocess.Popen([sys.executable, "-c", SCRIPT, server.url]) as process:
        deadline = time.monotonic() + 60
        while len(server.asked) < 7 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
    (run,) = nbadapt.runs()
    assert run.state == "killed"
    answers = run.directory / "artifacts/answers.jsonl"
    assert len(answers.read_text().splitlines()) == 5
    with answers.open("ab") as file:
        file.write(b'{"key": "torn')
    server.trouble = lambda _number, _body: None
    before = len(server.asked)
    assert run.resume().metrics["exact_match"] == 1
    assert len(server.asked) == before + 7
    assert_secret(run)


# ---------------------------------------------------------------------------------------------- the key


def assert_secret(run: Run) -> None:
    """The key is in no file of the runs' folder, and in nothing that is shown."""
    files = [path for path in run.directory.parent.rglob("*") if path.is_file()]
    assert any(path.name == "request.json" for path in files)
    for path in files:
        assert KEY.encode() not in path.read_bytes(), path
    shown = [repr(run), str(run._repr_mimebundle_()), str(run.error), repr(run.events), repr(run.job())]
    assert not [text for text in shown if KEY in text]
    assert run.request["model"]["key_env"] in {"OPENAI_API_KEY", "OTHER_KEY"}


def test_the_key_is_nowhere(server: ChatServer, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setenv("OTHER_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    monkeypatch.setenv("OPENAI_LOG", "debug")
    server.trouble = lambda number, _: Trouble(401, body=ECHO) if number == 4 else None
    run, line = failed(server, data=numbered(6), parallel=2, api_key_env="OTHER_KEY")
    assert "OTHER_KEY" in line
    assert {asked.headers["authorization"] for asked in server.asked} == {f"Bearer {KEY}"}
    assert KEY not in line
    assert_secret(run)
    adapted = run.adapted()
    assert KEY not in repr(adapted) + repr(vars(adapted)) + repr(vars(adapted._model))  # type: ignore[attr-defined]
    assert KEY not in "".join(capfd.readouterr())
    monkeypatch.setenv("OTHER_KEY", "line\nbreak")
    with pytest.raises(ModelError, match="OTHER_KEY holds is no key") as caught:
        run.generate("a")
    assert "break" not in str(caught.value)


@pytest.mark.parametrize("given", [KEY, "sk_lower", "NOT_SET_ANYWHERE"])
def test_a_key_in_place_of_its_variable_is_not_repeated(server: ChatServer, given: str) -> None:
    with pytest.raises(RequestError, match="--api-key-env") as caught:
        ask(server, "a", api_key_env=given)
    assert given not in str(caught.value)
    assert not len(nbadapt.runs())


# ---------------------------------------------------------------------------------------------- looking it up


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": "opnai:tiny"}, ("unknown provider 'opnai'", "did you mean openai?")),
        ({"model": "openai:"}, ("names no model", "--model openai:NAME")),
        ({"base_url": "localhost:8000"}, ("--base-url", "is no address", "http://")),
        ({"base_url": "http://[::1/v1"}, ("--base-url is no address",)),
        ({"base_url": f"http://me:{KEY}@there/v1"}, ("must hold no user", "environment variable")),
        ({"base_url": f"http://there/v1?key={KEY}"}, ("must hold no user",)),
        ({"device": "cpu"}, ("--device cpu", "behind its endpoint")),
        ({"dtype": "float32"}, ("--dtype float32", "behind its endpoint")),
        ({"model": str(tiny_models.folder("gpt2"))}, ("--base-url is for models behind an endpoint", "openai:NAME")),
        ({"dry_run": True, "timed": True}, ("--timed", "costs tokens")),
    ],
)
def test_bad_requests_are_one_line(server: ChatServer, given: dict[str, Any], words: tuple[str, ...]) -> None:
    asked = {"model": "openai:tiny", "base_url": server.url, **given}
    with pytest.raises(NbadaptError) as caught:
        nbadapt.prompt("zero-shot", "a", **asked)
    line = str(caught.value)
    assert KEY not in line
    for word in words:
        assert word in line
    assert not server.asked
    assert not len(nbadapt.runs())


def test_the_providers_own_address_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    ref = endpoints.find("openai:gpt")
    assert ref == ModelRef("openai:gpt", "endpoint", "gpt", False, "https://api.openai.com/v1", "OPENAI_API_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", " ")
    with pytest.raises(ModelError, match="needs a key: put it into the environment variable OPENAI_API_KEY"):
        endpoints.find("openai:gpt")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://here:1/v1/")
    assert endpoints.find("openai:a/b:c") == ModelRef(
        "openai:a/b:c", "endpoint", "a/b:c", False, "http://here:1/v1", "OPENAI_API_KEY"
    )
    assert endpoints.find("C:\\models") is None
    assert endpoints.find("minilm") is None


def test_finetuning_an_endpoint_is_refused() -> None:
    with pytest.raises(RequestError, match=r"weights cannot be finetuned.*minilm.*or use %%prompt"):
        nbadapt.finetune("lora", model="openai:tiny", data=REVIEWS)
    with pytest.raises(RequestError, match="--base-url is an option of %%prompt"):
        request.parse("finetune", "lora --model openai:tiny --base-url http://x/v1 --data d", "", {"d": REVIEWS})


def test_the_line_names_the_endpoint(server: ChatServer) -> None:
    line = f"zero-shot --model openai:tiny --base-url {server.url} --api-key-env OPENAI_API_KEY --parallel 2"
    run = runner.submit(request.parse("prompt", line, "say {{word}}", {"word": "tree"}))
    assert isinstance(run, Run)
    assert run.output == "SAY TREE"
    assert str(nbadapt.runs()).count("openai:tiny") == 1


def test_a_dry_run_tells_what_will_be_sent(server: ChatServer) -> None:
    plan = ask(server, data=REVIEWS, max_new_tokens=10, dry_run=True)
    rows = dict(plan.rows())
    assert rows["endpoint"] == server.url
    assert rows["steps"] == "11"
    assert not {"parameters", "predicted peak memory"} & rows.keys()
    prompts = [f"Text: {row['text']}\nLabel:\n\n{choice.request(LABELS)}" for row in REVIEWS]
    tokens = sum(-(-len(prompt) // 4) for prompt in prompts)
    assert f"11 requests to {server.url}: about {tokens:,} tokens of prompts" in repr(plan)
    assert "at most 110 tokens of answers" in repr(plan)
    assert "Answer with one of these labels and nothing else: negative positive" in repr(plan)
    assert not server.asked


def test_a_missing_client_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(DependencyError, match=r"need openai: run  pip install (\"nbadapt\[openai\]\"|openai)$"):
        model_names.resolve("openai:tiny", base_url="http://here/v1")


PROVIDER = """
from nbadapt.provider import Answer, Connection, Provider

class Echo(Provider):
    name, summary, base_url = "echo", "says it again", "http://echo.invalid"

    def connect(self, model, key, tell):
        return Way()

class Way(Connection):
    async def ask(self, question):
        return Answer(question.messages[-1]["content"] + "!")

    async def close(self):
        pass
"""
LISTING = """
import sys, nbadapt
from nbadapt import endpoints
assert set(endpoints.prefixes()) >= {"openai", "echo", "broken"}, endpoints.prefixes()
print(*sorted({"openai", "echo_provider", "nbadapt.openai_endpoint", "torch", "asyncio"} & set(sys.modules)))
"""


def declare(folder: Path, text: str, name: str = "other") -> None:
    info = folder / f"{name}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[nbadapt.providers]\n{text}\n")


def test_others_can_add_providers_and_a_broken_one_hurts_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = tmp_path / "site"
    declare(room, "echo = echo_provider:Echo\nbroken = echo_provider:Missing\nwrong = pathlib:Path")
    (room / "echo_provider.py").write_text(PROVIDER)
    paths = os.pathsep.join([str(room), *(path for path in sys.path if path)])
    listed = subprocess.run(
        [sys.executable, "-c", LISTING],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (listed.stdout.strip(), listed.stderr) == ("", "")

    monkeypatch.syspath_prepend(str(room))
    with pytest.raises(ModelError, match="needs a key"):  # at its own address, and it says no variable
        nbadapt.prompt("zero-shot", "a", model="echo:any")
    run = nbadapt.prompt("zero-shot", "a", model="echo:any", base_url="http://other.invalid")
    assert run.output == "a!"
    assert run.metrics == {}
    assert "does not say how many tokens" in repr(run)
    for name, words in (("broken", "cannot be imported"), ("wrong", "is no subclass")):
        with pytest.raises(PluginError, match=rf"other 1 of the provider '{name}'.*{words}"):
            endpoints.load(name)
    declare(room, "echo = elsewhere:Echo", "third")
    with pytest.raises(PluginError, match=r"'echo' is declared more than once, by other 1 .* and third 1"):
        endpoints.load("echo")


# ---------------------------------------------------------------------------------------------- transformers' server


@pytest.fixture(scope="module")
def serving() -> Iterator[tuple[str, str]]:
    """`transformers serve` with a tiny chat model: (base URL, model's name)."""
    with transformers_server(str(tiny_models.folder("llama", chat=True))) as url:
        yield url, str(tiny_models.folder("llama", chat=True))


class transformers_server:  # noqa: N801 - reads as a function
    """Starts the server in a process of its own, and ends it."""

    def __init__(self, model: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        command = Path(sys.executable).with_name("transformers")
        options = ["--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(self._port)]
        self._process = subprocess.Popen(
            [command, "serve", model, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def __enter__(self) -> str:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return f"http://127.0.0.1:{self._port}/v1"
            time.sleep(0.1)
        self.__exit__()
        pytest.fail("transformers serve did not start")

    def __exit__(self, *_: Any) -> None:
        self._process.kill()
        self._process.wait()


def test_transformers_own_server_answers_as_the_model_here_does(serving: tuple[str, str]) -> None:
    url, model = serving
    rows = tiny_models.translations(6)
    run = nbadapt.prompt("zero-shot", model=f"openai:{model}", base_url=url, data=rows, max_new_tokens=8, parallel=2)
    here = LanguageModel(*models.load(ModelRef("tiny", "folder", model), "cpu", "float32"))
    expected = here.generate([row["prompt"] for row in rows], max_new_tokens=8)
    assert list(run.answers["output"]) == expected
    prompts = sum(len(here._prompt_ids(row["prompt"])) for row in rows)
    assert run.metrics["prompt_tokens"] == prompts
    assert 6 <= run.metrics["completion_tokens"] <= 48
    assert_secret(run)

    few = nbadapt.prompt(
        "few-shot", model=f"openai:{model}", base_url=url, data=REVIEWS[:4], examples=REVIEWS[4:], max_new_tokens=4
    )
    assert few.metrics["rows"] == 4
    with pytest.raises(ModelError, match="question is refused \\(400: Server is pinned to"):
        nbadapt.prompt("zero-shot", "a", model="openai:other", base_url=url)
    with pytest.raises(ModelError, match="must be what comes before /chat/completions"):
        nbadapt.prompt("zero-shot", "a", model=f"openai:{model}", base_url=url.removesuffix("/v1"))


@pytest.mark.slow
def test_smollm2_behind_an_endpoint_is_as_good_as_here() -> None:
    ref = model_names.resolve("smollm2")
    prompt = "What is the capital of France? Answer in one word."
    with transformers_server(ref.path) as url:
        there = nbadapt.prompt("zero-shot", prompt, model=f"openai:{ref.path}", base_url=url, max_new_tokens=16)
        assert "Paris" in str(there.output)
        rows = [
            {"text": "I loved every minute of it.", "label": "positive"},
            {"text": "A dull and boring waste of time.", "label": "negative"},
        ]
        table = nbadapt.prompt(
            "few-shot",
            "Review: {{text}}\nSentiment:",
            model=f"openai:{ref.path}",
            base_url=url,
            data=rows,
            examples=tiny_models.reviews(8),
            max_new_tokens=8,
        )
        assert table.metrics["rows"] == 2
        assert table.metrics["prompt_tokens"] > 100
        assert table.answers["matched"].dtype == bool
