"""A language model as tutorials finetune it on prompts and completions (Trainer, peft, float32): the plain peer.

usage: python benchmarks/tutorial_language_model.py {lora,full} MODEL_FOLDER TRAIN_JSONL HELD_OUT_JSONL
                                                    [--rows 128] [--held-out FIRST END] [--learning-rate R] [--seed 0]

Batches of 8, one epoch, 256 tokens a row; the loss counts the completion. The learning rate is nbadapt's, so that both
do the same work. Prints one JSON object: training seconds, the loss on the held-out rows from FIRST up to but not
including END and its standard error, trained parameters, peak memory beyond the imports and size on disk in bytes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from held_out import held_out_loss
from peft import LoraConfig, TaskType, get_peft_model
from report import REPORTED_ON, peak_memory
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

RATES = {"lora": 1e-3, "full": 1e-4}  # nbadapt's
LIMIT = 256


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=RATES)
    for name in ("model", "train", "evaluation"):
        parser.add_argument(name)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--held-out", type=int, nargs=2, default=REPORTED_ON, metavar=("FIRST", "END"))
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    before = peak_memory()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)

    def encode(row: dict[str, str]) -> dict[str, Any]:
        asked = [{"role": "user", "content": row["prompt"]}]
        start = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]
        answer = tokenizer(row["completion"] + tokenizer.eos_token)["input_ids"]
        ids, labels = start + answer, [-100] * len(start) + answer
        excess = max(0, len(ids) - LIMIT)  # the start of the prompt goes first
        return {"input_ids": ids[excess:], "attention_mask": [1] * len(ids[excess:]), "labels": labels[excess:]}

    def prepared(name: str, first: int, end: int) -> list[dict[str, Any]]:
        return [encode(row) for row in pd.read_json(name, lines=True)[first:end].to_dict("records")]

    torch.manual_seed(arguments.seed)
    model: Any = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    if arguments.method == "lora":
        lora = LoraConfig(task_type=TaskType.CAUSAL_LM, r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
        model = get_peft_model(model, lora)
    training = prepared(arguments.train, 0, arguments.rows)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                learning_rate=arguments.learning_rate or RATES[arguments.method],
                per_device_train_batch_size=8,
                num_train_epochs=1,
                save_strategy="no",
                seed=arguments.seed,
                use_cpu=not torch.cuda.is_available(),
                report_to="none",
            ),
            train_dataset=training,
            data_collator=DataCollatorForSeq2Seq(tokenizer),
        )
        seconds = trainer.train().metrics["train_runtime"]
        trainer.save_model(f"{folder}/saved")
        size = sum(file.stat().st_size for file in Path(folder, "saved").rglob("*.safetensors"))
    peak = peak_memory() - before
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    tokens = sum(len(row["input_ids"]) for row in training) / seconds
    found = {"training": seconds, "tokens": tokens, "trainable": trained, "size": size, "peak": peak}
    print(json.dumps({**found, **held_out_loss(model, prepared(arguments.evaluation, *arguments.held_out))}))


if __name__ == "__main__":
    main()
