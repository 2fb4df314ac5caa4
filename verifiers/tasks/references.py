"""Whether a task's references can be matched at all: each, given as the answer, must be judged correct."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from verifiers.task import Prompt, Task

MAX_SECONDS = 5.0
"""The check ends after so long, with what it has found until then."""

SPREAD = 24
"""Every 24th reference is checked first, then their neighbours, so that what time allows is spread over the set."""


@dataclass(frozen=True, slots=True)
class ReferenceFailure:
    """A reference that is not judged equal to itself."""

    prompt_id: str
    reference: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReferenceReport:
    """What the check found; ``checked`` is 0 for tasks whose reference is no answer (programs, Countdown)."""

    checked: int
    failures: tuple[ReferenceFailure, ...] = ()

    @property
    def none_passes(self) -> bool:
        """Whether no answer to any checked problem could earn a reward."""
        return self.checked > 0 and len(self.failures) == self.checked

    def message(self) -> str:
        """One line: how many references the verifier cannot match, and the first of them; empty where all pass."""
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
    r"""Judge each reference answer against itself, written as ``\boxed{...}`` or as it is.

    Args:
        task: The task whose verifier judges.
        prompts: Its problems. A reference without the text field ``answer`` is not checked.
    """
    judged: dict[str, str] = {}  # by reference, why it is not judged equal to itself; empty where it is
    failures: list[tuple[int, ReferenceFailure]] = []
    started, checked = time.monotonic(), 0
    order = [position for offset in range(SPREAD) for position in range(offset, len(prompts), SPREAD)]
    for position in order:
        prompt = prompts[position]
        answer = prompt.reference.get("answer")
        if not isinstance(answer, str):
            continue
        if time.monotonic() - started > MAX_SECONDS:
            break
        checked += 1
        if answer not in judged:
            judged[answer] = _problem(task, prompt, answer)
        if judged[answer]:
            failures.append((position, ReferenceFailure(prompt.id, answer, judged[answer])))
    failures.sort(key=lambda failure: failure[0])
    return ReferenceReport(checked, tuple(failure for _, failure in failures))


def _problem(task: Task, prompt: Prompt, answer: str) -> str:
    """Why a reference is not judged equal to itself; empty where it is."""
    verdict = task.verify(prompt, f"\\boxed{{{answer}}}")
    if verdict.reward != 1.0:
        # A whole solution as reference boxes or announces its answer itself.
        verdict = task.verify(prompt, answer)
    return "" if verdict.reward == 1.0 else verdict.detail or verdict.status.value
