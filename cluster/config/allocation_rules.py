"""Settings that `rollout.allocation` excludes: they would bias the gradient, or make its choices depend on timing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from actors.queue.allocation_settings import AllocationSettings
from learner.estimators import ESTIMATORS
from learner.schedule import scheduled_integer
from learner.strategies import STRATEGIES

if TYPE_CHECKING:
    from cluster.config import RunConfig

_DEFAULT_MAX_WEIGHT = AllocationSettings().max_weight


def allocation_problems(config: RunConfig) -> Iterator[str]:
    """One line for each."""
    if config.rollout.allocation is None:
        return
    yield from _objective(config)
    max_weight = config.rollout.allocation.max_weight
    if config.rollout.allocation.candidates == 1 and max_weight != _DEFAULT_MAX_WEIGHT:
        yield (
            f"rollout.allocation.max_weight = {max_weight:g} has an effect only where prompts are chosen: set "
            "rollout.allocation.candidates to 2 or more, or leave it out"
        )
    if config.queue.overtake:
        yield (
            f"rollout.allocation needs queue.overtake = 0 (is {config.queue.overtake}): otherwise the order in which "
            "groups arrive would decide which counts are known"
        )
    if config.schedule.k_by_entropy:
        yield (
            "schedule.k_by_entropy sets k after rollout.allocation has already chosen the groups; use schedule.k, or "
            "no allocation"
        )
    loss = config.loss
    if (loss.kl_coefficient or config.schedule.kl) and loss.kl_placement == "loss":
        yield (
            "rollout.allocation gives prompts groups of different sizes, but the KL term of loss.kl_placement = loss "
            "is a mean over all samples; use loss.kl_placement = reward, or no KL term"
        )
    if loss.entropy_coefficient:
        yield (
            f"loss.entropy_coefficient = {loss.entropy_coefficient:g} uses the mean over tokens, in which "
            "rollout.allocation would give prompts unequal weights; set loss.entropy_coefficient = 0"
        )
    yield from _sizes(config)


def _objective(config: RunConfig) -> Iterator[str]:
    objective = config.objective
    if objective.imitation != "none":
        yield f"rollout.allocation cannot be used with objective.imitation = {objective.imitation}; leave it out"
        return
    for term in objective.terms():
        if not ESTIMATORS[term.estimator].unbiased:
            yield (
                f"rollout.allocation needs unbiased estimators, and the bias of {term.estimator} depends on the "
                "group's size; use loo, loo1, subset or pkpo_loo"
            )
        if "answers" in STRATEGIES[term.strategy].required_inputs:
            yield (
                f"rollout.allocation counts a prompt's correct answers, but {term.strategy} also depends on which "
                "wrong answers there are; use another strategy, or no allocation"
            )


def _sizes(config: RunConfig) -> Iterator[str]:
    """The first step whose budget does not lie between the smallest and the largest groups."""
    rollout, objective, moves, allocation = config.rollout, config.objective, config.schedule, config.rollout.allocation
    assert allocation is not None
    pairs = {
        (scheduled_integer(moves.k, step, objective.k), scheduled_integer(moves.n, step, rollout.n)): step
        for step in reversed(range(config.run.steps))
    }
    for (k, n), step in sorted(pairs.items(), key=lambda pair: pair[1]):
        least, most = allocation.limits(objective, k, rollout.n)
        if least < objective.smallest_group(k):
            yield (
                f"rollout.allocation.min_n = {least} is below {objective.smallest_group(k)}, the smallest group that "
                f"the objective's estimators allow at k = {k}; raise it, or set it to null"
            )
            return
        if not least <= n <= most:
            yield (
                f"rollout.allocation: at step {step} rollout.n = {n}, the mean size of the groups, is not between "
                f"min_n = {least} and max_n = {most}; change one of them"
            )
            return
