"""`Verdict`: the result type of every verifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Status(StrEnum):
    """The outcome of grading one answer.

    ``timeout`` and ``crash`` are caused by the *answer's own program*: they are wrong answers with reward 0.
    ``verifier_error`` is a failure of the verifier: it has no reward, so it does not count as a wrong answer.
    """

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSABLE = "unparsable"
    TIMEOUT = "timeout"
    CRASH = "crash"
    VERIFIER_ERROR = "verifier_error"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The grade of one answer.

    Attributes:
        status: The outcome.
        reward: What training maximizes (R). None exactly if the status is ``verifier_error``.
        score: What the deployed verifier ranks by (r). May differ from the reward.
        answer: The extracted answer in canonical form, as counted by majority votes; None if there is none.
        seconds: Wall time of the verification.
        detail: The reason, for people; never parsed.
        weak: The answer's own program could have forged this verdict (see docs/sandbox.md).
        parts: The named parts that the reward consists of, before they are weighted; empty if it has none.
    """

    status: Status
    reward: float | None
    score: float | None
    answer: str | None = None
    seconds: float = 0.0
    detail: str = ""
    weak: bool = False
    parts: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if (self.reward is None) != (self.status == Status.VERIFIER_ERROR):  # users write it as text
            raise ValueError(
                f"a verdict of status '{self.status}' has reward {self.reward!r}: the reward must be None if and "
                "only if the verifier failed (status 'verifier_error')"
            )

    @classmethod
    def binary(cls, status: Status, *, answer: str | None = None, seconds: float = 0.0, detail: str = "") -> Verdict:
        """A verdict whose reward and score are both 1.0 if ``status`` is correct, else 0.0."""
        value = 1.0 if status is Status.CORRECT else 0.0
        return cls(status, reward=value, score=value, answer=answer, seconds=seconds, detail=detail)

    @classmethod
    def failed(cls, detail: str, *, seconds: float = 0.0) -> Verdict:
        """The verdict if the verifier itself failed: no reward, no score."""
        return cls(Status.VERIFIER_ERROR, reward=None, score=None, seconds=seconds, detail=detail)
