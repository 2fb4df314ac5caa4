"""Scorers: the score by which Best-of-N selects, if it is not the task's own verdict.

The reward is what training maximizes, the score is what the deployed verifier ranks by. A scorer gets a whole group,
because a vote is a property of the group and a learned verifier works in batches.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from verifiers.learned.classifier import TransformersLogits
from verifiers.learned.scorer import LearnedScorer, LoadLogits
from verifiers.settings import ScorerSettings, TaskSettings, is_code
from verifiers.task import Prompt
from verifiers.tasks.countdown import ExpressionError, evaluate
from verifiers.verdict import Status, Verdict

USER_SCORERS: dict[str, Callable[..., Any]] = {}
"""Functions that plugins register; they are called like ``task.reward``."""

F = TypeVar("F", bound=Callable[..., Any])


def register_scorer(name: str) -> Callable[[F], F]:
    """Register a function, written like that of ``task.reward``, as the scorer `name`."""

    def register(function: F) -> F:
        USER_SCORERS[name] = function
        return function

    return register


class Scorer(Protocol):
    """Scores the answers of one prompt."""

    def scores(self, prompt: Prompt, responses: Sequence[str], verdicts: Sequence[Verdict]) -> list[float | None]:
        """One score for each response; None if the verifier failed."""
        ...


class VerdictScorer:
    """The score of the task's verdict, or its reward if it has no score."""

    def scores(self, prompt: Prompt, responses: Sequence[str], verdicts: Sequence[Verdict]) -> list[float | None]:
        """See :class:`Scorer`."""
        return [v.reward if v.score is None else v.score for v in verdicts]


class MajorityScorer:
    """The share of the group with the same answer; an unparsable answer scores 0.

    Votes are grouped by the verdict's canonical answer, not by correctness, which is unknown at deployment. Answers
    that are not normalized to the same string are different votes, even if they are mathematically equal.
    """

    def scores(self, prompt: Prompt, responses: Sequence[str], verdicts: Sequence[Verdict]) -> list[float | None]:
        """See :class:`Scorer`."""
        votes = Counter(verdict.answer for verdict in verdicts)
        return [self._score(verdict, votes) for verdict in verdicts]

    def _score(self, verdict: Verdict, votes: Counter[str | None]) -> float | None:
        if verdict.status is Status.VERIFIER_ERROR:
            return None
        return 0.0 if verdict.answer is None else votes[verdict.answer] / votes.total()


def erring_verdict(right: bool, key: str, false_positive: float, false_negative: float) -> float:
    """The verdict, 1 or 0, of a verifier with these error rates; equal keys get equal errors."""
    chance = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    return float(chance >= false_negative if right else chance < false_positive)


class SyntheticScorer:
    """A verifier with known error rates, for experiments: 1 or 0, wrong with a fixed probability.

    The same answer to the same prompt always gets the same score, so a policy can exploit it like a real verifier.
    """

    def __init__(self, false_positive: float, false_negative: float, seed: int) -> None:
        self._false_positive = false_positive
        self._false_negative = false_negative
        self._seed = seed

    def scores(self, prompt: Prompt, responses: Sequence[str], verdicts: Sequence[Verdict]) -> list[float | None]:
        """See :class:`Scorer`."""
        return [
            None if v.reward is None else self._score(prompt.id, response, v.status is Status.CORRECT)
            for response, v in zip(responses, verdicts, strict=True)
        ]

    def _score(self, prompt_id: str, response: str, right: bool) -> float:
        key = f"{self._seed}\0{prompt_id}\0{response}"
        return erring_verdict(right, key, self._false_positive, self._false_negative)


class LenientScorer:
    """A lenient verifier for Countdown: an expression of the right numbers scores 1 if it is close to the target.

    Unlike random errors, this systematic flaw can be exploited by a policy.
    """

    def __init__(self, tolerance: int) -> None:
        self._tolerance = tolerance

    def scores(self, prompt: Prompt, responses: Sequence[str], verdicts: Sequence[Verdict]) -> list[float | None]:
        """See :class:`Scorer`."""
        return [self._score(prompt, response) for response in responses]

    def _score(self, prompt: Prompt, response: str) -> float:
        try:
            value, used = evaluate(response)
        except ExpressionError:
            return 0.0
        if value is None or used != tuple(sorted(prompt.reference["numbers"])):
            return 0.0
        return 1.0 if abs(value - prompt.reference["target"]) <= self._tolerance else 0.0


def make_scorer(task: TaskSettings, load_logits: LoadLogits = TransformersLogits.load) -> Scorer:
    """The scorer that ``task.scorer`` selects; models are loaded when it is prepared or first used.

    Args:
        task: The task's settings.
        load_logits: Loads the network of a learned verifier.

    Raises:
        ValueError: It does not fit the task, or ``task.scorer.path`` contains no trained verifier.
    """
    settings: ScorerSettings = task.scorer
    if settings.kind == "learned":
        if settings.path is None:
            raise ValueError(
                "task.scorer.kind = learned needs task.scorer.path, which is not set; give the directory that "
                "`bonrl train-verifier` wrote"
            )
        try:
            return LearnedScorer(Path(settings.path), settings.batch_tokens, load_logits)
        except ValueError as error:
            raise ValueError(f"task.scorer.path: {error}") from error
    if is_code(settings.kind) or settings.kind in USER_SCORERS:
        from verifiers.rewards.task import UserScorer, grades_of

        return UserScorer(grades_of("scorer", task))
    if settings.kind == "majority":
        return MajorityScorer()
    if settings.kind == "synthetic":
        return SyntheticScorer(settings.false_positive, settings.false_negative, settings.seed)
    if settings.kind == "lenient":
        if task.name != "countdown":
            raise ValueError(
                f"task.scorer.kind = lenient works with task.name = countdown only (is {task.name}); choose "
                "another kind"
            )
        return LenientScorer(settings.tolerance)
    return VerdictScorer()
