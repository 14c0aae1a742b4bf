"""The site: every method's page is made from its plugin, quoted messages exist, what is included is there."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from test_contract import public_names

from nbadapt import manual, registry, settings
from nbadapt.selection.comparison import ComparisonPlan, MethodComparison

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
ELSEWHERE = {
    "measured",
    "methods",
    "when-something-is-wrong",
    "your-own-method",
}  # sections that have pages of their own
METHODS = sorted(
    name for name, found in registry.entries().items() if {entry.distribution for entry in found} == {"nbadapt"}
)


@pytest.fixture(scope="module")
def method_pages() -> Iterator[Any]:
    sys.path.insert(0, str(DOCS))
    yield importlib.import_module("method_pages")
    sys.path.remove(str(DOCS))


@pytest.fixture(scope="module")
def parts(method_pages: Any) -> Any:
    pytest.importorskip("sphinx")
    return importlib.import_module("readme_parts")


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_a_whole_page(name: str, method_pages: Any) -> None:
    method = registry.load(name)
    page = method_pages.page(method)
    found = method_pages.about(method)
    assert found.use, "say in the module's docstring:  When to use it: ..."
    assert found.avoid, "say in the module's docstring:  When not: ..."
    assert found.use.endswith(".")
    assert "```text" in found.body, "the docstring has a diagram and the equation"
    for setting in settings.describe(method):
        assert f"| `{setting.name}` |" in page
    assert manual.example(method).cell in page
    assert method.reference in page
    headings = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert headings == [
        "When to use it", "An example", "Settings", "Where it works", "What it costs", "Reference",
    ]  # fmt: skip


@pytest.mark.parametrize("task", ["classification", "generation"])
def test_costs_are_those_of_the_benchmarks(task: str, method_pages: Any) -> None:
    """Of each method the row of its defaults."""
    costs = importlib.import_module("method_costs")
    table = (ROOT / f"benchmarks/results/finetuning_methods_{task}.md").read_text()
    first = r"([\d.,]+)[^|]*"  # of several seeds, and without an interval
    figures = rf"{first}\| {first}\| {first}\|[^|]*\| {first}\| {first}"
    rows = dict[str, list[str]]()
    for name, *cells in re.findall(rf"^\| `([\w-]+)` \|[^|]*\|[^|]*\| {figures}\|$", table, re.M):
        rows.setdefault(name, cells)  # the table of fewer rows stands first
    assert set(rows) >= {"lora", "full", "adapter"}
    page = costs.costs(task)
    for name, cells in rows.items():
        assert f"| {' | '.join((f'`{name}`', *cells))} |" in page, name


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_measured_or_said_not_to_be(name: str, method_pages: Any) -> None:
    """Its own row, with figures, stands in a table; or the page says that nothing measures it."""
    costs = importlib.import_module("method_costs")
    page = method_pages.page(registry.load(name))
    section = page.partition("## What it costs\n")[2].partition("\n## ")[0].strip()
    if section == costs.UNMEASURED:
        return
    named = re.compile(rf"\| (\*\*`?{name}\b|`%%\w+ {name} )", re.IGNORECASE)
    rows = [line for line in section.splitlines() if named.match(line)]
    assert rows
    assert all(re.search(r"\d", line.partition(" | ")[2]) for line in rows)
    heads = [line for line in section.splitlines() if line.startswith("| --- ")]
    assert all(line.count(" | ") in {head.count(" | ") for head in heads} for line in rows)


def test_every_built_in_method_is_measured(method_pages: Any) -> None:
    costs = importlib.import_module("method_costs")
    assert [name for name in METHODS if not costs.is_benchmarked(name)] == []
    assert costs.of_method("another") == costs.UNMEASURED


def test_a_run_of_a_notebook_is_read_from_its_summary(method_pages: Any, tmp_path: Path) -> None:
    summary = (
        "finetune mine · smollm2: done in 2 min 14 s\n  Step                18 / 18\n  Training loss       0.3958\n"
        "  Accuracy            0.8235\n  Rows, 95 % interval  1 to 2\n  RAM                 2.96 GiB, peak 3.01 GiB\n"
    )
    cells = [
        {"cell_type": "markdown", "source": ["%%finetune mine --model smollm2"]},
        {
            "source": ["%%finetune mine --model smollm2\n", "epochs: 1"],
            "outputs": [{"data": {"text/plain": [summary]}}],
        },
        {"source": ["%nbadapt show mine"], "outputs": [{"data": {"text/plain": [summary]}}]},
    ]
    path = tmp_path / "01.ipynb"
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    (run,) = importlib.import_module("method_costs")._runs(path)
    assert run[:4] == ("01.ipynb", "mine", "%%finetune mine --model smollm2 · epochs: 1", "2 min 14 s")
    assert run.quality == "Accuracy 0.8235"
    assert run.figures["RAM"] == "2.96 GiB, peak 3.01 GiB"


def test_a_docstring_becomes_markdown(method_pages: Any) -> None:
    blocks = ["::", "    a ──> b", "Uses `x` and *y* of <z> (arXiv:2106.09685), see https://e.org/a_b.\n    W = 1"]
    assert list(method_pages._markdown(blocks)) == [
        "```text\na ──> b\n```",
        "Uses `x` and \\*y\\* of \\<z\\> ([arXiv:2106.09685](https://arxiv.org/abs/2106.09685)), see <https://e.org/a_b>.",
        "```text\nW = 1\n```",
    ]


# ---------------------------------------------------------------------------------------------- troubleshooting


def messages() -> list[str]:
    """Every text of the code, with `…` for each value that is filled in."""
    found = []
    for file in [*(ROOT / "nbadapt").rglob("*.py"), *(ROOT / "plugins" / "nbadapt_plugins").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


HEADINGS = re.findall(r"^### `(.+)`$", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
MESSAGES = messages()


@pytest.mark.parametrize("heading", HEADINGS)
def test_a_quoted_message_exists(heading: str) -> None:
    parts = [re.escape(part) for part in heading.split("…")]
    pattern = re.compile(".*?".join(parts), re.DOTALL)
    longest = max(heading.split("…"), key=len)
    candidates = [text for text in MESSAGES if longest in text]
    assert any(pattern.fullmatch(text) for text in candidates), f"no message of the code reads {heading}: {candidates}"


def test_there_are_enough_of_them() -> None:
    assert len(HEADINGS) >= 25
    assert len(set(HEADINGS)) == len(HEADINGS)


# ---------------------------------------------------------------------------------------------- the built site


SITE = ROOT / "build" / "docs"
IS_BUILT = (SITE / "index.html").is_file()  # `make test` has just made it


def slow_unless_built(test: Any) -> Any:
    return test if IS_BUILT else pytest.mark.slow(test)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.anchors |= {value for key in ("id", "name") if (value := named.get(key))}
        target = named.get({"a": "href", "img": "src"}.get(tag, ""))
        if target:
            self.links.append(target)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, _Links]:
    """The pages of the site that `make docs` has built; without it of one that is built here, without a warning."""
    built = SITE if IS_BUILT else _build(tmp_path_factory.mktemp("site"))
    pages = {}
    for file in built.rglob("*.html"):
        pages[file] = _Links()
        pages[file].feed(file.read_text(encoding="utf-8"))
    return pages


def _build(room: Path) -> Path:
    pytest.importorskip("sphinx")
    source = room / "repository" / "docs"
    for name in ("docs", "nbadapt", "plugins", "benchmarks", "example_notebooks", "tests"):
        shutil.copytree(ROOT / name, source.parent / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
    for file in ROOT.glob("*.*"):
        if file.is_file():
            shutil.copy(file, source.parent)
    shutil.copy(ROOT / "LICENSE", source.parent)
    options = ["--quiet", "--fail-on-warning", "--keep-going", "--builder", "html"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(source), str(room / "site")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return room / "site"


@slow_unless_built
def test_the_links_and_pictures_of_the_site_are_there(site: dict[Path, _Links]) -> None:
    missing = [
        f"{file.name} -> {link}" for file, page in site.items() for link in page.links if not _holds(file, link, site)
    ]
    assert missing == []
    assert any(link.endswith("playground.png") for page in site.values() for link in page.links)
    assert {f"{name}.html" for name in METHODS} <= {file.name for file in site if file.parent.name == "methods"}


def _holds(file: Path, link: str, site: dict[Path, _Links]) -> bool:
    if re.match(r"[a-z]+:", link):
        return True  # `make linkcheck` asks those
    path, _, anchor = link.partition("#")
    target = (file.parent / path).resolve() if path else file
    return target.exists() and (not anchor or target not in site or anchor in site[target].anchors)


def test_a_picture_that_is_missing_is_found(tmp_path: Path) -> None:
    page = _Links()
    page.feed('<a href="a.html#b">to</a><img src="images/gone.png" alt="">')
    assert page.links == ["a.html#b", "images/gone.png"]
    assert not _holds(tmp_path / "page.html", "images/gone.png", {})


@slow_unless_built
def test_every_public_name_is_described_in_the_api(site: dict[Path, _Links]) -> None:
    described = set().union(*(page.anchors for file, page in site.items() if file.parent.name == "api"))
    public = {f"{home}.{name}" for home, names in public_names().items() for name in names}
    for answer in (MethodComparison, ComparisonPlan):
        path = f"{answer.__module__}.{answer.__name__}"
        public |= {path, *(f"{path}.{name}" for name in vars(answer) if not name.startswith("_"))}
    assert public - described == set()


def test_every_part_that_is_made_is_on_a_page(parts: Any, tmp_path: Path) -> None:
    """A section that no page includes would be lost on the site; the page of a table that is gone is swept away."""
    gone = tmp_path / "measured" / "gone.md"
    gone.parent.mkdir()
    gone.write_text("# Gone")
    parts.write(tmp_path)
    assert not gone.exists()
    made = {file.stem for file in (tmp_path / "_parts").glob("*.md")}
    included = set(re.findall(r"_parts/([\w-]+)\.md", "".join(file.read_text() for file in DOCS.rglob("*.md"))))
    assert included <= made
    assert made - included == ELSEWHERE


@pytest.mark.parametrize("page", ["comparing", "playing"])
def test_a_page_is_in_the_table_and_in_the_tree(page: str) -> None:
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    assert f"]({page}.md)" in text
    assert re.search(rf"^{page}$", text, re.MULTILINE)
