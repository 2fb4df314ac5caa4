"""Lose nodes of a simulated cluster at chosen moments of a run, and fill its disks; audit the run afterwards.

    python -m tests.chaos.nodes --losses 12 --seed 0 --disks --directory DIRECTORY

The driver's node holds no actor that needs a processor; two others hold the learner, two samplers and a verifier. When
an actor is inside the chosen method, the raylet of the victim's node is killed (in every second loss together with all
actors of the node), and another node takes its place. Then wandb's processes are killed and stopped. With `--disks`
the run's disk is filled, the run is resumed, and wandb's disk is filled. The audit is that of tests.chaos.campaign:
every position once, and the weights of an undisturbed learner that trains on the recorded groups.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from cluster.records.run_directory import read_metrics
from tests.chaos.campaign import RECOVERY_S, SMALL, Campaign, offline
from tests.chaos.disks import small_disk
from tests.chaos.report import Recovery
from tests.chaos.schedule import Fault

MOMENTS = {  # actor methods that mark the moments; process titles show them
    "publish": r"^ray::LearnerRank\.publish",
    "load": r"^ray::SamplerActor\.load_weights",
    "ack": r"^ray::ReplayQueue\.ack",
    "gradient": r"^ray::LearnerRank\.accumulate",
    "update": r"^ray::LearnerRank\.update",
}
VICTIMS = {"learner": r"^ray::LearnerRank", "sampler": r"^ray::SamplerActor"}
NODE = {"num_cpus": 4, "object_store_memory": 100 * 2**20}


@dataclass(frozen=True)
class NodeLoss:
    """The node of `victim` is lost at `moment`; `whole`: its actors are killed together with its raylet."""

    moment: str
    victim: str
    whole: bool


class NodeCampaign(Campaign):
    """A :class:`Campaign` on a simulated cluster, with :class:`NodeLoss` among the faults."""

    def execute(self, schedule: Sequence[Fault | NodeLoss]) -> Any:
        self._cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 200 * 2**20}
        )
        try:
            for _ in range(2):
                self._cluster.add_node(**NODE)
            self._overrides.append(f"cluster.address={self._cluster.address}")
            return super().execute(schedule)  # type: ignore[arg-type]
        finally:
            self._cluster.shutdown()

    def _recover_from(self, fault: Fault | NodeLoss) -> None:
        if isinstance(fault, Fault):
            return super()._recover_from(fault)
        self._injected += 1
        self._say(f"loss {self._injected}: node of a {fault.victim} at {fault.moment}{', whole' * fault.whole}")
        lost = self._lose(fault)
        at = time.monotonic()
        self._cluster.remove_node(lost, allow_graceful=False)  # and the node's other processes
        self._cluster.add_node(**NODE)
        after = self._steps()
        self._wait(lambda: self._steps() >= after + 2, "two more steps", RECOVERY_S)
        took = time.monotonic() - at
        self.report.recoveries.append(Recovery(f"node of a {fault.victim}", fault.moment, None, None, took))
        self.write()
        self._wait(self._all_serve, "all samplers serving", RECOVERY_S)

    def _lose(self, loss: NodeLoss) -> Any:
        """Kill the node at the moment; returns the cluster's handle of it."""
        end = time.monotonic() + RECOVERY_S
        while time.monotonic() < end:
            actors = self._actors()
            watched = [p for p in actors if re.search(MOMENTS[loss.moment].partition("\\.")[0], _title(p))]
            victims = [p for p in actors if re.search(VICTIMS[loss.victim], _title(p))]
            until = time.monotonic() + 1.0
            while watched and victims and time.monotonic() < until:
                if any(re.search(MOMENTS[loss.moment], _title(p)) for p in watched):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        return self._kill_node(self._random.choice(victims), loss.whole)
            time.sleep(0.05)
        raise AssertionError(f"no {loss.moment} was seen within {RECOVERY_S:.0f} s:\n{self._log.read_text()[-4000:]}")

    def _kill_node(self, actor: psutil.Process, whole: bool) -> Any:
        raylet = actor.parent()
        node = next(n for n in self._cluster.worker_nodes if n.all_processes["raylet"][0].process.pid == raylet.pid)
        workers = raylet.children(recursive=True) if whole else []
        for process in (raylet, *workers):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return node

    def _actors(self) -> list[psutil.Process]:
        """Ray's workers on all nodes; they are children of raylets, which are children of this process."""
        found = []
        for process in psutil.Process().children(recursive=True):
            if _title(process).startswith("ray::"):
                found.append(process)
        return found

    def _all_serve(self) -> bool:
        """The last step was made with both samplers."""
        rows = [row for row in read_metrics(self.run) if "supervision/samplers" in row]
        return bool(rows) and rows[-1]["supervision/samplers"] == 2


def _title(process: psutil.Process) -> str:
    try:
        return Path(f"/proc/{process.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


LAYOUT = ("actors.samplers=2", "queue.staleness=1", "run.steps=1000000")


def losses(count: int, seed: int) -> list[NodeLoss]:
    """`count` losses: every moment with either victim once before one of them comes again."""
    order = random.Random(seed)
    plan: list[NodeLoss] = []
    while len(plan) < count:
        pairs = [(moment, victim) for moment in MOMENTS for victim in VICTIMS]
        plan += [NodeLoss(*pair, whole=bool(i % 2)) for i, pair in enumerate(order.sample(pairs, len(pairs)))]
    return plan[:count]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", type=int, default=12, help="number of node losses")
    parser.add_argument("--skip", type=int, default=0, help="leave out so many losses at the start of the plan")
    parser.add_argument("--seed", type=int, default=0, help="of their order")
    parser.add_argument("--disks", action="store_true", help="fill the run's disk and wandb's too (needs root)")
    parser.add_argument("--directory", type=Path, required=True, help="an empty directory for the run and the report")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    faults: list[Fault | NodeLoss] = list(losses(options.skip + options.losses, options.seed)[options.skip :])
    faults += [Fault("wandb-core", "kill"), Fault("wandb", "kill"), Fault("wandb-core", "stop")]
    with contextlib.ExitStack() as stack:
        disks: dict[str, Any] = {}
        if options.disks:
            disks["disk"] = stack.enter_context(small_disk(options.directory / "disk", 1024))
            disks["wandb_disk"] = stack.enter_context(small_disk(options.directory / "wandb-disk", 16))
            faults += [Fault("disk", "full"), Fault("wandb's disk", "full")]
        campaign = NodeCampaign(options.directory, [*offline(SMALL), *LAYOUT], options.seed, stops=True, **disks)
        return campaign.report_on(faults)


if __name__ == "__main__":
    sys.exit(main())
