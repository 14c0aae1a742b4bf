"""What proximal policy optimisation will cost, from a model on the meta device and the longest prompts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from nbadapt import models, pretrained
from nbadapt.engines.causal_loss import keeps_logits
from nbadapt.engines.generate import LanguageModel
from nbadapt.engines.ppo import Experience, encode_prompts, minibatch_loss
from nbadapt.engines.ppo_config import PpoConfig, ppo_steps
from nbadapt.engines.rollout import ActorCritic, Rollout
from nbadapt.engines.tokens import as_openings
from nbadapt.engines.training_estimate import ROUGH, count_parameters
from nbadapt.engines.training_memory import Live, faked
from nbadapt.errors import NbadaptError
from nbadapt.method import Estimate

if TYPE_CHECKING:
    from nbadapt.method import Job
    from nbadapt.run import Run

DRAWING_BYTES = 24  # of each word of the vocabulary, while a token is drawn: see `rollout`


def estimate(model: ActorCritic, job: Job, base: Iterable[torch.Tensor], judge: Run | None) -> Estimate:
    """Exact parameters and predicted peak memory.

    Args:
        model: on the meta device; of no use afterwards.
        job: its config is a PpoConfig.
        base: the tensors of the trunk, which stay in memory.
        judge: the run that judges; None for a function, whose memory is its own affair.

    Returns:
        Memory in bytes by item, the adapter's size on disk in bytes, and the steps.

    Raises:
        NbadaptError: what cannot be trained, such as a prompt that leaves no room for an answer.
    """
    config: PpoConfig = job.config
    trainable, total = count_parameters(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    kept = {id(t): t for t in (*base, *model.buffers(), *(p for p in model.parameters() if not p.requires_grad))}
    assert job.data is not None
    rows = len(job.data)
    tokenizer = pretrained.load_tokenizer(job.model)
    as_openings(tokenizer, job)
    prompts, _ = encode_prompts(job.data, LanguageModel(model.policy, tokenizer), config)
    longest = max(len(prompt.ids) for prompt in prompts)
    notes = [
        f"one frozen trunk for policy, value and reference; {config.batch_size} answers of up to "
        f"{config.max_new_tokens} tokens a step"
    ]
    memory = {
        "weights": sum(t.nbytes for t in kept.values()),
        "adapter": sum(p.nbytes for p in trained),
        "gradients": sum(p.nbytes for p in trained),
        "optimizer": 2 * sum(p.nbytes for p in trained),  # AdamW keeps two moments
        "copies": 3 * sum(p.nbytes for p in trained),  # of weights and moments, for a Stop within a step
    }
    if judge is not None:
        memory["reward"], note = _judge_bytes(judge, job)
        notes.append(note)
    try:
        needed = max(_peaks(model, longest, config, job.device))
    except NbadaptError:
        raise
    except Exception:  # noqa: BLE001 - whatever code a model brings: the estimate goes on without
        needed, notes = _guess(model, longest, job), [*notes, ROUGH]
    memory["activations"] = max(0, needed - memory["gradients"])
    stored = 4 * (trainable - sum(p.numel() for p in model.value.parameters()))
    return Estimate(trainable, total, memory, stored, ppo_steps(config, rows), notes=tuple(notes))


def _peaks(model: ActorCritic, longest: int, config: PpoConfig, device: str) -> tuple[int, int, int]:
    """Bytes beside weights and optimizer at the peaks of drawing, of looking at the answers, and of learning.

    Args:
        model: on the meta device.
        longest: tokens of the longest prompt.
        config: the settings.
        device: where it will work.
    """
    room, size = config.max_new_tokens, min(config.minibatch_size, config.batch_size)
    width = longest + room
    kind = device.partition(":")[0]
    with faked(model, kind) as live:
        drawing = _drawing(model, live, longest, config)
        tokens, mask = (live.fake(torch.ones(size, width, dtype=torch.long, device="cpu")) for _ in range(2))
        drawn = live.fake(torch.ones(size, room, dtype=torch.bool, device="cpu"))
        live.peak = live.now
        seen = model.look(tokens, mask, room)
        looking, live.peak = live.peak, live.now
        rows = live.fake(torch.arange(size, device="cpu"))
        experience = Experience(Rollout(tokens, mask, drawn, []), seen, seen.values, seen.values)
        minibatch_loss(model, experience, rows, config)[0].backward()  # type: ignore[no-untyped-call]
        return drawing, looking, live.peak


def _drawing(model: ActorCritic, live: Live, length: int, config: PpoConfig) -> int:
    """The peak of answering a batch of prompts: while they are read, or at the last token."""
    batch = config.batch_size
    more = {"logits_to_keep": 1} if keeps_logits(model.policy) else {}
    tokens, mask = (live.fake(torch.ones(batch, length, dtype=torch.long, device="cpu")) for _ in range(2))
    before = live.now
    with torch.no_grad():
        output = model.policy(input_ids=tokens, attention_mask=mask, use_cache=True, **more)
    words = output.logits.shape[-1]
    cache = output.past_key_values
    del output
    layers = getattr(model.policy.config.get_text_config(), "num_hidden_layers", 1)
    kept = (live.now - before) * (length + config.max_new_tokens) / length
    del cache
    drawing = DRAWING_BYTES * batch * words
    return int(max(live.peak - before, kept * (1 + 1 / (2 * layers)) + drawing))  # a key grows by being copied


def _judge_bytes(judge: Run, job: Job) -> tuple[int, str]:
    """What a reward run takes beside the policy, and a note on it."""
    outcome, base = judge.outcome, models.base_ref(judge.job().model)
    assert outcome is not None  # it was checked
    files = (judge.directory / outcome.artifacts.get("adapter", "")).rglob("*.safetensors")
    own = sum(file.stat().st_size for file in files)
    if base.path == job.model.path:
        return own, f"the reward model {judge.id} is an adapter on the same weights in memory"
    weights = sum(p.nbytes for p in pretrained.skeleton(base, dtype=job.dtype).parameters())
    return own + weights, f"the reward model {judge.id} is on another base, {base.name}, which is in memory beside"


def _guess(model: ActorCritic, longest: int, job: Job) -> int:
    """Bytes of a minibatch in all blocks (Korthikanti et al. 2022, eq. 1, without attention), and its logits."""
    config: PpoConfig = job.config
    text = model.policy.config.get_text_config()
    hidden, layers, words = (getattr(text, name, 0) for name in ("hidden_size", "num_hidden_layers", "vocab_size"))
    tokens = config.minibatch_size * (longest + config.max_new_tokens)
    width = 4 if job.dtype == "float32" else 2
    return int(17 * tokens * hidden * layers * width + config.minibatch_size * config.max_new_tokens * words * 12)
