"""`bonrl grade --verifier my_rewards.py:score`: a file of answers, graded by a reward of the user.

A row is bound to the function's parameters as a prompt's row is in training, and the code runs in processes of its own.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Any

from cluster.commands.grading import Fields, Grader, Kind, field
from cluster.config import apply_override, build_config
from cluster.errors import UsageError
from verifiers.rewards.response import Response
from verifiers.rewards.task import Grades, grades_of
from verifiers.settings import TaskSettings
from verifiers.task import Prompt
from verifiers.tasks.fields import lookup
from verifiers.tasks.jsonl import plain_answer, problem_of_conversation
from verifiers.tasks.settings import JsonlSettings
from verifiers.verdict import Verdict

_SETTINGS = re.compile(r"task\.(options|reward_\w+|jsonl\.(problem|answer))\b")  # keys that an override may set
_OTHER_NAMES = {"problem": "prompt", "answer": "reference"}  # of the fields that task.jsonl names by default
_Answer = tuple[Prompt, Response]


def reward_settings(reward: str, overrides: Sequence[str], timeout_s: float | None) -> TaskSettings:
    """The section `task` with a reward of the user.

    Args:
        timeout_s: for one answer; None: ``task.reward_timeout_s``.

    Raises:
        UsageError: an override of another key, or a value that is not valid.
    """
    tree: dict[str, Any] = {"task": {"reward": reward}}
    for override in overrides:
        if not _SETTINGS.match(override):
            raise UsageError(
                f"override {override}: only task.options, task.jsonl.problem, task.jsonl.answer and the settings of "
                "the reward (task.reward_weights, task.reward_timeout_s and so on) apply to grading; leave it out"
            )
        apply_override(tree, override)
    if timeout_s is not None:
        tree["task"]["reward_timeout_s"] = timeout_s
    return build_config(tree).task


@contextlib.contextmanager
def reward_kind(settings: TaskSettings) -> Iterator[Kind]:
    """The reward as a way to grade; its processes end with the block."""
    with contextlib.ExitStack() as started:

        def start(timeout_s: float, parallel: int) -> tuple[Grader, str]:
            graders = [grades_of("reward", settings) for _ in range(parallel)]
            free: SimpleQueue[Grades] = SimpleQueue()
            for grades in graders:
                started.callback(grades.close)
                free.put(grades)
            line = graders[0].start()  # the others start when they are needed

            def grade(answer: _Answer) -> Verdict:
                grades = free.get()  # deadline: there are as many as answers at once
                try:
                    return grades.grade(answer[0], [answer[1]])[0]
                finally:
                    free.put(grades)

            return grade, line

        yield Kind(partial(_check, settings.jsonl), start, in_python=False, tried=True)


def _check(names: JsonlSettings, fields: Fields) -> _Answer:
    """The row as a prompt with its answer."""
    response = Response.unsampled(field(fields, "prediction"))
    first, *more = [names.problem] if isinstance(names.problem, str) else names.problem
    first = _found(fields, first)
    try:
        history, text = problem_of_conversation(*(lookup(fields, name) for name in (first, *more)))
    except ValueError as error:
        raise ValueError(f"the field {first!r} {error} (task.jsonl.problem names the field)") from error
    columns = {column: value for column, value in fields.items() if column != "prediction"}
    answer = None if names.answer is None else plain_answer(lookup(fields, _found(fields, names.answer)))
    return Prompt(str(fields.get("id", "")), text, {"answer": answer}, row=columns, history=history), response


def _found(fields: Fields, name: str) -> str:
    """The name of a field, or the other one that it may have in this row."""
    return _OTHER_NAMES.get(name, name) if lookup(fields, name) is None else name
