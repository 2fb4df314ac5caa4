"""Typed settings of the learner: objective, loss, optimiser. `cluster.config` composes them into a run."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from learner.estimators import check_estimator
from learner.strategies import check_strategy


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ObjectiveSettings(_Settings):
    """The inference strategy that training maximises, and the estimator of its gradient."""

    strategy: str = Field(
        "pass_at_k",
        description="Inference strategy to optimise: `mean` (ordinary RL, k must be 1) or `pass_at_k` "
        "(k answers are drawn and the best one counts; binary rewards only).",
    )
    k: int = Field(
        8,
        ge=1,
        description="Answers drawn at deployment for which training optimises. Keep it well below "
        "rollout.n: at k = n nearly every group has zero advantage.",
    )
    estimator: str = Field(
        "loo",
        description="Baseline of the gradient estimate: `loo` (U_k of the group minus U_k without the "
        "sample; needs k < n) or `loo1` (average marginal contribution to subsets of size k; k <= n). "
        "Both are exactly unbiased.",
    )

    @model_validator(mode="after")
    def _names_and_k(self) -> ObjectiveSettings:
        check_strategy(self.strategy, self.k)
        check_estimator(self.estimator)
        return self

    def check_group_size(self, n: int) -> None:
        """Raise ValueError, naming the mend, when groups of `n` samples cannot serve this objective."""
        check_estimator(self.estimator, n=n, k=self.k)


class LossSettings(_Settings):
    """The per-token policy loss: -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), summed over tokens."""

    clip_low: float = Field(
        0.2,
        gt=0,
        le=1,
        description="How far the importance ratio of a token may fall below 1 before its gradient stops "
        "(negative advantages). Dimensionless; 1 switches the lower clip off.",
    )
    clip_high: float = Field(
        0.2,
        gt=0,
        description="How far the importance ratio of a token may rise above 1 before its gradient stops "
        "(positive advantages). Dimensionless. At staleness 0 every ratio is 1 and nothing is clipped.",
    )
    skip_zero_advantage: bool = Field(
        True,
        description="Leave samples of zero advantage out of the forward pass. They have no gradient, so "
        "this changes the speed and the tokens under the diagnostics, never the update.",
    )


class LearnerSettings(_Settings):
    """DeepSpeed ranks, AdamW, and the size of a micro-batch."""

    ranks: int = Field(1, ge=1, description="DeepSpeed data-parallel ranks, one Ray actor each.")
    zero_stage: Literal[0, 1, 2, 3] = Field(
        0,
        description="DeepSpeed ZeRO stage: 0 replicates everything, 1 partitions the optimiser state over "
        "the ranks, 2 also the gradients, 3 also the weights. With one rank, 0 is the fastest.",
    )
    learning_rate: float = Field(5e-5, gt=0, le=1, description="AdamW learning rate after warm-up.")
    warmup_steps: int = Field(
        5,
        ge=0,
        description="Optimiser steps over which the learning rate rises linearly (AdamW's second moment "
        "is unreliable in its first steps). 0 switches warm-up off.",
    )
    weight_decay: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Decoupled weight decay, on matrices only (norms and biases are left alone).",
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW decay of the first moment, per step.")
    beta2: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="AdamW decay of the second moment, per step. RL gradients change scale quickly, hence "
        "a shorter memory than the 0.999 of pre-training.",
    )
    adam_epsilon: float = Field(1e-8, gt=0, description="AdamW denominator offset, in units of the gradient.")
    gradient_clip: float = Field(
        1.0,
        ge=0,
        description="Largest global L2 norm of the gradient; a longer one is scaled down. 0: no clipping.",
    )
    tokens_per_micro_batch: int = Field(
        4096,
        ge=16,
        description="Most tokens (prompt, response and padding) in one forward pass of one rank: trades "
        "activation memory for speed. Must hold the longest single sequence.",
    )
    gpus_per_rank: float = Field(
        0,
        ge=0,
        description="GPUs that Ray gives to each rank. 0: train on the CPU with gloo; 1: CUDA with nccl.",
    )
    threads: int = Field(
        2,
        ge=1,
        description="CPU threads of each rank's tensor operations (torch.set_num_threads). Part of what "
        "makes a CPU run reproducible: another number may change the last bits.",
    )
    activation_checkpointing: bool = Field(
        False,
        description="Recompute activations in the backward pass: about a third more time for far less memory.",
    )
