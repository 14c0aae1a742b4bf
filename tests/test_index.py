"""An index follows its files, finds what a plain search finds, and loses nothing when it is stopped or killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from documents import pdf
from shells import Shell

import nbadapt
from nbadapt import models
from nbadapt.engines.embed import Embedder
from nbadapt.errors import ModelError, NbadaptError, RequestError, StoreError
from nbadapt.indexing.index import Hits, Index, close_all, fused, names
from nbadapt.indexing.store import Ranked

WORDS = ("good", "dull", "great", "boring", "wonderful", "terrible")


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    close_all()


@pytest.fixture(autouse=True, scope="module")
def _forget_bases() -> Iterator[None]:
    yield
    models.free()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "deep").mkdir(parents=True)
    for i, word in enumerate(WORDS):
        (folder / f"film{i}.md").write_text(f"# Film {i}\n\nThe film number {i} was {word}. " * 3)
    (folder / "deep" / "manual.pdf").write_bytes(pdf("A chain wears out.", "A pad is 4 mm thick."))
    return folder


def build(*paths: Path | str, name: str = "films", **given: Any) -> Index:
    given.setdefault("model", str(tiny_models.folder("bert")))
    return nbadapt.index([str(path) for path in paths], name=name, **given)


def stored(index: Index) -> dict[str, list[str]]:
    """Document name -> the texts of its chunks."""
    found: dict[str, list[str]] = {}
    passages = index.store.passages(range(1, 10_000))
    for chunk in sorted(passages):
        found.setdefault(Path(passages[chunk].path).name, []).append(passages[chunk].text)
    return found


def plain_vectors(texts: list[str]) -> np.ndarray:
    """Mean pooling with nothing but transformers, one text at a time."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = tiny_models.folder("bert")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    for text in texts:
        with torch.no_grad():
            hidden = model(**tokenizer(text, truncation=True, max_length=512, return_tensors="pt")).last_hidden_state
        rows.append(torch.nn.functional.normalize(hidden.mean(1))[0].numpy())
    return np.stack(rows)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that is embedded, in order; the real thing is done too."""
    told: list[str] = []
    compute = Embedder.compute

    def counting(self: Embedder, texts: Any, *rest: Any) -> Any:
        told.extend(texts)
        return compute(self, texts, *rest)

    monkeypatch.setattr(Embedder, "compute", counting)
    return told


# ---------------------------------------------------------------------------------------------- building


def test_documents_are_found_by_meaning_by_words_and_by_both(tree):
    index = build(tree)
    assert (index.report.added, index.report.unreadable) == (7, [])
    texts = [text for own in stored(index).values() for text in own]
    assert index.report.chunks == len(index) == len(texts)
    asked = "the film was dull"
    scores = plain_vectors(texts) @ plain_vectors([asked])[0]
    hits = index.search(asked, 5, how="vector")
    assert [hit.text for hit in hits] == [texts[i] for i in np.argsort(-scores)[:5]]
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[::-1][:5], atol=5e-3)

    assert [Path(hit.path).name for hit in index.search("dull", 5, how="bm25")] == ["film1.md"]
    (hit,) = index.search("pads thick", 1)
    assert (Path(hit.path).name, hit.page) == ("manual.pdf", 1)  # the chunk with both pages begins on the first
    assert hit.text == "A chain wears out.\n\nA pad is 4 mm thick."
    assert hit.place == "manual.pdf, page 1, characters 0 to 40"
    hit = index.search("film number 3", 1, how="bm25")[0]
    assert Path(hit.path).read_text()[hit.start : hit.end] == hit.text


def test_both_rankings_are_fused_by_reciprocal_ranks():
    ranking = fused([[Ranked(7, 0.9), Ranked(8, 0.8), Ranked(9, 0.1)], [Ranked(9, 12.0), Ranked(7, 3.0)]])
    assert [chunk for chunk, _ in ranking] == [7, 9, 8]
    assert [score for _, score in ranking] == pytest.approx([1 / 61 + 1 / 62, 1 / 63 + 1 / 61, 1 / 62])


def test_a_search_is_limited_to_documents(tree):
    index = build(tree, metadata={"shelf": "films"})
    for how in ("vector", "hybrid"):
        assert {hit.path for hit in index.search("dull", 50, how=how, path="*/film3.md")} == {str(tree / "film3.md")}
        kinds = {hit.metadata["kind"] for hit in index.search("dull", 50, how=how, metadata={"kind": "pdf"})}
        assert kinds == {"pdf"}
    assert len(index.search("dull", 3, metadata={"shelf": "films", "kind": "markdown"})) == 3
    assert len(index.search("dull", metadata={"shelf": "other"})) == 0
    assert index.search("dull", 1)[0].metadata["title"].startswith("Film")


# ---------------------------------------------------------------------------------------------- following the files


def test_only_what_changed_is_embedded_again(tree, counted):
    index = build(tree)
    before = stored(index)
    assert len(counted) == index.report.embedded == len({text for own in before.values() for text in own})
    counted.clear()
    assert (build(tree).report.unchanged, counted) == (7, [])

    (tree / "film1.md").write_text((tree / "film1.md").read_text() + "\n\n# More\n\n" + "A new sentence. " * 60)
    (tree / "film2.md").touch()  # another time, the same text
    (tree / "copy.md").write_text((tree / "film3.md").read_text())
    (tree / "film4.md").unlink()
    report = build(tree).report
    assert (report.added, report.changed, report.unchanged, report.removed) == (1, 2, 4, 1)
    after = stored(index)
    assert "film4.md" not in after
    assert after["copy.md"] == before["film3.md"]
    new = {text for own in after.values() for text in own} - {text for own in before.values() for text in own}
    assert set(counted) == new != set()
    assert len(index.search("film", 10_000, how="vector")) == len(index) == sum(map(len, after.values()))


def test_documents_that_were_not_named_stay(tree):
    build(tree)
    (tree / "film0.md").unlink()
    (tree / "film1.md").unlink()
    report = build(tree / "film0.md", tree / "deep").report
    assert (report.removed, report.unchanged) == (1, 1)
    assert [reason for _, reason in report.unreadable] == ["there is no such file"]
    assert "film1.md" in stored(Index.open("films"))
    assert build(tree / "*.md").report.removed == 1
    assert set(stored(Index.open("films"))) == {"film2.md", "film3.md", "film4.md", "film5.md", "manual.pdf"}


def test_unreadable_files_are_listed_and_leave_nothing_stale(tree):
    (tree / "bad.pdf").write_bytes(b"%PDF no")
    index = build(tree, tree / "gone.md")
    assert {Path(path).name: reason for path, reason in index.report.unreadable}.keys() == {"bad.pdf", "gone.md"}
    assert index.report.added == 7
    (tree / "film1.md").write_bytes(b"\0\0\0")
    report = build(tree).report
    assert (report.removed, report.changed) == (1, 0)
    assert "film1.md" not in stored(index)
    assert "not indexed" in repr(index)
    assert "it is no text" in repr(index)


def test_new_metadata_reaches_old_documents(tree, counted):
    build(tree)
    counted.clear()
    index = build(tree, metadata={"language": "en"})
    assert counted == []
    assert len(index.search("film", 3, how="bm25", metadata={"language": "en"})) == 3


# ---------------------------------------------------------------------------------------------- stopping


def test_an_interrupt_keeps_what_is_acknowledged_and_the_same_call_goes_on(tree, counted, monkeypatch):
    monkeypatch.setattr("nbadapt.indexing.update.TOGETHER", 1)

    def interrupt(progress: Any) -> None:
        if progress.done == 3:
            raise KeyboardInterrupt

    index = build(tree, progress=interrupt)
    assert index.report.stopped
    assert repr(index.report).count("stopped") == 1
    assert str(index.report).startswith("stopped; the same line goes on")
    assert index.report.added == len(index.store.documents()) == 3
    counted.clear()
    index = build(tree)
    assert (index.report.stopped, index.report.added, index.report.unchanged) == (False, 4, 3)
    assert len(set(counted)) == len(counted) == index.report.embedded


_BUILD = """
import sys
from nbadapt.indexing import update
import nbadapt
update.TOGETHER = 1
def tell(progress):
    sys.stdout.write(f"{progress.done}\\n")
    sys.stdout.flush()
