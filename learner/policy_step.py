"""The loss of one reinforcement-learning step: policy loss, KL to the reference, entropy.

Scale: with `normalisation: constant` the loss of a step on G groups of n samples is

    (1/G) [ -sum_i sum_t w min(r A_i, clip(r) A_i)  +  kl_coefficient / n * sum_i KL_i ]  -  entropy_coefficient * H

where A_i is the advantage in the sum convention, KL_i the KL of one response, and H the mean entropy of a token.
Demonstrations are in the first sum only, because KL, entropy and length are defined for the policy's own samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from learner import losses
from learner.batching import TrainingSequence
from learner.settings import LossSettings


@dataclass(frozen=True)
class PolicyBatch:
    """Tensors of one micro-batch. *_BR are [rows, response width]; `sampled` is False for demonstrations;
    `entropy` and `reference` are None without an entropy or a KL term.
    """

    logprobs_BR: torch.Tensor
    entropy_BR: torch.Tensor | None
    behaviour_BR: torch.Tensor
    mask_BR: torch.Tensor
    advantage_B: torch.Tensor
    sampled_B: torch.Tensor
    reference_BR: torch.Tensor | None


class PolicyStep:
    """The loss of one optimizer step, evaluated micro-batch by micro-batch.

    Args:
        loss: the section `loss` of the configuration.
        sequences: the whole global batch, samples of zero advantage included.
        groups: how many groups it holds.
        kl_coefficient: of this step; None for that of the settings.
        exact_ratios: the advantages already contain the sequence ratios (`objective.off_policy: exact`), so the loss
            does not multiply by them again.
    """

    def __init__(
        self,
        loss: LossSettings,
        sequences: Sequence[TrainingSequence],
        groups: float,
        *,
        kl_coefficient: float | None = None,
        exact_ratios: bool = False,
    ) -> None:
        self._loss = loss
        self._exact_ratios = exact_ratios
        self.kl_coefficient = loss.kl_coefficient if kl_coefficient is None else kl_coefficient
        if loss.kl_placement == "reward":
            self.kl_coefficient = 0.0  # it is part of the advantages
        samples = [s for s in sequences if s.sampled]
        tokens = sum(len(s.response_tokens) for s in samples)
        mean_length = tokens / max(len(samples), 1)
        self._normaliser = groups * (mean_length if loss.normalisation == "tokens" else 1.0)
        self._kl_scale = self.kl_coefficient / max(len(samples), 1)
        self._entropy_scale = loss.entropy_coefficient / max(tokens, 1)

    @property
    def uses_every_sample(self) -> bool:
        """Whether samples of zero advantage have a gradient too."""
        return bool(self.kl_coefficient or self._loss.entropy_coefficient)

    def keep(self, sequences: Sequence[TrainingSequence]) -> list[TrainingSequence]:
        """The sequences that need a forward pass."""
        if self.uses_every_sample or not self._loss.skip_zero_advantage:
            return list(sequences)
        return [s for s in sequences if s.advantage != 0.0]

    def __call__(self, batch: PolicyBatch) -> losses.PolicyLoss:
        """The micro-batch's part of the step's loss, and its metrics."""
        loss = self._loss
        # There is one optimizer step per batch: the proximal policy is the current policy, and the clipped ratio is 1.
        proximal_is_current = self._exact_ratios or loss.ratio == "decoupled"
        result = losses.policy_loss(
            batch.logprobs_BR,
            batch.behaviour_BR,
            batch.advantage_B,
            batch.mask_BR,
            clip_low=loss.clip_low,
            clip_high=loss.clip_high,
            dual_clip=loss.dual_clip,
            proximal_logprobs_BR=batch.logprobs_BR.detach() if proximal_is_current else None,
            behaviour_cap=loss.behaviour_cap,
            weighted=not self._exact_ratios,
            sequence_mean=loss.normalisation == "sequence",
            normaliser=self._normaliser,
        )
        sampled_BR = batch.mask_BR & batch.sampled_B.unsqueeze(1)
        total, sums = result.loss, result.sums | {"sampled": sampled_BR.sum().double()}
        if batch.reference_BR is not None:
            kl = losses.kl_to_reference(batch.logprobs_BR, batch.reference_BR, sampled_BR, loss.kl_estimate)
            total = total + self._kl_scale * kl
            with torch.no_grad():
                sums["kl_reference"] = losses.kl_to_reference(
                    batch.logprobs_BR, batch.reference_BR, sampled_BR, "k3"
                ).double()
        if batch.entropy_BR is not None:
            total = total - self._entropy_scale * (batch.entropy_BR * sampled_BR).sum()
        return losses.PolicyLoss(total, sums | {"loss": total.detach().double()}, result.maxima)
