"""Judge the answers of a file with one of the project's verifiers, in parallel.

A broken row ends the command before anything is graded. Results stay in the order of the rows and are written one by
one; they get their final name when all are there, so an interruption loses no verdict. Training uses the
same code.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor as Pool
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from cluster.checks.preflight import check_output
from cluster.errors import UsageError
from verifiers.tasks.datasets import Row, read_checked
from verifiers.verdict import Status, Verdict

Fields = dict[str, Any]
Grader = Callable[[Any], Verdict]

PROCESS_ROWS = 2_000
"""From this many rows on, graders in Python use processes: threads would share one core, and a process takes
a second to start."""

MAX_SERVERS = 256  # what task.sandbox.servers allows

CHUNK = 64  # rows that a process takes at once


@dataclass(frozen=True)
class Kind:
    """One way to grade.

    Attributes:
        check: What is graded, from a row's fields. Raises ValueError, naming the field and the remedy.
        start: The grader, and a line to show (empty: none), from the seconds for one answer and how many are graded at
            once. Raises RuntimeError or ValueError if it cannot start.
        in_python: Whether grading computes in Python, so only several processes can run in parallel.
        tried: Whether the first row is graded before all others, because an error may be one of the user's code.
    """

    check: Callable[[Fields], Any]
    start: Callable[[float, int], tuple[Grader, str]]
    in_python: bool = True
    tried: bool = False


def field(fields: Fields, name: str, kind: type | tuple[type, ...] = str) -> Any:
    """The value of a field. Raises ValueError where it is missing or of another type."""
    value = fields.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = {str: "text", int: "an integer", list: "a list", dict: "an object"}
        names = " or ".join(wanted[one] for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(f"the field {name!r} is missing or not {names}")
    return value


# --- mathematics ----------------------------------------------------------------------------------


def _check_math(fields: Fields) -> tuple[str, str]:
    reference = field(fields, "reference")
    if not reference.strip():
        raise ValueError("the field 'reference' is empty")
    return field(fields, "prediction"), reference


def _grade_math(timeout_s: float, row: tuple[str, str]) -> Verdict:
    from verifiers import grade_math

    return grade_math(*row, timeout_s=timeout_s)


def _start_math(timeout_s: float, parallel: int) -> tuple[Grader, str]:
    return partial(_grade_math, timeout_s), ""


# --- GSM8K and Countdown --------------------------------------------------------------------------


def _check_gsm8k(fields: Fields) -> tuple[str, str]:
    from verifiers.tasks.gsm8k import reference_number

    reference = field(fields, "reference")
    if reference_number(reference) is None:
        raise ValueError(f"the reference {reference!r} is not a number")
    return field(fields, "prediction"), reference


def _grade_gsm8k(row: tuple[str, str]) -> Verdict:
    from verifiers.tasks.gsm8k import grade, reference_number

    prediction, reference = row
    number = reference_number(reference)
    assert number is not None  # checked while reading
    return grade(prediction, number)


def _start_gsm8k(timeout_s: float, parallel: int) -> tuple[Grader, str]:
    return _grade_gsm8k, ""


def _check_countdown(fields: Fields) -> tuple[str, list[int], int]:
    numbers = field(fields, "numbers", list)
    if not numbers or any(not isinstance(number, int) or isinstance(number, bool) for number in numbers):
        raise ValueError("the field 'numbers' is not a list of integers")
    return field(fields, "prediction"), numbers, field(fields, "target", int)


def _grade_countdown(row: tuple[str, list[int], int]) -> Verdict:
    from verifiers.tasks.countdown import grade

    return grade(*row)


def _start_countdown(timeout_s: float, parallel: int) -> tuple[Grader, str]:
    return _grade_countdown, ""


# --- code -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CodeOptions:
    """How programs are judged; a row's task may override it.

    Attributes:
        total_s: seconds for all cases on stdin and stdout together; None: those of each case, at most 300.
        threads: that a program may have, its first one included; None: 8 on stdin and stdout, else 1.
        tolerance: by which printed numbers may differ; None: output is compared as text.
    """

    total_s: float | None = None
    threads: int | None = None
    tolerance: float | None = None


@dataclass(frozen=True)
class CodeRow:
    """A completion with its tests. Without an entry point the prompt is text, not source code."""

    completion: str
    prompt: str
    entry_point: str | None
    tests: Any
    case_s: float | None
    options: CodeOptions


def _check_code(fields: Fields) -> CodeRow:
    from verifiers.sandbox.grading import CodeTests
    from verifiers.sandbox.limits import MAX_SECONDS, MAX_THREADS

    task = field(fields, "task", dict)
    tests = field(task, "test", (str, list))
    entry_point = None if task.get("entry_point") is None else field(task, "entry_point")
    prompt = "" if entry_point is None else field(task, "prompt")
    text = tests if isinstance(tests, str) else json.dumps(tests)
    case_s = _number(task, "time_limit", 0.001, MAX_SECONDS)
    threads = _number(task, "threads", 1, MAX_THREADS, int)
    tolerance = _number(task, "tolerance", 0.0, 0.999)
    options = CodeOptions(_number(task, "total_time_limit", 0.001, MAX_SECONDS), threads, tolerance)
    code_tests = CodeTests.of(text, entry_point=entry_point, prompt=prompt, tolerance=tolerance)
    return CodeRow(field(fields, "completion"), prompt, entry_point, code_tests, case_s, options)


def _number(task: Fields, name: str, least: float, most: float, kind: type = float) -> Any:
    """An optional number of a row's task; None where it has none."""
    value = task.get(name)
    if value is None:
        return None
    fits = isinstance(value, int) or (kind is float and isinstance(value, float))
    if not fits or isinstance(value, bool) or not least <= value <= most:
        what = "an integer" if kind is int else "a number"
        raise ValueError(f"the field {name!r} is {value!r}; give {what} from {least:g} to {most:g}")
    return value


