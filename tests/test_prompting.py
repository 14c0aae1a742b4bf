from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models

from nbadapt import data, models, pretrained, registry, store
from nbadapt.engines import fitting
from nbadapt.engines.generate import LanguageModel
from nbadapt.engines.prompts import Shot, default_template, with_shots
from nbadapt.engines.tokens import encode_prompt
from nbadapt.errors import DataError, ModelError, NbadaptError, RequestError, Stopped
from nbadapt.events import Event, Metric, Notice, Progress, Sample, Stage, from_json
from nbadapt.method import Job, ModelRef
from nbadapt.metrics import macro_f1, macro_f1_interval, wilson_interval

REVIEWS = tiny_models.reviews(11)
TRANSLATIONS = tiny_models.translations(7)
LABELS = ("negative", "positive")


@pytest.fixture(autouse=True)
def _forget_bases() -> Any:
    yield
    models.free()


def make_job(method: str, directory: Path, *, architecture: Any = "gpt2", chat: bool = False, **given: Any) -> Job:
    settings = given.pop("settings", {})
    for name in ("data", "examples"):
        if name in given:
            given[name] = data.read_for_prompt(given[name], name=name, label=given.get("label"))
    given.pop("label", None)
    tables = given.get("data") or given.get("examples")
    folder = tiny_models.folder(architecture, chat=chat)
    return Job(
        method=method,
        config=registry.load(method).Config(**settings),
        model=given.pop("model", ModelRef("tiny", "folder", str(folder))),
        task=tables.task if tables else "generation",
        directory=directory,
        **given,
    )


def run(job: Job) -> tuple[Any, list[Event]]:
    events: list[Event] = []
    outcome = registry.load(job.method)().run(job, events.append)
    return outcome, events


def language_model(job: Job) -> LanguageModel:
    return LanguageModel(*models.load(job.model, "cpu", "float32"))


def predictions(job: Job) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job.directory / "artifacts/predictions.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------------------------------------- one prompt


@pytest.mark.parametrize("chat", [False, True])
def test_one_prompt_gives_the_models_answer(chat: bool, tmp_path: Path) -> None:
    settings = {"max_new_tokens": 6}
    prompt = 'Say {"json": "{{word}}"}\n'
    job = make_job("zero-shot", tmp_path, chat=chat, prompt=prompt, variables={"word": "{{tree}}"}, settings=settings)
    outcome, events = run(job)
    (expected,) = language_model(job).generate(['Say {"json": "{{tree}}"}'], max_new_tokens=6)
    assert outcome.output == expected
    assert Sample(1, 'Say {"json": "{{tree}}"}', expected) in events
    assert [e.step for e in events if isinstance(e, Progress)] == [1]


def test_one_prompt_with_labels_gives_probabilities(tmp_path: Path) -> None:
    job = make_job("zero-shot", tmp_path, prompt="The film was", labels=("good", "bad"))
    outcome, _ = run(job)
    expected = language_model(job).predict(["The film was"], ["good", "bad"])
    assert outcome.output == expected.labels[0]
    assert dict(outcome.metrics) == pytest.approx(dict(zip(("good", "bad"), expected.probabilities[0], strict=True)))


def test_drawn_answers_depend_on_the_seed(tmp_path: Path) -> None:
    settings = {"max_new_tokens": 8, "temperature": 2.0}

    def answer(seed: int) -> str:
        return str(run(make_job("zero-shot", tmp_path, prompt="The dog", seed=seed, settings=settings))[0].output)

    assert answer(1) == answer(1)
    assert len({answer(seed) for seed in range(4)}) > 1


