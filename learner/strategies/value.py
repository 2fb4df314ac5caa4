"""`strategy_value`: the expected reward of a strategy, estimated from one pool of samples."""

from __future__ import annotations

from typing import Any

import numpy as np

from learner.strategies.array_inputs import as_count, check_strategy, finite, make_group
from learner.strategies.registry import DEFAULT_SUBSETS


def strategy_value(
    rewards: Any,
    *,
    scores: Any = None,
    answers: Any = None,
    correct: Any = None,
    responses: Any = None,
    strategy: str,
    k: int,
    subsets: int = DEFAULT_SUBSETS,
) -> Any:
    """U_k: the unbiased estimate, from n >= k samples, of the expected reward of `strategy` with k answers.

    Args:
        rewards: [n] or [G, n]. Strategies that vote read only its shape.
        scores: the verifier's scores, shaped like rewards (`best_of_k`, `weighted_vote`).
        answers: hashable final answers, shaped like rewards; None is unparsable (`majority_at_k`, `weighted_vote`).
        correct: the right answer, one for each group.
        responses: hashable, shaped like rewards; equal ones count as one (`soft_pass_at_k` only).
        strategy, k: the strategy, and how many answers it uses at deployment.
        subsets: minimum number of k-subsets for a strategy without a closed form (`weighted_vote`).

    Returns:
        A float64, or float64[G].

    Raises:
        ValueError: naming the bad argument.

    >>> float(strategy_value([0, 1, 0, 0], strategy="pass_at_k", k=2))
    0.5
    """
    found, k = check_strategy(strategy, k), as_count("k", k)
    groups = make_group(rewards, scores, answers, correct, found, subsets, responses=responses)
    if k > groups.n:
        raise ValueError(
            f"k = {k} is larger than the group, n = {groups.n}: no unbiased estimate exists; lower k, or draw more"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # an overflow is refused by name
        value_G = finite("the value", found.value(groups, k), groups.rewards_GN)
    return value_G[0] if np.ndim(rewards) == 1 else value_G
