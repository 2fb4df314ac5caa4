"""Recorded groups as readable records: a prompt and what became of each of its samples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import numpy as np

from actors.group import Group
from actors.workers.learning_step import objective_advantages
from cluster.config import RunConfig
from learner.objective import Objective

TRUNCATED = "length"  # finish reason of a sample that reached rollout.max_response_tokens


@dataclass(frozen=True, slots=True)
class SampleRecord:
    """One answer.

    Attributes:
        index: position in the group, from 0.
        response: as decoded for grading; None in files of version 0.1.0, which hold token ids only.
        reward, score: None where the verifier failed.
        advantage: see `advantages`; None in evaluations, and where the record does not determine it.
        weight_version, last_weight_version: of the weights that sampled the first and the last token; None without
            tokens.
        parts: the named parts of the reward before their weights; empty if it has none.
        token_ids: of the response.
        logprob_mean: mean log-probability of a token when it was sampled, in nats; None without tokens, and where it is
            not finite, because an update broke the weights.
    """

    index: int
    response: str | None
    reward: float | None
    score: float | None
    verdict: str
    answer: str | None
    detail: str
    advantage: float | None
    finish_reason: str
    weight_version: int | None
    last_weight_version: int | None
    parts: dict[str, float | None]
    token_ids: tuple[int, ...]
    logprob_mean: float | None

    @property
    def tokens(self) -> int:
        """Length of the response."""
        return len(self.token_ids)

    @property
    def truncated(self) -> bool:
        """Whether the response was cut at the limit of tokens."""
        return self.finish_reason == TRUNCATED

    def as_dict(self) -> dict[str, Any]:
        """For JSON: every field but the token ids, with `tokens` (their number) and `truncated`."""
        fields = asdict(self)
        del fields["token_ids"]
        return fields | {"tokens": self.tokens, "truncated": self.truncated}


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """A prompt with its samples.

    Attributes:
        step: of the optimizer step that trained on the group (the first is 1), or of the evaluated weights.
        position: in the run's stream of prompts; in an evaluation the number of the prompt.
        prompt: the problem; None in files of version 0.1.0.
        reference: the verifier's data for the problem; None if it was not recorded because it is long.
        fault: why the group was not used: the verifier failed, or the prompt is quarantined. Empty for others.
    """

    step: int
    position: int
    epoch: int
    prompt_id: str
    prompt: str | None
    level: str
    reference: dict[str, Any] | None
    temperature: float
    fault: str
    samples: tuple[SampleRecord, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        fields = {name: getattr(self, name) for name in self.__slots__ if name != "samples"}
        return fields | {"samples": [sample.as_dict() for sample in self.samples]}


def group_records(groups: Sequence[Group], step: int, advantages: Sequence[np.ndarray | None]) -> list[GroupRecord]:
    """Readable records of groups, in their order; `advantages` has one entry for each group."""
    return [_record(group, step, of_group) for group, of_group in zip(groups, advantages, strict=True)]


def advantages(
    config: RunConfig, groups: Sequence[Group], step: int, trained_k: int | None = None
) -> list[np.ndarray | None]:
    """The advantages [N] of each group of an optimizer step, counted from 1.

    `trained_k` is the step's metric `objective/k`, if it is recorded; else the configuration has to determine k.

    They are not recorded but computed again, by the code that the learner uses. None for groups that were not trained
    on, for groups that the objective refuses (a run with --rollout-only may record them), and for all groups where the
    learner also needed log-probabilities that are not recorded: with a KL term in the reward, and with
    objective.off_policy = exact on stale groups. Also None where schedule.k_by_entropy changed k and none is recorded.
    """
    usable = [group for group in groups if group.usable]
    unknown_k = trained_k is None and config.schedule.k_by_entropy is not None
    if not usable or unknown_k or _needs_the_model(config, usable, step - 1):
        return [None] * len(groups)
    k = config.schedule.k_at(step - 1, config.objective.k, {}) if trained_k is None else trained_k
    try:
        found = objective_advantages(Objective(config.objective), usable, k)
    except ValueError:  # the learner refuses such groups with the same error
        return [None] * len(groups)
    of_group = iter(np.split(found, np.cumsum([group.n for group in usable])[:-1]))
    return [next(of_group) if group.usable else None for group in groups]


def _needs_the_model(config: RunConfig, groups: Sequence[Group], version: int) -> bool:
    if config.loss.kl_placement == "reward" and (config.loss.kl_coefficient or config.schedule.kl):
        return True
    fresh = all((versions == version).all() for group in groups for versions in group.token_versions)
    return config.objective.off_policy == "exact" and not fresh


def _record(group: Group, step: int, of_group: np.ndarray | None) -> GroupRecord:
    return GroupRecord(
        step=step,
        position=group.sequence,
        epoch=group.epoch,
        prompt_id=group.prompt_id,
        prompt=group.prompt_text,
        level=group.level,
        reference=None if group.reference is None else json.loads(group.reference),
        temperature=round(group.temperature, 6),  # stored as float32
        fault="" if group.usable else group.fault,
        samples=tuple(_sample(group, i, None if of_group is None else float(of_group[i])) for i in range(group.n)),
    )


def _sample(group: Group, i: int, advantage: float | None) -> SampleRecord:
    versions, logprobs = group.token_versions[i], group.behaviour_logprobs[i]
    return SampleRecord(
        index=i,
        response=None if group.response_text is None else group.response_text[i],
        reward=_number(group.rewards[i]),
        score=None if group.score is None else _number(group.score[i]),
        verdict=group.verdicts[i],
        answer=None if group.answer is None else group.answer[i],
        detail="" if group.detail is None else group.detail[i],
        advantage=advantage,
        finish_reason=group.finish_reason[i],
        weight_version=int(versions[0]) if len(versions) else None,
        last_weight_version=int(versions[-1]) if len(versions) else None,
        parts={name: _number(value) for name, value in zip(group.part_names or (), _parts(group, i), strict=True)},
        token_ids=tuple(map(int, group.response_tokens[i])),
        logprob_mean=_number(np.mean(logprobs, dtype=np.float64)) if len(logprobs) else None,
    )


def _parts(group: Group, i: int) -> Sequence[float]:
    return () if group.parts is None else list(group.parts[i])


def _number(value: float) -> float | None:
    return float(value) if isfinite(value) else None
