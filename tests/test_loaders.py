"""Every kind of file gives the text that a person reads; a bad one gives one line and hurts no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from documents import pdf

from nbadapt.errors import DataError, RequestError
from nbadapt.indexing.finding import find
from nbadapt.indexing.loaders import load


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_text_is_the_decoded_file(tmp_path):
    path = write(tmp_path / "a.txt", "Größe\r\n{{x}} <b>\rend")
    assert load(path).text == path.read_text(encoding="utf-8") == "Größe\n{{x}} <b>\nend"
    assert load(write(tmp_path / "b.txt", "Größe".encode("utf-16"))).text == "Größe"
    assert load(write(tmp_path / "c.txt", "Größe".encode("cp1252"))).text == "Größe"
    assert load(write(tmp_path / "d.txt", b"\xef\xbb\xbfhere")).text == "here"


def test_markdown_and_python_are_taken_as_they_are(tmp_path):
    document = load(write(tmp_path / "a.md", "intro\n\n# The *title*\n\ntext"))
    assert (document.text, document.title) == ("intro\n\n# The *title*\n\ntext", "The *title*")
    assert load(write(tmp_path / "a.py", "def f():\n\treturn 1\n")).text == "def f():\n\treturn 1\n"


def test_html_gives_what_a_person_reads(tmp_path):
    page = """<!doctype html><html><head><title>The  chain</title><style>p {x: y}</style></head><body>
    <nav><ul><li>Home</ul></nav><script>alert("<p>no</p>")</script>
    <h2>Wear &amp; tear</h2><p>A chain
      <b>wears</b> out&hellip;</p><ul><li>one<li>two</ul><pre>a
      b</pre><table><tr><td>1<td>2</tr></table><footer>imprint</footer>&lt;script&gt;</body></html>"""
    document = load(write(tmp_path / "a.html", page))
    assert document.title == "The chain"
    assert document.text.split("\n") == [
        *("## Wear & tear", "", "A chain wears out…", "", "one", "two", "", "a", "b", "", "1 2", "", "<script>"),
    ]


def test_rows_of_a_table_name_their_columns(tmp_path):
    assert load(write(tmp_path / "a.csv", 'name,price\n"chain, long",12\npad,\n')).text == (
        "name: chain, long\nprice: 12\n\nname: pad"
    )
    assert load(write(tmp_path / "a.tsv", "a\tb,c\n1\t2\n")).text == "a: 1\nb,c: 2"
    assert load(write(tmp_path / "b.csv", "a;b\n1;2,5\n")).text == "a: 1\nb: 2,5"


def test_a_notebook_gives_its_cells(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {"cell_type": "code", "source": "print(1)", "outputs": [{"text": "secret"}]},
        {"cell_type": "raw", "source": "raw"},
    ]
    assert load(write(tmp_path / "a.ipynb", json.dumps({"cells": cells}))).text == "# Title\ntext\n\nprint(1)"


def test_a_pdf_knows_its_pages(tmp_path):
    document = load(write(tmp_path / "a.pdf", pdf("The first page.", "The second page.")))
    assert document.text == "The first page.\n\nThe second page.\n\n"
    assert [document.page(document.text.index(word)) for word in ("first", "second")] == [1, 2]
    assert document.page(len(document.text)) == 2


BAD = {
    "binary.txt": (b"GIF89a\0\0", "it is no text"),
    "empty.txt": (b" \n", "there is no text in it"),
    "broken.pdf": (b"%PDF-1.4 nothing", "it is damaged"),
    "scan.pdf": (pdf(""), "there is no text in it"),
    "broken.ipynb": (b"{", "it is damaged"),
    "other.ipynb": (b"[]", "it is damaged"),
    "image.png": (b"x", "files of the kind '.png' are not known"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_says_why_in_one_line(name, tmp_path):
    content, reason = BAD[name]
    with pytest.raises(DataError, match=reason) as error:
        load(write(tmp_path / name, content))
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------- finding files


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    for name in ("a.md", "b.txt", "deep/c.md", "deep/d.md", "deep/image.png", ".git/e.md", "deep/.f.md", "x[1].txt"):
        write(tmp_path / name, "text")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["."], ["a.md", "b.txt", "x[1].txt", "deep/c.md", "deep/d.md"]),
        (["deep", "a.md", "deep/c.md"], ["deep/c.md", "deep/d.md", "a.md"]),
        (["*.md"], ["a.md"]),
        (["**/*.md"], ["a.md", "deep/c.md", "deep/d.md"]),
        (["deep/?.md"], ["deep/c.md", "deep/d.md"]),
        (["deep/[!c].md"], ["deep/d.md"]),
        (["deep/*"], ["deep/c.md", "deep/d.md"]),
        (["x[1].txt"], ["x[1].txt"]),
    ],
)
def test_words_name_files(words, names, tree):
    found = find(words)
    assert [str(path.relative_to(tree)) for path in found.files] == names
    assert found.unreadable == ()
    assert all(found.covers(str(path)) for path in found.files)
    assert not found.covers(str(tree.parent / "other.md"))


def test_a_pattern_covers_what_it_would_name(tree):
    assert find(["**/*.md"]).covers(str(tree / "gone/away.md"))
    assert find(["deep"]).covers(str(tree / "deep/gone.md"))
    assert not find(["deep"]).covers(str(tree / "deeper.md"))
    assert not find(["*.md"]).covers(str(tree / "deep/c.md"))


def test_what_is_named_and_not_there_is_listed(tree):
    found = find(["a.md", "gone.md", "deep/image.png", "*.rst", "~nobody/x.md"])
    assert [path.name for path in found.files] == ["a.md"]
    reasons = [(Path(path).name, reason.split(";")[0]) for path, reason in found.unreadable]
    assert reasons == [
        ("gone.md", "there is no such file"),
        ("image.png", "its kind is not known"),
        ("*.rst", "no file of a known kind matches"),
        ("x.md", "there is no such file"),
    ]
    with pytest.raises(RequestError, match="nothing to index"):
        find([])


def test_links_in_a_circle_end(tree):
    (tree / "deep" / "again").symlink_to(tree)
    assert len(find(["."]).files) == 5
