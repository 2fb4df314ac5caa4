"""Grades a program by its tests, in three conventions: ``check(candidate)``, asserts, or stdin and stdout."""

from __future__ import annotations

import ast
import atexit
import json
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from verifiers.sandbox.executor import Executor
from verifiers.sandbox.inside.unbound_names import Names, outside
from verifiers.sandbox.levels import Level
from verifiers.sandbox.limits import Limits
from verifiers.sandbox.worker import Outcome, WorkerDied
from verifiers.verdict import Status, Verdict

_STATUS = {
    "correct": Status.CORRECT,
    "wrong": Status.WRONG,
    "crash": Status.CRASH,
    "syntax": Status.UNPARSABLE,
}
_FAULTS = {
    "broken": "the tests are wrong",
    "infrastructure": "the sandbox failed",
    "unsplittable": "the tests cannot be kept apart from the program (task.sandbox.allow_weak: true would run them "
    "next to it, and mark the verdict weak)",
}


class TestsError(ValueError):
    """The tests cannot be used; the message has the reason."""

    __test__ = False  # not a pytest class


@dataclass(frozen=True, slots=True)
class CodeTests:
    """Tests of one problem.

    Attributes:
        kind: ``check`` (the tests define ``check(candidate)``), ``asserts``, or ``stdio``.
        tests: Python source (``check``, ``asserts``), or JSON: a list of {"input", "output"} (``stdio``).
        entry_point: Name of the function under test (``check`` only).
        prompt: Source that the tests may use, such as helpers of the problem (``check`` only).
        names: Names that the tests take from the program (``asserts`` only).
        modules: Modules that the tests use without importing them, by the name that they have there.
        forgeable: Several names come from the program without a list of those under test, so one may be a helper with
            which the program grades itself. The verdict is marked weak.
        tolerance: Tolerance of printed numbers (``stdio`` only); None: ``task.sandbox.tolerance``.
    """

    __test__ = False

    kind: str
    tests: str
    entry_point: str = ""
    prompt: str = ""
    names: tuple[str, ...] = ()
    modules: Mapping[str, str] = field(default_factory=dict)
    forgeable: bool = False
    tolerance: float | None = None

    @classmethod
    def of(
        cls,
        tests: str,
        *,
        entry_point: str | None = None,
        prompt: str = "",
        names: Sequence[str] | None = None,
        tolerance: float | None = None,
    ) -> CodeTests:
        """Detect the convention of ``tests``, and check that they can be used.

        Args:
            tests: See ``run_python``, as for the others.
            entry_point: The function that ``check`` is given.
            prompt: Source that the tests may use.
            names: Names that the program must define for asserts; None: all that they use but do not define.
            tolerance: Tolerance of printed numbers; None for that of the settings.

        Raises:
            TestsError: They do not compile, no convention fits, or they would not test the program (see the message).
        """
        if isinstance(names, str):
            raise TestsError(f"names is one text, {names!r}; give a list of names")
        if tests.lstrip().startswith("["):
            if tolerance is not None and not 0 <= tolerance < 1:
                raise TestsError(f"the tolerance is {tolerance}; give at least 0 and less than 1")
            stdio = cls("stdio", tests, tolerance=tolerance)
            if _is_json(tests):
                stdio.cases()
                return stdio
        tree = _parse(tests, "the tests")
        defines_check = any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in tree.body)
        if entry_point is None:
            called = any(isinstance(node, ast.Name) and node.id == "check" for node in ast.walk(tree))
            if defines_check and not called:
                raise TestsError("the tests define check(candidate) and never call it; give entry_point")
            return cls._asserts(tests, tree, names)
        if not defines_check:
            raise TestsError("entry_point is given, but the tests define no function check(candidate)")
        if not entry_point.isidentifier():
            raise TestsError(f"the entry point {entry_point!r} is not a valid function name")
        both = ast.Module([*_parse(prompt, "the prompt").body, *tree.body], [])
        outer = _outside(both, [entry_point])
        for name in outer.program:
            raise TestsError(f"the tests use the name {name!r}, which neither they nor the prompt define")
        _calls_its_argument(tree, entry_point)
        return cls("check", tests, entry_point, prompt, modules=outer.modules)

    @classmethod
    def _asserts(cls, tests: str, tree: ast.Module, names: Sequence[str] | None) -> CodeTests:
        outer = _outside(tree, names or ())
        found = outer.program
        if names is None:
            if not found:
                raise TestsError("the tests use nothing that the program defines; let them call its function")
            return cls("asserts", tests, names=tuple(found), modules=outer.modules, forgeable=len(found) > 1)
        for name in found:
            raise TestsError(f"the tests use the name {name!r}, which neither they nor the reference solution define")
        if not names:
            raise TestsError("the tests use nothing that the reference solution defines; let them call its function")
        return cls("asserts", tests, names=tuple(names), modules=outer.modules)

    def cases(self) -> list[tuple[str, str]]:
        """Inputs and expected outputs of ``stdio`` tests. Raises TestsError."""
        rows: Any = json.loads(self.tests)
        if not rows:
            raise TestsError("the tests hold no case")
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("input", "output")):
                raise TestsError(f"case {number} of the tests must be an object with the texts input and output")
            if row.get("testtype") not in (None, "stdin"):
                raise TestsError(
                    f"case {number} of the tests has the testtype {row['testtype']!r}; only cases on stdin and stdout "
                    "are graded as a list: write calls of a function as asserts"
                )
        return [(row["input"], row["output"]) for row in rows]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _parse(source: str, what: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise TestsError(f"{what} do not compile: {error}") from error


def _outside(tree: ast.AST, known: Sequence[str]) -> Names:
    try:
        return outside(tree, known)
    except ValueError as error:
        raise TestsError(f"the tests: {error}") from error


def _calls_its_argument(tree: ast.Module, entry_point: str) -> None:
    """Raise TestsError if ``check`` makes no use of what it is given."""
    (*_, check) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "check")
    given = {argument.arg for argument in (*check.args.posonlyargs, *check.args.args)} | {entry_point}
    if not any(isinstance(n, ast.Name) and n.id in given and isinstance(n.ctx, ast.Load) for n in ast.walk(check)):
        raise TestsError("check never calls the function that it is given")


