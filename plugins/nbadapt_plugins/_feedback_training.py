"""trl's trainers of pairs, made to stop, go on and halve their batches as our own does.

A trainer is trl's own class behind `PairTrainer`; its loss is untouched. trl's printing, its model card, its notes to
the hub of what is trained, and its preparation of data sets (which are tokenised as everywhere else in nbadapt) are
left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from trl import DPOTrainer, RewardTrainer

from nbadapt.capture import quiet_libraries
from nbadapt.engines import supervised
from nbadapt.engines.encoding import length_limit
from nbadapt.engines.pairs import EncodedPairs, encode_pairs
from nbadapt.engines.reward_model import calibration
from nbadapt.engines.trainer import LengthGroupedSampler, ResumableTrainer
from nbadapt.engines.training_estimate import count_parameters
from nbadapt.engines.training_report import TrainingReporter
from nbadapt.events import Notice, Parameters, Reliability, Stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from nbadapt.data import Examples
    from nbadapt.method import Emit, Job
    from nbadapt_plugins._feedback import PairMethod


class PairTrainer(ResumableTrainer):
    """What a trainer of trl needs, whose batches are n chosen texts and then the n rejected ones.

    Stands before trl's trainer among a class's bases, which says what it measures: `measured` and `summary`.

    Args:
        emit: told of what an evaluation shows besides its figures.
        arguments: of `nbadapt.parts.ResumableTrainer` and trl's trainer.
    """

    def __init__(self, *, emit: Emit, **arguments: Any) -> None:
        self._emit = emit
        self._held_out: list[Any] = []  # what an evaluation has measured so far
        self._latest: list[Any] = []  # of the batch that it is at, which may have to be repeated
        super().__init__(**arguments)

    def _send_telemetry(self) -> None:
        """Nobody was asked."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """The run's folder says what the checkpoint is."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def count(self, inputs: dict[str, Any]) -> int:
        """The pairs of a batch."""
        return len(inputs["input_ids"]) // 2

    def parts(self, inputs: dict[str, Any], rows: int) -> Iterable[tuple[float, dict[str, Any]]]:
        """A batch in parts of so many pairs, each with its share of them."""
        pairs = self.count(inputs)
        for start in range(0, pairs, rows):
            stop = min(start + rows, pairs)
            places = [*range(start, stop), *range(pairs + start, pairs + stop)]
            part = {name: tensor[places] for name, tensor in inputs.items()} if stop - start < pairs else dict(inputs)
            yield (stop - start) / pairs, part

    def measured(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, Any]:
        """The loss of a batch as trl computes it, and what an evaluation remembers of it."""
        raise NotImplementedError

    def summary(self, measured: list[Any]) -> dict[str, float]:
        """The figures of an evaluation."""
        raise NotImplementedError

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of trl, a mean over pairs, of which a part counts as its share."""
        with self.quick_attention(inputs):
            loss, found = self.measured(model, inputs)
        if torch.is_grad_enabled():
            loss = loss * self.share
        else:
            self._latest.append(found)
        return (loss, {}) if return_outputs else loss

    def predicted(self, *args: Any) -> Any:
        self._latest = []
        result = super().predicted(*args)
        self._held_out += self._latest
        return result

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As everywhere, with the figures of all pairs instead of trl's means over batches, which differ in size."""
        self._held_out = []
        result = super().evaluation_loop(*args, **kwargs)
        self._metrics["eval"].clear()
        result.metrics.update({f"eval_{name}": value for name, value in self.summary(self._held_out).items()})
        return result


