"""Tests on stdin and stdout: the time of each case and of all, numbers with a tolerance, threads and their number."""

from __future__ import annotations

import json
import platform
import sys

import pytest

from verifiers import Limits, Status, run_python
from verifiers.programs.extraction import program_of
from verifiers.sandbox.executor import Executor
from verifiers.sandbox.grading import CodeTests, TestsError
from verifiers.sandbox.inside.comparison import same
from verifiers.sandbox.levels import Level
from verifiers.sandbox.settings import SandboxSettings

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the seccomp filter is for Linux on x86_64"
)


def cases(*pairs: tuple[str, str]) -> str:
    return json.dumps([{"input": text, "output": output} for text, output in pairs])


SLEEPS = "import time\ntime.sleep(float(input()))\nprint(1)\n"


@pytest.mark.slow
def test_each_case_has_a_time_limit_of_its_own(executor: Executor) -> None:
    seven = cases(*[("0.3", "1")] * 7)
    verdict = run_python(SLEEPS, tests=seven, limits=Limits(case_seconds=2.0), executor=executor)
    assert verdict.status is Status.CORRECT and verdict.seconds > 2.0, verdict
    third = cases(("0", "1"), ("0.2", "1"), ("9", "1"), ("0", "1"))
    verdict = run_python(SLEEPS, tests=third, limits=Limits(case_seconds=2.0), executor=executor)
    assert (verdict.status, verdict.detail) == (Status.TIMEOUT, "case 3: over 2 s of wall time")
    assert verdict.seconds < 8.0


@pytest.mark.slow
def test_the_limit_for_all_cases_holds_too(executor: Executor) -> None:
    limits = Limits(case_seconds=5.0, wall_seconds=2.5)
    verdict = run_python(SLEEPS, tests=cases(*[("1", "1")] * 5), limits=limits, executor=executor)
    assert verdict.status is Status.TIMEOUT and verdict.detail.startswith(("case 2: ", "case 3: ")), verdict
    assert "2.5 s for all cases" in verdict.detail and verdict.seconds < 5.0


@pytest.mark.parametrize(
    ("limits", "number", "seconds"),
    [
        (Limits(), 0, 10.0),
        (Limits(), 20, 100.0),
        (Limits(), 1000, 300.0),
        (Limits(case_seconds=2.0), 3, 6.0),
        (Limits(wall_seconds=7.0), 0, 7.0),
        (Limits(wall_seconds=7.0), 20, 7.0),
    ],
)
def test_the_limit_for_all_follows_from_that_of_a_case(limits: Limits, number: int, seconds: float) -> None:
    assert limits.total_seconds(number) == seconds
    assert SandboxSettings().limits().total_seconds(number) == Limits().total_seconds(number)


@pytest.mark.slow
def test_twenty_cases_of_0_4_s_pass_with_the_defaults(executor: Executor) -> None:
    program = "import time\ntime.sleep(0.4)\nprint(int(input())+1)\n"
    assert program_of(program) == program
    verdict = run_python(program, tests=cases(*[(f"{n}\n", f"{n + 1}\n") for n in range(20)]), executor=executor)
    assert verdict.status is Status.CORRECT and verdict.seconds > 8.0, verdict


@pytest.mark.parametrize(
    ("printed", "expected", "exact", "close"),
    [
        ("0.3", "0.3\n", True, True),
        ("0.30000000000000004", "0.3", False, True),
        ("0.3001", "0.3", False, False),
        ("3.0000001", "3", False, True),
        ("3", "2.9999999", False, True),
        ("3.0", "3", False, True),
        ("4", "3", False, False),
        ("1000000000000000001", "1000000000000000000", False, False),
        ("1000000000000000000", "+1000000000000000000", False, True),
        ("007", "7", False, True),
        ("-0", "0", False, True),
        ("1e6", "1000000.5", False, True),
        ("1000002.0", "1000000.0", False, False),
        ("1E-3 .5 5.", "0.001 0.5 5.0", False, True),
        ("1.0e+300", "1e300", False, True),
        ("2e300", "1e300", False, False),
        ("1e999", "inf", False, True),
        ("inf", "Infinity", False, True),
        ("-inf", "inf", False, False),
        ("1e308", "inf", False, False),
        ("inf", "1e308", False, False),
        ("nan", "NaN", False, True),
        ("nan", "1.0", False, False),
        ("1.0", "nan", False, False),
        ("[0.1, 0.2]", "[0.1000000001, 0.2]", False, True),
        ("(0.1;0.2)", "(0.1,0.2)", False, False),
        ("x=0.10 YES", "x=0.1 YES", False, True),
        ("x=0.1 NO", "x=0.1 YES", False, False),
        ("a1.5", "a1.50", False, False),
        ("1.5j", "1.50j", False, False),
        ("0x10", "16", False, False),
        ("1_0.0", "10.0", False, False),
        ("١.٥", "1.5", False, False),
        ("info 1.0", "info 1", False, True),
        ("1.0 2.0", "1 2", False, True),
        ("1.0  2.0", "1.0 2.0", False, False),
        ("1.0\n2.0", "1.0 2.0", False, False),
        ("1.0  \n2.0\n\n", "1\n2", False, True),
        ("1.0\n\n2.0", "1\n2", False, False),
        ("1.0", "1.0\n2.0", False, False),
        ("", "0.0", False, False),
        ("0.0000005", "0", False, True),
        ("1" * 5000 + ".0", "1" * 5000, False, True),
        ("1" * 5000, "2" * 5000, False, False),
        ("9" * 200_000 + "a", "9" * 200_000 + "b", False, False),
    ],
)
def test_numbers_with_a_tolerance(printed: str, expected: str, exact: bool, close: bool) -> None:
    assert same(printed, expected, 0.0) is exact
    assert same(printed, expected, 1e-6) is close


