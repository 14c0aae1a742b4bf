"""Embeddings against plain transformers, and their cache against whatever may happen to a file."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nbadapt import model_names, models
from nbadapt.engines import embed, embedding_cache
from nbadapt.engines.embed import Embedder, batches, fingerprint
from nbadapt.engines.embedding_cache import EmbeddingCache, Entry, digest
from nbadapt.errors import Stopped
from nbadapt.method import Job
from nbadapt_plugins.features import Features
from tests import tiny_models

pytestmark = pytest.mark.slow  # the conformance kit has every method in the quick tests too

ARCHITECTURES = ("bert", "distilbert", "roberta", "gpt2", "llama", "qwen2")
TEXTS = [row["text"] for row in tiny_models.reviews(70)] + ["short", "a long text " * 30, "short"]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NBADAPT_EMBEDDINGS", str(tmp_path / "embeddings"))
    yield
    models.free()


def make_job(architecture: str, folder: Path | None = None, **settings: object) -> Job:
    return Job(
        method="features",
        config=Features.Config(**settings),
        model=model_names.resolve(str(folder or tiny_models.folder(architecture))),
        task="classification",
        directory=Path("unused"),
        labels=("negative", "positive"),
    )


def vectors(job: Job, pooling: str = "mean", texts: list[str] = TEXTS) -> np.ndarray:
    return Embedder(job, pooling).embed(texts, lambda _: None).vectors


def plain(architecture: str, pooling: str, texts: list[str], limit: int) -> np.ndarray:
    """One text at a time, with nothing but transformers."""
    from transformers import AutoModel, AutoTokenizer

    folder = tiny_models.folder(architecture)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    found = []
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            output = model(ids)
        hidden = output.last_hidden_state[0]
        choices = {"cls": hidden[0], "last": hidden[-1], "mean": hidden.mean(0)}
        found.append((output.pooler_output[0] if pooling == "pooler" else choices[pooling]).numpy())
    return np.stack(found)


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_vectors_are_those_of_plain_transformers(architecture, pooling):
    found = vectors(make_job(architecture, max_length=64), pooling)
    np.testing.assert_allclose(found, plain(architecture, pooling, TEXTS, 64), rtol=1e-4, atol=1e-5)
    assert found.dtype == np.float32


def test_the_pooler_is_berts_own():
    found = vectors(make_job("bert", max_length=64), "pooler")
    np.testing.assert_allclose(found, plain("bert", "pooler", TEXTS, 64), rtol=1e-4, atol=1e-5)


def test_lengths_are_those_before_the_cut():
    from transformers import AutoTokenizer

    embedded = Embedder(make_job("bert", max_length=16), "mean").embed(TEXTS, lambda _: None)
    tokenizer = AutoTokenizer.from_pretrained(tiny_models.folder("bert"))
    assert embedded.lengths.tolist() == [len(tokenizer(text)["input_ids"]) for text in TEXTS]
    assert max(embedded.lengths) > 16


def test_batches_hold_few_tokens_few_texts_and_every_text_once():
    lengths = [5, 3000, 700, 1, 512, 512, 512, 513, *[40] * 100]
    found = list(batches(lengths))
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) <= embed.BATCH
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= embed.TOKENS
    assert len(found) == 7


# ------------------------------------------------------------------------------------------------ once


@pytest.fixture
def forwards(monkeypatch):
    """How many texts go through the model."""
    seen: list[int] = []
    original = Embedder._vectors

    def counting(self, model, ids, pad):
        seen.append(len(ids))
        return original(self, model, ids, pad)

    monkeypatch.setattr(Embedder, "_vectors", counting)
    return seen


def test_a_text_is_embedded_once_and_a_model_with_nothing_to_do_is_not_loaded(forwards):
    job = make_job("bert")
    first = vectors(job)
    assert sum(forwards) == len(set(TEXTS))  # the same text in two rows, too
    models.free()
    np.testing.assert_array_equal(vectors(job), first)
    assert sum(forwards) == len(set(TEXTS))
    assert not models._bases
    vectors(job, texts=[*TEXTS, "a new one"])
    assert sum(forwards) == len(set(TEXTS)) + 1


@pytest.mark.parametrize("change", ["pooling", "max_length", "dtype", "model", "tokenizer"])
def test_what_decides_a_vector_decides_where_it_is_kept(change, forwards, tmp_path):
    folder = Path(shutil.copytree(tiny_models.folder("bert"), tmp_path / "model"))
    job = make_job("bert", folder)
    first = vectors(job)
    done = sum(forwards)
    match change:
        case "pooling":
            vectors(job, "cls")
        case "max_length":
            vectors(make_job("bert", folder, max_length=8))
        case "dtype":
            vectors(replace(job, dtype="bfloat16"))
        case "model":  # under the same name
            models.free()
            tiny_models.tiny_model("bert", folder, seed=1)
            assert not np.allclose(vectors(job), first)
        case "tokenizer":
            file = folder / "tokenizer.json"
            file.write_text(
                file.read_text()
                .replace('"lowercase":true', '"lowercase":false')
                .replace('"lowercase": true', '"lowercase": false')
            )
            vectors(job)
    assert sum(forwards) == 2 * done


def test_a_copy_of_the_model_elsewhere_is_the_same_model(forwards, tmp_path):
    vectors(make_job("bert"))
    done = sum(forwards)
    copied = Path(shutil.copytree(tiny_models.folder("bert"), tmp_path / "model"))
    (copied / "README.md").write_text("about it")
    vectors(make_job("bert", copied))
    assert sum(forwards) == done
    assert fingerprint(model_names.resolve(str(copied))) == fingerprint(
        model_names.resolve(str(tiny_models.folder("bert")))
    )


def test_a_stop_acts_between_batches_and_keeps_what_is_done(forwards):
    job, told = make_job("bert"), []

    def stop_at_the_second(done: int) -> None:
        told.append(done)
        if done and len(told) == 3:
            raise Stopped

    with pytest.raises(Stopped):
        Embedder(job, "mean").embed(TEXTS, stop_at_the_second)
    assert told[0] == 0
    assert len(forwards) == 2
    vectors(job)
    assert sum(forwards) == len(set(TEXTS))


def test_progress_counts_every_row_up_to_the_last():
    told: list[int] = []
    Embedder(make_job("bert"), "mean").embed(TEXTS, told.append)
    assert told[0] == 0
    assert told[-1] == len(TEXTS)
    assert told == sorted(told)
    again: list[int] = []
    Embedder(make_job("bert"), "mean").embed(TEXTS, again.append)
    assert again == [len(TEXTS)]


def test_a_cache_that_cannot_be_written_costs_no_vectors(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("NBADAPT_EMBEDDINGS", str(blocked))
    embedder = Embedder(make_job("bert"), "mean")
    assert len(embedder.embed(TEXTS, lambda _: None).vectors) == len(TEXTS)
    assert not embedder.kept


# ------------------------------------------------------------------------------------------------ damage


def entries(n: int, width: int = 4) -> dict[bytes, Entry]:
    return {digest(f"text {i}"): Entry(np.full(width, i, np.float32), i) for i in range(n)}


def files(cache: EmbeddingCache) -> list[Path]:
    return sorted(cache.folder.glob("*.safetensors"))


def test_what_is_added_is_found_and_nothing_else():
    cache = EmbeddingCache("key")
    cache.add(entries(10))
    found = EmbeddingCache("key").find([digest("text 3"), digest("text 99")])
    assert found.keys() == {digest("text 3")}
    assert found[digest("text 3")].length == 3
    np.testing.assert_array_equal(found[digest("text 3")].vector, np.full(4, 3, np.float32))
    assert not EmbeddingCache("other").find([digest("text 3")])


@pytest.mark.parametrize("damage", ["emptied", "cut", "flipped", "foreign"])
def test_a_damaged_file_is_removed_and_its_texts_are_embedded_again(damage):
    job = make_job("bert")
    first = vectors(job)
    (file,) = embedding_cache.root().glob("*/*.safetensors")
    content = bytearray(file.read_bytes())
    match damage:
        case "emptied":
            content.clear()
        case "cut":
            del content[len(content) // 2 :]
        case "flipped":
            place = content.index(first[0].tobytes())
            content[place + 5] ^= 0x40
        case "foreign":
            content = bytearray(b"something else altogether")
    file.write_bytes(content)
    np.testing.assert_allclose(vectors(job), first, rtol=1e-5, atol=1e-6)
    (mended,) = embedding_cache.root().glob("*/*.safetensors")
    assert mended.name != file.name


def test_beyond_the_limit_the_files_not_used_for_long_go(monkeypatch):
    cache = EmbeddingCache("key")
    now = time.time()
    for i in range(4):
        cache.add({digest(f"text {i}"): Entry(np.zeros(1000, np.float32), 1)})
        for file in files(cache):
            if file.stat().st_mtime > now - 10:
                os.utime(file, (now - 1000 + i, now - 1000 + i))
    assert cache.find([digest("text 0")])  # used: now the newest
    size = files(cache)[0].stat().st_size
    monkeypatch.setattr(embedding_cache, "MOST_BYTES", 3 * size)
    cache.add({digest("text 4"): Entry(np.zeros(1000, np.float32), 1)})
    there = [i for i in range(5) if cache.find([digest(f"text {i}")])]
    assert there == [0, 3, 4]


def test_what_a_killed_process_left_unfinished_is_swept_up():
    cache = EmbeddingCache("key")
    cache.add(entries(1))
    old, fresh = cache.folder / ".old", cache.folder / ".fresh"
    for path in (old, fresh):
        path.write_bytes(b"half a file")
    os.utime(old, (1, 1))
    cache.add(entries(2))
    assert fresh.exists()
    assert not old.exists()


WRITER = """
import sys
import numpy as np
from nbadapt.engines.embedding_cache import EmbeddingCache, Entry, digest
cache, i = EmbeddingCache("key"), 0
while True:
    cache.add({digest(f"text {j}"): Entry(np.full(4, j, np.float32), j) for j in range(i, i + 50)})
    i += 50
    print(i, flush=True)
"""


def test_a_process_killed_while_it_writes_leaves_only_whole_files():
    for _ in range(3):
        worker = subprocess.Popen([sys.executable, "-c", WRITER], stdout=subprocess.PIPE, text=True)
        assert worker.stdout is not None
        for _ in range(3):
            written = int(worker.stdout.readline())
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        worker.stdout.close()
        cache = EmbeddingCache("key")
        before = files(cache)
        found = cache.find([digest(f"text {i}") for i in range(written)])
        assert len(found) == written
        assert all(found[digest(f"text {i}")].vector.tolist() == [i] * 4 for i in range(written))
        assert files(cache) == before  # none was damaged


def _write(first: int) -> None:
    for i in range(first, first + 200, 20):
        wanted = {digest(f"text {j}"): Entry(np.full(4, j, np.float32), j) for j in range(i, i + 20)}
        EmbeddingCache("key").add(wanted)
        assert len(EmbeddingCache("key").find(wanted)) == 20


def test_two_processes_read_and_write_side_by_side():
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        pool.map(_write, [0, 100])
    found = EmbeddingCache("key").find([digest(f"text {i}") for i in range(300)])
    assert len(found) == 300
