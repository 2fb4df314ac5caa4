"""The code sandbox: verdicts, limits and levels."""

from __future__ import annotations

import json
import platform
import sys

import pytest

from verifiers import Limits, Status, run_python
from verifiers.sandbox.executor import Executor, SandboxUnavailable
from verifiers.sandbox.grading import CodeTests, TestsError
from verifiers.sandbox.levels import CLAIMS, Layers, Level, unmet
from verifiers.sandbox.settings import SandboxSettings

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the seccomp filter is for Linux on x86_64"
)

CHECK = "def check(candidate):\n    assert candidate(2, 3) == 5\n    assert candidate(40, 2) == 42\n"
GOOD = "def add(a, b): return a + b\n"
SHORT = Limits(wall_seconds=0.3)
POINT = "from collections import namedtuple\nP = namedtuple('P', 'x y')\n"


@pytest.mark.parametrize(
    ("program", "status", "detail"),
    [
        (GOOD, Status.CORRECT, ""),
        ("def add(a, b): return a - b", Status.WRONG, "line 2 of the tests: assert candidate(2, 3) == 5"),
        ("def add(a, b): return a + b if a < 9 else 0", Status.WRONG, "line 3 of the tests"),
        ("def add(a, b) return", Status.UNPARSABLE, "SyntaxError"),
        ("x = '\x00'", Status.UNPARSABLE, "does not compile"),
        ("raise OSError('no')", Status.CRASH, "while it was loaded: OSError: no"),
        ("import sys; sys.exit(0)", Status.CRASH, "SystemExit"),
        ("def add(a, b): return a / 0", Status.CRASH, "ZeroDivisionError"),
        ("import os\ndef add(a, b): os._exit(0)", Status.CRASH, "ended before it had answered"),
        ("import ctypes\nctypes.string_at(0)", Status.CRASH, "SIGSEGV"),
        ("def sub(a, b): return a", Status.CRASH, "does not define 'add'"),
        ("def add(a, b):\n    while True: pass", Status.TIMEOUT, "0.3 s of wall time"),
        ("def add(a, b): return [a] * 10**9", Status.CRASH, "MemoryError"),
        ("def add(a, b): return 'x' * (9 << 20)", Status.CRASH, "longer than"),
        ("def add(a, b): return object()", Status.WRONG, "cannot be compared"),
        ("def add(a, b): print('x' * 10**6); return a + b", Status.CORRECT, ""),
        ("import nowhere_to_be_found", Status.CRASH, "ModuleNotFoundError"),
        ("import random, math, re, collections, heapq, dataclasses, typing\n" + GOOD, Status.CORRECT, ""),
    ],
)
def test_verdicts(executor: Executor, program: str, status: Status, detail: str) -> None:
    verdict = run_python(program, tests=CHECK, entry_point="add", limits=SHORT, executor=executor)
    assert (verdict.status, verdict.weak) == (status, False), verdict
    assert detail in verdict.detail
    assert verdict.reward == (1.0 if status is Status.CORRECT else 0.0)


