"""Runs a test case as the ranks of a learner, each in a process of its own.

A module to import without torch: the tests that start the processes need none.
"""

from __future__ import annotations

import json
import os
import pkgutil
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run_ranks(case: str, world_size: int, directory: Path, **arguments: object) -> None:
    """Run `case(rank, world_size, port, directory, **arguments)` in one process per rank.

    Args:
        case: "module:function", with a module of tests.learner.
        arguments: passed as JSON.
    """
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "OMP_NUM_THREADS": "1",
    }
    port = free_port()
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.learner.ranks",
                case,
                str(rank),
                str(world_size),
                str(port),
                str(directory),
                json.dumps(arguments),
            ],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        outputs = [p.communicate(timeout=240)[0] for p in processes]
    finally:
        for p in processes:
            if p.poll() is None:
                p.kill()
                p.wait()
    for rank, (p, output) in enumerate(zip(processes, outputs, strict=True)):
        assert p.returncode == 0, f"{case}: rank {rank} of {world_size} failed\n{output[-6000:]}"


if __name__ == "__main__":
    name, rank_, size_, port_, directory_, arguments_ = sys.argv[1:]
    run_case = pkgutil.resolve_name(f"tests.learner.{name}")
    run_case(int(rank_), int(size_), int(port_), Path(directory_), **json.loads(arguments_))
