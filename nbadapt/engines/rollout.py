"""Answers drawn from a policy, and what the policy, its value head and its frozen reference say of them.

::

    tokens   [pad pad prompt prompt | answer answer end pad ]     (B, P + K): prompts end, and answers start, at P
    drawn                           [   1      1     1   0  ]     (B, K)

One trunk does it all: with its adapter it is the policy, with the adapter off the reference, and the value head reads
the last hidden states of the policy.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nbadapt.engines.batches import inference, keep, left_padded
from nbadapt.engines.causal_loss import keeps_logits, quick_attention

Tick = Callable[[], None]


@dataclass(frozen=True)
class Rollout:
    """Answers to B prompts, K tokens each at most.

    Attributes:
        tokens: (B, P + K) prompts padded on the left, answers padded on the right.
        mask: (B, P + K) 1 where a token is.
        drawn: (B, K) True where a token of the answer is; the one that ends it is among them.
        texts: the answers, without special tokens and the white space around them.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    drawn: torch.Tensor
    texts: list[str]

    @property
    def lengths(self) -> torch.Tensor:
        """(B,) tokens of each answer."""
        return self.drawn.sum(dim=1)


@dataclass(frozen=True)
class Seen:
    """What the models say of a rollout, each (B, K); what stands at padding means nothing.

    Attributes:
        policy: log-probabilities of the drawn tokens.
        reference: the same with the adapter off.
        values: of the state before each token.
        entropy: of the policy's distribution before each token, in nats.
    """

    policy: torch.Tensor
    reference: torch.Tensor
    values: torch.Tensor
    entropy: torch.Tensor


