"""The registry of tasks by name."""

from __future__ import annotations

from collections.abc import Callable

from verifiers.settings import TaskSettings
from verifiers.task import Task


def _countdown(settings: TaskSettings) -> Task:
    from verifiers.tasks.countdown import Countdown

    return Countdown(settings)


def _gsm8k(settings: TaskSettings) -> Task:
    from verifiers.tasks.gsm8k import Gsm8k

    return Gsm8k(settings)


def _humaneval(settings: TaskSettings) -> Task:
    from verifiers.tasks.humaneval import HumanEval

    return HumanEval(settings)


def _mbpp(settings: TaskSettings) -> Task:
    from verifiers.tasks.mbpp import Mbpp

    return Mbpp(settings)


def _math(settings: TaskSettings) -> Task:
    from verifiers.tasks.math_tasks import Math

    return Math(settings)


def _math500(settings: TaskSettings) -> Task:
    from verifiers.tasks.math_tasks import Math500

    return Math500(settings)


def _jsonl(settings: TaskSettings) -> Task:
    from verifiers.tasks.math_tasks import Jsonl

    return Jsonl(settings)


# Each function imports its module, so that a task's dependencies load only in runs that use it.
TASKS: dict[str, Callable[[TaskSettings], Task]] = {
    "countdown": _countdown,
    "gsm8k": _gsm8k,
    "humaneval": _humaneval,
    "jsonl": _jsonl,
    "math": _math,
    "math500": _math500,
    "mbpp": _mbpp,
}


def make_task(settings: TaskSettings) -> Task:
    """The task with the name ``settings.name``.

    Raises:
        ValueError: Unknown task or unusable settings (the message names the key and the remedy).
    """
    if settings.name not in TASKS:
        raise ValueError(f"task.name is {settings.name!r}; choose one of {', '.join(sorted(TASKS))}")
    return TASKS[settings.name](settings)
