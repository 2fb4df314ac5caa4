"""The policy loss: exact policy gradient at ratio 1, clipping at its edges, no influence of masked positions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from learner import group_advantages
from learner.losses import (
    ChunkLogprobs,
    kl_to_reference,
    logprob_gap,
    negative_log_likelihood,
    policy_loss,
    token_logprobs,
)
from learner.schedule import EntropySchedule, Schedule, ScheduleSettings, learning_rate

ONE = torch.ones(1, 1, dtype=torch.bool)


def loss_of(ratio: float, advantage: float, **changes: object) -> tuple[float, float, float]:
    """(loss, gradient with respect to log pi, clip fraction) of a single token."""
    logprob = torch.tensor([[math.log(ratio)]], requires_grad=True)
    arguments = dict(clip_low=0.2, clip_high=0.3, normaliser=1.0) | changes
    result = policy_loss(
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


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        (2.9, -2.0, 5.8, 5.8, 0),  # below c: as without it
        (3.1, -2.0, 6.0, 0.0, 1),  # above c: the loss stays at c |A|, without a gradient
        (3.1, 2.0, -2.6, 0.0, 1),  # positive advantages are left to the ordinary clip
    ],
)
def test_dual_clip(ratio: float, advantage: float, loss: float, gradient: float, clipped: float) -> None:
    assert loss_of(ratio, advantage, dual_clip=3.0) == pytest.approx((loss, gradient, clipped), abs=1e-5)


@pytest.mark.parametrize(
    ("ratio", "proximal", "cap", "gradient"),
    [
        (2.0, 2.0, None, -2 * 2.0),  # at the proximal policy nothing clips, though the sample is stale
        (2.0, 2.0, 1.5, -2 * 1.5),  # the behaviour weight is truncated
        (2.0, 1.6, None, -2 * 1.6 * 1.25),  # inside the clip of r = 1.25
        (2.2, 1.6, None, 0.0),  # r = 1.375 is past 1 + clip_high
        (0.5, 0.5, 1.5, -2 * 0.5),
    ],
)
def test_decoupled(ratio: float, proximal: float, cap: float | None, gradient: float) -> None:
    """Clipping round the proximal policy, weight of proximal to behaviour policy, truncated."""
    found = loss_of(ratio, 2.0, proximal_logprobs_BR=torch.tensor([[math.log(proximal)]]), behaviour_cap=cap)
    assert found[1] == pytest.approx(gradient, rel=1e-5)


def test_sequence_mean_divides_by_the_length() -> None:
    logprobs = torch.zeros(2, 4, requires_grad=True)
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 1]], dtype=torch.bool)
    arguments = dict(clip_low=0.2, clip_high=0.2, normaliser=1.0, sequence_mean=True)
    policy_loss(logprobs, torch.zeros(2, 4), torch.ones(2), mask, **arguments).loss.backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor([[-0.25] * 4, [0, 0, 0, -1.0]]))


def test_kl_estimates() -> None:
    """In expectation over the policy: k1 and k3 are the KL; k2's gradient is the KL's, k1's is zero."""
    torch.manual_seed(0)
    logits, reference = torch.randn(5, requires_grad=True), torch.log_softmax(torch.randn(5), -1)
    policy = torch.log_softmax(logits, -1)
    exact = (policy.exp() * (policy - reference)).sum()
    (exact_gradient,) = torch.autograd.grad(exact, logits, retain_graph=True)

    def expectation(estimator: str) -> torch.Tensor:
        each = [kl_to_reference(policy[i].view(1, 1), reference[i].view(1, 1), ONE, estimator) for i in range(5)]
        return (policy.exp().detach() * torch.stack(each)).sum()

    assert expectation("k1").item() == pytest.approx(exact.item(), abs=1e-6)
    assert expectation("k3").item() == pytest.approx(exact.item(), abs=1e-6)
    for estimator, gradient in (("k2", exact_gradient), ("k1", torch.zeros(5))):
        (found,) = torch.autograd.grad(expectation(estimator), logits, retain_graph=True)
        torch.testing.assert_close(found, gradient, atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="k1, k2 or k3"):
        expectation("k4")


