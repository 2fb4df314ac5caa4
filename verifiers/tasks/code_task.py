"""Base of the tasks that run programs: problem files, and ``verify`` in the sandbox."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from verifiers.programs.extraction import program_of
from verifiers.sandbox.executor import Executor, SandboxUnavailable
from verifiers.sandbox.grading import CodeTests, grade
from verifiers.settings import TaskSettings
from verifiers.task import Prompt
from verifiers.tasks.datasets import read_objects
from verifiers.verdict import Status, Verdict

CHAT_INSTRUCTION = "Answer with the complete code in one ```python block."


class CodeVerifier:
    """Grades responses that contain programs. The sandbox starts with the first one, or with ``prepare``."""

    def __init__(self, settings: TaskSettings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._executor: Executor | None = None

    @property
    def executor(self) -> Executor:
        """The sandbox of this task."""
        with self._lock:
            if self._executor is None:
                self._executor = Executor(self.settings.sandbox)
            return self._executor

    def prepare(self) -> str:
        """Start the sandbox and return its level of isolation in one line.

        Raises:
            SandboxUnavailable: The machine cannot enforce ``task.sandbox.minimum_level``.
        """
        return self.executor.describe()

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        """Grade one response by running its program against the problem's tests. See ``Task.verify``."""
        started = time.perf_counter()
        reference = prompt.reference
        program = program_of(response, prompt=reference["prompt"], entry_point=reference["entry_point"])
        if program is None:
            seconds = time.perf_counter() - started
            return Verdict.binary(Status.UNPARSABLE, seconds=seconds, detail="no program found in the response")
        tests = tests_of(reference)
        sandbox = self.settings.sandbox
        try:
            verdict = grade(program, tests, sandbox.limits(), self.executor, allow_weak=sandbox.allow_weak)
        except SandboxUnavailable as error:
            return Verdict.failed(str(error), seconds=time.perf_counter() - started)
        return replace(verdict, answer=program, seconds=time.perf_counter() - started)

    def close(self) -> None:
        """Stop the sandbox."""
        with self._lock:
            if self._executor is not None:
                self._executor.close()
                self._executor = None


def reference_of(tests: CodeTests, entry_point: str) -> dict[str, Any]:
    """The reference of a code problem: its tests, and the function that the program in a response must define."""
    return {
        "kind": tests.kind,
        "tests": tests.tests,
        "prompt": tests.prompt,
        "entry_point": entry_point,
        "names": list(tests.names),
        "modules": dict(tests.modules),
        "forgeable": tests.forgeable,
    }


def tests_of(reference: dict[str, Any]) -> CodeTests:
    """The tests of a code problem, from its prompt's reference."""
    return CodeTests(
        reference["kind"],
        reference["tests"],
        # In MBPP the entry point only selects the code block of a response.
        entry_point=reference["entry_point"] if reference["kind"] == "check" else "",
        prompt=reference["prompt"],
        names=tuple(reference["names"]),
        modules=reference["modules"],
        forgeable=reference["forgeable"],
    )


def read_problems(path: Path, parse: Callable[[dict[str, Any], str], Prompt | None]) -> list[Prompt]:
    """The problems of a JSON Lines file (``.gz`` too), in order; ``parse`` returns None to skip a row.

    Raises:
        ValueError: Not JSON, a duplicate id, or no problems; the message names file, line and remedy.
    """
    prompts: dict[str, Prompt] = {}
    for row in read_objects(path):
        prompt = parse(row.fields, row.place)
        if prompt is None:
            continue
        if prompt.id in prompts:
            raise ValueError(f"{row.place}: duplicate id {prompt.id!r}; make ids unique")
        prompts[prompt.id] = prompt
    if not prompts:
        raise ValueError(f"{path} contains no problems of the split; use a file with one JSON object per line")
    return list(prompts.values())


def text_field(row: dict[str, Any], names: tuple[str, ...], place: str) -> str:
    """The first of the fields ``names`` that the row has, which must be text.

    Raises:
        ValueError: All are missing, or the first is not text.
    """
    for name in names:
        if name in row:
            if isinstance(row[name], str) and row[name].strip():
                return row[name]
            break
    raise ValueError(f"{place}: the field {names[0]!r} is missing or not text; add it to the line")


def optional_text(row: dict[str, Any], name: str, place: str) -> str:
    """The field ``name``, or "" if it is missing or null. Raises ValueError if it is not text."""
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{place}: the field {name!r} is not text; correct it or leave it out")
    return value or ""


def first_of(prompts: list[Prompt], size: int | None, split: str) -> list[Prompt]:
    """The first ``size`` prompts (None: all). Raises ValueError if there are fewer."""
    if size is not None and size > len(prompts):
        raise ValueError(f"task.{split}_size is {size}, but the {split} split has only {len(prompts)}; lower it")
    return prompts[:size]