def _start_code(timeout_s: float, parallel: int, options: CodeOptions) -> tuple[Grader, str]:
    from verifiers import Limits
    from verifiers.programs.extraction import program_of
    from verifiers.sandbox.executor import Executor
    from verifiers.sandbox.grading import grade
    from verifiers.sandbox.settings import SandboxSettings

    limits = Limits(wall_seconds=timeout_s, case_seconds=timeout_s, processes=options.threads)
    executor = Executor(SandboxSettings(servers=min(parallel, MAX_SERVERS), tolerance=options.tolerance or 0.0))

    def run(row: CodeRow) -> Verdict:
        # Asserts that use one name of the program tell which block is the program.
        wanted = row.tests.names[0] if len(row.tests.names) == 1 else row.entry_point
        program = program_of(row.completion, prompt=row.prompt, entry_point=wanted)
        if program is None:
            return Verdict.binary(Status.UNPARSABLE, detail="the completion holds no code")
        seconds = row.case_s or timeout_s
        whole = row.options.total_s or options.total_s if row.tests.kind == "stdio" else seconds
        threads = row.options.threads or options.threads
        own = replace(limits, wall_seconds=whole, case_seconds=seconds, processes=threads)
        return grade(program, row.tests, own, executor)

    return run, executor.describe()  # refuses at once where the machine cannot hold untrusted code


KINDS = {
    "math": Kind(_check_math, _start_math),
    "gsm8k": Kind(_check_gsm8k, _start_gsm8k),
    "code": Kind(_check_code, partial(_start_code, options=CodeOptions()), in_python=False),
    "countdown": Kind(_check_countdown, _start_countdown),
}


