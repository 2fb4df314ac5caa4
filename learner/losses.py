"""Policy loss and language-model loss on per-token log-probabilities. No model in here: tensors in,
tensors out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

# exp of a larger log-ratio is not a usable weight; the bound only keeps infinities out of the backward pass.
MAX_LOG_RATIO = 20.0
ENTROPY_CHUNK = 1 << 24  # logits, 64 MiB in float32


@dataclass(frozen=True)
class PolicyLoss:
    """`loss` is the scalar to differentiate; the rest are detached float64 sums (and maxima) over response
    tokens.
    """

    loss: torch.Tensor
    sums: dict[str, torch.Tensor]
    maxima: dict[str, torch.Tensor]


def token_logprobs(
    logits_BRV: torch.Tensor, tokens_BR: torch.Tensor, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities float32[B, R] of `tokens_BR`, and the (detached) entropy float32[B, R] of the law,
    in nats.

    The law is softmax(logits / temperature) in float32: the one that the sampler reports as processed
    log-probs.
    """
    logits_BRV = logits_BRV.float()
    if temperature != 1.0:
        logits_BRV = logits_BRV / temperature
    logsumexp_BR = torch.logsumexp(logits_BRV, dim=-1)
    chosen_BR = logits_BRV.gather(-1, tokens_BR.unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        # A few rows at a time, so that the probabilities of a large vocabulary never stand in memory at once.
        rows = max(1, ENTROPY_CHUNK // max(1, logits_BRV[0].numel()))
        expected_BR = torch.cat([(torch.softmax(x, dim=-1) * x).sum(-1) for x in logits_BRV.detach().split(rows)])
        entropy_BR = logsumexp_BR.detach() - expected_BR
    return chosen_BR - logsumexp_BR, entropy_BR


def clipped_policy_loss(
    logprobs_BR: torch.Tensor,
    behaviour_logprobs_BR: torch.Tensor,
    advantage_B: torch.Tensor,
    response_mask_BR: torch.Tensor,
    *,
    clip_low: float,
    clip_high: float,
    normaliser: float,
) -> PolicyLoss:
    """PPO's clipped surrogate per token (arXiv 1707.06347, eq. 7), summed over tokens and divided by a
    constant.

    loss = -sum_{b,r} min(rho A_b, clip(rho, 1 - clip_low, 1 + clip_high) A_b) / normaliser with
    rho = exp(logprob - behaviour_logprob). Dividing by a constant instead of the response's length keeps the
    gradient free of length bias. Where rho = 1 the gradient is exactly -sum A_b grad log pi / normaliser.

    Sums: loss, tokens, clipped (tokens whose gradient the clip stops), ratio, kl (k3 estimate of
    KL(behaviour || policy): rho - 1 - log rho). Maxima: ratio.
    """
    if normaliser <= 0:
        raise ValueError(f"normaliser must be > 0, got {normaliser}")
    mask_BR = response_mask_BR
    log_ratio_BR = (logprobs_BR - behaviour_logprobs_BR).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    log_ratio_BR = torch.where(mask_BR, log_ratio_BR, torch.zeros_like(log_ratio_BR))
    ratio_BR = log_ratio_BR.exp()
    advantage_B1 = advantage_B.unsqueeze(1)
    free_BR = ratio_BR * advantage_B1
    clipped_BR = ratio_BR.clamp(1.0 - clip_low, 1.0 + clip_high) * advantage_B1
    objective_BR = torch.where(mask_BR, torch.minimum(free_BR, clipped_BR), torch.zeros_like(free_BR))
    loss = -objective_BR.sum() / normaliser
    with torch.no_grad():
        kl_BR = ratio_BR - 1.0 - log_ratio_BR
        sums = {
            "loss": loss.double(),
            "tokens": mask_BR.sum().double(),
            "clipped": ((clipped_BR < free_BR) & mask_BR).sum().double(),
            "ratio": (ratio_BR * mask_BR).sum().double(),
            "kl": (kl_BR * mask_BR).sum().double(),
        }
        maxima = {"ratio": torch.where(mask_BR, ratio_BR, torch.zeros_like(ratio_BR)).amax().double()}
    return PolicyLoss(loss, sums, maxima)


def negative_log_likelihood(
    logprobs_BR: torch.Tensor, response_mask_BR: torch.Tensor, *, normaliser: float
) -> torch.Tensor:
    """-sum of the response tokens' log-probabilities / normaliser (the number of tokens: mean
    cross-entropy).
    """
    return -torch.where(response_mask_BR, logprobs_BR, torch.zeros_like(logprobs_BR)).sum() / normaliser


@torch.no_grad()
def logprob_gap(
    logprobs_BR: torch.Tensor, behaviour_logprobs_BR: torch.Tensor, mask_BR: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(sum, number of tokens, maximum) of |logprob - behaviour_logprob| over the masked tokens, float64.

    On tokens sampled under the same weights this measures how far the sampler and the learner disagree.
    """
    gap_BR = torch.where(mask_BR, (logprobs_BR - behaviour_logprobs_BR).abs(), torch.zeros_like(logprobs_BR))
    return gap_BR.sum().double(), mask_BR.sum().double(), gap_BR.amax().double()
