"""What a task is: prompts in splits, and a verifier for their answers. `verifiers.tasks` holds the tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from verifiers.verdict import Verdict

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One problem.

    Attributes:
        id: Unique within the task and stable from run to run.
        text: What the model is asked.
        reference: What the verifier needs to judge an answer; plain JSON types only, because it is logged.
        level: Difficulty or subject, by which evaluations may be broken down.
        demonstration: An expert's response, for imitation; None outside of the train split or where there is none.
    """

    id: str
    text: str
    reference: dict[str, Any]
    level: str
    demonstration: str | None = None


class Task(Protocol):
    """Prompts with splits, and a verifier. An instance is cheap to make, and makes its splits when asked."""

    name: str

    def prompts(self, split: str) -> Sequence[Prompt]:
        """The prompts of ``train``, ``validation`` or ``test``, always in the same order.

        Raises:
            ValueError: No such split, or the source of the problems is missing or broken.
        """
        ...

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        """Judge one response. Hostile responses are wrong answers: none makes this raise or hang."""
        ...


@runtime_checkable
class Prepared(Protocol):
    """A task or scorer that has something to start, a sandbox or a network; else it starts with the first answer."""

    def prepare(self) -> str:
        """Start it, and return one line for the log. Raises RuntimeError where this machine does not allow it."""
        ...


def check_split(split: str) -> None:
    """Raise ValueError unless ``split`` names one of the three splits."""
    if split not in SPLITS:
        raise ValueError(f"no split named {split!r}; choose one of {', '.join(SPLITS)}")
