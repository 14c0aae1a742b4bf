"""Figures with their intervals, a figure of the user's own, mistakes, and the exact prompt of a row."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from test_prompting import REVIEWS, make_job
from transformers import AutoTokenizer

import nbadapt
from nbadapt import metrics, models, registry, request
from nbadapt.engines import figures, prompt_log
from nbadapt.engines.answering import Query
from nbadapt.errors import RequestError, RunError
from nbadapt.events import Notice
from nbadapt.method import OwnMetric

GPT2 = str(tiny_models.folder("gpt2"))


@pytest.fixture(autouse=True, scope="module")
def _forget_bases() -> Iterator[None]:
    yield
    models.free()


def guesses(n: int, seed: int = 0) -> tuple[list[str], list[str]]:
    draw = random.Random(seed)
    expected = [draw.choice("abbccc") for _ in range(n)]
    return [e if draw.random() < 0.7 else draw.choice("abc") for e in expected], expected


# ---------------------------------------------------------------------------------------------- figures


def test_macro_f1_has_the_interval_of_drawn_rows() -> None:
    from sklearn.metrics import f1_score

    predicted, expected = guesses(60)
    assert metrics.macro_f1(predicted, expected) == pytest.approx(f1_score(expected, predicted, average="macro"))
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(400):
        rows = rng.integers(60, size=60)
        drawn.append(metrics.macro_f1([predicted[i] for i in rows], [expected[i] for i in rows]))
    found = metrics.macro_f1_interval(predicted, expected, 0)
    assert found == pytest.approx(tuple(np.percentile(drawn, (2.5, 97.5))), abs=0.03)
    assert found == metrics.macro_f1_interval(predicted, expected, 0)


def test_an_interval_covers_the_truth_about_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(100):
        low, high = metrics.mean_interval(rng.normal(3.0, 1.0, 80).tolist(), seed)
        inside += low <= 3.0 <= high
    assert 88 <= inside <= 100


def test_no_answer_is_no_class() -> None:
    assert metrics.macro_f1(["a", "", "b"], ["a", "a", "b"]) == pytest.approx((2 / 3 + 1) / 2)
    low, high = metrics.macro_f1_interval(["a", "", "b"], ["a", "a", "b"], 0)
    assert 0 <= low <= high <= 1


def test_a_function_of_all_rows_and_one_of_each_row_agree() -> None:
    answers, expected = guesses(80)
    each = OwnMetric("own", lambda a, e: [float(x == y) for x, y in zip(a, e, strict=True)])
    whole = OwnMetric("own", lambda a, e: np.mean([x == y for x, y in zip(a, e, strict=True)]))
    one, other = (figures.of_own(metric, answers, expected, 0) for metric in (each, whole))
    assert one["own"] == pytest.approx(other["own"]) == metrics.accuracy(answers, expected)
    wilson = metrics.wilson_interval(one["own"], 80)
    for found in (one, other):
        assert (found["own_low"], found["own_high"]) == pytest.approx(wilson, abs=0.03)


def fails(answers: list[str], expected: list[str]) -> float:
    raise ValueError("no model of mine\nsecond line")


BAD: dict[str, tuple[Any, str]] = {
    "one argument": (lambda answers: 1.0, r"must take two lists, as  def own\(answers, expected\)"),
    "it fails": (fails, "the metric own failed: ValueError: no model of mine"),
    "a text": (lambda a, e: "good", "the metric own gave 'good' for 2 rows: it must give a number"),
    "too few": (lambda a, e: [1.0], r"gave \[1.0\] for 2 rows"),
    "nothing": (lambda a, e: None, "gave None for 2 rows"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_a_metric_that_does_not_work_is_refused_before_anything_is_asked(mistake: str, tmp_path: Path) -> None:
    function, message = BAD[mistake]
    with pytest.raises(RequestError, match=message) as caught:
        figures.check(OwnMetric("own", function), ["a", "b"])
    assert "\n" not in str(caught.value)


def test_where_a_metric_has_no_place(tmp_path: Path) -> None:
    metric = OwnMetric("own", lambda a, e: 1.0)
    for given in ({"prompt": "Hi"}, {"data": [{"text": "a"}]}):
        with pytest.raises(RequestError, match="--metric own needs answers to compare with"):
            registry.load("zero-shot")().estimate(make_job("zero-shot", tmp_path, metric=metric, **given))
    taken = OwnMetric("accuracy", lambda a, e: 1.0)
    with pytest.raises(RequestError, match="has the name of a figure that there is anyway"):
        registry.load("zero-shot")().estimate(make_job("zero-shot", tmp_path, metric=taken, data=REVIEWS))


@pytest.mark.parametrize(
    ("word", "message"),
    [("skoer", "no variable has this name"), ("number", "that variable holds 3, no function")],
)
def test_a_metric_of_the_line_is_a_variable_with_a_function(word: str, message: str) -> None:
    own = {"score": len, "number": 3}
    line = "zero-shot --model smollm2 --metric "
    assert request.parse("prompt", line + "score", "Hi", own).metric is len
    with pytest.raises(RequestError, match=message):
        request.parse("prompt", line + word, "Hi", own)


# ---------------------------------------------------------------------------------------------- runs


def test_a_run_measures_the_users_own_figure() -> None:
    def positives(answers: list[str], expected: list[str]) -> list[float]:
        assert expected == [row["label"] for row in REVIEWS]
        return [float(answer == "positive") for answer in answers]

    run = nbadapt.prompt("zero-shot", model=GPT2, data=REVIEWS, metric=positives)
    share = float((run.answers["output"] == "positive").mean())
    assert run.metrics["positives"] == pytest.approx(share)
    assert run.metrics["positives_low"] <= share <= run.metrics["positives_high"]
    assert next(iter(run.metrics)) == "positives"
    wrong = run.answers[~run.answers["correct"]]
    assert run.mistakes.to_dict("list") == wrong.drop(columns="correct").to_dict("list")
    assert len(run.mistakes) == round((1 - run.metrics["accuracy"]) * len(REVIEWS))


def test_a_metric_that_fails_at_the_end_loses_no_answer() -> None:
    calls = 0

    def second(answers: list[str], expected: list[str]) -> float:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise KeyError("later")
        return 1.0

    run = nbadapt.prompt("zero-shot", model=GPT2, data=REVIEWS, metric=second)
    assert run.state == "done"
    assert "second" not in run.metrics
    assert run.metrics["rows"] == len(run.answers) == len(REVIEWS)
    (warning,) = [e for _, e in run.events if isinstance(e, Notice) and e.level == "warning"]
    line = r"the metric second failed: KeyError: 'later', in line \d+: .*; run.answers has the answers"
    assert re.search(line, warning.text)


@pytest.mark.parametrize("chat", [False, True])
def test_the_final_prompt_of_a_row_is_what_the_tokenizer_read(chat: bool) -> None:
    folder = str(tiny_models.folder("gpt2", chat=chat))
    examples = tiny_models.reviews(20)[11:]
    run = nbadapt.prompt("few-shot", model=folder, data=REVIEWS, examples=examples, shots=2, selection="fixed")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [f"Text: {row['text']}\nLabel:" for row in (*examples[:2], REVIEWS[6])]
    if chat:
        talk = [{"role": "user", "content": text} for text in texts]
        talk[1:1] = [{"role": "assistant", "content": examples[0]["label"]}]
        talk[3:3] = [{"role": "assistant", "content": examples[1]["label"]}]
        expected = tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
    else:
        shown = [f"{text} {row['label']}" for text, row in zip(texts, examples, strict=False)][:2]
        expected = "\n\n".join([*shown, texts[2]])
    assert run.final_prompt(7) == expected
    for wrong in (0, 12):
        with pytest.raises(RunError, match=f"asked no row {wrong}: its rows are 1 to 11"):
            run.final_prompt(wrong)
    assert nbadapt.show(run.id).final_prompt(7) == expected


def test_a_run_of_one_prompt_has_one_final_prompt_and_no_mistakes() -> None:
    run = nbadapt.prompt("zero-shot", "The dog", model=GPT2, max_new_tokens=1)
    assert run.final_prompt() == "The dog"
    with pytest.raises(RunError, match="asked no table"):
        _ = run.mistakes
    run = nbadapt.prompt("zero-shot", model=GPT2, data=[{"text": "The dog"}], max_new_tokens=1)
    with pytest.raises(RunError, match="had no answers to compare with"):
        _ = run.mistakes


def test_prompts_of_all_kinds_come_back_from_disk(tmp_path: Path) -> None:
    turn = {"role": "user", "content": "Ünï 😀 \ud800"}
    prompts: list[Any] = ["abc", "abd", "", [turn], [turn, {"role": "user", "content": "b"}], [turn], "x", "xyz"]
    prompt_log.write(tmp_path, [Query(n, prompt, "") for n, prompt in enumerate(prompts, 1)])
    assert [prompt_log.read(tmp_path, n) for n in range(1, 9)] == prompts
