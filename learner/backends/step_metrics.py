"""Metrics of one training step: sums and maxima over micro-batches and ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist

from learner import losses
from learner.batching import MicroBatch

SUMS = (
    "loss",
    "tokens",
    "sampled",
    "clipped",
    "ratio",
    "kl",
    "kl_reference",
    "entropy",
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

    @torch.no_grad()
    def add(
        self,
        batch: MicroBatch,
        result: losses.PolicyLoss,
        logprobs_BR: torch.Tensor,
        entropy_BR: torch.Tensor,
        behaviour_BR: torch.Tensor,
        mask_BR: torch.Tensor,
        fresh_B: torch.Tensor,
    ) -> None:
        """Add one micro-batch: its loss and the statistics of its tokens."""
        fresh_BR = mask_BR & fresh_B.unsqueeze(1)
        gap, fresh_tokens, gap_max = losses.logprob_gap(logprobs_BR, behaviour_BR, fresh_BR)
        measured = {"entropy": (entropy_BR * mask_BR).sum().double(), "gap": gap, "fresh_tokens": fresh_tokens}
        self._sums["all"] += batch.tokens
        self._sums["padded"] += batch.padded_tokens
        for name, value in (result.sums | measured).items():
            self._sums[name] += value
        for name, value in (result.maxima | {"gap": gap_max}).items():
            self._maxima[name] = torch.maximum(self._maxima[name], value)

    def reduce(self, world_size: int) -> dict[str, float]:
        """Metrics of the global batch, equal on every rank; collective. The gap metrics need a fresh token."""
        sum_vector = torch.stack([self._sums[name] for name in SUMS])
        max_vector = torch.stack([self._maxima[name] for name in MAXIMA])
        if world_size > 1:
            dist.all_reduce(sum_vector, op=dist.ReduceOp.SUM)
            dist.all_reduce(max_vector, op=dist.ReduceOp.MAX)
        total = dict(zip(SUMS, sum_vector.tolist(), strict=True))
        largest = dict(zip(MAXIMA, max_vector.tolist(), strict=True))
        tokens = max(total["tokens"], 1.0)
        metrics = {
            "learn/loss": total["loss"],
            "learn/response_tokens": total["tokens"],
            "learn/clip_fraction": total["clipped"] / tokens,
            "learn/ratio_mean": total["ratio"] / tokens,
            "learn/ratio_max": largest["ratio"],
            "learn/kl": total["kl"] / tokens,
            "learn/kl_reference": total["kl_reference"] / max(total["sampled"], 1.0),
            "learn/entropy": total["entropy"] / tokens,
            "learn/fresh_tokens": total["fresh_tokens"],
            "learn/padding_share": 1.0 - total["all"] / total["padded"],
        }
        if total["fresh_tokens"]:
            metrics["learn/logprob_gap_mean"] = total["gap"] / total["fresh_tokens"]
            metrics["learn/logprob_gap_max"] = largest["gap"]
        return metrics
