"""A run on separate hosts, faults of hosts and of the network, and an audit of the run afterwards."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cluster.records.run_directory import read_metrics
from tests.chaos.campaign import GONE_S, SMALL, Campaign
from tests.chaos.hosts import faults
from tests.chaos.hosts.faults import HostFault
from tests.chaos.hosts.network import network
from tests.chaos.hosts.ray_hosts import HEAD, NAMES, WORKERS, Layout, RayHosts, build_clock
from tests.chaos.report import Recovery

RECOVERY_S = 420.0  # Ray needs up to a minute to declare a silent host dead; then it boots, and vLLM starts
START_S = 300.0  # from `submit` to the first step
QUIET_S = 8.0  # after a fault that need not be noticed


@dataclass
class Outcome:
    """What a fault led to; times in seconds since it began."""

    fault: str
    host: str
    noticed_s: float | None = None  # the first incident
    lost: list[str] = field(default_factory=list)  # units that were replaced
    reasons: list[str] = field(default_factory=list)
    restarted_ray: bool = False  # the raylet of a worker had ended
    steps_s: float = 0.0  # two more steps


class HostCampaign(Campaign):
    """A :class:`Campaign` whose run is a job on separate hosts, with :class:`HostFault` among the faults."""

    replay_overrides = ("cluster.address=local",)  # the run's cluster is gone by then

    def __init__(self, directory: Path, layout: Layout, seed: int, *, replays: bool = True) -> None:
        super().__init__(directory, [*SMALL, *layout.overrides], seed, stops=True, replays=replays)
        self._layout = layout

    minutes = float("inf")  # no fault begins later than this after the first

    def execute(self, schedule: Sequence[Any]) -> Any:
        self.outcomes: list[Outcome] = []
        self.first_step_s = 0.0
        self._next_check = self._began = 0.0
        with network(self.directory, NAMES) as made:
            self.hosts = RayHosts(made, self._layout, clock=build_clock(self.directory), head_disk="600m")
            self.hosts.start()
            return super().execute(schedule)

    def _launch(self, *arguments: str, config: Path | None = None) -> None:
        began = time.monotonic()
        resumed = "--resume" in arguments
        earlier = self._steps()
        self._process = self.hosts.submit(self._log, *arguments[1:], config=None if resumed else self._config)
        self._wait(lambda: self._steps() > earlier, "the first step", START_S)
        self.first_step_s = self.first_step_s or time.monotonic() - began

    def _recover_from(self, fault: Any) -> None:
        self._began = self._began or time.monotonic()
        if time.monotonic() > self._began + 60 * self.minutes:
            return
        time.sleep(self._random.uniform(0.0, 2.0))
        self._injected += 1
        self._say(f"fault {self._injected}: {fault} on {fault.host}")
        outcome = Outcome(str(fault), fault.host)
        self.outcomes.append(outcome)
        before, began, wall = len(self._incidents()), time.monotonic(), time.time()
        if fault.kind == faults.KILLED and fault.host == HEAD:
            self._lose_the_head(outcome)
        else:
            self._inject_into(fault)
        after = self._steps()
        self._wait(lambda: self._cluster_is_up(outcome) and self._steps() >= after + 2, "two more steps", RECOVERY_S)
        outcome.steps_s = time.monotonic() - began
        self._wait(lambda: self._cluster_is_up(outcome) and self._complete(), "all samplers serving", RECOVERY_S)
        incidents = [one for one in self._incidents()[before:] if one["kind"] == "actor" and one["recovered_s"] is None]
        if incidents:
            outcome.noticed_s = incidents[0]["time"] - wall
            outcome.lost = [one["unit"] for one in incidents]
            outcome.reasons = [one["reason"] for one in incidents]
        self._say(f"  two more steps after {outcome.steps_s:.0f} s; lost: {', '.join(outcome.lost) or 'nothing'}")
        self._check_messages(fault, outcome)
        self.report.recoveries.append(Recovery(fault.host, str(fault), outcome.noticed_s, None, outcome.steps_s))
        self.write()

    def _inject_into(self, fault: HostFault) -> None:
        """Have the fault begin and end; a lost host is replaced by a new one of the same name."""
        wires, name = self.hosts.network, fault.host
        if fault.kind == faults.KILLED:
            wires.kill(name)
            self.hosts.boot(name)
        elif fault.kind == faults.CUT:
            wires.abandon(name)
            self.hosts.boot(name)
        elif fault.kind == faults.NOTICE:
            self.hosts.drain(name, seconds=int(fault.seconds))
            time.sleep(fault.seconds)
            wires.kill(name)
            self.hosts.boot(name)
        elif fault.kind == faults.UNPLUGGED:
            wires.unplug(name)
            time.sleep(fault.seconds)
            wires.plug(name)
        elif fault.kind == faults.FULL:
            self._fill_the_disk_of(name, fault.seconds)
        elif fault.kind == faults.CLOCK:
            self.hosts.skew(int(fault.seconds))
            time.sleep(QUIET_S)
        else:
            degraded = {
                faults.MUTE: {"loss_out": 1.0},
                faults.DEAF: {"loss_in": 1.0},
                faults.SLOW: {"delay_s": 0.1, "loss_out": 0.025, "loss_in": 0.025},  # each way
            }[fault.kind]
            wires.degrade(name, **degraded)
            time.sleep(fault.seconds)
            wires.repair(name)

    def _fill_the_disk_of(self, name: str, seconds: float) -> None:
        host = self.hosts.network.hosts[name]
        host.run("sh", "-c", "cat /dev/zero > /tmp/ballast 2>/dev/null || true", timeout_s=60)
        time.sleep(seconds)
        host.run("rm", "/tmp/ballast")

    def _lose_the_head(self, outcome: Outcome) -> None:
        """The run and the cluster are lost with it. Both are started again, and the run is resumed."""
        assert self._process is not None
        said = len(self._log.read_text())
        self.hosts.network.kill(HEAD)
        try:
            status = self._process.wait(timeout=RECOVERY_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = None
        words = self._log.read_text()[said:]
        outcome.reasons = [f"submit ended with status {status}: {words[-1500:]}"]
        if status in (None, 0) or self.hosts.url not in words:
            self.report.problems.append(f"submit and a lost head: {outcome.reasons[0]}")
        self.hosts.boot(HEAD)
        for name in WORKERS:
            self.hosts.stop_ray(name)
            self.hosts.start_ray(name)
        self.hosts.keep_ranks_apart()
        self._launch("train", "--resume", str(self.run))

    def _cluster_is_up(self, outcome: Outcome) -> bool:
        """Always true. Starts Ray again, as a launcher would, on a host that Ray declared dead."""
        if time.monotonic() >= self._next_check:
            self._next_check = time.monotonic() + 2.0
            for name in WORKERS:
                if not self.hosts.has_ray(name):
                    outcome.restarted_ray = True
                    self.hosts.stop_ray(name)
                    self.hosts.start_ray(name)
        return True

    def _complete(self) -> bool:
        """The last step was made with all samplers."""
        rows = [row for row in read_metrics(self.run) if "supervision/samplers" in row]
        return bool(rows) and rows[-1]["supervision/samplers"] == self._number("actors.samplers")

    def _check_messages(self, fault: HostFault, outcome: Outcome) -> None:
        """A message about what was lost with a host must name the host."""
        lost = fault.kind in faults.LOSE_THE_HOST and fault.host != HEAD
        said = [line for line in self._log.read_text().splitlines() if "was lost" in line]
        if lost and outcome.lost and not any(fault.host in line for line in said[-2 * len(outcome.lost) :]):
            self.report.problems.append(f"no message names {fault.host}: {said[-3:]}")

    def _expect_end(self) -> None:
        """Stop the job as a user would."""
        assert self._process is not None
        job = re.findall(r"^job (bonrl-\S+)$", self._log.read_text(), re.MULTILINE)[-1]
        self.hosts.stop_job(job)
        self._process.wait(timeout=RECOVERY_S)
        output = self._log.read_text()
        left = re.findall(r"stopped after step (\d+)", output)
        if not left:
            self.report.problems.append(f"a stopped job does not say so:\n{output[-3000:]}")
        self.report.steps = int(left[-1]) if left else self._steps()
        end = time.monotonic() + GONE_S
        while actors := self._actors():
            if time.monotonic() > end:
                self.report.problems.append(f"a stopped job left actors behind: {actors}")
                break
            time.sleep(1.0)

    def _actors(self) -> list[str]:
        found = []
        for name in (HEAD, *WORKERS):
            for process in self.hosts.network.hosts[name].processes():
                title = " ".join(process.cmdline()) if process.is_running() else ""
                if re.match(r"ray::(Learner|Sampler|Verifier|Replay)|VLLM", title):
                    found.append(f"{title} on {name}")
        return found

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(timeout=30)
        self.hosts.network.close()

    def write(self) -> None:
        super().write()
        (self.directory / "outcomes.json").write_text(json.dumps([asdict(one) for one in self.outcomes], indent=1))
