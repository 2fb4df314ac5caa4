"""What one step of reinforcement learning differentiates: policy loss, KL to the reference, entropy.

Scale: with `normalisation: constant` the loss of a step on G groups of n samples is

    (1/G) [ -sum_i sum_t w min(r A_i, clip(r) A_i)  +  kl_coefficient / n * sum_i KL_i ]  -  entropy_coefficient * H

where A_i is in the sum convention, KL_i that of one response and H the mean entropy of a token. Demonstrations stand in
the first sum only: they say nothing about the policy's KL, entropy and length.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch

from learner import losses
from learner.batching import Sequence
from learner.settings import LossSettings


@dataclass(frozen=True)
class PolicyBatch:
    """Tensors of one micro-batch. *_BR are [rows, response width]; `sampled` is False for demonstrations, `reference`
    None where no KL is wanted.
    """

    logprobs_BR: torch.Tensor
    entropy_BR: torch.Tensor
    behaviour_BR: torch.Tensor
    mask_BR: torch.Tensor
    advantage_B: torch.Tensor
    sampled_B: torch.Tensor
    reference_BR: torch.Tensor | None


class PolicyStep:
    """The loss of one optimiser step, evaluated micro-batch by micro-batch.

    Args:
        loss: the section `loss`.
        sequences: the whole global batch, samples of zero advantage included.
        groups: how many groups it holds.
        kl_coefficient: of this step; None takes the one of the settings.
        exact_ratios: advantages contain the sequences' ratios already (`objective.off_policy: exact`), so the
            loss must not multiply by them again.
    """

    def __init__(
        self,
        loss: LossSettings,
        sequences: Seq[Sequence],
        groups: float,
        *,
        kl_coefficient: float | None = None,
        exact_ratios: bool = False,
    ) -> None:
        self._loss = loss
        self._exact_ratios = exact_ratios
        self.kl_coefficient = loss.kl_coefficient if kl_coefficient is None else kl_coefficient
        if loss.kl_placement == "reward":
            self.kl_coefficient = 0.0  # it stands in the advantages
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

    def keep(self, sequences: Seq[Sequence]) -> list[Sequence]:
        """The sequences that must be forwarded."""
        if self.uses_every_sample or not self._loss.skip_zero_advantage:
            return list(sequences)
        return [s for s in sequences if s.advantage != 0.0]

    def __call__(self, batch: PolicyBatch) -> losses.PolicyLoss:
        """The micro-batch's part of the step's loss, and its figures."""
        loss = self._loss
        # The whole batch is one optimiser step, whichever micro-batch this is: its start is now, and r = 1.
        from_its_start = self._exact_ratios or loss.ratio == "decoupled"
        result = losses.policy_loss(
            batch.logprobs_BR,
            batch.behaviour_BR,
            batch.advantage_B,
            batch.mask_BR,
            clip_low=loss.clip_low,
            clip_high=loss.clip_high,
            dual_clip=loss.dual_clip,
            proximal_logprobs_BR=batch.logprobs_BR.detach() if from_its_start else None,
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
        if loss.entropy_coefficient:
            total = total - self._entropy_scale * (batch.entropy_BR * sampled_BR).sum()
        return losses.PolicyLoss(total, sums | {"loss": total.detach().double()}, result.maxima)
