"""Objectives, losses, batching, metrics and the engine of a learner rank. Imports neither Ray nor the verifiers."""

from learner.estimators import group_advantages
from learner.metrics import (
    CurvePoint,
    Difference,
    default_ks,
    paired_difference,
    paired_difference_of_runs,
    pass_at_k,
    strategy_curve,
)
from learner.strategies import corrected_rewards, strategy_value

__all__ = [
    "CurvePoint",
    "Difference",
    "corrected_rewards",
    "default_ks",
    "group_advantages",
    "paired_difference",
    "paired_difference_of_runs",
    "pass_at_k",
    "strategy_curve",
    "strategy_value",
]
