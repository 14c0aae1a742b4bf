"""A classifier as tutorials finetune it (Trainer, peft or scikit-learn, float32): the plain peer of the benchmarks.

usage: python benchmarks/tutorial_classifier.py METHOD MODEL_FOLDER TRAIN_CSV TEST_CSV --rows 2000 --seed 0

Its learning rates are nbadapt's, so that both do the same work; all else is as tutorials have it: float32, batches of
random rows, all dropout, no warm-up.

METHOD is features (logistic regression on the first token's vectors), output-layers, top-layers (2 blocks), lora or
full. Prints one JSON object: training seconds, seconds in all (loading, tokenising, training, saving), test accuracy,
trained parameters, peak memory beyond the imports and size on disk in bytes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset
from peft import LoraConfig, TaskType, get_peft_model
from report import peak_memory
from sklearn.linear_model import LogisticRegression
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

LABELS = ["negative", "positive"]
RATES = {"output-layers": 1e-3, "top-layers": 3e-4, "lora": 1e-3, "full": 1e-4}  # nbadapt's
BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=["features", *RATES])
    parser.add_argument("model")
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    before = peak_memory()
    with tempfile.TemporaryDirectory() as folder:
        data = load_dataset("csv", data_files={"train": arguments.train, "test": arguments.test}, cache_dir=folder)
        measured = (features if arguments.method == "features" else finetune)(arguments, data, folder)
    print(json.dumps({**measured, "peak": peak_memory() - before}))


def features(arguments: argparse.Namespace, data: Any, _folder: str) -> dict[str, float]:
    """Logistic regression on the vectors of the first token, batch by batch in the order of the rows."""
    start = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModel.from_pretrained(arguments.model, dtype=torch.float32).eval()

    def vectors(texts: list[str]) -> np.ndarray[Any, Any]:
        found = []
        for i in range(0, len(texts), BATCH):
            batch = tokenizer(texts[i : i + BATCH], truncation=True, padding=True, return_tensors="pt")
            with torch.no_grad():
                found.append(model(**batch).last_hidden_state[:, 0].numpy())
        return np.concatenate(found)

    train = data["train"].select(range(arguments.rows))
    began = time.perf_counter()
    classifier = LogisticRegression(max_iter=1000).fit(vectors(list(train["text"])), train["label"])
    end = time.perf_counter()
    accuracy = float(classifier.score(vectors(list(data["test"]["text"])), data["test"]["label"]))
    trained = classifier.coef_.size + classifier.intercept_.size
    return {
        "training": end - began,
        "total": end - start,
        "accuracy": accuracy,
        "trainable": trained,
        "size": trained * 8,
    }


def finetune(arguments: argparse.Namespace, data: Any, folder: str) -> dict[str, float]:
    """The Trainer on the whole model, on its top, on its head alone or on peft's LoRA."""
    start = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)

    def tokenize(batch: dict[str, list[Any]]) -> dict[str, Any]:
        labels = [LABELS.index(label) for label in batch["label"]]
        return {**tokenizer(batch["text"], truncation=True), "labels": labels}

    def prepared(table: Dataset) -> Dataset:
        return table.map(tokenize, batched=True, remove_columns=table.column_names)

    torch.manual_seed(arguments.seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        arguments.model, num_labels=len(LABELS), dtype=torch.float32
    )
    if arguments.method == "lora":
        names = ["query", "value"]
        lora = LoraConfig(task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, lora_dropout=0.1, target_modules=names)
        model = get_peft_model(model, lora)
    elif arguments.method != "full":
        model.base_model.requires_grad_(False)
    if arguments.method == "top-layers":
        for module in (*model.base_model.encoder.layer[-2:], model.base_model.pooler):
            module.requires_grad_(True)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=folder,
            learning_rate=arguments.learning_rate or RATES[arguments.method],
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=BATCH,
            num_train_epochs=arguments.epochs,
            save_strategy="epoch",
            seed=arguments.seed,
            use_cpu=not torch.cuda.is_available(),
            report_to="none",
        ),
        train_dataset=prepared(data["train"].select(range(arguments.rows))),
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    result = trainer.train()
    saved = Path(folder) / "saved"
    trainer.save_model(str(saved))
    total = time.perf_counter() - start
    predicted = trainer.predict(prepared(data["test"]))
    return {
        "training": result.metrics["train_runtime"],
        "total": total,
        "accuracy": float(np.mean(predicted.predictions.argmax(-1) == predicted.label_ids)),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "size": sum(file.stat().st_size for file in saved.rglob("*.safetensors")),
    }


if __name__ == "__main__":
    main()
