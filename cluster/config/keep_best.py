"""Metrics that can select a checkpoint: the values of ``evaluation.keep_best``."""

from __future__ import annotations

import re

from learner.strategies import STRATEGIES, look_up

PLAIN = {"objective": "eval/objective", "reward_mean": "eval/reward_mean"}


def canonical(name: str) -> str:
    """`pass_at_k@8` for the names that tables, logs and metrics.jsonl use: `pass@8`, `eval/pass@8`."""
    name = name.removeprefix("eval/")
    metric, at, k = name.partition("@")
    strategies = {strategy.metric: found for found, strategy in STRATEGIES.items() if strategy.only_k is None}
    return f"{strategies[metric]}@{k}" if at and metric in strategies else name


def parse_metric(name: str) -> tuple[str, int] | None:
    """(strategy, k) of `pass_at_k@8`; None for `objective` and `reward_mean`.

    Raises:
        ValueError: it is none of these.
    """
    if name in PLAIN:
        return None
    found = re.fullmatch(r"([A-Za-z_]\w*)@([1-9][0-9]*)", name)
    if not found:
        raise ValueError("give objective, reward_mean, or STRATEGY@K, such as pass_at_k@8 or best_of_k@16")
    strategy, k = found[1], int(found[2])
    if look_up("strategy", strategy, STRATEGIES).only_k is not None:
        raise ValueError(f"strategy '{strategy}' has no curve: its value is reward_mean")
    return strategy, k


def metric_key(name: str) -> str:
    """The name in metrics.jsonl: `eval/pass@8` of `pass_at_k@8`."""
    parsed = parse_metric(name)
    return PLAIN[name] if parsed is None else f"eval/{STRATEGIES[parsed[0]].metric}@{parsed[1]}"