built = nbadapt.index(sys.argv[1], name="films", model=sys.argv[2], progress=tell)
sys.stdout.write(str(built.report))
"""


@pytest.mark.slow
def test_a_real_interrupt_ends_it_with_what_is_done(tree):
    for i in range(200):
        (tree / f"more{i}.md").write_text(f"The film number {i} was good. " * 20)
    paths = os.pathsep.join(entry for entry in sys.path if entry)
    process = subprocess.Popen(
        [sys.executable, "-c", _BUILD, str(tree), str(tiny_models.folder("bert"))],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    while int(process.stdout.readline()) < 20:
        pass
    process.send_signal(signal.SIGINT)
    told = process.communicate()[0].splitlines()[-1]
    assert process.returncode == 0
    assert told.startswith("stopped; the same line goes on: ")
    index = Index.open("films")
    assert 20 <= len(index.store.documents()) < 207
    assert len(index.search("film", 10_000, how="vector")) == len(index)


@pytest.mark.slow
def test_a_kill_keeps_what_is_acknowledged(tree, counted):
    for i in range(200):
        (tree / f"more{i}.md").write_text(f"The film number {i} was good. " * 20)
    paths = os.pathsep.join(entry for entry in sys.path if entry)
    for wanted in (5, 60):
        process = subprocess.Popen(
            [sys.executable, "-c", _BUILD, str(tree), str(tiny_models.folder("bert"))],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
        )
        while int(process.stdout.readline()) < wanted:
            pass
        process.send_signal(signal.SIGKILL)
        process.communicate()
        index = Index.open("films")
        assert len(index.store.documents()) >= wanted
        assert len(index.search("film", 10_000, how="vector")) == len(index)
        close_all()
    known = len(Index.open("films").store.documents())
    report = build(tree).report
    assert (report.added, report.unchanged) == (207 - known, known)
    complete = stored(Index.open("films"))
    assert complete == stored(build(tree, name="fresh"))


# ---------------------------------------------------------------------------------------------- mistakes


def line(error: pytest.ExceptionInfo[NbadaptError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_another_embedding_model_is_refused(tree):
    build(tree)
    with pytest.raises(RequestError) as error:
        build(tree, model=str(tiny_models.folder("distilbert")))
    assert "was built with the embedding model" in line(error)
    for given, word in (({"size": 50}, "chunks of size 200, not 50"), ({"overlap": 1}, "overlap 40, not 1")):
        with pytest.raises(RequestError) as error:
            build(tree, **given)
        assert word in line(error)
    assert build(tree, model=None).report.unchanged == 7


def test_a_changed_embedding_model_is_refused(tree, tmp_path):
    import shutil

    folder = tmp_path / "embedder"
    shutil.copytree(tiny_models.folder("bert"), folder)
    build(tree, model=str(folder))
    close_all()
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    for ask in (lambda: Index.open("films").search("film"), lambda: build(tree, model=None)):
        with pytest.raises(StoreError) as error:
            ask()
        assert "its files changed" in line(error)
    assert len(Index.open("films").search("film", how="bm25")) == 5
    close_all()
    shutil.rmtree(folder)
    with pytest.raises(ModelError):
        Index.open("films").search("film")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "my index"}, "is no name of an index"),
        ({"name": "../x"}, "is no name of an index"),
        ({"name": ""}, "is no name of an index"),
        ({"name": 3}, "the name of the index is 3"),
        ({"name": "films", "size": 2}, "no chunk"),
        ({"name": "films", "size": 20, "overlap": 11}, "half of the size"),
        ({"name": "films", "store": "sqlit"}, "did you mean sqlite"),
        ({"name": "films", "metadata": {"a": 1}}, "give texts"),
        ({"name": "films", "model": "nothing-like-this"}, "no model 'nothing-like-this'"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_index(given, message, tree):
    with pytest.raises(NbadaptError) as error:
        build(tree, **given)
    assert message in line(error)
    assert names() == []


def test_an_unknown_index_names_the_nearest(tree):
    build(tree)
    with pytest.raises(StoreError) as error:
        nbadapt.index(name="film")
    assert "did you mean films" in line(error)
    with pytest.raises(StoreError, match="no index"):
        Index.open(str(tree / "other.sqlite"))
    for given, message in (({"how": "magic"}, "ways"), ({"k": 0}, "k is 0"), ({"question": " "}, "nothing to search")):
        with pytest.raises(RequestError, match=message):
            Index.open("films").search(**{"question": "film", **given})


def test_an_index_without_documents_is_searched(tmp_path):
    (tmp_path / "none").mkdir()
    index = build(tmp_path / "none")
    assert list(index.search("film")) == []
    assert repr(index.search("film")) == "Nothing was found."


# ---------------------------------------------------------------------------------------------- shown


def test_hits_are_escaped(tmp_path):
    evil = "<script>alert(1)</script> {{name}} <img src=x onerror=alert(1)>"
    (tmp_path / "<b>evil.md").write_text(evil)
    hits = build(tmp_path / "<b>evil.md").search("alert")
    assert isinstance(hits, Hits)
    html = hits._repr_html_()
    assert "<details><summary>[1] &lt;b&gt;evil.md, characters 0 to" in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; {{name}}" in html
    assert "<script" not in html
    assert "<img" not in html
    assert "<b>" not in html
    assert repr(hits).startswith("[1] <b>evil.md, characters 0 to")


def test_the_command_builds_lists_and_refuses(tree, monkeypatch):
    shell = Shell()
    monkeypatch.chdir(tree.parent)
    model = tiny_models.folder("bert")
    done = shell.run(f"%nbadapt index docs docs/*.md --as films --model {model} --size 50 --overlap=5")
    index = done.value
    assert (index.size, index.overlap, index.report.added) == (50, 5, 7)
    assert "7 documents added" in repr(index)
    assert [one.name for one in nbadapt.indexes()] == ["films"]
    assert "films" in repr(shell.run("%nbadapt indexes").value)
    refused = shell.run("%nbadapt index docs --as films --size 60")
    assert "UsageError: the index films was built with chunks of size 50" in refused.err
    assert {"docs/deep/", "docs/film1.md"} <= set(shell.tab("%nbadapt index docs/"))
    assert "--overlap" in shell.tab("%nbadapt index docs --")
    assert nbadapt.free() >= 0
    assert len(nbadapt.index(name="films").search("dull")) == 5


def test_the_command_refuses_in_one_line(tree):
    from nbadapt.commands import execute

    for given, message in {
        "index": "no paths given",
        "index docs": "no name given",
        "index docs --as": "--as needs a value",
        "index docs --as a --as b": "given twice",
        "index docs --as a --size few": "a whole number",
        "index docs --as a --modle b": "did you mean --model",
    }.items():
        with pytest.raises(RequestError) as error:
            execute(given, {})
        assert message in line(error)


def test_importing_it_is_light():
    code = "import sys, nbadapt.indexing.index; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    paths = os.pathsep.join(entry for entry in sys.path if entry)
    command, environment = [sys.executable, "-c", code], {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[]"