def grade_file(
    source: Path,
    output: Path,
    kind: str,
    *,
    timeout_s: float,
    parallel: int | None = None,
    code: CodeOptions | None = None,
    own: Kind | None = None,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] = lambda rows, total: rows,
    say: Callable[[str], None] = lambda line: None,
) -> Counter[str]:
    """Grade every row of `source` into `output`; how many rows got each status.

    Args:
        source: JSON Lines (`.gz` too) or Parquet.
        output: a file that is not there yet; while the command runs it is called OUTPUT.partial.
        kind: a key of KINDS, or the name of `own`.
        timeout_s: for one answer; of a program on stdin and stdout, for each case.
        parallel: answers graded at once; None: one for each core.
        code: how programs are judged (kind code only).
        own: a way to grade that is not in KINDS.
        progress: wraps the finished rows, for a progress bar.
        say: is given what to show before grading begins, such as the isolation of programs, and what is kept when it
            ends early.

    Raises:
        UsageError: unknown kind, a row that cannot be graded (file, line and remedy), an output that cannot be written.
    """
    if kind not in KINDS and own is None:
        raise UsageError(
            f"--verifier {kind}: choose one of {', '.join(KINDS)}, or name a reward of your own, path/to/file.py:name"
        )
    chosen = _with_options(kind, own or KINDS[kind], code)
    partial_output = output.with_name(output.name + ".partial")
    check_output("--output", output)
    if partial_output.exists():
        raise UsageError(
            f"--output {output}: {partial_output} exists already; name another output, or move that file away"
        )
    names, rows = _read(source, chosen)
    parallel = parallel or os.cpu_count() or 1
    grade = _started(kind, chosen, timeout_s, parallel, say)
    tried = [grade(rows[0])] if chosen.tried else []
    if tried and tried[0].status is Status.VERIFIER_ERROR:
        raise UsageError(f"--verifier {kind}: tried on the first row: {tried[0].detail}")
    counts: Counter[str] = Counter()
    failed: tuple[str | int, Verdict] | None = None  # the first row without a reward
    try:
        partial_output.parent.mkdir(parents=True, exist_ok=True)
        with partial_output.open("w", encoding="utf-8", buffering=1) as sink:
            verdicts = chain(tried, _verdicts(chosen, grade, rows[len(tried) :], parallel))
            for name, verdict in progress(zip(names, verdicts, strict=True), len(rows)):
                sink.write(json.dumps(_result(name, verdict)) + "\n")
                counts[verdict.status.value] += 1
                if failed is None and verdict.status is Status.VERIFIER_ERROR:
                    failed = name, verdict
        partial_output.replace(output)
    except BaseException as error:
        if counts:  # also after Ctrl-C
            say(f"{counts.total()} of {len(rows)} rows were graded; their verdicts are in {partial_output}")
        if isinstance(error, OSError):
            raise UsageError(f"--output {output}: cannot be written: {error.strerror}") from error
        raise
    finally:
        if not counts:
            partial_output.unlink(missing_ok=True)
    if failed is not None:
        count = counts[Status.VERIFIER_ERROR.value]
        say(
            f"{count} of {len(rows)} rows have no reward (verifier_error); the first, {failed[0]!r}: {failed[1].detail}"
        )
    return counts


def _with_options(kind: str, chosen: Kind, code: CodeOptions | None) -> Kind:
    """How rows of a kind are graded with these options."""
    if code is None or code == CodeOptions():
        return chosen
    if kind != "code":
        raise UsageError(
            f"--total-timeout, --threads and --tolerance apply to --verifier code only; leave them out with {kind}"
        )
    return replace(chosen, start=partial(_start_code, options=code))


def _started(name: str, kind: Kind, timeout_s: float, parallel: int, say: Callable[[str], None]) -> Grader:
    """The grader; says what it has to show."""
    try:
        grade, line = kind.start(timeout_s, parallel)
    except (ImportError, RuntimeError) as error:
        raise UsageError(f"--verifier {name}: {error}") from error
    except ValueError as error:
        raise UsageError(f"--timeout {timeout_s:g}: {error}") from error
    if line:
        say(line)
    return grade


def _verdicts(kind: Kind, grade: Grader, rows: list[Any], parallel: int) -> Iterator[Verdict]:
    """The verdicts of the rows, in order."""
    pool: Pool
    if kind.in_python and parallel > 1 and len(rows) >= PROCESS_ROWS:
        pool, chunk = ProcessPoolExecutor(parallel, multiprocessing.get_context("spawn")), CHUNK
    else:
        pool, chunk = ThreadPoolExecutor(parallel), 1
    try:
        yield from pool.map(grade, rows, chunksize=chunk)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _result(name: str | int, verdict: Verdict) -> Fields:
    return {
        "id": name,
        "status": verdict.status.value,
        "reward": verdict.reward,
        "seconds": round(verdict.seconds, 6),
        "answer": verdict.answer,
        "detail": verdict.detail,
    } | ({"parts": dict(verdict.parts)} if verdict.parts else {})


def _read(source: Path, kind: Kind) -> tuple[list[str | int], list[Any]]:
    """Ids and checked contents of all rows; the ids are the numbers of the lines where no row has one."""
    places: dict[str | int, str] = {}
    named: bool | None = None  # whether rows have ids: the first row decides

    def check(row: Row) -> Any:
        nonlocal named
        named = "id" in row.fields if named is None else named
        try:
            if not named and "id" in row.fields:
                raise ValueError("the field 'id' is set here but not in the first row; set it in all rows or in none")
            name = field(row.fields, "id", (str, int)) if named else row.number
            if name in places:
                raise ValueError(f"the id {name!r} was seen before ({places[name].rpartition(', ')[2]})")
            places[name] = row.place
            return kind.check(row.fields)
        except ValueError as error:
            remedy = "" if ";" in str(error) else "; fix the line"
            raise ValueError(f"{row.place}: {error}{remedy}") from error

    try:
        rows = read_checked(source, check)
    except ValueError as error:
        raise UsageError(f"--input {error}") from error
    if not rows:
        raise UsageError(f"--input {source} holds no rows; each line must be one JSON object")
    return list(places), rows
