"""Inference strategies: how k answers are used at deployment, and the unbiased value U_k from n >= k samples.

One file for each; importing this package registers them all. To add one, write a file here and import it below.
"""

from learner.strategies import (
    best_of_k,
    majority,
    mean,
    pass_at_k,
    soft_pass_at_k,
    weighted_pass_at_k,
    weighted_vote,
)
from learner.strategies.array_inputs import (
    as_count,
    as_numbers,
    check_strategy,
    finite,
    like_rewards,
    look_up,
    make_group,
)
from learner.strategies.registry import STRATEGIES, AnswerGroups, Strategy, array_strategy, count_strategy
from learner.strategies.soft_pass_at_k import corrected_rewards
from learner.strategies.subsets import subset_strategy
from learner.strategies.value import strategy_value

__all__ = [
    "STRATEGIES",
    "AnswerGroups",
    "Strategy",
    "array_strategy",
    "as_count",
    "as_numbers",
    "best_of_k",
    "check_strategy",
    "corrected_rewards",
    "count_strategy",
    "finite",
    "like_rewards",
    "look_up",
    "majority",
    "make_group",
    "mean",
    "pass_at_k",
    "soft_pass_at_k",
    "strategy_value",
    "subset_strategy",
    "weighted_pass_at_k",
    "weighted_vote",
]
