"""The objective of a run: strategies with weights and k, and their advantages."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any

import numpy as np

from learner.estimators import Options, group_advantages
from learner.estimators.bon_sft import bon_sft_advantages
from learner.objective_settings import ObjectiveSettings, TermSettings
from learner.strategies import strategy_value


@dataclass(frozen=True)
class GradedGroups:
    """The graded groups of a step: G groups of n samples.

    rewards, scores: float64 [G, n]. answers: G lists of n hashable answers, None where unparsable. correct: the
    right answer of each group, equal to the right ones in `answers`. responses: G lists of n hashable values, equal for
    equal responses.
    """

    rewards: np.ndarray
    scores: np.ndarray
    answers: list[list[Any]] = field(default_factory=list)
    correct: list[Any] = field(default_factory=list)
    responses: list[list[Any]] = field(default_factory=list)

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `group_advantages` and `strategy_value`."""
        return {
            "rewards": self.rewards,
            "scores": self.scores,
            "answers": self.answers or None,
            "correct": self.correct or None,
            "responses": self.responses or None,
        }


class Objective:
    """The weighted sum of inference strategies that a run optimizes.

    Args:
        settings: the section `objective` of the configuration.

    The k of the first term is an argument of the methods, because a schedule may change it.
    """

    def __init__(self, settings: ObjectiveSettings) -> None:
        self.settings = settings
        self._options = Options(p_fail_clip=settings.p_fail_clip)
        self._ratio_cap = settings.ratio_cap or inf

    @property
    def off_policy(self) -> bool:
        """Whether advantages need the sequence ratios of groups that another policy sampled."""
        return self.settings.off_policy == "exact"

    def value(self, groups: GradedGroups, k: int) -> np.ndarray:
        """The objective's unbiased estimate for each group, float64[G]."""
        return sum(
            (
                term.weight
                * strategy_value(**groups.arguments(), strategy=term.strategy, k=term.k, subsets=self.settings.subsets)
                for term in self.settings.terms(k)
            ),
            start=np.zeros(len(groups.rewards)),
        )

    def advantages(self, groups: GradedGroups, k: int, ratios: np.ndarray | None = None) -> np.ndarray:
        """Advantages float64[G, n] in the sum convention.

        Args:
            k: of the first term.
            ratios: current / behavior probability of each sequence [G, n], for the exact off-policy form.

        Raises:
            ValueError: naming what does not fit: k > n, continuous rewards under pass_at_k, a NaN score.
        """
        return sum(
            (term.weight * self._of_term(term, groups, ratios) for term in self.settings.terms(k)),
            start=np.zeros_like(groups.rewards),
        )

    def reward_advantages(self, rewards_GN: np.ndarray, ratios: np.ndarray | None) -> np.ndarray:
        """Advantages float64[G, n] of an additional reward, whose mean is maximized, whatever the strategy.

        The baseline is the mean of the other samples; a single sample has none.
        """
        estimator = "loo" if rewards_GN.shape[1] > 1 else "loo1"
        return group_advantages(
            rewards_GN, strategy="mean", k=1, estimator=estimator, **self._off_policy_arguments(ratios)
        )

    def _off_policy_arguments(self, ratios: np.ndarray | None) -> dict[str, Any]:
        """Keyword arguments of the off-policy form, if there are ratios."""
        return {} if ratios is None else {"ratios": ratios, "ratio_cap": self._ratio_cap}

    def imitation_advantages(self, groups: GradedGroups, expert_scores: np.ndarray, k: int) -> np.ndarray:
        """Advantages float64[G, n] of the samples, where the expert's response in each group has an advantage of 1."""
        settings = self.settings
        if settings.imitation != "bon_sft":
            k = 1
        return bon_sft_advantages(groups.scores, expert_scores, k, settings.p_fail_clip, settings.bon_sft_form)

    def _of_term(self, term: TermSettings, groups: GradedGroups, ratios: np.ndarray | None) -> np.ndarray:
        return group_advantages(
            **groups.arguments(),
            strategy=term.strategy,
            k=term.k,
            estimator=term.estimator,
            subsets=self.settings.subsets,
            **self._off_policy_arguments(ratios),
            options=self._options,
        )