def test_a_tolerance_is_an_option_of_the_task(executor: Executor) -> None:
    program, tests = "print(0.1+0.2)\n", cases(("", "0.3\n"))
    assert run_python(program, tests=tests, executor=executor).status is Status.WRONG
    assert run_python(program, tests=tests, tolerance=1e-9, executor=executor).status is Status.CORRECT
    with Executor(SandboxSettings(preload=(), tolerance=1e-6)) as lenient:
        assert run_python(program, tests=tests, executor=lenient).status is Status.CORRECT
        assert run_python(program, tests=tests, tolerance=0.0, executor=lenient).status is Status.WRONG
    with pytest.raises(TestsError, match="the tolerance is 1; give at least 0 and less than 1"):
        CodeTests.of(tests, tolerance=1)


COUNTS = """
import threading, time
started = 0
try:
    while started < 100:
        threading.Thread(target=time.sleep, args=(0.1,)).start()
        started += 1
except RuntimeError as error:
    print(started, error)
"""


@pytest.mark.parametrize("threads", [None, 1, 2, 64])
def test_threads_up_to_a_number(executor: Executor, threads: int | None) -> None:
    tests = cases(("", f"{(threads or 8) - 1} can't start new thread"))
    verdict = run_python(COUNTS, tests=tests, limits=Limits(processes=threads), executor=executor)
    assert verdict.status is Status.CORRECT, verdict
    with pytest.raises(ValueError, match="processes is 65; give at most 64"):
        Limits(processes=65)


BEHIND_PYTHONS_BACK = """
import ctypes, threading
c = ctypes.CDLL(None, use_errno=True)
def attempts():
    work = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(lambda _: None)
    made = c.pthread_create(ctypes.byref(ctypes.c_ulong()), None, work, None)
    stack = ctypes.create_string_buffer(1 << 16)
    thread = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000
    calls = [c.syscall(56, thread, ctypes.byref(stack, 1 << 15), 0, 0, 0), c.syscall(57), c.syscall(58)]
    calls += [c.syscall(435, stack, 88), c.socket(2, 1, 0), c.kill(1, 0), c.open(b'/etc/passwd', 0)]
    print(made != 0, [call < 0 for call in calls])
attempts()
t = threading.Thread(target=attempts)
t.start(); t.join()
"""


@pytest.mark.parametrize(
    "level",
    [Level.LANDLOCK, *(pytest.param(e, marks=pytest.mark.slow) for e in (Level.SECCOMP_CLOSED, Level.NAMESPACES))],
)
def test_threads_are_behind_the_same_layers(level: Level) -> None:
    """Threads started before the lockdown are confined too, and no further ones can be started by any means."""
    with Executor(SandboxSettings(level=level, preload=())) as executor:
        if executor.start().level is not level:
            pytest.skip(f"this machine does not reach {level}")
        expected = f"True {[True] * 7}\n" * 2
        verdict = run_python(BEHIND_PYTHONS_BACK, tests=cases(("", expected)), executor=executor)
        assert verdict.status is Status.CORRECT, verdict


LIMITS = """
import ctypes, os, struct
c = ctypes.CDLL(None)
def refused(process, kind, soft, hard): return c.prlimit(process, kind, struct.pack('QQ', soft, hard), None) < 0
CPU, FSIZE, DATA, STACK, NPROC, AS = 0, 1, 2, 3, 6, 9
print([refused(0, kind, 1 << 62, 1 << 62) for kind in (CPU, FSIZE, NPROC, AS)])
print([refused(os.getppid(), kind, 1 << 29, 1 << 29) for kind in (STACK, AS)], refused(0, CPU, 1, 1))
print([refused(0, kind, 1 << 29, 1 << 29) for kind in (DATA, STACK, AS)])
"""


