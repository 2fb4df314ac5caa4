"""Tasks and graders. Imports no Ray, so every grader runs in a plain Python process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from verifiers.sandbox.grading import run_python
from verifiers.sandbox.limits import Limits
from verifiers.settings import TaskSettings
from verifiers.task import SPLITS, Prompt, Task
from verifiers.tasks.registry import make_task
from verifiers.tasks.settings import DifficultyMix
from verifiers.text.rendering import PromptFormat, PromptRenderer, render
from verifiers.verdict import Status, Verdict

if TYPE_CHECKING:
    from verifiers.mathematics.grader import grade_math

__all__ = [
    "SPLITS",
    "DifficultyMix",
    "Limits",
    "Prompt",
    "PromptFormat",
    "PromptRenderer",
    "Status",
    "Task",
    "TaskSettings",
    "Verdict",
    "grade_math",
    "make_task",
    "render",
    "run_python",
]


def __getattr__(name: str) -> Any:
    """Imports the math grader on first access, so that importing this package stays cheap."""
    if name == "grade_math":
        from verifiers.mathematics.grader import grade_math

        return grade_math
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
