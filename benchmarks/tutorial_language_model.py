"""A language model as tutorials finetune it on prompts and completions (Trainer, peft, float32): the plain peer.

usage: python benchmarks/tutorial_language_model.py {lora,full} MODEL_FOLDER TRAIN_JSONL HELD_OUT_JSONL
                                                    [--rows 128] [--seed 0]

Batches of 8, one epoch, 256 tokens a row; the loss counts the completion. Prints one JSON object: training seconds,
the loss on the first 32 held-out rows, trained parameters, peak memory beyond the imports and size on disk in bytes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from peft import LoraConfig, TaskType, get_peft_model
from report import peak_memory
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

RATES = {"lora": 1e-3, "full": 5e-5}
LIMIT, HELD_OUT = 256, 32


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=RATES)
    for name in ("model", "train", "evaluation"):
        parser.add_argument(name)
    parser.add_argument("--rows", type=int, default=128)
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

    def prepared(name: str, count: int) -> list[dict[str, Any]]:
        return [encode(row) for row in pd.read_json(name, lines=True)[:count].to_dict("records")]

    torch.manual_seed(arguments.seed)
    model: Any = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    if arguments.method == "lora":
        lora = LoraConfig(task_type=TaskType.CAUSAL_LM, r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
        model = get_peft_model(model, lora)
    training = prepared(arguments.train, arguments.rows)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                learning_rate=RATES[arguments.method],
                per_device_train_batch_size=8,
                per_device_eval_batch_size=16,
                num_train_epochs=1,
                save_strategy="no",
                seed=arguments.seed,
                use_cpu=not torch.cuda.is_available(),
                report_to="none",
            ),
            train_dataset=training,
            # The mean over batches depends on their rows: these are nbadapt's.
            eval_dataset=sorted(prepared(arguments.evaluation, HELD_OUT), key=lambda row: len(row["input_ids"])),
            data_collator=DataCollatorForSeq2Seq(tokenizer),
        )
        seconds = trainer.train().metrics["train_runtime"]
        trainer.save_model(f"{folder}/saved")
        size = sum(file.stat().st_size for file in Path(folder, "saved").rglob("*.safetensors"))
        loss = trainer.evaluate()["eval_loss"]
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    tokens = sum(len(row["input_ids"]) for row in training) / seconds
    found = {"loss": loss, "training": seconds, "tokens": tokens, "trainable": trained, "size": size}
    print(json.dumps({**found, "peak": peak_memory() - before}))


if __name__ == "__main__":
    main()
