"""Hosts on one machine: each has its own address, processes, name, /tmp and /dev/shm; a switch connects them.

A host is a set of Linux namespaces (network, process ids, mounts, host name, IPC), so its object store, its sockets and
its local files exist for its own processes only. One directory is the same on all hosts, as shared storage. Needs root.
Everything ends with the process that made it, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from tests.cluster.running import REPOSITORY

NETWORK = "10.77.0"
START_S = 20.0  # for namespaces and devices
_TOOLS = ("ip", "nsenter", "setpriv", "unshare")
_NAMESPACES = ("--net", "--mount", "--uts", "--ipc", "--pid")

# Adopted children are reaped by the shell, which is process 1 of the host.
_BOOT = """
set -e
hostname "$1"
ip link set lo up
mount --bind "$2" /mnt
mount -t tmpfs -o "size=$3" tmpfs /tmp
mount -t tmpfs -o "size=$4" tmpfs /dev/shm
mkdir -p "$2"
mount --move /mnt "$2"
mount --bind "$2/hosts" /etc/hosts
echo ready
exec >/dev/null
sleep infinity & wait
"""


def impossible() -> str | None:
    """Why this machine cannot have such hosts, or None."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"separate hosts need {', '.join(missing)} (iproute2 and util-linux)"
    if hidden := [path for path in (REPOSITORY, Path(sys.prefix)) if path.is_relative_to("/tmp")]:
        return f"separate hosts have a /tmp of their own, so {hidden[0]} must not lie in /tmp"
    if not os.access("/dev/net/tun", os.W_OK):
        return "separate hosts need /dev/net/tun, for bad cables"
    probe = "hostname probe && ip link add probe type bridge && mount -t tmpfs tmpfs /mnt"
    done = subprocess.run(
        ["unshare", *_NAMESPACES, "--fork", "--mount-proc", "sh", "-c", probe],
        capture_output=True,
        text=True,
        timeout=START_S,
    )
    return f"separate hosts need root's namespaces: {done.stderr.strip()}" if done.returncode else None


class Host:
    """One running host. :meth:`Network.host` makes it.

    Args:
        disk, shm: sizes of its /tmp and /dev/shm, as ``mount`` takes them.
    """

    def __init__(self, name: str, number: int, shared: Path, *, disk: str = "2g", shm: str = "1g") -> None:
        self.name, self.number = name, number
        self.address = f"{NETWORK}.{number}"
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", *_NAMESPACES, "--fork", "--kill-child", "--mount-proc"]
            + ["sh", "-c", _BOOT, "boot", name, str(shared), disk, shm],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        said = first_line(self._process, "ready")
        if said != "ready":
            self._process.kill()
            raise RuntimeError(f"host {name} does not start: {said}")
        self.pid = psutil.Process(self._process.pid).children()[0].pid  # its process 1, as this process sees it

    def command(
        self, *arguments: str, variables: Mapping[str, str] | None = None, directory: Path | None = None
    ) -> list[str]:
        """`arguments` as a command line that runs on the host."""
        set_ = [f"{name}={value}" for name, value in (variables or {}).items()]
        enter = ["nsenter", "--target", str(self.pid), *_NAMESPACES, "--"]
        return [*enter, "env", f"--chdir={directory or REPOSITORY}", *set_, *arguments]

    def run(self, *arguments: str, variables: Mapping[str, str] | None = None, timeout_s: float = START_S) -> str:
        """What a command on the host prints.

        Raises:
            RuntimeError: it failed.
        """
        line = self.command(*arguments, variables=variables)
        done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s)
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)} on {self.name}: status {done.returncode}: {done.stdout}")
        return done.stdout

    def processes(self) -> list[psutil.Process]:
        """All but process 1."""
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """End all its processes at once, as a loss of power does."""
        self._process.kill()
        self._process.wait(timeout=START_S)
        gone = time.monotonic() + START_S
        while psutil.pid_exists(self.pid):
            if time.monotonic() > gone:
                raise RuntimeError(f"process {self.pid} of {self.name} is still there {START_S:g} s after SIGKILL")
            time.sleep(0.02)


