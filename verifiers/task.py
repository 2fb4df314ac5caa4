"""The task protocol: prompts in splits and a verifier for the answers. The tasks are in `verifiers.tasks`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from verifiers.verdict import Verdict

SPLITS = ("train", "validation", "test")
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One problem.

    Attributes:
        id: Unique within the task and stable from run to run.
        text: The problem; in a conversation, the last message of the user.
        reference: Data for the verifier; plain JSON types only, because it is logged.
        level: Difficulty or subject; evaluations can be broken down by it.
        demonstration: An expert's response for imitation; None outside the train split or if there is none.
        row: All columns of the problem's row in its file, as they were read; kept only for ``task.reward``.
        history: The messages of the conversation before `text`, as (role, content), each role one of ``ROLES``; only
            ``task.template: chat`` can render them.
    """

    id: str
    text: str
    reference: dict[str, Any] = field(default_factory=dict)
    level: str = "all"
    demonstration: str | None = None
    row: dict[str, Any] | None = field(default=None, repr=False)
    history: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation, with `text` as its last message."""
        return [{"role": role, "content": content} for role, content in (*self.history, ("user", self.text))]

    @property
    def transcript(self) -> str:
        """The whole conversation as one text; `text` itself if it is the only message."""
        if not self.history:
            return self.text
        return "\n\n".join(f"{message['role']}: {message['content']}" for message in self.messages)

    @property
    def columns(self) -> dict[str, Any]:
        """What a user's reward can read by name: the row, or the reference if the task has no rows."""
        return self.reference if self.row is None else self.row


class Task(Protocol):
    """Prompts in splits and a verifier. An instance is cheap to create; splits are read on demand."""

    name: str

    def prompts(self, split: str) -> Sequence[Prompt]:
        """The prompts of ``train``, ``validation`` or ``test``, always in the same order.

        Raises:
            ValueError: Unknown split, or the source of the problems is missing or invalid.
        """
        ...

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        """Grade one response. Hostile responses are wrong answers and never make this raise or hang."""
        ...


@runtime_checkable
class Prepared(Protocol):
    """A task or scorer with something to start (a sandbox, a model) before the first answer."""

    def prepare(self) -> str:
        """Start it and return one line for the log. Raises RuntimeError if this machine does not allow it."""
        ...


def check_split(split: str) -> None:
    """Raise ValueError unless ``split`` names one of the three splits."""
    if split not in SPLITS:
        raise ValueError(f"no split named {split!r}; choose one of {', '.join(SPLITS)}")
