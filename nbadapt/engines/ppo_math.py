"""The formulas of proximal policy optimisation, as plain functions of tensors.

Every tensor is (B, K): B answers, K tokens each, padded on the right; `mask` is True where a token was drawn.

::

    reward     r_t = -beta KL_t + [t is the last token] score                          (Ouyang et al. 2022, eq. 2)
    advantage  A_t = sum_l (gamma lambda)^l d_{t+l},  d_t = r_t + gamma V_{t+1} - V_t  (Schulman et al. 2015b, GAE)
    policy     L = -E min(rho_t A_t, clip(rho_t, 1 - e, 1 + e) A_t),  rho_t = pi / pi_old  (Schulman et al. 2017, eq. 7)
    value      L = E max((V - R)^2, (clip(V, V_old - e, V_old + e) - R)^2) / 2

Sources: Schulman et al. 2015b, arXiv:1506.02438; Schulman et al. 2017, arXiv:1707.06347; Ouyang et al. 2022,
arXiv:2203.02155; the adaptive coefficient: Ziegler et al. 2019, arXiv:1909.08593; k1 and k3: Schulman 2020,
http://joschu.net/blog/kl-approx.html.
"""

from __future__ import annotations

from typing import Literal

import torch

Estimator = Literal["k1", "k3"]

CAREFUL = 0.2  # the largest relative error that the adaptive coefficient answers to
TINY = 1e-8


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean over all drawn tokens of the batch: a scalar."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def masked_variance(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The variance over all drawn tokens of the batch: a scalar."""
    return masked_mean((values - masked_mean(values, mask)) ** 2, mask)


def whitened(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Values with mean 0 and variance 1 over the drawn tokens; 0 elsewhere."""
    centred = values - masked_mean(values, mask)
    return torch.where(mask, centred * torch.rsqrt(masked_variance(values, mask) + TINY), 0.0)


def kl_per_token(policy: torch.Tensor, reference: torch.Tensor, estimator: Estimator) -> torch.Tensor:
    """What each token adds to KL(policy || reference), in nats, from the log-probabilities of the drawn tokens.

    k1 = log(p/q) has the true mean and may be negative; k3 = q/p - 1 - log(q/p) has it too and never is.
    """
    ratio = policy - reference
    return ratio if estimator == "k1" else torch.expm1(-ratio) + ratio


def token_rewards(scores: torch.Tensor, kl: torch.Tensor, coefficient: float, mask: torch.Tensor) -> torch.Tensor:
    """(B,) scores at the last drawn token, and -coefficient * KL at every one: (B, K)."""
    rewards = torch.where(mask, -coefficient * kl, 0.0)
    last = mask.sum(dim=1, keepdim=True) - 1  # every answer has a token
    return rewards.scatter_add(1, last, scores.to(rewards).unsqueeze(1))


def advantages(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantages, and the returns (advantage + value) that the value head learns; both 0 at padding.

    Behind the last token nothing is left to win: the value there is 0.
    """
    values = torch.where(mask, values, 0.0)
    rewards = torch.where(mask, rewards, 0.0)
    found = torch.zeros_like(values)
    behind = following = torch.zeros_like(values[:, 0])  # A_{t+1} and V_{t+1}
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * following - values[:, t]
        behind = torch.where(mask[:, t], delta + gamma * lam * behind, 0.0)
        following = values[:, t]
        found[:, t] = behind
    return found, found + values


def policy_loss(
    new: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor, mask: torch.Tensor, clip: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The clipped objective with its sign turned round, and the share of tokens at which the clip holds.

    Args:
        new: log-probabilities of the drawn tokens under the policy as it is.
        old: the same under the policy that drew them; without gradient.
        advantage: of each token.
        mask: the drawn tokens.
        clip: how far the ratio may go from 1 with profit.
    """
    ratio = torch.exp(torch.where(mask, new - old, 0.0))
    plain, clipped = -advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip)
    return masked_mean(torch.maximum(plain, clipped), mask), masked_mean((clipped > plain).float(), mask)


def value_loss(
    new: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor, clip: float
) -> torch.Tensor:
    """Half the squared error of the values, the larger one of that and of the values clipped around the old ones."""
    clipped = torch.maximum(torch.minimum(new, old + clip), old - clip)
    return masked_mean(torch.maximum((new - returns) ** 2, (clipped - returns) ** 2), mask) / 2


def next_coefficient(coefficient: float, kl: float, target: float, rate: float) -> float:
    """The coefficient of the KL penalty that steers the KL to its target (Ziegler et al. 2019, section 2.2).

    Args:
        coefficient: the present one.
        kl: measured, in nats an answer.
        target: in nats an answer.
        rate: how strongly the relative error counts, which is taken between -`CAREFUL` and `CAREFUL`.
    """
    return coefficient * (1 + rate * min(max(kl / target - 1, -CAREFUL), CAREFUL))