# ---------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("chat", [False, True])
def test_every_row_is_classified(chat: bool, batch_size: int, tmp_path: Path) -> None:
    settings = {"batch_size": batch_size, "samples": 2}
    job = make_job("zero-shot", tmp_path, chat=chat, data=REVIEWS, prompt="Review: {{text}}\nMood:", settings=settings)
    estimate = registry.load("zero-shot")().estimate(job)
    outcome, events = run(job)

    asked = [f"Review: {row['text']}\nMood:" for row in REVIEWS]
    expected = language_model(job).predict(asked, LABELS)
    rows = predictions(job)
    assert [row["row"] for row in rows] == list(range(1, 12))  # in the table's order
    assert [row["output"] for row in rows] == expected.labels
    assert [row["input"] for row in rows] == asked
    found = [[row["probabilities"][label] for label in LABELS] for row in rows]
    np.testing.assert_allclose(found, expected.probabilities, atol=1e-5)

    truth = [row["label"] for row in REVIEWS]
    right = sum(a == b for a, b in zip(expected.labels, truth, strict=True))
    low, high = wilson_interval(right / 11, 11)
    assert dict(outcome.metrics) == pytest.approx(
        {
            "accuracy": right / 11,
            "accuracy_low": low,
            "accuracy_high": high,
            "macro_f1": macro_f1(expected.labels, truth),
            **dict(zip(("macro_f1_low", "macro_f1_high"), macro_f1_interval(expected.labels, truth, 0), strict=True)),
            "majority": 6 / 11,
            "rows": 11,
        }
    )
    progress = [e for e in events if isinstance(e, Progress)]
    batches = -(-11 // batch_size)
    assert [(e.step, e.total) for e in progress] == [(step, batches) for step in range(1, batches + 1)]
    assert progress[-1].examples == 11
    assert estimate.steps == batches
    running = [e for e in events if isinstance(e, Metric)]
    assert [e.step for e in running] == list(range(1, batches + 1))
    assert {e.split for e in running} == {"evaluation"}
    assert running[-1].values == {"accuracy": right / 11}
    samples = [e for e in events if isinstance(e, Sample)]
    assert [(e.input, e.expected) for e in samples] == list(zip(asked[:2], truth[:2], strict=True))


def test_free_answers_are_compared_exactly(tmp_path: Path) -> None:
    job = make_job("zero-shot", tmp_path, settings={"max_new_tokens": 3, "batch_size": 3}, data=TRANSLATIONS)
    answers = language_model(job).generate([row["prompt"] for row in TRANSLATIONS], max_new_tokens=3)
    known = [
        {**row, "completion": a if i < 2 else "no"}
        for i, (row, a) in enumerate(zip(TRANSLATIONS, answers, strict=True))
    ]
    assert all(answers[:2])
    job = make_job(
        "zero-shot",
        tmp_path,
        settings={"max_new_tokens": 3, "batch_size": 3},
        data=[*known, {"prompt": "A", "completion": "x" * 60}],
    )
    outcome, events = run(job)
    assert outcome.metrics["exact_match"] == 2 / 8
    assert (outcome.metrics["exact_match_low"], outcome.metrics["exact_match_high"]) == wilson_interval(0.25, 8)
    assert [row["output"] for row in predictions(job)[:7]] == answers
    assert [row["correct"] for row in predictions(job)] == [True, True, *[False] * 6]
    assert [e.values["exact_match"] for e in events if isinstance(e, Metric)][-1] == 0.25


def test_labels_that_are_read_as_free_text_are_told(tmp_path: Path) -> None:
    rows = [{"text": f"Say {i}", "label": f"answer {i}"} for i in range(21)]
    job = make_job("zero-shot", tmp_path, data=rows, settings={"max_new_tokens": 1})
    (note,) = registry.load("zero-shot")().estimate(job).notes
    assert note.startswith("the labels of data have 21 different values")
    assert "--labels A,B" in note
    for given in ({"data": TRANSLATIONS}, {"data": rows, "labels": ("a", "b")}):
        assert registry.load("zero-shot")().estimate(make_job("zero-shot", tmp_path, **given)).notes == ()


def test_a_choice_that_the_table_alone_decided_is_told(tmp_path: Path) -> None:
    (note,) = registry.load("zero-shot")().estimate(make_job("zero-shot", tmp_path, data=REVIEWS)).notes
    assert note.startswith("the answers are chosen from the table's labels: negative, positive")


def test_the_classes_are_those_of_the_data_and_of_the_examples(tmp_path: Path) -> None:
    examples = [
        *tiny_models.reviews(20)[11:],
        {"text": "So so.", "label": "neutral"},
        {"text": "Well.", "label": "neutral"},
    ]
    job = make_job("few-shot", tmp_path, data=REVIEWS, examples=examples, settings={"shots": 2})
    (note,) = registry.load("few-shot")().estimate(job).notes
    assert "negative, neutral, positive" in note


def test_rows_without_a_target_are_answered(tmp_path: Path) -> None:
    rows = [{"sentence": "The dog"}, {"sentence": "A tree"}]
    outcome, events = run(make_job("zero-shot", tmp_path, data=rows, settings={"max_new_tokens": 4}))
    assert dict(outcome.metrics) == {"rows": 2}
    job = make_job("zero-shot", tmp_path, data=rows, labels=("good", "bad"))
    outcome, events = run(job)
    assert dict(outcome.metrics) == {"rows": 2}
    assert {row["output"] for row in predictions(job)} <= {"good", "bad"}
    assert set(predictions(job)[0]) == {"row", "input", "output", "probabilities"}
    assert not [e for e in events if isinstance(e, Metric)]


def test_labels_of_the_line_and_notebook_variables_are_used(tmp_path: Path) -> None:
    job = make_job(
        "zero-shot",
        tmp_path,
        data=REVIEWS,
        labels=("positive", "negative", "neutral"),
        prompt="{{question}} {{text}}",
        variables={"question": "Well?"},
    )
    run(job)
    assert list(predictions(job)[0]["probabilities"]) == ["positive", "negative", "neutral"]
    assert predictions(job)[0]["input"] == f"Well? {REVIEWS[0]['text']}"


def test_conversations_in_a_column_are_asked_as_such(tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]
    rows = [{"prompt": talk, "completion": "a" * 60}, {"prompt": "Hi", "completion": "b"}]
    job = make_job("zero-shot", tmp_path, architecture="llama", chat=True, data=rows, settings={"max_new_tokens": 4})
    run(job)
    assert [row["output"] for row in predictions(job)] == language_model(job).generate([talk, "Hi"], max_new_tokens=4)
    assert predictions(job)[0]["input"] == "system: Be short.\nuser: Hi"


@pytest.mark.parametrize(
    ("row", "task", "choosing", "expected"),
    [
        ({"text": "", "label": ""}, "classification", True, "Text: {{text}}\nLabel:"),
        ({"id": 1, "prompt": "", "completion": ""}, "generation", False, "{{prompt}}"),
        ({"instruction": "", "output": "", "completion": ""}, "generation", False, "{{instruction}}"),
        ({"instruction": "", "input": "", "completion": ""}, "generation", False, "{{instruction}}\n\n{{input}}"),
        ({"phrase": "", "label": ""}, "classification", True, "Text: {{phrase}}\nLabel:"),
        ({"label": ""}, "text", False, "{{label}}"),
    ],
)
def test_an_empty_prompt_gets_a_template(row: Any, task: Any, choosing: bool, expected: str) -> None:
    assert default_template(row, task, choosing=choosing, source="df") == expected


def test_an_instruction_may_have_no_input(tmp_path: Path) -> None:
    rows = [{"instruction": "Say A", "input": None, "output": "a"}, {"instruction": "Say", "input": "B", "output": "b"}]
    job = make_job("zero-shot", tmp_path, data=rows, settings={"max_new_tokens": 1})
    run(job)
    assert [row["input"] for row in predictions(job)] == ["Say A", "Say\n\nB"]


# ---------------------------------------------------------------------------------------------- demonstrations


def test_demonstrations_of_a_plain_model_are_blocks_of_text() -> None:
    shots = [Shot("German: Haus\nEnglish:", "house"), Shot("German: Hund\nEnglish:\n", "dog")]
    text = with_shots(shots, "German: Baum\nEnglish:", chat=False, separator="\n--\n")
    assert text == "German: Haus\nEnglish: house\n--\nGerman: Hund\nEnglish:\ndog\n--\nGerman: Baum\nEnglish:"


def test_demonstrations_of_a_chat_model_are_turns() -> None:
    system = {"role": "system", "content": "Be short."}
    turns = with_shots([Shot("Haus", "house")], [system, {"role": "user", "content": "Baum"}], chat=True, separator="")
    assert turns == [
        {"role": "user", "content": "Haus"},
        {"role": "assistant", "content": "house"},
        system,
        {"role": "user", "content": "Baum"},
    ]


@pytest.mark.parametrize("chat", [False, True])
def test_examples_are_filled_into_the_same_template(chat: bool, tmp_path: Path) -> None:
    examples = [{"german": "Haus", "output": "house"}, {"german": "Hund", "output": "dog"}]
    job = make_job(
        "few-shot",
        tmp_path,
        chat=chat,
        prompt="German: {{german}}\nEnglish:\n",
        variables={"german": "Baum"},
        examples=examples,
        settings={"selection": "fixed", "max_new_tokens": 5, "separator": "\n\n\n"},
    )
    outcome, events = run(job)
    prompt = with_shots(
        [Shot("German: Haus\nEnglish:", "house"), Shot("German: Hund\nEnglish:", "dog")],
        "German: Baum\nEnglish:",
        chat=chat,
        separator="\n\n\n",
    )
    assert [outcome.output] == language_model(job).generate([prompt], max_new_tokens=5)
    (note,) = [e.text for e in events if isinstance(e, Notice)]
    assert note == "only 2 of 4 demonstrations shown: there are no more examples"
    assert Sample(1, "German: Baum\nEnglish:", str(outcome.output)) in events


def test_a_body_without_placeholders_is_the_input(tmp_path: Path) -> None:
    settings = {"selection": "fixed", "shots": 1}
    job = make_job("few-shot", tmp_path, prompt="The soup was cold.", examples=REVIEWS, settings=settings)
    outcome, _ = run(job)
    prompt = f"Text: {REVIEWS[0]['text']}\nLabel: negative\n\nText: The soup was cold.\nLabel:"
    expected = language_model(job).predict([prompt], LABELS)
    assert outcome.metrics == pytest.approx(dict(zip(LABELS, expected.probabilities[0], strict=True)))


def shown(job: Job) -> list[list[Shot]]:
    """The demonstrations before each row of a job's data, as its plain prompts have them."""
    method = registry.load(job.method)()
    plan = method._plan(job, pretrained.read_config(job.model))
    found = []
    for query in plan.queries:
        *blocks, own = query.prompt.split("\n\n")
        assert own == query.shown
        found.append([Shot(*block.rsplit(" ", 1)) for block in blocks])
    return found


def test_selection_fixed_takes_the_first_ones(tmp_path: Path) -> None:
    examples = tiny_models.reviews(30)[11:]
    job = make_job("few-shot", tmp_path, data=REVIEWS, examples=examples, settings={"selection": "fixed", "shots": 3})
    expected = [Shot(f"Text: {row['text']}\nLabel:", row["label"]) for row in examples[:3]]
    assert shown(job) == [expected] * len(REVIEWS)


def test_selection_random_depends_on_the_seed(tmp_path: Path) -> None:
    def chosen(seed: int) -> list[list[Shot]]:
        settings = {"selection": "random", "shots": 3}
        return shown(
            make_job(
                "few-shot", tmp_path, data=REVIEWS, examples=tiny_models.reviews(40)[11:], seed=seed, settings=settings
            )
        )

    assert chosen(1) == chosen(1)
    assert len({str(chosen(seed)[0]) for seed in range(5)}) > 1
    assert len({str(shots) for shots in chosen(1)}) == 1  # the same for all rows


def test_selection_balanced_shows_labels_equally_often(tmp_path: Path) -> None:
    examples = [row for i, row in enumerate(tiny_models.reviews(60)[11:]) if row["label"] == "negative" or i % 8 == 0]
    for seed in range(3):
        job = make_job("few-shot", tmp_path, data=REVIEWS, examples=examples, seed=seed, settings={"shots": 6})
        assert Counter(shot.answer for shot in shown(job)[0]) == {"negative": 3, "positive": 3}


@pytest.mark.parametrize("selection", ["fixed", "random", "balanced"])
def test_a_row_is_never_its_own_demonstration(selection: str, tmp_path: Path) -> None:
    rows = [*REVIEWS, {**REVIEWS[0], "label": "positive"}]  # the same text with another label counts as itself
    settings = {"selection": selection, "shots": 4, "batch_size": 3}
    job = make_job("few-shot", tmp_path, data=rows, examples=rows, settings=settings)
    for row, shots in zip(rows, shown(job), strict=True):
        assert len(shots) == 4
        assert f"Text: {row['text']}\nLabel:" not in [shot.prompt for shot in shots]
        if selection == "balanced":
            assert Counter(shot.answer for shot in shots) == {"negative": 2, "positive": 2}
    estimate = registry.load("few-shot")().estimate(job)
    outcome, events = run(job)
    assert [e.step for e in events if isinstance(e, Progress)] == list(range(1, estimate.steps + 1))
    assert outcome.metrics["rows"] == len(rows)
    asked = [q.prompt for q in registry.load("few-shot")()._plan(job, pretrained.read_config(job.model)).queries]
    assert [row["output"] for row in predictions(job)] == language_model(job).predict(asked, LABELS).labels


def test_demonstrations_over_the_context_are_dropped_and_counted(tmp_path: Path) -> None:
    examples = [{"text": f"{i} " + "The film was great. " * 8, "label": LABELS[i % 2]} for i in range(20)]
    job = make_job("few-shot", tmp_path, data=REVIEWS, examples=examples, settings={"shots": 20})
    (_choice, note) = registry.load("few-shot")().estimate(job).notes
    outcome, events = run(job)
    kept = len(stored_shots(job))
    assert 0 < kept < 20
    assert note.startswith(f"{20 - kept} of 20 demonstrations dropped")
    assert "context of 512 tokens" in note
    assert Notice(note) in events
    assert outcome.metrics["rows"] == 11


def test_as_many_demonstrations_as_fit_are_found_without_trying_each_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = [{"text": f"{i} great " + "film " * (i % 7), "label": LABELS[i % 2]} for i in range(1000)]
    rows = [{"text": f"row {i} was " + "good " * (i % 30), "label": LABELS[i % 2]} for i in range(150)]
    made = 0

    def counted(*args: Any, **given: Any) -> Any:
        nonlocal made
        made += 1
        return with_shots(*args, **given)

    monkeypatch.setattr(fitting, "with_shots", counted)
    job = make_job("few-shot", tmp_path, data=rows, examples=examples, settings={"shots": 1000})
    method = registry.load("few-shot")()
    plan = method._plan(job, pretrained.read_config(job.model))
    kept = len(plan.shots)
    assert made < 150 * 3 + 20 * 11
    assert 0 < kept < 1000
    tokenizer = pretrained.load_tokenizer(job.model)
    longest = max(len(encode_prompt(tokenizer, query.prompt)) for query in plan.queries)
    assert longest == plan.longest < 512
    asked = dataclasses.replace(job, config=type(job.config)(shots=kept + 1))
    assert len(method._plan(asked, pretrained.read_config(job.model)).shots) == kept  # one more does not fit


def stored_shots(job: Job) -> list[Any]:
    return list(json.loads((job.directory / "artifacts/prompt.json").read_text())["shots"])


def test_not_one_demonstration_fits(tmp_path: Path) -> None:
    examples = [{"text": "The film was great. " * 90, "label": label} for label in LABELS]
    job = make_job("few-shot", tmp_path, data=REVIEWS, examples=examples)
    with pytest.raises(ModelError, match="not one demonstration fits the context of tiny"):
        registry.load("few-shot")().estimate(job)


# ---------------------------------------------------------------------------------------------- stopping


class Stopper:
    """Stops at the given Progress event."""

    def __init__(self, step: int) -> None:
        self.step, self.events, self.stopped = step, [], False

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Progress) and event.step == self.step and not self.stopped:
            self.stopped = True
            raise Stopped("enough")


