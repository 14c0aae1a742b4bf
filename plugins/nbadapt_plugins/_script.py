"""Writes a run as a plain transformers and peft script with its data: no lock-in.

The script does what the run did, from the same seed, so that it ends at the same loss.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbadapt.heads import head_modules
from nbadapt_plugins._course import course

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from peft import PeftConfig
    from transformers import PreTrainedModel

    from nbadapt.method import Job

TRIED = 50  # rows on which the script's own tokenising is compared with the run's

HEADER = '''"""Finetunes a model as the run named below did. Needs torch, transformers, peft and accelerate.

Run it in this folder:  python train.py
The adapter is written to the folder "adapter"; the last line printed is the loss on the held-out rows.
"""
import json
import torch
from peft import {config_class}, get_peft_model
from transformers import {auto_class}, AutoTokenizer, Trainer, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

# The run was {run!r}: {method!r} on the model {model!r}.
MODEL = {path!r}
SEED = {seed}
GROUP = {group}  # rows of a step
LIMIT = {limit}  # tokens of a row


def read(name):
    with open(name, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


tokenizer = AutoTokenizer.from_pretrained(MODEL{trust})
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
'''

LABELLED = """
LABELS = {labels!r}
ids = {{name: i for i, name in enumerate(LABELS)}}


def encode(row):
    letters = (tokenizer.eos_token or "\\0") in row["text"]  # an end within a text is text
    tokens = tokenizer(row["text"], truncation=True, max_length=LIMIT, split_special_tokens=letters)["input_ids"]
    return {{"input_ids": tokens, "labels": ids[row["label"]]}}

"""

NEW_HEAD = """
model = AutoModelForSequenceClassification.from_pretrained(
    MODEL, dtype=torch.{dtype}, num_labels=len(LABELS), id2label=dict(enumerate(LABELS)), label2id=ids,
    ignore_mismatched_sizes=True{trust},
)
model.config.pad_token_id = tokenizer.pad_token_id
# A new head in float32, drawn from the seed.
generator = torch.Generator().manual_seed(SEED)
for name in {head!r}:
    head = model.get_submodule(name).float()
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    for layer in head.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight.data.copy_(torch.empty(layer.weight.shape).normal_(0.0, {scale}, generator=generator))
        elif isinstance(layer, torch.nn.LayerNorm):
            torch.nn.init.ones_(layer.weight)
    head.register_forward_pre_hook(lambda module, inputs: tuple(x.float() for x in inputs))
"""

TRAINED_CLASSIFIER = """
model = AutoModelForSequenceClassification.from_pretrained(MODEL, dtype=torch.{dtype}{trust})
model.config.pad_token_id = tokenizer.pad_token_id
for name in {head!r}:  # the checkpoint's own head goes on in float32
    model.get_submodule(name).float().register_forward_pre_hook(lambda module, inputs: tuple(x.float() for x in inputs))


def encode(row):
    letters = (tokenizer.eos_token or "\\0") in row["text"]  # an end within a text is text
    tokens = tokenizer(row["text"], truncation=True, max_length=LIMIT, split_special_tokens=letters)["input_ids"]
    return {{"input_ids": tokens, "labels": model.config.label2id[row["label"]]}}
"""

ENCODE_LANGUAGE = """
def encode_pair(prompt, completion):
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if tokenizer.chat_template:
        before = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        turns = [*turns, {"role": "assistant", "content": completion}]
        whole = tokenizer.apply_chat_template(turns, tokenize=False)
        start, ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, whole))
        return start, ids[len(start) : ids.index(tokenizer.eos_token_id, len(start)) + 1]
    before = prompt if isinstance(prompt, str) else "\\n".join(
        [*(f"{turn['role']}: {turn['content']}" for turn in prompt), "assistant:"]
    )
    space = "" if not before or before[-1].isspace() or completion[:1].isspace() else " "
    start, ids = (tokenizer(text)["input_ids"] for text in (before, before + space + completion))
    return start, [*ids[len(start) :], tokenizer.eos_token_id]


