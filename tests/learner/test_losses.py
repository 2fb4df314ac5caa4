"""The policy loss: exact policy gradient at ratio 1, clipping at its edges, no influence of masked positions."""

from __future__ import annotations

import math

import pytest
import torch

from learner.losses import clipped_policy_loss, logprob_gap, negative_log_likelihood, token_logprobs
from learner.schedule import learning_rate


def loss_of(ratio: float, advantage: float, **changes: float) -> tuple[float, float, float]:
    """(loss, gradient with respect to log pi, clip fraction) of a single token."""
    logprob = torch.tensor([[math.log(ratio)]], requires_grad=True)
    arguments = dict(clip_low=0.2, clip_high=0.3, normaliser=1.0) | changes
    result = clipped_policy_loss(
        logprob, torch.zeros(1, 1), torch.tensor([advantage]), torch.ones(1, 1, dtype=torch.bool), **arguments
    )
    result.loss.backward()
    return result.loss.item(), logprob.grad.item(), result.sums["clipped"].item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        (1.0, 2.0, -2.0, -2.0, 0),  # on policy: the plain policy gradient
        (1.25, 2.0, -2.5, -2.5, 0),
        (1.4, 2.0, -2.6, 0.0, 1),  # above 1 + clip_high with a positive advantage: stopped
        (1.4, -2.0, 2.8, 2.8, 0),  # the pessimistic branch keeps its gradient
        (0.7, -2.0, 1.6, 0.0, 1),  # below 1 - clip_low with a negative advantage: stopped
        (0.7, 2.0, -1.4, -1.4, 0),
    ],
)
def test_clipping(ratio: float, advantage: float, loss: float, gradient: float, clipped: float) -> None:
    assert loss_of(ratio, advantage) == pytest.approx((loss, gradient, clipped), abs=1e-6)


def test_normaliser_is_a_constant() -> None:
    assert loss_of(1.0, 2.0, normaliser=4.0)[1] == pytest.approx(-0.5)
    with pytest.raises(ValueError, match="normaliser"):
        loss_of(1.0, 2.0, normaliser=0.0)


def test_no_length_bias() -> None:
    """Each token of a long and of a short response gets the same weight."""
    logprobs = torch.zeros(2, 6, requires_grad=True)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1]], dtype=torch.bool)
    result = clipped_policy_loss(
        logprobs, torch.zeros(2, 6), torch.ones(2), mask, clip_low=0.2, clip_high=0.2, normaliser=10.0
    )
    result.loss.backward()
    torch.testing.assert_close(logprobs.grad, -0.1 * mask.float())
    assert result.sums["tokens"] == 8 and result.sums["ratio"] == 8 and result.sums["kl"] == 0


def test_masked_positions_cannot_poison() -> None:
    logprobs = torch.tensor([[float("-inf"), -1.0]], requires_grad=True)
    result = clipped_policy_loss(
        logprobs,
        torch.tensor([[0.0, -1.0]]),
        torch.ones(1),
        torch.tensor([[False, True]]),
        clip_low=0.2,
        clip_high=0.2,
        normaliser=1.0,
    )
    result.loss.backward()
    assert logprobs.grad.tolist() == [[0.0, -1.0]]
    assert result.maxima["ratio"] == 1


def test_extreme_ratio_stays_finite() -> None:
    loss, gradient, _ = loss_of(math.exp(80), -1.0)
    assert math.isfinite(loss) and math.isfinite(gradient)


def test_token_logprobs_are_those_of_the_tempered_law() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 7, requires_grad=True)
    tokens = torch.randint(0, 7, (2, 3))
    logprobs, entropy = token_logprobs(logits, tokens, temperature=0.7)
    law = torch.log_softmax(logits / 0.7, -1)
    torch.testing.assert_close(logprobs, law.gather(-1, tokens[..., None])[..., 0])
    torch.testing.assert_close(entropy, -(law.exp() * law).sum(-1).detach())
    assert not entropy.requires_grad
    assert token_logprobs(logits.bfloat16(), tokens)[0].dtype == torch.float32


def test_gap_and_likelihood() -> None:
    logprobs = torch.tensor([[-1.0, -2.0, -9.0]])
    mask = torch.tensor([[True, True, False]])
    total, count, largest = logprob_gap(logprobs, torch.tensor([[-1.1, -2.3, 0.0]]), mask)
    assert (total.item(), count.item(), largest.item()) == pytest.approx((0.4, 2, 0.3), abs=1e-6)
    assert negative_log_likelihood(logprobs, mask, normaliser=2.0).item() == pytest.approx(1.5)


def test_warm_up() -> None:
    assert [learning_rate(s, 1.0, 4) for s in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert learning_rate(0, 1.0, 0) == 1.0
    with pytest.raises(ValueError, match="step"):
        learning_rate(-1, 1.0, 4)