@pytest.mark.parametrize(
    ("program", "tests"),
    [
        (
            "def f(x): return (x, [x, {'a': {1, 2}}], None, b'b', 1.5, 2 + 1j)",
            "assert f('s') == ('s', ['s', {'a': {1, 2}}], None, b'b', 1.5, 2 + 1j)",
        ),
        ("def f(n): return 7 ** n", "assert f(20_000) == 7 ** 20_000"),
        ("def f(x): return x", "assert f('\\ud800 é\\0') == '\\ud800 é\\0'"),
        ("def f(*a, **k): return a, k", "assert f(1, (2,), k=[3]) == ((1, (2,)), {'k': [3]})"),
        ((
"from collections import *\n"
"def f(): return Counter('aab'), OrderedDict(a=1), deque([1])"
), (
"from collections import *\n"
"assert f() == (Counter('aab'), OrderedDict(a=1), deque([1]))"
)),
        ((
"from collections import namedtuple\n"
"P = namedtuple('P', 'x y')\n"
"def f(): return P(1, 2)"
), "assert f() == (1, 2)"),
        (POINT + "def f(): return P(1, 2)", "p = f()\nassert (p.x, p.y) == p == (1, 2) and isinstance(p, tuple)"),
        (POINT + "def f(): return P(1, [2])", "assert f()._replace(x=3)._asdict() == {'x': 3, 'y': [2]}"),
        (POINT + "def f(p=None): return p.x + p.y if p else P(1, 2)", "assert f(f()) == 3"),
        ("class f(tuple): _fields = ('x', 'count', '__eq__')", "assert f((1, 2, 3)) == (1, 2, 3)"),
        ("import array\ndef f(): return array.array('d', [1, 2])", "assert list(f()) == [1, 2]"),
        ("def f(a): a.append(3)", "import array\na = array.array('i', [1, 2])\nf(a)\nassert list(a) == [1, 2, 3]"),
        ("def f(): return map(str, range(3))", "assert list(f()) == ['0', '1', '2']"),
        ("def f(): yield from 'ab'", "assert [x for x in f()] == ['a', 'b']"),
        ("def f(t, kind): return [x for x in t if not isinstance(x, kind)]", "assert f((1, 'a'), int) == ['a']"),
        ((
"class Node:\n"
"    def __init__(s, v): s.v, s.left = v, None\n"
"def depth(n): return 0 if n is None else 1 + depth(n.left)"
), (
"root = Node(1)\n"
"root.left = Node(2)\n"
"assert depth(root) == 2 and root.left.v == 2"
)),
        ((
"def f(x):\n"
"    if x < 0: raise ValueError('negative')\n"
"    return x"
), (
"try:\n"
"    f(-1)\n"
"    raise RuntimeError\n"
"except ValueError as e:\n"
"    assert 'negative' in str(e)\n"
"assert f(1) == 1"
)),
        ("LIMIT = 3", "assert LIMIT == 3"),
        ("def statistics(x): return x", "assert statistics(3) == 3"),
        ((
"from fractions import Fraction\n"
"from decimal import Decimal\n"
"def f(): return Fraction(1, 3), Decimal('1.10')"
), (
"from fractions import Fraction as F\n"
"from decimal import Decimal as D\n"
"assert f() == (F(1, 3), D('1.10'))"
)),
        ("import re\ndef f(s): return re.match('a', s)", "assert f('a')\nassert not f('b')"),
        ("def f(): return float('nan'), float('inf'), -0.0", (
"a, b, c = f()\n"
"assert a != a and b == float('inf') and str(c) == '-0.0'"
)),
    ],
)  # fmt: skip
def test_values_cross_the_channel(executor: Executor, program: str, tests: str) -> None:
    verdict = run_python(program, tests=tests, executor=executor)
    assert verdict.status is Status.CORRECT, verdict


def test_arrays_cross_the_channel() -> None:
    pytest.importorskip("numpy")
    program = "import numpy\ndef f(x): return numpy.array(x) * 2, numpy.float32(0.5)\n"
    tests = "import numpy\na, b = f([[1, 2]])\nassert (a == [[2, 4]]).all() and b == 0.5\n"
    with Executor() as executor:
        assert run_python(program, tests=tests, executor=executor).status is Status.CORRECT


def cases(*pairs: tuple[str, str]) -> str:
    return json.dumps([{"input": text, "output": output} for text, output in pairs])


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("print(int(input()) * 2)", Status.CORRECT),
        ("import sys\nsys.stdout.write(str(2 * int(sys.stdin.read())))\nsys.exit(0)", Status.CORRECT),
        ("import os\nos.write(1, b'%d' % (2 * int(os.read(0, 99))))\nos._exit(0)", Status.CORRECT),
        ("if __name__ == '__main__':\n    print(2 * int(open(0).read()), '  ')\n    print()", Status.CORRECT),
        ("print(input())", Status.WRONG),
        ("print(2 * int(input()))\nraise ValueError", Status.CRASH),
        ("import os\nprint(2 * int(input()), flush=True)\nos._exit(3)", Status.CRASH),
        ("import os\nprint(2 * int(input()), flush=True)\nos.abort()", Status.CRASH),
        ("while True: print('x' * 1000)", Status.WRONG),
        ("input(); input()", Status.CRASH),
        ("print(", Status.UNPARSABLE),
        ("import sys\nsys.stdin.close(); sys.stdout.close()\nwhile True: pass", Status.TIMEOUT),
    ],
)
def test_stdin_and_stdout(executor: Executor, program: str, status: Status) -> None:
    limits = Limits(wall_seconds=0.5, output_bytes=1 << 20)
    verdict = run_python(program, tests=cases(("3\n", "6"), ("-4", "-8\n")), limits=limits, executor=executor)
    assert verdict.status is status, verdict


def test_tests_that_are_at_fault_are_not_the_programs_fault(executor: Executor) -> None:
    for tests in ("import nothing_like_it\nassert f(1) == 1", "assert f", "1 / 0\nassert f(1) == 1"):
        verdict = run_python("def f(x): return x", tests=tests, executor=executor)
        assert (verdict.status, verdict.reward) == (Status.VERIFIER_ERROR, None), verdict


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tests": "def check(candidate) pass", "entry_point": "f"}, "the tests do not compile"),
        ({"tests": "def check(candidate): pass"}, "give entry_point"),
        ({"tests": "assert f(1)", "entry_point": "f"}, r"no function check\(candidate\)"),
        ({"tests": CHECK, "entry_point": "f g"}, "not a valid function name"),
        ({"tests": CHECK, "entry_point": "f", "prompt": "def f("}, "the prompt do not compile|the prompt"),
        (
            {
                "tests": "def check(candidate):\n    assert candidate",
                "entry_point": "f",
                "prompt": "from nowhere import *",
            },
            "are not known",
        ),
        ({"tests": "def check(candidate):\n    assert True", "entry_point": "f"}, "check never calls"),
        ({"tests": "def check(candidate):\n    assert near(candidate(1), 1)", "entry_point": "f"}, "the name 'near'"),
        ({"tests": "assert True"}, "nothing that the program defines"),
        ({"tests": "x = 1"}, "nothing that the program defines"),
        ({"tests": "assert near(f(1), 1)", "names": ["f"]}, "the name 'near'"),
        ({"tests": "assert f(1)", "names": "f"}, "names is one text, 'f'; give a list"),
        ({"tests": "[]"}, "no case"),
        ({"tests": '[{"input": "1"}]'}, "case 1 of the tests"),
    ],
)
def test_unusable_tests_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(TestsError, match=message):
        CodeTests.of(**arguments)


