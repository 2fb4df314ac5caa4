"""Ways in which a program may try to decide its own verdict; none of them works."""

from __future__ import annotations

import platform
import sys

import pytest

from verifiers import Status, run_python
from verifiers.sandbox.executor import Executor
from verifiers.sandbox.grading import TestsError
from verifiers.sandbox.settings import SandboxSettings

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the seccomp filter is for Linux on x86_64"
)


@pytest.mark.parametrize(
    ("program", "tests"),
    [
        # Its own built-ins or modules must not be what the tests compare with.
        ("def f(x): return 0\ndef set(x): return 1\ndef len(x): return 1", "assert set(f(1)) == set([1])"),
        ("class math: isclose = lambda *a: True\ndef f(x): return 0", "assert math.isclose(f(1), 1)"),
        ("def f(x): return 0\nisinstance = lambda *a: True", "assert isinstance(f(1), str)"),
        ("class B:\n    __ne__ = __eq__ = lambda *a: True\ndef f(x): return B()", "assert f(1) != 5"),
        # Fields of a named tuple must not replace the methods of tuples, nor its comparison.
        (
            "class f(tuple):\n    _fields = ('index',)\n    def __new__(s, x): return tuple.__new__(s, [print])",
            "f(1).index(2)",
        ),
        (
            "from collections import namedtuple\nP = namedtuple('P', 'x')\n"
            "class Q(P):\n    def __eq__(s, o): return True\ndef f(x): return Q(1)",
            "assert f(1) == (2,)",
        ),
        ("class Q(tuple): _fields = ('__eq__',)\ndef f(x): return Q([1])", "assert f(1) == (2,)"),
        # Python makes these two names equal.
        ("class Q(tuple): _fields = ('\\ufb01', 'fi')\ndef f(x): return Q([1, 2])", "assert f(1) == (2, 3)"),
        ("def f(x): return None", "try:\n    assert f(1) == 1\nexcept TypeError:\n    pass"),
    ],
)
def test_names_and_objects_of_the_program_decide_nothing(executor: Executor, program: str, tests: str) -> None:
    assert run_python(program, tests=tests, executor=executor).status in (Status.WRONG, Status.CRASH)


MAP = "assert all(map(lambda pair: f(pair[0]) == pair[1], [(2, 5), (3, 6)]))"
ZIP = "for got, wanted in zip(map(f, [2, 3]), [5, 6]):\n    assert got == wanted"
SENTINEL = "assert all(got == 5 for got in iter(f, None))"
SEQUENCE = "class S:\n    def __getitem__(self, i): return f(i)\nassert all(got == 5 for got in S())"
ITERATOR = "class I:\n    def __iter__(self): return self\n    def __next__(self): return f(1)\nassert [*I()] == []"
DEFAULT = "class R:\n    @property\n    def x(self): return f(1)\nassert getattr(R(), 'x', 5) == 5"
RAISED_AGAIN = "def g(x):\n    try: return f(x)\n    except Exception as e: raise e\nassert all(map(g, [2, 3]))"
BARE_RAISE = "def g(x):\n    try: return f(x)\n    except: raise\nassert all(map(g, [2, 3]))"
OTHER_KIND = "def g(x):\n    try: return f(x)\n    except KeyError: return None\nassert all(map(g, [2, 3]))"
FINALLY = "def g(x):\n    try: return f(x)\n    finally: return True\nassert all(map(g, [2, 3]))"
LIBRARY = "import contextlib\nwith contextlib.nullcontext():\n    assert all(map(f, [2]))"
UNITTEST = (
    "import unittest\nclass T(unittest.TestCase):\n    def runTest(self): self.assertEqual(f(2), 5)\n"
    "T().run(unittest.TestResult())"
)


@pytest.mark.parametrize(
    ("kind", "tests"),
    [
        *[("StopIteration", tests) for tests in (MAP, ZIP, SENTINEL, ITERATOR, RAISED_AGAIN, BARE_RAISE, OTHER_KIND)],
        *[(kind, MAP) for kind in ("StopAsyncIteration", "GeneratorExit", "KeyboardInterrupt", "SystemExit")],
        *[("StopIteration", tests) for tests in (FINALLY, LIBRARY, UNITTEST)],
        ("IndexError", SEQUENCE),
        ("AttributeError", DEFAULT),
        ("AssertionError", UNITTEST),
    ],
)
def test_an_exception_that_no_handler_of_the_tests_takes_is_a_crash(executor: Executor, kind: str, tests: str) -> None:
    """Otherwise a program could end the loops of its tests before they compare anything."""
    verdict = run_python(f"def f(*a): raise {kind}", tests=tests, executor=executor)
    assert verdict.status is Status.CRASH, verdict
    assert kind in verdict.detail


