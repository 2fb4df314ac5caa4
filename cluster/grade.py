"""`bonrl grade`: judge the answers of a JSON Lines file with one of the project's verifiers, in parallel.

Rows stay in order, a broken row ends the command before anything is graded, and the output appears whole or not at
all. It is the same code that grades in training, so anyone can check a grader from outside.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import UsageError
from verifiers.verdict import Verdict

Row = dict[str, Any]
Grader = Callable[[Row], Verdict]


@dataclass(frozen=True)
class Kind:
    """One way to grade: the fields that a row needs (dotted for nested ones), and how the grader is made."""

    fields: tuple[str, ...]
    make: Callable[[float, int], Grader]  # (seconds for one answer, answers graded at once)


def _math(timeout_s: float, parallel: int) -> Grader:
    from verifiers import grade_math

    return lambda row: grade_math(row["prediction"], row["reference"], timeout_s=timeout_s)


def _code(timeout_s: float, parallel: int) -> Grader:
    from verifiers import Limits, Status, run_python
    from verifiers.programs import program_of
    from verifiers.sandbox.executor import Executor
    from verifiers.sandbox.settings import SandboxSettings

    executor = Executor(SandboxSettings(servers=parallel))
    executor.start()  # refuses at once where the machine cannot hold untrusted code
    limits = Limits(wall_seconds=timeout_s)

    def grade(row: Row) -> Verdict:
        task = row["task"]
        program = program_of(row["completion"], prompt=task["prompt"], entry_point=task["entry_point"])
        if program is None:
            return Verdict.binary(Status.UNPARSABLE, detail="the completion holds no code")
        arguments = {"entry_point": task["entry_point"], "prompt": task["prompt"]}
        return run_python(program, tests=task["test"], limits=limits, executor=executor, **arguments)

    return grade


def _countdown(timeout_s: float, parallel: int) -> Grader:
    from verifiers.countdown import grade

    return lambda row: grade(row["prediction"], row["numbers"], row["target"])


KINDS = {
    "math": Kind(("prediction", "reference"), _math),
    "code": Kind(("completion", "task.prompt", "task.test", "task.entry_point"), _code),
    "countdown": Kind(("prediction", "numbers", "target"), _countdown),
}
_TYPES: dict[str, type] = {"numbers": list, "target": int}  # every other field is text


def grade_file(
    source: Path,
    output: Path,
    kind: str,
    *,
    timeout_s: float,
    parallel: int | None = None,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] = lambda rows, total: rows,
) -> Counter[str]:
    """Grade every row of `source` into `output`; how many rows got each status.

    Args:
        kind: a key of KINDS.
        timeout_s: for one answer.
        parallel: answers graded at once; None: one for each core.
        progress: wraps the finished rows, for a progress bar.

    Raises:
        UsageError: unknown kind, a row that cannot be graded (file, line and mend), an output that cannot be written.
    """
    if kind not in KINDS:
        raise UsageError(f"--verifier {kind}: choose one of {', '.join(KINDS)}")
    if output.exists():
        raise UsageError(f"--output {output}: it exists already; name a file that does not")
    rows = _read(source, KINDS[kind].fields)
    parallel = parallel or os.cpu_count() or 1
    try:
        grade = KINDS[kind].make(timeout_s, parallel)
    except (ImportError, RuntimeError) as error:
        raise UsageError(f"--verifier {kind}: {error}") from error
    temporary = output.with_name(f".{output.name}.writing")
    counts: Counter[str] = Counter()
    try:
        with temporary.open("w", encoding="utf-8") as sink, ThreadPoolExecutor(parallel) as pool:
            for row, verdict in progress(zip(rows, pool.map(grade, rows), strict=True), len(rows)):
                counts[verdict.status.value] += 1
                sink.write(json.dumps(_result(row["id"], verdict), ensure_ascii=False) + "\n")
        temporary.replace(output)
    except OSError as error:
        raise UsageError(f"--output {output}: cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return counts


def _result(name: Any, verdict: Verdict) -> Row:
    return {
        "id": name,
        "status": verdict.status.value,
        "reward": verdict.reward,
        "seconds": round(verdict.seconds, 6),
        "answer": verdict.answer,
        "detail": verdict.detail,
    }


def _read(source: Path, fields: tuple[str, ...]) -> list[Row]:
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--input {source}: cannot be read: {error}") from error
    rows = list(_rows(text, source, fields))
    if not rows:
        raise UsageError(f"--input {source} holds no rows; each line must be one JSON object")
    return rows


def _rows(text: str, source: Path, fields: tuple[str, ...]) -> Iterator[Row]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        place = f"{source}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"{place}: not valid JSON ({error}); each line must be one JSON object") from error
        if not isinstance(row, dict) or "id" not in row:
            raise UsageError(f"{place}: not a JSON object with an id; add the field 'id'")
        for field in fields:
            value: Any = row
            for part in field.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            wanted = _TYPES.get(field, str)
            if not isinstance(value, wanted):
                raise UsageError(f"{place}: the field {field!r} is missing or no {wanted.__name__}; mend the line")
        yield row
