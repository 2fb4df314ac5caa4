"""Schedules: pure functions of the optimizer step and, for `schedule.k_by_entropy`, of entropies of earlier steps.

Only the entropies are state; a checkpoint of the learner holds them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from learner.section import Section

KEPT_ENTROPIES = 100  # steps whose entropy the learner keeps


class Schedule(Section):
    """How one number changes over the run. It begins at `start`, or at the value of the scheduled key."""

    shape: Literal["constant", "linear", "cosine", "steps"] = Field(
        "linear",
        description="`linear` and `cosine` (half a period) go from start to end; `steps` jumps to the values of `at`; "
        "`constant` stays at start.",
    )
    start: float | None = Field(None, description="First value; null: the value of the key that is scheduled.")
    end: float | None = Field(None, description="Last value, kept from then on (linear and cosine).")
    after: int = Field(0, ge=0, description="Optimizer steps before it begins to change (linear and cosine).")
    over: int = Field(1, ge=1, description="Optimizer steps from start to end (linear and cosine).")
    at: dict[int, float] = Field(
        default_factory=dict, description="Values by the step from which each applies, as in {50: 4, 100: 1} (steps)."
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.shape in ("steps", "constant"):
            wanted = "at" if self.shape == "steps" else "start"
            if self.shape == "steps" and (not self.at or self.end is not None):
                raise ValueError("a schedule of shape steps needs `at`, as in {50: 4, 100: 1}, and no `end`")
            if self.shape == "constant" and (self.start is None or self.end is not None or self.at):
                raise ValueError("a schedule of shape constant needs `start`, and neither `end` nor `at`")
            if min(self.at, default=0) < 0:
                raise ValueError(f"at = {self.at}: steps count from 0")
            for key in ("after", "over"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(
                        f"{key} = {getattr(self, key)} does not fit shape {self.shape}, which needs `{wanted}` only"
                    )
        elif self.end is None or self.at:
            raise ValueError(f"a schedule of shape {self.shape} needs `end`, and no `at`")
        return self

    def value(self, step: int, base: float) -> float:
        """The value at an optimizer step, counted from 0; `base` is the value of the scheduled key."""
        first = base if self.start is None else self.start
        if self.end is None:
            reached = [boundary for boundary in self.at if boundary <= step]
            return self.at[max(reached)] if reached else first
        done = min(max(step - self.after, 0) / self.over, 1.0)
        if self.shape == "cosine":
            done = 0.5 - 0.5 * math.cos(math.pi * done)
        return first + (self.end - first) * done

    def explicit_values(self) -> list[float]:
        """The values given in the schedule; all others are between two of them, or between one and the key's own."""
        return [value for value in (self.start, self.end, *self.at.values()) if value is not None]


class EntropySchedule(Section):
    """k as a function of the entropy of the sampling policy, measured in earlier optimizer steps.

    The samples of a step do not influence its k. Given all earlier steps, k is a constant, and the expectation of an
    unbiased estimator is the gradient of the objective at that k.
    """

    points: tuple[tuple[Annotated[float, Field(ge=0)], Annotated[int, Field(ge=1)]], ...] = Field(
        ((0.2, 8), (0.5, 1)),
        description="Pairs of an entropy (`policy/entropy`, nat/token) and the k for it, with rising entropies. "
        "Between two points k is interpolated and rounded; beyond the ends it is constant. `[[0.2, 8], [0.5, 1]]` "
        "raises k as the samples become more alike.",
    )
    window: int = Field(
        5,
        ge=1,
        le=KEPT_ENTROPIES,
        description="Number of earlier optimizer steps whose mean entropy counts. At the first step none is known, and "
        "objective.k applies.",
    )

    @model_validator(mode="after")
    def _rising(self) -> Self:
        entropies = [entropy for entropy, _ in self.points]
        if len(entropies) < 2 or any(a >= b for a, b in pairwise(entropies)):
            raise ValueError(
                f"points have the entropies {entropies}: give at least two, each above the one before, as in "
                "[[0.2, 8], [0.5, 1]]"
            )
        return self

    def k(self, step: int, base: int, entropies: Mapping[int, float]) -> int:
        """k at an optimizer step (from 0) from the entropies of earlier steps; `base` if none of them is known."""
        known = [entropies[earlier] for earlier in range(step - self.window, step) if earlier in entropies]
        if not known:
            return base
        at, ks = zip(*self.points, strict=True)
        return round(float(np.interp(sum(known) / len(known), at, ks)))

    def possible(self, base: int) -> list[int]:
        """Every k that a run may train for."""
        ks = [k for _, k in self.points]
        return sorted({base, *range(min(ks), max(ks) + 1)})


