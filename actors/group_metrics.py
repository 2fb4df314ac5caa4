"""Metrics of a step's groups: rewards, lengths, verdicts, staleness. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from actors.group import Group
from learner.metrics import default_ks, pass_at_k
from verifiers.verdict import Status


def group_metrics(
    groups: Sequence[Group], advantages: Sequence[np.ndarray] | np.ndarray, version: int, skipped: Sequence[Group] = ()
) -> dict[str, float]:
    """Metrics of one step's groups under the names of ``cluster/records/metrics.yaml``.

    Means of rewards and of pass@k weight each prompt by its importance weight, whatever the size of its group.

    Args:
        groups: graded groups, all usable.
        advantages: of each group, float64 [n].
        skipped: groups of the step on which the verifier failed; only the verdict shares count them.
        version: of the learner's weights at the step.
    """
    hits_G = np.array([sum(v == Status.CORRECT for v in g.verdicts) for g in groups])
    lengths = np.array([len(tokens) for g in groups for tokens in g.response_tokens])
    ages = version - np.concatenate([versions[:1] for g in groups for versions in g.token_versions])
    spans_G = [g.newest_version - g.oldest_version for g in groups]
    sizes_G = np.array([g.n for g in groups])
    weights_G = np.array([g.weight for g in groups])
    reward_mean = np.average([g.rewards.mean() for g in groups], weights=weights_G)
    row = {
        "reward/mean": reward_mean,
        "reward/std": np.sqrt(np.average([((g.rewards - reward_mean) ** 2).mean() for g in groups], weights=weights_G)),
        "policy/entropy": sampled_entropy(groups),
        "policy/lag_mean": ages.mean(),
        "policy/lag_max": ages.max(),
        "policy/version_span_mean": np.mean(spans_G),
        "policy/version_span_max": np.max(spans_G),
        "response/length_mean": lengths.mean(),
        "response/truncated_share": np.mean([r == "length" for g in groups for r in g.finish_reason]),
        "groups/samples_min": sizes_G.min(),
        "groups/samples_max": sizes_G.max(),
        "groups/weight_max": weights_G.max(),
        "groups/all_fail_share": np.mean(hits_G == 0),
        "groups/all_pass_share": np.mean(hits_G == sizes_G),
        "groups/mixed_share": np.mean((hits_G > 0) & (hits_G < sizes_G)),
        "groups/unique_answer_share": np.mean([len(set(g.answer or [None])) / g.n for g in groups]),
        "groups/no_signal_share": np.mean([not of_group.any() for of_group in advantages]),
    }
    for k in default_ks(int(sizes_G.min())):
        values_G = [pass_at_k(g.n, int(c), k) for g, c in zip(groups, hits_G, strict=True)]
        row[f"pass_at_k/{k}"] = np.average(values_G, weights=weights_G)
    row |= _part_means(groups)
    verdicts = Counter(v for g in (*groups, *skipped) for v in g.verdicts)
    row |= {f"verifier/{status}_share": verdicts[status] / verdicts.total() for status in Status}
    row["groups/set_aside"] = len(skipped)
    return {name: float(value) for name, value in row.items()}


def sampled_entropy(groups: Sequence[Group]) -> float:
    """Entropy of the behavior policy in nat/token: the mean of -log π over all sampled tokens."""
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
