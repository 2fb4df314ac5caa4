"""Objectives, losses, batching, metrics and the DeepSpeed engine. Neither Ray nor the verifiers are
imported here.
"""

from learner.estimators import group_advantages
from learner.metrics import PassAtK, default_ks, pass_at_k, pass_at_k_curve
from learner.strategies import strategy_value

__all__ = ["PassAtK", "default_ks", "group_advantages", "pass_at_k", "pass_at_k_curve", "strategy_value"]
