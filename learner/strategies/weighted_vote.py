"""Weighted vote: each of k answers votes with its verifier score, and the answer with the largest sum is used."""

from __future__ import annotations

import numpy as np

from learner.strategies.registry import CORRECT, UNPARSABLE, Group
from learner.strategies.subsets import subset_strategy

SAME_SUM = 1e-9  # sums closer than this are a tie: the order of addition must not decide an election


@subset_strategy("weighted_vote", needs=("scores", "answers", "correct"))
def weighted_vote(group: Group) -> np.ndarray:
    """Probability that the right answer wins; ties are broken uniformly, unparsable answers never compete."""
    assert group.answers_GN is not None and group.scores_GN is not None
    labels = group.answers_GN
    same = labels[:, :, None] == labels[:, None, :]
    votes = (same * group.scores_GN[:, None, :]).sum(axis=2)
    competes = labels != UNPARSABLE
    best = np.where(competes, votes, -np.inf).max(axis=1, keepdims=True)
    leads = competes & (votes >= best - SAME_SUM)
    # Each leading answer counts once: its samples share one vote of the tie-break.
    weight = leads / same.sum(axis=2)
    leaders = weight.sum(axis=1)
    right = (weight * (labels == CORRECT)).sum(axis=1)
    return np.divide(right, leaders, out=np.zeros_like(right), where=leaders > 0)
