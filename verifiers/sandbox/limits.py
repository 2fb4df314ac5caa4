"""Resource limits of one program."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

MAX_SECONDS = 3600.0
MAX_THREADS = 64  # each has a deep stack

FUNCTION_SECONDS = 10.0
"""Wall limit of a program with tests that call its functions, by default."""

CASES_SECONDS = 300.0
"""Largest default wall limit of all cases on stdin and stdout together."""

SCRIPT_THREADS = 8
"""Default number of threads of a program on stdin and stdout, which often uses one for deep recursion."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one job: a program with all of its tests.

    Attributes:
        wall_seconds: From the start of the job until program and judge are killed, over all tests. None:
            ``FUNCTION_SECONDS``; for cases on stdin and stdout ``case_seconds`` for each, at most ``CASES_SECONDS``.
        case_seconds: The same for one case on stdin and stdout, from the start of its process.
        cpu_seconds: Processor time of the program, in each case, rounded up to whole seconds. None: the wall limit
            and one second.
        memory_bytes: Address space of each process, without the stacks of further threads.
        processes: Threads that the program may start over its whole run, and its first one. None: 1, so that it
            starts none, and for cases on stdin and stdout ``SCRIPT_THREADS``. Child processes are never allowed.
        file_bytes: Size of a file that the program writes; from level L2 on it can write none at all.
        output_bytes: What the program may print (tests on stdin and stdout), and the longest value it may return.
    """

    wall_seconds: float | None = None
    case_seconds: float = 5.0
    cpu_seconds: float | None = None
    memory_bytes: int = 1 << 30
    processes: int | None = None
    file_bytes: int = 0
    output_bytes: int = 8 << 20

    def __post_init__(self) -> None:
        for name in ("wall_seconds", "case_seconds", "cpu_seconds"):
            seconds = getattr(self, name)
            if seconds is not None and not 0 < seconds <= MAX_SECONDS:
                raise ValueError(f"limits: {name} is {seconds}; give more than 0 and at most {MAX_SECONDS}")
        # The interpreter with the preloaded modules needs this much.
        if self.memory_bytes < 128 << 20:
            raise ValueError(f"limits: memory_bytes is {self.memory_bytes}; give at least {128 << 20} (128 MiB)")
        if self.processes is not None and self.processes > MAX_THREADS:
            raise ValueError(f"limits: processes is {self.processes}; give at most {MAX_THREADS}")
        for name, least in (("processes", 1), ("file_bytes", 0), ("output_bytes", 1024)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"limits: {name} is {value}; give at least {least}")

    def total_seconds(self, cases: int = 0) -> float:
        """The wall limit of all tests: of so many cases on stdin and stdout, or (0) of tests that call functions."""
        if self.wall_seconds is not None:
            return self.wall_seconds
        return min(cases * self.case_seconds, CASES_SECONDS) if cases else FUNCTION_SECONDS

    def for_case(self, left: float) -> Limits:
        """The limits of one case on stdin and stdout, with ``left`` seconds for it and all that follow."""
        seconds = min(self.case_seconds, left)
        return replace(self, wall_seconds=seconds, processes=self.processes or SCRIPT_THREADS)

    def as_message(self) -> dict[str, float | int]:
        """As the fork server reads them."""
        message = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "case_seconds"}
        message["wall_seconds"] = wall = self.total_seconds()
        message["processes"] = self.processes or 1
        if self.cpu_seconds is None:
            message["cpu_seconds"] = wall + 1.0
        return message
