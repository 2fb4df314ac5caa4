"""Policy loss and language-model loss as functions of per-token log-probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

# Bound of a log-ratio, so that exp gives no infinities in the backward pass.
MAX_LOG_RATIO = 20.0
ENTROPY_CHUNK = 1 << 24  # logits, 64 MiB in float32


@dataclass(frozen=True)
class PolicyLoss:
    """`loss` is the scalar to differentiate; the others are detached float64 sums and maxima over response tokens."""

    loss: torch.Tensor
    sums: dict[str, torch.Tensor]
    maxima: dict[str, torch.Tensor]


def token_logprobs(
    logits_BRV: torch.Tensor, tokens_BR: torch.Tensor, temperature: float = 1.0, *, with_entropy: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probabilities float32[B, R] of `tokens_BR`, and with `with_entropy` the entropy float32[B, R], in nats.

    The distribution is softmax(logits / temperature) in float32, which the sampler reports as processed log-probs. The
    entropy costs the memory of the probabilities.
    """
    logits_BRV = _scaled(logits_BRV, temperature)
    logsumexp_BR = torch.logsumexp(logits_BRV, dim=-1)
    chosen_BR = logits_BRV.gather(-1, tokens_BR.unsqueeze(-1)).squeeze(-1)
    entropy_BR = None
    if with_entropy:
        # A few rows at a time, to bound the memory of the probabilities of a large vocabulary.
        rows = max(1, ENTROPY_CHUNK // max(1, logits_BRV.shape[1:].numel()))
        entropy_BR = logsumexp_BR - torch.cat([(torch.softmax(x, dim=-1) * x).sum(-1) for x in logits_BRV.split(rows)])
    return chosen_BR - logsumexp_BR, entropy_BR


class ChunkScores(NamedTuple):
    """What one pass over the logits of a chunk gives, each float32[C]; the entropy only if it is wanted."""

    logprobs_C: torch.Tensor
    logsumexp_C: torch.Tensor
    entropy_C: torch.Tensor | None


def chunk_scores(
    logits_CV: torch.Tensor, tokens_C: torch.Tensor, temperature: float, with_entropy: bool
) -> ChunkScores:
    """`token_logprobs` of logits [C, V], with what `chunk_gradient` needs."""
    scaled_CV = _scaled(logits_CV, temperature)
    logsumexp_C = torch.logsumexp(scaled_CV, dim=-1)
    chosen_C = scaled_CV.gather(-1, tokens_C.unsqueeze(-1)).squeeze(-1)
    entropy_C = None
    if with_entropy:
        entropy_C = logsumexp_C - (scaled_CV - logsumexp_C.unsqueeze(-1)).exp_().mul_(scaled_CV).sum(-1)
    return ChunkScores(chosen_C - logsumexp_C, logsumexp_C, entropy_C)


def chunk_gradient(
    logits_CV: torch.Tensor,
    tokens_C: torch.Tensor,
    scores: ChunkScores,
    grad_C: torch.Tensor,
    grad_entropy_C: torch.Tensor | None,
    temperature: float,
) -> torch.Tensor:
    """Gradient float32[C, V] of a loss by the logits, from its gradients by the log-probabilities and entropies.

    With p = softmax(z), z = logits / temperature: d log p_t / dz = [t] - p and dH / dz = -p (log p + H).
    """
    logp_CV = _scaled(logits_CV, temperature) - scores.logsumexp_C.unsqueeze(-1)
    grad_C1 = (grad_C / temperature).unsqueeze(-1)
    if scores.entropy_C is None or grad_entropy_C is None:
        gradient_CV = logp_CV.exp_().mul_(-grad_C1)
    else:
        slope_C1 = (grad_entropy_C / temperature).unsqueeze(-1)
        gradient_CV = torch.addcmul(grad_C1 + slope_C1 * scores.entropy_C.unsqueeze(-1), slope_C1, logp_CV)
        gradient_CV.mul_(logp_CV.exp_()).neg_()
    gradient_CV[torch.arange(len(tokens_C), device=tokens_C.device), tokens_C] += grad_C1.squeeze(-1)
    return gradient_CV


class LogitPasses(NamedTuple):
    """The two passes over the logits of a chunk, as plain functions or compiled."""

    scores: Callable[..., ChunkScores] = chunk_scores
    gradient: Callable[..., torch.Tensor] = chunk_gradient


class ChunkLogprobs(torch.autograd.Function):
    """`token_logprobs` of logits [C, V] with half the memory: two copies of the logits in the backward pass, three with
    the entropy. Call as ``ChunkLogprobs.apply(logits_CV, tokens_C, temperature, with_entropy, passes, known)``.

    known: the scores of the same logits, if they have been computed before; they are not computed again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits_CV: torch.Tensor,
        tokens_C: torch.Tensor,
        temperature: float,
        with_entropy: bool,
        passes: LogitPasses = LogitPasses(),
        known: ChunkScores | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        scores = known or passes.scores(logits_CV, tokens_C, temperature, with_entropy)
        ctx.temperature, ctx.passes = temperature, passes
        ctx.save_for_backward(logits_CV, tokens_C, *scores)
        return scores.logprobs_C, scores.entropy_C

    @staticmethod
    def backward(ctx: Any, grad_C: torch.Tensor, grad_entropy_C: Any) -> tuple[torch.Tensor | None, ...]:
        logits_CV, tokens_C, *scores = ctx.saved_tensors
        gradient_CV = ctx.passes.gradient(
            logits_CV, tokens_C, ChunkScores(*scores), grad_C, grad_entropy_C, ctx.temperature
        )
        return gradient_CV.to(logits_CV.dtype), None, None, None, None, None


def _scaled(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    return logits.float() if temperature == 1.0 else logits.float() / temperature


def policy_loss(
    logprobs_BR: torch.Tensor,
    behaviour_logprobs_BR: torch.Tensor,
    advantage_B: torch.Tensor,
    response_mask_BR: torch.Tensor,
    *,
    clip_low: float,
    clip_high: float,
    normaliser: float,
    dual_clip: float | None = None,
    proximal_logprobs_BR: torch.Tensor | None = None,
    behaviour_cap: float | None = None,
    weighted: bool = True,
    sequence_mean: bool = False,
) -> PolicyLoss:
    """PPO's clipped surrogate per token (arXiv 1707.06347, eq. 7), summed over tokens / normaliser.

    loss = -sum_{b,r} w min(r A_b, clip(r, 1 - clip_low, 1 + clip_high) A_b) / normaliser. A constant instead of the
    response's length keeps the gradient free of length bias. Where r = w = 1 the gradient is exactly -sum A_b grad log
    pi / normaliser.

    Without `proximal_logprobs_BR`, r = exp(logprob - behaviour_logprob) and w = 1. With it, the decoupled form
    for stale data (arXiv 2110.00641, eq. 5): r = exp(logprob - proximal), and the constant weight
    w = exp(proximal - behaviour), truncated at `behaviour_cap` (truncated importance sampling).

    Args:
        weighted: False if the advantages already contain the ratio of proximal to behavior policy: w is 1, and the
            behavior policy is used for metrics only.
        dual_clip: bound c > 1: where A < 0 a token's objective is at least c A (arXiv 1912.09729, eq. 8).
        sequence_mean: divide each response's sum by its length. Biased towards short right answers.

    Sums: loss, tokens, clipped (tokens whose gradient is 0 by clipping), ratio and kl (rho = policy / behavior, and the
    k3 estimate of KL(behavior || policy): rho - 1 - log rho). Maxima: ratio.
    """
    if normaliser <= 0:
        raise ValueError(f"normaliser must be > 0, got {normaliser}")
    mask_BR = response_mask_BR
    log_ratio_BR = _log_ratio(logprobs_BR, behaviour_logprobs_BR, mask_BR)
    advantage_B1 = advantage_B.unsqueeze(1)
    ratio_BR, weight_BR = log_ratio_BR.exp(), torch.ones_like(log_ratio_BR)
    if proximal_logprobs_BR is not None:
        ratio_BR = _log_ratio(logprobs_BR, proximal_logprobs_BR, mask_BR).exp()
        if weighted:
            weight_BR = _log_ratio(proximal_logprobs_BR, behaviour_logprobs_BR, mask_BR).exp().detach()
            weight_BR = weight_BR if behaviour_cap is None else weight_BR.clamp(max=behaviour_cap)
    free_BR = ratio_BR * advantage_B1
    bounded_BR = torch.minimum(free_BR, ratio_BR.clamp(1.0 - clip_low, 1.0 + clip_high) * advantage_B1)
    if dual_clip is not None:
        bounded_BR = torch.where(advantage_B1 < 0, torch.maximum(bounded_BR, dual_clip * advantage_B1), bounded_BR)
    objective_BR = torch.where(mask_BR, weight_BR * bounded_BR, torch.zeros_like(free_BR))
    if sequence_mean:
        objective_BR = objective_BR / mask_BR.sum(dim=1, keepdim=True).clamp(min=1)
    loss = -objective_BR.sum() / normaliser
    with torch.no_grad():
        behaviour_ratio_BR = log_ratio_BR.exp()
        kl_BR = behaviour_ratio_BR - 1.0 - log_ratio_BR
        sums = {
            "loss": loss.double(),
            "tokens": mask_BR.sum().double(),
            "clipped": ((bounded_BR != free_BR) & mask_BR).sum().double(),
            "ratio": (behaviour_ratio_BR * mask_BR).sum().double(),
            "kl": (kl_BR * mask_BR).sum().double(),
        }
        masked_ratio_BR = torch.where(mask_BR, behaviour_ratio_BR, torch.zeros_like(behaviour_ratio_BR))
    return PolicyLoss(loss, sums, {"ratio": masked_ratio_BR.amax().double()})


def kl_to_reference(
    logprobs_BR: torch.Tensor, reference_logprobs_BR: torch.Tensor, response_mask_BR: torch.Tensor, estimator: str
) -> torch.Tensor:
    """Sum over the response tokens of the estimate of KL(policy || reference), nats.

    With d = log policy - log reference on tokens of the policy: `k1` = d, `k2` = d^2 / 2, `k3` = exp(-d) - 1 + d
    (J. Schulman, "Approximating KL divergence", 2020). k1 and k3 are unbiased values. As losses, differentiated, and
    given the tokens before: k1's gradient is 0 on average, k2's is that of the token's KL(policy || reference), k3's is
    that of KL(reference || policy). None contains what a token changes in the KL of later tokens; k1 of the response in
    the reward does. None is clipped, so a policy far from its reference still has a gradient. Beyond MAX_LOG_RATIO exp
    is replaced by its tangent.
    """
    d_BR = logprobs_BR - reference_logprobs_BR
    d_BR = torch.where(response_mask_BR, d_BR, torch.zeros_like(d_BR))
    if estimator == "k1":
        return d_BR.sum()
    if estimator == "k2":
        return (d_BR**2).sum() / 2
    if estimator == "k3":
        bounded_BR = (-d_BR).clamp(max=MAX_LOG_RATIO)
        return (bounded_BR.exp() * (1.0 - d_BR - bounded_BR) - 1.0 + d_BR).sum()
    raise ValueError(f"the KL estimator must be k1, k2 or k3, got {estimator!r}")


def _log_ratio(logprobs_BR: torch.Tensor, other_BR: torch.Tensor, mask_BR: torch.Tensor) -> torch.Tensor:
    """logprobs - other on the masked tokens, 0 elsewhere, within +-MAX_LOG_RATIO."""
    difference_BR = (logprobs_BR - other_BR).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.where(mask_BR, difference_BR, torch.zeros_like(difference_BR))


def negative_log_likelihood(
    logprobs_BR: torch.Tensor, response_mask_BR: torch.Tensor, *, normaliser: float
) -> torch.Tensor:
    """-sum of the response tokens' log-probabilities / normaliser."""
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
