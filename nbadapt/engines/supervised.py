"""Training on examples with transformers' Trainer, told as events, stopped and resumed at a step.

What differs from a plain Trainer: batches of similar length inside shuffled mega-batches, drawn from the seed
and the epoch alone, so that a resumed run sees the same batches; logits only where a label is; a checkpoint
counts only once it is whole; evaluation leaves the random state alone.
"""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from nbadapt import models, store
from nbadapt.engines.causal_loss import causal_loss, keeps_logits, learned_positions, quick_attention
from nbadapt.engines.encoding import IGNORED, Encoded, Row, collate, encode, length_limit, virtual_tokens
from nbadapt.engines.tokens import as_text
from nbadapt.engines.training_estimate import count_parameters
from nbadapt.errors import RunError, Stopped, StoreError
from nbadapt.events import Checkpoint, Metric, Notice, Parameters, Progress, Sample, Stage
from nbadapt.memory import out_of_memory
from nbadapt.metrics import accuracy, macro_f1

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from nbadapt.engines.training_config import TrainingConfig
    from nbadapt.method import Emit, Job

TRAINED = "trained.safetensors"  # in a checkpoint
GRADIENTS_CHECKED = 3  # after so many steps every trained tensor must have had a gradient
SAVE_SECONDS = 60.0  # a checkpoint at least this often, where the user set no save_steps


class Answer(Protocol):
    """Answers n held-out inputs with the model as it is now; `tick` may be called to let Stop through."""

    def __call__(self, inputs: list[Any], tick: Callable[[], None]) -> list[str]:
        """One answer an input."""


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
    answer: Answer,
    prepared: Prepared | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> dict[str, float]:
    """Train whatever of `model` requires gradients on the job's data.

    Args:
        model: on its device; the base frozen, what the method trains in float32.
        tokenizer: with a padding token.
        job: its config is a TrainingConfig; its checkpoint, if any, is where training goes on from.
        emit: told of every step; a Stop it raises ends training after that step, with a checkpoint.
        answer: used to show a few answers at each evaluation.
        prepared: the rows, where they are not to be tokenised from the job's data.
        optimizer: where it is not AdamW with one learning rate for all.

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
    arguments = _arguments(job, len(training.rows), model)
    if prepared.elsewhere:  # a row stands for a text's tokens, which were read before
        arguments.include_num_input_tokens_seen = "no"
    sampler = _LengthGroupedSampler(training, config, job.seed)
    reporter = _Reporter(job, emit, sampler, answer)
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=training.rows,
        eval_dataset=None if evaluation is None else evaluation.rows,
        data_collator=prepared.collate,
        compute_metrics=_classification_metrics if job.task == "classification" else None,
        preprocess_logits_for_metrics=_most_likely if job.task == "classification" else None,
        optimizers=(optimizer, None),
        job=job,
        sampler=sampler,
        tell=lambda text: emit(Notice(text, "warning")),
    )
    _use_only(trainer, reporter)
    emit(Stage("training"))
    try:
        with _device(job):
            trainer.go_on(job.checkpoint)
    except Stopped:  # told between two steps, say during an evaluation: the last step is complete
        trainer.save_checkpoint()
    return reporter.figures


def _device(job: Job) -> contextlib.AbstractContextManager[object]:
    """The Trainer takes the current GPU, whatever device the model is on."""
    return torch.cuda.device(job.device) if job.device.startswith("cuda") else contextlib.nullcontext()


def _prepare(job: Job, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, emit: Emit) -> Prepared:
    assert job.data is not None
    emit(Stage("tokenising"))
    limit = length_limit(model.config, job.config.max_length, virtual_tokens(model))
    label2id = model.config.label2id if job.task == "classification" else None
    training = encode(job.data, tokenizer, label2id, limit)
    evaluation = encode(job.evaluation, tokenizer, label2id, limit) if job.evaluation else None
    for encoded, name in ((training, "training"), (evaluation, "evaluation")):
        if encoded is not None and encoded.cut:
            total = len(encoded.rows)
            emit(Notice(f"{encoded.cut:,} of {total:,} {name} rows were longer than {limit} tokens and were cut"))
    if evaluation is not None:  # the order does not matter there, and even lengths waste less padding
        evaluation.rows.sort(key=lambda row: len(row["input_ids"]))
    return Prepared(training, evaluation, partial(collate, pad_token_id=tokenizer.pad_token_id))


def optimizer_steps(config: TrainingConfig, rows: int) -> int:
    """The optimizer steps that training on so many rows takes."""
    return config.max_steps or max(1, math.ceil(config.epochs * _steps_per_epoch(config, rows)))


def _steps_per_epoch(config: TrainingConfig, rows: int) -> int:
    return max(1, math.ceil(math.ceil(rows / config.batch_size) / config.gradient_accumulation_steps))


def trainer_arguments(job: Job, rows: int) -> dict[str, Any]:
    """What decides the result of training: the TrainingArguments that an exported script needs as well."""
    config: TrainingConfig = job.config
    steps = optimizer_steps(config, rows)
    warmup = 0 if config.lr_scheduler_type == "constant" else math.ceil(config.warmup_ratio * steps)
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


def _arguments(job: Job, rows: int, model: PreTrainedModel) -> TrainingArguments:
    # Trained weights of the model itself are float32: bfloat16 would round small updates away.
    autocast = job.dtype == "bfloat16" and model.dtype == torch.float32
    arguments = TrainingArguments(
        bf16=autocast,
        output_dir=str(job.directory / "checkpoints"),
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would hide a loss that is no number
        eval_strategy="no",  # _Reporter decides when to evaluate and to save
        save_strategy="no",
        save_total_limit=2,
        prediction_loss_only=job.task != "classification",
        include_num_input_tokens_seen="non_padding",
        dataloader_pin_memory=job.device.startswith("cuda"),
        disable_tqdm=True,
        **trainer_arguments(job, rows),
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # one device: data parallelism is not asked for
    return arguments


def _use_only(trainer: Trainer, reporter: TrainerCallback) -> None:
    """Keep the Trainer's own flow and our reporter; its printing callbacks go."""
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ in {"PrinterCallback", "ProgressCallback", "NotebookProgressCallback"}:
            trainer.remove_callback(callback)
    trainer.add_callback(reporter)


