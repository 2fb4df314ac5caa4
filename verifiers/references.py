"""Whether a task's references can be matched at all: each, given as the answer, must be judged correct."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from verifiers.task import Prompt, Task

MAX_CHECKED = 500
"""Of a larger set so many are checked, spread evenly over it."""

MAX_SECONDS = 10.0
"""The check ends after so long, with what it has found until then."""


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
    step = max(1, -(-len(prompts) // MAX_CHECKED))
    chosen = [prompt for prompt in prompts[::step] if isinstance(prompt.reference.get("answer"), str)]
    failures: list[ReferenceFailure] = []
    started, checked = time.monotonic(), 0
    for prompt in chosen:
        if time.monotonic() - started > MAX_SECONDS:
            break
        checked += 1
        answer = prompt.reference["answer"]
        # A whole solution as reference boxes or announces its answer itself.
        verdicts = (task.verify(prompt, response) for response in (f"\\boxed{{{answer}}}", answer))
        refused = [verdict for verdict in verdicts if verdict.reward != 1.0]
        if len(refused) == 2:
            reason = refused[-1].detail or refused[-1].status.value
            failures.append(ReferenceFailure(prompt.id, answer, reason))
    return ReferenceReport(checked, tuple(failures))
