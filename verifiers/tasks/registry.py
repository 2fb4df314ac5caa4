"""The registry of tasks by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

from verifiers.settings import TaskSettings, is_code
from verifiers.task import Task

T = TypeVar("T")


def _built_in(place: str, settings: TaskSettings) -> Task:
    module, _, name = place.partition(":")
    task: Callable[[TaskSettings], Task] = getattr(import_module(f"verifiers.tasks.{module}"), name)
    return task(settings)


# A module is imported when its task is made, so that a task's dependencies load only in runs that use it.
TASKS: dict[str, Callable[[TaskSettings], Task]] = {
    name: partial(_built_in, place)
    for name, place in {
        "countdown": "countdown:Countdown",
        "gsm8k": "gsm8k:Gsm8k",
        "humaneval": "humaneval:HumanEval",
        "jsonl": "jsonl:Jsonl",
        "math": "math_tasks:Math",
        "math500": "math_tasks:Math500",
        "mbpp": "mbpp:Mbpp",
    }.items()
}
USER_TASKS: dict[str, type[Any]] = {}
"""Classes that plugins register."""


def register_task(name: str) -> Callable[[type[T]], type[T]]:
    """Register a class as the task `name`: ``prompts(split)`` and ``verify(prompt, response)``; see ``Task``."""

    def register(cls: type[T]) -> type[T]:
        TASKS[name] = lambda settings: user_task(settings, cls)
        USER_TASKS[name] = cls
        return cls

    return register


def make_task(settings: TaskSettings) -> Task:
    """The task with the name ``settings.name``, graded by ``settings.reward`` if that is set.

    Raises:
        ValueError: Unknown task or unusable settings (the message names the key and the remedy).
    """
    if settings.name in TASKS:
        task = TASKS[settings.name](settings)
    elif is_code(settings.name):
        task = user_task(settings)
    else:
        raise ValueError(f"task.name is {settings.name!r}; choose one of {', '.join(sorted(TASKS))}")
    return task if settings.reward is None else rewarded(task, settings)


def user_task(settings: TaskSettings, cls: type[Any] | None = None) -> Task:
    """A task of the user; `cls` is the registered class."""
    from verifiers.rewards.task import RewardedTask, grades_of
    from verifiers.tasks.user_task import UserTask

    return RewardedTask(UserTask(settings, cls), grades_of("task", settings))


def rewarded(task: Task, settings: TaskSettings) -> Task:
    """The task with the reward of the user instead of its own verifier."""
    from verifiers.rewards.task import RewardedTask, grades_of

    return RewardedTask(task, grades_of("reward", settings))