def _most_likely(logits: Any, _labels: torch.Tensor) -> torch.Tensor:
    """(B, k) logits -> (B,) class ids, so that evaluation keeps no logits."""
    scores: torch.Tensor = _first(logits)
    return scores.argmax(-1)


def _first(outputs: Any) -> Any:
    """The logits, where a model gives more than those: T5 also its encoder's states."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def _classification_metrics(result: Any) -> dict[str, float]:
    predicted, expected = result.predictions.tolist(), result.label_ids.tolist()
    return {"accuracy": accuracy(predicted, expected), "macro_f1": macro_f1(predicted, expected)}


def trained_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Name -> values of all parameters that require gradients."""
    return {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}


def load_trained(model: torch.nn.Module, file: Path) -> None:
    """Put what `trained_tensors` gave, written to a safetensors file, back into a model.

    Raises:
        StoreError: the file belongs to another model.
    """
    tensors = load_file(file)
    unknown = model.load_state_dict(tensors, strict=False).unexpected_keys
    if unknown:
        raise StoreError(f"{file} holds weights that this model has no place for, such as {unknown[0]}")


class _LengthGroupedSampler(torch.utils.data.Sampler[int]):
    """Rows of similar length side by side; the order depends on the seed and the epoch alone."""

    def __init__(self, training: Encoded, config: TrainingConfig, seed: int) -> None:
        self._lengths, self._seed = training.lengths, seed
        self._group = config.batch_size * config.gradient_accumulation_steps
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 100_003 + self.epoch)
        return iter(get_length_grouped_indices(self._lengths, self._group, generator=generator))

    def __len__(self) -> int:
        return len(self._lengths)