class ScheduleSettings(Section):
    """Numbers that change during the run (section `schedule`); a null key stays constant."""

    k: Schedule | None = Field(None, description="Changes objective.k, rounded to the nearest integer.")
    k_by_entropy: EntropySchedule | None = Field(
        None,
        description="Changes objective.k with the entropy of the samples of earlier steps; not together with "
        "schedule.k. Evaluations report the value at objective.k. `{}`: the default points.",
    )
    n: Schedule | None = Field(None, description="Changes rollout.n, rounded; rollout.n must be the largest value.")
    temperature: Schedule | None = Field(None, description="Changes rollout.temperature; 0.01 to 10.")
    kl: Schedule | None = Field(None, description="Changes loss.kl_coefficient; 0 or more.")
    learning_rate: Schedule | None = Field(
        None,
        description="Changes learner.learning_rate; 0 to 1. The value is multiplied by the factor of the warm-up, "
        "which rises to 1 over learner.warmup_steps. Both count from the first step of the run; to decay from the end "
        "of the warm-up, set `after` to learner.warmup_steps.",
    )

    @model_validator(mode="after")
    def _one_k(self) -> Self:
        if self.k and self.k_by_entropy:
            raise ValueError("schedule.k and schedule.k_by_entropy both change objective.k; set one of them to null")
        return self

    def k_at(self, step: int, base: int, entropies: Mapping[int, float]) -> int:
        """objective.k at an optimizer step.

        Args:
            step: counted from 0.
            base: ``objective.k``.
            entropies: of the sampling policy at earlier steps, nat/token; only ``k_by_entropy`` reads them.
        """
        if self.k_by_entropy:
            return self.k_by_entropy.k(step, base, entropies)
        return scheduled_integer(self.k, step, base)


def scheduled(schedule: Schedule | None, step: int, base: float) -> float:
    """The value of a key at an optimizer step, scheduled or not."""
    return base if schedule is None else schedule.value(step, base)


def scheduled_integer(schedule: Schedule | None, step: int, base: int) -> int:
    """As :func:`scheduled`, rounded to the nearest integer."""
    return base if schedule is None else round(schedule.value(step, base))


def learning_rate(step: int, base: float, warmup_steps: int, schedule: Schedule | None = None) -> float:
    """The scheduled rate at a step, times a linear warm-up: 1 / warmup_steps at step 0, 1 from warmup_steps - 1 on."""
    if step < 0:
        raise ValueError(f"step must be >= 0, got {step}")
    rate = scheduled(schedule, step, base)
    if step + 1 >= warmup_steps:
        return rate
    return rate * (step + 1) / warmup_steps


def sampling_mismatch(
    key: Literal["n", "temperature"], schedule: ScheduleSettings, step: int, base: float, found: Iterable[float]
) -> str | None:
    """The problem if `found`, n or temperature of the groups of a step, differs from ``rollout.<key>``; else None.

    This concerns recorded groups and groups in a checkpoint, which a run with other settings may have sampled.
    """
    moves, others = getattr(schedule, key), sorted(set(found))
    wanted = scheduled(moves, step, base)
    wanted = round(wanted) if key == "n" else wanted
    if all(math.isclose(value, wanted, rel_tol=1e-6) for value in others):  # groups hold temperatures as float32
        return None
    changed, shown = f" (changed by schedule.{key})" if moves else "", ", ".join(f"{value:g}" for value in others)
    return (
        f"rollout.{key} = {wanted:g}{changed}, but the groups of step {step + 1} were sampled with {shown}; recorded "
        f"groups, and those in a checkpoint, are trained on unchanged: set rollout.{key} and schedule.{key} as in the "
        "run that sampled them"
    )
