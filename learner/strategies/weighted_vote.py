"""Weighted vote: each of k answers votes with its verifier score, and the answer with the largest sum is used."""

from __future__ import annotations

import numpy as np

from learner.strategies.registry import CORRECT, UNPARSABLE, AnswerGroups
from learner.strategies.subsets import subset_strategy

TIE_TOLERANCE = 1e-9  # relative: sums closer than this are a tie, so that the order of addition decides no vote


@subset_strategy("weighted_vote", required_inputs=("scores", "answers", "correct"), short="vote")
def weighted_vote(groups: AnswerGroups) -> np.ndarray:
    """Probability that the right answer wins; ties are broken uniformly, unparsable answers never compete."""
    assert groups.answers_GN is not None and groups.scores_GN is not None
    labels = groups.answers_GN
    same = labels[:, :, None] == labels[:, None, :]
    votes = (same * groups.scores_GN[:, None, :]).sum(axis=2)
    added = (same * np.abs(groups.scores_GN)[:, None, :]).sum(axis=2)
    competes = labels != UNPARSABLE
    first = np.where(competes, votes, -np.inf).argmax(axis=1)[:, None]
    best, added_to_best = np.take_along_axis(votes, first, 1), np.take_along_axis(added, first, 1)
    leads = competes & (votes >= best - TIE_TOLERANCE * np.maximum(added, added_to_best))
    # Each leading answer counts once: its samples share one vote of the tie-break.
    weight = leads / same.sum(axis=2)
    leaders = weight.sum(axis=1)
    right = (weight * (labels == CORRECT)).sum(axis=1)
    return np.divide(right, leaders, out=np.zeros_like(right), where=leaders > 0)
