"""Training on examples: rows are tokenised, a Trainer works on them, and events tell of every step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from nbadapt import memo, models
from nbadapt.engines.encoding import Encoded, Row, collate, encode, length_limit, virtual_tokens
from nbadapt.engines.live import TrainerSteering
from nbadapt.engines.trainer import (
    LengthGroupedSampler,
    ResumableTrainer,
    SupervisedTrainer,
    classification_metrics,
    most_likely,
)
from nbadapt.engines.training_config import optimizer_steps
from nbadapt.engines.training_estimate import count_parameters
from nbadapt.engines.training_memory import autocasts
from nbadapt.engines.training_report import TrainingReporter, answered
from nbadapt.errors import Stopped
from nbadapt.events import Notice, Parameters, Stage
from nbadapt.steering import offer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from nbadapt.engines.live import Keep
    from nbadapt.engines.training_config import TrainingConfig
    from nbadapt.method import Adapted, Emit, Job


T = TypeVar("T", bound=TrainingArguments)


class Answer(Protocol):
    """Answers n held-out inputs with the model as it is now; `tick` may be called to let Stop through."""

    def __call__(self, inputs: list[Any], tick: Callable[[], None]) -> list[str]:
        """One answer an input."""


Live = Any
"""An `Adapted` of the model as it is now, with a function `answer`, which is an `Answer`."""


@dataclass(frozen=True)
class Prepared:
    """What a Trainer is fed.

    Attributes:
        training: the rows to learn from.
        evaluation: the held-out rows.
        collate: rows -> the arguments of the model's forward pass; `input_ids`, `labels` and others.
        elsewhere: parameters of the adapted model that the trained one does not hold, because their work is done.
    """

    training: Encoded
    evaluation: Encoded | None
    collate: Callable[[list[Row]], dict[str, torch.Tensor]]
    elsewhere: int = 0


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    job: Job,
    emit: Emit,
    live: Live,
    prepared: Prepared | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    keep: Keep | None = None,
) -> dict[str, float]:
    """Train whatever of `model` requires gradients on the job's data.

    Args:
        model: on its device; the base frozen, what the method trains in float32.
        tokenizer: with a padding token.
        job: its config is a TrainingConfig; its checkpoint, if any, is where training goes on from.
        emit: told of every step; a Stop it raises ends training after that step, with a checkpoint.
        live: the same model, ready to use: it shows a few answers at each evaluation, and answers the user's prompts.
        prepared: the rows, where they are not to be tokenised from the job's data.
        optimizer: where it is not AdamW with one learning rate for all.
        keep: writes what is trained, as it is, where the user wants it saved while training goes on.

    Returns:
        The last figures: "train_loss"; of the held-out rows "loss", and for classification "accuracy" and
        "macro_f1", where an evaluation took place.

    Raises:
        DataError: rows without anything to learn.
        RunError: the loss is no longer a finite number; the last checkpoint is kept.
    """
    config: TrainingConfig = job.config
    prepared = prepared or _prepare(job, model, tokenizer, emit)
    training, evaluation = prepared.training, prepared.evaluation
    trainable, total = count_parameters(model)
    emit(Parameters(trainable, total + prepared.elsewhere))
    arguments = trainer_settings(TrainingArguments, job, len(training.rows), model)
    if prepared.elsewhere:  # a row stands for a text's tokens, which were read before
        arguments.include_num_input_tokens_seen = "no"
    sampler = LengthGroupedSampler(training.lengths, config, job.seed)
    reporter = TrainingReporter(job, emit, sampler, answered(live.answer, job.task))
    trainer = SupervisedTrainer(
        model=model,
        args=arguments,
        train_dataset=training.rows,
        eval_dataset=None if evaluation is None else evaluation.rows,
        data_collator=prepared.collate,
        compute_metrics=classification_metrics if job.task == "classification" else None,
        preprocess_logits_for_metrics=most_likely if job.task == "classification" else None,
        optimizers=(optimizer, None),
        job=job,
        sampler=sampler,
        tell=lambda text: emit(Notice(text, "warning")),
    )
    work(trainer, reporter, job, emit, live, keep)
    return reporter.figures


def work(
    trainer: ResumableTrainer, reporter: TrainingReporter, job: Job, emit: Emit, live: Adapted | None, keep: Keep | None
) -> None:
    """Train to the end or up to a Stop, from the start or the job's checkpoint; the reporter tells of it.

    Args:
        trainer: what trains.
        reporter: its callback.
        job: what was asked.
        emit: told of everything.
        live: what answers the user's prompts; None: nothing does.
        keep: writes what is trained, as it is; None: only the run's end does.

    Raises:
        RunError: the loss is no longer a finite number; the last checkpoint is kept.
    """
    _use_only(trainer, reporter)
    reporter.steering = TrainerSteering(trainer, reporter, live, keep)
    emit(Stage("training"))
    try:
        with _device(job):
            trainer.go_on(job.checkpoint)
    except Stopped:  # told between two steps, say during an evaluation: the last step is complete
        trainer.save_checkpoint()
    finally:
        offer(emit, None)


def _device(job: Job) -> contextlib.AbstractContextManager[object]:
    """The Trainer takes the current GPU, whatever device the model is on."""
    return torch.cuda.device(job.device) if job.device.startswith("cuda") else contextlib.nullcontext()


def _prepare(job: Job, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, emit: Emit) -> Prepared:
    assert job.data is not None
    table = job.data
    emit(Stage("tokenising"))
    limit = length_limit(model.config, job.config.max_length, virtual_tokens(model))
    label2id = model.config.label2id if job.task == "classification" else None
    key = ("encoded", models.base_ref(job.model), job.data, limit, *sorted((label2id or {}).items()))
    training = memo.remembered(key, lambda: encode(table, tokenizer, label2id, limit))
    evaluation = encode(job.evaluation, tokenizer, label2id, limit) if job.evaluation else None
    for encoded, name in ((training, "training"), (evaluation, "evaluation")):
        if encoded is not None and encoded.cut:
            total = len(encoded.rows)
            emit(Notice(f"{encoded.cut:,} of {total:,} {name} rows were longer than {limit} tokens and were cut"))
    if evaluation is not None:  # the order does not matter there, and even lengths waste less padding
        evaluation.rows.sort(key=lambda row: len(row["input_ids"]))
    return Prepared(training, evaluation, partial(collate, pad_token_id=tokenizer.pad_token_id))


def trainer_arguments(job: Job, rows: int) -> dict[str, Any]:
    """What decides the result of training: the TrainingArguments that an exported script needs as well.

    Args:
        job: its config is a TrainingConfig.
        rows: of the training data.
    """
    config: TrainingConfig = job.config
    steps = optimizer_steps(config, rows)
    warmup = 0 if config.lr_scheduler_type == "constant" else round(config.warmup_ratio * steps)
    if warmup == 1:  # the rise begins at 0: a single step would be one that learns nothing
        warmup = 0
    return {
        "learning_rate": config.learning_rate,
        "max_steps": steps,
        "per_device_train_batch_size": config.batch_size,
        "per_device_eval_batch_size": 2 * config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "warmup_steps": warmup,
        "lr_scheduler_type": config.lr_scheduler_type,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "optim": "paged_adamw_32bit" if _pages(job) else "adamw_torch_fused",
        "seed": job.seed,
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "use_cpu": job.device == "cpu",
        "report_to": "none",
    }


def optimizer_class(job: Job) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """The class that the Trainer would take for this job, and its arguments besides the rate and the decay."""
    if _pages(job):
        import bitsandbytes

        return bitsandbytes.optim.PagedAdamW32bit, {}  # type: ignore[attr-defined]  # not in its __all__
    return torch.optim.AdamW, {"fused": True}


def _pages(job: Job) -> bool:
    """Whether the optimizer's state may go to the main memory when the GPU's is full."""
    return job.device.startswith("cuda") and getattr(job.config, "paged_optimizer", False)


def trainer_settings(kind: type[T], job: Job, rows: int, model: PreTrainedModel, **more: Any) -> T:
    """The arguments of a Trainer on so many rows: what decides its result, and how a `TrainingReporter` follows it.

    Args:
        kind: TrainingArguments, or what another library derives from it.
        job: its config is a TrainingConfig.
        rows: of the training data.
        model: the adapted model.
        more: arguments of this kind alone.
    """
    arguments: T = kind(
        bf16=autocasts(model, job),
        output_dir=str(job.directory / "checkpoints"),
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would hide a loss that is no number
        eval_strategy="no",  # TrainingReporter decides when to evaluate and to save
        save_strategy="no",
        save_total_limit=2,
        prediction_loss_only=job.task != "classification",
        include_num_input_tokens_seen="non_padding",
        dataloader_pin_memory=job.device.startswith("cuda"),
        disable_tqdm=True,
        **trainer_arguments(job, rows),
        **more,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # one device: data parallelism is not asked for
    return arguments


def _use_only(trainer: Trainer, reporter: TrainerCallback) -> None:
    """Keep the Trainer's own flow and our reporter; its printing callbacks go."""
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ in {"PrinterCallback", "ProgressCallback", "NotebookProgressCallback"}:
            trainer.remove_callback(callback)
    trainer.add_callback(reporter)