@pytest.mark.parametrize("task", ["classification", "generation"])
def test_what_was_answered_before_a_stop_is_kept(task: str, tmp_path: Path) -> None:
    rows = REVIEWS if task == "classification" else TRANSLATIONS
    job = make_job("zero-shot", tmp_path, data=rows, settings={"batch_size": 2, "max_new_tokens": 3})
    emit = Stopper(2)
    outcome = registry.load("zero-shot")().run(job, emit)
    assert outcome.metrics["rows"] == 4
    assert len(predictions(job)) == 4
    assert [row["row"] for row in predictions(job)] == sorted(row["row"] for row in predictions(job))
    assert [e.step for e in emit.events if isinstance(e, Progress)] == [1, 2]
    assert not list((tmp_path / "artifacts").glob("*.tmp"))


def test_a_stop_inside_a_batch_keeps_the_batches_before(tmp_path: Path) -> None:
    job = make_job("zero-shot", tmp_path, data=TRANSLATIONS, settings={"batch_size": 3, "max_new_tokens": 50})
    progressed = False

    def emit(event: Event) -> None:
        nonlocal progressed
        if progressed and isinstance(event, Stage):
            raise Stopped("enough")
        progressed = progressed or isinstance(event, Metric)

    assert registry.load("zero-shot")().run(job, emit).metrics["rows"] == 3


