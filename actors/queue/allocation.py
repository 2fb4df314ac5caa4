"""Which prompts a step trains, with how many samples and weights, under ``rollout.allocation``.

Step t is planned from the groups of steps 0 .. t - S - 1 (S = ``queue.staleness``), because no position of step t is
admitted before step t - S - 1 is trained. Two properties follow:

- The plan does not depend on timing.
- A group's own samples never decide whether it is trained or how large it is. That would bias the gradient.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from actors.queue.allocation_settings import AllocationSettings
from actors.queue.prompt_stream import PromptStream
from learner.allocation import ExpectedNoise, allocate
from learner.objective import Objective
from learner.objective_settings import ObjectiveSettings
from learner.schedule import ScheduleSettings, sampling_mismatch, scheduled_integer
from learner.selection import UNITS, selection_units, selection_weights, systematic_sample
from verifiers.verdict import Status

_SELECTION = 3  # distinguishes these random numbers from those of samples (actors.queue.prompt_stream.sampling_seed)


def size_problem(
    allocation: AllocationSettings | None,
    schedule: ScheduleSettings,
    objective: ObjectiveSettings,
    found: Collection[int],
    *,
    step: int,
    k: int,
    n: int,
) -> str | None:
    """The problem if groups of the sizes `found` cannot be trained on in a step; else None.

    Args:
        allocation: with it each size must be within its limits; without, all sizes are equal.
        step: finished optimizer steps.
        k: of the objective in this step.
        n: ``rollout.n``.
    """
    if allocation is None:
        return sampling_mismatch("n", schedule, step, n, found)
    least, most = allocation.limits(objective, k, n)
    odd = [size for size in found if not least <= size <= most]
    if not odd:
        return None
    return (
        f"rollout.allocation allows groups of {least} to {most} samples, but there is one of {odd[0]}; recorded "
        "groups, and those in a checkpoint, are trained on unchanged: set rollout.allocation.min_n and max_n as in "
        "the run that sampled them"
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """A trained group: its position, its correct samples, and the samples with a verdict."""

    sequence: int
    correct: int
    judged: int


def outcome_of(sequence: int, batch: pa.RecordBatch) -> Outcome:
    """The outcome of a graded group; samples on which the verifier failed are not counted."""
    verdicts = batch.column("verdict")[0].as_py() or []
    failed = verdicts.count(Status.VERIFIER_ERROR)
    return Outcome(sequence, verdicts.count(Status.CORRECT), len(verdicts) - failed)


@dataclass(frozen=True, slots=True)
class PlannedGroup:
    """A group of a step: its place in the prompt stream, its number of samples, and its importance weight."""

    place: int
    n: int
    weight: float


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The groups of one step, and the expected noise relative to equal groups of prompts in stream order."""

    groups: tuple[PlannedGroup, ...]
    noise: float