@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_advantages_that_hold_the_ratio_are_not_weighed_again(advantage: float) -> None:
    """A token three times as likely as when it was sampled: gradient of the advantage, figures of the ratio."""
    logprob = torch.tensor([[math.log(0.6)]], requires_grad=True)
    behaviour = torch.tensor([[math.log(0.2)]])
    result = policy_loss(
        *(logprob, behaviour, torch.tensor([advantage]), ONE),
        **dict(clip_low=0.2, clip_high=0.2, dual_clip=1.5, normaliser=1.0, weighted=False),
        proximal_logprobs_BR=logprob.detach(),
    )
    result.loss.backward()
    assert (result.loss.item(), logprob.grad.item()) == pytest.approx((-advantage, -advantage))
    assert result.sums["ratio"].item() == pytest.approx(3.0) and result.maxima["ratio"].item() == pytest.approx(3.0)
    assert result.sums["kl"].item() == pytest.approx(2 - math.log(3)) and result.sums["clipped"].item() == 0


@pytest.mark.parametrize("d", [-30.0, -5.0, 5.0, 30.0])
def test_the_kl_pulls_back_from_any_distance(d: float) -> None:
    for estimator, expected in (("k2", d), ("k3", 1 - math.exp(min(-d, 20.0)))):
        logprob = torch.tensor([[d]], requires_grad=True)
        value = kl_to_reference(logprob, torch.zeros(1, 1), ONE, estimator)
        value.backward()
        assert value.item() > 0 and logprob.grad.item() == pytest.approx(expected, rel=1e-5)


def test_entropy_has_a_gradient_where_it_is_asked_for() -> None:
    logits = torch.randn(2, 3, 7, requires_grad=True)
    tokens = torch.zeros(2, 3, dtype=torch.long)
    _, entropy = token_logprobs(logits, tokens, 0.7, with_entropy=True)
    (found,) = torch.autograd.grad(entropy.sum(), logits)
    log_probs = torch.log_softmax(logits / 0.7, -1)
    (expected,) = torch.autograd.grad(-(log_probs.exp() * log_probs).sum(), logits)
    torch.testing.assert_close(found, expected)


def test_the_torch_gradient_is_the_oracles() -> None:
    """A group through a small model's logits: the loss's gradient is -sum A_i grad log pi(y_i), by NumPy."""
    rng = np.random.default_rng(0)
    groups, n, length, vocabulary = 3, 4, 5, 7
    logits = rng.normal(size=(groups * n, length, vocabulary))
    tokens = rng.integers(0, vocabulary, (groups * n, length))
    rewards, scores = rng.integers(0, 2, (groups, n)).astype(float), rng.normal(size=(groups, n))
    advantages = group_advantages(rewards, scores=scores, strategy="best_of_k", k=2).ravel()
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -advantages[:, None, None] * (np.eye(vocabulary)[tokens] - probabilities) / groups
    leaf = torch.tensor(logits, requires_grad=True)
    logprobs, _ = token_logprobs(leaf, torch.from_numpy(tokens))
    mask = torch.ones(groups * n, length, dtype=torch.bool)
    result = policy_loss(
        logprobs, logprobs.detach(), torch.tensor(advantages), mask, clip_low=0.2, clip_high=0.2, normaliser=groups
    )
    result.loss.backward()
    np.testing.assert_allclose(leaf.grad.numpy(), expected, atol=1e-7)


def test_normaliser_is_a_constant() -> None:
    assert loss_of(1.0, 2.0, normaliser=4.0)[1] == pytest.approx(-0.5)
    with pytest.raises(ValueError, match="normaliser"):
        loss_of(1.0, 2.0, normaliser=0.0)


