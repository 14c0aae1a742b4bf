"""Reasoning before the answer: how answers are found, vote, and are shown."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from test_prompting import REVIEWS, language_model, make_job, predictions, run

import nbadapt
from nbadapt import models, pretrained, registry
from nbadapt.engines.answering import draw_seed
from nbadapt.errors import DataError, RequestError
from nbadapt.events import Notice, Sample
from nbadapt.settings import validate
from nbadapt_plugins.chain_of_thought import ANSWER, TRIGGER, Answers, ChainOfThought

METHOD = "chain-of-thought"
SUMS = [{"question": f"{n} + {n}?", "answer": f"{n} and {n} make {2 * n}.\n#### {2 * n}"} for n in range(4)]
WORKED = [
    {"question": f"{n} + 1?", "answer": f"{n + 1}", "reasoning": f"After {n} comes {n + 1}."} for n in range(5, 9)
]


@pytest.fixture(autouse=True, scope="module")
def _forget_bases() -> Iterator[None]:
    yield
    models.free()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 and 4.\n#### 12", "12"),
        ("#### 1,234", "1234"),
        ("So the answer is 12.", "12"),
        ("The answer is: **$3.50**. Good.", "3.50"),
        ("The answer is 3. No, the answer is 4!", "4"),
        ("Answer: a blue house\nThanks", "a blue house"),
        ("THE ANSWER IS\n42", "42"),
        ("I cannot answer that.", ""),
        ("", ""),
    ],
)
def test_the_default_pattern_finds_the_last_answer(text: str, answer: str) -> None:
    assert Answers(re.compile(ANSWER)).answer(text) == answer


def test_numbers_and_classes_are_read_out_of_a_sentence() -> None:
    assert Answers(re.compile(ANSWER), numeric=True).answer("The answer is 1,200 red apples.") == "1200"
    assert Answers(re.compile(ANSWER), numeric=True).answer("The answer is many.") == ""
    reader = Answers(re.compile(ANSWER), classes=("good", "not good", "bad"))
    assert reader.answer("It is bad. The answer is Not Good.") == "not good"
    assert reader.answer("First good, then bad, goodness!") == "bad"  # no pattern: the class that is named last
    assert reader.answer("Neither.") == ""


def test_the_answers_vote_and_of_as_many_the_first_wins() -> None:
    reader = Answers(re.compile(ANSWER), 5)
    reply = reader.read([f"#### {n}" for n in (3, 7, 7, 3)] + ["none"])
    assert (reply.text, reply.votes) == ("3", {"3": 2, "7": 2})
    assert reader.read([f"#### {n}" for n in (3, 7, 7)]).text == "7"
    assert reader.read(["none", "none"]).text == ""


def test_without_examples_the_trigger_is_asked(tmp_path: Path) -> None:
    settings = {"max_new_tokens": 6, "trigger": "Think."}
    job = make_job(METHOD, tmp_path, data=SUMS, prompt="Q: {{question}}", settings=settings)
    outcome, events = run(job)
    asked = [f"Q: {row['question']}\n\nThink." for row in SUMS]
    texts = language_model(job).generate(asked, max_new_tokens=6)
    rows = predictions(job)
    assert [row["reasoning"] for row in rows] == texts
    assert [row["expected"] for row in rows] == ["0", "2", "4", "6"]
    assert [row["output"] for row in rows] == [Answers(re.compile(ANSWER), numeric=True).answer(t) for t in texts]
    assert outcome.metrics["exact_match"] == 0
    assert [e.reasoning for e in events if isinstance(e, Sample)] == texts
    assert "no answer was found for" in next(e.text for e in events if isinstance(e, Notice))


def test_classes_are_named_where_the_prompt_does_not(tmp_path: Path) -> None:
    job = make_job(METHOD, tmp_path, data=REVIEWS, prompt="{{text}}", settings={"max_new_tokens": 3})
    outcome, _ = run(job)
    assert predictions(job)[0]["input"].endswith(f"{TRIGGER} The answer is one of: negative, positive.")
    assert {"accuracy", "accuracy_low", "macro_f1", "macro_f1_low"} <= set(outcome.metrics)
    told = make_job(
        METHOD, tmp_path, data=REVIEWS, prompt="positive or negative? {{text}}", settings={"max_new_tokens": 3}
    )
    run(told)
    assert predictions(told)[0]["input"].endswith(TRIGGER)


@pytest.mark.parametrize("chat", [False, True])
def test_worked_examples_show_their_reasoning(chat: bool, tmp_path: Path) -> None:
    settings = {"max_new_tokens": 4, "selection": "fixed", "shots": 2}
    own = [{"question": row["question"], "answer": f"{row['reasoning']}\n#### {row['answer']}"} for row in WORKED]
    for examples, end in ((WORKED, "After 5 comes 6. The answer is 6."), (own, "After 5 comes 6.\n#### 6")):
        job = make_job(METHOD, tmp_path, chat=chat, data=SUMS, examples=examples, settings=settings)
        plan = registry.load(METHOD)()._plan(job, pretrained.read_config(job.model))
        prompt: Any = plan.queries[0].prompt
        if chat:
            assert prompt[:2] == [{"role": "user", "content": "5 + 1?"}, {"role": "assistant", "content": end}]
        else:
            assert prompt.startswith(f"5 + 1? {end}\n\n6 + 1?")
        assert TRIGGER not in str(prompt)
    assert run(job)[0].metrics["rows"] == 4


def test_paths_are_drawn_apart_and_vote_reproducibly(tmp_path: Path) -> None:
    pattern = r"([^\W_])\W*$"  # the last letter: random texts have an answer too
    settings = {
        "max_new_tokens": 5,
        "temperature": 2.0,
        "reasoning_paths": 4,
        "answer_pattern": pattern,
        "cache": False,
    }
    jobs = [
        make_job(
            METHOD, tmp_path / str(size), data=tiny_models.translations(4), settings={**settings, "batch_size": size}
        )
        for size in (1, 4)
    ]
    for job in jobs:
        run(job)
    assert predictions(jobs[0]) == predictions(jobs[1])  # whatever the batches
    lm = language_model(jobs[0])
    for row in predictions(jobs[0]):
        seeds = [draw_seed(0, path, row["input"]) for path in range(4)]
        drawn = [lm.generate([row["input"]], max_new_tokens=5, temperature=2.0, seed=[s])[0] for s in seeds]
        assert row["reasoning"] == drawn
        assert len(set(drawn)) > 1
        votes = Counter(re.findall(pattern, text)[-1] for text in drawn if re.findall(pattern, text))
        assert row["votes"] == dict(votes)
        assert row["output"] == (votes.most_common(1)[0][0] if votes else "")


def test_one_prompt_gives_its_answer_and_folds_the_reasoning() -> None:
    hostile = "<script>alert(1)</script>"
    run = nbadapt.prompt(
        METHOD, hostile, model=str(tiny_models.folder("gpt2")), max_new_tokens=8, answer_pattern=r"^(.)", trigger="?"
    )
    (sample,) = [event for _, event in run.events if isinstance(event, Sample)]
    assert sample.reasoning
    assert run.output == sample.output == sample.reasoning[0].strip("*_`\"'.;:!") or run.output == sample.reasoning
    page = run._repr_mimebundle_()["text/html"]
    assert '<details><summary style="white-space:nowrap">reasoning</summary>' in page
    assert hostile not in page
    assert "&lt;script&gt;" in page


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no regular expression": ({"answer_pattern": "("}, "'answer_pattern' of chain-of-thought is '(': no regular"),
    "no group": ({"answer_pattern": "x"}, "it needs one group in (...), the answer, and has 0"),
    "two groups": ({"answer_pattern": "(x)(y)"}, "and has 2"),
    "all paths alike": ({"reasoning_paths": 3}, "reasoning_paths is 3 and temperature is 0"),
    "no path": ({"reasoning_paths": 0}, "must be a whole number, at least 1"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_settings_that_do_not_work_are_one_line(mistake: str) -> None:
    settings, message = BAD[mistake]
    with pytest.raises(RequestError) as caught:
        validate(ChainOfThought, settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_example_without_reasoning_is_refused(tmp_path: Path) -> None:
    examples = [*WORKED, {"question": "a?", "answer": "just 3", "reasoning": None}]
    job = make_job(METHOD, tmp_path, data=SUMS, examples=examples)
    with pytest.raises(
        DataError, match=r"examples, row 5 \(counted from 1\): answer_pattern finds no answer in 'just 3'"
    ):
        registry.load(METHOD)().estimate(job)
