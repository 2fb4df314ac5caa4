"""The gap between sampler and learner by a token's position and by its surprise.

A gap that grows with the position points at keys and values or at positions; one that grows with the surprise at the
rounding of logits, because unlikely tokens have log-probabilities of a large magnitude. The surprise of a token is
-log p of the learner; its mean over sampled tokens is the entropy of the policy, and it needs no pass over the
vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

POSITIONS = (0.0, 32.0, 256.0, 1024.0)  # of a response token, the first is 0; each begins a bin
SURPRISES = (0.0, 0.1, 1.0, 4.0)  # nats
_INF = float("inf")
_EDGES = (("position", POSITIONS), ("surprise", SURPRISES))


def bin_names() -> list[str]:
    """Metric of each bin: `logprob_gap/position_32` begins at position 32 and ends where the next one begins."""
    return [f"logprob_gap/{kind}_{low:g}" for kind, edges in _EDGES for low in edges]


def gap_sums(gaps_BR: torch.Tensor, logprobs_BR: torch.Tensor, mask_BR: torch.Tensor) -> torch.Tensor:
    """float64 [2, bins]: sum of the gaps and number of the tokens in each bin.

    Args:
        gaps_BR: |difference of the log-probabilities|.
        logprobs_BR: of the learner.
        mask_BR: the tokens to count. Those of a row are consecutive, and the first is position 0.
    """
    positions_BR = mask_BR.cumsum(1) - 1
    gaps_BR = gaps_BR.double()
    columns = []
    for values_BR, edges in ((positions_BR, POSITIONS), (-logprobs_BR, SURPRISES)):
        for low, high in zip(edges, (*edges[1:], _INF), strict=True):
            inside_BR = mask_BR & (values_BR < high)
            if low > 0:  # rounding may bring the surprise of a certain token below 0
                inside_BR = inside_BR & (values_BR >= low)
            # No indexing by a mask, which would make the host wait for the GPU.
            columns.append(torch.stack([torch.where(inside_BR, gaps_BR, 0.0).sum(), inside_BR.sum().double()]))
    return torch.stack(columns, dim=1)


def gap_means(sums: torch.Tensor) -> Iterator[tuple[str, float]]:
    """(metric, mean gap in nats per token) of every bin with a token."""
    for name, total, count in zip(bin_names(), *sums.tolist(), strict=True):
        if count:
            yield name, total / count