def test_a_stop_before_the_first_answer_goes_through(tmp_path: Path) -> None:
    def emit(event: Event) -> None:
        if isinstance(event, Stage) and event.text == "answering":
            raise Stopped("enough")

    for given in ({"data": REVIEWS}, {"prompt": "The dog"}):
        with pytest.raises(Stopped):
            registry.load("zero-shot")().run(make_job("zero-shot", tmp_path, **given), emit)


@pytest.mark.parametrize("labels", [(), ("good", "bad")])
def test_every_row_is_measured_before_the_first_answer(labels: tuple[str, ...], tmp_path: Path) -> None:
    words, tokens = "The film was great. " * 130, "😀 " * 250  # more characters; more tokens
    rows = [*({"text": words[: 800 + i]} for i in range(20)), {"text": tokens}, {"text": "short"}]
    job = make_job("zero-shot", tmp_path, data=rows, prompt="{{text}}", labels=labels, settings={"max_new_tokens": 1})
    events: list[Event] = []
    with pytest.raises(ModelError, match=r"^row 21 of data: a prompt of [\d,]+ tokens is [\d,]+ too long") as caught:
        registry.load("zero-shot")().run(job, events.append)
    assert "\n" not in str(caught.value)
    assert not [event for event in events if isinstance(event, Progress)]


