"""One optimizer step from graded groups: computes advantages with the objective and passes them to the engine.

Every rank computes the same advantages from the same groups. Where groups are stale and the objective asks for it, or
where the KL is part of the reward, the responses are first scored with the current weights: one more forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from actors.group import Group
from actors.group_metrics import sampled_entropy
from actors.queue.allocation import size_problem
from actors.queue.allocation_settings import AllocationSettings
from actors.sampling import restricted_problem
from learner.batching import TrainingSequence
from learner.objective import GradedGroups, Objective
from learner.objective_settings import FOR_ANY_REWARD, NAME_ANSWERS
from learner.schedule import KEPT_ENTROPIES, ScheduleSettings, sampling_mismatch, scheduled
from learner.settings import LossSettings
from verifiers.verdict import Status

RIGHT = ("right",)  # the vote of every correct answer, however it is spelled; no text, so that no answer equals it
MAX_LOG_RATIO = 20.0  # of a sequence; larger ratios are useless as weights


class LearningEngine(Protocol):
    """The part of ``learner.engine.Engine`` that a step uses."""

    def accumulate(
        self,
        sequences: list[TrainingSequence],
        normaliser: float,
        step: int,
        *,
        temperature: float,
        kl_coefficient: float,
        exact_ratios: bool,
    ) -> dict[str, float]:
        """The gradient of the whole batch; returns its metrics."""
        ...

    def update(self, figures: dict[str, float]) -> dict[str, float]:
        """The optimizer step; returns `figures` and the optimizer's metrics."""
        ...

    def score(self, sequences: list[TrainingSequence], temperature: float) -> list[np.ndarray]:
        """Log-probabilities [R] of each response under the current weights."""
        ...

    def score_reference(self, sequences: list[TrainingSequence], temperature: float) -> list[np.ndarray]:
        """Log-probabilities [R] of each response under the reference policy."""
        ...

    def refresh_reference(self) -> None:
        """Make the current policy the reference."""
        ...


