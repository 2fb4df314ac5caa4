"""Advantages: estimators of the gradient of an inference strategy's expected reward.

Sum convention: grad J = E[ sum_i A_i grad log pi(y_i) ] with the sum over the n samples of a group.
"""

from learner.estimators import bon_paper, published, unbiased
from learner.estimators.advantages import group_advantages
from learner.estimators.registry import (
    ESTIMATORS,
    Estimator,
    Options,
    check_estimator,
    estimator,
    group_estimator,
)

__all__ = [
    "ESTIMATORS",
    "Estimator",
    "Options",
    "bon_paper",
    "check_estimator",
    "estimator",
    "group_advantages",
    "group_estimator",
    "published",
    "unbiased",
]
