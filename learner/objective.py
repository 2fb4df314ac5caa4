"""The objective of a run: which strategies, how weighted, at which k, and their advantages at a given step."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any

import numpy as np

from learner.estimators import Options, group_advantages
from learner.estimators.bon_sft import bon_sft_advantages
from learner.schedule import Schedule, scheduled_integer
from learner.settings import ObjectiveSettings, TermSettings
from learner.strategies import strategy_value


@dataclass(frozen=True)
class GradedGroups:
    """What a step's groups earned: G groups of n samples.

    rewards, scores: float64 [G, n]. answers: G lists of n hashable answers, None where unparsable. correct: the
    right answer of each group, under the name by which `answers` calls it.
    """

    rewards: np.ndarray
    scores: np.ndarray
    answers: list[list[Any]] = field(default_factory=list)
    correct: list[Any] = field(default_factory=list)

    def arguments(self) -> dict[str, Any]:
        """As `group_advantages` and `strategy_value` take them."""
        return {
            "rewards": self.rewards,
            "scores": self.scores,
            "answers": self.answers or None,
            "correct": self.correct or None,
        }


class Objective:
    """The weighted sum of inference strategies that a run optimises.

    Args:
        settings: the section `objective`.
        k_schedule: moves the k of the first term.
    """

    def __init__(self, settings: ObjectiveSettings, k_schedule: Schedule | None = None) -> None:
        self.settings = settings
        self._k_schedule = k_schedule
        self._options = Options(p_fail_clip=settings.p_fail_clip)
        self._ratio_cap = settings.ratio_cap or inf

    @property
    def off_policy(self) -> bool:
        """Whether advantages want the sequence ratios of groups that another policy sampled."""
        return self.settings.off_policy == "exact"

    def terms(self, step: int) -> list[TermSettings]:
        """The terms with the k that holds at an optimiser step, counted from 0."""
        return self.settings.terms(scheduled_integer(self._k_schedule, step, self.settings.k))

    def value(self, groups: GradedGroups, step: int) -> np.ndarray:
        """The objective's unbiased estimate for each group, float64[G]."""
        return sum(
            (
                term.weight
                * strategy_value(**groups.arguments(), strategy=term.strategy, k=term.k, subsets=self.settings.subsets)
                for term in self.terms(step)
            ),
            start=np.zeros(len(groups.rewards)),
        )

    def advantages(self, groups: GradedGroups, step: int, ratios: np.ndarray | None = None) -> np.ndarray:
        """Advantages float64[G, n] in the sum convention.

        Args:
            ratios: current / behaviour probability of each sequence [G, n], for the exact off-policy form.

        Raises:
            ValueError: naming what does not fit: k > n, continuous rewards under pass_at_k, a NaN score.
        """
        return sum(
            (term.weight * self._of_term(term, groups, ratios) for term in self.terms(step)),
            start=np.zeros_like(groups.rewards),
        )

    def reward_advantages(self, rewards_GN: np.ndarray, ratios: np.ndarray | None = None) -> np.ndarray:
        """Advantages float64[G, n] of a reward that stands beside the objective: its mean counts, at any strategy.

        The baseline is the mean of the other samples; a single sample has none.
        """
        estimator = "loo" if rewards_GN.shape[1] > 1 else "loo1"
        return group_advantages(rewards_GN, strategy="mean", k=1, estimator=estimator, **self._reweighed(ratios))

    def _reweighed(self, ratios: np.ndarray | None) -> dict[str, Any]:
        """The arguments of the off-policy form, where there are ratios."""
        return {} if ratios is None else {"ratios": ratios, "ratio_cap": self._ratio_cap}

    def imitation_advantages(self, groups: GradedGroups, expert_scores: np.ndarray, step: int) -> np.ndarray:
        """Advantages float64[G, n] of the samples beside an expert's response of advantage 1 in each group."""
        k = self.terms(step)[0].k if self.settings.imitation == "bon_sft" else 1
        return bon_sft_advantages(groups.scores, expert_scores, k, self.settings.p_fail_clip)

    def _of_term(self, term: TermSettings, groups: GradedGroups, ratios: np.ndarray | None) -> np.ndarray:
        return group_advantages(
            **groups.arguments(),
            strategy=term.strategy,
            k=term.k,
            estimator=term.estimator,
            subsets=self.settings.subsets,
            **self._reweighed(ratios),
            options=self._options,
        )
