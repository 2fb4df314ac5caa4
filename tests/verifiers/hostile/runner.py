"""Runs hostile programs in a process of its own, as any user, with any layers, and says what came of each.

    python -m tests.verifiers.hostile.runner '{"uid": 65533, "layers": {...} or null, "names": null, "data": "..."}'

Prints one JSON object: what the sandbox says of itself, and per attack its status, its side effects, and how the next
healthy program on the same server fared.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.verifiers.hostile.attacks import OWN, TESTS, Attack, given
from verifiers.sandbox import worker
from verifiers.sandbox.executor import Executor
from verifiers.sandbox.grading import run_python
from verifiers.sandbox.levels import Layers
from verifiers.sandbox.limits import Limits
from verifiers.sandbox.settings import SandboxSettings

LIMITS = Limits(wall_seconds=0.7, memory_bytes=1 << 30, output_bytes=4 << 20)
HEALTHY = "def add(a, b): return a + b\n"
HEALTHY_LIMITS = Limits(wall_seconds=10)  # shows that the executor still works, on a busy machine too
# What the attacks use, so that they fail at the layers and not at an import.
PRELOAD = (
    "numpy",
    "socket",
    "subprocess",
    "multiprocessing",
    "ctypes",
    "tempfile",
    "resource",
    "fcntl",
    "termios",
    "dis",
)
PYTHON_FOR_ALL = f"/usr/bin/python3.{sys.version_info.minor}"
"""An interpreter that an ordinary user can start, even where the one that runs the tests is root's own."""


_NUMBERS = itertools.count(100)


def run(order: dict[str, Any]) -> dict[str, Any]:
    """Carry out one order; see the module."""
    chosen = [*given(Path(order["data"])), *OWN]
    attacks = [a for a in chosen if order["names"] is None or a.name in order["names"]]
    os.environ["SECRET_TOKEN"] = "x"
    with _place() as (home, servers), contextlib.ExitStack() as stack:
        python = _become(order["uid"], Path(home)) if order["uid"] else None
        layers = Layers(**order["layers"]) if order["layers"] is not None else None
        settings = SandboxSettings(level=order.get("level", "L3"), minimum_level="L1", preload=PRELOAD, uid=65532)
        executor = stack.enter_context(Executor(settings, layers=layers, python=python))
        isolation = executor.start()
        return {
            "isolation": isolation.as_dict(),
            "attacks": {attack.name: _attack(attack, executor, home, servers) for attack in attacks},
        }


def _become(uid: int, home: Path) -> str | None:
    """Become an ordinary user permanently; returns the interpreter that this user can start."""
    copy = home / "code"
    shutil.copytree(Path(worker.__file__).parent / "inside", copy / "inside")
    os.chmod(home, 0o777)
    worker._DIRECTORY = copy
    readable = os.stat(os.path.realpath(sys.executable)).st_uid == uid
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    return None if readable or os.access(os.path.realpath(sys.executable), os.X_OK) else PYTHON_FOR_ALL


@contextlib.contextmanager
def _place() -> Iterator[tuple[str, list[socket.socket]]]:
    """A home directory open to everyone, and listeners that record every connection."""
    home = tempfile.mkdtemp(prefix="hostile-", dir="/tmp")
    os.chmod(home, 0o777)
    tcp = socket.create_server(("127.0.0.1", 0))
    port = tcp.getsockname()[1]
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", port))
    unix, datagram = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    unix.bind(f"\0atksock{port}")
    unix.listen()
    datagram.bind(f"\0atksock{port}d")
    servers = [tcp, udp, unix, datagram]
    for server in servers:
        server.setblocking(False)
    try:
        yield home, servers
    finally:
        for server in servers:
            server.close()
        shutil.rmtree(home, ignore_errors=True)


def _attack(attack: Attack, executor: Executor, home: str, servers: list[socket.socket]) -> dict[str, Any]:
    for name in ("secret.txt", "deleteme"):
        with contextlib.suppress(PermissionError):
            (Path(home) / name).write_text("SECRET")
            os.chmod(Path(home) / name, 0o666)
    before = _files(home)
    tag = f"{next(_NUMBERS)}x{os.getpid()}"
    code = attack.code.replace("{HOME}", home).replace("{TAG}", tag).replace("{PORT}", str(servers[0].getsockname()[1]))
    started = time.monotonic()
    verdict = run_python(code, tests=attack.tests, entry_point="add", limits=LIMITS, executor=executor)
    seconds = time.monotonic() - started
    started = time.monotonic()
    healthy = run_python(HEALTHY, tests=TESTS, entry_point="add", limits=HEALTHY_LIMITS, executor=executor)
    healthy_seconds = time.monotonic() - started
    effects = _effects(attack, before, home, servers, tag)
    passed = verdict.status == "correct" and not attack.benign
    return {
        "status": verdict.status.value,
        "detail": verdict.detail,
        "seconds": seconds,
        "effects": effects,
        "healthy": healthy.status.value,
        "healthy_seconds": healthy_seconds,
        "contained": not passed and not effects and verdict.status != "verifier_error" and healthy.status == "correct",
    }


def _files(home: str) -> dict[str, tuple[int, int]]:
    return {entry.name: (entry.stat().st_size, entry.stat().st_mode) for entry in os.scandir(home)}


def _effects(attack: Attack, before: Any, home: str, servers: list[socket.socket], tag: str) -> list[str]:
    if "later" in attack.name:
        time.sleep(1.2)
    found = [] if _files(home) == before else ["files changed"]
    for directory in ("/tmp", "/dev/shm", "/var/tmp"):
        for name in os.listdir(directory):
            if tag in name:
                found.append(f"{directory}/{name}")
                os.unlink(found[-1])
    for server in servers:
        with contextlib.suppress(BlockingIOError):
            server.accept() if server.type == socket.SOCK_STREAM else server.recv(100)
            found.append("a call from the program")
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{name}/comm").read_text().startswith(f"atk{tag}"[:15]):
                found.append(f"process {name} is left")
    return found


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
