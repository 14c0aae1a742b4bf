"""A plain Trainer on a frozen classifier that takes the same steps as nbadapt's output-layers, whole model each time.

usage: python benchmarks/frozen_classifier.py TRAIN_CSV TEST_CSV --rows 2000 --seed 0

The start of the head, the order of the batches, the warm-up, the type of the frozen weights and the absence of dropout
are nbadapt's; the frozen blocks run in every step, as in any Trainer. Prints one JSON object: training seconds, seconds
in all (loading, tokenising, training, saving) and test accuracy.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pandas as pd
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

from nbadapt import devices, model_names, models
from nbadapt.parts import LengthGroupedSampler, TrainingConfig
from nbadapt_plugins._trained import switch_off_dropout

LABELS = ("negative", "positive")
BATCH, EPOCHS, RATE, WARM_UP = 16, 3, 1e-3, 0.06


class Order(LengthGroupedSampler):
    """The order in which nbadapt takes rows of one length: another one each epoch, from the seed alone."""

    def __iter__(self) -> Iterator[int]:
        order = super().__iter__()
        self.epoch += 1
        return order


class Ordered(Trainer):  # type: ignore[misc]  # transformers' class is untyped
    """A Trainer with that order."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Order:
        return Order([1] * len(train_dataset or self.train_dataset), TrainingConfig(batch_size=BATCH), self.args.seed)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start = time.perf_counter()
    ref = model_names.resolve("minilm")
    model, tokenizer = models.load_classifier(ref, LABELS, "cpu", devices.best_dtype("cpu"), arguments.seed)
    switch_off_dropout(model)

    def rows(file: str, count: int | None = None) -> list[dict[str, Any]]:
        table = pd.read_csv(file)[:count]
        ids = tokenizer(list(table.text), truncation=True, max_length=model.config.max_position_embeddings)["input_ids"]
        return [{"input_ids": i, "labels": LABELS.index(label)} for i, label in zip(ids, table.label, strict=True)]

    training = rows(arguments.train, arguments.rows)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Ordered(
            model=model,
            args=settings(folder, len(training), arguments.seed),
            train_dataset=training,
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        seconds = trainer.train().metrics["train_runtime"]
        trainer.save_model(folder + "/saved")
        total = time.perf_counter() - start
        found = trainer.predict(rows(arguments.test))
    accuracy = float((found.predictions.argmax(-1) == found.label_ids).mean())
    print(json.dumps({"training": seconds, "total": total, "accuracy": accuracy}))


def settings(folder: str, rows: int, seed: int) -> TrainingArguments:
    """The defaults of nbadapt for these batches, and a checkpoint after each epoch."""
    steps = EPOCHS * math.ceil(rows / BATCH)
    return TrainingArguments(
        output_dir=folder,
        learning_rate=RATE,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        max_steps=steps,
        warmup_steps=math.ceil(WARM_UP * steps),
        lr_scheduler_type="linear",
        optim="adamw_torch_fused",
        save_strategy="epoch",
        seed=seed,
        remove_unused_columns=False,
        use_cpu=True,
        report_to="none",
    )


if __name__ == "__main__":
    main()
