"""The symbolic path's process: deadlines, memory, deaths, threads, hostile inputs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from verifiers import Status, TaskSettings, Verdict, grade_math, make_task
from verifiers.mathematics.parsing.syntax import MAX_ANSWER_CHARS
from verifiers.mathematics.symbolic import host, server
from verifiers.task import Prepared

DEADLINE = 0.6
OVERSHOOT = 0.3


@pytest.fixture(scope="module", autouse=True)
def _warm() -> Iterator[None]:
    host.shared().warm()
    yield
    host.shared().close()


# Answers that would take forever or all memory, or that are meant to run as code.
HOSTILE = {
    "tower": "9^{9^{9^9}}",
    "tower of tens": "10^{10^{10}}",
    "long tower": "10^{" * 20 + "1" + "}" * 20,
    "factorial": "(10^8)!",
    "triple factorial": "((9!)!)!",
    "many factorials": "5" + "!" * 100,
    "binomial": "\\binom{10^9}{5\\cdot10^8}",
    "sum": "\\sum_{k=1}^{10^9} k^k",
    "product": "\\prod_{k=1}^{10^7} k",
    "integral": "\\int_0^1 x^{1000}(1+x)^{999} dx",
    "parentheses": "(" * 5000 + "1" + ")" * 5000,
    "some parentheses": "(" * 40 + "1" + ")" * 40,
    "blanks": " " * 100_000 + "41",
    "digits": "9" * 1_000_000,
    "fractions": "\\frac{" * 500 + "1",
    "unbraced fractions": "\\frac" * 390 + "1",
    "terms": "x+" * 900 + "1",
    "quotients": "1/" * 900 + "1",
    "letters": "a" * 1_999,
    "signs": "-" * 1_998 + "1",
    "plus-minus": "\\pm" * 200 + "1",
    "bars": "|" * 400 + "1" + "|" * 400,
    "functions": "\\sin" * 300 + "x",
    "list": "1," * 900 + "1",
    "set": "\\{" + ",".join(map(str, range(390))) + "\\}",
    "boxes": "\\boxed{1}" * 20_000,
    "open boxes": "\\boxed{" * 20_000,
    "phrases": "the final answer is " * 5_000,
    "dollars": "$" * 100_000,
    "backslashes": "\\" * 100_000,
    "thoughts": "<think>" * 10_000,
    "null": "\x00",
    "surrogate": "\ud800",
    "matrix": "\\begin{pmatrix}" + "1&" * 400 + "1\\end{pmatrix}",
    "texts": "\\text{" * 300,
    "subscripts": "x_" * 900,
    "different boxes": " ".join(f"\\boxed{{\\sin({i}x)^{{x}}}}" for i in range(64)),
    "long boxes": " ".join("\\boxed{" + "+".join(f"\\sin({i + j}x)^{{x}}" for j in range(10)) + "}" for i in range(60)),
    "few long boxes": " ".join(
        "\\boxed{" + "+".join(f"\\sin({i + j}x)^{{x}}" for j in range(9)) + "}" for i in range(12)
    ),
    "open displays": "\\[" * 10_000,
    "open delimiters": "\\[ \\( $ " * 2_000,
    "prices": "$1" * 10_000,
    "roots": ",".join(f"\\sqrt{{{i}}}" for i in range(60)),
}


def timed(prediction: str, reference: str) -> tuple[Verdict, float]:
    started = time.perf_counter()
    verdict = grade_math(prediction, reference, timeout_s=DEADLINE)
    return verdict, time.perf_counter() - started


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_end_on_time(name: str) -> None:
    for text in (HOSTILE[name], f"\\boxed{{{HOSTILE[name]}}}"):
        for reference in ("42", "x+1"):
            verdict, seconds = timed(text, reference)
            if seconds >= DEADLINE + OVERSHOOT:
                verdict, seconds = timed(text, reference)  # a busy machine may be late once
            assert seconds < DEADLINE + OVERSHOOT
            assert verdict.status in (Status.WRONG, Status.UNPARSABLE, Status.TIMEOUT, Status.CRASH)
            assert verdict.reward == 0.0


@pytest.mark.parametrize(
    "name",
    ["parentheses", "blanks", "digits", "boxes", "open boxes", "dollars", "backslashes", "letters"]
    + ["long boxes", "open displays", "open delimiters", "prices"],
)
def test_long_garbage_is_refused_in_process(name: str) -> None:
    times = []
    for _ in range(3):
        started = time.perf_counter()
        assert grade_math(HOSTILE[name], "42").reward == 0.0
        times.append(time.perf_counter() - started)
    assert min(times) < 0.2


def test_the_exact_path_keeps_the_deadline_too() -> None:
    verdict = grade_math("+".join(f"\\tan({i}y)^{{y}}" for i in range(99)), "y\\cos y", timeout_s=1e-5)
    assert (verdict.status, verdict.reward) == (Status.TIMEOUT, 0.0)
    assert verdict.seconds < OVERSHOOT


@pytest.mark.slow
def test_the_start_of_a_host_is_not_the_answers_time() -> None:
    """The start of a verifier does not count as the answer's time: the deadline is shorter than any start."""
    host.shared().close()
    verdict = grade_math("\\sum_{k=1}^{4} k", "10", timeout_s=5.0)
    assert verdict.status is Status.CORRECT
    host.shared().close()
    assert grade_math("\\prod_{k=1}^{10^7} k", "42", timeout_s=0.3).status is Status.TIMEOUT


