"""Choosing demonstrations for each row, their order, and what fits the context."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from test_prompting import LABELS, language_model, make_job, predictions, run

from nbadapt import models, pretrained, registry
from nbadapt.engines import nearest
from nbadapt.engines.prompts import content
from nbadapt.errors import DataError, ModelError, NbadaptError
from nbadapt.events import Notice, Progress
from nbadapt.method import Job

INSTRUCTION = "Say what the film was. " * 2 + "\nText: {{text}}\nLabel:"


@pytest.fixture(autouse=True)
def _forget_bases() -> Iterator[None]:
    yield
    models.free()


def rows(n: int, start: int = 0) -> list[dict[str, str]]:
    return tiny_models.reviews(n + start)[start:]


def near(tmp_path: Path, *, data: Any = None, examples: Any = None, **given: Any) -> Job:
    settings = {"selection": "nearest", "shots": 3, "embedding_model": str(tiny_models.folder("bert"))}
    settings |= given.pop("settings", {})
    data, examples = data or rows(7), examples or rows(20, 11)
    return make_job("few-shot", tmp_path, data=data, examples=examples, settings=settings, **given)


def queries(job: Job) -> Any:
    return registry.load(job.method)()._plan(job, pretrained.read_config(job.model), lambda event: None).queries


def reference(job: Job, count: int) -> list[list[int]]:
    """Places of the most similar examples, by mean-pooled embeddings computed without batches or cache."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = job.config.embedding_model
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)

    def vector(text: str) -> Any:
        with torch.no_grad():
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0).numpy()
        return mean / np.linalg.norm(mean)

    assert job.data is not None
    assert job.examples is not None
    known = np.stack([vector(row["text"]) for row in job.examples.rows])
    return [np.argsort(-(known @ vector(row["text"])))[:count].tolist() for row in job.data.rows]


def test_the_nearest_examples_are_those_of_the_largest_cosine(tmp_path: Path) -> None:
    job = near(tmp_path, prompt=INSTRUCTION)
    assert job.examples is not None
    for query, places in zip(queries(job), reference(job, 3), strict=True):
        *blocks, own = query.prompt.split("\n\n")
        expected = [INSTRUCTION.replace("{{text}}", job.examples.rows[i]["text"]) for i in reversed(places)]
        assert [block.rsplit(" ", 1)[0] for block in blocks] == expected  # the nearest one stands last
        assert own == query.shown


@pytest.mark.parametrize("chat", [False, True])
def test_labels_are_scored_behind_each_rows_own_demonstrations(chat: bool, tmp_path: Path) -> None:
    job = near(tmp_path, chat=chat, data=rows(11), settings={"batch_size": 4})
    estimate = registry.load("few-shot")().estimate(job)
    outcome, events = run(job)
    asked = [query.prompt for query in queries(job)]
    assert len({str(prompt[:-1]) for prompt in asked}) > 1
    expected = [language_model(job).predict([prompt], LABELS) for prompt in asked]  # one by one: nothing is shared
    assert [row["output"] for row in predictions(job)] == [found.labels[0] for found in expected]
    found = [[row["probabilities"][label] for label in LABELS] for row in predictions(job)]
    np.testing.assert_allclose(found, np.concatenate([e.probabilities for e in expected]), atol=1e-5)
    assert [e.step for e in events if isinstance(e, Progress)] == [1, 2, 3]  # batches of rows, not of one row each
    assert estimate.steps == 3
    assert outcome.metrics["rows"] == 11


def test_a_row_of_the_same_table_is_never_nearest_to_itself(tmp_path: Path) -> None:
    table = rows(9)
    for query in queries(near(tmp_path, data=table, examples=table)):
        assert query.prompt.count(query.shown) == 1


def test_the_estimate_knows_the_embedding_model_and_loads_no_weights(tmp_path: Path) -> None:
    job = near(tmp_path)
    estimate = registry.load("few-shot")().estimate(job)
    assert not models._bases
    embedding_job = nearest._embedding_job(job, job.config.embedding_model)
    model, _ = models.load_classifier(embedding_job.model, nearest.LABELS, "cpu", "float32", 0)
    assert estimate.memory["embedding model"] == sum(t.nbytes for t in (*model.parameters(), *model.buffers()))


