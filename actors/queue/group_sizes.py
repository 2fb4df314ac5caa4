"""The size of every group under ``rollout.allocation``, decided from the groups that the learner took before.

A position of step t is admitted when step t - S - 1 is trained at the earliest (S = ``queue.staleness``). So the sizes
of step t are decided from the groups of steps 0 .. t - S - 1, whenever they are sampled: they do not depend on timing,
and a group's own samples never decide its size, which would bias the gradient.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from actors.queue.prompt_stream import PromptStream
from actors.settings import AllocationSettings
from learner.allocation import ExpectedNoise, allocate
from learner.objective import Objective
from learner.schedule import ScheduleSettings, scheduled_integer
from verifiers.verdict import Status


@dataclass(frozen=True, slots=True)
class Outcome:
    """A trained group: its position, its correct samples, and the samples with a verdict."""

    sequence: int
    correct: int
    judged: int


def outcome_of(sequence: int, batch: pa.RecordBatch) -> Outcome:
    """Of a graded group; samples on which the verifier failed are not judged."""
    verdicts = batch.column("verdict")[0].as_py() or []
    failed = verdicts.count(Status.VERIFIER_ERROR)
    return Outcome(sequence, verdicts.count(Status.CORRECT), len(verdicts) - failed)


@dataclass(frozen=True, slots=True)
class StepSizes:
    """The group sizes of one step in stream order, and their expected noise relative to equal groups'."""

    sizes: tuple[int, ...]
    noise: float


class GroupSizes:
    """Counts of correct and wrong samples per prompt, and the group sizes of the steps that may be admitted.

    Args:
        settings: the section ``rollout.allocation``.
        objective, schedule: decide how useful a sample is, and the budget of a step.
        n: samples per prompt on average, as in ``rollout.n``.
        stream: the order of the prompts; not used by others, because it caches an epoch.
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
        self._steps: dict[int, StepSizes] = {}
        self._noise: dict[int, ExpectedNoise] = {}
        if state is not None:
            self._restore(state)
        self._decide_until(first_step)

    def of(self, sequence: int) -> int:
        """Samples of the group at an admitted position."""
        step, offset = divmod(sequence, self._prompts)
        return self._steps[step].sizes[offset]

    def noise(self, step: int) -> float:
        """Expected squared noise of the step's gradient, relative to that with equal groups."""
        return self._steps[step].noise

    def add(self, step: int, outcomes: Iterable[Outcome]) -> None:
        """The groups of `step` are trained; call it for each step once, in order."""
        for outcome in outcomes:
            prompt = self._stream.locate(outcome.sequence)[1]
            wrong = outcome.judged - outcome.correct
            self._correct[prompt] = self._settings.discount * self._correct[prompt] + outcome.correct
            self._wrong[prompt] = self._settings.discount * self._wrong[prompt] + wrong
        self._steps.pop(step, None)
        self._decide_until(step + 1)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as plain JSON types."""
        return {
            "correct": self._correct.tolist(),
            "wrong": self._wrong.tolist(),
            "steps": {str(step): [list(decided.sizes), decided.noise] for step, decided in self._steps.items()},
        }

    def _restore(self, state: dict[str, Any]) -> None:
        if len(state["correct"]) != self._stream.size:
            raise ValueError(
                f"the checkpoint counts the answers to {len(state['correct'])} prompts, but the training split holds "
                f"{self._stream.size}: restore the task's data and settings"
            )
        self._correct, self._wrong = np.array(state["correct"]), np.array(state["wrong"])
        self._steps = {int(step): StepSizes(tuple(sizes), noise) for step, (sizes, noise) in state["steps"].items()}

    def _decide_until(self, done: int) -> None:
        """Decide every step that may be admitted when `done` steps are trained."""
        for step in range(done, done + self._staleness + 1):
            if step not in self._steps:
                self._steps[step] = self._decided(step)

    def _decided(self, step: int) -> StepSizes:
        n = scheduled_integer(self._schedule.n, step, self._n)
        k = scheduled_integer(self._schedule.k, step, self._objective.settings.k)
        least, most = self._settings.limits(self._objective.settings, k, self._n)
        expected = self._noise.get(k)
        if expected is None:
            expected = self._noise[k] = ExpectedNoise(self._objective, k, least, most)
        first, prior = step * self._prompts, self._settings.prior
        prompts = [self._stream.locate(sequence)[1] for sequence in range(first, first + self._prompts)]
        counts = np.stack([self._correct[prompts], self._wrong[prompts]], axis=1)
        kinds, kind_of = np.unique(counts, axis=0, return_inverse=True)
        noise_PJ = np.stack([expected(correct + prior, wrong + prior) for correct, wrong in kinds])[kind_of.ravel()]
        sizes = allocate(noise_PJ, least, n * self._prompts)
        chosen = noise_PJ[np.arange(self._prompts), sizes - least].sum()
        equal = noise_PJ[:, n - least].sum()
        return StepSizes(tuple(sizes.tolist()), float(chosen / equal) if equal else 1.0)
