"""The servers of the code sandbox: replaced when they die, shared by threads, and leaving nothing behind."""

from __future__ import annotations

import os
import platform
import signal
import sys
import threading
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests.verifiers.test_sandbox import GOOD, SHORT, cases
from verifiers import Limits, Status, run_python
from verifiers.sandbox.executor import Executor
from verifiers.sandbox.grading import shared_executor
from verifiers.sandbox.settings import SandboxSettings

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the seccomp filter is for Linux on x86_64"
)


def test_kinds_of_tests_alternate_on_one_server(executor: Executor) -> None:
    """A job on stdin and stdout leaves the candidate alone that was forked in advance for the next function."""
    executor.start()
    (worker,) = executor._workers
    for number in range(5):
        tests = f"assert add({number}, 1) == {number + 1}"
        assert run_python(GOOD, tests=tests, executor=executor).status is Status.CORRECT
        _settle(worker.pid)
        ready = _children(worker.pid)
        verdict = run_python("print(input())", tests=cases(("3", "3")), executor=executor)
        assert verdict.status is Status.CORRECT, verdict
        assert _children(worker.pid) == ready


def test_judge_and_candidate_that_died_while_they_waited_are_replaced(executor: Executor) -> None:
    """Found by killing them under a running job: every later answer of that server was the verifier's failure."""
    executor.start()
    (worker,) = executor._workers
    for _ in range(3):
        assert run_python(GOOD, tests="assert add(1, 2) == 3", executor=executor).status is Status.CORRECT
        _settle(worker.pid)
        waiting = _children(worker.pid)
        assert len(waiting) == 2
        for child in waiting:
            os.kill(child, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while any(_state(child) != "Z" for child in waiting) and time.monotonic() < deadline:
            time.sleep(0.001)
    assert run_python(GOOD, tests="assert add(1, 2) == 3", executor=executor).status is Status.CORRECT


def test_a_dead_server_is_replaced() -> None:
    with Executor(SandboxSettings(preload=())) as executor:
        executor.start()
        (first,) = executor._workers
        os.kill(first.pid, signal.SIGKILL)
        assert run_python(GOOD, tests="assert add(1, 2) == 3", executor=executor).status is Status.CORRECT
        (second,) = executor._workers
        assert second.pid != first.pid


@pytest.mark.slow
def test_a_silent_server_is_replaced() -> None:
    with Executor(SandboxSettings(preload=())) as executor:
        executor.start()
        (worker,) = executor._workers
        os.kill(worker.pid, signal.SIGSTOP)
        verdict = run_python(GOOD, tests="assert add(1, 2) == 3", limits=SHORT, executor=executor)
        assert verdict.status is Status.CORRECT, verdict


@pytest.mark.slow
def test_children_die_with_their_server() -> None:
    with Executor(SandboxSettings(preload=())) as executor:
        executor.start()
        (worker,) = executor._workers
        thread = threading.Thread(
            target=run_python,
            args=("while True: pass",),
            kwargs={"tests": "assert f", "limits": Limits(wall_seconds=30), "executor": executor},
        )
        thread.start()
        deadline = time.monotonic() + 5
        while len(children := _children(worker.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(children) == 2
    executor.close()
    thread.join(timeout=10)
    assert not thread.is_alive()
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def _graded(program: str) -> tuple[str, list[int]]:
    """The verdict of a program, and the process ids of the servers that this process uses."""
    status = run_python(program, tests="assert f(1) == 2", limits=Limits(wall_seconds=1)).status
    return status.value, [worker._process.pid for worker in shared_executor()._workers]


def test_a_forked_process_has_servers_of_its_own() -> None:
    """On one server, two processes took each other's outcomes, and each ended it when its own job failed."""
    status, own = _graded("def f(x): return x + 1")
    with get_context("fork").Pool(1) as pool:
        theirs_status, theirs = pool.apply(_graded, ("def f(x): return x + 1",))
    assert status == theirs_status == "correct" and theirs and not set(own) & set(theirs)
    assert _graded("def f(x): return x + 1") == ("correct", own)


def test_many_threads_share_the_servers() -> None:
    wrong: list[str] = []

    def work(number: int) -> None:
        for step in range(6):
            tests = f"assert add({number}, {step}) == {number + step}"
            verdict = run_python(GOOD, tests=tests, executor=executor)
            if verdict.status is not Status.CORRECT:
                wrong.append(str(verdict))

    with Executor(SandboxSettings(servers=2, preload=())) as executor:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
    assert not wrong


@pytest.mark.slow
def test_time_outs_leave_nothing_behind() -> None:
    """A short form of the 10,000 of benchmarks/code_executor.py."""
    limits = Limits(wall_seconds=0.02)
    with Executor(SandboxSettings(preload=())) as executor:
        for _ in range(10):  # the first ones fill caches
            run_python("while True: pass", tests="assert f", limits=limits, executor=executor)
        (worker,) = executor._workers
        _settle(worker.pid)
        before = _footprint(worker.pid), _footprint(os.getpid())
        over: list[float] = []
        for _ in range(80):
            started = time.monotonic()
            verdict = run_python("while True: pass", tests="assert f", limits=limits, executor=executor)
            over.append(time.monotonic() - started - limits.wall_seconds)
            # On a busy machine 20 ms may pass before the program has had its turn; that is no verdict on it.
            assert verdict.status in (Status.TIMEOUT, Status.VERIFIER_ERROR)
        _settle(worker.pid)
        after = _footprint(worker.pid), _footprint(os.getpid())
        assert {w.pid for w in executor._workers} == {worker.pid}
        states = [
            Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] for child in _children(worker.pid)
        ]
        # The next judge and the next candidate, forked in advance; no zombies, no other processes.
        assert len(states) <= 2 and "Z" not in states
        # A busy machine stretches single ones; the benchmark, on an idle one, reports the worst.
        assert sorted(over)[len(over) * 9 // 10] < 0.5
        for (descriptors, pages), (descriptors_before, pages_before) in zip(after, before, strict=True):
            assert descriptors == descriptors_before
            assert pages - pages_before < 256  # 1 MiB


def _children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _state(pid: int) -> str:
    """The kernel's letter for what the process does: Z when it is dead and not reaped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _footprint(pid: int) -> tuple[int, int]:
    """(open descriptors, resident pages) of a process."""
    return len(os.listdir(f"/proc/{pid}/fd")), int(Path(f"/proc/{pid}/statm").read_text().split()[1])


def _settle(pid: int) -> None:
    """Until a server has forked the judge and the candidate of the next job, and sits waiting for it."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if len(_children(pid)) == 2 and state == "S":
            return
        time.sleep(0.02)
    raise AssertionError("the server did not come to rest")
