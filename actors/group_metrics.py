"""Metrics of a step's groups: rewards, lengths, verdicts, staleness. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from actors.group import Group
from learner.metrics import default_ks, pass_at_k
from verifiers.verdict import Status


def group_metrics(
    groups: Sequence[Group], advantages_GN: np.ndarray, version: int, skipped: Sequence[Group] = ()
) -> dict[str, float]:
    """Metrics of one step's groups under the names of ``cluster/records/metrics.yaml``.

    Args:
        groups: graded groups of equal size, all usable.
        advantages_GN: their advantages, float64 [G, N].
        skipped: groups of the step on which the verifier failed; only the verdict shares count them.
        version: of the learner's weights at the step.
    """
    rewards_GN = np.stack([g.rewards for g in groups])
    correct_GN = np.array([[v == Status.CORRECT for v in g.verdicts] for g in groups])
    lengths = np.array([len(tokens) for g in groups for tokens in g.response_tokens])
    ages = version - np.concatenate([versions[:1] for g in groups for versions in g.token_versions])
    spans_G = [g.newest_version - g.oldest_version for g in groups]
    n = rewards_GN.shape[1]
    hits_G = correct_GN.sum(axis=1)
    row = {
        "reward/mean": rewards_GN.mean(),
        "reward/std": rewards_GN.std(),
        "policy/entropy": sampled_entropy(groups),
        "policy/lag_mean": ages.mean(),
        "policy/lag_max": ages.max(),
        "policy/version_span_mean": np.mean(spans_G),
        "policy/version_span_max": np.max(spans_G),
        "response/length_mean": lengths.mean(),
        "response/truncated_share": np.mean([r == "length" for g in groups for r in g.finish_reason]),
        "groups/all_fail_share": np.mean(hits_G == 0),
        "groups/all_pass_share": np.mean(hits_G == n),
        "groups/mixed_share": np.mean((hits_G > 0) & (hits_G < n)),
        "groups/unique_answer_share": np.mean([len(set(g.answer or [None])) / n for g in groups]),
        "groups/no_signal_share": np.mean(~advantages_GN.any(axis=1)),
    }
    for k in default_ks(n):
        row[f"pass_at_k/{k}"] = np.mean([pass_at_k(n, int(c), k) for c in hits_G])
    row |= _part_means(groups)
    verdicts = Counter(v for g in (*groups, *skipped) for v in g.verdicts)
    row |= {f"verifier/{status}_share": verdicts[status] / verdicts.total() for status in Status}
    row["groups/set_aside"] = len(skipped)
    return {name: float(value) for name, value in row.items()}


def sampled_entropy(groups: Sequence[Group]) -> float:
    """Entropy of the behavior policy in nat/token: the mean of -log π over all sampled tokens, which is unbiased."""
    logprobs = np.concatenate([lp for g in groups for lp in g.behaviour_logprobs])
    return float(-logprobs.mean()) if len(logprobs) else 0.0


def _part_means(groups: Sequence[Group]) -> dict[str, float]:
    """The mean of each named part of the reward, over the samples that have it."""
    values: dict[str, list[float]] = {}
    for group in groups:
        for j, name in enumerate(group.part_names or ()):
            values.setdefault(name, []).extend(float(parts[j]) for parts in group.parts or ())
    known = {name: found for name, found in values.items() if not np.isnan(found).all()}
    return {f"reward_part/{name}": float(np.nanmean(found)) for name, found in known.items()}
