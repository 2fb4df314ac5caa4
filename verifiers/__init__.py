"""Tasks and graders: no Ray here, so every grader runs and is tested in a plain Python process."""

from verifiers.sandbox.grading import run_python
from verifiers.sandbox.limits import Limits
from verifiers.settings import DifficultyMix, TaskSettings
from verifiers.task import SPLITS, Prompt, Task, make_task, render
from verifiers.verdict import Status, Verdict

__all__ = [
    "SPLITS",
    "DifficultyMix",
    "Limits",
    "Prompt",
    "Status",
    "Task",
    "TaskSettings",
    "Verdict",
    "make_task",
    "render",
    "run_python",
]