class Network:
    """The hosts and the switch that connects them.

    Args:
        shared: the directory that all hosts share.
        names: of all hosts that will exist.
    """

    def __init__(self, shared: Path, names: Sequence[str]) -> None:
        self._shared, self._names = shared, list(names)
        self.hosts: dict[str, Host] = {}
        self._abandoned: list[Host] = []
        self._bad: dict[str, subprocess.Popen[str]] = {}  # processes that carry frames, by host
        lines = [f"{NETWORK}.{number} {name}" for number, name in enumerate(names, 1)]
        (shared / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        self._switch = Host("switch", 254, shared)
        self._ip("link add switch type bridge")
        self._ip("link set switch up")

    def host(self, name: str, *, disk: str = "2g", shm: str = "1g") -> Host:
        """Start the host `name` and connect it to the switch."""
        host = Host(name, 1 + self._names.index(name), self._shared, disk=disk, shm=shm)
        self.hosts[name] = host
        port = self._port(name)
        # From here and not from inside the switch, whose process ids differ.
        pair = f"ip link add {port} type veth peer name eth0 netns {host.pid}"
        _run("nsenter", "--target", str(self._switch.pid), "--net", *pair.split())
        self._ip(f"link set {port} master switch up")
        for line in (
            f"addr add {host.address}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {NETWORK}.254",
        ):
            host.run("ip", *line.split())
        return host

    def kill(self, name: str) -> None:
        """Cut the host off and end it: nothing tells the others, not even a closed connection."""
        self.unplug(name)
        self.hosts.pop(name).kill()
        self.repair(name)
        self._ip(f"link delete {self._port(name)}")

    def abandon(self, name: str) -> None:
        """Disconnect the host permanently. Its processes still run and see the shared directory; its name is free."""
        self.unplug(name)
        self._ip(f"link set {self._port(name)} name lost-{len(self._abandoned)}")
        self._abandoned.append(self.hosts.pop(name))

    def unplug(self, name: str) -> None:
        """Unplug the host's cable."""
        self._ip(f"link set {self._port(name)} down")

    def plug(self, name: str) -> None:
        """Plug the host's cable in again."""
        self._ip(f"link set {self._port(name)} up")

    def degrade(self, name: str, *, delay_s: float = 0.0, loss_out: float = 0.0, loss_in: float = 0.0) -> None:
        """Delay every frame of the host, and lose the share `loss_out` of those from it, `loss_in` of those to it."""
        inner, outer, side = (f"{prefix}-{self._names.index(name)}" for prefix in ("inner", "outer", "side"))
        line = [sys.executable, "-m", "tests.chaos.hosts.lossy_link", inner, outer, "--delay", str(delay_s), "--loss"]
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "nsenter", "--target", str(self._switch.pid), "--net", "--"]
            + [*line, str(loss_out), str(loss_in)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._bad[name] = process
        if first_line(process, "ready") != "ready":
            raise RuntimeError("the bad cable does not start")
        self._ip(f"link add {side} type bridge")
        for device, master in ((side, None), (inner, side), (outer, "switch"), (self._port(name), side)):
            self._ip(f"link set {device} {f'master {master}' if master else ''} up")

    def repair(self, name: str) -> None:
        """Undo :meth:`degrade`; nothing if the link of the host is not degraded."""
        process = self._bad.pop(name, None)
        if process is None:
            return
        process.kill()
        process.wait(timeout=START_S)
        if name in self.hosts:
            self._ip(f"link set {self._port(name)} master switch up")
        self._ip(f"link delete side-{self._names.index(name)}")

    def close(self) -> None:
        """End all hosts."""
        for name in list(self._bad):
            self._bad.pop(name).kill()
        for host in [*self.hosts.values(), *self._abandoned, self._switch]:
            host.kill()
        self.hosts.clear()
        self._abandoned.clear()

    def _port(self, name: str) -> str:
        return f"port-{self._names.index(name)}"

    def _ip(self, line: str) -> None:
        self._switch.run("ip", *line.split())


@contextlib.contextmanager
def network(shared: Path, names: Sequence[str]) -> Iterator[Network]:
    """A switch for the duration of the block, without hosts at first."""
    made = Network(shared, names)
    try:
        yield made
    finally:
        made.close()


def _run(*line: str) -> None:
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=START_S)
    if done.returncode:
        raise RuntimeError(f"{' '.join(line)}: {done.stdout}")


def first_line(process: subprocess.Popen[str], wanted: str, limit_s: float = START_S) -> str:
    """`wanted`, as soon as the process prints it as a line; else everything that it prints before it ends."""
    assert process.stdout is not None
    end = time.monotonic() + limit_s
    lines: list[str] = []
    while time.monotonic() < end:
        if select.select([process.stdout], [], [], 0.2)[0]:
            line = process.stdout.readline()
            if line.strip() == wanted or not line:
                return line.strip() or "".join(lines)
            lines.append(line)
    return f"no answer within {limit_s:g} s: {''.join(lines)}"
