"""Values of the deployments by run and prompt, for means, intervals and tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.refresh.plan import BASE, CONTENDERS, DEPLOYMENTS, Plan
from benchmarks.refresh.results import Course, Courses, Evaluations, Key, RunKey, Scored
from learner.metrics import pass_at_k


@dataclass(frozen=True)
class Measures:
    """The measurements of a plan. seeds: those of which both runs are measured."""

    plan: Plan
    evaluations: Evaluations
    courses: Courses

    @property
    def seeds(self) -> list[int]:
        return [seed for seed in self.plan.seeds if all(self.has(name, seed) for name in CONTENDERS)]

    def has(self, model: str, seed: int) -> bool:
        """Whether everything about a model is measured."""
        found = (self.evaluations.get(Key(model, seed, verifier)) for verifier in self.plan.verifiers(model))
        return self.courses.get(RunKey(model, seed)) is not None and all(one is not None for one in found)

    def courses_of(self, model: str) -> list[Course]:
        """The courses of a model's runs, one for each seed."""
        found = (self.courses.get(RunKey(model, seed)) for seed in ([0] if model == BASE else self.seeds))
        return [one for one in found if one is not None]

    def best_of(self, deployment: str, k: int) -> np.ndarray:
        """Best-of-k with the deployment's verifier, float64[S, P]; S = 1 for the base model, as everywhere."""
        return np.stack([one.best_of_k[k] for one in self._scored(deployment)])

    def pass_at(self, deployment: str, k: int) -> np.ndarray:
        """Unbiased pass@k of the model, which does not depend on the verifier, float64[S, P]."""
        found = self._scored(deployment)
        n = found[0].samples
        return np.array([pass_at_k(n, c, k) for c in range(n + 1)])[np.stack([one.right for one in found])]

    def accepted_wrong(self, deployment: str) -> np.ndarray:
        """Share of the wrong answers that the verifier accepts, float64[S, P]; see `shares`."""
        found = self._scored(deployment)
        return shares(np.stack([one.accepted_wrong for one in found]), np.stack([one.wrong for one in found]))

    def accepted_right(self, deployment: str) -> np.ndarray:
        """Share of the right answers that the verifier accepts, float64[S, P]; see `shares`."""
        found = self._scored(deployment)
        return shares(np.stack([one.accepted_right for one in found]), np.stack([one.right for one in found]))

    def misled(self, deployment: str, k: int) -> np.ndarray:
        """How often the verifier picks a wrong answer if a right one is among the k, float64[S, P]; see `shares`."""
        return 1.0 - shares(self.best_of(deployment, k), self.pass_at(deployment, k))

    def value(self, deployment: str, value: str, k: int | None) -> np.ndarray:
        """The value of a primary contrast, float64[S, P]."""
        if value == "accepted_wrong":
            return self.accepted_wrong(deployment)
        assert k is not None, "the plan checks that best_of_k has a k"
        return self.best_of(deployment, k)

    def _scored(self, deployment: str) -> list[Scored]:
        one = DEPLOYMENTS[deployment]
        seeds = [0] if one.model == BASE else self.seeds
        found = [self.evaluations.get(Key(one.model, seed, one.verifier)) for seed in seeds]
        whole = [result for result in found if result is not None]
        if not whole or len(whole) < len(found):
            raise LookupError(f"{one.title}: an evaluation is missing; run the plan first")
        return whole


def shares(part_SP: np.ndarray, whole_SP: np.ndarray) -> np.ndarray:
    """The ratio of the sums over prompts, sum(part) / sum(whole) of each run, linearized, float64[S, P].

    The mean over prompts is the ratio r itself, and the spread over prompts is that of the ratio by the delta method:
    r + (part - r whole) / mean(whole). No prompt is left out because of a result: one where `whole` is 0 has no
    weight in the ratio.
    """
    mean_S1 = whole_SP.mean(axis=1, keepdims=True)
    ratio_S1 = part_SP.mean(axis=1, keepdims=True) / mean_S1
    return ratio_S1 + (part_SP - ratio_S1 * whole_SP) / mean_S1
