"""The tests that every store of an index passes: derive a class from `StoreContract` and say which store.

::

    class TestMyStore(StoreContract):
        kind = "my_package.my_store:MyStore"

        @pytest.fixture
        def path(self, tmp_path):
            return tmp_path / "index.my-store"
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from nbadapt.errors import StoreError
from nbadapt.indexing.chunks import Chunk
from nbadapt.indexing.store import Passage, Record, Store, Where, digest
from nbadapt.testing.auditing import connections
from nbadapt.testing.printing import Printed

if TYPE_CHECKING:
    import numpy as np

WIDTH = 8  # numbers in a vector
WAIT = 60.0  # seconds for another process

_WRITER = """
import sys
from pathlib import Path
from nbadapt.testing import stores
stores.write_forever(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
"""


def vectors(texts: Sequence[str]) -> np.ndarray[Any, Any]:
    """A made-up vector of length 1 for each text, always the same: shape (n, WIDTH)."""
    import numpy as np

    drawn = [np.random.default_rng(list(digest(text))).normal(size=WIDTH) for text in texts]
    rows: np.ndarray[Any, Any] = np.array(drawn, np.float32).reshape(len(texts), WIDTH)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def chunks_of(*texts: str) -> list[Chunk]:
    """Chunks that stand behind each other, on a page each."""
    found, start = [], 0
    for page, text in enumerate(texts, 1):
        found.append(Chunk(text, start, start + len(text), page))
        start += len(text) + 2
    return found


def load(kind: str) -> type[Store]:
    """The class behind "module:Class"."""
    module, _, name = kind.partition(":")
    found: type[Store] = getattr(importlib.import_module(module), name)
    return found


def write_forever(kind: str, path: Path, prefix: str) -> None:
    """Store documents, telling of each that was acknowledged; every second one takes the place of document 0."""
    store = load(kind)(path)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for number in range(1, 1_000_000):
        texts = [f"{prefix} {number} part {part}" for part in range(20)]
        for name in (f"{prefix}-{number}", f"{prefix}-0"):
            store.put(Record(name, str(number)), chunks_of(*texts), vectors(texts))
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


class StoreContract:
    """Every test here must pass for a store.

    Attributes:
        kind: "module:Class" of the store.
        kills: how many processes are killed one after the other.
        enough: documents that each of two processes stores beside the other.
    """

    kind: ClassVar[str]
    kills: ClassVar[int] = 4
    enough: ClassVar[int] = 15
    opened: list[Store]

    @pytest.fixture(autouse=True)
    def _close(self) -> Iterator[None]:
        """What a test opened is closed behind it."""
        self.opened = []
        yield
        for store in self.opened:
            store.close()

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """Where the store of one test lies."""
        return tmp_path / "some" / "index"

    @pytest.fixture
    def store(self, path: Path) -> Store:
        """An empty store."""
        return self.open(path)

    def open(self, path: Path) -> Store:
        """The store at a path, opened once more."""
        self.opened.append(load(self.kind)(path))
        return self.opened[-1]

    def put(self, store: Store, path: str, *texts: str, stamp: str = "", **metadata: str) -> None:
        """Store a document with these chunks."""
        store.put(Record(path, stamp, metadata), chunks_of(*texts), vectors(texts))

    def found(self, store: Store, text: str, k: int = 100, where: Where | None = None) -> list[str]:
        """The texts of the chunks nearest to the vector of `text`."""
        ranked = store.nearest(vectors([text])[0], k, where or Where())
        passages = store.passages([chunk for chunk, _ in ranked])
        return [passages[chunk].text for chunk, _ in ranked]

    # ------------------------------------------------------------------ what is stored

    def test_an_empty_store_finds_nothing(self, store: Store) -> None:
        assert (store.documents(), store.count()) == ({}, 0)
        assert store.nearest(vectors(["x"])[0], 3) == []
        assert store.matching("x", 3) == []
        assert (store.passages([1, 2]), store.vectors([digest("x")])) == ({}, {})
        store.remove(["nothing"])

    def test_passages_come_back_as_they_were(self, store: Store, path: Path) -> None:
        texts = ("Größe 日本 🙂", "<b>{{name}}</b>; DROP TABLE chunks; --", "a\nb\t'c' \"d\"")
        self.put(store, "a'b.md", *texts, stamp="1", lang="de", kind="x")
        for opened in (store, self.open(path)):
            assert opened.documents() == {"a'b.md": Record("a'b.md", "1", {"lang": "de", "kind": "x"})}
            ranked = opened.nearest(vectors([texts[1]])[0], 1)
            assert ranked[0].score == pytest.approx(1, abs=1e-5)
            start = len(texts[0]) + 2
            expected = Passage("a'b.md", texts[1], start, start + len(texts[1]), 2, {"lang": "de", "kind": "x"})
            assert opened.passages([ranked[0].chunk]) == {ranked[0].chunk: expected}
            assert opened.count() == 3

    def test_a_document_may_have_no_chunks_and_a_chunk_no_page(self, store: Store) -> None:
        import numpy as np

        self.put(store, "empty")
        self.put(store, "other", "text")
        store.put(Record("plain"), [Chunk("plain", 0, 5)], vectors(["plain"]))
        assert set(store.documents()) == {"empty", "other", "plain"}
        assert [p.page for p in store.passages([store.nearest(vectors(["plain"])[0], 1)[0].chunk]).values()] == [None]
        with pytest.raises(StoreError):
            store.put(Record("x"), chunks_of("x"), np.zeros((2, WIDTH), np.float32))
        assert "x" not in store.documents()

    def test_a_store_takes_vectors_of_one_width(self, store: Store) -> None:
        import numpy as np

        self.put(store, "a", "a")
        with pytest.raises(StoreError) as error:
            store.put(Record("b"), chunks_of("b"), np.ones((1, WIDTH + 1), np.float32))
        assert "\n" not in str(error.value)
        with pytest.raises(StoreError):
            store.nearest(np.ones(WIDTH + 1, np.float32), 1)
        assert set(store.documents()) == {"a"}

    def test_settings_are_kept_as_they_were_first(self, store: Store, path: Path) -> None:
        assert store.remember({}) == {}
        assert store.remember({"model": "a"}) == {"model": "a"}
        assert self.open(path).remember({"model": "b", "size": "9"}) == {"model": "a", "size": "9"}

    def test_vectors_are_found_by_their_text(self, store: Store) -> None:
        import numpy as np

        self.put(store, "a", *[f"text {i}" for i in range(700)])
        self.put(store, "b", "text 3", "other")
        found = store.vectors([digest(f"text {i}") for i in range(-1, 700)] + [digest("other")])
        assert len(found) == 701
        for text in ("text 0", "text 3", "text 699", "other"):
            np.testing.assert_allclose(found[digest(text)], vectors([text])[0], atol=1e-6)

    # ------------------------------------------------------------------ what changes

    def test_a_changed_document_leaves_no_stale_chunk(self, store: Store) -> None:
        self.put(store, "a", "old one", "old two")
        self.put(store, "b", "stays here")
        assert set(self.found(store, "old one")) == {"old one", "old two", "stays here"}
        self.put(store, "a", "new one", stamp="2")
        assert set(self.found(store, "old one")) == {"new one", "stays here"}
        assert store.matching("old two", 9) == []
        assert (store.count(), store.documents()["a"].stamp) == (2, "2")

    def test_a_removed_document_leaves_no_stale_chunk(self, store: Store) -> None:
        self.put(store, "a", "one", "two")
        self.put(store, "b", "three")
        before = store.nearest(vectors(["one"])[0], 3)
        store.remove(["a", "nothing"])
        assert (self.found(store, "one"), list(store.documents()), store.count()) == (["three"], ["b"], 1)
        assert (store.matching("one two", 9), store.vectors([digest("one")])) == ([], {})
        assert len(store.passages([chunk for chunk, _ in before])) == 1
        store.remove(["b"])
        assert self.found(store, "one") == []

    def test_touching_keeps_the_chunks(self, store: Store) -> None:
        self.put(store, "a", "one", lang="de")
        store.touch(Record("a", "2", {"lang": "en"}))
        assert store.documents() == {"a": Record("a", "2", {"lang": "en"})}
        assert self.found(store, "one", where=Where(metadata={"lang": "en"})) == ["one"]

    def test_a_document_without_chunks_may_come_first(self, store: Store) -> None:
        import numpy as np

        store.put(Record("empty"), [], np.zeros((0, 0), np.float32))
        self.put(store, "a", "one")
        store.touch(Record("empty", "2", {"lang": "en"}))
        store.touch(Record("nothing", "2"))
        assert store.documents() == {"empty": Record("empty", "2", {"lang": "en"}), "a": Record("a")}
        assert (self.found(store, "one"), store.count()) == (["one"], 1)
        self.put(store, "empty", "two")
        assert (set(self.found(store, "one")), store.count()) == ({"one", "two"}, 2)

    # ------------------------------------------------------------------ search

    def test_search_is_exact(self, store: Store) -> None:
        import numpy as np

        texts = [f"text {i}" for i in range(300)]
        for start in range(0, 300, 30):
            self.put(store, f"d{start}", *texts[start : start + 30])
        for asked in ("x", "y", "text 7"):
            scores = vectors(texts) @ vectors([asked])[0]
            for k in (1, 7, 300, 999):
                expected = [texts[i] for i in np.argsort(-scores)[:k]]
                assert self.found(store, asked, k) == expected
            ranked = store.nearest(vectors([asked])[0], 20)
            np.testing.assert_allclose([score for _, score in ranked], np.sort(scores)[::-1][:20], atol=1e-5)

    @pytest.mark.parametrize(
        ("where", "admitted"),
        [
            (Where("notes/*"), {"notes/a", "notes/deep/b"}),
            (Where("*/?"), {"notes/a", "notes/deep/b", "other/c"}),
            (Where(metadata={"lang": "de"}), {"notes/a", "other/c"}),
            (Where("notes/*", {"lang": "de", "kind": "md"}), {"notes/a"}),
            (Where("nothing*"), set()),
            (Where(metadata={"lang": "d%"}), set()),
            (Where(metadata={"x' OR '1": "1"}), set()),
        ],
    )
    def test_a_filter_returns_all_that_it_admits(self, store: Store, where: Where, admitted: set[str]) -> None:
        for i in range(40):  # nearer to the question than what is admitted
            self.put(store, f"else{i}", "question", lang="en")
        for path, lang in (("notes/a", "de"), ("notes/deep/b", "en"), ("other/c", "de")):
            self.put(store, path, f"{path} one", f"{path} two", lang=lang, kind="md")
        texts = {f"{path} {word}" for path in admitted for word in ("one", "two")}
        assert {path for path, record in store.documents().items() if where.admits(record)} == admitted
        assert set(self.found(store, "question", 100, where)) == texts
        assert len(self.found(store, "question", 3, where)) == min(3, len(texts))
        ranked = store.matching("one", 100, where)
        passages = store.passages([chunk for chunk, _ in ranked])
        assert {passage.path for passage in passages.values()} == admitted

    @pytest.mark.parametrize(
        ("pattern", "admitted"),
        [
            ("a[1].md", {"a[1].md"}),
            ("*[1]*", {"a[1].md", "[1]/b"}),
            ("a[!2].md", {"a[!2].md"}),
            ("?[?].md", {"a[1].md"}),
        ],
    )
    def test_brackets_stand_for_themselves(self, store: Store, pattern: str, admitted: set[str]) -> None:
        for name in ("a1.md", "a[1].md", "a[!2].md", "a3.md", "1/b", "[1]/b", "]", "a\\[1].md"):
            self.put(store, name, f"text of {name}")
        admitted = admitted | ({"a\\[1].md"} if pattern.startswith("*") else set())
        where = Where(pattern)
        assert {name for name, record in store.documents().items() if where.admits(record)} == admitted
        assert set(self.found(store, "question", where=where)) == {f"text of {name}" for name in admitted}
        assert len(store.matching("text", 99, where)) == len(admitted)

    def test_words_are_words_and_no_operators(self, store: Store) -> None:
        self.put(store, "a", "The chain wears out.", "Grüße, naïve café", "NOT a NEAR miss")
        for asked, expected in (
            ("chain", ["The chain wears out."]),
            ('"chain AND (pad* OR -', ["The chain wears out."]),
            ("GRÜSSE grüße", ["Grüße, naïve café"]),
            ("NOT", ["NOT a NEAR miss"]),
            ("text:chain ^chain {chain}", ["The chain wears out."]),
            ("%_*\"'()", []),
            ("", []),
        ):
            ranked = store.matching(asked, 9)
            passages = store.passages([chunk for chunk, _ in ranked])
            assert [passages[chunk].text for chunk, _ in ranked] == expected, asked

    def test_rare_words_count_more_than_frequent_ones(self, store: Store) -> None:
        self.put(store, "a", *[f"the bell number {i}" for i in range(9)], "the saddle")
        ranked = store.matching("the bell saddle", 20)
        assert store.passages([ranked[0].chunk])[ranked[0].chunk].text == "the saddle"
        assert [r.score for r in ranked] == sorted((r.score for r in ranked), reverse=True)
        assert len(ranked) == 10

    # ------------------------------------------------------------------ what is around it

    def _use(self, path: Path) -> None:
        """Everything that a store does, once, from its opening to its closing."""
        store = self.open(path)
        store.remember({"model": "a"})
        self.put(store, "a", "one", "two", lang="de")
        store.touch(Record("a", "2", {"lang": "en"}))
        self.found(store, "one", where=Where(metadata={"lang": "en"}))
        store.matching("one", 9)
        store.vectors([digest("one")])
        store.tidy()
        store.remove(["a"])
        store.close()

    def test_it_prints_nothing(self, path: Path) -> None:
        """It prints nothing, from Python or past it."""
        with Printed() as said:
            self._use(path)
        assert said.text.strip() == ""

    def test_it_reaches_for_no_other_machine(self, path: Path) -> None:
        """It reaches for no other machine; its server may be on this one (child processes are not watched).

        Heard is what goes through Python in this process: not what a library does in machine code.
        """
        with connections() as tried:
            self._use(path)
        assert tried == []

    # ------------------------------------------------------------------ interrupts

    def test_an_interrupt_leaves_no_half(self, store: Store) -> None:
        self.put(store, "first", "one")
        main = threading.main_thread().ident
        assert main is not None
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background may ignore it
        try:
            self._interrupted(store, main)
        finally:
            signal.signal(signal.SIGINT, before)

    def _interrupted(self, store: Store, main: int) -> None:
        def put_until_interrupted(number: int) -> None:
            threading.Timer(0.002 * number, signal.pthread_kill, (main, signal.SIGINT)).start()
            for again in range(10_000):
                self.put(store, "same", *[f"{number} {again} part {part}" for part in range(20)])

        for number in range(8):
            with pytest.raises(KeyboardInterrupt):
                put_until_interrupted(number)
            own = [text.partition(" part")[0] for text in self.found(store, "x") if text != "one"]
            assert len(own) in {0, 20}
            assert len(set(own)) <= 1
            assert store.count() == 1 + len(own)
            self.put(store, "next", f"{number}")
            store.remove(["next"])

    # ------------------------------------------------------------------ processes

    def test_what_one_writes_another_reads(self, store: Store, path: Path) -> None:
        other = self.open(path)
        for i in range(5):
            self.put(store, f"a{i}", f"first {i}")
            self.put(other, f"b{i}", f"second {i}")
            assert len(self.found(store, "x")) == len(self.found(other, "x")) == 2 * i + 2
        other.remove(["a0"])
        assert "first 0" not in self.found(store, "x")
        other.close()
        other.close()

    def test_threads_share_a_store(self, store: Store) -> None:
        def work(number: int) -> int:
            self.put(store, f"d{number}", f"text {number}")
            return len(self.found(store, "x")) + len(store.matching("text", 99))

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(40)))
        assert len(self.found(store, "x")) == 40

    def writer(self, path: Path, prefix: str) -> subprocess.Popen[str]:
        """Another process that stores documents until it is killed."""
        paths = os.pathsep.join(entry for entry in sys.path if entry)
        command = [sys.executable, "-c", _WRITER, self.kind, str(path), prefix]
        process = subprocess.Popen(  # noqa: S603 - this interpreter and our own code
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def settle(self, process: subprocess.Popen[str]) -> None:
        """Wait until nothing that a killed process began is still under way: for a store whose server goes on."""

    def check_whole(self, store: Store, told: dict[str, int]) -> None:
        """Every acknowledged document is there, and every document is there as a whole."""
        documents = store.documents()
        for prefix, last in told.items():
            assert {f"{prefix}-{number}" for number in range(1, last + 1)} <= set(documents)
        everything = self.found(store, "x", 10**6)
        assert len(everything) == store.count() == 20 * len(documents)
        expected = []
        for path, record in documents.items():
            expected += [f"{path.rpartition('-')[0]} {record.stamp} part {part}" for part in range(20)]
        assert sorted(everything) == sorted(expected)
        assert len(store.matching("part", 10**6)) == len(everything)

    def test_a_kill_loses_nothing_and_leaves_no_half(self, path: Path) -> None:
        told = {}
        for attempt in range(self.kills):
            process = self.writer(path, f"kill{attempt}")
            assert process.stdout is not None
            last = 0
            until = time.monotonic() + 0.15 * (attempt + 1)
            while time.monotonic() < until or not last:
                last = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read().split("\n")
            process.wait()
            process.stdout.close()
            told[f"kill{attempt}"] = max([last, *(int(line) for line in rest[:-1])])
            self.settle(process)
            store = self.open(path)
            self.check_whole(store, told)
            store.close()

    def test_processes_write_side_by_side(self, path: Path) -> None:
        store = self.open(path)
        processes = {prefix: self.writer(path, prefix) for prefix in ("left", "right")}
        told = dict.fromkeys(processes, 0)
        end = time.monotonic() + WAIT
        own = 0
        while min(told.values()) < self.enough and time.monotonic() < end:
            own += 1
            texts = [f"own {own} part {part}" for part in range(20)]
            store.put(Record(f"own-{own}", str(own)), chunks_of(*texts), vectors(texts))
            assert len(store.nearest(vectors(["x"])[0], 10**6)) % 20 == 0
            for prefix, process in processes.items():
                assert process.stdout is not None
                told[prefix] = int(process.stdout.readline())
        for process in processes.values():
            process.send_signal(signal.SIGKILL)
            process.communicate()
            self.settle(process)
        assert min(told.values()) >= self.enough
        self.check_whole(store, told)
        store.close()
