"""Metrics of one training step: sums and maxima over micro-batches and ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist

from learner import losses
from learner.batching import MicroBatch
from learner.gap_bins import bin_names, gap_means, gap_sums

SUMS = (
    "loss",
    "tokens",
    "sampled",
    "clipped",
    "ratio",
    "kl",
    "kl_reference",
    "gap",
    "fresh_tokens",
    "all",
    "padded",
)
MAXIMA = ("ratio", "gap")


class StepMetrics:
    """Accumulates the metrics of one step on its device, without a synchronization per micro-batch."""

    def __init__(self, device: torch.device) -> None:
        self._sums = {name: torch.zeros((), dtype=torch.float64, device=device) for name in SUMS}
        self._maxima = {name: torch.zeros((), dtype=torch.float64, device=device) for name in MAXIMA}
        self._bins = torch.zeros((2, len(bin_names())), dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(
        self,
        batch: MicroBatch,
        result: losses.PolicyLoss,
        logprobs_BR: torch.Tensor,
        behaviour_BR: torch.Tensor,
        mask_BR: torch.Tensor,
        fresh_B: torch.Tensor,
    ) -> None:
        """Add one micro-batch: its loss and the statistics of its tokens."""
        fresh_BR = mask_BR & fresh_B.unsqueeze(1)
        gap, fresh_tokens, gap_max = losses.logprob_gap(logprobs_BR, behaviour_BR, fresh_BR)
        self._bins += gap_sums((logprobs_BR - behaviour_BR).abs(), logprobs_BR, fresh_BR)
        self._sums["all"] += batch.tokens
        self._sums["padded"] += batch.padded_tokens
        for name, value in (result.sums | {"gap": gap, "fresh_tokens": fresh_tokens}).items():
            self._sums[name] += value
        for name, value in (result.maxima | {"gap": gap_max}).items():
            self._maxima[name] = torch.maximum(self._maxima[name], value)

    def reduce(self, world_size: int) -> StepTotals:
        """Totals of the global batch, equal on every rank; collective."""
        sum_vector = torch.stack([self._sums[name] for name in SUMS])
        max_vector = torch.stack([self._maxima[name] for name in MAXIMA])
        if world_size > 1:
            dist.all_reduce(sum_vector, op=dist.ReduceOp.SUM)
            dist.all_reduce(max_vector, op=dist.ReduceOp.MAX)
            dist.all_reduce(self._bins, op=dist.ReduceOp.SUM)
        return StepTotals(
            dict(zip(SUMS, sum_vector.tolist(), strict=True)),
            dict(zip(MAXIMA, max_vector.tolist(), strict=True)),
            dict(gap_means(self._bins)),
        )


@dataclass(frozen=True)
class StepTotals:
    """Sums, maxima and mean gaps (``learner.gap_bins``) over the tokens of a step's global batch."""

    sums: dict[str, float]
    maxima: dict[str, float]
    gap_by_bin: dict[str, float]

    @property
    def loss(self) -> float:
        return self.sums["loss"]

    def policy_metrics(self) -> dict[str, float]:
        """Metrics of a step on sampled responses, under their logged names. The gap needs a fresh token."""
        total, largest = self.sums, self.maxima
        tokens = max(total["tokens"], 1.0)
        metrics = {
            "policy/clip_fraction": total["clipped"] / tokens,
            "policy/ratio_mean": total["ratio"] / tokens,
            "policy/ratio_max": largest["ratio"],
            "policy/kl_behaviour": total["kl"] / tokens,
            "policy/kl_reference": total["kl_reference"] / max(total["sampled"], 1.0),
            "batch/padding_share": 1.0 - total["all"] / total["padded"],
        }
        if total["fresh_tokens"]:
            metrics["logprob_gap/mean"] = total["gap"] / total["fresh_tokens"]
            metrics["logprob_gap/max"] = largest["gap"]
        return metrics | self.gap_by_bin
