"""A Ray cluster with a token on separate hosts, and jobs that a further host sends to it."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.hosts.network import NETWORK, Network, first_line
from tests.cluster.running import LOCAL

HEAD, WORKERS, CLIENT = "head", ("worker-1", "worker-2"), "client"
NAMES = (HEAD, *WORKERS, CLIENT)
PORT, DASHBOARD = 6379, 8265
START_S = 120.0  # of Ray on one host
_BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Layout:
    """Overrides of a run, and the options of `ray start` on its hosts.

    apart: the run's two learner ranks are to be on different workers, where Ray would put both on one.
    """

    overrides: tuple[str, ...]
    options: Mapping[str, tuple[str, ...]]
    apart: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)


# There is a CPU for each actor and no more, so the actors of a lost host wait for its successor.
ACROSS = Layout(
    ("learner.ranks=2", "actors.samplers=2", "actors.verifiers=1", "queue.staleness=1", "run.steps=1000000"),
    {HEAD: ("--num-cpus=0",), WORKERS[0]: ("--num-cpus=3",), WORKERS[1]: ("--num-cpus=2",)},
    apart=True,
)
# The second worker holds the verifier only, so its loss costs little; Ray notices it within seconds.
QUICK = Layout(
    (
        "actors.samplers=1",
        "actors.verifiers=1",
        "queue.staleness=1",
        "run.steps=1000000",
        "cluster.node_types.head={cpus: 1, memory_gib: 16, roles: []}",
        "cluster.node_types.first={cpus: 2, memory_gib: 16, roles: [learner, sampler]}",
        "cluster.node_types.second={cpus: 1, memory_gib: 16, roles: [verifier]}",
    ),
    {
        HEAD: ("--num-cpus=0",),
        WORKERS[0]: ("--num-cpus=2", '--resources={"bonrl-learner": 1, "bonrl-sampler": 1}'),
        WORKERS[1]: ("--num-cpus=1", '--resources={"bonrl-verifier": 1}'),
    },
    variables={"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "1000"},
)
_CLOCK = "/tmp/clock"  # seconds by which the host's clock is wrong
# Leaves one CPU of each worker free until the run has reserved those of its learner ranks: one on each.
_APART = """
import sys, time, ray
from ray.util import placement_group, placement_group_table
ray.init("auto", log_to_driver=False)
kept = placement_group([{"CPU": int(n) - 1, f"node:{a}": 0.001} for a, n in zip(sys.argv[1::2], sys.argv[2::2])])
assert kept.wait(60), "no room"
print("ready", flush=True)
end = time.monotonic() + 300
while time.monotonic() < end and len([g for g in placement_group_table().values() if g["state"] == "CREATED"]) < 2:
    time.sleep(0.2)
