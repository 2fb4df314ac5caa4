"""What one program may use up."""

from __future__ import annotations

from dataclasses import dataclass, fields

_MAX_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one job: a program with all of its tests.

    Attributes:
        wall_seconds: From the moment that work starts until program and judge are killed.
        cpu_seconds: Processor time of the program (and of the judge), rounded up to whole seconds. None: the wall
            limit and one second.
        memory_bytes: Address space of each process.
        processes: Threads that the program may have at once. 1: it starts none. Child processes are never allowed.
        file_bytes: Size of a file that the program writes; from level L2 on it can write none at all.
        output_bytes: What the program may print (tests on stdin and stdout), and the longest value it may return.
    """

    wall_seconds: float = 10.0
    cpu_seconds: float | None = None
    memory_bytes: int = 1 << 30
    processes: int = 1
    file_bytes: int = 0
    output_bytes: int = 8 << 20

    def __post_init__(self) -> None:
        if not 0 < self.wall_seconds <= _MAX_SECONDS:
            raise ValueError(
                f"limits: wall_seconds is {self.wall_seconds}; give more than 0 and at most {_MAX_SECONDS}"
            )
        if self.cpu_seconds is not None and not 0 < self.cpu_seconds <= _MAX_SECONDS:
            raise ValueError(f"limits: cpu_seconds is {self.cpu_seconds}; give more than 0 and at most {_MAX_SECONDS}")
        # Below this not even the warm interpreter, which every program starts in, fits.
        if self.memory_bytes < 128 << 20:
            raise ValueError(f"limits: memory_bytes is {self.memory_bytes}; give at least {128 << 20} (128 MiB)")
        for name, least in (("processes", 1), ("file_bytes", 0), ("output_bytes", 1024)):
            if getattr(self, name) < least:
                raise ValueError(f"limits: {name} is {getattr(self, name)}; give at least {least}")

    def as_message(self) -> dict[str, float | int]:
        """As the fork server reads them."""
        message = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.cpu_seconds is None:
            message["cpu_seconds"] = self.wall_seconds + 1.0
        return message
