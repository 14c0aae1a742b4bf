"""Texts that hold special tokens: no classifier refuses them, and an end within a text is text."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
import tiny_models
import torch
from tokenizers import normalizers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from nbadapt import data, model_names, models, pretrained
from nbadapt.data import Examples
from nbadapt.engines.classify import Classifier
from nbadapt.engines.encoding import collate, encode, text_ids
from nbadapt.errors import DataError
from nbadapt.events import Progress
from nbadapt.method import ModelRef
from nbadapt.testing.tiny import Architecture
from nbadapt_plugins.lora import Lora
from tests import trained_jobs

LABELS = {"bad": 0, "good": 1}


def classifier(architecture: Any) -> tuple[Any, Any]:
    folder = str(tiny_models.folder(architecture))
    tokenizer = pretrained.load_tokenizer(ModelRef("tiny", "folder", folder))
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2).eval()
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.id2label = {number: name for name, number in LABELS.items()}
    return model, tokenizer


def texts_with(tokenizer: Any) -> list[str]:
    """Every special token of a tokenizer, within a text, at its end, alone and twice; and a text without."""
    found = ["a plain review"]
    for token in tokenizer.all_special_tokens:
        found += [f"fine {token} bad", f"fine{token}", token, f"{token}{token} fine", f"{'long ' * 60}{token}"]
    return found


@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_a_text_with_special_tokens_is_classified_as_it_is_alone(architecture: Any) -> None:
    model, tokenizer = classifier(architecture)
    tuned = Classifier(model, tokenizer, 32)
    texts = texts_with(tokenizer)
    together = tuned.predict(texts).probabilities
    for text, row in zip(texts, together, strict=True):
        assert row == pytest.approx(tuned.predict([text]).probabilities[0], abs=1e-5)


@pytest.mark.parametrize("architecture", ["t5", "roberta", "llama", "bert"])
def test_rows_with_special_tokens_are_trained_on(architecture: Any) -> None:
    model, tokenizer = classifier(architecture)
    texts = texts_with(tokenizer)
    rows = [{"text": text, "label": "good" if i % 2 else "bad"} for i, text in enumerate(texts)]
    encoded = encode(data.read(rows, name="rows", task="classification"), tokenizer, LABELS, 32)
    assert encoded.cut == sum("long" in text for text in texts)
    assert max(encoded.lengths) == 32
    end = tokenizer.eos_token_id
    closing = tokenizer("?")["input_ids"][-1] == end
    assert {row["input_ids"].count(end) for row in encoded.rows} == ({int(closing)} if end is not None else {0})
    model(**collate(encoded.rows, tokenizer.pad_token_id)).loss.backward()
    if closing:  # nothing of the text is lost
        (ids,) = text_ids(tokenizer, [f"fine {tokenizer.eos_token} bad"], None)
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == f"fine {tokenizer.eos_token} bad"


@pytest.mark.parametrize("task", ["generation", "text"])
def test_a_row_whose_labels_would_all_be_masked_is_refused_before_training(task: str, tmp_path: Path) -> None:
    """Some normalizers take every letter of a text away; without an end token nothing is left to learn."""
    folder = shutil.copytree(tiny_models.folder("gpt2"), tmp_path / "model")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token, tokenizer.eos_token = tokenizer.eos_token, None
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u2610", "")
    tokenizer.save_pretrained(folder)
    rows = [{"prompt": "English: dog\n", "completion": "Hund" if i != 2 else "\u2610\u2610"} for i in range(8)]
    if task == "text":
        rows = [{"text": row["completion"]} for row in rows]
    job = trained_jobs.make_job(Lora, "gpt2", "generation", tmp_path / "run")
    table = Examples(task, tuple(rows), source="my_rows")
    job = dataclasses.replace(job, task=task, model=model_names.resolve(str(folder)), data=table)
    events: list[Any] = []
    with pytest.raises(DataError, match="row 3 of my_rows has nothing to learn"):
        Lora().run(job, events.append)
    assert not [event for event in events if isinstance(event, Progress)]
    models.free()
