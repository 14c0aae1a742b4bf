"""Every store keeps the same index: what is found, where it stands, what is embedded again, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from documents import pdf
from postgresql_server import PASSWORD, Server
from shells import Shell

import nbadapt
from nbadapt import models
from nbadapt.errors import RequestError
from nbadapt.indexing.index import Index, close_all

STORES = ("postgresql", "lancedb")
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PGPASSFILE", "/nowhere")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.delenv("NBADAPT_POSTGRESQL", raising=False)
    yield
    close_all()


@pytest.fixture(autouse=True, scope="module")
def _forget_bases() -> Iterator[None]:
    yield
    models.free()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for i, word in enumerate(("good", "dull", "great", "boring")):
        (folder / f"film{i}.md").write_text(f"# Film {i}\n\nDie Größe von film {i} 🙂 was {word}. " * 8)
    (folder / "manual.pdf").write_bytes(pdf("A chain wears out. " * 12, "A pad is 4 mm thick. " * 12))
    return folder


@pytest.fixture
def name() -> str:
    """A name, and so a schema, that no other test has."""
    return f"films{next(_numbers)}"


def build(tree: Path, **given: Any) -> Index:
    return nbadapt.index(str(tree), **{"model": str(tiny_models.folder("bert")), "size": 40, "overlap": 5, **given})


def dsn(store: str, postgresql: Server) -> str:
    return postgresql.dsn() if store == "postgresql" else ""


@pytest.mark.parametrize("store", STORES)
def test_every_store_finds_what_sqlite_finds(store, tree, name, postgresql):
    plain = build(tree, name="plain")
    index = build(tree, name=name, store=store, dsn=dsn(store, postgresql), metadata={"shelf": "films"})
    assert index.path.suffix == f".{store}"
    if store == "lancedb":  # it was tidied up
        assert index.store._table.stats()["fragment_stats"]["num_fragments"] == 1
    assert (index.report.added, index.report.embedded) == (plain.report.added, plain.report.embedded)
    for question in ("the film was dull", "pad thick", "größe"):
        for how in ("vector", "bm25", "hybrid"):
            expected = plain.search(question, 8, how=how)
            found = index.search(question, 8, how=how)
            if how == "vector":
                assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-5)
            for hit in found:
                assert hit.metadata["shelf"] == "films"
                if hit.path.endswith(".md"):
                    assert Path(hit.path).read_text()[hit.start : hit.end] == hit.text
            where = {(hit.path, hit.start, hit.end, hit.page, hit.text) for hit in index.search(question, 999, how=how)}
            assert where == {
                (hit.path, hit.start, hit.end, hit.page, hit.text) for hit in plain.search(question, 999, how=how)
            }
    (hit,) = index.search("pad", 1, how="bm25")
    assert (Path(hit.path).name, hit.page) == ("manual.pdf", 2)


@pytest.mark.parametrize("store", STORES)
def test_only_what_changed_is_embedded_again(store, tree, name, postgresql):
    build(tree, name=name, store=store, dsn=dsn(store, postgresql))
    (tree / "film1.md").write_text((tree / "film1.md").read_text() + "\n\n# More\n\nA new sentence.")
    (tree / "film2.md").unlink()
    close_all()
    report = build(tree, name=name).report
    assert (report.changed, report.unchanged, report.removed) == (1, 3, 1)
    assert 0 < report.embedded < 4
    assert len(Index.open(name).search("film", 9999, how="vector")) == report.chunks
    assert {Path(hit.path).name for hit in Index.open(name).search("film", 9999, how="bm25")} == {
        "film0.md",
        "film1.md",
        "film3.md",
    }


@pytest.mark.parametrize("store", STORES)
def test_another_model_or_place_is_refused(store, tree, name, postgresql):
    build(tree, name=name, store=store, dsn=dsn(store, postgresql))
    for given, message in (
        ({"model": str(tiny_models.folder("distilbert"))}, "was built with the embedding model"),
        ({"size": 50}, "chunks of size 40, not 50"),
        ({"store": "sqlite"}, f"is kept in {store}: leave --store out"),
        ({"dsn": "host=elsewhere"}, "leave --dsn out" if store == "postgresql" else "leave it out"),
    ):
        with pytest.raises(RequestError) as error:
            build(tree, **{"name": name, **given})
        assert message in str(error.value)
        assert "\n" not in str(error.value)


def test_the_command_takes_a_store_and_a_server(tree, name, postgresql, monkeypatch):
    shell = Shell()
    monkeypatch.chdir(tree)
    model = tiny_models.folder("bert")
    line = f"%nbadapt index film0.md --model {model} --store"
    done = shell.run(f"{line} postgresql --as {name} --dsn postgresql://tester@127.0.0.1:{postgresql.port}/postgres")
    assert done.value.report.added == 1
    assert shell.run(f"{line} lancedb --as other").value.report.added == 1
    monkeypatch.delenv("PGPASSWORD")
    for words, message in (
        ("postgresql --as a", "needs a server: add --dsn"),
        ("postgresql --as a --dsn postgresql://tester:secret@127.0.0.1/x", "must hold no password"),
        (f"postgresql --as a --dsn '{postgresql.dsn()}'", "is missing or wrong"),
        ("sqlite --as a --dsn x", "--dsn is for stores behind a server, and sqlite is none"),
        ("postgres --as a", "did you mean postgresql?"),
    ):
        refused = shell.run(f"{line} {words}")
        assert message in refused.err
        assert "secret" not in refused.err
        assert len(refused.err.strip().splitlines()) == 1
    shown = shell.run("%nbadapt indexes").value
    assert sorted(one.name for one in shown) == sorted([name, "other"])
    assert f"{name}.postgresql" in repr(shown)
    close_all()
    shown = shell.run("%nbadapt indexes").value  # now that the password is gone
    assert [one.name for one in shown] == ["other"]
    assert "is missing or wrong" in repr(shown)
    assert f"the index {name} " in shown._repr_html_()
    assert {"--store", "--dsn"} <= set(shell.tab("%nbadapt index film0.md --"))
    assert {"sqlite", *STORES} <= set(shell.tab("%nbadapt index film0.md --store "))
    assert shell.tab("%nbadapt index film0.md --store post") == ["postgresql"]
