"""The questions of the retrieval benchmark give no answer away."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BODY = "It goes on for many words that say what is done, when, why and with which of the arguments. " * 3


@pytest.fixture
def docstrings(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import docstrings

    yield docstrings
    del sys.modules["docstrings"]


@pytest.mark.parametrize(
    ("text", "question", "rest"),
    [
        ("One line only", "One line only", ""),
        ("Return the sum. And more.", "Return the sum.", "And more."),
        ("Return the sum,\n  e.g. of 1.5 and x.y.z.\nMore", "Return the sum, e.g. of 1.5 and x.y.z.", "More"),
        ("No full stop\n\nMore. And more.", "No full stop", "More. And more."),
    ],
)
def test_a_question_is_the_first_sentence(docstrings, text, question, rest):
    assert docstrings.split(text) == (question, rest)


def test_a_sentence_that_stands_in_the_index_is_no_question(docstrings):
    texts = {
        "kept": "Turn the whole text upside down. " + BODY + "1",
        "quoted": "Put every letter into a box. " + BODY + "2",
        "quoting": "See another function for what this is. " + BODY + "As the other: put every letter\ninto a box!",
        "twice.a": "Take all the numbers out of it. " + BODY + "3",
        "twice.b": "Take all the numbers out of it. " + BODY + "4",
        "short": "Put out the light of the lamp. Now.",
        "few words": "Do it. " + BODY + "5",
    }
    indexed, questions = docstrings.held_out(texts)
    assert set(questions) == {"kept", "quoting"}
    assert set(indexed) == set(texts) - {"short"}
    everything = " ".join(" ".join(indexed.values()).split()).lower()
    assert not any(question.rstrip(".").lower() in everything for question in questions.values())


@pytest.mark.slow
def test_the_standard_library_gives_the_same_questions_each_time(docstrings):
    texts = docstrings.documents()
    assert texts == docstrings.documents()
    assert "json.dump" in texts
    assert not any(name.startswith(("test.", "idlelib.")) for name in texts)
    indexed, questions = docstrings.held_out(texts)
    assert len(questions) > 500
    assert set(questions) <= set(indexed)
    assert all(question not in " ".join(indexed[name].split()) for name, question in questions.items())