def grade(program: str, tests: CodeTests, limits: Limits, executor: Executor, *, allow_weak: bool = False) -> Verdict:
    """Run ``program`` against ``tests`` and judge it; never raises for what the program does.

    Raises:
        SandboxUnavailable: The machine cannot isolate untrusted code as configured.
    """
    started = time.perf_counter()
    job: dict[str, Any] = {"kind": tests.kind, "program": program}
    if tests.kind == "stdio":
        tolerance = executor.settings.tolerance if tests.tolerance is None else tests.tolerance
        verdict = _grade_cases({**job, "tolerance": tolerance}, tests.cases(), limits, executor)
    else:
        job.update(tests=tests.tests, entry_point=tests.entry_point, prompt=tests.prompt)
        job.update(names=tests.names, modules=dict(tests.modules))
        verdict = _grade_job(job, limits, executor, allow_weak)
    unsafe = executor.start().level.rank < Level.SECCOMP.rank
    if (unsafe or tests.forgeable) and verdict.reward is not None:
        verdict = replace(verdict, weak=True)
    detail = f"weak: {verdict.detail}".rstrip(": ") if verdict.weak else verdict.detail
    return replace(verdict, detail=detail, seconds=time.perf_counter() - started)


def _grade_cases(job: dict[str, Any], cases: list[tuple[str, str]], limits: Limits, executor: Executor) -> Verdict:
    """One process per case with its wall limit; the limit for all cases bounds their sum."""
    total = left = limits.total_seconds(len(cases))
    for number, (text, expected) in enumerate(cases, start=1):
        if left <= 0:
            return Verdict.binary(Status.TIMEOUT, detail=f"case {number}: no time left of {total:g} s for all cases")
        verdict = _grade_job({**job, "input": text, "output": expected}, limits.for_case(left), executor, False)
        if verdict.status is Status.TIMEOUT and left < limits.case_seconds:
            return replace(verdict, detail=f"case {number}: {verdict.detail}, the rest of {total:g} s for all cases")
        if verdict.status is not Status.CORRECT:
            return replace(verdict, detail=f"case {number}: {verdict.detail}")
        left -= verdict.seconds
    return Verdict.binary(Status.CORRECT)


def _grade_job(job: dict[str, Any], limits: Limits, executor: Executor, allow_weak: bool) -> Verdict:
    try:
        outcome = executor.run(job, limits)
    except (WorkerDied, TimeoutError, OSError) as error:
        return Verdict.failed(f"the sandbox failed: {error}")
    verdict = _verdict(outcome, limits)
    if allow_weak and outcome.reports and outcome.reports[-1].get("status") == "unsplittable":
        return replace(_grade_job({**job, "kind": "weak"}, limits, executor, allow_weak=False), weak=True)
    return verdict


