"""The demonstrations of a task: whether its verifier judges them right, and their order for imitation."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from verifiers.rewards.response import Response
from verifiers.rewards.task import verdict_of
from verifiers.task import Prompt, Task
from verifiers.tasks.references import SPREAD
from verifiers.verdict import Status

MAX_SECONDS = 5.0
"""A sample is checked for this long; it covers the whole set, as in ``check_references``."""

T = TypeVar("T")


_MAX_TEXT = 600  # characters of a reason; it may name long paths


@dataclass(frozen=True, slots=True)
class DemonstrationReport:
    """Demonstrations that the verifier was asked about, those that it does not judge right, and those on which it
    failed, with the reasons."""

    checked: int
    wrong: dict[str, str]
    failed: dict[str, str] = field(default_factory=dict)

    def message(self) -> str:
        """One sentence for the user."""
        share = f"{len(self.wrong) / max(self.checked, 1):.1%}"
        text = f"the verifier judges {len(self.wrong):,} of {self.checked:,} checked demonstrations wrong ({share})"
        if self.wrong:
            text += f"; the first is {_first(self.wrong)}"
        if self.failed:
            text += f"; it failed on {len(self.failed):,}, which are kept; the first is {_first(self.failed)}"
        return text


def _first(reasons: dict[str, str]) -> str:
    identity, reason = next(iter(reasons.items()))
    line = reason.partition("\n")[0]  # user code adds its traceback below
    return f"{identity} ({line[:_MAX_TEXT]})"


def check_demonstrations(
    task: Task, prompts: Sequence[Prompt], tokens: Sequence[int], *, every: bool
) -> DemonstrationReport:
    """Grade demonstrations as answers to their problems.

    Args:
        task: The task with the verifier.
        prompts: Problems with demonstrations.
        tokens: The number of tokens of each demonstration, with the end token.
        every: Whether all of them are graded, however long that takes; else a sample, for a few seconds.
    """
    wrong: dict[str, str] = {}
    failed: dict[str, str] = {}
    started, checked = time.monotonic(), 0
    order = range(len(prompts)) if every else [p for start in range(SPREAD) for p in range(start, len(prompts), SPREAD)]
    for position in order:
        prompt = prompts[position]
        if not every and time.monotonic() - started > MAX_SECONDS:
            break
        if prompt.demonstration is None:
            continue
        checked += 1
        verdict = verdict_of(task, prompt, Response(prompt.demonstration, tokens[position]))
        if verdict.status is not Status.CORRECT:
            reasons = failed if verdict.status is Status.VERIFIER_ERROR else wrong
            reasons[prompt.id] = " ".join((verdict.detail or verdict.status.value).split())
    return DemonstrationReport(checked, wrong, failed)


def in_epochs(examples: Sequence[T], seed: int) -> Iterator[T]:
    """The examples again and again, each time in another order."""
    rng = random.Random(f"demonstrations/{seed}")
    order = list(range(len(examples)))
    while order:
        rng.shuffle(order)
        for position in order:
            yield examples[position]
