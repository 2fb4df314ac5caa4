"""Checks that the grader accepts each reference of a task as the answer to its own problem."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from verifiers.task import Prompt, Task

MAX_SECONDS = 5.0
"""The check stops after this time and reports what it has found."""

SPREAD = 24
"""Every 24th reference is checked first, then the next ones, so that an early stop still covers the whole set."""


@dataclass(frozen=True, slots=True)
class ReferenceFailure:
    """A reference that the grader does not accept for itself."""

    prompt_id: str
    reference: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReferenceReport:
    """Result of the check; ``checked`` is 0 for tasks whose reference is not an answer (programs, Countdown)."""

    checked: int
    failures: tuple[ReferenceFailure, ...] = ()

    @property
    def none_passes(self) -> bool:
        """Whether every checked reference failed, so that no answer could earn a reward."""
        return self.checked > 0 and len(self.failures) == self.checked

    def message(self) -> str:
        """One line with the number of failures and the first of them; empty if all pass."""
        if not self.failures:
            return ""
        first = self.failures[0]
        reference = first.reference if len(first.reference) <= 80 else first.reference[:77] + "..."
        return (
            f"{len(self.failures)} of {self.checked} checked references are not judged equal to themselves "
            f"({len(self.failures) / self.checked:.1%}), so no answer to these problems earns a reward; the first is "
            f"{first.prompt_id}: {reference!r} ({first.reason})"
        )


def check_references(task: Task, prompts: Sequence[Prompt]) -> ReferenceReport:
    r"""Grade each reference as an answer to itself, in ``\boxed{...}`` or unchanged.

    Args:
        task: The task with the verifier.
        prompts: Its problems. References without a text field ``answer`` are skipped. Of several acceptable answers one
            must be judged right.
    """
    judged: dict[str, str] = {}  # by reference: the reason of the failure, or empty
    failures: list[tuple[int, ReferenceFailure]] = []
    started, checked = time.monotonic(), 0
    order = [position for offset in range(SPREAD) for position in range(offset, len(prompts), SPREAD)]
    for position in order:
        prompt = prompts[position]
        answer = prompt.reference.get("answer")
        answers: list[Any] = answer if isinstance(answer, list) else [answer]
        if not answers or not all(isinstance(one, str) for one in answers):
            continue
        if time.monotonic() - started > MAX_SECONDS:
            break
        checked += 1
        for one in answers:
            if one not in judged:
                judged[one] = _problem(task, prompt, one)
        if all(judged[one] for one in answers):
            failures.append((position, ReferenceFailure(prompt.id, answers[0], judged[answers[0]])))
    failures.sort(key=lambda failure: failure[0])
    return ReferenceReport(checked, tuple(failure for _, failure in failures))


def _problem(task: Task, prompt: Prompt, answer: str) -> str:
    """The reason why a reference is not accepted for itself; empty if it is."""
    verdict = task.verify(prompt, f"\\boxed{{{answer}}}")
    if verdict.reward != 1.0:
        # A reference that is a whole solution boxes or announces its answer itself.
        verdict = task.verify(prompt, answer)
    return "" if verdict.reward == 1.0 else verdict.detail or verdict.status.value
