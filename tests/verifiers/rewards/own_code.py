"""Code of a user, good and bad, and what grades with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from verifiers.rewards.program import Grader, Job
from verifiers.rewards.response import Response
from verifiers.rewards.task import RewardedTask
from verifiers.settings import TaskSettings
from verifiers.task import Prompt
from verifiers.tasks.registry import make_task
from verifiers.verdict import Verdict

SOURCE = """
import asyncio, os, sys, time

def right(prompt, response, reference, **row):
    return response == reference

def seventh(response):
    if response == "7":
        raise ValueError("seven is bad")     # line 9
    return 1.0

def hang(response):
    while response == "hang":
        pass                                  # line 14
    return 1.0

def leave(response):
    sys.exit(3)                               # line 18

def die(response):
    if response == "die":
        os._exit(4)
    return 1.0

def flood(response):
    for _ in range(20000):
        print("x" * 100)
    return 1.0

def nan(response):
    return float("nan")

def text(response):
    return "good"

def short(responses):
    return [1.0]

def raising_batch(responses):
    raise KeyError("batch")                   # line 40

async def concurrent(response):
    await asyncio.sleep(0.3)
    return response == "4"

async def stuck(response):
    await asyncio.sleep(60)                   # line 47

async def caught(response):
    try:
        await asyncio.sleep(60)
    except BaseException:
        return 0.0

async def caught_batch(responses):
    return [await caught(response) for response in responses]

async def quits_in_a_task(response):
    if response == "quit":
        await asyncio.create_task(quit_now())
    return 1.0

async def quit_now():
    sys.exit(5)

def leaves_a_process(response):
    os.system("sleep 300 &")
    os._exit(4)

def parts(response):
    return {"correct": response == "4", "format": 0.5}

class Judge:
    def __init__(self):
        self.calls = 0
    def __call__(self, response):
        self.calls += 1
        return self.calls

def orphan(response):
    import subprocess
    subprocess.Popen(["sleep", "300"])
    while True:
        time.sleep(0.1)

def online(response):
    return {"offline": int(os.environ.get("HF_HUB_OFFLINE", "-1")), "own": int(os.environ["OWN"])}

def overlong(response_tokens, truncated, response):
    return -1.0 if truncated else -response_tokens / 10

def batch_overlong(responses, response_tokens, finish_reason):
    return [n / 10 if reason == "stop" else -1.0 for n, reason in zip(response_tokens, finish_reason)]

class Instructed:
    name = "mine"
    def __init__(self, settings):
        self.end = settings.instruction
    def prompts(self, split):
        from verifiers import Prompt
        return [Prompt("p", f"Count. {self.end}")]
    def verify(self, prompt, response):
        return True

class AnyOrder:
    def verify(self, response, prompt):
        return response == prompt.reference["answer"]
    def prompts(self, split):
        return []

class Wrong:
    def __init__(self, **fields):
        self.fields = fields
    def prompts(self, split):
        from verifiers import Prompt
        return [Prompt(**{"id": "p", "text": "t", **self.fields})]
    def verify(self, prompt, response):
        return True

class WithHistory:
    name = "mine"
    def __init__(self, message):
        self.message = message
    def prompts(self, split):
        from verifiers import Prompt
        return [Prompt("p", "Go on.", history=[self.message])]
    def verify(self, prompt, response):
        return True

class MineByLength:
    def verify(self, prompt, response, response_tokens):
        return float(response_tokens)
    def prompts(self, split):
        return []

class Mine:
    name = "mine"
    def __init__(self, words=1):
        self.words = words
    def prompts(self, split):
        from verifiers import Prompt
        return [Prompt(f"{split}-{i}", "say " * self.words, {"answer": "4"}) for i in range(3)]
    def verify(self, prompt, response):
        return response == prompt.reference["answer"]
"""
PROMPT = Prompt("p1", "2 + 2 = ", {"answer": "4"}, row={"answer": "4"})


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("code") / "bad_rewards.py"
    file.write_text(SOURCE)
    return file


def unsampled(*texts: str) -> list[Response]:
    return [Response.unsampled(text) for text in texts]


class Graded:
    """Grades with one function of the file, and closes its process."""

    def __init__(self, code: Path) -> None:
        self._code = code
        self._tasks: list[RewardedTask] = []

    def __call__(self, name: str, *responses: str, timeout_s: float = 20.0, **keys: object) -> list[Verdict]:
        self.task(name, timeout_s=timeout_s, **keys)
        return self._tasks[-1].verify_all(PROMPT, unsampled(*responses))

    def task(self, name: str, **keys: object) -> RewardedTask:
        keys = {"reward_timeout_s": keys.pop("timeout_s", 20.0), **keys}
        settings = TaskSettings.model_validate({"reward": f"{self._code}:{name}", **keys})
        task = make_task(settings)
        assert isinstance(task, RewardedTask)
        self._tasks.append(task)
        return task

    def close(self) -> None:
        for task in self._tasks:
            task.grades.close()


@pytest.fixture
def graded(code: Path) -> Iterator[Graded]:
    tool = Graded(code)
    yield tool
    tool.close()


def called(code: Path, name: str, *responses: str, kind: str = "reward") -> list[dict[str, Any]]:
    """What the function gives in this process, with a deadline of half a second."""
    key = "reward" if kind == "reward" else "name"
    settings = TaskSettings.model_validate({key: f"{code}:{name}"})
    return list(Grader(Job(kind, settings, (), 0.5)).grade(PROMPT, unsampled(*responses)))
