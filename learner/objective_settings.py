"""Typed settings of the objective: the inference strategy that training optimizes, its estimator, and mixtures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from learner.estimators import ESTIMATORS, check_estimator
from learner.estimators.bon_sft import BonSftForm
from learner.section import Section
from learner.strategies import STRATEGIES, check_strategy
from learner.strategies.registry import DEFAULT_SUBSETS

FOR_ANY_REWARD = "objective.strategy = max_at_k, best_of_k, or mean with objective.k = 1, and objective.estimator = loo"
"""Settings that take rewards other than 0 and 1, for messages."""
NAME_ANSWERS = (
    "let task.reward return a dict that also has the extracted text as `answer`, or a Verdict with one, or choose "
    "another strategy"
)
"""How a reward takes part in a vote, for messages."""


class TermSettings(Section):
    """One inference strategy, and the estimator of its gradient."""

    weight: float = Field(1.0, gt=0, description="Weight of this strategy in the objective.")
    strategy: str = Field(
        "pass_at_k",
        description="Inference strategy to optimize: `mean` (ordinary RL, k must be 1), `pass_at_k` (one correct "
        "answer among k is enough; rewards 0 or 1), `soft_pass_at_k` (the same for rewards that are probabilities), "
        "`weighted_pass_at_k` (pass@1 .. pass@k with weights 1/j; rewards 0 or 1), `max_at_k` (the largest reward "
        "among k), `best_of_k` (the answer that the verifier scores highest), `majority_at_k`, `weighted_vote`.",
    )
    k: int = Field(
        8,
        ge=1,
        description="Answers drawn at deployment, for which training optimizes. Keep it well below "
        "rollout.n: at k = n nearly every group has zero advantage.",
    )
    estimator: str = Field(
        "loo",
        description="Estimator of the gradient. Exactly unbiased for every strategy: `loo` (U_k of the group minus "
        "U_k without the sample; needs k < n), `loo1` (average marginal contribution to subsets of size k; k <= n), "
        "`subset`, `pkpo_loo`. For comparison, biased or of another objective: `grpo`, `grpo_no_std`, `rloo`, "
        "`maxrl`, `passk_training`, `bon_rlb`, `bon_rlb_minus`, `bon_rlb_p`, `bon_rl_variational`; see "
        "docs/objectives.md.",
    )

    @model_validator(mode="after")
    def _names_and_k(self) -> Self:
        check_strategy(self.strategy, self.k)
        check_estimator(self.estimator, strategy=self.strategy)
        return self


def only_term(terms: Sequence[TermSettings]) -> TermSettings | None:
    """The one strategy of an objective that is no mixture; None for others, whose values are on no strategy's curve."""
    return terms[0] if len(terms) == 1 and terms[0].weight == 1.0 else None


