"""Small jobs for trained methods, and what their tests ask again and again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nbadapt import model_names, models, store
from nbadapt.data import Examples
from nbadapt.errors import Stopped
from nbadapt.events import Event, Progress
from nbadapt.gradients import GradientWatch
from nbadapt.method import Job, Method, Outcome
from tests import tiny_models

ENCODERS = ("bert", "distilbert", "roberta")
DECODERS = ("gpt2", "llama", "qwen2")
CASES = [(a, "classification") for a in (*ENCODERS, *DECODERS)] + [(a, "generation") for a in DECODERS]
TEXTS = ["The film was great.", "dull"]


def make_job(
    method: type[Method],
    architecture: str,
    task: str,
    directory: Path,
    *,
    dtype: str = "float32",
    chat: bool = False,
    **settings: Any,
) -> Job:
    if task == "classification":
        rows, labels = tiny_models.reviews(24), ("negative", "positive")
    else:
        rows, labels = tiny_models.preferences(16) if task == "preference" else tiny_models.translations(12), ()
    if task == "text":
        rows = [{"text": row["prompt"] + " " + row["completion"]} for row in rows]
    return Job(
        method=method.name,
        config=method.Config(**{"epochs": 2, "batch_size": 4, "samples": 1, "learning_rate": 1e-2, **settings}),
        model=model_names.resolve(str(tiny_models.folder(architecture, chat=chat))),
        task=task,
        directory=directory,
        data=Examples(task, tuple(rows[:-4]), labels),
        evaluation=Examples(task, tuple(rows[-4:]), labels),
        labels=labels,
        dtype=dtype,
    )


def train(method: type[Method], job: Job) -> tuple[Outcome, list[Event]]:
    """The outcome and the events, with what the runner's watch on gradients tells."""
    events: list[Event] = []
    with GradientWatch(events.append) as watch:

        def tell(event: Event) -> None:
            events.append(event)
            watch.see(event)

        return method().run(job, tell), events


def base(job: Job) -> tuple[Any, Any]:
    if job.task == "classification":
        return models.load_classifier(job.model, job.labels, job.device, job.dtype, job.seed)
    return models.load(job.model, job.device, job.dtype)


def base_weights(job: Job) -> dict[str, torch.Tensor]:
    """The shared weights, bit for bit."""
    model, _ = base(job)
    return {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    batch = tokenizer(TEXTS, return_tensors="pt", padding=True)
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()


def last_hidden(model: Any, tokenizer: Any) -> torch.Tensor:
    """What the head is given, (B, T, d) in float32: a new head hides small differences of it."""
    batch = tokenizer(TEXTS, return_tensors="pt", padding=True)
    with torch.no_grad():
        asked = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        found = model(**asked, output_hidden_states=True)
    hidden = getattr(found, "hidden_states", None) or found.decoder_hidden_states
    return hidden[-1].float()


def plain_class(task: str) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    return AutoModelForSequenceClassification if task == "classification" else AutoModelForCausalLM


def stopped_and_resumed(method: type[Method], job: Job, step: int) -> Outcome:
    """The outcome of a run that is stopped after a step, and goes on from there."""

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.step == step:
            raise Stopped

    method().run(job, stop)
    checkpoint = store.last_checkpoint(job.directory)
    assert checkpoint is not None
    assert store.checkpoint_step(checkpoint) == step
    return method().run(replace(job, checkpoint=checkpoint), lambda _: None)