class ActorCritic(torch.nn.Module):
    """A policy with an adapter on a frozen trunk, and a value head on its hidden states that starts at 0.

    The head's loss changes the head alone: what the reward's scale is makes no difference to the policy.

    Args:
        policy: a peft model of a causal language model.
        temperature: of the distributions that are drawn from and compared.
    """

    def __init__(self, policy: Any, temperature: float) -> None:
        super().__init__()
        self.policy, self.temperature = policy, temperature
        width = policy.get_output_embeddings().weight.shape[-1]
        self.value = torch.nn.Linear(width, 1, device=policy.device)
        torch.nn.init.zeros_(self.value.weight)
        torch.nn.init.zeros_(self.value.bias)
        self._keeps = keeps_logits(policy)
        base = policy.get_base_model()
        self._takes_positions = "position_ids" in inspect.signature(base.forward).parameters

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities of the last `width` tokens, and the values before them, each (B, K)."""
        logits, hidden = self._logits(tokens, mask, width)
        return picked(logits, tokens[:, -width:]), self.value(hidden.detach().float()).squeeze(-1)

    def look(self, tokens: torch.Tensor, mask: torch.Tensor, width: int) -> Seen:
        """What policy, value head and reference say of the last `width` tokens; without gradients."""
        with torch.no_grad():
            logits, hidden = self._logits(tokens, mask, width)
            values = self.value(hidden.float()).squeeze(-1)
            chosen = tokens[:, -width:]
            policy, spread = picked(logits, chosen), entropy(logits)
            del logits, hidden
            with self.policy.disable_adapter():
                reference = picked(self._logits(tokens, mask, width)[0], chosen)
        return Seen(policy, reference, values, spread)

    def _logits(self, tokens: torch.Tensor, mask: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, K, V) logits of the last `width` tokens, and the hidden states (B, K, d) that they come from."""
        columns = torch.arange(-width - 1, -1, device=tokens.device)
        more: dict[str, Any] = {"logits_to_keep": columns} if self._keeps else {}
        if self._takes_positions:  # padding on the left takes none
            more["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
        # The same kernel with gradients and without: in bfloat16 another one would move the first ratio away from 1.
        attention = quick_attention(tokens, self.policy.dtype == torch.bfloat16, always=True)
        with self._hidden_states() as kept, attention:
            output = self.policy(input_ids=tokens, attention_mask=mask, use_cache=False, **more)
        logits, hidden = output.logits, kept.pop()
        if not self._keeps:
            logits, hidden = logits[:, columns], hidden[:, columns]
        return logits.float() / self.temperature, hidden

    @contextlib.contextmanager
    def _hidden_states(self) -> Iterator[list[torch.Tensor]]:
        """What the output layer is given: the last hidden states, at the kept places alone."""
        kept: list[torch.Tensor] = []
        hook = self.policy.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
        try:
            yield kept
        finally:
            hook.remove()


def picked(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (B, K) of tokens (B, K) under logits (B, K, V)."""
    return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """The entropy (B, K) in nats of the distributions that logits (B, K, V) are of."""
    logarithms = logits.log_softmax(-1)
    return -(logarithms.exp() * logarithms).sum(-1)


def look_at(model: ActorCritic, rollout: Rollout, size: int, tick: Tick) -> Seen:
    """What the models say of a rollout, `size` answers at a time."""
    parts = []
    width = rollout.drawn.shape[1]
    for start in range(0, len(rollout.tokens), size):
        tick()
        rows = slice(start, start + size)
        parts.append(model.look(rollout.tokens[rows], rollout.mask[rows], width))
    return Seen(*(torch.cat([getattr(part, name) for part in parts]) for name in Seen.__dataclass_fields__))


def draw(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    *,
    ends: Sequence[int],
    room: int,
    temperature: float,
    seed: int,
    tick: Tick,
) -> Rollout:
    """One answer a prompt, drawn from the model's whole distribution with a key/value cache.

    Args:
        model: a causal language model.
        tokenizer: decodes the answers.
        prompts: token ids of B prompts.
        ends: tokens that end an answer.
        room: the longest answer, in tokens.
        temperature: the logits are divided by it.
        seed: decides the drawing; the global random state is neither read nor changed.
        tick: called after each token; may raise to leave early.
    """
    from transformers import GenerationConfig

    tokens, mask = left_padded(prompts, model.device)  # (B, P)
    settings = GenerationConfig(
        max_new_tokens=room,
        do_sample=False,  # _Draw leaves one token to choose
        num_beams=1,
        use_cache=True,
        eos_token_id=list(ends) or None,
        pad_token_id=ends[0] if ends else 0,
    )
    with inference(model):
        output = _unbent(model).generate(
            input_ids=tokens,
            attention_mask=mask,
            generation_config=settings,
            logits_processor=[_Draw(temperature, torch.Generator().manual_seed(seed), tick)],
            **keep(model, 1),
        )
    answers = output[:, tokens.shape[1] :]  # (B, K)
    ending = torch.isin(answers, torch.tensor(list(ends), device=answers.device, dtype=answers.dtype))
    drawn = ending.cumsum(dim=1) - ending.long() == 0  # up to the first end, and that one
    texts = []
    for row, whole, ended in zip(answers.tolist(), drawn.sum(dim=1).tolist(), (ending & drawn).any(1), strict=True):
        texts.append(str(tokenizer.decode(row[: whole - int(ended)], skip_special_tokens=True)).strip())
    return Rollout(output, torch.cat([mask, drawn.to(mask)], dim=1), drawn, texts)


def _unbent(model: Any) -> Any:
    """The same model without the generation settings it was published with.

    They would fill what `draw` leaves open, and bend the distribution that is drawn from (suppress_tokens,
    sequence_bias, ...) but not the one that is learned from. A shallow copy, since the model may be in use elsewhere;
    of what is in the peft wrapper, which would hand its own settings on to the shared model.
    """
    from transformers import GenerationConfig

    inner = copy.copy(model.get_base_model() if hasattr(model, "get_base_model") else model)
    inner.generation_config = GenerationConfig()
    return inner


class _Draw:
    """Logits processor that draws a token for each row, and leaves only that one."""

    def __init__(self, temperature: float, generator: torch.Generator, tick: Tick) -> None:
        self._temperature, self._generator, self._tick = temperature, generator, tick

    def __call__(self, _input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._tick()
        reached = (scores.double() / self._temperature).softmax(-1).cumsum(-1)  # (B, V)
        uniform = torch.rand(len(scores), 1, generator=self._generator, dtype=torch.double).to(scores.device)
        place = (reached <= uniform * reached[:, -1:]).sum(-1, keepdim=True).clamp(max=scores.shape[1] - 1)  # (B, 1)
        return torch.full_like(scores, -torch.inf).scatter(1, place, 0.0)
