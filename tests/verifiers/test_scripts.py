"""Programs on stdin and stdout run as ``python solution.py`` runs them: each is tried with the real interpreter too."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from verifiers import Limits, Status, run_python
from verifiers.sandbox.executor import Executor
from verifiers.sandbox.levels import Level
from verifiers.sandbox.settings import SandboxSettings

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the seccomp filter is for Linux on x86_64"
)

LEVELS = [
    Level.LANDLOCK,
    pytest.param(Level.SECCOMP_CLOSED, marks=pytest.mark.slow),
    pytest.param(Level.NAMESPACES, marks=pytest.mark.slow),
]


def _table() -> list[tuple[str, str, str | None]]:
    """Programs of scripts.txt, what they read, and what they print; None where their exit status is not 0."""
    text = (Path(__file__).parent / "scripts.txt").read_text(encoding="utf-8")
    rows = []
    for section in re.split(r"^### ", re.sub(r"^## .*\n", "", text, flags=re.MULTILINE), flags=re.MULTILINE)[1:]:
        head, program = section.split("\n", 1)
        read, printed = (json.loads(part) for part in head.split(" -> "))
        rows.append((program.rstrip().replace("\\ufeff", "\ufeff"), read, printed))
    return rows


ALL = _table()


@pytest.fixture(scope="module", params=LEVELS)
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with Executor(SandboxSettings(level=request.param, preload=())) as made:
        if made.start().level is not request.param:
            pytest.skip(f"this machine does not reach {request.param}")
        yield made


@pytest.mark.parametrize(("program", "text", "printed"), ALL)
def test_a_script_does_what_it_does_in_python(executor: Executor, program: str, text: str, printed: str | None) -> None:
    if "mmap" in program and executor.start().level is Level.SECCOMP_CLOSED:
        pytest.skip("mapping a file asks for its size in a way that this level refuses")
    if "cache\n" in program and "60_000" in program and sys.version_info >= (3, 12):
        pytest.skip("Python itself bounds the recursion of C functions from 3.12 on, and functools.cache is one")
    tests = json.dumps([{"input": text, "output": printed or ""}])
    verdict = run_python(program, tests=tests, limits=Limits(processes=4), executor=executor)
    assert verdict.status is (Status.CRASH if printed is None else Status.CORRECT), verdict


@pytest.mark.slow
@pytest.mark.parametrize(("program", "text", "printed"), ALL)
def test_python_does_what_the_table_says(program: str, text: str, printed: str | None, tmp_path: Path) -> None:
    (tmp_path / "solution.py").write_text(program)
    (tmp_path / "in").write_bytes(text.encode())
    with (tmp_path / "in").open() as stdin:
        done = subprocess.run(
            [sys.executable, "solution.py"], cwd=tmp_path, stdin=stdin, capture_output=True, timeout=30, env={}
        )
    assert (done.returncode == 0) is (printed is not None), done
    if printed is not None:
        assert done.stdout.decode().split() == printed.split()
