"""Tasks graded by a user's code: a reward for the prompts of another task, or a task of the user."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

from verifiers.rewards.process import CallLost, LoadError, UserProcess
from verifiers.rewards.program import Job
from verifiers.rewards.response import Response
from verifiers.rewards.results import from_json
from verifiers.settings import TaskSettings, is_address
from verifiers.task import Prompt, Task
from verifiers.user_code import loaded_plugins, shortened
from verifiers.verdict import Status, Verdict


class Grades(Protocol):
    """Grades all different answers to one prompt."""

    def start(self) -> str:
        """Load what is needed; returns one line for the log. Raises RuntimeError if that fails."""
        ...

    def grade(self, prompt: Prompt, responses: Sequence[Response]) -> list[Verdict]:
        """One verdict for each response; a failure is a verdict of status ``verifier_error``."""
        ...

    def close(self) -> None:
        """Release all resources."""
        ...


class UserGrades:
    """Grades with a user's code in a separate process. A call that raised or lost its process is retried once."""

    def __init__(self, job: Job, key: str, load_s: float) -> None:
        self.process = UserProcess(job, key, load_s)
        self._key = key

    def start(self) -> str:
        """See `Grades`."""
        try:
            return f"{self._key}: {self.process.start()}"
        except (CallLost, LoadError) as error:
            raise RuntimeError(f"{self._key}: {error}") from error

    def grade(self, prompt: Prompt, responses: Sequence[Response]) -> list[Verdict]:
        """See `Grades`."""
        verdicts, retry = self._once(prompt, responses)
        failed = [i for i, verdict in enumerate(verdicts) if verdict.status is Status.VERIFIER_ERROR]
        if failed and retry:
            again, _ = self._once(prompt, responses if self.process.batch else [responses[i] for i in failed])
            for i, verdict in enumerate(again) if self.process.batch else zip(failed, again, strict=True):
                verdicts[i] = verdict
        return verdicts

    def close(self) -> None:
        """See `Grades`."""
        self.process.close()

    def _once(self, prompt: Prompt, responses: Sequence[Response]) -> tuple[list[Verdict], bool]:
        """The verdicts, and whether a retry may help."""
        started = time.perf_counter()
        try:
            results = self.process.grade(prompt, responses)
        except (CallLost, LoadError) as error:
            seconds = (time.perf_counter() - started) / len(responses)
            failed = Verdict.failed(f"{self._key}: {error}", seconds=seconds)
            return [failed] * len(responses), not getattr(error, "late", False)
        return [self._verdict(result) for result in results], not any(result.get("late") for result in results)

    def _verdict(self, result: dict[str, Any]) -> Verdict:
        if "error" in result:
            return Verdict.failed(shortened(f"{self._key}: {result['error']}"))
        return from_json(result)


class RewardedTask:
    """The prompts of a task, graded by the reward of a user instead of the task's own verifier.

    Args:
        task: Gives the prompts, and everything else that it has.
        grades: Grades the answers.
    """

    def __init__(self, task: Task, grades: Grades) -> None:
        self._task = task
        self.grades = grades
        self.name = task.name

    def prompts(self, split: str) -> Sequence[Prompt]:
        """The prompts of the task."""
        return self._task.prompts(split)

    def prepare(self) -> str:
        """Load the user's code. Raises RuntimeError if it cannot be loaded."""
        return self.grades.start()

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        """Grade one answer that no model sampled."""
        return self.verify_all(prompt, [Response.unsampled(response)])[0]

    def verify_all(self, prompt: Prompt, responses: Sequence[Response]) -> list[Verdict]:
        """Grade all answers to a prompt."""
        return self.grades.grade(prompt, responses)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._task, name)


class UserScorer:
    """A `Scorer` of the user: the rewards that its function gives are the scores."""

    def __init__(self, grades: Grades) -> None:
        self.grades = grades

    def prepare(self) -> str:
        """Load the user's code. Raises RuntimeError if it cannot be loaded."""
        return self.grades.start()

    def scores(self, prompt: Prompt, responses: Sequence[str], verdicts: Sequence[Verdict]) -> list[float | None]:
        """See `Scorer`; for responses that no model sampled."""
        return self.scores_of(prompt, [Response.unsampled(response) for response in responses])

    def scores_of(self, prompt: Prompt, responses: Sequence[Response]) -> list[float | None]:
        """One score for each response. Equal responses are scored once.

        Raises:
            ScorerError: It failed on one of them.
        """
        different = list(dict.fromkeys(responses))
        graded = dict(zip(different, self.grades.grade(prompt, different), strict=True))
        failed = next((verdict for verdict in graded.values() if verdict.reward is None), None)
        if failed is not None:
            raise ScorerError(failed.detail)
        return [graded[response].reward for response in responses]


def verdict_of(task: Task, prompt: Prompt, response: Response) -> Verdict:
    """The verdict of a task on one response. Only user code reads more than its text."""
    if isinstance(task, RewardedTask):
        return task.verify_all(prompt, [response])[0]
    return task.verify(prompt, response.text)


class ScorerError(RuntimeError):
    """A scorer of the user failed; the message says where."""


KEYS = {"reward": "task.reward", "task": "task.name", "scorer": "task.scorer.kind"}


def grades_of(kind: str, settings: TaskSettings) -> Grades:
    """The grader of a reward, a task or a scorer of the user; nothing is started yet."""
    if kind == "reward" and settings.reward is not None and is_address(settings.reward):
        from verifiers.rewards.http import HttpGrades

        return HttpGrades(settings)
    job = Job(kind, settings, tuple(loaded_plugins), settings.reward_timeout_s)
    return UserGrades(job, KEYS[kind], settings.reward_load_s)