class LearningStep:
    """Trains an engine on graded groups: `accumulate` and then `update` are one optimizer step.

    Between the two the weights are still those that the step began with, and `agreement` compares them with samplers.

    Args:
        engine: one rank's engine; all ranks make the same calls.
        objective: what to maximize.
        loss: the section `loss`.
        n, temperature: of a group, as in ``rollout.n`` and ``rollout.temperature``.
        allocation: with it groups differ in size, and their mean is n.
        schedule: moves k, n, temperature and ``loss.kl_coefficient``.
    """

    def __init__(
        self,
        engine: LearningEngine,
        objective: Objective,
        loss: LossSettings,
        *,
        n: int,
        temperature: float,
        schedule: ScheduleSettings = ScheduleSettings(),
        allocation: AllocationSettings | None = None,
    ) -> None:
        self._engine = engine
        self._objective = objective
        self._loss = loss
        self._n = n
        self._temperature = temperature
        self._schedule = schedule
        self._allocation = allocation
        self._entropies: dict[int, float] = {}  # by step; of the sampling policy, nat/token

    def state(self) -> dict[str, Any]:
        """State that later steps need besides the engine's, for a checkpoint."""
        return {"entropies": dict(self._entropies)}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`; an earlier release saved none."""
        self._entropies = dict(state.get("entropies", {}))

    def accumulate(self, groups: Sequence[Group], step: int) -> tuple[dict[str, float], list[np.ndarray]]:
        """The gradient at weight version `step`.

        Returns:
            (figures of the engine, `objective/k`, and `objective/value` if k <= n; advantages float64 [n] by group).

        Raises:
            ValueError: groups of another size or temperature than the step's, or grades that the objective refuses.
        """
        if step and self._loss.kl_refresh_every and step % self._loss.kl_refresh_every == 0:
            self._engine.refresh_reference()
        k = self._schedule.k_at(step, self._objective.settings.k, self._entropies)
        self._check_sizes(groups, step, k)
        self._check_temperature(groups, step)
        if problem := restricted_problem(group.sampling for group in groups):
            raise ValueError(problem)
        temperature = groups[0].temperature
        self._check_rewards(groups)
        self._check_answers(groups)
        sequences = [s for group in groups for s in _sequences(group, step)]
        experts = self._experts(groups, temperature)
        kl_coefficient = scheduled(self._schedule.kl, step, self._loss.kl_coefficient)
        kl_in_reward = kl_coefficient > 0 and self._loss.kl_placement == "reward"
        exact = self._objective.off_policy and not all(s.fresh for s in sequences)
        current = self._engine.score(sequences, temperature) if exact or kl_in_reward else []

        ratios = _ratios(current, sequences) if exact else None
        advantages = objective_advantages(self._objective, groups, k, ratios)
        if kl_in_reward:
            kl = _log_ratios(current, self._engine.score_reference(sequences, temperature))
            advantages += penalty_advantages(self._objective, groups, -kl_coefficient * kl, ratios)

        figures = self._engine.accumulate(
            [replace(s, advantage=float(a)) for s, a in zip(sequences, advantages, strict=True)] + experts,
            normaliser=float(len(groups)),
            step=step,
            temperature=temperature,
            kl_coefficient=kl_coefficient,
            exact_ratios=exact,
        )
        figures["objective/k"] = float(k)
        sizes = [group.n for group in groups]
        if max(term.k for term in self._objective.settings.terms(k)) <= min(sizes):  # an imitated k may lie above n
            figures["objective/value"] = self._value(groups, k)
        self._remember_entropy(step, groups)
        return figures, np.split(advantages, np.cumsum(sizes)[:-1])

    def update(self, figures: dict[str, float]) -> dict[str, float]:
        """The optimizer step after `accumulate`, which returned `figures`; adds the optimizer's metrics."""
        return self._engine.update(figures)

    def agreement(self, probes: Sequence[Group], step: int) -> dict[str, float]:
        """Difference between samplers and learner at equal weights, on groups drawn only for this purpose.

        Samples of another version than `step` are left out, because their weights are gone.

        Returns:
            mean and largest |log-probability difference| in nats a token; nothing without samples of that version.
        """
        fresh = [s for group in probes for s in _sequences(group, step) if s.fresh]
        if not fresh:
            return {}
        self._check_temperature(probes, step)
        scores = self._engine.score(fresh, probes[0].temperature)
        gaps = np.concatenate([np.abs(c - s.behaviour_logprobs) for c, s in zip(scores, fresh, strict=True)])
        return {"logprob_gap/mean": float(gaps.mean()), "logprob_gap/max": float(gaps.max())}

    def _remember_entropy(self, step: int, groups: Sequence[Group]) -> None:
        """Keep the step's entropy for the k of later steps. For this step's own k it would bias the estimator."""
        self._entropies[step] = sampled_entropy(groups)
        self._entropies = {at: value for at, value in self._entropies.items() if at > step - KEPT_ENTROPIES}

    def _value(self, groups: Sequence[Group], k: int) -> float:
        """The objective's estimate, as the weighted mean over the groups."""
        values_G = np.empty(len(groups))
        for of_size, _ in same_size(groups):
            values_G[of_size] = self._objective.value(graded_groups([groups[i] for i in of_size]), k)
        return float(np.average(values_G, weights=[group.weight for group in groups]))

    def _check_sizes(self, groups: Sequence[Group], step: int, k: int) -> None:
        sizes = {group.n for group in groups}
        objective = self._objective.settings
        if problem := size_problem(self._allocation, self._schedule, objective, sizes, step=step, k=k, n=self._n):
            raise ValueError(problem)

    def _check_temperature(self, groups: Sequence[Group], step: int) -> None:
        found = [group.temperature for group in groups]
        if problem := sampling_mismatch("temperature", self._schedule, step, self._temperature, found):
            raise ValueError(problem)

    def _check_rewards(self, groups: Sequence[Group]) -> None:
        binary = self._objective.settings.binary_terms()
        odd = ((group.prompt_id, reward) for group in groups for reward in group.rewards if reward not in (0.0, 1.0))
        if binary and (found := next(odd, None)):
            raise ValueError(
                f"an answer to prompt {found[0]!r} has a reward of {found[1]:g}, but {binary[0]} takes rewards of 0 "
                f"and 1 only: let task.reward return only these (True or False), or set {FOR_ANY_REWARD}"
            )

    def _check_answers(self, groups: Sequence[Group]) -> None:
        """Without extracted answers no wrong one gets a vote, and a majority would be any right answer: pass@k."""
        voting = self._objective.settings.voting_terms()
        right = ((g.prompt_id, a) for g in groups for v, a in _verdicts_and_answers(g) if v == Status.CORRECT)
        if voting and (found := next((prompt for prompt, answer in right if answer is None), None)):
            raise ValueError(
                f"a right answer to prompt {found!r} has no extracted answer, but {voting[0]} counts equal answers: "
                f"{NAME_ANSWERS}"
            )

    def _experts(self, groups: Sequence[Group], temperature: float) -> list[TrainingSequence]:
        """The demonstrations to imitate, one for each group, with an advantage of 1; none in other runs.

        They were not sampled, so the current policy serves as their behavior policy, and every ratio is 1.
        """
        if self._objective.settings.imitation == "none":
            return []
        missing = [group.prompt_id for group in groups if group.demonstration_tokens is None]
        if missing:
            raise ValueError(
                f"objective.imitation needs a demonstration for each prompt, but {', '.join(missing[:3])} have none"
            )
        unscored = [_sequence(group, group.demonstration_tokens, advantage=1.0) for group in groups]
        scores = self._engine.score(unscored, temperature)
        return [replace(s, behaviour_logprobs=logprobs) for s, logprobs in zip(unscored, scores, strict=True)]


def same_size(groups: Sequence[Group]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each group size n: indices int [G] of its groups, and int [G, n] of their samples among those of all."""
    sizes = np.array([group.n for group in groups])
    starts = np.cumsum(sizes) - sizes
    for n in np.unique(sizes):
        (of_size,) = np.nonzero(sizes == n)
        yield of_size, starts[of_size][:, None] + np.arange(n)


def objective_advantages(
    objective: Objective, groups: Sequence[Group], k: int, ratios: np.ndarray | None = None
) -> np.ndarray:
    """Advantages float64 of all samples, group by group, times the importance weights of the groups.

    Args:
        k: of the objective's first term.
        ratios: current / behavior probability of each sample, for the exact off-policy form.
    """
    advantages = np.empty(sum(group.n for group in groups))
    for of_size, rows in same_size(groups):
        members = [groups[i] for i in of_size]
        graded = graded_groups(members)
        if objective.settings.imitation != "none":
            expert_scores = np.array([group.demonstration_score for group in members], dtype=np.float64)
            advantages[rows] = objective.imitation_advantages(graded, expert_scores, k)
        else:
            advantages[rows] = objective.advantages(graded, k, None if ratios is None else ratios[rows])
    return advantages * sample_weights(groups)


def penalty_advantages(
    objective: Objective, groups: Sequence[Group], rewards: np.ndarray, ratios: np.ndarray | None
) -> np.ndarray:
    """Advantages float64 of further rewards of all samples, group by group, times the importance weights of the groups.

    Args:
        rewards: they count with their mean, whatever the strategy; here the KL penalty.
        ratios: as in :func:`objective_advantages`.
    """
    advantages = np.empty(len(rewards))
    for _, rows in same_size(groups):
        advantages[rows] = objective.reward_advantages(rewards[rows], None if ratios is None else ratios[rows])
    return advantages * sample_weights(groups)


def _ratios(current: Sequence[np.ndarray], sequences: Sequence[TrainingSequence]) -> np.ndarray:
    """current / behavior probability of each response, bounded."""
    log_ratios = _log_ratios(current, [s.behaviour_logprobs for s in sequences])
    return np.exp(np.clip(log_ratios, -MAX_LOG_RATIO, MAX_LOG_RATIO))


def _log_ratios(logprobs: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> np.ndarray:
    """log(p / q) float64 of each response, from the log-probabilities of its tokens under p and q."""
    return np.array([float((p - q).sum()) for p, q in zip(logprobs, others, strict=True)])


def sample_weights(groups: Sequence[Group]) -> np.ndarray:
    """The importance weight float64 of each sample, that of its group."""
    return np.repeat([group.weight for group in groups], [group.n for group in groups])


def graded_groups(groups: Sequence[Group]) -> GradedGroups:
    """Rewards, scores, answers and responses of groups of equal size; all correct answers count as the same vote."""
    return GradedGroups(
        rewards=np.stack([group.rewards for group in groups]),
        scores=np.stack([group.rewards if group.score is None else group.score for group in groups]),
        answers=[
            [RIGHT if verdict == Status.CORRECT else answer for verdict, answer in _verdicts_and_answers(g)]
            for g in groups
        ],
        correct=[RIGHT] * len(groups),
        responses=[_responses(group) for group in groups],
    )


def _responses(group: Group) -> list[Any]:
    """The texts that the verifier read; of groups without them the tokens."""
    return [*group.response_text] if group.response_text else [tokens.tobytes() for tokens in group.response_tokens]


def _verdicts_and_answers(group: Group) -> Iterator[tuple[str, str | None]]:
    return zip(group.verdicts, group.answer or [None] * group.n, strict=True)


def _sequence(group: Group, response_tokens: np.ndarray | None, advantage: float) -> TrainingSequence:
    """A response that was not sampled."""
    assert response_tokens is not None
    zeros = np.zeros(len(response_tokens), np.float32)
    return TrainingSequence(group.prompt_tokens, response_tokens, zeros, advantage, fresh=False, sampled=False)


def _sequences(group: Group, version: int) -> list[TrainingSequence]:
    """The group's samples as the learner trains on them, without advantages yet."""
    return [
        TrainingSequence(
            prompt_tokens=group.prompt_tokens,
            response_tokens=group.response_tokens[i],
            behaviour_logprobs=group.behaviour_logprobs[i],
            advantage=0.0,
            fresh=bool((group.token_versions[i] == version).all()),
        )
        for i in range(group.n)
    ]