def test_limits_on_memory_can_be_lowered_and_none_raised(executor: Executor) -> None:
    expected = f"{[True] * 4}\n{[True] * 2} True\n{[False] * 3}"
    verdict = run_python(LIMITS, tests=cases(("", expected)), executor=executor)
    assert verdict.status is Status.CORRECT, verdict


def test_threads_of_functions(executor: Executor) -> None:
    program = "import threading\ndef f():\n    r = []\n    t = threading.Thread(target=r.append, args=(1,))\n"
    program += "    t.start(); t.join()\n    return r\n"
    verdict = run_python(program, tests="assert f() == [1]", limits=Limits(processes=2), executor=executor)
    assert verdict.status is Status.CORRECT, verdict


def test_memory_of_threads_is_limited(executor: Executor) -> None:
    program = "import threading\nr = []\ndef f():\n    try: r.append(bytearray(700 << 20))\n"
    program += "    except MemoryError: r.append(None)\nt = threading.Thread(target=f)\nt.start(); t.join()\nprint(r)"
    limits = Limits(memory_bytes=256 << 20)
    verdict = run_python(program, tests=cases(("", "[None]")), limits=limits, executor=executor)
    assert verdict.status is Status.CORRECT, verdict


def test_a_script_that_closes_its_channel_and_continues_runs_out_of_time(executor: Executor) -> None:
    program = "import os\nprint(1, flush=True)\nos.closerange(0, 64)\nwhile True: pass"
    limits = Limits(case_seconds=0.4)
    verdict = run_python(program, tests=cases(("", "1")), limits=limits, executor=executor)
    assert verdict.status is Status.TIMEOUT, verdict
    ends = "import os, time\nprint(1, flush=True)\nos.closerange(0, 64)\ntime.sleep(0.2)\nos._exit({})"
    limits = Limits(case_seconds=3.0)
    for status, wanted in ((0, Status.CORRECT), (3, Status.CRASH)):
        verdict = run_python(ends.format(status), tests=cases(("", "1")), limits=limits, executor=executor)
        assert verdict.status is wanted, verdict


@pytest.mark.parametrize(
    ("program", "detail"),
    [
        ("import sys\nsys.exit('no input')", "case 1: its exit status is 1 (no input)"),
        ("exit(3)", "case 1: its exit status is 3 (3)"),
        ("import os\nos._exit(3)", "case 1: its exit status is 3, whatever it printed"),
        ("raise ValueError('bad')", "case 1: the program raised ValueError: bad"),
        (
            "import os\nos.fork()",
            "case 1: the program raised PermissionError: [Errno 1] Operation not permitted "
            "(programs in the sandbox start no processes, open no sockets and write no files)",
        ),
    ],
)
def test_an_end_with_another_status_is_a_crash(executor: Executor, program: str, detail: str) -> None:
    verdict = run_python(program, tests=cases(("", "")), executor=executor)
    assert (verdict.status, verdict.detail) == (Status.CRASH, detail)


def test_an_output_may_be_as_long_as_expected(executor: Executor) -> None:
    tests = cases(("", "x" * 100_000))
    limits = Limits(output_bytes=1024)
    assert run_python("print('x' * 100_000)", tests=tests, limits=limits, executor=executor).status is Status.CORRECT
    verdict = run_python("print('x' * 300_000)", tests=tests, limits=limits, executor=executor)
    assert (verdict.status, verdict.detail) == (Status.WRONG, "case 1: the program printed more than 200000 bytes")


def test_cases_that_call_a_function_are_refused() -> None:
    case = {"input": "[1, 2]", "output": "3", "testtype": "functional"}
    with pytest.raises(TestsError, match="case 1 of the tests has the testtype 'functional'"):
        CodeTests.of(json.dumps([case]))
    for stdin in ("stdin", None):
        CodeTests.of(json.dumps([{**case, "testtype": stdin}]))


def test_input_of_many_mebibytes(executor: Executor) -> None:
    text = "1 " * (2 << 20)
    program = "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))"
    verdict = run_python(program, tests=cases((text, str(2 << 20))), executor=executor)
    assert verdict.status is Status.CORRECT, verdict


def test_the_program_cannot_write_its_input(executor: Executor) -> None:
    program = (
        "import os, mmap\ndef tried(f, *a, **k):\n    try: f(*a, **k); return 'done'\n    except OSError: return 'no'\n"
        "print(tried(os.write, 0, b'x'), tried(os.ftruncate, 0, 0), tried(mmap.mmap, 0, 0), input())"
    )
    verdict = run_python(program, tests=cases(("in", "no no no in")), executor=executor)
    assert verdict.status is Status.CORRECT, verdict