def encode(row):
    if "text" in row:
        prompt, answer = [], tokenizer(row["text"])["input_ids"]
        answer = answer if answer[-1:] == [tokenizer.eos_token_id] else [*answer, tokenizer.eos_token_id]
    else:
        prompt, answer = encode_pair(row["prompt"], row["completion"])
    excess = len(prompt) + len(answer) - LIMIT
    if excess > 0:  # the start of the prompt goes first
        dropped = min(excess, max(len(prompt) - 1, 0))
        prompt, answer = prompt[dropped:], answer[: LIMIT - (len(prompt) - dropped)]
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}
"""

ENCODED = """
def encode(row):
    return row  # the rows are token ids already: this tokenizer needs more than a few lines
"""

LANGUAGE_MODEL = """

model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.{dtype}{trust})
model.config.use_cache = False
"""

SAMPLER = '''
class LengthGrouped(torch.utils.data.Sampler):
    """Steps of rows of similar length, in random order; it depends on the seed and the epoch."""

    def __init__(self, rows):
        self.lengths, self.epoch = [{length} for row in rows], -1

    def __iter__(self):
        self.epoch += 1
        generator = torch.Generator().manual_seed(SEED * 100_003 + self.epoch)
        rows = get_length_grouped_indices(self.lengths, GROUP, generator=generator)
        whole = len(rows) // GROUP * GROUP
        steps = torch.tensor(rows[:whole]).view(-1, GROUP)
        order = torch.randperm(len(steps), generator=generator)
        return iter(steps[order].flatten().tolist() + rows[whole:])

    def __len__(self):
        return len(self.lengths)


'''

TRAINING = """
torch.manual_seed(SEED)
model.requires_grad_(False){no_dropout}
model = get_peft_model(model, {config})
optimizer = None  # the Trainer's AdamW
{start}model.print_trainable_parameters()


def collate(rows):
    longest = max(len(row["input_ids"]) for row in rows)

    def pad(values, filler):
        return values + [filler] * (longest - len(values))

    labels = [pad(r["labels"], -100) if isinstance(r["labels"], list) else r["labels"] for r in rows]
    return {{
        "input_ids": torch.tensor([pad(r["input_ids"], tokenizer.pad_token_id) for r in rows]),
        "attention_mask": torch.tensor([pad([1] * len(r["input_ids"]), 0) for r in rows]),
        "labels": torch.tensor(labels),
    }}


{sampler}class GroupedTrainer(Trainer):
    def _get_train_sampler(self, dataset=None):
        return LengthGrouped(self.train_dataset)


training = [encode(row) for row in read("train.jsonl")]
held_out = sorted((encode(row) for row in read("evaluation.jsonl")), key=lambda row: len(row["input_ids"]))
trainer = GroupedTrainer(
    model=model,
    train_dataset=training,
    eval_dataset=held_out,
    data_collator=collate,
    optimizers=(optimizer, None),
    args=TrainingArguments(
        output_dir="checkpoints",
        save_strategy="no",
        logging_steps=10,
{arguments}
    ),
)
{scale}{course}trainer.train()
model.save_pretrained("adapter")
if held_out:
    print("loss", trainer.evaluate()["eval_loss"])
"""


MEAN = """# A classifier's loss is a mean over its batch, which accumulated batches divide among themselves.
trainer.model_accepts_loss_kwargs = False
"""

NO_DROPOUT = """
for module in model.modules():  # the frozen base needs no dropout
    if isinstance(module, torch.nn.Dropout):
        module.p = 0.0
    for name, value in vars(module).items():
        if "drop" in name and isinstance(value, float):
            setattr(module, name, 0.0)"""


def write(config: PeftConfig, skeleton: PreTrainedModel, job: Job, target: Path, start: str = "") -> None:
    """Write train.py, train.jsonl and evaluation.jsonl into the folder `target`.

    Args:
        config: the adapter's peft configuration.
        skeleton: the base model, on the meta device.
        job: with its tables.
        target: an empty folder.
        start: lines that the script runs on `model` once the adapter is on it; they may set `optimizer`.
    """
    from nbadapt.engines import encoding

    rows: dict[str, Sequence[Mapping[str, Any]]] = {
        "train.jsonl": job.data.rows if job.data else (),
        "evaluation.jsonl": job.evaluation.rows if job.evaluation else (),
    }
    virtual = getattr(config, "num_virtual_tokens", 0)
    limit = encoding.length_limit(skeleton.config, job.config.max_length, virtual)
    plain = job.task == "classification" or _encodes_alike(job, limit)
    for name, table in rows.items():
        lines = table if plain else _encoded(job, limit, table)
        (target / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines), "utf-8")
    encode = ENCODE_LANGUAGE if plain else ENCODED
    (target / "train.py").write_text(_text(config, skeleton, job, limit, encode, start), "utf-8")


def _encoded(job: Job, limit: int, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    from nbadapt import pretrained
    from nbadapt.data import Examples
    from nbadapt.engines import encoding

    table = Examples(job.task, tuple(rows))
    return encoding.encode(table, pretrained.load_tokenizer(job.model), None, limit).rows


def _encodes_alike(job: Job, limit: int) -> bool:
    """Whether the script's few lines give the tokens that the run was trained on; tried on the first rows."""
    from nbadapt import pretrained

    scope: dict[str, Any] = {"tokenizer": pretrained.load_tokenizer(job.model), "LIMIT": limit}
    exec(ENCODE_LANGUAGE, scope)  # noqa: S102 - our own text from above
    rows = job.data.rows[:TRIED] if job.data else ()
    try:
        return [scope["encode"](row) for row in rows] == _encoded(job, limit, rows)
    except (ValueError, TypeError):  # such as a template whose turns end without the eos token
        return False