@pytest.mark.parametrize(
    "limits", [{"wall_seconds": 0}, {"cpu_seconds": -1}, {"memory_bytes": 1}, {"processes": 0}, {"output_bytes": 0}]
)
def test_limits_are_checked(limits: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(limits))):
        Limits(**limits)


@pytest.mark.slow
def test_processor_time_is_limited(executor: Executor) -> None:
    limits = Limits(wall_seconds=60.0, cpu_seconds=1.0)  # a busy machine needs many seconds for one of the processor
    verdict = run_python("while True: pass", tests="assert f", limits=limits, executor=executor)
    assert verdict.status is Status.TIMEOUT
    assert "processor time" in verdict.detail


def test_threads_are_allowed_on_demand(executor: Executor) -> None:
    program = (
        "import threading\n"
        "n = []\n"
        "t = threading.Thread(target=n.append, args=(1,))\n"
        "t.start(); t.join()\n"
        "def f(): return n"
    )
    assert run_python(program, tests="assert f() == [1]", executor=executor).status is Status.CRASH
    verdict = run_python(program, tests="assert f() == [1]", limits=Limits(processes=4), executor=executor)
    assert verdict.status is Status.CORRECT, verdict


def test_a_verdict_without_separation_is_marked(executor: Executor) -> None:
    """A function cannot cross the channel, so these tests would have to run in the program's process."""
    program, tests = "def twice(f, x): return f(f(x))", "assert twice(lambda v: v + 1, 1) == 3"
    refused = run_python(program, tests=tests, executor=executor)
    assert refused.status is Status.VERIFIER_ERROR
    assert "task.sandbox.allow_weak" in refused.detail
    with Executor(SandboxSettings(allow_weak=True, preload=())) as weak:
        verdict = run_python(program, tests=tests, executor=weak)
        assert (verdict.status, verdict.weak) == (Status.CORRECT, True)
        assert verdict.detail.startswith("weak")
        assert run_python("def twice(f, x): return x", tests=tests, executor=weak).status is Status.WRONG
        assert not run_python(GOOD, tests="assert add(1, 2) == 3", executor=weak).weak


def test_the_level_is_measured_and_reported(executor: Executor) -> None:
    isolation = executor.start()
    assert isolation.level is Level.LANDLOCK
    assert executor.describe().startswith(
        "code sandbox: level L3 (resource limits, seccomp, Landlock; programs run as uid"
    )
    assert not unmet(Level.LANDLOCK, isolation.probes)
    assert isolation.probes.keys() >= set().union(*CLAIMS.values())
    assert (isolation.uid != 0) and json.dumps(isolation.as_dict())


@pytest.mark.slow
def test_a_layer_without_effect_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The level depends on what the probes could still do, not on the layers that were enabled."""
    with Executor(layers=Layers(landlock=True)) as only_landlock:
        isolation = only_landlock.start()
        assert isolation.level is Level.LIMITS
        assert isolation.probes["read /etc/passwd"].startswith("denied")
        assert isolation.probes["open a UDP socket"] == "allowed"
    from verifiers.sandbox import levels

    no_layers = {level: Layers() for level in Level}
    monkeypatch.setattr("verifiers.sandbox.executor.LAYERS", no_layers)
    with pytest.raises(SandboxUnavailable, match=r"task\.sandbox\.minimum_level is L2b.*L3 is not enforced here"):
        Executor().start()
    assert levels.LAYERS[Level.LIMITS] == Layers()


def test_a_level_below_the_minimum_is_refused_until_the_configuration_lowers_it() -> None:
    with pytest.raises(SandboxUnavailable, match=r"task\.sandbox\.minimum_level is L2b.*task\.sandbox\.level is L1"):
        Executor(SandboxSettings(level=Level.LIMITS)).start()
    settings = SandboxSettings(level=Level.LIMITS, minimum_level=Level.LIMITS, preload=())
    with Executor(settings) as executor:
        verdict = run_python(GOOD, tests="assert add(1, 2) == 3", executor=executor)
        assert (verdict.status, verdict.weak) == (Status.CORRECT, True)
