"""Settings of the code sandbox."""

from __future__ import annotations

from pydantic import Field

from verifiers.sandbox.levels import Level
from verifiers.sandbox.limits import MAX_THREADS, Limits
from verifiers.section import Section


class SandboxSettings(Section):
    """How programs written by a model are run. Used only by the tasks that run code."""

    level: Level = Field(
        Level.LANDLOCK,
        description="Requested isolation: L1 resource limits only (not safe), L2 system calls filtered, L2b no file "
        "opened either, L3 Landlock instead (the standard library stays readable), L4 namespaces in addition. If the "
        "machine cannot enforce it, the next lower level that it can enforce is used.",
    )
    minimum_level: Level = Field(
        Level.SECCOMP_CLOSED,
        description="Below this level the run refuses to start. Lower it only if the programs may have access to the "
        "whole machine.",
    )
    wall_seconds: float | None = Field(
        None,
        gt=0.0,
        le=3600.0,
        description="Wall time of one program with all of its tests, in seconds. null: 10 if tests call functions; "
        "case_seconds for each case, at most 300, if they use stdin and stdout.",
    )
    case_seconds: float = Field(
        5.0,
        gt=0.0,
        le=3600.0,
        description="Wall time of one case on stdin and stdout, in seconds, from the start of the case. Public "
        "benchmarks have 1 to 10 (LiveCodeBench 6). Not for tests that call functions.",
    )
    tolerance: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="Tolerance of numbers on stdout, absolute or relative to the expected number; integers must be "
        "equal. 0: output is compared as text. Not for tests that call functions.",
    )
    memory_mib: int = Field(1024, ge=128, le=1 << 20, description="Address space of a program, in MiB.")
    threads: int | None = Field(
        None,
        ge=1,
        le=MAX_THREADS,
        description="Threads of a program over its whole run, the first one included. The second has a "
        "stack of 128 MiB, the others of 16 MiB, on top of memory_mib. null: 8 for programs on stdin and stdout, which "
        "use one for deep recursion; 1 (none can be started) if tests call functions.",
    )
    output_mib: int = Field(
        8, ge=1, le=1024, description="Largest output or returned value of a program, in MiB; more is a wrong answer."
    )
    servers: int = Field(
        1, ge=1, le=256, description="Fork servers of each verifier worker: programs that run at the same time."
    )
    uid: int = Field(
        65534, ge=1, description="User id of programs if the run itself is root; else they run as its user."
    )
    preload: tuple[str, ...] = Field(
        ("numpy",),
        description="Packages that programs may import besides the standard library, loaded once; missing ones are "
        "skipped and logged.",
    )
    allow_weak: bool = Field(
        False,
        description="If tests pass a program something that cannot be sent to another process (a function, for "
        "example), run them in its process. Such a verdict can be forged and is marked weak. false: verifier_error.",
    )

    def limits(self) -> Limits:
        """The limits of one job."""
        return Limits(
            wall_seconds=self.wall_seconds,
            case_seconds=self.case_seconds,
            memory_bytes=self.memory_mib << 20,
            processes=self.threads,
            output_bytes=self.output_mib << 20,
        )