def _verdict(outcome: Outcome, limits: Limits) -> Verdict:
    if outcome.failed:
        return Verdict.failed(f"the sandbox failed: {outcome.failed}", seconds=outcome.seconds)
    seen: dict[str, Any] = {}
    for report in outcome.reports:
        seen.update(report)
    seconds = outcome.seconds
    status = seen.get("status")
    if status is None or outcome.timed_out:
        return _without_verdict(outcome, seen, limits)
    if status in _FAULTS:
        return Verdict.failed(f"{_FAULTS[status]}: {seen.get('detail', '')}", seconds=seconds)
    detail = seen.get("detail", "")
    if seen.get("ended") and outcome.candidate_exit:
        status, detail = "crash", f"its exit status is {outcome.candidate_exit}, whatever it printed"
    if status == "crash" and outcome.candidate_exit is not None and outcome.candidate_exit < 0:
        number = -outcome.candidate_exit
        if number == signal.SIGXCPU or (number == signal.SIGKILL and outcome.cpu_seconds >= _cpu(limits)):
            return Verdict.binary(
                Status.TIMEOUT, seconds=seconds, detail=f"used {outcome.cpu_seconds:.1f} s of processor time"
            )
        detail = f"{detail} (killed by {_signal_name(number)})"
    return Verdict.binary(_STATUS[status], seconds=seconds, detail=detail)


def _cpu(limits: Limits) -> float:
    return float(limits.as_message()["cpu_seconds"])


def _without_verdict(outcome: Outcome, seen: dict[str, Any], limits: Limits) -> Verdict:
    """The judge was killed, or died. The program is to blame only if it had been started."""
    seconds = outcome.seconds
    if not seen.get("started"):
        what = f"nothing had started after {seconds:.1f} s" if outcome.timed_out else "the judge died at its start"
        return Verdict.failed(f"the sandbox failed: {what}", seconds=seconds)
    if outcome.timed_out:
        return Verdict.binary(Status.TIMEOUT, seconds=seconds, detail=f"over {limits.total_seconds():g} s of wall time")
    if seen.get("engaged"):
        # A value of the program's made the tests use up the judge's own memory or processor time.
        return Verdict.binary(Status.WRONG, seconds=seconds, detail="the tests could not handle what it returned")
    return Verdict.failed("the sandbox failed: the judge died", seconds=seconds)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


_shared_lock = threading.Lock()
_shared: list[Executor] = []


def shared_executor() -> Executor:
    """The executor of this process with default settings, made when first asked for and closed at exit."""
    with _shared_lock:
        if not _shared:
            _shared.append(Executor())
        return _shared[0]


def _close_shared() -> None:
    for executor in _shared:
        executor.close()


def _reset_after_fork() -> None:
    """After a fork the servers belong to the parent: on a shared connection each process could read the other's
    outcome, and each would end the server when its own job fails.
    """
    global _shared_lock
    _shared_lock = threading.Lock()
    _shared.clear()


atexit.register(_close_shared)
os.register_at_fork(after_in_child=_reset_after_fork)


def run_python(
    program: str,
    *,
    tests: str,
    limits: Limits | None = None,
    entry_point: str | None = None,
    prompt: str = "",
    names: Sequence[str] | None = None,
    tolerance: float | None = None,
    executor: Executor | None = None,
) -> Verdict:
    """Run an untrusted Python program against tests, in the sandbox.

    Args:
        program: The whole program.
        tests: Source with asserts; or source that defines ``check(candidate)``, with ``entry_point`` (and the
            ``prompt`` whose helpers it uses); or a JSON list of ``{"input": ..., "output": ...}`` for a program that
            reads stdin and prints. Names that asserts use and do not define come from the program.
        limits: Limits of the program with all of its tests; None: the defaults.
        entry_point: The function that ``check`` is given.
        prompt: Source that the tests may use.
        names: The names that asserts take from the program. None: those that they use and do not define; the verdict
            is then marked weak if there are several, because one of them may be a helper of the tests.
        tolerance: By how much numbers that it prints may differ from the expected ones, absolutely or relative to
            them (tests on stdin and stdout); None: as ``task.sandbox.tolerance`` of the executor says.
        executor: Where it runs; None: one that this process shares, with default settings.

    Returns:
        ``correct``, ``wrong``, ``crash`` (it raised or died), ``timeout``, ``unparsable`` (it does not compile), or
        ``verifier_error`` (no reward) where the sandbox or the tests failed.

    Raises:
        TestsError: The tests cannot be used.
        SandboxUnavailable: The machine cannot isolate untrusted code as configured.
    """
    executor = executor or shared_executor()
    code_tests = CodeTests.of(tests, entry_point=entry_point, prompt=prompt, names=names, tolerance=tolerance)
    return grade(program, code_tests, limits or Limits(), executor, allow_weak=executor.settings.allow_weak)
