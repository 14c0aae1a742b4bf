"""Chunks: never too long, nothing lost, offsets exact, cut where people would cut."""

from __future__ import annotations

import functools
import itertools
import random
import time

import pytest
import tiny_models

from nbadapt import pretrained
from nbadapt.errors import NbadaptError
from nbadapt.indexing.chunks import Cutter
from nbadapt.indexing.documents import Document
from nbadapt.method import ModelRef

TOKENIZERS = ("bert", "roberta", "gpt2", "llama")


@functools.cache
def tokenizer(architecture: str):
    return pretrained.load_tokenizer(ModelRef("tiny", "folder", str(tiny_models.folder(architecture))))


def count(architecture: str, text: str) -> int:
    return len(tokenizer(architecture)(text, add_special_tokens=False, verbose=False)["input_ids"])


def some_text(seed: int) -> str:
    """Headings, paragraphs, lists, long words, other alphabets and odd spaces, at random."""
    draw = random.Random(seed)
    words = [
        "film",
        "Größe",
        "naïve",
        "日本語。",
        "🙂",
        "a" * 150,
        "x=1",
        "e.g.",
        "Ünïcödé",
        "<b>",
        "{{name}}",
        "great",
    ]
    parts = []
    for _ in range(draw.randint(1, 60)):
        match draw.randint(0, 4):
            case 0:
                parts.append(f"\n\n# Heading {draw.randint(0, 99)}\n\n")
            case 1:
                parts.append("\n" * draw.randint(1, 4) + " " * draw.randint(0, 9))
            case 2:
                parts.append("- " + " ".join(draw.choices(words, k=draw.randint(1, 9))) + "\n")
            case _:
                parts.append(" ".join(draw.choices(words, k=draw.randint(1, 40))) + draw.choice([". ", "! ", "\t", ""]))
    return "".join(parts)


@pytest.mark.parametrize("architecture", TOKENIZERS)
@pytest.mark.parametrize("seed", range(5))
def test_chunks_are_exact_cover_the_text_and_are_never_too_long(architecture, seed):
    text = some_text(seed)
    size, overlap = 30, (0, 7, 15)[seed % 3]
    chunks = Cutter(tokenizer(architecture), size, overlap).cut(Document(text, "markdown"))
    covered = set()
    for chunk in chunks:
        assert text[chunk.start : chunk.end] == chunk.text == chunk.text.strip() != ""
        # A byte-level tokenizer writes a word otherwise at the beginning of a text than behind a space.
        assert count(architecture, chunk.text) <= size + 3
        covered.update(range(chunk.start, chunk.end))
    assert {i for i, letter in enumerate(text) if not letter.isspace()} <= covered
    for before, after in itertools.pairwise(chunks):
        assert before.start < after.start
        assert before.end < after.end
        if after.start < before.end:
            assert count(architecture, text[after.start : before.end]) <= overlap + 3


def cut(text: str, size: int, overlap: int = 0, kind: str = "markdown") -> list[str]:
    return [chunk.text for chunk in Cutter(tokenizer("bert"), size, overlap).cut(Document(text, kind))]


def test_a_short_text_is_one_chunk_and_white_space_none():
    assert cut("  A film.\n", 8) == ["A film."]
    assert cut(" \n\t ", 8) == []


def test_better_places_are_preferred():
    words = "film film film film film. "
    assert cut(f"{words}\n# The film\n\n{words}", 12) == [words.strip(), f"# The film\n\n{words.strip()}"]
    assert cut(f"{words}\n\n{words}", 9) == [words.strip()] * 2
    assert cut(words * 3, 8) == [words.strip()] * 3
    assert cut("film " * 20, 8) == [" ".join(["film"] * 8)] * 2 + [" ".join(["film"] * 4)]


def test_neighbours_share_whole_sentences_but_none_over_a_heading():
    one, two, three = (f"A film is {word}. " for word in ("good", "dull", "great"))
    assert cut(one + two + three, 10, 5) == [(one + two).strip(), (two + three).strip()]
    assert cut(f"{one}{two}\n# the film\n{three}", 12, 6) == [(one + two).strip(), f"# the film\n{three.strip()}"]


def test_code_is_cut_at_definitions_and_lines():
    body = "def film(a):\n    # no heading\n    return a\n\n\n"
    assert cut(body * 2, count("bert", body) + 5, kind="py") == [body.strip()] * 2


def test_a_chunk_knows_the_page_on_which_it_begins():
    text = "one film. " * 5 + "two film. " * 5
    chunks = Cutter(tokenizer("bert"), 8, 0).cut(Document(text, "pdf", (0, 50)))
    assert [chunk.page for chunk in chunks] == [1 if chunk.start < 50 else 2 for chunk in chunks]
    assert {chunk.page for chunk in chunks} == {1, 2}


def test_a_word_that_is_one_token_however_long_does_not_make_a_long_chunk():
    text = ("a" * 3_000 + " ") * 20
    chunks = Cutter(tokenizer("bert"), 20, 0).cut(Document(text, "text"))
    assert max(len(chunk.text) for chunk in chunks) <= 20 * 12
    assert sum(len(chunk.text) for chunk in chunks) == 60_000


@pytest.mark.parametrize(("size", "overlap"), [(7, 0), (20, 11), (20, -1), ("many", 0), (True, 0), (20, 1.5)])
def test_sizes_that_make_no_chunks_are_refused(size, overlap):
    with pytest.raises(NbadaptError) as error:
        Cutter(tokenizer("bert"), size, overlap)
    assert "\n" not in str(error.value)


def test_cutting_is_fast():
    import pydoc_data.topics

    text = "\n\n".join(pydoc_data.topics.topics.values())
    cutter = Cutter(tokenizer("bert"), 200, 40)
    quickest = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        chunks = cutter.cut(Document(text, "text"))
        quickest = min(quickest, time.perf_counter() - start)
    assert chunks[-1].end == len(text.rstrip())
    assert len(text.encode()) / quickest > 0.5e6  # bytes a second; 1 MB/s with a published vocabulary, alone
