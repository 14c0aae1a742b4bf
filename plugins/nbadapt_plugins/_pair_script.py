"""Writes a run on pairs of answers as a plain script of trl, transformers and peft with its data: no lock-in.

The script does what the run did, from the same seed, so that it ends at the same loss.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from nbadapt_plugins._course import course
from nbadapt_plugins._script import NO_DROPOUT, SAMPLER, keyword_lines, literal, new_head, trust

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

    from nbadapt.method import Job
    from nbadapt_plugins._feedback import PairMethod

HEADER = '''"""Trains a model on pairs of answers as the run named below did. Needs torch, transformers, peft and trl.

Run it in this folder:  python train.py
The adapter is written to the folder "adapter"; the last line printed is the loss on the held-out pairs.
"""
import json
import torch
from datasets import Dataset
from peft import {peft_class}, get_peft_model
from transformers import {auto_class}, AutoTokenizer
from transformers.trainer_pt_utils import get_length_grouped_indices
from trl import {config_class}, {trainer_class}

# The run was {run!r}: {method!r} on the model {model!r}.
MODEL = {path!r}
SEED = {seed}
GROUP = {group}  # rows of a step


def read(name):  # token ids, as the run made them of the texts
    with open(name, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


tokenizer = AutoTokenizer.from_pretrained(MODEL{trust})
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
'''

LANGUAGE_MODEL = """
model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.{dtype}{trust})
"""

TRAINING = """
torch.manual_seed(SEED)
model.requires_grad_(False){no_dropout}
model = get_peft_model(model, {config})
optimizer = None  # the trainer's AdamW
{start}model.print_trainable_parameters()


{sampler}def texts(row):
    prompt = row.get("prompt_ids", [])
    return prompt + row["chosen_ids"], prompt + row["rejected_ids"]


class GroupedTrainer({trainer_class}):
    def _get_train_sampler(self, dataset=None):
        return LengthGrouped(self.train_dataset)

    def _prepare_dataset(self, dataset, *_):
        return dataset  # token ids already


training, held_out = read("train.jsonl"), read("evaluation.jsonl")
held_out.sort(key=lambda row: max(map(len, texts(row))))
trainer = GroupedTrainer(
    model=model,
    train_dataset=Dataset.from_list(training),
    eval_dataset=Dataset.from_list(held_out) if held_out else None,
    processing_class=tokenizer,
    optimizers=(optimizer, None),
    args={config_class}(
        output_dir="checkpoints",
        save_strategy="no",
        logging_steps=10,
        bf16=False,
{arguments}
    ),
)
{course}trainer.train()
model.save_pretrained("adapter", selected_adapters=["default"])  # not the copy that trl may make as a reference
if held_out:
    print("loss", trainer.evaluate()["eval_loss"])
"""


def write(
    method: PairMethod, config: PeftConfig, skeleton: PreTrainedModel, job: Job, target: Path, start: str
) -> None:
    """Write train.py, train.jsonl and evaluation.jsonl into the folder `target`.

    Args:
        method: what was trained.
        config: the adapter's peft configuration.
        skeleton: the base model, on the meta device.
        job: with its tables.
        target: an empty folder.
        start: lines that the script runs on `model` once the adapter is on it; they may set `optimizer`.
    """
    from nbadapt import pretrained
    from nbadapt.engines import supervised
    from nbadapt.engines.encoding import length_limit
    from nbadapt.engines.pairs import encode_pairs

    tokenizer, limit = pretrained.load_tokenizer(job.model), length_limit(skeleton.config, job.config.max_length)
    for name, table in (("train.jsonl", job.data), ("evaluation.jsonl", job.evaluation)):
        pairs = encode_pairs(table, tokenizer, limit, one_prompt=method.one_prompt).rows if table else []
        lines = [json.dumps(method.row(pair)) + "\n" for pair in pairs]
        (target / name).write_text("".join(lines), "utf-8")
    trainer, arguments, _ = method.trainer(job)
    (trainer_class,) = (base.__name__ for base in trainer.__bases__ if base.__module__.startswith("trl."))
    said = {**supervised.trainer_arguments(job, len(job.data) if job.data else 0), **method.trl_arguments(job)}
    scores = config.task_type == "SEQ_CLS"
    header = HEADER.format(
        peft_class=type(config).__name__,
        auto_class="AutoModelForSequenceClassification" if scores else "AutoModelForCausalLM",
        config_class=arguments.__name__,
        trainer_class=trainer_class,
        run=job.directory.name,
        method=job.method,
        model=job.model.name,
        path=job.model.path,
        seed=job.seed,
        group=job.config.batch_size * job.config.gradient_accumulation_steps,
        trust=trust(job),
    )
    if scores:
        model = f"LABELS = {list(skeleton.config.id2label.values())!r}\nids = {skeleton.config.label2id!r}\n"
        model += new_head(skeleton, job)
    else:
        model = LANGUAGE_MODEL.format(dtype=job.dtype, trust=trust(job))
    training = TRAINING.format(
        sampler=SAMPLER.format(length="max(map(len, texts(row)))"),
        config=literal(config),
        start=start,
        arguments=keyword_lines(said),
        trainer_class=trainer_class,
        config_class=arguments.__name__,
        course=course(job),
        no_dropout="" if job.config.base_dropout else NO_DROPOUT,
    )
    (target / "train.py").write_text(header + model + training, "utf-8")