@pytest.mark.parametrize("rows", [REVIEWS, TRANSLATIONS], ids=["labels", "free text"])
def test_what_was_answered_before_an_error_is_kept(rows: Any, tmp_path: Path) -> None:
    job = make_job("zero-shot", tmp_path, data=rows, settings={"batch_size": 2, "max_new_tokens": 3})

    def emit(event: Event) -> None:
        if isinstance(event, Progress) and event.step == 3:
            raise RuntimeError("CUDA error")

    with pytest.raises(RuntimeError, match="CUDA error"):
        registry.load("zero-shot")().run(job, emit)
    state, outcome, _ = store.read_outcome(job.directory)
    assert state == "failed"
    assert outcome is not None
    assert outcome.metrics["rows"] == 6
    assert outcome.artifacts == {"predictions": "artifacts/predictions.jsonl", "prompt": "artifacts/prompt.json"}
    assert [row["row"] for row in predictions(job)] == sorted(row["row"] for row in predictions(job))
    assert len(predictions(job)) == 6


# ---------------------------------------------------------------------------------------------- afterwards


@pytest.mark.parametrize("chat", [False, True])
def test_the_run_is_loaded_from_its_artifacts_alone(chat: bool, tmp_path: Path) -> None:
    job = make_job(
        "few-shot", tmp_path, chat=chat, data=REVIEWS, examples=tiny_models.reviews(20)[11:], settings={"shots": 2}
    )
    outcome, _ = run(job)
    asked = registry.load("few-shot")()._plan(job, pretrained.read_config(job.model)).queries[0].prompt
    bare = Job(job.method, job.config, job.model, job.task, job.directory)
    adapted = registry.load("few-shot")().load(outcome, bare)
    own = f"Text: {REVIEWS[0]['text']}\nLabel:"
    lm = language_model(job)
    assert adapted.predict([own]).labels == [predictions(job)[0]["output"]]
    np.testing.assert_allclose(
        adapted.predict([own]).probabilities, lm.predict([asked], LABELS).probabilities, atol=1e-5
    )
    np.testing.assert_allclose(adapted.score([own], ["good"]), lm.score([asked], ["good"]), atol=1e-4)
    assert adapted.generate([own], max_new_tokens=4) == lm.generate([asked], max_new_tokens=4)
    assert adapted.predict([own], ["good", "bad"]).names == ("good", "bad")


