"""The public API of bonrl: train and evaluate from Python, read and compare runs, and add your own parts.

Importing it is cheap: what a name needs is imported when it is first used. Names that are not listed here, and the
packages actors, cluster, learner and verifiers, may change in any release; this module follows semantic versioning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bonrl.runs import RunFailed, TrainedRun, evaluate, train
    from cluster.errors import UsageError
    from cluster.results import compare, load_run
    from learner.estimators import estimator, group_estimator
    from learner.estimators import group_advantages as advantages
    from learner.strategies import AnswerGroups, array_strategy, count_strategy, strategy_value
    from learner.strategies import subset_strategy as strategy
    from verifiers.learned.classifier import load_verifier
    from verifiers.mathematics.grader import grade_math
    from verifiers.sandbox.grading import run_python
    from verifiers.sandbox.limits import Limits
    from verifiers.scorers import register_scorer as scorer
    from verifiers.task import Prompt, Task
    from verifiers.tasks.registry import register_task as task
    from verifiers.verdict import Status, Verdict

    __version__: str

_HOMES = {
    "AnswerGroups": ("learner.strategies", "AnswerGroups"),
    "Limits": ("verifiers.sandbox.limits", "Limits"),
    "Prompt": ("verifiers.task", "Prompt"),
    "RunFailed": ("bonrl.runs", "RunFailed"),
    "Status": ("verifiers.verdict", "Status"),
    "Task": ("verifiers.task", "Task"),
    "TrainedRun": ("bonrl.runs", "TrainedRun"),
    "UsageError": ("cluster.errors", "UsageError"),
    "Verdict": ("verifiers.verdict", "Verdict"),
    "advantages": ("learner.estimators", "group_advantages"),
    "array_strategy": ("learner.strategies", "array_strategy"),
    "compare": ("cluster.results", "compare"),
    "count_strategy": ("learner.strategies", "count_strategy"),
    "estimator": ("learner.estimators", "estimator"),
    "evaluate": ("bonrl.runs", "evaluate"),
    "grade_math": ("verifiers.mathematics.grader", "grade_math"),
    "group_estimator": ("learner.estimators", "group_estimator"),
    "load_run": ("cluster.results", "load_run"),
    "load_verifier": ("verifiers.learned.classifier", "load_verifier"),
    "run_python": ("verifiers.sandbox.grading", "run_python"),
    "scorer": ("verifiers.scorers", "register_scorer"),
    "strategy": ("learner.strategies", "subset_strategy"),
    "strategy_value": ("learner.strategies", "strategy_value"),
    "task": ("verifiers.tasks.registry", "register_task"),
    "train": ("bonrl.runs", "train"),
}

__all__ = [
    "AnswerGroups",
    "Limits",
    "Prompt",
    "RunFailed",
    "Status",
    "Task",
    "TrainedRun",
    "UsageError",
    "Verdict",
    "__version__",
    "advantages",
    "array_strategy",
    "compare",
    "count_strategy",
    "estimator",
    "evaluate",
    "grade_math",
    "group_estimator",
    "load_run",
    "load_verifier",
    "run_python",
    "scorer",
    "strategy",
    "strategy_value",
    "task",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used."""
    if name == "__version__":
        from importlib import metadata

        value: Any = metadata.version("bonrl")
    elif name in _HOMES:
        module, attribute = _HOMES[name]
        value = getattr(importlib.import_module(module), attribute)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
