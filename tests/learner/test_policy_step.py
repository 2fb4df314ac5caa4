"""The loss of one optimizer step: through a real model to the logits, and demonstrations kept out of KL and entropy."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from learner import group_advantages
from learner.batching import MicroBatch, TrainingSequence, make_micro_batches
from learner.losses import token_logprobs
from learner.policy_step import PolicyBatch, PolicyStep
from learner.settings import LossSettings

GROUPS, N, K, TEMPERATURE = 3, 4, 2, 0.8


def policy_batch(batch: MicroBatch, logprobs_BR, entropy_BR, reference_BR=None) -> PolicyBatch:
    arrays = batch.behaviour_logprobs_BR, batch.response_mask_BR, batch.advantage_B, batch.sampled_B
    return PolicyBatch(logprobs_BR, entropy_BR, *map(torch.from_numpy, arrays), reference_BR)


def selected(rewards: np.ndarray, scores: np.ndarray, k: int) -> float:
    """Best-of-k by its definition: the mean over the k-subsets of the mean reward of those that score highest."""
    subsets = [list(subset) for subset in combinations(range(len(rewards)), k)]
    return float(np.mean([rewards[s][scores[s] == scores[s].max()].mean() for s in subsets]))


def test_the_gradient_at_a_models_logits_is_the_oracles() -> None:
    """Best-of-k with ties through a small Llama, left padding and temperature: -sum A_i grad log pi(y_i), by NumPy."""
    from transformers import LlamaForCausalLM

    from learner.tiny_model import TinyModelSettings, character_tokenizer, tiny_config

    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    tokenizer = character_tokenizer()
    config = tiny_config(TinyModelSettings(width=32, layers=2, feed_forward=64), tokenizer)
    config.initializer_range = 0.3  # far from the uniform distribution, so that an error shows
    model = LlamaForCausalLM(config).float()
    rewards_GN, scores_GN = rng.normal(size=(GROUPS, N)), rng.integers(0, 3, (GROUPS, N)).astype(float)
    assert any(len(set(row)) < N for row in scores_GN)
    oracle = np.array(
        [
            [selected(r, s, K) - selected(np.delete(r, i), np.delete(s, i), K) for i in range(N)]
            for r, s in zip(rewards_GN, scores_GN, strict=True)
        ]
    )
    advantages = group_advantages(rewards_GN, scores=scores_GN, strategy="best_of_k", k=K).ravel()
    np.testing.assert_allclose(advantages, oracle.ravel(), rtol=0, atol=1e-12)

    def drawn(advantage: float) -> TrainingSequence:
        prompt, response = (rng.integers(4, len(tokenizer), rng.integers(2, 7)).astype(np.int32) for _ in range(2))
        return TrainingSequence(prompt, response, np.zeros(len(response), np.float32), float(advantage))

    sequences = [drawn(a) for a in advantages]
    (batch,) = make_micro_batches(sequences, 4096, 0, 1, tokenizer.pad_token_id)
    tokens_BT, width = torch.from_numpy(batch.tokens_BT), batch.response_width
    logits = model(
        input_ids=tokens_BT,
        attention_mask=torch.from_numpy(batch.attention_mask_BT),
        position_ids=torch.from_numpy(batch.positions_BT),
        logits_to_keep=width + 1,
    ).logits
    logits.retain_grad()
    logprobs_BR, entropy_BR = token_logprobs(logits[:, :-1], tokens_BT[:, -width:], TEMPERATURE)
    batch = replace(batch, behaviour_logprobs_BR=logprobs_BR.detach().numpy())
    PolicyStep(LossSettings(), sequences, GROUPS)(policy_batch(batch, logprobs_BR, entropy_BR)).loss.backward()

    law_BRV = np.exp(logits.detach().double().numpy()[:, :-1] / TEMPERATURE)
    law_BRV /= law_BRV.sum(-1, keepdims=True)
    score_BRV = (np.eye(len(tokenizer))[batch.tokens_BT[:, -width:]] - law_BRV) / TEMPERATURE
    weight_BR1 = (oracle.ravel()[batch.index_B][:, None] * batch.response_mask_BR)[..., None]
    np.testing.assert_allclose(logits.grad[:, :-1].numpy(), -weight_BR1 * score_BRV / GROUPS, rtol=0, atol=1e-7)
    assert not logits.grad[:, -1].any(), "nothing is predicted after the last token"
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    "changes", [{"kl_coefficient": 0.3}, {"entropy_coefficient": 0.2}, {"normalisation": "tokens"}]
)
def test_a_demonstration_is_no_sample_of_the_policy(changes: dict) -> None:
    """It adds its likelihood, and changes neither KL nor entropy nor the mean length by which a loss is divided."""
    tokens = np.array([5, 6, 7], np.int32)
    sample = TrainingSequence(tokens, tokens, np.full(3, -1.0, np.float32), 0.5)
    expert = TrainingSequence(tokens, tokens[:2], np.full(2, -1.0, np.float32), 1.0, fresh=False, sampled=False)

    def step(sequences: list[TrainingSequence]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        (batch,) = make_micro_batches(sequences, 64, 0, 1, 0)
        logprobs = torch.full(batch.response_mask_BR.shape, -1.0, requires_grad=True)
        entropy = 2.0 * logprobs  # so that the bonus has a gradient here too
        reference = torch.full(batch.response_mask_BR.shape, -1.7)
        kl = reference if "kl_coefficient" in changes else None
        result = PolicyStep(LossSettings(**changes), sequences, 1)(policy_batch(batch, logprobs, entropy, kl))
        result.loss.backward()
        return logprobs.grad, result.sums

    alone, sums = step([sample])
    both, sums_of_both = step([sample, expert])
    torch.testing.assert_close(both[0], alone[0])
    divisor = 3.0 if changes == {"normalisation": "tokens"} else 1.0
    torch.testing.assert_close(both[1], torch.tensor([0.0, -1.0, -1.0]) / divisor)
    assert sums_of_both["sampled"] == 3 and sums_of_both["tokens"] == 5
    assert sums_of_both.get("kl_reference") == sums.get("kl_reference")


def test_advantages_that_hold_the_ratios_are_not_weighed_by_them_again() -> None:
    """`objective.off_policy: exact` on a stale group: the gradient is -A grad log pi, the figures are the ratio's."""
    tokens = np.array([5, 6, 7], np.int32)
    stale = TrainingSequence(tokens, tokens, np.full(3, -3.0, np.float32), 0.5, fresh=False)
    (batch,) = make_micro_batches([stale], 64, 0, 1, 0)
    logprobs = torch.full(batch.response_mask_BR.shape, -1.0, requires_grad=True)
    result = PolicyStep(LossSettings(), [stale], 1, exact_ratios=True)(
        policy_batch(batch, logprobs, -logprobs.detach())
    )
    result.loss.backward()
    torch.testing.assert_close(logprobs.grad[0], torch.full((3,), -0.5))
    assert result.maxima["ratio"].item() == pytest.approx(np.exp(2.0)) and result.sums["clipped"] == 0
