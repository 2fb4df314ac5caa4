"""What docs/migrate.md says of the objectives of other trainers, from their formulas: the same gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from learner import group_advantages
from learner.batching import TrainingSequence
from learner.policy_step import PolicyBatch, PolicyStep
from learner.settings import LossSettings

GROUPS, N, LIMIT = 3, 4, 9
LOW, HIGH, DUAL, KL, ENTROPY = 0.1, 0.2, 1.5, 0.3, 0.05
GENERATOR = np.random.default_rng(0)
LENGTHS = GENERATOR.integers(2, LIMIT + 1, GROUPS * N)
L = float(LENGTHS.mean())
MASK = np.arange(LIMIT) < LENGTHS[:, None]
REWARDS = GENERATOR.normal(size=(GROUPS, N))


def drawn(scale: float) -> torch.Tensor:
    return torch.from_numpy(GENERATOR.normal(scale=scale, size=MASK.shape) * MASK)


BEHAVIOUR, POLICY_SHIFT, REFERENCE, ENTROPIES = drawn(1), drawn(0.4), drawn(1), drawn(1).abs()


def aggregated(values: torch.Tensor, mode: str) -> torch.Tensor:
    """The names are verl's."""
    mask = torch.from_numpy(MASK).double()
    sums = (values * mask).sum(1)
    if mode == "token-mean":
        return sums.sum() / mask.sum()
    if mode == "seq-mean-token-mean":
        return (sums / mask.sum(1)).mean()
    return sums.mean() / (LIMIT if mode == "seq-mean-token-sum-norm" else 1)


def theirs(policy: torch.Tensor, entropies: torch.Tensor, mode: str, kl: float, entropy: float) -> torch.Tensor:
    """Loss of GRPO with clipping, dual clipping, k3 to a reference and an entropy bonus; all terms share `mode`."""
    centered = REWARDS - REWARDS.mean(1, keepdims=True)
    advantage = torch.from_numpy((centered / (REWARDS.std(1, ddof=1, keepdims=True) + 1e-6)).reshape(-1, 1))
    ratio = (policy - BEHAVIOUR).exp()
    gained = torch.minimum(ratio * advantage, ratio.clamp(1 - LOW, 1 + HIGH) * advantage)
    gained = torch.where(advantage < 0, torch.maximum(gained, DUAL * advantage), gained)
    difference = REFERENCE - policy
    k3 = difference.exp() - difference - 1
    return aggregated(-gained + kl * k3, mode) - entropy * aggregated(entropies, mode)


@pytest.mark.parametrize(
    ("mode", "normalisation", "kl", "entropy", "scale"),
    [
        ("token-mean", "tokens", KL / L, ENTROPY, 1.0),
        ("token-mean", "constant", KL, ENTROPY * L, L),
        ("seq-mean-token-sum", "constant", KL, ENTROPY * L, 1.0),
        ("seq-mean-token-sum-norm", "constant", KL, ENTROPY * L, LIMIT),
        ("seq-mean-token-mean", "sequence", 0.0, 0.0, 1.0),
    ],
)
def test_the_gradient_is_that_of_the_other_trainer(
    mode: str, normalisation: str, kl: float, entropy: float, scale: float
) -> None:
    with_terms = bool(kl)
    gradients = []
    for mine in (True, False):
        policy = (BEHAVIOUR + POLICY_SHIFT).requires_grad_()
        entropies = ENTROPIES.clone().requires_grad_()
        if mine:
            loss = ours(policy, entropies, normalisation, kl, entropy)
        else:
            loss = scale * theirs(policy, entropies, mode, KL * with_terms, ENTROPY * with_terms)
        gradients.append(torch.autograd.grad(loss, [policy, entropies], allow_unused=True, materialize_grads=True))
    for got, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


def ours(policy: torch.Tensor, entropies: torch.Tensor, normalisation: str, kl: float, entropy: float) -> torch.Tensor:
    advantage = group_advantages(REWARDS, strategy="mean", k=1, estimator="grpo").ravel()
    sequences = [
        TrainingSequence(np.zeros(1, np.int32), np.zeros(length, np.int32), np.zeros(length, np.float32), float(a))
        for length, a in zip(LENGTHS, advantage, strict=True)
    ]
    settings = LossSettings.model_validate(
        {
            **{"clip_low": LOW, "clip_high": HIGH, "dual_clip": DUAL, "normalisation": normalisation},
            **{"kl_coefficient": kl, "kl_estimator": "k3", "entropy_coefficient": entropy},
        }
    )
    batch = PolicyBatch(
        policy,
        entropies if entropy else None,
        BEHAVIOUR,
        torch.from_numpy(MASK),
        torch.from_numpy(advantage),
        torch.ones(len(sequences), dtype=torch.bool),
        REFERENCE if kl else None,
    )
    return PolicyStep(settings, sequences, GROUPS)(batch).loss


def test_max_at_n_with_loo1_is_grpo_passk_of_verl() -> None:
    """Without its division by the deviation: the best sample gets the distance to the second best, the others 0."""
    rewards = np.vstack([REWARDS, [[1.0, 1.0, 0.0, 0.0]], [[1.0, 0.0, 0.0, 0.0]]])
    ordered = np.sort(rewards, axis=1)
    wanted = np.where(rewards == ordered[:, -1:], ordered[:, -1:] - ordered[:, -2:-1], 0.0)
    got = group_advantages(rewards, strategy="max_at_k", k=N, estimator="loo1")
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-12)
