"""The code sandbox: runs untrusted programs against tests, isolated by the operating system.

    from verifiers.sandbox import Executor, run_python

Two processes per program: a *candidate* that runs it, and a *judge* that runs the tests and asks the candidate for
values. See docs/sandbox.md for the layers, the levels and the attacks they stop.
"""

from verifiers.sandbox.executor import Executor, SandboxUnavailable
from verifiers.sandbox.grading import CodeTests, TestsError, grade, run_python
from verifiers.sandbox.levels import Isolation, Layers, Level
from verifiers.sandbox.limits import Limits
from verifiers.sandbox.settings import SandboxSettings

__all__ = [
    "CodeTests",
    "Executor",
    "Isolation",
    "Layers",
    "Level",
    "Limits",
    "SandboxSettings",
    "SandboxUnavailable",
    "TestsError",
    "grade",
    "run_python",
]
