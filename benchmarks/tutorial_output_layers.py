"""Output layers on a frozen backbone as tutorials train them (Trainer, float32): the peer in output_layers.py.

usage: python benchmarks/tutorial_output_layers.py MODEL_FOLDER TRAIN_CSV TEST_CSV --rows 2000 --seed 0
Prints one JSON object: training seconds, seconds in all (loading, tokenising, training, saving), test accuracy.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

LABELS = ["negative", "positive"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    start = time.perf_counter()
    files = {"train": arguments.train, "test": arguments.test}
    with tempfile.TemporaryDirectory() as folder:
        data = load_dataset("csv", data_files=files, cache_dir=folder)
        train = data["train"].select(range(arguments.rows))
        tokenizer = AutoTokenizer.from_pretrained(arguments.model)

        def tokenize(batch: dict[str, list[Any]]) -> dict[str, Any]:
            return {
                **tokenizer(batch["text"], truncation=True),
                "labels": [LABELS.index(label) for label in batch["label"]],
            }

        def prepared(table: Dataset) -> Dataset:
            return table.map(tokenize, batched=True, remove_columns=table.column_names)

        torch.manual_seed(arguments.seed)
        model = AutoModelForSequenceClassification.from_pretrained(
            arguments.model, num_labels=len(LABELS), dtype=torch.float32
        )
        model.base_model.requires_grad_(False)
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                learning_rate=arguments.learning_rate,
                per_device_train_batch_size=16,
                per_device_eval_batch_size=16,
                num_train_epochs=arguments.epochs,
                save_strategy="epoch",
                seed=arguments.seed,
                use_cpu=not torch.cuda.is_available(),
                report_to="none",
            ),
            train_dataset=prepared(train),
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        result = trainer.train()
        trainer.save_model(f"{folder}/model")
        total = time.perf_counter() - start

        predicted = trainer.predict(prepared(data["test"]))
    accuracy = float(np.mean(predicted.predictions.argmax(-1) == predicted.label_ids))
    print(json.dumps({"training": result.metrics["train_runtime"], "total": total, "accuracy": accuracy}))


if __name__ == "__main__":
    main()