class RewardPairs(PairTrainer, RewardTrainer):  # type: ignore[misc]  # trl's class is untyped
    """trl's RewardTrainer, with margins and their calibration over all held-out pairs."""

    def measured(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, Any]:
        """The loss, and the margins (n,)."""
        loss, outputs = RewardTrainer.compute_loss(self, model, inputs, return_outputs=True)
        chosen, rejected = outputs.logits.detach().float().squeeze(-1).chunk(2)
        return loss, chosen - rejected

    def summary(self, measured: list[Any]) -> dict[str, float]:
        """Accuracy, mean margin, and how well the margins are calibrated, which is told bin by bin as well."""
        margins = torch.cat(measured).cpu().double().numpy()
        found, table = calibration(margins)
        predicted, observed = (tuple(row[name] for row in table) for name in ("predicted", "observed"))
        rows = tuple(int(row["pairs"]) for row in table)
        self._emit(Reliability(self.state.global_step, predicted, observed, rows))
        return {"accuracy": float((margins > 0).mean()), "margin": float(margins.mean()), **found}


class DpoPairs(PairTrainer, DPOTrainer):  # type: ignore[misc]  # trl's class is untyped
    """trl's DPOTrainer with the adapter switched off as the reference."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        # trl gives a model that has its adapter already a second one, a copy, as the reference. Ours is new: it starts
        # as the base, and without a copy trl takes that.
        if "ref" in self.model.peft_config:
            self.model.delete_adapter("ref")

    def measured(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, Any]:
        """The loss; and the number of pairs, their mean margin and the share of those that are ordered rightly."""
        loss = DPOTrainer.compute_loss(self, model, inputs)
        told = self._metrics["train" if self.model.training else "eval"]
        return loss, (self.count(inputs), told["rewards/margins"][-1], told["rewards/accuracies"][-1])

    def summary(self, measured: list[Any]) -> dict[str, float]:
        """Mean margin, and the share of pairs that are ordered rightly."""
        total = sum(pairs for pairs, _, _ in measured)
        return {
            "rewards/accuracies": sum(pairs * share for pairs, _, share in measured) / total,
            "rewards/margins": sum(pairs * margin for pairs, margin, _ in measured) / total,
        }


def train(
    method: PairMethod, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, job: Job, emit: Emit
) -> dict[str, float]:
    """Train what of `model` requires gradients on the job's pairs; returns the last figures.

    Raises:
        DataError: a row whose answers are the same tokens.
        RunError: the loss is no longer a finite number; the last checkpoint is kept.
    """
    assert job.data is not None
    emit(Stage("tokenising"))
    limit = length_limit(model.config, job.config.max_length)

    def encoded(table: Examples, name: str) -> EncodedPairs:
        found = encode_pairs(table, tokenizer, limit, one_prompt=method.one_prompt)
        if found.cut:
            emit(Notice(f"{found.cut:,} of {len(table):,} {name} pairs were longer than {limit} tokens and were cut"))
        return found

    training = encoded(job.data, "training")
    held_out = encoded(job.evaluation, "evaluation").rows if job.evaluation else []
    held_out.sort(key=lambda pair: pair.length)  # even lengths waste less padding
    emit(Parameters(*count_parameters(model)))
    kind, arguments, _ = method.trainer(job)
    sampler = LengthGroupedSampler(training.lengths, job.config, job.seed)
    reporter = TrainingReporter(job, emit, sampler, method.show(model, tokenizer, job), method.figures)
    trainer = kind(
        model=model,
        args=supervised.trainer_settings(arguments, job, len(training.rows), model, **method.trl_arguments(job)),
        data_collator=method.collator(tokenizer),
        train_dataset=Dataset.from_list([method.row(pair) for pair in training.rows]),
        eval_dataset=Dataset.from_list([method.row(pair) for pair in held_out]) if held_out else None,
        processing_class=tokenizer,
        optimizers=(method.optimizer(model, job), None),
        job=job,
        emit=emit,
        sampler=sampler,
        tell=lambda text: emit(Notice(text, "warning")),
    )
    with quiet_libraries():
        live = method.live(model, tokenizer, job)
        supervised.work(trainer, reporter, job, emit, live, lambda folder: method.keep(model, folder))
    return reporter.figures