def trained(tmp_path: Path, task: str) -> Job:
    """A stored LoRA run of a few steps."""
    rows = tiny_models.reviews(12) if task == "classification" else tiny_models.translations(12)
    examples = data.read(rows, name="rows")
    method = registry.load("lora")
    architecture: Any = "bert" if task == "classification" else "llama"
    job = Job(
        method="lora",
        config=method.Config(max_steps=2, batch_size=4),
        model=ModelRef("tiny", "folder", str(tiny_models.folder(architecture, chat=task != "classification"))),
        task=examples.task,
        directory=tmp_path,
        data=examples,
        labels=examples.labels,
    )
    job = store.create(job, method().estimate(job), "lora")
    outcome = method().run(job, lambda event: None)
    store.write_outcome(job.directory, "done", outcome, "")
    return job


def test_a_finetuned_classifier_is_evaluated(tmp_path: Path) -> None:
    base = trained(tmp_path, "classification")
    model = ModelRef("tuned", "run", str(base.directory))
    job = make_job("zero-shot", tmp_path, model=model, data=REVIEWS)
    estimate = registry.load("zero-shot")().estimate(job)
    assert estimate.total == store.open(str(base.directory)).estimate.total
    outcome, _ = run(job)
    expected = store.open(str(base.directory)).predict([row["text"] for row in REVIEWS])
    assert [row["output"] for row in predictions(job)] == expected.labels
    assert outcome.metrics["rows"] == 11
    one = make_job("zero-shot", tmp_path, model=model, prompt=REVIEWS[0]["text"])
    assert run(one)[0].output == expected.labels[0]
    loaded = registry.load("zero-shot")().load(outcome, job)
    np.testing.assert_allclose(
        loaded.predict([REVIEWS[0]["text"]]).probabilities[0], expected.probabilities[0], atol=1e-5
    )
    wrong = make_job(
        "zero-shot", tmp_path, model=model, data=[{"text": "a", "label": "good"}, {"text": "b", "label": "good"}]
    )
    with pytest.raises(
        DataError, match=r"row 1 of data has the label 'good'; the classifier tuned knows negative, positive"
    ):
        registry.load("zero-shot")().estimate(wrong)
    few = make_job("few-shot", tmp_path, model=model, data=REVIEWS, examples=REVIEWS)
    with pytest.raises(RequestError, match="tuned is a classifier"):
        registry.load("few-shot")().estimate(few)