class ObjectiveSettings(TermSettings):
    """The inference strategy whose value training maximizes, alone or in a mixture."""

    mixture: tuple[TermSettings, ...] = Field(
        (),
        description="Further strategies of the objective, each with weight, strategy, k and estimator: with weight "
        "0.7 above, `[{weight: 0.3, strategy: mean, k: 1}]` gives 0.7 pass@k + 0.3 mean.",
    )
    subsets: int = Field(
        DEFAULT_SUBSETS,
        ge=1,
        le=65_536,
        description="Minimum number of k-subsets for strategies without a closed form (weighted_vote). More subsets "
        "lower the variance and cost time, and memory in proportion to rollout.prompts_per_step x k; the gradient is "
        "unbiased with any number.",
    )
    p_fail_clip: float = Field(
        0.01,
        ge=0,
        lt=0.5,
        description="Limit for probabilities that are estimated from a group. The bon_rlb estimators clip the failure "
        "rate to [p_fail_clip, 1 - p_fail_clip]. bon_sft (exact) raises the share of samples that score at most as "
        "high as the expert to p_fail_clip, if it is smaller. Without a limit the weights of these methods, except "
        "those of bon_rlb_p, are unbounded, so 0 is refused for them.",
    )
    imitation: Literal["none", "sft", "bon_sft"] = Field(
        "none",
        description="Imitate the task's demonstrations instead of maximizing a reward: `bon_sft` through the Best-of-k "
        "policy that will be deployed (k from objective.k, estimated from the group's samples), `sft` by maximum "
        "likelihood. Then weight, estimator, mixture and off_policy have no effect and must keep their defaults; "
        "strategy and k only select the value that is reported (if k <= rollout.n).",
    )
    bon_sft_form: BonSftForm = Field(
        "exact",
        description="The policy through which bon_sft imitates. `exact`: Best-of-k itself, for any scores, ties broken "
        "uniformly. `variational`: the approximation of arXiv 2412.15287, the policy tilted by the share of "
        "samples that an answer beats or equals; meant for continuous scores, and far from Best-of-k for scores of 0 "
        "and 1.",
    )
    off_policy: Literal["none", "exact"] = Field(
        "none",
        description="`exact`: advantages of groups from older weights use the sequence ratios of all members (one more "
        "forward pass; strategies mean, pass_at_k, max_at_k, best_of_k with loo, loo1 or subset). `none`: the loss "
        "weights each token by its own ratio only.",
    )
    ratio_cap: float | None = Field(
        None,
        gt=0,
        description="Truncates each sequence ratio; allowed with off_policy: exact only. Null: no truncation and no "
        "bias, except that ratios are limited to e^-20 .. e^20.",
    )

    @model_validator(mode="after")
    def _exact_forms(self) -> Self:
        if self.off_policy != "exact":
            if self.ratio_cap is not None:
                raise ValueError(
                    f"objective.ratio_cap = {self.ratio_cap:g} truncates the ratios of off_policy: exact; set "
                    "objective.off_policy = exact, or ratio_cap = null (loss.behaviour_cap is the loss's own)"
                )
            return self
        for term in self.terms():
            if STRATEGIES[term.strategy].best_by is None or not ESTIMATORS[term.estimator].off_policy:
                strategies = ", ".join(name for name, found in STRATEGIES.items() if found.best_by)
                estimators = ", ".join(name for name, found in ESTIMATORS.items() if found.off_policy)
                raise ValueError(
                    f"off_policy: exact has no form for strategy '{term.strategy}' with estimator '{term.estimator}'; "
                    f"use {strategies} with {estimators}, or off_policy: none"
                )
        return self

    @model_validator(mode="after")
    def _bounded_weights(self) -> Self:
        unbounded = [term.estimator for term in self.terms() if ESTIMATORS[term.estimator].needs_p_fail_clip]
        unbounded += ["bon_sft"] if self.imitation == "bon_sft" and self.bon_sft_form == "exact" else []
        if not self.p_fail_clip and unbounded:
            raise ValueError(
                f"objective.p_fail_clip = 0: the weights of {unbounded[0]} are infinite in a group without a success; "
                "set it above 0, for example 0.01"
            )
        return self

    @model_validator(mode="after")
    def _imitation_alone(self) -> Self:
        """Reject options that would be ignored with this kind of imitation."""
        if self.bon_sft_form != "exact" and self.imitation != "bon_sft":
            raise ValueError(
                f"objective.bon_sft_form = {self.bon_sft_form} has no effect with objective.imitation = "
                f"{self.imitation}; leave it out, or set imitation to bon_sft"
            )
        for key in ("weight", "estimator", "mixture", "off_policy") if self.imitation != "none" else ():
            value, default = getattr(self, key), type(self).model_fields[key].default
            if value != default:
                shown = f"{value:g}" if key == "weight" else "set" if key == "mixture" else value
                raise ValueError(
                    f"objective.{key} is {shown}, which has no effect with objective.imitation = {self.imitation}; "
                    "leave it out, or set imitation to none"
                )
        return self

    def terms(self, k: int | None = None) -> list[TermSettings]:
        """All strategies of the objective with their weights; the section's own first, at `k` if given."""
        own = {name: getattr(self, name) for name in TermSettings.model_fields}
        if k is not None:
            own["k"] = k
        return [TermSettings.model_construct(**own), *self.mixture]

    def binary_terms(self) -> list[str]:
        """The strategies and estimators that take rewards of 0 and 1 only."""
        terms = self.terms() if self.imitation == "none" else []
        strategies = [term.strategy for term in terms if STRATEGIES[term.strategy].count_value is not None]
        return [*strategies, *(term.estimator for term in terms if ESTIMATORS[term.estimator].binary_rewards)]

    def voting_terms(self) -> list[str]:
        """The strategies that count equal answers."""
        terms = self.terms() if self.imitation == "none" else []
        return [term.strategy for term in terms if "answers" in STRATEGIES[term.strategy].required_inputs]

    def check_group_size(self, n: int, k: int | None = None) -> None:
        """Raise ValueError, naming key and remedy, if groups of `n` samples are too small for this objective.

        Args:
            k: replaces the section's own, where a schedule changes it.
        """
        if self.imitation == "bon_sft" and n == 1:
            raise ValueError("rollout.n = 1: bon_sft estimates the Best-of-k policy from the group; raise rollout.n")
        for i, term in enumerate(self.terms(k) if self.imitation == "none" else []):
            _check_term(term, n, f"objective.mixture.{i - 1}" if i else "objective")

    def smallest_group(self, k: int) -> int:
        """The smallest group that the estimators allow, at `k`."""
        found = [(term.k, ESTIMATORS[term.estimator]) for term in self.terms(k)]
        return max(max(of_term + (not e.allows_k_equal_n), e.min_group_size) for of_term, e in found)


def _check_term(term: TermSettings, n: int, key: str) -> None:
    if term.k > n:
        raise ValueError(
            f"{key}.k = {term.k} is above rollout.n = {n}: a group of n samples cannot estimate the best of more; "
            f"lower {key}.k or raise rollout.n"
        )
    try:
        check_estimator(term.estimator, strategy=term.strategy, n=n, k=term.k)
    except ValueError as error:
        raise ValueError(f"{key}.k = {term.k}, rollout.n = {n}: {error}") from error