@pytest.mark.slow
def test_a_task_starts_the_host_when_it_is_prepared(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "1", "problem": "?", "answer": "10"}\n')
    task = make_task(TaskSettings(name="jsonl", jsonl={"test": str(tmp_path / "a.jsonl")}))
    host.shared().close()
    assert isinstance(task, Prepared) and task.prepare().startswith("math grader: ready after")
    assert host.shared().pids()


@pytest.mark.parametrize(
    "payload",
    [
        "open('{path}','w')",
        "__import__('os').system('touch {path}')",
        "\\text{{__import__('os').system('touch {path}')}}",
        "\\lim_{{x \\to 0}} __import__('os').system('touch {path}')",
        "(lambda: open('{path}','w'))()",
        "\\sum_{{k=1}}^{{3}} exec(\"open('{path}','w')\")",
        "\\operatorname{{eval}}(open('{path}','w'))",
    ],
)
def test_payloads_do_not_run(payload: str, tmp_path: Path) -> None:
    path = tmp_path / "written"
    for text in (payload.format(path=path), "\\boxed{" + payload.format(path=path) + "}"):
        assert grade_math(text, "42").reward == 0.0
        assert grade_math("42", text).reward == 0.0
    assert not path.exists()


def test_a_deadline_is_a_timeout_with_a_name_and_the_next_answer_is_on_time() -> None:
    verdict = grade_math("\\prod_{k=1}^{10^7} k", "42", timeout_s=0.3)
    assert (verdict.status, verdict.reward) == (Status.TIMEOUT, 0.0)
    started = time.perf_counter()
    assert grade_math("\\sum_{k=1}^{4} k", "10").status is Status.CORRECT
    assert time.perf_counter() - started < 5.0


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        ("\\sum_{k=1}^{8} k", "36", True),
        ("\\int_0^1 x dx", "\\frac12", True),
        ("\\lim_{x \\to 0} \\frac{\\sin x}{x}", "1", True),
        ("S=\\sum_{k=1}^{3} k = 6", "6", True),
        ("\\lim_{x \\to 0} 7 = 42", "42", False),
        (
            "\\begin{pmatrix}1\\\\2\\end{pmatrix}+\\begin{pmatrix}1\\\\1\\end{pmatrix}",
            "\\begin{pmatrix}2\\\\3\\end{pmatrix}",
            True,
        ),
    ],
)
def test_the_symbolic_path_decides_what_the_exact_path_cannot(prediction: str, reference: str, right: bool) -> None:
    assert (grade_math(prediction, reference).status is Status.CORRECT) is right