class Allocation:
    """Counts of correct and wrong samples per prompt, and the plans of the steps that may be admitted.

    With ``candidates`` = c, step t chooses its P prompts among the places c P t .. c P (t + 1) - 1 of the stream.

    Args:
        settings: the section ``rollout.allocation``.
        objective, schedule: decide how useful a sample is, and the budget of a step.
        n: samples per prompt on average, as in ``rollout.n``.
        stream: the order of the prompts; not shared with other objects, because it caches an epoch.
        prompts_per_step, staleness: as in :class:`actors.queue.state.QueueState`.
        first_step: optimizer steps that are done.
    """

    def __init__(
        self,
        settings: AllocationSettings,
        objective: Objective,
        schedule: ScheduleSettings,
        n: int,
        stream: PromptStream,
        *,
        prompts_per_step: int,
        staleness: int,
        first_step: int = 0,
        state: dict[str, Any] | None = None,
    ) -> None:
        self._settings = settings
        self._objective = objective
        self._schedule = schedule
        self._n = n
        self._stream = stream
        self._prompts = prompts_per_step
        self._staleness = staleness
        self._correct = np.zeros(stream.size)
        self._wrong = np.zeros(stream.size)
        self._plans: dict[int, StepPlan] = {}
        self._noise: dict[tuple[int, int, int], ExpectedNoise] = {}  # by k, smallest and largest group
        if state is not None:
            self._restore(state)
        self._plan_until(first_step)

    def planned(self, sequence: int) -> PlannedGroup:
        """The group at an admitted position."""
        step, offset = divmod(sequence, self._prompts)
        return self._plans[step].groups[offset]

    def noise(self, step: int) -> float:
        """Expected squared noise of the step's gradient, relative to equal groups of prompts in stream order."""
        return self._plans[step].noise

    def add(self, step: int, outcomes: Iterable[Outcome]) -> None:
        """The groups of `step` are trained; call it for each step once, in order."""
        for outcome in outcomes:
            prompt = self._stream.locate(self.planned(outcome.sequence).place)[1]
            wrong = outcome.judged - outcome.correct
            self._correct[prompt] = self._settings.discount * self._correct[prompt] + outcome.correct
            self._wrong[prompt] = self._settings.discount * self._wrong[prompt] + wrong
        self._plans.pop(step, None)
        self._plan_until(step + 1)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as plain JSON types."""
        return {
            "correct": self._correct.tolist(),
            "wrong": self._wrong.tolist(),
            "steps": {
                str(step): {"groups": [[g.place, g.n, g.weight] for g in plan.groups], "noise": plan.noise}
                for step, plan in self._plans.items()
            },
        }

    def _restore(self, state: dict[str, Any]) -> None:
        if len(state["correct"]) != self._stream.size:
            raise ValueError(
                f"the checkpoint counts the answers to {len(state['correct'])} prompts, but the training split holds "
                f"{self._stream.size}: restore the task's data and settings"
            )
        self._correct, self._wrong = np.array(state["correct"]), np.array(state["wrong"])
        self._plans = {
            int(step): StepPlan(tuple(PlannedGroup(*group) for group in plan["groups"]), plan["noise"])
            for step, plan in state["steps"].items()
        }

    def _plan_until(self, done: int) -> None:
        """Plan every step that may be admitted when `done` steps are trained."""
        for step in range(done, done + self._staleness + 1):
            if step not in self._plans:
                self._plans[step] = self._plan(step)

    def _plan(self, step: int) -> StepPlan:
        n = scheduled_integer(self._schedule.n, step, self._n)
        k = scheduled_integer(self._schedule.k, step, self._objective.settings.k)
        least, most = self._settings.limits(self._objective.settings, k, self._n)
        if n == most:  # all groups are the largest; a table of smaller ones takes minutes if they are large
            least = n
        places, weights, noise = self._select(step, k, n)
        noise_PJ = self._expected_noise(places, k, least, most)
        sizes = allocate(noise_PJ, least, n * self._prompts)
        if equal := noise_PJ[:, n - least].sum():
            noise *= float(noise_PJ[np.arange(self._prompts), sizes - least].sum() / equal)
        groups = zip(places.tolist(), sizes.tolist(), weights.tolist(), strict=True)
        return StepPlan(tuple(PlannedGroup(*group) for group in groups), noise)

    def _select(self, step: int, k: int, n: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Places of the step's prompts, their weights, and the noise with n samples each / that with equal chances."""
        candidates = self._settings.candidates * self._prompts
        places_C = np.arange(step * candidates, (step + 1) * candidates)
        if self._settings.candidates == 1:
            return places_C, np.ones(candidates), 1.0
        noise_C = self._expected_noise(places_C, k, n, n)[:, 0]
        units_C = selection_units(np.sqrt(noise_C), self._prompts, self._settings.max_weight)
        weights_C = selection_weights(units_C)
        random = np.random.default_rng([self._stream.seed, _SELECTION, step])
        chosen = systematic_sample(units_C, int(random.integers(UNITS)))
        total = noise_C.sum()
        return places_C[chosen], weights_C[chosen], float((weights_C * noise_C).sum() / total) if total else 1.0

    def _expected_noise(self, places: np.ndarray, k: int, least: int, most: int) -> np.ndarray:
        """Expected noise of the prompts at these places, with `least` to `most` samples."""
        expected = self._noise.get((k, least, most))
        if expected is None:
            expected = self._noise[k, least, most] = ExpectedNoise(self._objective, k, least, most)
        prompts, prior = [self._stream.locate(place)[1] for place in places.tolist()], self._settings.prior
        counts = np.stack([self._correct[prompts], self._wrong[prompts]], axis=1)
        kinds, kind_of = np.unique(counts, axis=0, return_inverse=True)
        return np.stack([expected(correct + prior, wrong + prior) for correct, wrong in kinds])[kind_of.ravel()]