def test_no_length_bias() -> None:
    """Each token of a long and of a short response gets the same weight."""
    logprobs = torch.zeros(2, 6, requires_grad=True)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1]], dtype=torch.bool)
    result = policy_loss(logprobs, torch.zeros(2, 6), torch.ones(2), mask, clip_low=0.2, clip_high=0.2, normaliser=10.0)
    result.loss.backward()
    torch.testing.assert_close(logprobs.grad, -0.1 * mask.float())
    assert result.sums["tokens"] == 8 and result.sums["ratio"] == 8 and result.sums["kl"] == 0


def test_masked_positions_cannot_poison() -> None:
    logprobs = torch.tensor([[float("-inf"), -1.0]], requires_grad=True)
    result = policy_loss(
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


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("with_entropy", [False, True])
def test_logprobs_of_a_chunk_equal_the_plain_form(temperature: float, with_entropy: bool) -> None:
    torch.manual_seed(0)
    tokens, weights = torch.randint(0, 50, (7,)), torch.randn(2, 7)
    found = []
    for function in (ChunkLogprobs.apply, _plain_logprobs):
        logits = (3 * torch.randn(7, 50, generator=torch.Generator().manual_seed(1))).requires_grad_()
        logprobs, entropy = function(logits, tokens, temperature, with_entropy)
        assert (entropy is not None) == with_entropy
        (weights[0] @ logprobs + (weights[1] @ entropy if with_entropy else 0)).backward()
        found.append([logprobs, logits.grad, *([entropy] if with_entropy else [])])
    for chunk, plain in zip(*found, strict=True):
        torch.testing.assert_close(chunk, plain, atol=1e-5, rtol=0)


def _plain_logprobs(
    logits: torch.Tensor, tokens: torch.Tensor, temperature: float, with_entropy: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    return token_logprobs(logits, tokens, temperature, with_entropy=with_entropy)


def test_token_logprobs_are_those_of_the_tempered_distribution() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 7, requires_grad=True)
    tokens = torch.randint(0, 7, (2, 3))
    logprobs, entropy = token_logprobs(logits, tokens, temperature=0.7, with_entropy=True)
    log_probs = torch.log_softmax(logits / 0.7, -1)
    torch.testing.assert_close(logprobs, log_probs.gather(-1, tokens[..., None])[..., 0])
    torch.testing.assert_close(entropy, -(log_probs.exp() * log_probs).sum(-1))
    plain, none = token_logprobs(logits.bfloat16(), tokens)
    assert plain.dtype == torch.float32 and none is None


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


def test_the_warm_up_multiplies_the_scheduled_learning_rate() -> None:
    decay = Schedule(end=0.0, over=10)
    rates = [learning_rate(s, 2.0, 4, decay) for s in (0, 1, 3, 5, 10, 99)]
    assert rates == pytest.approx([2.0 / 4, 1.8 / 2, 1.4, 1.0, 0.0, 0.0])
    after_warm_up = Schedule(end=0.0, after=4, over=6)  # what other trainers call linear decay, over 10 steps
    rates = [learning_rate(s, 2.0, 4, after_warm_up) for s in range(11)]
    assert rates == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, *(2.0 * (10 - s) / 6 for s in range(5, 11))])
    cosine = Schedule(shape="cosine", end=0.2, after=4, over=6)
    assert [learning_rate(s, 2.0, 4, cosine) for s in (4, 7, 10)] == pytest.approx([2.0, 1.1, 0.2])


def test_schedules() -> None:
    linear = Schedule(shape="linear", end=1, after=10, over=20)
    assert [linear.value(step, 8.0) for step in (0, 10, 20, 30, 99)] == [8, 8, 4.5, 1, 1]
    cosine = Schedule(shape="cosine", start=2, end=0, over=10)
    assert [cosine.value(step, 99.0) for step in (0, 5, 10)] == pytest.approx([2, 1, 0])
    steps = Schedule(shape="steps", at={50: 4, 100: 1})
    assert [steps.value(step, 8.0) for step in (0, 49, 50, 99, 100)] == [8, 8, 4, 4, 1]
    assert linear.explicit_values() == [1] and cosine.explicit_values() == [2, 0] and steps.explicit_values() == [4, 1]
    for bad in ({"shape": "linear"}, {"shape": "steps"}, {"shape": "steps", "at": {-1: 2}}, {"end": 1, "at": {1: 2}},
                {"shape": "steps", "at": {1: 2}, "over": 9}):  # fmt: skip
        with pytest.raises(ValueError, match="needs|count from 0"):
            Schedule(**bad)