def _no_number(what: str, value: float, step: int, job: Job) -> RunError:
    """The error for figures that are no numbers any more, with what most likely makes them so."""
    config: TrainingConfig = job.config
    causes = [f"lower learning_rate (now {config.learning_rate:g})"]
    if not config.max_grad_norm:
        causes.append("clip the gradients with max_grad_norm: 1")
    if job.dtype == "float16":
        causes.append("take --dtype bfloat16 or float32, whose numbers reach further")
    good = store.last_checkpoint(job.directory)
    kept = f"; the checkpoint of step {store.checkpoint_step(good)} is kept" if good else ""
    return RunError(f"the {what} is {value} at step {step}: {', or '.join(causes)}{kept}")


def _parts(inputs: dict[str, torch.Tensor], rows: int) -> Iterator[tuple[float, dict[str, torch.Tensor]]]:
    """A batch in parts of so many rows, each with its share of what is learned in the batch."""
    if rows >= len(inputs["labels"]):
        yield 1.0, inputs
        return
    items = _learned(inputs["labels"])
    for start in range(0, len(inputs["labels"]), rows):
        part = {name: tensor[start : start + rows] for name, tensor in inputs.items()}
        yield _learned(part["labels"]) / items, part


def _learned(labels: torch.Tensor) -> int:
    """How many labels (B,), or tokens after the first one (B, T), are learned."""
    wanted = labels if labels.ndim == 1 else labels[:, 1:]
    return int((wanted != IGNORED).sum())


