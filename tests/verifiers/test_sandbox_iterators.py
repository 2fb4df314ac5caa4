"""Iterators that a program returns, and arguments that it changes in place."""

from __future__ import annotations

import platform
import sys

import pytest

from verifiers import Limits, Status, run_python
from verifiers.sandbox.executor import Executor

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the seccomp filter is for Linux on x86_64"
)

ENDLESS = "def f():\n    a, b = 0, 1\n    while True:\n        yield a\n        a, b = b, a + b\n"
RAISES = "def f():\n    yield 1\n    yield 2\n    raise ValueError('no more')\n"
ITERATOR = "class f:\n    n = 0\n    def __iter__(s): return s\n    def __next__(s):\n        s.n += 1\n"
SUM = "def f():\n    total = 0\n    while True:\n        total += (yield total) or 0\n"
ENDS = "def f():\n    got = yield 1\n    if got == 'raise': raise ValueError(got)\n"
ITERATOR += "        if s.n > 3: raise StopIteration\n        return s.n\n"


@pytest.mark.parametrize(
    ("program", "tests"),
    [
        (ENDLESS, "g = f()\nassert [next(g) for _ in range(10)] == [0, 1, 1, 2, 3, 5, 8, 13, 21, 34]"),
        (ENDLESS, "from itertools import islice\nassert list(islice(f(), 5000))[-1] % 1000 == 501"),
        (ENDLESS, "from itertools import takewhile\nassert sum(takewhile(lambda x: x < 10, f())) == 20"),
        (RAISES, "g = f()\nassert next(g) == 1\nassert next(g) == 2"),
        (RAISES, "got = []\ntry:\n    for x in f(): got.append(x)\nexcept ValueError: pass\nassert got == [1, 2]"),
        (ITERATOR, "assert list(f()) == [1, 2, 3]"),
        ("def f(): return [iter('ab'), (x for x in 'cd')]", "a, b = f()\nassert [*b, *a] == ['c', 'd', 'a', 'b']"),
        ("def f(x=None): return iter([1, 2]) if x is None else sum(x)", "assert f(f()) == 3"),
        ("def f(): return iter([])", "assert next(f(), None) is None and list(f()) == []"),
        ("def f(x): return list(x)", "assert f(iter([1, (2,)])) == [1, (2,)]"),
        (SUM, "g = f()\nnext(g)\nfor i in range(20): total = g.send(i)\nassert total == 190 == next(g)"),
        (SUM, "g = f()\nassert g.send(None) == 0 and g.send(5) == 5 and g.send(7) == 12"),
        (ENDS, "g = f()\nnext(g)\nended = False\ntry: g.send('a')\nexcept StopIteration: ended = True\nassert ended"),
        (ENDS, "g = f()\nnext(g)\nsaid = ''\ntry: g.send('raise')\nexcept ValueError as e: said = str(e)\nassert said"),
        ("def f(n): return range(n).__iter__()", "assert len(list(f(10_000))) == 10_000"),
    ],
)
def test_items_are_made_when_the_tests_need_them(executor: Executor, program: str, tests: str) -> None:
    verdict = run_python(program, tests=tests, executor=executor)
    assert verdict.status is Status.CORRECT, verdict


@pytest.mark.parametrize(
    ("program", "tests", "status"),
    [
        (RAISES, "assert list(f()) == [1, 2]", Status.CRASH),
        ("def f(): yield 1", "assert list(f()) == [2]", Status.WRONG),
        (ENDLESS, "assert list(f()) == [0]", Status.TIMEOUT),
        (SUM, "g = f()\nnext(g)\nassert g.send(2) == 3", Status.WRONG),
        (SUM, "g = f()\nfor _ in range(6): next(g)\nassert g.send(2) == 2", Status.WRONG),
        (SUM, "g = f()\nfor _ in range(8): next(g)\nassert g.send(2) == 2", Status.WRONG),
        (ITERATOR, "g = f()\nnext(g)\nassert g.send(1) == 2", Status.CRASH),
        ("def f(): yield from [StopIteration, 1]", "assert list(f()) == [1]", Status.WRONG),
        ("def f():\n    yield 1\n    raise StopIteration", "assert list(f()) == [1]", Status.CRASH),
    ],
)
def test_wrong_items(executor: Executor, program: str, tests: str, status: Status) -> None:
    limits = Limits(wall_seconds=0.5 if status is Status.TIMEOUT else 10.0)
    assert run_python(program, tests=tests, limits=limits, executor=executor).status is status


@pytest.mark.parametrize(
    ("program", "tests"),
    [
        ("def f(x): x.sort()", "a = [3, 1, 2]\nf(a)\nassert a == [1, 2, 3]"),
        (
            "def f(x): x[:] = [list(r) for r in zip(*x[::-1])]",
            "a = [[1, 2], [3, 4]]\nf(a)\nassert a == [[3, 1], [4, 2]]",
        ),
        ("def f(x, *, key): x[key] = 1", "a = {'b': 2}\nf(x=a, key='c')\nassert a == {'b': 2, 'c': 1}"),
        ("def f(x): x.discard(1)", "a = {1, 2}\nassert f(a) is None and a == {2}"),
        ("def f(x): x.appendleft(0)", "from collections import deque\na = deque([1])\nf(a)\nassert a == deque([0, 1])"),
        ("def f(x): x += b'c'", "a = bytearray(b'ab')\nf(a)\nassert a == b'abc'"),
        ("def f(x, y): y[0], x[0] = x[0], y[0]", "a, b = [1], [2]\nf(a, b)\nassert (a, b) == ([2], [1])"),
        ("class f:\n    def fill(self, x): x.extend('ab')", "a = []\nf().fill(a)\nassert a == ['a', 'b']"),
    ],
)
def test_a_function_that_returns_none_may_change_its_arguments(executor: Executor, program: str, tests: str) -> None:
    verdict = run_python(program, tests=tests, executor=executor)
    assert verdict.status is Status.CORRECT, verdict


@pytest.mark.parametrize("nested", [False, True])
def test_none_counts_where_the_arguments_cannot_be_sent_back(executor: Executor, nested: bool) -> None:
    build = "for _ in range(70): a = [a]\n" if nested else ""
    program = "def f(x): pass" if nested else "def f(x): x.append(x)"
    verdict = run_python(program, tests=f"a = []\n{build}assert f(a) is None", executor=executor)
    assert verdict.status is Status.CORRECT, verdict


def test_none_counts_where_the_arguments_are_too_long_to_send_back(executor: Executor) -> None:
    tests = "a = [1] * 3_000_000\nassert f(a) is None and len(a) == 3_000_000"
    verdict = run_python("def f(x): x.append(2)", tests=tests, executor=executor)
    assert verdict.status is Status.CORRECT, verdict


def test_a_value_is_not_compared_with_an_argument_that_the_program_changed(executor: Executor) -> None:
    tests = "a = [1, 2, 3]\nassert f(a) == len(a)"
    verdict = run_python("def f(x):\n    x.clear()\n    return 0", tests=tests, executor=executor)
    assert verdict.status is Status.WRONG, verdict