def test_k_by_entropy_reads_a_window_of_earlier_steps() -> None:
    schedule = EntropySchedule(points=((0.2, 8), (0.5, 2)), window=2)
    assert [schedule.k(1, 4, {0: entropy}) for entropy in (0.1, 0.2, 0.3, 0.5, 0.9)] == [8, 8, 6, 2, 2]
    found = {0: 0.5, 1: 0.2, 2: 0.3, 3: 0.9}
    assert [schedule.k(step, 4, found) for step in range(4)] == [4, 2, 5, 7], "never the step's own entropy"
    assert schedule.possible(1) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert ScheduleSettings(k_by_entropy=schedule).k_at(2, 4, found) == 5
    assert ScheduleSettings(k=Schedule(end=1)).k_at(2, 4, found) == 1
    for bad in ([[0.2, 8]], [[0.5, 1], [0.2, 8]], [[0.2, 8], [0.2, 1]]):
        with pytest.raises(ValueError, match="at least two, each above the one before"):
            EntropySchedule(points=bad)
    with pytest.raises(ValueError, match=r"schedule\.k and schedule\.k_by_entropy"):
        ScheduleSettings(k=Schedule(end=1), k_by_entropy=schedule)


def test_the_kl_in_the_loss_is_that_of_each_token_and_in_the_reward_that_of_the_response() -> None:
    """All responses of two tokens, and both policies: the expected gradients, from the definitions of the KL."""
    logits = torch.tensor([[0.3, -0.2], [1.1, 0.0], [-0.5, 0.4]], dtype=torch.float64, requires_grad=True)
    law, reference = torch.log_softmax(logits, -1), torch.tensor([[0.0, 0.5], [0.3, 1.0], [0.2, -1.0]]).double()
    reference = torch.log_softmax(reference, -1)
    responses = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])

    def logprobs(of: torch.Tensor) -> torch.Tensor:  # a row of logits for the first token, and one after each
        return torch.stack([of[0, responses[:, 0]], of[1 + responses[:, 0], responses[:, 1]]], dim=1)

    def gradient(value: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(value, logits, retain_graph=True)[0]

    policy_BR, reference_BR = logprobs(law), logprobs(reference)
    difference_B = (policy_BR - reference_BR).sum(1)
    chance_B = policy_BR.sum(1).exp().detach()
    of_responses = gradient((policy_BR.sum(1).exp() * difference_B).sum())
    reached = torch.cat([torch.ones(1), law[0].exp()]).detach()[:, None]  # the chance of the tokens before
    forward, reverse = (reached * law.exp() * (law - reference)).sum(), (reached * reference.exp() * -law).sum()

    def expected(estimator: str) -> torch.Tensor:
        losses_B = [
            kl_to_reference(p[None], r[None], torch.ones(1, 2, dtype=torch.bool), estimator)
            for p, r in zip(policy_BR, reference_BR, strict=True)
        ]
        return gradient((chance_B * torch.stack(losses_B)).sum())

    torch.testing.assert_close(expected("k1"), torch.zeros_like(logits))
    torch.testing.assert_close(expected("k2"), gradient(forward))
    torch.testing.assert_close(expected("k3"), gradient(reverse))
    in_reward = gradient((chance_B * difference_B.detach() * policy_BR.sum(1)).sum())
    torch.testing.assert_close(in_reward, of_responses)
    assert (expected("k2") / of_responses - 1).abs().max() > 0.1