def _text(config: PeftConfig, skeleton: PreTrainedModel, job: Job, limit: int, encode: str, start: str) -> str:
    from nbadapt.engines import supervised

    rows = len(job.data) if job.data else 0
    arguments = supervised.trainer_arguments(job, rows)
    classify = job.task == "classification"
    header = HEADER.format(
        model=job.model.name,
        method=job.method,
        run=job.directory.name,
        config_class=type(config).__name__,
        auto_class="AutoModelForSequenceClassification" if classify else "AutoModelForCausalLM",
        path=job.model.path,
        trust=trust(job),
        seed=job.seed,
        group=job.config.batch_size * job.config.gradient_accumulation_steps,
        limit=limit,
    )
    training = TRAINING.format(
        sampler=SAMPLER.format(length='len(row["input_ids"])'),
        config=literal(config),
        start=start,
        arguments=keyword_lines(arguments),
        course=course(job),
        scale=MEAN if job.task == "classification" else "",
        no_dropout="" if job.config.base_dropout else NO_DROPOUT,
    )
    model = (
        _classifier(skeleton, job) if classify else encode + LANGUAGE_MODEL.format(dtype=job.dtype, trust=trust(job))
    )
    return header + model + training


def _classifier(skeleton: PreTrainedModel, job: Job) -> str:
    from nbadapt import models

    if models.keeps_head(job.model, job.labels, job.device, job.dtype):
        return TRAINED_CLASSIFIER.format(dtype=job.dtype, head=head_modules(skeleton), trust=trust(job))
    names = skeleton.config.id2label
    return LABELLED.format(labels=[names[i] for i in range(len(names))]) + new_head(skeleton, job)


def new_head(skeleton: PreTrainedModel, job: Job) -> str:
    """The model with a head for LABELS, drawn as the run's was."""
    return NEW_HEAD.format(
        dtype=job.dtype,
        head=head_modules(skeleton),
        scale=getattr(skeleton.config, "initializer_range", None) or 0.02,
        trust=trust(job),
    )


def trust(job: Job) -> str:
    """One more argument of `from_pretrained`, where the user let the model's own code run."""
    return ", trust_remote_code=True" if job.model.trust_remote_code else ""


def literal(config: PeftConfig) -> str:
    """The configuration as a Python expression, only with what differs from peft's defaults."""
    given = {}
    for field in dataclasses.fields(config):
        if not field.init or field.name in {"base_model_name_or_path", "peft_type", "inference_mode"}:
            continue
        value = getattr(config, field.name)
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        if value != default:
            given[field.name] = sorted(value) if isinstance(value, set) else value
    inner = ", ".join(f"{name}={_plain(value)!r}" for name, value in given.items())
    return f"{type(config).__name__}({inner})"


def _plain(value: Any) -> Any:
    """Enumerations of strings as their value."""
    return value.value if hasattr(value, "value") else value


def keyword_lines(arguments: Mapping[str, Any]) -> str:
    """Arguments as the lines of a call."""
    return "\n".join(f"        {name}={value!r}," for name, value in arguments.items())