def test_a_loaded_run_chooses_for_new_prompts(tmp_path: Path) -> None:
    job = near(tmp_path, prompt=INSTRUCTION)
    outcome, _ = run(job)
    asked = queries(job)[2]
    bare = Job(job.method, job.config, job.model, job.task, job.directory)
    adapted = registry.load("few-shot")().load(outcome, bare)
    expected = language_model(job).predict([asked.prompt], LABELS).probabilities
    np.testing.assert_allclose(adapted.predict([asked.shown]).probabilities, expected, atol=1e-5)


def test_every_row_keeps_as_many_as_fit(tmp_path: Path) -> None:
    long = {"text": "The film was great. " * 30, "label": "positive"}
    job = near(tmp_path, data=[*rows(5), long], examples=rows(40, 11), settings={"shots": 12})
    _, events = run(job)
    counts = [query.prompt.count("\n\n") for query in queries(job)]
    assert counts[:5] == [12] * 5
    assert 0 < counts[5] < 12
    notes = [e.text for e in events if isinstance(e, Notice)]
    assert f"demonstrations dropped before 1 of 6 rows, at most {12 - counts[5]} of 12" in notes[-1]
    one_more = job.config.model_copy(update={"shots": counts[5] + 1})
    assert queries(make_job_like(job, one_more))[5].prompt.count("\n\n") == counts[5]  # one more does not fit


def make_job_like(job: Job, config: Any) -> Job:
    import dataclasses

    return dataclasses.replace(job, config=config)


def test_what_fits_no_demonstration_is_refused(tmp_path: Path) -> None:
    examples = [{"text": "The film was great. " * 90 + str(i), "label": LABELS[i % 2]} for i in range(4)]
    with pytest.raises(ModelError, match="not one demonstration fits the context of tiny"):
        run(near(tmp_path, examples=examples))


@pytest.mark.parametrize("order", ["selected", "reversed", "random", "length"])
def test_the_order_of_demonstrations(order: str, tmp_path: Path) -> None:
    examples = [{"text": "film " * n, "label": LABELS[n % 2]} for n in (3, 1, 4, 2, 6, 5, 8, 7)]
    settings = {"selection": "fixed", "shots": 6, "order": order}
    job = make_job("few-shot", tmp_path, data=rows(3), examples=examples, settings=settings, seed=1)
    found = [[block.count("film") for block in q.prompt.split("\n\n")[:-1]] for q in queries(job)]
    assert found[0] == found[1] == found[2]
    table = [3, 1, 4, 2, 6, 5]
    expected = {"selected": table, "reversed": table[::-1], "length": sorted(table)}
    if order == "random":
        assert sorted(found[0]) == sorted(table)
        assert found[0] != table
    else:
        assert found[0] == expected[order]


def test_the_content_of_a_prompt_is_what_the_template_leaves_open() -> None:
    template = " Read {{a}} and {{ b }}.\nAnswer: "
    assert content(template, "Read this and that.\nAnswer:") == "this\nthat"
    assert content(template, "Something else") == "Something else"
    assert content("{{a}}", "whole") == "whole"
    assert content("no name", "no name") == "no name"
    assert content("{{a}}", [{"role": "user", "content": "Hi"}]) == "user: Hi"


LEAKS: dict[str, tuple[dict[str, Any], type[NbadaptError], str]] = {
    "a row among other examples": (
        {"data": rows(5), "examples": [*rows(8, 11), *rows(2)]},
        DataError,
        r"row 1 of data is also row 9 of examples \(and 1 more\): its answer would be shown",
    ),
    "no such embedding model": (
        {"settings": {"embedding_model": "minlm"}},
        ModelError,
        "no model 'minlm' here: did you mean minilm",
    ),
    "an embedding model of two parts": (
        {"settings": {"embedding_model": str(tiny_models.folder("t5"))}},
        ModelError,
        "is an encoder and a decoder",
    ),
}


@pytest.mark.parametrize("mistake", LEAKS)
def test_mistakes_are_one_line_before_weights_load(mistake: str, tmp_path: Path) -> None:
    given, kind, message = LEAKS[mistake]
    with pytest.raises(kind, match=message) as caught:
        registry.load("few-shot")().estimate(near(tmp_path, **given))
    assert "\n" not in str(caught.value)
    assert not models._bases


def test_rows_without_answers_may_be_among_the_examples(tmp_path: Path) -> None:
    table = [{"text": row["text"]} for row in rows(5)]
    job = make_job("few-shot", tmp_path, data=table, examples=rows(9), settings={"shots": 2})
    for query in queries(job):
        assert query.prompt.count(query.shown) == 1