class _Trainer(Trainer):  # type: ignore[misc]  # transformers' class is untyped
    """A Trainer with our sampler and a causal loss that computes logits at label tokens only."""

    def __init__(
        self, *, job: Job, sampler: _LengthGroupedSampler, tell: Callable[[str], None], **arguments: Any
    ) -> None:
        self.sampler, self._job, self._tell = sampler, job, tell
        self._causal = job.task != "classification"
        super().__init__(**arguments)
        self._keeps = keeps_logits(self.model)
        # A classifier's loss is a mean, also where its forward takes the count of items that would make it a sum.
        self.model_accepts_loss_kwargs: bool = self._causal and self.model_accepts_loss_kwargs
        self._rows = self.args.per_device_train_batch_size  # that go through the model at once
        self._share = 1.0  # of its batch that the part has which goes through the model now

    def _get_train_sampler(self, _dataset: Any = None) -> _LengthGroupedSampler:
        return self.sampler

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """A checkpoint holds what is trained: the frozen base would only fill the disk.

        Not what peft saves, which for a prompt encoder is its output alone: training could not go on from there.
        """
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = trained_tensors(self.model)
        if not all(tensor.isfinite().all() for tensor in tensors.values()):  # a good checkpoint must not make room
            raise _no_number("trained weights' value", math.nan, self.state.global_step, self._job)
        save_file(tensors, folder / TRAINED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained(self.model, Path(resume_from_checkpoint) / TRAINED)

    def go_on(self, checkpoint: Path | None) -> None:
        """Train to the end, from the start or a checkpoint; where that is the last step, only evaluate."""
        if checkpoint is None or store.checkpoint_step(checkpoint) < self.args.max_steps:
            self.train(resume_from_checkpoint=checkpoint and str(checkpoint))
            return
        self._load_from_checkpoint(str(checkpoint))
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if self.eval_dataset is not None:
            self.evaluate()

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """One micro-batch: whole, or where memory ran out in parts that together have the same gradient."""
        self._window.append(inputs)
        again: list[dict[str, Any]] = []
        while True:
            try:
                for earlier in again:
                    self._in_parts(model, earlier, num_items_in_batch)
                return self._in_parts(model, inputs, num_items_in_batch)
            except Exception as error:
                if not out_of_memory(error) or self._rows == 1:
                    raise
            # Here the error's frames and with them the activations are gone. Some gradients were added, others not.
            model.zero_grad()
            gc.collect()
            models.release_cached_memory()
            self._halve()
            again = self._window[:-1]

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The micro-batches of the next optimizer step."""
        self._window: list[dict[str, Any]] = []  # those of this step whose gradients are there
        return super().get_batch_samples(*args, **kwargs)

    def _halve(self) -> None:
        self._rows = (self._rows + 1) // 2
        size, accumulated = self.args.per_device_train_batch_size, self.args.gradient_accumulation_steps
        parts = accumulated * math.ceil(size / self._rows)
        self._tell(
            f"memory ran out at step {self.state.global_step + 1}: from here on {self._rows} rows at a time instead of "
            f"{size}, and {parts} of them to a step instead of {accumulated}; the step's gradient stays the same"
        )

    def _in_parts(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> torch.Tensor:
        """The loss of a micro-batch, whose gradient was added, `_rows` rows at a time."""
        losses = []
        for share, part in _parts(inputs, self._rows):
            self._share = share
            losses.append(super().training_step(model, part, num_items_in_batch))
        self._share = 1.0
        return torch.stack(losses).sum()

    def prediction_step(
        self,
        model: Any,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> Any:
        """One batch of an evaluation, in parts where memory runs out."""
        rows = len(inputs["input_ids"])
        while True:
            try:
                return self._predicted(model, inputs, rows, prediction_loss_only, ignore_keys)
            except Exception as error:
                if not out_of_memory(error) or rows == 1:
                    raise
            models.release_cached_memory()
            rows = (rows + 1) // 2

    def _predicted(self, model: Any, inputs: dict[str, Any], rows: int, *args: Any) -> Any:
        """(loss, logits, labels) of a batch, `rows` rows at a time."""
        parts = [(share, super(_Trainer, self).prediction_step(model, p, *args)) for share, p in _parts(inputs, rows)]
        if len(parts) == 1:
            return parts[0][1]
        loss = sum(share * result[0] for share, result in parts)
        logits, labels = ([_first(result[i]) for _, result in parts] for i in (1, 2))
        return loss, *(None if kept[0] is None else torch.cat(kept) for kept in (logits, labels))

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        # A sum over the items of the whole step adds up by itself; the mean of a part counts as its share.
        added = num_items_in_batch is not None
        bfloat16 = self.args.bf16 or self.model.dtype == torch.bfloat16
        with quick_attention(inputs["input_ids"], bfloat16):
            if self._causal:
                loss, outputs = causal_loss(model, inputs, learned_positions(inputs["labels"]), self._keeps)
                loss = loss / (num_items_in_batch if added else _learned(inputs["labels"]))
            else:
                loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if torch.is_grad_enabled() and not added:
            loss = loss * self._share
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate without moving the random state, so that evaluating more often changes no training."""
        devices = [torch.cuda.current_device()] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
            return metrics

    def save_checkpoint(self) -> None:
        """Write a checkpoint at the present step, unless it is there, and tell the callbacks."""
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.state.global_step == 0 or store.is_complete(folder):
            return
        self._save_checkpoint(self.model, trial=None)
        self.control: TrainerControl = self.callback_handler.on_save(self.args, self.state, self.control)


class _Reporter(TrainerCallback):  # type: ignore[misc]  # transformers' class is untyped
    """Turns the Trainer's callbacks into events, and decides when to evaluate, to save and to stop."""

    def __init__(self, job: Job, emit: Emit, sampler: _LengthGroupedSampler, answer: Answer) -> None:
        self._job, self._emit, self._sampler, self._answer = job, emit, sampler, answer
        self._config: TrainingConfig = job.config
        self._per_epoch = _steps_per_epoch(self._config, len(sampler))
        self._saved_at = time.monotonic()
        self._evaluates = job.evaluation is not None
        # Some start at zero behind a zero, such as LoRA's A behind B; and an evaluation may change what is trained.
        self._gradient_checks = {GRADIENTS_CHECKED}
        self._warning, self._warned = "", list[str]()
        self._evaluated = False
        self.figures: dict[str, float] = {}

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._sampler.epoch = state.global_step // self._per_epoch

    def on_pre_optimizer_step(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any, **_: Any
    ) -> None:
        if state.global_step not in self._gradient_checks:
            return
        silent = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
        if silent:
            more = f" and {len(silent) - 3} more" if len(silent) > 3 else ""
            warning = f"no gradient reaches {', '.join(silent[:3])}{more}: they learn nothing"
            if warning not in self._warned:
                self._warned.append(warning)
                self._warning = warning

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        step, last = state.global_step, state.global_step >= state.max_steps
        warning, self._warning = self._warning, ""
        epoch_ends = step % self._per_epoch == 0
        due = step % self._config.eval_steps == 0 if self._config.eval_steps else epoch_ends
        control.should_evaluate = self._evaluates and (due or last)
        control.should_save = not last and self._must_save(step, epoch_ends)
        try:
            if warning:
                self._emit(Notice(warning, "warning"))
            self._emit(self._progress(state))
        except Stopped:
            control.should_training_stop = control.should_save = True
            control.should_evaluate = False

    def _must_save(self, step: int, epoch_ends: bool) -> bool:
        if self._config.save_steps:
            return step % self._config.save_steps == 0
        return epoch_ends or time.monotonic() - self._saved_at > SAVE_SECONDS

    def _progress(self, state: TrainerState) -> Progress:
        rows = len(self._sampler)
        epochs, steps = divmod(state.global_step, self._per_epoch)
        per_step = self._config.batch_size * self._config.gradient_accumulation_steps
        examples = epochs * rows + min(steps * per_step, rows)
        return Progress(state.global_step, state.max_steps, state.epoch, examples, int(state.num_input_tokens_seen))

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, float], **_: Any) -> None:
        state.log_history.clear()  # it is in the event log; here it would grow with every checkpoint
        if "loss" not in logs:
            return
        self.figures["train_loss"] = logs["loss"]
        shown = ("loss", "learning_rate", "grad_norm")
        values: dict[str, float] = {name: logs[name] for name in shown if name in logs}
        self._emit(Metric(state.global_step, "train", values))
        for name, what in (("loss", "loss"), ("grad_norm", "gradient's norm")):
            if not math.isfinite(logs.get(name, 0.0)):
                raise _no_number(what, logs[name], state.global_step, self._job)

    def on_prediction_step(self, *_: Any, **__: Any) -> None:
        self._emit(Stage("evaluating"))

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, metrics: dict[str, float], **_: Any
    ) -> None:
        names = {"eval_loss": "loss", "eval_accuracy": "accuracy", "eval_macro_f1": "macro_f1"}
        values = {name: metrics[key] for key, name in names.items() if key in metrics}
        self.figures.update(values)
        if not self._evaluated:
            self._gradient_checks.add(max(state.global_step, GRADIENTS_CHECKED))
        self._evaluated = True
        self._emit(Metric(state.global_step, "evaluation", values))
        if not math.isfinite(values.get("loss", 0.0)):
            raise _no_number("loss of the held-out rows", values["loss"], state.global_step, self._job)
        self._show_samples(state.global_step)
        self._emit(Stage("training"))

    def _show_samples(self, step: int) -> None:
        rows = self._job.evaluation.rows[: self._config.samples] if self._job.evaluation else ()
        if not rows:
            return
        source, target = ("text", "label") if self._job.task == "classification" else ("prompt", "completion")
        if self._job.task == "text":
            source, target = "text", ""
        inputs = [row[source] for row in rows]
        answers = self._answer(inputs, lambda: self._emit(Stage("answering samples")))
        for row, said in zip(rows, answers, strict=True):
            self._emit(Sample(step, as_text(row[source]), said, row.get(target)))

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        store.mark_complete(checkpoint)
        self._saved_at = time.monotonic()
        relative = checkpoint.relative_to(self._job.directory)
        self._emit(Checkpoint(state.global_step, relative.as_posix()))
