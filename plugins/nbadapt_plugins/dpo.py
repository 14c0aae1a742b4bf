"""DPO: direct preference optimisation (Rafailov et al. 2023, https://arxiv.org/abs/2305.18290).

::

    prompt │ chosen   ──> base + LoRA ──> log π(chosen)       base alone ──> log ref(chosen)
    prompt │ rejected ──> base + LoRA ──> log π(rejected)     base alone ──> log ref(rejected)

    m = β [ (log π(chosen) - log ref(chosen)) - (log π(rejected) - log ref(rejected)) ]
    loss = -log sigmoid(m)                               each log is a sum over the answer's tokens

No reward model and no sampling: β log(π / ref) is the reward that the policy π is the best one for, if it is to stay
near the reference; m is the margin of two such rewards. A larger β holds π nearer to it. The reference is the same
model with its adapter switched off, so nothing is in memory twice. Sizes: LoRA's r · (in + out) for a matrix of
out x in; a step is one forward and backward pass of two texts a pair, and one forward pass more. trl's DPOTrainer
trains. Other losses of m: `hinge` (Zhao et al. 2023, arXiv:2305.10425), `ipo` (Azar et al. 2023, arXiv:2310.12036),
`robust` to flipped labels (Chowdhury et al. 2024, arXiv:2403.00409), `exo_pair` (Ji et al. 2024, arXiv:2402.00856),
`nca_pair` (Chen et al. 2024, arXiv:2402.05369), `sppo_hard` (Wu et al. 2024, arXiv:2405.00675), `apo_zero` and
`apo_down` (D'Oosterlinck et al. 2024, arXiv:2408.06266), `discopop` (Lu et al. 2024, arXiv:2406.08414), and
`sigmoid_norm`, where the log-ratios are means over tokens (Lambert et al. 2024, arXiv:2411.15124).

When to use it: where pairs of answers say which is better and the model is to answer so: no reward model, no
sampling, one pass over the pairs.

When not: where there are good answers alone (use lora), or a judge that scores any answer and no pairs (use ppo).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from nbadapt.engines.pairs import Pair
from nbadapt.errors import RequestError
from nbadapt.method import Job
from nbadapt_plugins._feedback import PairMethod, PairSettings
from nbadapt_plugins._trained import adapted

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from nbadapt.engines.training_estimate import Objective
    from nbadapt.engines.training_report import Show

# What trl's trainer asks of the output layer, which takes memory; the last two are for figures alone.
OUTPUTS = ("log_probs", "entropy", "mean_logits", "is_top1")
SMOOTHED = ("robust", "exo_pair")  # losses that read label_smoothing


class DpoSettings(PairSettings):
    """Settings of DPO."""

    beta: float = Field(0.1, gt=0, le=100, description="how strongly the model is held to the base; IPO's tau")
    loss_type: Literal[
        "sigmoid",
        "hinge",
        "ipo",
        "robust",
        "exo_pair",
        "nca_pair",
        "sppo_hard",
        "apo_zero",
        "apo_down",
        "discopop",
        "sigmoid_norm",
    ] = Field("sigmoid", description="what is made of the margin: sigmoid is DPO's own")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="share of the pairs taken to be labelled the wrong way round: robust, exo_pair"
    )
    learning_rate: float = Field(5e-4, gt=0, le=10, description="peak learning rate of AdamW")
    epochs: float = Field(1, gt=0, le=10_000, description="passes over the pairs")


class Dpo(PairMethod):
    """LoRA trained to make the preferred answers likelier than the others, measured against the base."""

    name = "dpo"
    family = "Human feedback"
    summary = "direct preference optimisation: learns from preferred answers without a reward model"
    reference = "https://arxiv.org/abs/2305.18290"
    Config: ClassVar[type[PairSettings]] = DpoSettings
    one_prompt = True  # trl keeps one prompt for both answers
    figures = {"rewards/accuracies": "accuracy", "rewards/margins": "margin"}  # noqa: RUF012

    def row(self, pair: Pair) -> dict[str, Any]:
        """The prompt and the two answers."""
        start, other = pair.starts
        return {
            "prompt_ids": pair.chosen[:start],
            "chosen_ids": pair.chosen[start:],
            "rejected_ids": pair.rejected[other:],
        }

    def trainer(self, job: Job) -> tuple[type[Any], type[Any], dict[str, Any]]:
        """What trl calls DPOTrainer."""
        from trl import DPOConfig

        from nbadapt_plugins._feedback_training import DpoPairs

        settings: DpoSettings = job.config
        own = {"beta": settings.beta, "loss_type": [settings.loss_type], "label_smoothing": settings.label_smoothing}
        return DpoPairs, DPOConfig, own

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Any:
        """The collator of trl for a prompt and two answers."""
        from trl.trainer.dpo_trainer import DataCollatorForPreference

        return DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)

    def objective(self, model: PreTrainedModel, job: Job) -> Objective:
        """The loss with trl's output layer, which gives log-probabilities instead of logits."""
        from trl.trainer.utils import add_fused_lm_head

        check(job.config)
        add_fused_lm_head(model.get_base_model(), outputs=OUTPUTS)
        return super().objective(model, job)

    def loss(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """-log sigmoid of the margin; the other losses take as much memory."""
        import torch
        from torch.nn.functional import logsigmoid

        labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
        texts = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}
        policy = model(**texts, use_cache=False, fused_lm_head=True)
        with torch.no_grad(), model.disable_adapter():
            reference = model(**texts, use_cache=False, fused_lm_head=True)
        chosen, rejected = (policy.log_probs - reference.log_probs).sum(dim=1).chunk(2)  # each (n,)
        return -logsigmoid(chosen - rejected).mean()

    def show(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, job: Job) -> Show:
        """What the model answers."""
        from nbadapt.engines.training_report import answered

        return answered(adapted(model, tokenizer, job).answer, job.task)


def check(settings: DpoSettings) -> None:
    """Refuse a smoothing that the loss does not read, and a loss that needs one without.

    Raises:
        RequestError: one of these.
    """
    if settings.label_smoothing and settings.loss_type not in SMOOTHED:
        raise RequestError(
            f"label_smoothing is for the losses {' and '.join(SMOOTHED)}: say loss_type: robust, or leave it out"
        )
    if settings.loss_type == "exo_pair" and not settings.label_smoothing:
        raise RequestError("loss_type: exo_pair needs label_smoothing above 0: the paper takes 0.001")