"""


class RayHosts:
    """Ray on the hosts of a network: a head, two workers, and a host without Ray that sends jobs.

    Args:
        layout: of the run that will be submitted.
        clock: library that can move the clock of the second worker (:func:`build_clock`); None: not needed.
        head_disk: size of the head's own disk.
    """

    def __init__(self, network: Network, layout: Layout, *, clock: Path | None = None, head_disk: str = "2g") -> None:
        self.network, self._layout = network, layout
        self._clock, self._head_disk = clock, head_disk
        self._token = secrets.token_hex(32)

    def start(self) -> None:
        """All hosts, and Ray on them."""
        self.network.host(CLIENT)
        for name in (HEAD, *WORKERS):
            self.boot(name)
        self.keep_ranks_apart()

    def boot(self, name: str) -> None:
        """A fresh host, and Ray on it."""
        self.network.host(name, disk=self._head_disk if name == HEAD else "2g")
        self.start_ray(name)

    def start_ray(self, name: str) -> None:
        """Start Ray on a host, as the cluster's launcher would."""
        host = self.network.hosts[name]
        variables = self.variables()
        if name == HEAD:
            role = ["--head", f"--port={PORT}", "--dashboard-host=0.0.0.0", "--object-store-memory=200000000"]
        else:
            role = [f"--address={NETWORK}.1:{PORT}", "--object-store-memory=120000000"]
        if self._clock is not None and name == WORKERS[-1]:
            self.skew(0)
            variables |= {"LD_PRELOAD": str(self._clock), "CLOCK_OFFSET": _CLOCK}
        start = [
            str(_BIN / "ray"),
            "start",
            *role,
            *self._layout.options[name],
            f"--node-ip-address={host.address}",
            "--disable-usage-stats",
        ]
        host.run(*start, variables=variables, timeout_s=START_S)

    def skew(self, seconds: int) -> None:
        """Set the clock of the second worker ahead of the others (negative: behind)."""
        # In place, because running processes have mapped the file.
        write = f"open('{_CLOCK}', 'r+b' if __import__('os').path.exists('{_CLOCK}') else 'wb')"
        code = f"{write}.write(({seconds}).to_bytes(8, 'little', signed=True))"
        self.network.hosts[WORKERS[-1]].run(sys.executable, "-c", code)

    def has_ray(self, name: str) -> bool:
        """Whether the host's raylet runs."""
        return any(process.name() == "raylet" for process in self.network.hosts[name].processes())

    def stop_ray(self, name: str) -> None:
        """End what remains of Ray on a host whose raylet ended, as the launcher does before it starts it again."""
        for process in self.network.hosts[name].processes():
            if process.name() != "sleep":
                process.kill()

    def nodes(self) -> list[dict[str, object]]:
        """Ray's nodes that are alive: ids, names and addresses."""
        code = "import json, ray; ray.init('auto', log_to_driver=False); print('NODES' + json.dumps(ray.nodes()))"
        said = self.network.hosts[HEAD].run(sys.executable, "-c", code, variables=self.variables(), timeout_s=START_S)
        (line,) = re.findall(r"^NODES(.*)$", said, re.MULTILINE)
        return [node for node in json.loads(line) if node["Alive"]]

    def drain(self, name: str, *, seconds: int) -> None:
        """Give notice that a host will be taken away, as clouds do for spot machines."""
        address = self.network.hosts[name].address
        node = next(str(node["NodeID"]) for node in self.nodes() if node["NodeManagerAddress"] == address)
        notice = [
            "drain-node",
            f"--address={NETWORK}.1:{PORT}",
            f"--node-id={node}",
            "--reason=DRAIN_NODE_REASON_PREEMPTION",
        ]
        notice += ["--reason-message=spot notice", f"--deadline-remaining-seconds={seconds}"]
        self.network.hosts[HEAD].run(str(_BIN / "ray"), *notice, variables=self.variables(), timeout_s=START_S)

    def keep_ranks_apart(self) -> None:
        """Have the next run place one learner rank on each worker, if its layout asks for it."""
        if not self._layout.apart:
            return
        pairs = [one for name in WORKERS for one in (self.network.hosts[name].address, _cpus(self._layout, name))]
        line = self.network.hosts[HEAD].command(sys.executable, "-c", _APART, *pairs, variables=self.variables())
        keeper = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said = first_line(keeper, "ready", START_S)
        if said != "ready":
            raise RuntimeError(f"no CPUs could be kept: {said}")

    def submit(self, log: Path, *arguments: str, config: Path | None = LOCAL) -> subprocess.Popen[bytes]:
        """Follow a job that the fourth host submits; its output is appended to `log`."""
        where = ["--config", str(config)] if config else []
        line = self.on_client("submit", "--address", self.url, *where, *arguments)
        with log.open("a") as sink:
            return subprocess.Popen(line, stdout=sink, stderr=subprocess.STDOUT)

    def stop_job(self, job: str) -> str:
        """Stop a job from the fourth host."""
        line = self.on_client("jobs", "stop", job, "--address", self.url)
        done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=START_S)
        return done.stdout

    @property
    def url(self) -> str:
        return f"http://{NETWORK}.1:{DASHBOARD}"

    def on_client(self, *arguments: str) -> list[str]:
        return self.network.hosts[CLIENT].command(
            sys.executable, "-m", "cluster.cli", *arguments, variables=self.variables()
        )

    def variables(self) -> dict[str, str]:
        """The environment of Ray's processes and of its clients."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
            "GLOO_SOCKET_IFNAME": "eth0",
            **self._layout.variables,
            "PATH": f"{_BIN}:{os.environ['PATH']}",
        }


def _cpus(layout: Layout, name: str) -> str:
    return next(option.partition("=")[2] for option in layout.options[name] if option.startswith("--num-cpus="))


def build_clock(directory: Path) -> Path | None:
    """The library that moves a host's clock, or None without a C compiler.

    Not libfaketime: with monotonic clocks left alone, its release 0.9.10 breaks Python's ``time.sleep``.
    """
    built = directory / "clock.so"
    if shutil.which("gcc") is None:
        return None
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", str(built), str(source)], check=True, timeout=START_S)
    return built
