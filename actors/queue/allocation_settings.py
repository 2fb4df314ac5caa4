"""The section ``rollout.allocation``."""

from __future__ import annotations

from pydantic import Field

from learner.objective_settings import ObjectiveSettings
from learner.section import Section

MAX_ALLOCATED = 256  # samples of one group whose size is chosen; tables of that size take seconds to compute


class AllocationSettings(Section):
    """Which prompts are trained, and with how many samples, by their results in earlier epochs; each step has rollout.n
    samples per prompt on average. See docs/objectives.md.
    """

    candidates: int = Field(
        1,
        ge=1,
        le=64,
        description="Prompts of the stream for each prompt that is trained. Prompts with a larger expected gradient "
        "are chosen more often; importance weights keep the objective unchanged. 1: all prompts are trained.",
    )
    max_weight: float = Field(
        4.0,
        ge=1,
        le=1000,
        description="Largest importance weight with candidates > 1: a prompt's chance to be trained is at least "
        "1 / (candidates x max_weight). 1: all candidates have the same chance.",
    )

    min_n: int | None = Field(
        None,
        ge=1,
        description="Smallest group; null: the smallest that the objective's estimators allow (k + 1 for `loo`).",
    )
    max_n: int | None = Field(
        None,
        ge=1,
        le=MAX_ALLOCATED,
        description=f"Largest group; null: four times rollout.n, at most {MAX_ALLOCATED}. One group is sampled and "
        "verified within the deadlines of a group, and its samples share a prompt's key-value cache.",
    )
    prior: float = Field(
        1.0,
        gt=0,
        le=1000,
        description="Number of correct and of wrong answers that are added to every prompt's counts. A large value "
        "keeps groups nearly equal; with a small one few results already change them.",
    )
    discount: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Weight of a prompt's earlier counts when a new group is counted, because the policy has changed. "
        "0: only the last group counts; 1: all count alike.",
    )

    def limits(self, objective: ObjectiveSettings, k: int, n: int) -> tuple[int, int]:
        """The smallest and the largest group at an objective's `k`, with ``rollout.n`` = `n`."""
        most = self.max_n or max(n, min(4 * n, MAX_ALLOCATED))
        return self.min_n or objective.smallest_group(k), most