@pytest.mark.parametrize(
    "tests",
    [
        "try:\n    f(-1)\n    assert False\nexcept ValueError:\n    pass",
        "try:\n    f(-1)\nexcept (KeyError, ValueError) as e:\n    assert str(e) == 'no' and type(e) is ValueError\n",
        "try:\n    f(-1)\nexcept TypeError:\n    assert False\nexcept:\n    pass\nelse:\n    assert False",
        "import contextlib\nwith contextlib.suppress(ValueError):\n    f(-1)\n    assert False",
        "import unittest\nunittest.TestCase().assertRaises(ValueError, f, -1)",
        "import unittest\nwith unittest.TestCase().assertRaisesRegex(ValueError, '^no$') as c:\n    f(-1)\n"
        "assert c.exception.args == ('no',)",
        "class raises:\n    def __init__(self, kind): self.kind = kind\n    def __enter__(self): return self\n"
        "    def __exit__(self, kind, error, trace): return issubclass(kind, self.kind)\nwith raises(ValueError):\n"
        "    f(-1)",
        "import contextlib\n@contextlib.contextmanager\ndef raises(kind):\n    try: yield\n    except kind: return\n"
        "    raise AssertionError\nwith raises(ValueError):\n    f(-1)",
        "import contextlib\nwith contextlib.ExitStack() as stack:\n"
        "    stack.enter_context(contextlib.suppress(ValueError))\n    f(-1)",
        "def g(x):\n    try: return f(x)\n    except ValueError: raise KeyError\ntry: g(-1)\nexcept KeyError: pass",
        "def g(x):\n    try: return f(x)\n    except Exception: raise\ntry: g(-1)\nexcept ValueError: pass",
        "try:\n    try: f(-1)\n    finally: assert f(1) == 1\nexcept ValueError: pass",
        "try: f('\\ud800'.encode())\nexcept ValueError: pass",
    ],
)
def test_tests_that_expect_an_exception(executor: Executor, tests: str) -> None:
    program = "def f(x):\n    if type(x) is str: x.encode()\n    if x == -1: raise ValueError('no')\n    return x\n"
    tests += "\nassert f(1) == 1"
    verdict = run_python(program, tests=tests, executor=executor)
    assert verdict.status is Status.CORRECT, verdict
    silent = run_python("def f(x): return 2", tests=tests, executor=executor)
    assert silent.status is Status.WRONG, silent


DEEP = "def make(x):\n    r = []\n    for _ in range({depth}): r = [r]\n    return r\n"


@pytest.mark.parametrize(
    ("program", "tests"),
    [
        (DEEP.format(depth=59) + "def f(x): return 0", "assert f(make(1)) == 5"),
        (DEEP.format(depth=59) + "def f(x): return 0", "x = make(1)\nfor _ in range(50): x = [x]\nassert f(x) == 5"),
        ("def make(x): return [0] * 100_001\ndef f(x): return 0", "assert f(iter(make(1))) == 5"),
        ("def make(x): return [{}, 1]\ndef f(x): return 0", "import numpy\nassert f(numpy.array(make(1))) == 5"),
        ("class LIMIT: pass\ndef f(x): return 0", "assert f(LIMIT + 1) == 5"),
        ("class LIMIT: pass\nLIMIT = LIMIT()\ndef f(x): return 0", "assert LIMIT == 3 and f(1)"),
        ("def rows(): pass\ndef f(x): return 0", "for row in rows: assert f(row)"),
    ],
)
def test_a_program_cannot_make_its_failure_that_of_the_tests(program: str, tests: str) -> None:
    """Neither a verifier error, which skips the whole group, nor the weak mode, whose verdict can be forged."""
    forged = program + "\nclass E:\n    __eq__ = lambda s, o: True\nf = lambda x: E()"
    if "numpy" in tests:
        pytest.importorskip("numpy")
    with Executor(SandboxSettings(allow_weak=True)) as executor:
        for source in (program, forged):
            verdict = run_python(source, tests=tests, names=names_of(tests), executor=executor)
            assert (verdict.status, verdict.weak) == (Status.WRONG, False), verdict


def names_of(tests: str) -> list[str]:
    return [name for name in ("f", "make", "LIMIT", "rows") if name in tests]


def test_values_of_any_depth_can_be_passed_on(executor: Executor) -> None:
    program = DEEP.format(depth=59) + "def depth(x): return 1 + depth(x[0]) if x else 0"
    verdict = run_python(program, tests="assert depth(make(1)) == 59", names=["depth", "make"], executor=executor)
    assert (verdict.status, verdict.weak) == (Status.CORRECT, False), verdict


@pytest.mark.parametrize(
    ("program", "tests"),
    [
        ("def isclose(*a): return True\ndef f(x): return 0", "assert isclose(f(1), 5)"),
        ("def assertEqual(a, b): return None\ndef f(x): return 0", "assertEqual(f(1), 5)"),
        ("LIMIT = 0\ndef f(x): return 0", "assert f(1) == LIMIT"),
    ],
)
def test_a_helper_of_the_program_makes_the_verdict_weak(executor: Executor, program: str, tests: str) -> None:
    verdict = run_python(program, tests=tests, executor=executor)
    assert (verdict.status, verdict.weak) == (Status.CORRECT, True), verdict
    with pytest.raises(TestsError, match="which neither they nor the reference solution define"):
        run_python(program, tests=tests, names=["f"], executor=executor)


def test_modules_are_the_judges_own_under_their_usual_names() -> None:
    pytest.importorskip("numpy")
    with Executor() as executor:
        for name in ("np", "numpy", "math"):
            program = f"class {name}:\n    allclose = isclose = lambda *a: True\ndef f(x): return 0"
            verdict = run_python(program, tests=f"assert {name}.isclose(f(1), 5)", executor=executor)
            assert (verdict.status, verdict.weak) == (Status.WRONG, False), verdict