@pytest.mark.slow
def test_a_host_killed_from_outside_is_replaced_and_asked_again() -> None:
    hosts = host.HostPool()
    hosts.warm()
    (pid,) = hosts.pids()
    os.kill(pid, signal.SIGKILL)
    assert hosts.ask(["\\sum_{k=1}^{4} k"], "10", 5.0)[0] == "equal"
    assert hosts.pids() != [pid]
    hosts.close()


@pytest.mark.slow
def test_two_failures_are_a_verifier_error_and_never_a_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def die(self: host.Host, *_: object) -> None:
        asked.append(self)
        raise host.HostError("gone")

    monkeypatch.setattr(host.Host, "ask", die)
    verdict = grade_math("\\sum_{k=1}^{4} k", "10")
    assert (verdict.status, verdict.reward, len(asked)) == (Status.VERIFIER_ERROR, None, 2)


@pytest.mark.slow
def test_a_stopped_host_is_a_verifier_error_after_one_deadline() -> None:
    hosts = host.HostPool()
    hosts.warm()
    (pid,) = hosts.pids()
    os.kill(pid, signal.SIGSTOP)
    started = time.perf_counter()
    with pytest.raises(host.HostError, match="did not answer in time"):
        hosts.ask(["\\sum_{k=1}^{4} k"], "10", 0.3)
    assert time.perf_counter() - started < 4  # the deadline of the question is 0.3 s
    assert hosts.ask(["\\sum_{k=1}^{4} k"], "10", 5.0)[0] == "equal"  # by another one
    hosts.close()


@pytest.mark.slow
def test_a_second_attempt_that_lacks_time_is_no_timeout_of_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = iter([host.HostError("gone"), ("timeout", "")])

    def answer(*_: object) -> tuple[str, str]:
        outcome = next(outcomes)
        if isinstance(outcome, host.HostError):
            raise outcome
        return outcome

    monkeypatch.setattr(host.Host, "ask", answer)
    assert grade_math("\\sum_{k=1}^{4} k", "10").status is Status.VERIFIER_ERROR


@pytest.mark.slow
def test_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the server's own function: a child that wants more memory than it may have ends alone."""
    monkeypatch.setattr(server.math_verify_grader, "equal", lambda prediction, reference: bool(bytearray(10**9)))
    # Enough for the interpreter of the test, which may have large libraries mapped.
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") // 2**20
    job = {"predictions": ["1"], "reference": "1", "seconds": 5.0, "megabytes": mapped + 200}
    assert server.run(job)["outcome"] == "memory"
    assert server.run({**job, "megabytes": mapped + 2000})["outcome"] == "equal"


@pytest.mark.slow
def test_threads_share_the_hosts() -> None:
    """A Ray actor grades on threads; SIGALRM would refuse to work there."""
    with ThreadPoolExecutor(8) as pool:
        verdicts = list(pool.map(lambda n: grade_math(f"\\sum_{{k=1}}^{{{n}}} k", str(n * (n + 1) // 2)), range(2, 14)))
    assert {verdict.status for verdict in verdicts} == {Status.CORRECT}
    assert len(host.shared().pids()) <= host.MAX_HOSTS
    answers: list[Status] = []
    threads = [
        threading.Thread(target=lambda: answers.append(grade_math("\\sqrt{8}", "2\\sqrt2").status)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert answers == [Status.CORRECT] * 8


@pytest.mark.slow
def test_the_host_ends_with_its_caller() -> None:
    code = (
        "from verifiers.mathematics.symbolic import host\n"
        "host.shared().warm()\nprint(host.shared().pids()[0], flush=True)\n"
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _alive(pid):
        time.sleep(0.05)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


def test_importing_the_package_loads_no_grader() -> None:
    code = "import sys, verifiers; print([m for m in ('sympy', 'mpmath', 'math_verify') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
    assert MAX_ANSWER_CHARS == 2_000
