"""Chooses step, learning rate and temperature on the validation split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.frontier.counts import BASE, Counts, Key, Store
from benchmarks.frontier.plan import Plan

TRAINING_TEMPERATURE = 1.0


class Missing(LookupError):
    """A measurement that a choice needs; the message names it."""


@dataclass(frozen=True)
class Choice:
    """The tuned form of a contender for one k. steps: of each seed, in the order of the plan."""

    rate: float
    steps: tuple[int, ...]
    temperature: float | None = None  # None: the temperatures have not been measured


def curve(store: Store, plan: Plan, contender: str, rate: float, seed: int) -> dict[int, Counts]:
    """The validation measurements of one run by step.

    Raises:
        Missing: the run has not finished.
    """
    steps = range(plan.every, plan.steps + 1, plan.every)
    found = {step: store.get(Key(contender, rate, seed, step, "curve", TRAINING_TEMPERATURE)) for step in steps}
    whole = {step: counts for step, counts in found.items() if counts is not None}
    if len(whole) < len(found):
        raise Missing(f"{contender}, rate {rate:g}, seed {seed}: the training run is missing")
    return whole


def best_step(by_step: Mapping[int, Counts], k: int) -> int:
    """The step with the largest mean pass@k; the earliest of equals, as `evaluation.keep_best` chooses."""
    means = {step: float(by_step[step].pass_at(k).mean()) for step in sorted(by_step)}
    return max(means, key=means.__getitem__)


def chosen(store: Store, plan: Plan, contender: str, k: int) -> Choice:
    """Rate, steps and, if measured, temperature of a contender for pass@k.

    The base model (BASE) has the rate and the step 0, and one measurement, which serves every seed.

    Raises:
        Missing: a training run has not finished.
    """
    if contender == BASE:
        choice = Choice(0.0, (0,))
        return replace(choice, temperature=_best_temperature(store, plan, BASE, choice, k))
    steps_by_rate, scores = {}, {}
    for rate in plan.rates_of(contender):
        curves = [curve(store, plan, contender, rate, seed) for seed in plan.seeds]
        steps_by_rate[rate] = tuple(best_step(found, k) for found in curves)
        values = [c[step].pass_at(k).mean() for c, step in zip(curves, steps_by_rate[rate], strict=True)]
        scores[rate] = float(np.mean(values))
    rate = max(scores, key=scores.__getitem__)
    choice = Choice(rate, steps_by_rate[rate])
    if not plan.tunes_temperature:
        return replace(choice, temperature=plan.temperatures[0])
    return replace(choice, temperature=_best_temperature(store, plan, contender, choice, k))


def _best_temperature(store: Store, plan: Plan, contender: str, choice: Choice, k: int) -> float | None:
    values = {}
    for temperature in plan.temperatures:
        try:
            counts = measured(store, plan, contender, choice, "validation", temperature)
        except Missing:
            return None
        values[temperature] = float(np.mean([found.pass_at(k).mean() for found in counts]))
    return max(values, key=values.__getitem__)


def measured(store: Store, plan: Plan, contender: str, choice: Choice, split: str, temperature: float) -> list[Counts]:
    """Measurements of the chosen models, one for each seed.

    Raises:
        Missing: one of them is missing.
    """
    found = []
    seeds = (0,) if contender == BASE else plan.seeds
    for seed, step in zip(seeds, choice.steps, strict=True):
        counts = store.get(Key(contender, choice.rate, seed, step, split, temperature))
        if counts is None:
            raise Missing(f"{contender}, seed {seed}, step {step}: {split} at temperature {temperature:g} is missing")
        found.append(counts)
    return found