def test_a_finetuned_language_model_is_prompted(tmp_path: Path) -> None:
    base = trained(tmp_path, "generation")
    model = ModelRef("tuned", "run", str(base.directory))
    job = make_job(
        "few-shot",
        tmp_path,
        model=model,
        data=REVIEWS,
        examples=tiny_models.reviews(20)[11:],
        settings={"batch_size": 3},
    )
    assert registry.load("few-shot")().estimate(job).steps == 4
    run(job)
    asked = [q.prompt for q in registry.load("few-shot")()._plan(job, pretrained.read_config(base.model)).queries]
    assert [row["output"] for row in predictions(job)] == store.open(str(base.directory)).predict(asked, LABELS).labels


def test_another_process_gives_the_same_figures(tmp_path: Path) -> None:
    settings = {"max_new_tokens": 6, "temperature": 1.5, "batch_size": 2}
    job = make_job("zero-shot", tmp_path, data=TRANSLATIONS, settings=settings, seed=3)
    run(job)
    here = predictions(job)
    code = f"""
import sys
from pathlib import Path
from nbadapt import data, registry
from nbadapt.method import Job, ModelRef
method = registry.load("zero-shot")
table = data.read_for_prompt({TRANSLATIONS!r}, name="data")
job = Job("zero-shot", method.Config(**{settings!r}), ModelRef("tiny", "folder", {job.model.path!r}), "generation",
    Path({str(tmp_path / "other")!r}), data=table, seed=3)
method().run(job, lambda event: None)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    other = (tmp_path / "other/artifacts/predictions.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in other] == here


# ---------------------------------------------------------------------------------------------- estimates and mistakes


def test_a_model_without_attention_is_estimated(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, MambaConfig

    tokenizer = AutoTokenizer.from_pretrained(tiny_models.folder("gpt2"))
    config = MambaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, state_size=4)
    config.architectures = ["MambaForCausalLM"]
    for part in (tokenizer, config):
        part.save_pretrained(tmp_path / "mamba")
    model = ModelRef("mamba", "folder", str(tmp_path / "mamba"))
    estimate = registry.load("zero-shot")().estimate(make_job("zero-shot", tmp_path, model=model, data=REVIEWS))
    assert estimate.memory["weights"] > 0
    assert estimate.memory["activations"] == 0  # there are no keys and values


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen2"])
def test_an_estimate_loads_no_weights_and_counts_exactly(architecture: Any, tmp_path: Path) -> None:
    job = make_job("zero-shot", tmp_path, architecture=architecture, data=REVIEWS)
    estimate = registry.load("zero-shot")().estimate(job)
    assert not models._bases
    model = language_model(job).model
    assert estimate.total == sum(p.numel() for p in model.parameters())
    assert (estimate.trainable, estimate.steps) == (0, 1)
    assert estimate.memory["weights"] == estimate.total * 4
    assert estimate.memory["activations"] > 0
    assert not list(tmp_path.iterdir())


WIDE = [{"a": "x", "b": "y", "label": "good"}, {"a": "x", "b": "y", "label": "bad"}]
BAD: dict[str, tuple[str, dict[str, Any], type[NbadaptError], str]] = {
    "no examples": ("few-shot", {"prompt": "Hi"}, RequestError, "add --examples"),
    "examples for zero-shot": ("zero-shot", {"prompt": "Hi", "examples": REVIEWS}, RequestError, "use few-shot"),
    "examples without answers": (
        "few-shot",
        {"prompt": "{{t}}", "variables": {"t": "x"}, "examples": [{"t": "a"}]},
        DataError,
        "examples has no answers to show",
    ),
    "examples without the column": (
        "few-shot",
        {"prompt": "{{text}} {{place}}", "data": [{"text": "a", "place": "b"}], "examples": REVIEWS},
        RequestError,
        "the examples in examples: the prompt names {{place}}, which has no value",
    ),
    "no placeholder": (
        "zero-shot",
        {"prompt": "Hi", "data": REVIEWS},
        RequestError,
        "every row would get the same one",
    ),
    "which column": ("zero-shot", {"data": WIDE}, RequestError, "write a prompt below the line with {{a}}, {{b}}"),
    "an empty cell": (
        "zero-shot",
        {"data": [{"text": "a", "label": "x"}, {"text": None, "label": "y"}]},
        DataError,
        "row 2 (counted from 1), column 'text'",
    ),
    "a label that --labels lacks": (
        "zero-shot",
        {"data": REVIEWS, "labels": ("positive", "neutral")},
        DataError,
        "row 1 of data has the label 'negative'; --labels has positive, neutral",
    ),
    "one label": ("zero-shot", {"data": [{"text": "a", "label": "x"}]}, RequestError, "only the label 'x'"),
    "a row over the context": (
        "zero-shot",
        {"data": [*REVIEWS, {"text": "The film was great. " * 120, "label": "positive"}]},
        ModelError,
        "row 12 of data makes a prompt of",
    ),
    "a prompt over the context": (
        "zero-shot",
        {"prompt": "The film. " * 300},
        ModelError,
        "the prompt makes a prompt of",
    ),
    "an encoder": ("zero-shot", {"prompt": "Hi", "architecture": "bert"}, ModelError, "does not generate text"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_mistakes_are_one_line_before_weights_load(mistake: str, tmp_path: Path) -> None:
    name, given, kind, message = BAD[mistake]
    with pytest.raises(kind) as caught:
        registry.load(name)().estimate(make_job(name, tmp_path, **given))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not models._bases


def test_the_events_of_a_run_survive_the_log(tmp_path: Path) -> None:
    from nbadapt.events import to_json

    _, events = run(make_job("zero-shot", tmp_path, data=REVIEWS))
    for event in events:
        assert from_json(json.loads(json.dumps(to_json(event, 1.0)))) == (1.0, event)
