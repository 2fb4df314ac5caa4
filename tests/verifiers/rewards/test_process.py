"""Bad user code costs its own call: a verifier error with file and line, never a reward, and the next call works."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from verifiers.rewards import process
from verifiers.rewards.environment import of_actor
from verifiers.rewards.process import _Output
from verifiers.rewards.program import Grader, Job
from verifiers.rewards.response import Response
from verifiers.rewards.task import RewardedTask, UserScorer
from verifiers.scorers import make_scorer
from verifiers.settings import ScorerSettings, TaskSettings
from verifiers.task import Prompt
from verifiers.tasks.registry import make_task
from verifiers.verdict import Status, Verdict

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


@pytest.fixture()
def graded(code: Path):
    tool = Graded(code)
    yield tool
    tool.close()


def test_good_code(graded: Graded) -> None:
    assert [v.reward for v in graded("right", "4", "5")] == [1.0, 0.0]
    assert [v.reward for v in graded("Judge", "a", "b", "c")] == [1.0, 2.0, 3.0], "its state is made once"
    found = graded("parts", "4", "5", reward_weights={"correct": 1.0, "format": 0.1})
    assert [v.reward for v in found] == pytest.approx([1.05, 0.05])
    assert [v.status for v in found] == [Status.CORRECT, Status.WRONG] and found[0].parts["format"] == 0.5


def test_the_calls_of_an_asynchronous_reward_overlap(graded: Graded) -> None:
    task = graded.task("concurrent")
    task.prepare()
    started = time.monotonic()
    assert [v.reward for v in task.verify_all(PROMPT, unsampled("4", *map(str, range(10, 25))))] == [1.0] + [0.0] * 15
    assert time.monotonic() - started < 3.0, "one after the other they take 4.8 s"


@pytest.mark.parametrize(
    ("name", "line", "words"),
    [
        ("leave", 18, "sys.exit(3)"),
        ("nan", 30, "nan"),
        ("text", 33, "str 'good'"),
        ("short", 36, "a list of 1 for 2 responses"),
        ("raising_batch", 40, "KeyError: 'batch'"),
    ],
)
def test_bad_results_name_file_and_line(graded: Graded, name: str, line: int, words: str) -> None:
    for verdict in graded(name, "4", "5"):
        assert verdict.status is Status.VERIFIER_ERROR and verdict.reward is None
        assert f"bad_rewards.py, line {line}" in verdict.detail and words in verdict.detail


def test_an_exception_at_one_sample_costs_that_sample(graded: Graded) -> None:
    verdicts = graded("seventh", *map(str, range(1, 10)))
    assert [v.reward for v in verdicts] == [1.0] * 6 + [None] + [1.0] * 2
    assert "bad_rewards.py, line 9: ValueError: seven is bad" in verdicts[6].detail


def test_a_call_that_hangs_is_killed_where_it_hangs(graded: Graded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.5)
    task = graded.task("hang", timeout_s=0.5)
    task.prepare()
    before = task.grades.process.pid  # type: ignore[attr-defined]
    (verdict,) = task.verify_all(PROMPT, unsampled("hang"))
    assert verdict.status is Status.VERIFIER_ERROR and "task.reward_timeout_s" in verdict.detail
    assert "bad_rewards.py" in verdict.detail and "in hang" in verdict.detail
    assert not Path(f"/proc/{before}").exists()
    assert task.verify_all(PROMPT, unsampled("fine"))[0].reward == 1.0, "the next call has a new process"


def test_an_asynchronous_call_that_hangs_is_cancelled(graded: Graded) -> None:
    (verdict,) = graded("stuck", "4", timeout_s=0.4)
    assert verdict.status is Status.VERIFIER_ERROR
    assert "bad_rewards.py, line 47" in verdict.detail and "task.reward_timeout_s" in verdict.detail


def called(code: Path, name: str, *responses: str, kind: str = "reward") -> list[dict[str, Any]]:
    """What the function gives in this process, with a deadline of half a second."""
    key = "reward" if kind == "reward" else "name"
    settings = TaskSettings.model_validate({key: f"{code}:{name}"})
    return list(Grader(Job(kind, settings, (), 0.5)).grade(PROMPT, unsampled(*responses)))


@pytest.mark.parametrize("name", ["caught", "caught_batch"])
def test_a_deadline_that_the_code_catches_is_no_reward(code: Path, name: str) -> None:
    (result,) = called(code, name, "4")
    assert "no result within 0.5 s (task.reward_timeout_s), and it went on" in result["error"] and result["late"]


def test_sys_exit_in_a_task_of_the_code_is_an_error_of_the_call(code: Path) -> None:
    results = called(code, "quits_in_a_task", "4", "quit")
    assert len(results) == 2 and all("it called sys.exit(5)" in result["error"] for result in results)


def test_verify_takes_its_parameters_in_any_order(code: Path) -> None:
    assert [result["reward"] for result in called(code, "AnyOrder", "4", "5", kind="task")] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"reference": "4"}, "reference is '4'; give a dict, for example {'answer': '4'}"),
        ({"reference": None}, "reference is None; give a dict"),
        ({"level": 3}, "level is 3; give text"),
        ({"demonstration": 4}, "demonstration is 4; give text"),
        ({"text": None}, "text is None; give text"),
        ({"text": "\ud800"}, "text contains half of a surrogate pair"),
        ({"history": None}, "history is None; give a list"),
        ({"row": ["x"]}, "row is ['x']; give a dict"),
    ],
)
def test_prompts_of_the_user_with_wrong_fields_are_refused(code: Path, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as error:
        make_task(TaskSettings(name=f"{code}:Wrong", options=fields)).prompts("train")
    assert f"prompts('train'), prompt 'p': its {words}" in str(error.value)


def test_the_end_of_a_process_is_seen_though_its_child_goes_on(graded: Graded) -> None:
    (verdict,) = graded("leaves_a_process", "4", timeout_s=300.0)
    assert "ended with exit status 4" in verdict.detail


def test_os_exit_ends_the_call_and_not_the_worker(graded: Graded) -> None:
    task = graded.task("die")
    verdicts = task.verify_all(PROMPT, unsampled("die", "4"))
    assert all("exit status 4" in v.detail and "bad_rewards.py, line 20" in v.detail for v in verdicts)
    assert task.verify_all(PROMPT, unsampled("4"))[0].reward == 1.0


def test_a_flood_of_prints_is_cut(graded: Graded, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    task = graded.task("flood")
    task.grades.process._log = lines.append  # type: ignore[attr-defined]
    assert [v.reward for v in task.verify_all(PROMPT, unsampled("4"))] == [1.0]
    task.grades.close()
    text = "".join(lines)
    assert len(text) < 2 * process.LOG_BYTES and "bytes of output of the user's code were dropped" in text


def test_a_log_on_a_full_disk_does_not_block_a_print() -> None:
    """Nobody would empty the pipe any more, and the user's next prints would hang until the deadline of their call."""

    def full(text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    theirs, ours = os.pipe()
    output = _Output(os.fdopen(theirs, "rb"), full)
    os.set_blocking(ours, False)
    for _ in range(20):  # a pipe holds 64 KiB
        wait_until(lambda: os.write(ours, b"x" * 65536) == 65536)
    os.close(ours)
    output.close()


def wait_until(written: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with contextlib.suppress(BlockingIOError):
            if written():
                return
        time.sleep(0.01)
    raise AssertionError("the pipe is full")


def test_repeated_losses_fail_at_once_for_a_while(graded: Graded) -> None:
    task = graded.task("die")
    for _ in range(2):  # each tries twice
        task.verify_all(PROMPT, unsampled("die"))
    started = time.monotonic()
    (verdict,) = task.verify_all(PROMPT, unsampled("die"))
    assert "not called, because the last" in verdict.detail and "exit status 4" in verdict.detail
    assert time.monotonic() - started < 0.5


def test_what_the_code_started_ends_with_it(graded: Graded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.3)
    task = graded.task("orphan", timeout_s=0.5)
    task.prepare()
    group = task.grades.process.pid  # type: ignore[attr-defined]
    task.verify_all(PROMPT, unsampled("4"))
    with contextlib.suppress(psutil.NoSuchProcess):
        left = [p for p in psutil.process_iter() if _group_of(p) == group and p.status() != psutil.STATUS_ZOMBIE]
        assert not left


@pytest.mark.parametrize("value", [None, "0", "1"])
def test_code_in_an_actor_has_the_variables_of_the_job(
    graded: Graded, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    if value is not None:
        monkeypatch.setenv("HF_HUB_OFFLINE", value)
    for name, own in {"OWN": "7", **of_actor()}.items():
        monkeypatch.setenv(name, own)
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    (verdict,) = graded("online", "4", reward_weights={"offline": 1.0, "own": 0.0})
    assert dict(verdict.parts) == {"offline": float(value or -1), "own": 7.0}


def _group_of(one: psutil.Process) -> int | None:
    try:
        return os.getpgid(one.pid)
    except ProcessLookupError:
        return None


def test_code_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken_reward.py").write_text("def score(response):\n    return (\n")
    task = make_task(TaskSettings(reward=f"{tmp_path}/broken_reward.py:score"))
    assert isinstance(task, RewardedTask)
    with pytest.raises(RuntimeError, match=r"broken_reward\.py, line 2: SyntaxError"):
        task.prepare()
    assert "SyntaxError" in task.verify(PROMPT, "4").detail


def test_a_task_of_the_user(code: Path) -> None:
    task = make_task(TaskSettings(name=f"{code}:Mine", options={"words": 2}, train_size=2))
    assert isinstance(task, RewardedTask)
    assert [p.id for p in task.prompts("train")] == ["train-0", "train-1"] and task.prompts("test")[
        0
    ].text == "say say "
    assert [v.reward for v in task.verify_all(PROMPT, unsampled("4", "5"))] == [1.0, 0.0]
    task.grades.close()
    with pytest.raises(ValueError, match="task.options names 'wrods'"):
        make_task(TaskSettings(name=f"{code}:Mine", options={"wrods": 2}))


def test_an_instruction_that_a_task_of_the_user_cannot_read_is_refused(code: Path) -> None:
    with pytest.raises(ValueError, match=r"task\.instruction is not read by .*:Mine .*take `settings`"):
        make_task(TaskSettings(name=f"{code}:Mine", instruction="Be brief."))
    task = make_task(TaskSettings(name=f"{code}:Instructed", instruction="Be brief."))
    assert task.prompts("train")[0].text == "Count. Be brief."


def test_a_task_of_the_user_with_conversations(code: Path) -> None:
    def first(message: list[str]) -> Prompt:
        settings = TaskSettings(name=f"{code}:WithHistory", options={"message": message})
        return make_task(settings).prompts("train")[0]

    assert first(["system", "Be brief."]).messages[0] == {"role": "system", "content": "Be brief."}
    with pytest.raises(
        ValueError, match=r"prompts\('train'\), prompt 'p': its history has a message of the role 'tool'"
    ):
        first(["tool", "x"])
    with pytest.raises(ValueError, match=r"its history has a message \['x'\]; give \(role, content\)"):
        first(["x"])


def test_a_scorer_of_the_user(code: Path) -> None:
    scorer = make_scorer(TaskSettings(scorer=ScorerSettings(kind=f"{code}:Judge")))
    assert scorer.scores(PROMPT, ["a", "b", "a"], []) == [1.0, 2.0, 1.0]
    scorer.grades.close()  # type: ignore[attr-defined]


def test_length_and_end_of_a_response(code: Path, graded: Graded) -> None:
    cut = [Response("4", 3), Response("4", 5), Response("4", 5, "length")]
    assert [v.reward for v in graded.task("overlong").verify_all(PROMPT, cut)] == [-0.3, -0.5, -1.0]
    assert [v.reward for v in graded.task("batch_overlong").verify_all(PROMPT, cut)] == [0.3, 0.5, -1.0]
    task = make_task(TaskSettings(name=f"{code}:MineByLength"))
    assert isinstance(task, RewardedTask)
    assert [v.reward for v in task.verify_all(PROMPT, cut)] == [3.0, 5.0, 5.0]
    task.grades.close()
    scorer = make_scorer(TaskSettings(scorer=ScorerSettings(kind=f"{code}:overlong")))
    assert isinstance(scorer, UserScorer)
    assert scorer.scores_of(PROMPT, [cut[0], cut[2], cut[0]]) == [-0.3, -1.0, -0.3]
    scorer.grades.close()
    assert graded.task("overlong").verify(PROMPT, "x" * 40).reward == -1.0, "estimated: four characters are a token"
