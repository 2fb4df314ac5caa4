"""Bad user code costs its own call: a verifier error with file and line, never a reward, and the next call works."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.verifiers.rewards.own_code import PROMPT, Graded, called, code, graded, unsampled
from verifiers.rewards import process
from verifiers.rewards.environment import of_actor
from verifiers.rewards.process import _Output
from verifiers.rewards.task import RewardedTask
from verifiers.settings import TaskSettings
from verifiers.tasks.registry import make_task
from verifiers.verdict import Status

__all__ = ["code", "graded"]


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


@pytest.mark.parametrize("name", ["caught", "caught_batch"])
def test_a_deadline_that_the_code_catches_is_no_reward(code: Path, name: str) -> None:
    (result,) = called(code, name, "4")
    assert "no result within 0.5 s (task.reward_timeout_s), and it went on" in result["error"] and result["late"]


def test_sys_exit_in_a_task_of_the_code_is_an_error_of_the_call(code: Path) -> None:
    results = called(code, "quits_in_a_task", "4", "quit")
    assert len(results) == 2 and all("it called sys.exit(5)" in result["error"] for result in results)


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
